"""The exact assignment of n rows to n columns, for many matrices at once.

The Hungarian method by shortest augmenting paths (Jonker and Volgenant, 1987).
Rows enter one after another. Each row takes the cheapest chain of exchanges
that ends at a free column. Prices of columns keep the costs of such chains from
becoming negative. All matrices take their steps together, and finished matrices
wait.
"""

from typing import Any

from keras import ops

from keras_gumbel._numerics import at_least
from keras_gumbel._typing import Tensor
from keras_gumbel.ops._loops import repeated

_NONE = -1  # no row, or no column


def assigned_rows(costs: Tensor) -> Tensor:
    """Finds the assignment with the smallest total cost.

    Args:
        costs: Float tensor of shape `(matrices, n, n)`, finite, at least 0.

    Returns:
        An int32 tensor of shape `(matrices, n)`, the row of every column.
    """
    n = costs.shape[-1]
    prices = ops.zeros_like(costs[:, 0])
    rows = ops.full_like(prices, _NONE, dtype="int32")

    def left(row: Tensor, prices: Tensor, rows: Tensor) -> Tensor:
        return row < n

    def enter(row: Tensor, prices: Tensor, rows: Tensor) -> tuple[Any, ...]:
        column, before, prices = _cheapest_chain(costs, row, prices, rows)
        return row + 1, prices, _exchanged(row, column, before, rows)

    first = ops.zeros((), "int32")
    return repeated(left, enter, (first, prices, rows), (costs,))[-1]


def _cheapest_chain(
    costs: Tensor, row: Tensor, prices: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Dijkstra's algorithm, from a new row to the nearest free column.

    Returns:
        A tuple of the column, the column before each in its chain, and the
        new prices.
    """
    columns = ops.arange(costs.shape[-1], dtype="int32")
    matrices = ops.zeros_like(rows[:, :1])
    far = ops.full_like(prices, float("inf"))

    def at(values: Tensor, column: Tensor) -> Tensor:
        return ops.take_along_axis(values, ops.maximum(column, 0), axis=-1)

    def searching(row: Tensor, *state: Tensor) -> Tensor:
        return ops.any(row != _NONE)

    def look(
        row: Tensor,
        column: Tensor,
        length: Tensor,
        lengths: Tensor,
        before: Tensor,
        seen: Tensor,
    ) -> tuple[Tensor, ...]:
        index = ops.maximum(row, 0)[..., None]
        reduced = ops.take_along_axis(costs, index, axis=1)[:, 0] - prices
        # The row saves the cost of the column that it leaves.
        saved = ops.where(column == _NONE, 0.0, at(reduced, column))
        reached = at_least(length + (reduced - saved), length)
        searching = row != _NONE
        shorter = ops.logical_and(reached < lengths, ops.logical_not(seen))
        shorter = ops.logical_and(shorter, searching)
        lengths = ops.where(shorter, reached, lengths)
        before = ops.where(shorter, column, before)
        unseen = ops.where(seen, float("inf"), lengths)
        nearest = ops.argmin(unseen, axis=-1, keepdims=True)
        nearest = ops.where(searching, ops.cast(nearest, "int32"), column)
        seen = ops.logical_or(seen, columns == nearest)
        following = ops.where(searching, at(rows, nearest), _NONE)
        return following, nearest, at(lengths, nearest), lengths, before, seen

    state = (
        matrices + row,
        matrices + _NONE,
        ops.zeros_like(prices[:, :1]),
        far,
        ops.full_like(rows, _NONE),
        rows < _NONE,
    )
    found = repeated(searching, look, state, (costs, prices, rows))
    _, column, length, lengths, before, seen = found
    dearer = ops.where(seen, lengths - length, 0.0)
    return column, before, prices + dearer


def _exchanged(
    row: Tensor, column: Tensor, before: Tensor, rows: Tensor
) -> Tensor:
    """Gives every column of a chain the row of the one before it."""
    columns = ops.arange(rows.shape[-1], dtype="int32")

    def some(column: Tensor, rows: Tensor) -> Tensor:
        return ops.any(column != _NONE)

    def pass_on(column: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        index = ops.maximum(column, 0)
        previous = ops.take_along_axis(before, index, axis=-1)
        previous = ops.where(column == _NONE, _NONE, previous)
        index = ops.maximum(previous, 0)
        given = ops.take_along_axis(rows, index, axis=-1)
        given = ops.where(previous == _NONE, row, given)
        return previous, ops.where(columns == column, given, rows)

    return repeated(some, pass_on, (column, rows), (before,))[-1]
