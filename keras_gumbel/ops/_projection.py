"""Projection of scores onto the budget set (Eqs. 29-33)."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gumbel._numerics import as_budget
from keras_gumbel._numerics import as_tensor
from keras_gumbel._numerics import not_a_tensor
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_broadcastable
from keras_gumbel._validation import is_number
from keras_gumbel._validation import require_axis
from keras_gumbel.ops import _capped_box

# Rounding to nearest adds at most this fraction of a score, and this constant.
_ROUNDING = {"float16": (2.0**-11, 2.0**-25), "bfloat16": (2.0**-8, 0.0)}


def project_capped_box(
    values: Any,
    budget: Any,
    costs: Any = None,
    equality: bool = False,
    axis: int | None = None,
    differentiable: bool = True,
) -> Any:
    """Projects scores onto the box [0, 1]^n with a cap on their sum.

    ```
    argmin_s 1/2 ||s - z||^2
    subject to 0 <= s_i <= 1 and sum_i c_i s_i <= K               # Eq. (30)
    ```

    with c = 1 without costs. The solution is `s_i = clip(z_i - lambda c_i, 0,
    1)` with the smallest `lambda >= 0` for which the sum fits (Eqs. 31-33).
    After a training step, a bracketed root finder takes about 5 sums over z to
    find it. It takes 1 sum if the clip already fits. Nothing is sorted, and a
    list is not concatenated.

    The sum never exceeds K, and is below an active K by at most 1e-6 K. The
    error of a score is then at most 1e-6 K divided by the number of scores
    strictly between 0 and 1. A point that already fits is only clipped, bit for
    bit. A score of +inf is 1. If there are more infinite scores than K allows,
    or a NaN, all scores are NaN.

    Args:
        values: Float tensor z of any shape, or a list of such tensors that
            share one budget.
        budget: Number or scalar tensor K, at least 0. If K is at least the sum
            of all costs, only the box matters. With `axis`, also a tensor that
            broadcasts to `values`, with length 1 on the axis.
        costs: Positive number or array c that broadcasts to `values`, a list of
            these for a list of tensors, or `None` for 1. Defaults to `None`.
        equality: Boolean, whether the sum must be K, to within 1e-6 K from
            below, even if the sum of the clip is smaller. Defaults to `False`.
        axis: Integer, the axis along which to project each row onto its own
            budget, or `None` for all scores together. Defaults to `None`.
        differentiable: Boolean, whether gradients flow to `values` and to a
            tensor `budget`. They take two more passes over z. Defaults to
            `True`.

    Returns:
        A tensor, or a list of tensors, of the shapes and dtypes of `values`.
        Half-precision tensors are computed in float32 and rounded at the end.
        The sum still fits, but is below an active K by up to 0.8% in bfloat16
        and 0.1% in float16.

    Raises:
        ValueError: If `budget` is a negative number or NaN, a cost is not
            positive, the numbers of costs and values differ, `axis` is not an
            axis of `values`, or `values` is an empty list.

    Example:

    >>> z = keras.ops.array([2.0, 0.5, 0.25])
    >>> s = keras_gumbel.ops.project_capped_box(z, budget=1)
    >>> keras.ops.convert_to_numpy(s).tolist()
    [1.0, 0.0, 0.0]

    References:
        - [Zhou et al., 2021](https://arxiv.org/abs/2105.01571)
        - [Chandrupatla, 1997](https://doi.org/10.1016/S0965-9978(96)00051-8)
    """
    owner = "project_capped_box"
    several = isinstance(values, (list, tuple))
    tensors = [
        as_tensor(owner, "values", z) for z in (values if several else [values])
    ]
    if not tensors:
        raise invalid_argument(owner, "values", "at least one tensor", values)
    all_costs = _require_costs(owner, costs, tensors, several)
    for z in tensors:
        rows = [] if axis is None else list(z.shape)
        if axis is not None:
            rows[require_axis(owner, axis, z.shape)] = 1
        budget = as_budget(owner, budget, tuple(rows))
    if axis is None:
        projected, _ = _project(
            tensors, budget, all_costs, equality, True, differentiable
        )
    else:
        projected = [
            _project_rows(z, budget, c, equality, axis, differentiable)
            for z, c in zip(tensors, all_costs, strict=True)
        ]
    return projected if several else projected[0]


def project_over(
    values: list[Tensor], budget: Any, costs: Any = None
) -> list[Tensor]:
    """Projects tensors that are no longer needed, without a gradient.

    Args:
        values: As in `project_capped_box`, a list. Eager torch writes the
            result into its tensors.
        budget: As there.
        costs: As there. Defaults to `None`.

    Returns:
        A list of tensors.
    """
    return project_again(values, budget, costs, None)[0]


def project_again(
    values: list[Tensor], budget: Any, costs: Any, last: Any
) -> tuple[list[Tensor], Any]:
    """Projects like `project_over`, in fewer sums if steps are similar.

    Args:
        values: As in `project_over`.
        budget: As there.
        costs: As there.
        last: Tensor of two numbers that the last projection returned, or zeros.
            It affects the result no more than rounding does.

    Returns:
        A list of tensors, and a tensor of two numbers for the next time.
    """
    all_costs = _require_costs("project_over", costs, values, True)
    return _project(
        values,
        budget,
        all_costs,
        equality=False,
        joint=True,
        differentiable=False,
        overwrite=True,
        last=last,
    )


def _project_rows(
    z: Tensor,
    budget: Any,
    cost: Any,
    equality: bool,
    axis: int,
    differentiable: bool,
) -> Tensor:
    """Projects along an axis: every row onto its own budget."""
    axis = require_axis("project_capped_box", axis, z.shape)
    rank = len(z.shape)

    def moved(value: Any) -> Any:
        """Moves the axis of a tensor that broadcasts to z to the end."""
        if is_number(value):
            return value
        value = ops.convert_to_tensor(value)
        value = ops.reshape(
            value, (1,) * (rank - len(value.shape)) + tuple(value.shape)
        )
        return ops.moveaxis(value, axis, rank - 1)

    (s,), _ = _project(
        [moved(z)],
        moved(budget),
        [moved(cost)],
        equality,
        False,
        differentiable,
    )
    return ops.moveaxis(s, rank - 1, axis)


def _project(
    tensors: list[Tensor],
    budget: Any,
    costs: list[Any],
    equality: bool,
    joint: bool,
    differentiable: bool,
    overwrite: bool = False,
    last: Any = None,
) -> tuple[list[Tensor], Any]:
    """Returns the scores, and `last` for the next time."""
    filled = [0 not in z.shape for z in tensors]
    if not all(filled):
        # The search looks at an entry of each tensor.
        rest = [z for z, some in zip(tensors, filled, strict=True) if some]
        prices = [c for c, some in zip(costs, filled, strict=True) if some]
        options = (equality, joint, differentiable, overwrite)
        found: list[Tensor] = []
        if rest:
            found, last = _project(rest, budget, prices, *options, last)
        return [
            found.pop(0) if some else z
            for z, some in zip(tensors, filled, strict=True)
        ], last
    dtypes = [keras.backend.standardize_dtype(z.dtype) for z in tensors]
    working = "float64" if "float64" in dtypes else "float32"
    wide = [ops.cast(z, working) for z in tensors]
    size = sum(math.prod(z.shape if joint else z.shape[-1:]) for z in wide)
    costs, unit = _scaled(costs, working)
    budget = _at_most(size, budget, unit, working)
    fixed = ops.stop_gradient(budget) if ops.is_tensor(budget) else budget
    pairs = list(zip(map(ops.stop_gradient, wide), costs, strict=True))
    aim = _before_rounding(fixed, size, dtypes)
    known = last if _ROUNDING.keys().isdisjoint(dtypes) else None
    projected, shift = _capped_box.project(
        pairs, fixed, aim, equality, joint, overwrite, known
    )
    if differentiable:
        moves = budget - fixed if ops.is_tensor(budget) else 0.0
        pairs = list(zip(wide, costs, strict=True))
        projected = _with_gradient(projected, pairs, moves, shift, joint)
    projected = [
        ops.cast(s, dtype) for s, dtype in zip(projected, dtypes, strict=True)
    ]
    return projected, last if known is None else shift


def _with_gradient(
    projected: list[Tensor],
    pairs: _capped_box.Pairs,
    budget: Tensor,
    shift: Any,
    joint: bool,
) -> list[Tensor]:
    """Adds zeros that have the gradient of the projection.

    If 0 < s < 1 and lambda is not 0, ds = dz - c dlambda, with dlambda = (sum c
    dz - dK) / sum c^2.

    Args:
        projected: List of tensors s without a gradient.
        pairs: List of tensors z and costs c.
        budget: Zero with the gradient dK.
        shift: Number or tensor lambda.
        joint: Boolean, whether all tensors share one lambda.
    """
    axis = None if joint else -1
    inside, steps, above, below = [], [], 0.0, 0.0
    for s, (z, c) in zip(projected, pairs, strict=True):
        within = ops.logical_and(s > 0.0, s < 1.0)
        z = ops.where(within, z, 0.0)
        step = z - ops.stop_gradient(z)
        square = c * c * ops.cast(within, z.dtype)
        inside.append(within)
        steps.append(step)
        above = above + ops.sum(c * step, axis=axis, keepdims=not joint)
        below = below + ops.sum(square, axis=axis, keepdims=not joint)
    active = ops.logical_and(ops.not_equal(shift, 0.0), below > 0.0)
    slope = (above - budget) / ops.where(active, below, 1.0)
    slope = ops.where(active, slope, 0.0)
    return [
        s + ops.where(within, step - c * slope, 0.0)
        for s, within, step, (_, c) in zip(
            projected, inside, steps, pairs, strict=True
        )
    ]


def _require_costs(
    owner: str, costs: Any, tensors: list[Tensor], several: bool
) -> list[Any]:
    """Returns a cost, a number or an array, for every tensor."""
    if costs is None:
        return [1.0] * len(tensors)
    costs = list(costs) if several else [costs]
    if len(costs) != len(tensors):
        raise invalid_argument(
            owner,
            "costs",
            f"a list of {len(tensors)}, one for each of `values`",
            costs,
        )
    for cost, z in zip(costs, tensors, strict=True):
        known = not ops.is_tensor(cost)
        array = np.asarray(cost) if known else cost
        if known and array.dtype.kind not in "iuf":
            raise not_a_tensor(owner, "costs", cost)
        if not is_broadcastable(array.shape, z.shape):
            raise invalid_argument(
                owner,
                "costs",
                f"numbers, or arrays that broadcast to {tuple(z.shape)}",
                tuple(array.shape),
            )
        if known and not (np.isfinite(array) & (array > 0)).all():
            raise invalid_argument(owner, "costs", "positive and finite", costs)
    return costs


def _scaled(costs: list[Any], dtype: str) -> tuple[list[Any], Any]:
    """Divides costs by the largest one, and returns both."""
    numbers = [float(c) for c in costs if is_number(c)]
    if len(numbers) == len(costs):
        unit = max(numbers)
        return [c / unit for c in numbers], unit
    costs = [ops.stop_gradient(ops.cast(c, dtype)) for c in costs]
    unit = ops.max(ops.stack([ops.max(c) for c in costs]))
    return [c / unit for c in costs], unit


def _at_most(size: int, budget: Any, unit: Any, dtype: str) -> Any:
    """Returns the budget in units of the largest cost, but not above size."""
    if is_number(budget) and is_number(unit):
        return min(float(budget) / unit, float(size))
    budget = ops.cast(budget, dtype) / unit
    return ops.where(budget > size, float(size), budget)


def _before_rounding(budget: Any, size: int, dtypes: list[str]) -> Any:
    """Returns the budget in float32 if scores are rounded afterwards."""
    share, each = (
        max(_ROUNDING.get(dtype, (0.0, 0.0))[i] for dtype in dtypes)
        for i in range(2)
    )
    aim = (budget - size * each) / (1.0 + share)
    return max(aim, 0.0) if is_number(aim) else ops.where(aim > 0.0, aim, 0.0)
