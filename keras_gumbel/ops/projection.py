"""Projection of scores onto the budget set (Eqs. 29-33)."""

import math
from collections.abc import Callable
from typing import Any
from typing import TypeAlias

import keras
import numpy as np
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_number

# A sum is close enough to the budget if it is short of it by at least the
# margin and at most the margin and the tolerance, as shares of the budget. The
# margin is for compilers: they may compute z in the sum and z in the result
# with different roundings.
_MARGIN = 2.0**-22
_TOLERANCE = 7e-7

# More steps than any search in float32 (float64) was seen to need.
_MOST_STEPS = {"float32": 100, "float64": 200}

# Scalars of the search: x, x1, f1, x2, f2 of `_search`.
_State: TypeAlias = tuple[Any, Any, Any, Any, Any]


def project_capped_box(values: Any, budget: Tensor) -> Any:
    """Projects scores onto the box [0, 1]^n with a cap on their sum.

    ```
    argmin_s 1/2 ||s - z||^2
    subject to 0 <= s_i <= 1 and sum_i s_i <= K                   # Eq. (30)
    ```

    The solution is `s_i = clip(z_i - lambda, 0, 1)` with the smallest
    `lambda >= 0` for which the sum fits (Eqs. 31-33). It is found by a
    bracketed root finder in about 5 sums over z after a step of training,
    1 for a point that fits already. The end of the bracket that fits is
    returned: the sum does not exceed K, and falls short of an active K by at
    most 1e-6 K where the dtype can resolve `lambda` that well. A point that
    fits already is only clipped, bit for bit.

    Args:
        values: Float tensor z of any shape, or a list of such tensors that
            share one budget.
        budget: Number or scalar tensor K, at least 0. From K = n on, only
            the box binds.

    Returns:
        A tensor, or a list of tensors, of the shapes and dtypes of `values`.
        Half-precision tensors are computed in float32 and rounded at the end.

    Raises:
        ValueError: If `budget` is a negative number or NaN, or `values` is an
            empty list.

    Example:

    >>> z = keras.ops.array([2.0, 0.5, 0.25])
    >>> s = keras_gumbel.ops.project_capped_box(z, budget=1)
    >>> keras.ops.convert_to_numpy(s).tolist()
    [1.0, 0.0, 0.0]

    References:
        - [Chandrupatla, 1997](https://doi.org/10.1016/S0965-9978(96)00051-8)
    """
    if is_number(budget) and not budget >= 0:
        raise invalid_argument(
            "project_capped_box", "budget", "a number of at least 0", budget
        )
    several = isinstance(values, (list, tuple))
    tensors = [
        ops.convert_to_tensor(z) for z in (values if several else [values])
    ]
    if not tensors:
        raise invalid_argument(
            "project_capped_box", "values", "at least one tensor", values
        )
    dtypes = [keras.backend.standardize_dtype(z.dtype) for z in tensors]
    working = "float64" if "float64" in dtypes else "float32"
    # +inf becomes a number: a shift that is one too can bring it to 0.
    largest = ops.cast(np.finfo(working).max, working)
    wide = [ops.minimum(ops.cast(z, working), largest) for z in tensors]
    size = sum(math.prod(z.shape) for z in wide)
    shift = _find_shift(wide, _round_down(budget, size, working), size)
    projected = [
        ops.cast(ops.clip(z - shift, 0.0, 1.0), dtype)
        for z, dtype in zip(wide, dtypes, strict=True)
    ]
    return projected if several else projected[0]


def _find_shift(tensors: list[Tensor], budget: Tensor, size: int) -> Tensor:
    """Returns the smallest lambda >= 0 whose sum fits the budget."""
    dtype = keras.backend.standardize_dtype(budget.dtype)
    at_zero = _excess(tensors, 0.0, budget, size, margin=0.0)
    top = ops.max(ops.stack([ops.max(z) for z in tensors]))

    def excess(shift: Any) -> Tensor:
        return _excess(tensors, shift, budget, size, margin=_MARGIN)

    if not _keras_private.is_eager(at_zero):
        shift = _search(excess, at_zero, top, budget, size, dtype, ops)
        return ops.where(at_zero <= 0, 0.0, shift)
    # Where tensors have values, scalars are cheaper as numbers, and JAX
    # compiles a `while_loop` anew at every eager call.
    at_zero, top, most = map(ops.convert_to_numpy, (at_zero, top, budget))
    if at_zero <= 0:
        return 0.0

    def evaluate(shift: Any) -> Any:
        return ops.convert_to_numpy(excess(float(shift)))

    with np.errstate(all="ignore"):
        shift = _search(evaluate, at_zero, top, most, size, dtype, np)
    return float(shift)


