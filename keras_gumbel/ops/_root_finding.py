"""A bracketed root finder for decreasing functions, eager or in a graph.

The projection (Eq. 33) uses it. The function is the sum of clipped scores less
the budget, and every evaluation is a pass over all scores.
"""

from collections.abc import Callable
from typing import Any
from typing import TypeAlias

import numpy as np
from keras import ops

# More evaluations than any search in float32 (float64) was seen to need.
_MOST_STEPS = {"float32": 150, "float64": 300}

# The smallest change for a slope, as a fraction of the excess far away.
_LEAST_CHANGE = 3e-5

# 0 is tried if the excess at 0 is below this fraction: fitting scores stay as
# is.
_NEAR = 1e-4

# x, x1, f1, x2, f2, base, rebased: see `find_root`.
_State: TypeAlias = tuple[Any, Any, Any, Any, Any, Any, Any]


def find_root(
    excess: Callable[[Any, Any], Any],
    at_zero: Any,
    far: Any,
    at_far: Any,
    first: Any,
    tolerance: Any,
    dtype: str,
    xp: Any,
) -> tuple[Any, Any]:
    """Chandrupatla's method, aimed a little below zero.

    It looks for a shift between 0 and `far` at which the excess is in
    [-tolerance, 0]. The shift is the sum of two floats, base + x. If one float
    is too coarse, the search restarts around the best shift so far, with the
    following digits.

    All scalars can be arrays of one shape, for parallel searches.

    Args:
        excess: Maps base and x to the excess, which falls as they grow.
        at_zero: The excess at 0.
        far: The other end, at which the excess has the other sign. The largest
            float means that no end is known. The search then looks for it in
            growing steps.
        at_far: The excess there.
        first: The shift to try first. If it is outside the bracket, the middle
            is tried.
        tolerance: Non-negative, how far below 0 the excess may be.
        dtype: String, the dtype of the shifts.
        xp: `keras.ops`. For numbers with known values, `numpy`, or `_scalars`
            for a single search.

    Returns:
        A pair, base and x, at which the excess is not positive. NaN if an
        excess is NaN.
    """
    half = 0.5 * tolerance
    single = len(at_zero.shape) == 0
    cast = _rounding_to(dtype, xp)

    def unfinished(*state: Any) -> Any:
        return _unfinished(state, half, xp)

    endless = float(np.finfo(dtype).max)

    def step(*state: Any) -> _State:
        x, x1, f1, x2, f2, base, rebased = state
        f = excess(base, x) + half
        same_side = xp.equal(f > 0, f1 > 0)
        x3, f3 = xp.where(same_side, x1, x2), xp.where(same_side, f1, f2)
        x2, f2 = xp.where(same_side, x2, x1), xp.where(same_side, f2, f1)
        following = _next_point(x, f, x2, f2, x3, f3, xp)
        straight = xp.logical_and(x3 == endless, xp.abs(f) < 0.5 * xp.abs(f3))
        following = xp.where(
            straight, _between_two(x, f, x2, f2, xp), following
        )
        further = cast(_further(x, f, x3, f3, dtype, xp))
        inside = _is_between(further, x, x2)
        further = xp.where(inside, further, _middle(x, x2, xp))
        following = cast(xp.where(x2 == endless, further, following))
        new = _rebased(following, x, f, x2, f2, base, rebased, half, xp)
        new = (cast(new[0]), *new[1:])
        if single:
            return new
        active = unfinished(*state)
        return tuple(  # type: ignore[return-value]
            xp.where(active, n, o) for n, o in zip(new, state, strict=True)
        )

    zero = xp.zeros_like(far)
    first = cast(first)
    first = xp.where(
        _is_between(first, zero, far), first, cast(_middle(zero, far, xp))
    )
    state: _State = (
        first, zero, at_zero + half, far, at_far + half, zero, zero > 0,
    )  # fmt: skip
    state = _repeated(
        step, lambda *state: xp.any(unfinished(*state)), state, dtype, xp
    )
    _, x1, f1, x2, _, base, _ = state
    # A NaN score makes the excess, and all scores, NaN.
    return base, xp.where(f1 <= half, x1, x2) + 0.0 * at_zero


