"""The nearest point with at most K ones: the K largest entries."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gumbel._numerics import as_budget
from keras_gumbel._numerics import as_tensor
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_number
from keras_gumbel.ops._loops import either
from keras_gumbel.ops._loops import repeated


def top_k_mask(
    values: Tensor | Sequence[Tensor],
    budget: Any,
    costs: Sequence[float] | None = None,
    ties: Tensor | Sequence[Tensor] | None = None,
) -> Any:
    """Marks the K largest entries of all tensors together.

    ```
    max sum_i m_i v_i  subject to  m_i in {0, 1} and sum_i m_i <= K
    ```

    for values v of at least 0. For values in [0, 1], it is the nearest point of
    {0, 1}^n with at most K ones. With costs c, entries are taken from the
    largest downwards as long as sum_i c_i m_i <= K. Among equal values, the
    entries with the larger `ties` are taken first, and then the entries that
    come first. Nothing is sorted. Bisection finds a threshold, and each of its
    steps compares every entry once.

    Args:
        values: Float tensor of any shape, or a list of such tensors or NumPy
            arrays that share the budget. Entries are at least 0.
        budget: Number or scalar tensor K. Without costs, ones are counted in
            int32, and K is rounded down.
        costs: List of positive numbers, the cost of a one in each tensor, or
            `None` for 1. Defaults to `None`.
        ties: Float tensor of the shape of `values`, or a list of such tensors,
            that orders equal values; or `None`. Defaults to `None`.

    Returns:
        A tensor, or a list of tensors, of zeros and ones, of the shapes and
        dtypes of `values`. If a value is NaN, all entries are NaN.

    Raises:
        ValueError: If `budget` is a negative number or NaN, or the numbers of
            costs and values differ.

    Example:

    >>> mask = keras_gumbel.ops.top_k_mask([0.3, 0.1, 0.2], 2)
    >>> keras.ops.convert_to_numpy(mask).tolist()
    [1.0, 0.0, 1.0]
    """
    owner = "top_k_mask"
    budget = as_budget(owner, budget)
    several = isinstance(values, (list, tuple)) and any(map(_is_array, values))
    tensors = [
        ops.stop_gradient(as_tensor(owner, "values", v))
        for v in (values if several else [values])
    ]
    prices: list[Any] = [1.0] * len(tensors) if costs is None else list(costs)
    if len(prices) != len(tensors):
        raise invalid_argument(
            owner,
            "costs",
            f"a list of {len(tensors)}, one for each of `values`",
            costs,
        )
    for price in prices:
        if not is_number(price) or not 0 < price < math.inf:
            raise invalid_argument(
                owner, "costs", "positive finite numbers", costs
            )
    if all(0 in v.shape for v in tensors):
        return tensors if several else tensors[0]
    dtypes = [keras.backend.standardize_dtype(v.dtype) for v in tensors]
    wide = [ops.cast(v, "float32") for v in tensors]
    deciding = None
    if ties is not None:
        deciding = [
            ops.stop_gradient(ops.cast(as_tensor(owner, "ties", t), "float32"))
            for t in (ties if several else [ties])
        ]
        shapes, expected = (
            [tuple(t.shape) for t in group] for group in (deciding, wide)
        )
        if shapes != expected:
            raise invalid_argument(
                owner, "ties", f"of the shapes of values, {expected}", shapes
            )
    if all(price == prices[0] for price in prices):
        limit, prices = _whole(budget / prices[0]), [1] * len(prices)
    else:
        limit = ops.cast(budget, "float32")
        prices = list(map(float, prices))
    chosen = _masks(wide, prices, limit, deciding)
    masks = [ops.cast(m, "float32") for m in chosen]
    masks = nan_if_any(masks, wide)
    found = [ops.cast(m, d) for m, d in zip(masks, dtypes, strict=True)]
    return found if several else found[0]


def _is_array(value: Any) -> bool:
    """Whether a value is a tensor or an array, and not a number or a list."""
    return ops.is_tensor(value) or isinstance(
        value, (np.ndarray, keras.Variable, keras.KerasTensor)
    )


def nan_if_any(masks: list[Tensor], values: list[Tensor]) -> list[Tensor]:
    """Returns the masks, or NaN for all of them if one of the values is."""
    wrong = functools.reduce(
        ops.logical_or, [ops.any(ops.isnan(v)) for v in values]
    )
    return [ops.where(wrong, float("nan"), m) for m in masks]


def top_of_rows(
    values: Tensor, count: Any, axis: int, ties: Tensor | None = None
) -> Tensor:
    """Marks the largest entries of every row.

    Every entry is compared with all others of its row. Rows are short, so this
    needs no sort.

    Args:
        values: Float tensor.
        count: Number or scalar tensor, the number of marked entries, rounded
            down.
        axis: Integer, the axis the rows lie on.
        ties: Tensor of the shape of `values` that orders equal values, or
            `None`. Entries that are still equal are taken in order.

    Returns:
        A boolean tensor of the shape of `values`.
    """
    length = values.shape[axis]
    shape = [1] * len(values.shape)
    shape[axis] = length
    place = ops.reshape(ops.arange(length, dtype="int32"), shape)
    larger = ops.zeros(values.shape, "int32")
    for shift in range(1, length):
        first = ops.roll(place, shift, axis) < place
        for key in [values] if ties is None else [ties, values]:
            other = ops.roll(key, shift, axis)
            same = ops.logical_and(other == key, first)
            first = ops.logical_or(other > key, same)
        larger = larger + ops.cast(first, "int32")
    return ops.cast(larger, "float32") < ops.floor(
        ops.convert_to_tensor(count, "float32")
    )


def _masks(
    values: list[Tensor],
    prices: list[Any],
    limit: Any,
    ties: list[Tensor] | None = None,
) -> list[Tensor]:
    """Returns boolean masks. Integer prices are all 1: ones are counted."""
    counted = isinstance(prices[0], int)

    def undecided(low: Tensor, high: Tensor) -> Tensor:
        middle = _middle(low, high)
        return ops.logical_and(middle > low, middle < high)

    def halve(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        middle = _middle(low, high)
        cost = _spent([v > middle for v in values], prices)
        # If the cost is exactly the budget, the search ends.
        return (
            ops.where(cost >= limit, middle, low),
            ops.where(cost <= limit, middle, high),
        )

    highest = ops.amax(
        ops.stack([ops.amax(v) for v in values if 0 not in v.shape])
    )
    lowest = ops.full((), -1.0, dtype="float32")
    low, high = repeated(undecided, halve, (lowest, highest))
    above = [v > high for v in values]
    left = limit - _spent(above, prices)
    equal = [ops.logical_and(v > low, v <= high) for v in values]
    if ties is not None:
        # Only tied entries can be above -0.5.
        ranked = [
            ops.where(tied, key, -0.5)
            for tied, key in zip(equal, ties, strict=True)
        ]
        best = _masks(ranked, prices, left)
        return [
            ops.logical_or(mask, ops.logical_and(tied, chosen))
            for mask, tied, chosen in zip(above, equal, best, strict=True)
        ]
    masks = []
    for tied, mask, price in zip(equal, above, prices, strict=True):
        taken = _first(tied, left if counted else _whole(left / price))
        left = left - _cost(taken, price)
        masks.append(ops.logical_or(mask, taken))
    return masks


def _middle(low: Tensor, high: Tensor) -> Tensor:
    return low + 0.5 * (high - low)


def _whole(number: Any) -> Any:
    if is_number(number):
        return min(math.floor(number), 2**31 - 1)
    return ops.cast(ops.floor(number), "int32")


def _count(mask: Tensor) -> Tensor:
    return ops.sum(ops.cast(mask, "int32"))


def _spent(masks: list[Tensor], prices: list[Any]) -> Any:
    return sum(
        _cost(mask, price) for mask, price in zip(masks, prices, strict=True)
    )


def _cost(mask: Tensor, price: Any) -> Tensor:
    """Returns the cost of the ones, an integer for the integer price 1."""
    count = _count(mask)
    if isinstance(price, int):
        return count
    return price * ops.cast(count, "float32")


def _first(mask: Tensor, count: Any) -> Tensor:
    """Returns a mask of the first ones of a mask."""

    def cut() -> Tensor:
        flat = ops.cast(ops.reshape(mask, (-1,)), "int32")
        first = ops.logical_and(flat > 0, ops.cumsum(flat) <= count)
        return ops.reshape(first, mask.shape)

    enough = _count(mask) <= count
    return either(enough, lambda: mask, cut)
