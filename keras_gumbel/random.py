"""Gumbel and logistic noise, drawn in float32 under every dtype policy.

Both start from uniforms at the midpoints of a grid of 2**23 cells, on all
backends. No draw is infinite, and events of probability 1e-6 keep their rate.
`precision="high"` splits every cell again into 2**23 cells. Half-precision
uniforms have as few as 128 values, so only the result is cast.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_gumbel import _calls
from keras_gumbel._exports import dir_of
from keras_gumbel._seeds import next_seed
from keras_gumbel._typing import Seed
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import require_choice

__all__ = ["gumbel", "logistic"]
__dir__ = dir_of(__all__)

PRECISION = ("standard", "high")

_CELLS = 2.0**23
_LARGEST = 1.0 - 2.0**-24  # the last midpoint, and the last float32 below 1


def gumbel(
    shape: Sequence[Any],
    dtype: str | None = None,
    seed: Seed = None,
    precision: str = "standard",
) -> Tensor:
    """Draws standard Gumbel noise, Gumbel(0, 1).

    ```
    F(z) = exp(-exp(-z))        z = -log(-log(u)), u ~ U(0, 1)      # Eq. (3)
    ```

    The values are in [-2.82, 16.64] on every backend, and events of probability
    1e-6 occur at 0.999 of their rate. With `precision="high"`, the values reach
    32.6 and events of probability 1e-12 keep their rate, but this takes twice
    the random bits.

    Args:
        shape: Sequence of integers, the shape of the result.
        dtype: String, a float dtype, or `None` for `keras.config.floatx()`.
            Defaults to `None`.
        seed: Integer in [0, 2**32), `keras.random.SeedGenerator`, integer
            tensor of shape `()` or `(2,)`, key of JAX, or `None` for a seed
            from Keras. Under `jax.vmap` and `tf.vectorized_map`, every row has
            its own noise. Defaults to `None`.
        precision: String, `"standard"` or `"high"`. Defaults to
            `"standard"`.

    Returns:
        A tensor of the given shape and dtype.

    Raises:
        ValueError: If `dtype` is not a float dtype, `seed` is out of range or
            `precision` is unknown.

    Example:

    >>> tuple(keras_gumbel.random.gumbel((2, 3), seed=0).shape)
    (2, 3)
    """
    dtype, seed = _checked("gumbel", dtype, seed, precision)
    if precision == "high":
        cell, part = _split_uniform(shape, seed)
        w = (cell + part) / _CELLS  # 1 - u: the upper tail is at w = 0
        z = -ops.log(-ops.log1p(-ops.minimum(w, _LARGEST)))
    else:
        z = -ops.log(-ops.log(_midpoints(shape, seed)))
    return ops.cast(z, dtype)


def logistic(
    shape: Sequence[Any],
    dtype: str | None = None,
    seed: Seed = None,
    precision: str = "standard",
) -> Tensor:
    """Draws standard logistic noise, Logistic(0, 1).

    It is the difference of two independent Gumbel variables (Eq. 25 to 26), but
    is computed from one uniform:

    ```
    F(e) = 1 / (1 + exp(-e))    e = log(u) - log(1 - u), u ~ U(0, 1)
    ```

    The values are in [-16.64, 16.64] on every backend. They exceed a threshold
    with its probability, up to 6e-8, half a cell. With `precision="high"`, they
    are in [-32.6, 32.6] and events of probability 1e-12 keep their rate, but
    this takes twice the random bits.

    Args:
        shape: Sequence of integers, the shape of the result.
        dtype: String, a float dtype, or `None` for `keras.config.floatx()`.
            Defaults to `None`.
        seed: Integer in [0, 2**32), `keras.random.SeedGenerator`, integer
            tensor of shape `()` or `(2,)`, key of JAX, or `None` for a seed
            from Keras. Under `jax.vmap` and `tf.vectorized_map`, every row has
            its own noise. Defaults to `None`.
        precision: String, `"standard"` or `"high"`. Defaults to
            `"standard"`.

    Returns:
        A tensor of the given shape and dtype.

    Raises:
        ValueError: If `dtype` is not a float dtype, `seed` is out of range or
            `precision` is unknown.

    Example:

    >>> tuple(keras_gumbel.random.logistic((2, 3), seed=0).shape)
    (2, 3)
    """
    dtype, seed = _checked("logistic", dtype, seed, precision)
    if precision == "high":
        # The last bit of the cell selects the tail, and the others the
        # distance.
        cell, part = _split_uniform(shape, seed)
        half = ops.floor(0.5 * cell)
        u = (half + part) / _CELLS
        e = ops.log(u) - ops.log1p(-u)
        e = ops.where(cell > 2.0 * half, -e, e)
    else:
        u = _midpoints(shape, seed)
        e = ops.log(u) - ops.log1p(-u)
    return ops.cast(e, dtype)


def _midpoints(shape: Sequence[Any], seed: Seed) -> Tensor:
    """Draws uniforms from the middles of the cells, never 0 or 1."""
    # Keras's uniforms are multiples of 2**-23 on JAX and TensorFlow, and of
    # 2**-24 on torch. On torch, integers take the fewest operations.
    if keras.backend.backend() == "torch":
        exported = _calls.exported_noise(shape)
        if exported is not None:
            u = ops.floor(_CELLS * exported) / _CELLS
        else:
            u = ops.divide(_whole(shape, seed), _CELLS)
    else:
        u = keras.random.uniform(shape, dtype="float32", seed=seed)
    return u + 0.5 / _CELLS


def _split_uniform(shape: Sequence[Any], seed: Seed) -> tuple[Tensor, Tensor]:
    """Draws the index of a cell, and a position in the cell."""
    cells = _cells((2, *shape), seed)
    return cells[0], (cells[1] + 0.5) / _CELLS


def _cells(shape: Sequence[Any], seed: Seed) -> Tensor:
    """Draws indices of cells, as floats."""
    exported = _calls.exported_noise(shape)
    if exported is not None:
        return ops.floor(_CELLS * exported)
    u = keras.random.uniform(shape, 0.0, _CELLS, dtype="float32", seed=seed)
    return ops.floor(u)


def _whole(shape: Sequence[Any], seed: Seed) -> Tensor:
    """Draws indices of cells, as integers."""
    return keras.random.randint(shape, 0, int(_CELLS), "int32", seed)


def _checked(
    name: str, dtype: str | None, seed: Seed, precision: str
) -> tuple[str, Seed]:
    owner = f"keras_gumbel.random.{name}"
    require_choice(owner, "precision", precision, PRECISION)
    try:
        name = keras.backend.standardize_dtype(dtype or keras.config.floatx())
    except ValueError:
        name = ""
    if "float" not in name:
        raise invalid_argument(owner, "dtype", "a float dtype", dtype)
    return name, next_seed(owner, seed)