def find_root_near(
    excess: Callable[[Any, Any], Any],
    start: Any,
    slope: Any,
    first: Callable[[Any], Any],
    at_far: Any,
    tolerance: Any,
    dtype: str,
    xp: Any,
) -> tuple[Any, Any, Any]:
    """Looks for a root of at least 0 that is probably near a number.

    It uses the method of `find_root` for a single search. The search begins at
    `start` and continues along a line of the given slope. No end of the bracket
    is known then. If the line does not lead to the root, the lower end is 0,
    and the upper end is found as in `find_root`. `start` and `slope` affect
    only the number of evaluations.

    Args:
        excess: As in `find_root`.
        start: Number of at least 0. With 0, the search is the same as in
            `find_root`.
        slope: Number, the probable decrease of the excess per unit of the
            shift, or 0 if it is unknown.
        first: Maps a positive excess at 0 to the shift to try next if the slope
            is unknown.
        at_far: The excess at the largest float.
        tolerance: As in `find_root`.
        dtype: As in `find_root`.
        xp: `keras.ops` or `_scalars`.

    Returns:
        Base, x and a slope. The excess at base + x is not positive. base + x is
        0 if the excess at 0 is not positive. NaN if an excess is NaN.
    """
    half = 0.5 * tolerance
    cast = _rounding_to(dtype, xp)
    endless = float(np.finfo(dtype).max)
    # The lower end of the bracket before 0 is tried, and the excess there.
    below, unknown = -1.0, endless

    def from_afar(x: Any, slope: Any) -> Any:
        """Replaces shifts by 0 that are so close that 0 may be the root."""
        near = slope * x <= _NEAR * xp.abs(at_far)
        return xp.where(near, xp.zeros_like(x), x)

    def step(*state: Any) -> tuple[Any, ...]:
        x, x1, f1, x2, f2, base, rebased, slope = state
        f = excess(base, x) + half
        at_zero = xp.logical_and(xp.equal(x, 0.0), xp.logical_not(rebased))
        f = xp.where(xp.logical_and(at_zero, f <= half), 0.0 * f, f)
        begins = xp.equal(f1, unknown)
        last = f1
        # A smaller change is mostly rounding and gives no slope.
        tells = xp.abs(f1 - f) > _LEAST_CHANGE * xp.abs(at_far)
        tells = xp.logical_and(tells, xp.logical_not(begins))
        slope = xp.where(tells, (f1 - f) / (x - x1), slope)
        same_side = xp.equal(f > 0, f1 > 0)
        x3, f3 = xp.where(same_side, x1, x2), xp.where(same_side, f1, f2)
        x2, f2 = xp.where(same_side, x2, x1), xp.where(same_side, f2, f1)
        line = _between_two(x, f, x2, f2, xp)
        bent = _next_point(x, f, x2, f2, x3, f3, xp)
        # There is no third point, or it is far away.
        straight = xp.logical_or(xp.equal(x3, endless), xp.equal(f3, unknown))
        straight = xp.logical_and(straight, xp.abs(f) < 0.5 * xp.abs(f3))
        following = xp.where(straight, line, bent)
        # If the root is on one side of all points so far, follow a line. If
        # this did not lead close, try 0 or a leap.
        led = xp.logical_or(begins, 4.0 * xp.abs(f) < xp.abs(last))
        ahead = from_afar(cast(x + f / slope), slope)
        open_below = xp.equal(f2, unknown)
        further = _further(x, f, x3, f3, dtype, xp)
        further = xp.where(xp.equal(x, 0.0), first(f), further)
        further = xp.where(open_below, 0.0 * x, further)
        led = xp.logical_and(led, xp.logical_and(slope > 0, ahead > 0))
        led = xp.logical_and(led, _is_between(ahead, x, x2))
        ahead = cast(xp.where(led, ahead, further))
        one_sided = xp.logical_or(open_below, xp.equal(x2, endless))
        inside = _is_between(ahead, x, x2)
        ahead = xp.where(inside, ahead, _middle(x, x2, xp))
        following = cast(xp.where(one_sided, ahead, following))
        new = _rebased(following, x, f, x2, f2, base, rebased, half, xp)
        return cast(new[0]), *new[1:], slope

    start = from_afar(cast(start), slope)
    zero = xp.zeros_like(start)
    state = (
        start, zero + below, zero + unknown, zero + endless, at_far + half,
        zero, zero > 0, slope,
    )  # fmt: skip
    state = _repeated(
        step, lambda *state: _unfinished(state, half, xp), state, dtype, xp
    )
    _, x1, f1, x2, _, base, _, slope = state
    return base, xp.where(f1 <= half, x1, x2) + 0.0 * f1, slope


