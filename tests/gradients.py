"""What Keras has no words for: gradients, compiled functions, float64.

Every function imports the one backend it needs where it needs it.
"""

import contextlib
import functools

import keras
import numpy as np
from keras import ops

# The ways a backend runs a function: eagerly, compiled, compiled by XLA. None
# is compiled twice. Eager JAX compiles each operation: layers that are called
# show that it works. TensorFlow's graphs have the kernels of eager TensorFlow.
MODES = {
    "jax": [True],
    "tensorflow": [False, "xla"],
    "torch": [False],
}[keras.config.backend()]


def to_numpy(tensor):
    """Returns a tensor of any dtype as float64, which holds them all."""
    return np.asarray(ops.convert_to_numpy(tensor)).astype("float64")


def dtype_of(tensor):
    """Returns the name of a tensor's dtype."""
    return keras.backend.standardize_dtype(tensor.dtype)


def compiled(function, jit=True):
    """Returns a function of tensors, compiled as one of `MODES` says."""
    if jit and keras.config.backend() == "jax":
        import jax

        return jax.jit(function)
    if jit and keras.config.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=jit == "xla")
    return function


def gradient(function, *arrays, jit=False):
    """Differentiates a scalar function of tensors.

    Args:
        function: Callable, takes as many tensors as there are arrays and
            returns a scalar tensor.
        *arrays: Float arrays or tensors, the point.
        jit: One of `MODES`.

    Returns:
        A list of float64 arrays, the gradient in each argument.
    """
    tensors = [ops.convert_to_tensor(array) for array in arrays]
    slopes = _differentiated(function, len(tensors), jit)(*tensors)
    return [to_numpy(slope) for slope in slopes]


@functools.cache  # one compilation for a function, not one a call
def _differentiated(function, count, jit):
    backend = keras.config.backend()
    if backend == "jax":
        import jax

        return compiled(jax.grad(function, argnums=tuple(range(count))), jit)
    if backend == "tensorflow":
        return compiled(functools.partial(_tensorflow, function), jit)
    return functools.partial(_torch, function)


def _tensorflow(function, *tensors):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        for tensor in tensors:
            tape.watch(tensor)
        value = function(*tensors)
    return tape.gradient(value, tensors, unconnected_gradients="zero")


def _torch(function, *tensors):
    import torch

    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    value = function(*leaves)
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return torch.autograd.grad(
        value, leaves, allow_unused=True, materialize_grads=True
    )


@contextlib.contextmanager
def float64_allowed():
    """Lets JAX, which rounds to float32 otherwise, keep float64 arrays."""
    if keras.config.backend() != "jax":
        yield
        return
    import jax

    with jax.enable_x64(True):
        yield
