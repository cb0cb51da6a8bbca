"""Matrices whose rows and columns all sum to 1."""

from typing import Any

from keras import ops

from keras_gumbel._numerics import at_least
from keras_gumbel._numerics import dtype_of
from keras_gumbel._typing import Tensor
from keras_gumbel.ops._loops import repeated

# Scales sums far enough down that rounding errors do not exceed 1.
_LESS_THAN_ONE = {"float32": 1.0 - 2.0**-20, "float64": 1.0 - 2.0**-49}

# Up to this number a half-precision float holds every integer.
_INTEGERS = {"float16": 2**11, "bfloat16": 2**8}


def balanced(shares: Tensor, items: Tensor | None = None) -> Tensor:
    """Moves a matrix of shares to a doubly stochastic one nearby.

    Rows and columns that sum to more than 1 are scaled down. The rest is then
    spread over the rows and columns that sum to less (Altschuler et al., 2017,
    Algorithm 2).

    Args:
        shares: Float tensor of shape `(..., n, n)`, at least 0.
        items: Boolean tensor that broadcasts to shape `(..., n)`, false for
            items whose row and column are those of the identity, or `None`.
            Defaults to `None`.

    Returns:
        A tensor of the shape and dtype of `shares`.
    """
    scale = _LESS_THAN_ONE[dtype_of(shares)]
    for axis in (-1, -2):
        total = ops.sum(shares, axis=axis, keepdims=True)
        shares = shares * (scale / at_least(total, 1.0))
    rows, columns = _missing(shares, -1), _missing(shares, -2)
    if items is None:
        total = ops.sum(rows, axis=-2, keepdims=True)
        return shares + rows * (columns / total)
    rows = ops.where(items[..., :, None], rows, 0.0)
    columns = ops.where(items[..., None, :], columns, 0.0)
    total = ops.sum(rows, axis=-2, keepdims=True)
    spread = shares + rows * (columns / ops.where(total > 0.0, total, 1.0))
    both = ops.logical_and(items[..., :, None], items[..., None, :])
    return ops.where(
        both, spread, ops.eye(shares.shape[-1], dtype=spread.dtype)
    )


def _missing(shares: Tensor, axis: int) -> Tensor:
    """How far rows or columns are below 1, without rounding errors of sums.

    All rows together miss as much as all columns together. Small errors of each
    row would add up in the rows that miss most.
    """
    # Sums of small multiples of a power of two are exact.
    coarse = ops.cast(shares * 2.0**12, "int32")  # rounded down
    coarse = ops.cast(coarse, shares.dtype) * 2.0**-12
    fine = shares - coarse
    missing = 1.0 - ops.sum(coarse, axis=axis, keepdims=True)
    return missing - ops.sum(fine, axis=axis, keepdims=True)


def rounded(shares: Tensor, dtype: str) -> Tensor:
    """Rounds a doubly stochastic matrix to one of half-precision floats.

    Every entry becomes one of the two nearest multiples of a unit, the spacing
    of floats below the largest entry. Rounding each entry by itself would add
    up errors. Here the rows and columns still sum to 1.

    Args:
        shares: Float32 tensor of shape `(matrices, n, n)`.
        dtype: String, `"float16"` or `"bfloat16"`.

    Returns:
        A float32 tensor of the shape of `shares`, with values of the dtype.
    """
    n = shares.shape[-1]
    units = float(_INTEGERS[dtype])
    top = ops.amax(shares, axis=(-2, -1), keepdims=True)
    for power in range(1, n.bit_length()):
        # Clearly below 2**-power, so that rounding up does not exceed it.
        finer = top < 0.99 * 2.0**-power
        units = ops.where(finer, _INTEGERS[dtype] * 2.0**power, units)
    scaled = shares * units
    whole = ops.floor(scaled)
    rest = _rounded_rests(
        scaled - whole,
        units - ops.sum(whole, axis=-1, keepdims=True),
        units - ops.sum(whole, axis=-2, keepdims=True),
    )
    return (whole + rest) / units


def _rounded_rests(rests: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Chooses which entries are rounded up.

    In each row, columns with more entries left to round up are chosen first.
    This succeeds if a solution exists (Gale, 1957; Ryser, 1957). One exists,
    because the fractions have these sums.

    Args:
        rests: Float tensor of shape `(matrices, n, n)`, in [0, 1).
        rows: Tensor of shape `(matrices, n, 1)`, the number to choose in each
            row.
        columns: Tensor of shape `(matrices, 1, n)`, the number to choose in
            each column.

    Returns:
        A tensor of zeros and ones, of the shape and dtype of `rests`.
    """
    n = rests.shape[-1]
    places = ops.arange(n, dtype="int32")
    earlier = places < places[:, None]

    def left(row: Tensor, *state: Tensor) -> Tensor:
        return row < n

    def choose(row: Tensor, open_: Tensor, chosen: Tensor) -> tuple[Any, ...]:
        here = places[:, None] == row
        rest, count = (
            ops.sum(ops.where(here, values, 0.0), axis=-2, keepdims=True)
            for values in (rests, rows)
        )
        key = open_ + rest
        other = ops.swapaxes(key, -2, -1)  # of the entry itself, in a column
        first = ops.logical_or(
            key > other, ops.logical_and(key == other, earlier)
        )
        rank = ops.sum(ops.cast(first, key.dtype), axis=-1)[..., None, :]
        one = ops.cast(rank < count, key.dtype)
        return row + 1, open_ - one, ops.where(here, one, chosen)

    state = (ops.zeros((), "int32"), columns, ops.zeros_like(rests))
    return repeated(left, choose, state, (rests, rows))[-1]