def _rounding_to(dtype: str, xp: Any) -> Callable[[Any], Any]:
    """Returns a function that rounds a shift to its dtype."""
    rounded = np.dtype(dtype).type
    if xp is ops:
        return lambda x: ops.cast(x, dtype)
    return lambda x: np.float64(rounded(x))


def _unfinished(state: Any, half: Any, xp: Any) -> Any:
    """Whether no end is on target, and there is a float between them."""
    x, x1, f1, x2, f2, *_ = state
    off_target = xp.minimum(xp.abs(f1), xp.abs(f2)) > half
    return xp.logical_and(off_target, _is_between(x, x1, x2))


def _repeated(
    step: Callable[..., Any],
    unfinished: Callable[..., Any],
    state: Any,
    dtype: str,
    xp: Any,
) -> Any:
    """Takes steps until the search is done, in a graph or outside."""
    most = _MOST_STEPS[dtype]
    if xp is ops:
        return ops.while_loop(unfinished, step, state, maximum_iterations=most)
    for _ in range(most):
        if not unfinished(*state):
            break
        state = step(*state)
    return state


def _rebased(
    x: Any,
    x1: Any,
    f1: Any,
    x2: Any,
    f2: Any,
    base: Any,
    rebased: Any,
    half: Any,
    xp: Any,
) -> _State:
    """Moves the origin to the end that fits, if no float is between."""
    stuck = xp.logical_and(
        xp.minimum(xp.abs(f1), xp.abs(f2)) > half,
        xp.logical_not(xp.logical_or(_is_between(x, x1, x2), rebased)),
    )
    fits = xp.where(f1 <= half, x1, x2)
    origin = xp.where(stuck, fits, xp.zeros_like(fits))
    x1, x2 = x1 - origin, x2 - origin
    x = xp.where(stuck, _middle(x1, x2, xp), x)
    return x, x1, f1, x2, f2, base + origin, xp.logical_or(rebased, stuck)


def _next_point(
    x1: Any, f1: Any, x2: Any, f2: Any, x3: Any, f3: Any, xp: Any
) -> Any:
    """Inverse quadratic interpolation if it is safe, or the middle."""
    xi = (x1 - x2) / (x3 - x2)
    phi = (f1 - f2) / (f3 - f2)
    safe = xp.logical_and(phi**2 < xi, (1 - phi) ** 2 < 1 - xi)
    t = f1 / (f1 - f2) * f3 / (f3 - f2)
    t = t - (x3 - x1) / (x2 - x1) * f1 / (f3 - f1) * f2 / (f2 - f3)
    x = x1 + t * (x2 - x1)
    safe = xp.logical_and(safe, _is_between(x, x1, x2))
    return xp.where(safe, x, _middle(x1, x2, xp))


def _between_two(x1: Any, f1: Any, x2: Any, f2: Any, xp: Any) -> Any:
    """Linear interpolation, or the middle if the result is not inside."""
    x = x1 + f1 / (f1 - f2) * (x2 - x1)
    return xp.where(_is_between(x, x1, x2), x, _middle(x1, x2, xp))


def _further(
    x: Any, f: Any, previous: Any, before: Any, dtype: str, xp: Any
) -> Any:
    """Twice the step of a line if the last step halved f, or 8 times.

    If this is not enough either, it is 64 times, then 4,096 times. If the step
    is below the spacing of floats, it is a few spacings.
    """
    line = x + 2.0 * f / (before - f) * (x - previous)
    ratio = x / xp.where(previous > 0, previous, x)
    leap = x * xp.maximum(ratio**2, 8.0)
    found = xp.where(2.0 * f < before, xp.minimum(line, leap), leap)
    least = x + xp.abs(x) * (4.0 * float(np.finfo(dtype).eps))
    return xp.maximum(found, least)


def _is_between(x: Any, x1: Any, x2: Any) -> Any:
    """Whether x lies strictly between the ends, in either order."""
    return (x1 < x) & (x < x2) | (x2 < x) & (x < x1)


def _middle(x1: Any, x2: Any, xp: Any) -> Any:
    """The arithmetic mean, or the geometric mean across magnitudes.

    The ends have the same sign, or one is 0.
    """
    sign = xp.sign(x1 + x2)
    low = xp.minimum(xp.abs(x1), xp.abs(x2))
    high = xp.maximum(xp.abs(x1), xp.abs(x2))
    near = high - low <= 3.0 * (1.0 + low)
    geometric = xp.sqrt(1.0 + low) * xp.sqrt(1.0 + high) - 1.0
    return sign * xp.where(near, low + 0.5 * (high - low), geometric)
