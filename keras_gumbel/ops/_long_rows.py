"""Rows that lie on one axis of a tensor or on several, of any length."""

import math
from typing import Any

from keras import ops

from keras_gumbel._typing import Tensor
from keras_gumbel.ops._cardinality import top_of_rows
from keras_gumbel.ops._loops import either
from keras_gumbel.ops._loops import repeated
from keras_gumbel.ops._projection import project_capped_box
from keras_gumbel.ops._short_rows import LONGEST
from keras_gumbel.ops._short_rows import project_short_rows


def as_rows(values: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Returns the rows of a tensor, of shape `(rows, length)`.

    Args:
        values: Tensor.
        axes: Tuple of integers of at least 0, the axes that a row lies on.
    """
    order = _order(len(values.shape), axes)
    length = math.prod(values.shape[axis] for axis in axes)
    return ops.reshape(ops.transpose(values, order), (-1, length))


def from_rows(
    rows: Tensor, axes: tuple[int, ...], shape: tuple[int, ...]
) -> Tensor:
    """Undoes `as_rows`, for a tensor of a shape."""
    order = _order(len(shape), axes)
    rows = ops.reshape(rows, [shape[axis] for axis in order])
    back = sorted(range(len(shape)), key=lambda i: order[i])
    return ops.transpose(rows, back)


def _order(rank: int, axes: tuple[int, ...]) -> list[int]:
    return [axis for axis in range(rank) if axis not in axes] + list(axes)


def project_rows(rows: Tensor, budget: Any) -> Tensor:
    """Projects every row onto {s in [0, 1]^n, sum(s) <= K} (Eq. 30).

    Args:
        rows: Float tensor of shape `(rows, length)`.
        budget: Number or scalar tensor K.
    """
    if rows.shape[1] <= LONGEST:
        return project_short_rows(rows, budget, 1)
    return project_capped_box(rows, budget, axis=1, differentiable=False)


def largest_of_rows(
    rows: Tensor, count: Any, ties: Tensor | None = None
) -> Tensor:
    """Marks the largest entries of every row.

    Bisection finds a threshold for each row. A sort would take compilers far
    longer.

    Args:
        rows: Float tensor of shape `(rows, length)`, with entries above -1.
        count: Whole number or scalar tensor of one, the number of marked
            entries.
        ties: Tensor of the shape of `rows` with entries of at least 0 that
            orders equal entries, or `None`. Entries that are still equal are
            taken in order.

    Returns:
        A boolean tensor of the shape of `rows`.
    """
    if rows.shape[1] <= LONGEST:
        return top_of_rows(rows, count, 1, ties)
    rows = ops.cast(rows, "float32")
    left = ops.full((rows.shape[0], 1), 1, dtype="int32")
    left = left * ops.cast(count, "int32")
    chosen, tied = _thresholds(rows, left)
    if ties is not None:
        left = left - _count(chosen)
        # Only tied entries can be above -0.5.
        keys = ops.where(tied, ops.cast(ties, "float32"), -0.5)
        best, still = _thresholds(keys, left)
        chosen = ops.logical_or(chosen, ops.logical_and(tied, best))
        tied = ops.logical_and(tied, still)
    left = left - _count(chosen)
    return ops.logical_or(chosen, _first(tied, left))


def _thresholds(rows: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the entries above the threshold of their row, and at it.

    Args:
        rows: Float tensor of shape `(rows, length)`, with entries above -1.
        count: Integer tensor of shape `(rows, 1)`, the number to choose.

    Returns:
        Two boolean tensors: at most `count` chosen entries, and the equal
        entries to choose the rest from.
    """

    def undecided(low: Tensor, high: Tensor) -> Tensor:
        middle = low + 0.5 * (high - low)
        return ops.any(ops.logical_and(middle > low, middle < high))

    def halve(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        middle = low + 0.5 * (high - low)
        above = _count(rows > middle)
        # If the number is exactly the count, the search ends.
        return (
            ops.where(above >= count, middle, low),
            ops.where(above <= count, middle, high),
        )

    highest = ops.amax(rows, axis=1, keepdims=True)
    lowest = ops.full(highest.shape, -1.0, dtype="float32")
    low, high = repeated(undecided, halve, (lowest, highest))
    return rows > high, ops.logical_and(rows > low, rows <= high)


def _count(marked: Tensor) -> Tensor:
    return ops.sum(ops.cast(marked, "int32"), axis=1, keepdims=True)


def _first(marked: Tensor, count: Tensor) -> Tensor:
    """Returns the first marked entries of every row, at most so many."""

    def cut() -> Tensor:
        place = ops.cumsum(ops.cast(marked, "int32"), axis=1)
        return ops.logical_and(marked, place <= count)

    enough = ops.all(_count(marked) <= count)
    return either(enough, lambda: marked, cut)
