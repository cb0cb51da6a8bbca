"""In what kind of call noise is drawn, which the backends do not say.

In one that is repeated for its gradients, in a loop that is traced once for all
iterations, in a function of one row that is vectorized, in one of many
replicas. Only the files of this folder touch private JAX, TensorFlow and torch.
Where a name is missing that they look up, calls are taken to be of none of
these kinds.
"""

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_gumbel import _keras_private
from keras_gumbel._calls import _jax
from keras_gumbel._calls import _tensorflow
from keras_gumbel._calls import _torch
from keras_gumbel._calls._frames import frames
from keras_gumbel._typing import Tensor


def once(compute: Callable[[], Any]) -> Any:
    """Computes something in a forward pass, but not again for its gradients.

    Activation checkpointing runs parts of the forward pass once more in the
    backward pass. There, what `compute` returned in the forward pass is
    returned. JAX needs no help: it repeats operations, not Python code.

    Raises:
        RuntimeError: In a part that is repeated, if it is not known of which.
    """
    backend = keras.config.backend()
    if backend == "torch":
        return _torch.once(compute)
    if backend == "tensorflow":
        return _tensorflow.once(compute)
    return compute()


@contextlib.contextmanager
def updating(variable: keras.Variable) -> Iterator[None]:
    """Lets a variable be updated where JAX traces a part of the computation.

    Such as a loop, out of which values cannot go through a variable. What is
    done here belongs to what is around that part.
    """
    if keras.config.backend() != "jax":
        yield
        return
    with _jax.updating(variable):
        yield


@contextlib.contextmanager
def counting(variable: keras.Variable) -> Iterator[None]:
    """Lets a variable be updated once, also by a loop that is traced.

    On TensorFlow, what is done inside the loop would be done in every
    iteration.
    """
    if keras.config.backend() == "tensorflow":
        with _tensorflow.in_graph_of_call():
            yield
    else:
        with updating(variable):
            yield


def outermost_layer() -> Any:
    """Returns the layer or model that has been called, if it is known."""
    if keras.config.backend() == "jax":
        # In `fit`, JAX does not enter models by `__call__`.
        calls = list(frames("layer.py", "stateless_call"))
        if calls:
            return calls[-1].f_locals.get("self")
    return getattr(_keras_private.current_call(), "entry_layer", None)


def training_steps() -> int | None:
    """Returns how many updates the `fit` that is running makes in all.

    `None` if none is running, or if it does not know.
    """
    for frame in frames("trainer.py", "fit", everywhere=True):
        names = frame.f_locals
        batches = getattr(names.get("epoch_iterator"), "num_batches", None)
        if batches:
            calls = _keras_private.calls_per_update(names["self"]) or 1
            return int(names["epochs"] * batches // calls) or 1
    return None


def is_evaluated() -> bool:
    """Whether a call is one of `evaluate`, or of the validation in `fit`."""
    return any(frames("trainer.py", "test_step"))


def seed_of_iteration(
    seed: Tensor, variable: keras.Variable | None = None
) -> Tensor:
    """Makes a seed another one in every iteration and row.

    The code of a loop on JAX, and of a vectorized function on JAX and
    TensorFlow, is traced once for all of them.

    Args:
        seed: Tensor that `keras.random` takes as a seed.
        variable: The `keras.Variable` it is made from, or `None` for a seed
            that is meant to be the same in all iterations. Defaults to `None`.
    """
    backend = keras.config.backend()
    if backend == "jax":
        return _jax.seed_of_iteration(seed, variable)
    if backend == "tensorflow":
        return _tensorflow.seed_of_row(seed)
    return seed


def seed_of_replica(seed: Tensor) -> Tensor:
    """Makes a seed another one in every replica, on TensorFlow."""
    if keras.config.backend() == "tensorflow":
        return _tensorflow.seed_of_replica(seed)
    return seed


def concrete_words(seed: Tensor) -> list[int] | None:
    """Returns the words of a seed or a key, or `None` while it is traced."""
    if not _keras_private.is_eager(seed):
        return None
    if is_key(seed):
        import jax

        seed = jax.random.key_data(seed)
    words = np.ravel(keras.ops.convert_to_numpy(seed)).astype("int64")
    return [int(word) & 0xFFFFFFFF for word in words]


def is_key(seed: Any) -> bool:
    """Whether a seed is a typed key, as `jax.random.key` makes them."""
    return str(getattr(seed, "dtype", "")).startswith("key<")


def process_rank() -> int:
    """Returns the number of this process among those of torch, from 0."""
    return _torch.process_rank()


def exported_noise(shape: Any, normal: bool = False) -> Tensor | None:
    """Draws noise in a file that torch exports, which has no seeds.

    Args:
        shape: Sequence of integers.
        normal: Boolean, for standard normal noise and not for uniforms.
            Defaults to `False`.

    Returns:
        A float32 tensor, or `None` if nothing is being exported.
    """
    if keras.config.backend() == "torch":
        return _torch.exported_noise(shape, normal)
    return None
