"""Detects in what kind of call noise is drawn.

A call can be repeated for its gradients, in a loop that is traced once for all
iterations, in a vectorized function of one row, or in one of many replicas. The
backends do not expose this. Only the files of this folder touch private JAX,
TensorFlow and torch. If a private name is missing, calls are treated as none of
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
    """Computes something in a forward pass, but not in its recomputation.

    Activation checkpointing runs parts of the forward pass again in the
    backward pass. This function then returns the result of `compute` in the
    forward pass. JAX needs no help, because it repeats operations and not
    Python code.

    Raises:
        RuntimeError: In a repeated part whose forward pass is unknown.
    """
    backend = keras.config.backend()
    if backend == "torch":
        return _torch.once(compute)
    if backend == "tensorflow":
        return _tensorflow.once(compute)
    return compute()


@contextlib.contextmanager
def updating(variable: keras.Variable) -> Iterator[None]:
    """Lets a variable be updated while JAX traces a part of the computation.

    An example is a loop, whose values cannot leave it through a variable.
    Operations in this context belong to the code around the traced part.
    """
    if keras.config.backend() != "jax":
        yield
        return
    with _jax.updating(variable):
        yield


@contextlib.contextmanager
def counting(variable: keras.Variable) -> Iterator[None]:
    """Lets a variable be updated once, even by a traced loop.

    On TensorFlow, operations inside the loop would run in every iteration.
    """
    if keras.config.backend() == "tensorflow":
        with _tensorflow.in_graph_of_call():
            yield
    else:
        with updating(variable):
            yield


def outermost_layer() -> Any:
    """Returns the layer or model that was called, if it is known."""
    if keras.config.backend() == "jax":
        # In `fit`, JAX does not call models with `__call__`.
        calls = list(frames("layer.py", "stateless_call"))
        if calls:
            return calls[-1].f_locals.get("self")
    return getattr(_keras_private.current_call(), "entry_layer", None)


def training_steps() -> int | None:
    """Returns the total number of updates of the running `fit`.

    `None` if no `fit` is running, or its length is unknown.
    """
    for frame in frames("trainer.py", "fit", everywhere=True):
        names = frame.f_locals
        batches = getattr(names.get("epoch_iterator"), "num_batches", None)
        if batches:
            calls = _keras_private.calls_per_update(names["self"]) or 1
            epochs = names["epochs"]
            if not _keras_private.resumed_epoch(names["self"]):
                # Of a run that is resumed, the earlier epochs count as well.
                epochs -= names["initial_epoch"]
            return int(epochs * batches // calls) or 1
    return None


def is_evaluated() -> bool:
    """Whether a call belongs to `evaluate` or to validation in `fit`."""
    return any(frames("trainer.py", "test_step"))


def seed_of_iteration(
    seed: Tensor, variable: keras.Variable | None = None
) -> Tensor:
    """Makes a seed different in every iteration and row.

    The code of a loop on JAX, and of a vectorized function on JAX and
    TensorFlow, is traced once for all of them.

    Args:
        seed: Tensor that `keras.random` takes as a seed.
        variable: The `keras.Variable` that the seed comes from, or `None` for a
            seed that is deliberately the same in all iterations. Defaults to
            `None`.
    """
    backend = keras.config.backend()
    if backend == "jax":
        return _jax.seed_of_iteration(seed, variable)
    if backend == "tensorflow":
        return _tensorflow.seed_of_row(seed)
    return seed


def seed_of_replica(seed: Tensor) -> Tensor:
    """Makes a seed different in every replica, on TensorFlow."""
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
    """Whether a seed is a typed key, as from `jax.random.key`."""
    return str(getattr(seed, "dtype", "")).startswith("key<")


def process_rank() -> int:
    """Returns the rank of this process in torch, from 0."""
    return _torch.process_rank()


def exported_noise(shape: Any, normal: bool = False) -> Tensor | None:
    """Draws noise while torch exports a model, which has no seeds.

    Args:
        shape: Sequence of integers.
        normal: Boolean, whether to draw standard normal noise instead of
            uniforms. Defaults to `False`.

    Returns:
        A float32 tensor, or `None` if nothing is being exported.
    """
    if keras.config.backend() == "torch":
        return _torch.exported_noise(shape, normal)
    return None
