"""Gumbel and logistic noise, drawn in float32 whatever the dtype policy.

Both start from uniforms at the midpoints of a grid of 2**23 cells, the same
on all backends: `u` is never 0 or 1, so no draw is infinite, and events of
probability 1e-6 keep their rate. Half-precision uniforms have as few as 128
values, so only the result is cast.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_gumbel._seeds import separated
from keras_gumbel._typing import Seed
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument

_CELLS = 2.0**23
_LARGEST = 1.0 - 2.0**-24  # the last midpoint, and the last float32 below 1


def gumbel(
    shape: Sequence[Any], dtype: str | None = None, seed: Seed = None
) -> Tensor:
    """Draws standard Gumbel noise, Gumbel(0, 1).

    ```
    F(z) = exp(-exp(-z))        z = -log(-log(u)), u ~ U(0, 1)      # Eq. (3)
    ```

    The values lie in [-2.82, 16.64] on every backend.

    Args:
        shape: Sequence of integers, the shape of the result.
        dtype: String, a float dtype, or `None` for `keras.config.floatx()`.
            Defaults to `None`.
        seed: Integer, `keras.random.SeedGenerator` or `None`, as in
            `keras.random`. Defaults to `None`.

    Returns:
        A tensor of the given shape and dtype.

    Raises:
        ValueError: If `dtype` is not a float dtype.

    Example:

    >>> tuple(keras_gumbel.random.gumbel((2, 3), seed=0).shape)
    (2, 3)
    """
    dtype = _float_dtype("gumbel", dtype)
    seed = separated("keras_gumbel.random.gumbel", seed)
    u = _midpoint_uniform(shape, seed)
    return ops.cast(-ops.log(-ops.log(u)), dtype)


def logistic(
    shape: Sequence[Any], dtype: str | None = None, seed: Seed = None
) -> Tensor:
    """Draws standard logistic noise, Logistic(0, 1).

    The difference of two independent Gumbel variables (Eq. 25 to 26), from
    one uniform:

    ```
    F(e) = 1 / (1 + exp(-e))    e = log(u) - log(1 - u), u ~ U(0, 1)
    ```

    The values lie in [-16.64, 16.64] on every backend.

    Args:
        shape: Sequence of integers, the shape of the result.
        dtype: String, a float dtype, or `None` for `keras.config.floatx()`.
            Defaults to `None`.
        seed: Integer, `keras.random.SeedGenerator` or `None`, as in
            `keras.random`. Defaults to `None`.

    Returns:
        A tensor of the given shape and dtype.

    Raises:
        ValueError: If `dtype` is not a float dtype.

    Example:

    >>> tuple(keras_gumbel.random.logistic((2, 3), seed=0).shape)
    (2, 3)
    """
    dtype = _float_dtype("logistic", dtype)
    seed = separated("keras_gumbel.random.logistic", seed)
    u = _midpoint_uniform(shape, seed)
    return ops.cast(ops.log(u) - ops.log1p(-u), dtype)


def _midpoint_uniform(shape: Sequence[Any], seed: Seed) -> Tensor:
    u = keras.random.uniform(shape, dtype="float32", seed=seed)
    # The floor takes torch's grid of 2**24 cells to the one of JAX and
    # TensorFlow; the minimum guards against a draw that was rounded up to 1.
    u = ops.floor(u * _CELLS) / _CELLS + 0.5 / _CELLS
    return ops.minimum(u, _LARGEST)


def _float_dtype(owner: str, dtype: str | None) -> str:
    dtype = keras.backend.standardize_dtype(dtype or keras.config.floatx())
    if "float" not in dtype:
        raise invalid_argument(
            f"keras_gumbel.random.{owner}", "dtype", "a float dtype", dtype
        )
    return dtype