def _search(
    excess: Callable[[Any], Any],
    at_zero: Any,
    top: Any,
    budget: Any,
    size: int,
    dtype: str,
    xp: Any,
) -> Any:
    """Chandrupatla's method, aimed a little below the budget.

    `f(x)` is the excess at the shift `x` plus half the tolerance, so that
    |f| <= half is the sum just within the budget. The root lies between `x1`,
    the last point, and `x2`, where `f` has the other sign; `x` comes next.

    Args:
        excess: Maps a shift to the sum of the scores less the budget.
        at_zero: Scalar, the excess at 0, positive.
        top: Scalar, the largest value; there every score is 0.
        budget: Scalar K.
        size: Integer, the number of scores.
        dtype: String, the dtype of the scalars.
        xp: `keras.ops`, or `numpy` where the scalars are numbers.

    Returns:
        A shift at which the sum fits.
    """
    half = 0.5 * _TOLERANCE * budget

    def unfinished(x: Any, x1: Any, f1: Any, x2: Any, f2: Any) -> Any:
        off_target = xp.minimum(xp.abs(f1), xp.abs(f2)) > half
        return xp.logical_and(off_target, _is_between(x, x1, x2))

    def step(x: Any, x1: Any, f1: Any, x2: Any, f2: Any) -> _State:
        f = excess(x) + half
        same_side = xp.equal(f > 0, f1 > 0)
        x3, f3 = xp.where(same_side, x1, x2), xp.where(same_side, f1, f2)
        x2, f2 = xp.where(same_side, x2, x1), xp.where(same_side, f2, f1)
        return _next_point(x, f, x2, f2, x3, f3, xp), x, f, x2, f2

    # The sum falls by at most `size` per unit of the shift: the root is no
    # nearer than that, and after a step of training hardly farther.
    zero = xp.zeros_like(top)
    nearest = at_zero / size
    first = xp.where(
        _is_between(nearest, zero, top), nearest, _middle(zero, top, xp)
    )
    state = (first, zero, at_zero + half, top, half - budget)
    most = _MOST_STEPS[dtype]
    if xp is np:
        for _ in range(most):
            if not unfinished(*state):
                break
            state = step(*state)
    else:
        state = ops.while_loop(unfinished, step, state, maximum_iterations=most)
    _, x1, f1, x2, _ = state
    # Scores that are not numbers make the excess, and all scores, NaN.
    return xp.where(f1 <= half, x1, x2) + 0.0 * at_zero


def _next_point(
    x1: Any, f1: Any, x2: Any, f2: Any, x3: Any, f3: Any, xp: Any
) -> Any:
    """Inverse quadratic interpolation where it is safe, else the middle."""
    xi = (x1 - x2) / (x3 - x2)
    phi = (f1 - f2) / (f3 - f2)
    safe = xp.logical_and(phi**2 < xi, (1 - phi) ** 2 < 1 - xi)
    t = f1 / (f1 - f2) * f3 / (f3 - f2)
    t = t - (x3 - x1) / (x2 - x1) * f1 / (f3 - f1) * f2 / (f2 - f3)
    x = x1 + t * (x2 - x1)
    safe = xp.logical_and(safe, _is_between(x, x1, x2))
    return xp.where(safe, x, _middle(x1, x2, xp))


def _is_between(x: Any, x1: Any, x2: Any) -> Any:
    """Whether x lies strictly between the ends, in either order."""
    return (x1 < x) & (x < x2) | (x2 < x) & (x < x1)


def _middle(x1: Any, x2: Any, xp: Any) -> Any:
    """The arithmetic mean, or across magnitudes the geometric one."""
    low, high = xp.minimum(x1, x2), xp.maximum(x1, x2)
    near = high - low <= 3.0 * (1.0 + low)
    geometric = xp.sqrt(1.0 + low) * xp.sqrt(1.0 + high) - 1.0
    return xp.where(near, low + 0.5 * (high - low), geometric)


def _excess(
    tensors: list[Tensor],
    shift: Any,
    budget: Tensor,
    size: int,
    margin: float,
) -> Tensor:
    """Returns sum(clip(z - shift, 0, 1)) - (1 - margin) * budget.

    Each score is split into a multiple of 1/scale, summed exactly in int32,
    and a remainder below 1/scale: float32 alone loses whole scores in a sum
    of many. Without remainders the sum is exact and needs no margin.
    """
    scale = float(2 ** min(11, 30 - size.bit_length()))
    whole = ops.floor(budget * scale)
    units = -ops.cast(whole, "int32")
    rest = 0.0
    for z in tensors:
        s = ops.clip(z - shift, 0.0, 1.0)
        steps = ops.floor(s * scale)
        units = units + ops.sum(ops.cast(steps, "int32"))
        rest = rest + ops.sum(s - steps / scale)
    rest = rest + ops.where(rest > 0, margin * budget, 0.0)
    rest = rest - (budget - whole / scale)
    return ops.cast(units, budget.dtype) / scale + rest


def _round_down(budget: Tensor, size: int, dtype: str) -> Tensor:
    """Converts a budget, at most `size`, without rounding it up."""
    scalar = np.dtype(dtype).type
    if not is_number(budget):
        budget = ops.cast(budget, dtype)
        return ops.minimum(budget, ops.cast(scalar(size), dtype))
    exact = min(float(budget), float(size))
    rounded = scalar(exact)
    if float(rounded) > exact:
        rounded = np.nextafter(rounded, scalar(0))
    return ops.cast(rounded, dtype)
