"""The projection onto a budget with a floor for every tensor."""

import functools
from collections.abc import Callable
from typing import Any
from typing import TypeAlias

import numpy as np
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._typing import Tensor
from keras_gumbel.ops import _sums
from keras_gumbel.ops._loops import either
from keras_gumbel.ops._loops import repeated
from keras_gumbel.ops._projection import project_capped_box

# A sum has reached its floor if it is below it by at most this fraction.
TOLERANCE = 2e-6

_ROW = 32

# The nearest scores of a tensor that sum to its floor, computed on demand.
Lowest: TypeAlias = Callable[[], Tensor]


def project_above_floors(
    values: list[Tensor],
    budget: Any,
    costs: list[float],
    floors: list[Any],
    lowest: list[Lowest],
) -> list[Tensor]:
    """Projects tensors onto a budget, none of them below its floor.

    ```
    argmin_s 1/2 ||s - z||^2                                      # Eq. (30)
    subject to 0 <= s_i <= 1, sum_l c_l sum_{i in l} s_i <= K
    and sum_{i in l} s_i >= m_l for every tensor l
    ```

    Besides lambda >= 0 of the budget (Eq. 31), there is a multiplier nu_l >= 0
    for every floor. Eq. (32) becomes

    ```
    s_i = clip(z_i - (c_l lambda - nu_l), 0, 1)
    nu_l (sum_{i in l} s_i - m_l) = 0
    ```

    Let lambda_l be the shift, of either sign, at which the scores of a tensor
    sum to m_l. If the sum at the shift c_l lambda is at least m_l, nu_l is 0.
    Otherwise the sum is m_l and the shift is lambda_l. So

    ```
    s_i = clip(z_i - min(c_l lambda, lambda_l), 0, 1)
    ```

    Only lambda is left to find. The floors add to some tensors, which the
    others have to give, so the right lambda is larger than the lambda without
    floors. The sums fall with lambda. A tensor that is below its floor without
    floors is therefore exactly on its floor in the solution. Such tensors are
    put on their floors, and the others share the rest of the budget. This is
    repeated until no other tensor is below its floor. There is at most one
    repetition for each tensor, and usually none.

    Args:
        values: List of float tensors z.
        budget: Number or scalar tensor K, of at least sum_l c_l m_l.
        costs: List of positive numbers c, one for each tensor.
        floors: List of numbers or scalar tensors m, 0 for no floor.
        lowest: List of callables, one for each tensor, that return the nearest
            scores with the sum m.

    Returns:
        A list of tensors. Sums are below their floors by at most a fraction of
        2e-6.
    """
    first = project_capped_box(values, budget, costs, differentiable=False)
    # Scalars of different dtypes cannot form one tensor.
    least = [ops.cast(m, "float32") for m in floors]

    def fall_short(scores: list[Tensor]) -> Tensor:
        pairs = zip(scores, least, strict=True)
        return ops.stack([_total(s) < (1.0 - TOLERANCE) * m for s, m in pairs])

    low = fall_short(first)
    found = functools.partial(
        _raised, values, budget, costs, least, lowest, fall_short
    )
    some = ops.any(low)
    return either(some, lambda: found(low), lambda: first)


def _raised(
    values: list[Tensor],
    budget: Any,
    costs: list[float],
    least: list[Tensor],
    lowest: list[Lowest],
    fall_short: Callable[[list[Tensor]], Tensor],
    low: Tensor,
) -> list[Tensor]:
    """Puts tensors on their floors until no other tensor is below its floor."""
    points = [functools.cache(find) for find in lowest]
    if not _keras_private.is_eager(low):
        for point in points:
            point()  # only once, not in every pass of the loop

    def share(on_floor: Tensor) -> list[Tensor]:
        reserved: Any = sum(
            ops.where(on_floor[i], _rounded_up(cost) * m, 0.0)
            for i, (cost, m) in enumerate(zip(costs, least, strict=True))
        )
        others = [ops.where(on_floor[i], 0.0, z) for i, z in enumerate(values)]
        left = ops.maximum(budget - reserved, 0.0)
        shared = project_capped_box(others, left, costs, differentiable=False)
        return [
            _pick(on_floor[i], point, s)
            for i, (point, s) in enumerate(zip(points, shared, strict=True))
        ]

    def step(on_floor: Tensor, _: Tensor, *scores: Tensor) -> tuple[Any, ...]:
        shared = share(on_floor)
        more = ops.logical_or(on_floor, fall_short(shared))
        return more, ops.any(more != on_floor), *shared

    state = low, ops.any(low), *values
    return list(repeated(lambda _, fall, *__: fall, step, state)[2:])


def _pick(on_floor: Tensor, point: Lowest, scores: Tensor) -> Tensor:
    """Chooses between two tensors, and computes the first only if used."""
    if _keras_private.is_eager(on_floor):
        return point() if on_floor else scores
    return ops.where(on_floor, point(), scores)


def nearest_with_sum(values: Tensor, floor: Any, lost: Tensor) -> Tensor:
    """Returns the nearest scores with a given sum.

    Args:
        values: Float tensor z.
        floor: Number or scalar tensor m, at most the number of scores.
        lost: Boolean tensor, which scores must be 0. If the others cannot sum
            to m, they are all 1.
    """
    never = float(-np.sqrt(np.finfo(np.float32).max))
    values = ops.where(lost, never, values)
    found = project_capped_box(
        values, floor, equality=True, differentiable=False
    )
    return ops.where(lost, 0.0, found)


def raised_in_rows(
    values: Tensor, floor: Any, lost: Tensor, most: Any, axis: int
) -> Tensor:
    """Returns scores with a given sum, within the limits of rows.

    If the values sum to more than m, the scores are the nearest. If they sum to
    less, they move as far as necessary toward a point with the maximum in every
    row. The result is feasible but not the nearest. The scores of each row keep
    their order.

    Args:
        values: Float tensor in [0, 1] whose rows sum to `most` at most.
        floor: Number or scalar tensor m.
        lost: Boolean tensor, which scores must be 0.
        most: Number or scalar tensor, the largest sum of a row.
        axis: Integer, the axis that rows lie on.
    """
    found = project_capped_box(values, floor, differentiable=False)
    free = ops.cast(ops.logical_not(lost), found.dtype)
    count = ops.sum(free, axis=axis, keepdims=True)
    full = free * ops.minimum(most / ops.maximum(count, 1.0), 1.0)
    total = _total(found)
    missing = (1.0 - 0.5 * TOLERANCE) * ops.cast(floor, "float32") - total
    room = ops.maximum(_total(full) - total, 1e-30)
    way = ops.cast(ops.clip(missing / room, 0.0, 1.0), found.dtype)
    return found + way * (full - found)


def _total(scores: Tensor) -> Tensor:
    """Adds scores in float32, to within 3e-7 of the sum.

    Short rows are added first. One by one, the sum of 300 equal scores would
    lose a fraction of 3e-6.
    """
    flat = ops.reshape(ops.cast(scores, "float32"), (-1,))
    flat = ops.pad(flat, [(0, -flat.shape[0] % _ROW)])
    rows = ops.sum(ops.reshape(flat, (-1, _ROW)), axis=1)
    whole, rest = _sums.add_exactly(rows)
    return ops.cast(whole[0], "float32") + rest[0]


def _rounded_up(cost: float) -> float:
    """Returns a float32 that is not below a cost."""
    rounded = np.float32(cost)
    if float(rounded) < cost:
        rounded = np.nextafter(rounded, np.float32(np.inf))
    return float(rounded)
