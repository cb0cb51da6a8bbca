"""A bracketed root finder for decreasing functions, eager or in a graph.

It serves the projection (Eq. 33): the function is the sum of clipped scores
less the budget, and every evaluation of it is a pass over all scores.
"""

from collections.abc import Callable
from typing import Any
from typing import TypeAlias

import numpy as np
from keras import ops

# More evaluations than any search in float32 (float64) was seen to need.
_MOST_STEPS = {"float32": 150, "float64": 300}

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

    Looks for a shift between 0 and `far` at which the excess is in
    [-tolerance, 0]. The shift is the sum of two floats, base + x: where one
    float is too coarse, the search starts anew around the best shift so far,
    with the digits that follow.

    All scalars may be arrays of one shape: as many searches, side by side.

    Args:
        excess: Maps base and x to the excess, which falls as they grow.
        at_zero: The excess at 0.
        far: The other end, at which the excess has the other sign. If that
            is the largest float, no end is known, and it is looked for in
            ever longer steps.
        at_far: The excess there.
        first: The shift to try first. Outside of the bracket, the middle is.
        tolerance: Non-negative, how far below 0 the excess may be.
        dtype: String, the dtype of the shifts.
        xp: `keras.ops`, or where the numbers have values `numpy` or, for a
            single search, `_scalars`.

    Returns:
        A pair, base and x, at which the excess is not positive. NaN if an
        excess is NaN.
    """
    half = 0.5 * tolerance
    single = len(at_zero.shape) == 0
    rounded = np.dtype(dtype).type

    def cast(x: Any) -> Any:
        return ops.cast(x, dtype) if xp is ops else np.float64(rounded(x))

    def unfinished(x: Any, x1: Any, f1: Any, x2: Any, f2: Any, *_: Any) -> Any:
        off_target = xp.minimum(xp.abs(f1), xp.abs(f2)) > half
        return xp.logical_and(off_target, _is_between(x, x1, x2))

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
        further = _further(x, f, x3, f3, xp)
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
    most = _MOST_STEPS[dtype]
    if xp is ops:
        state = ops.while_loop(
            lambda *state: ops.any(unfinished(*state)),
            step,
            state,
            maximum_iterations=most,
        )
    else:
        for _ in range(most):
            if not xp.any(unfinished(*state)):
                break
            state = step(*state)
    _, x1, f1, x2, _, base, _ = state
    # Scores that are not numbers make the excess, and all scores, NaN.
    return base, xp.where(f1 <= half, x1, x2) + 0.0 * at_zero


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
    """Moves the origin to the end that fits, where no float is between."""
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
    """Inverse quadratic interpolation where it is safe, else the middle."""
    xi = (x1 - x2) / (x3 - x2)
    phi = (f1 - f2) / (f3 - f2)
    safe = xp.logical_and(phi**2 < xi, (1 - phi) ** 2 < 1 - xi)
    t = f1 / (f1 - f2) * f3 / (f3 - f2)
    t = t - (x3 - x1) / (x2 - x1) * f1 / (f3 - f1) * f2 / (f2 - f3)
    x = x1 + t * (x2 - x1)
    safe = xp.logical_and(safe, _is_between(x, x1, x2))
    return xp.where(safe, x, _middle(x1, x2, xp))


def _between_two(x1: Any, f1: Any, x2: Any, f2: Any, xp: Any) -> Any:
    """Linear interpolation, or the middle where it is none of the inside."""
    x = x1 + f1 / (f1 - f2) * (x2 - x1)
    return xp.where(_is_between(x, x1, x2), x, _middle(x1, x2, xp))


def _further(x: Any, f: Any, previous: Any, before: Any, xp: Any) -> Any:
    """Twice as far as a line says if the last step halved f, or 8 times.

    Where that is not enough either, it is 64 times, then 4096.
    """
    line = x + 2.0 * f / (before - f) * (x - previous)
    ratio = x / xp.where(previous > 0, previous, x)
    leap = x * xp.maximum(ratio**2, 8.0)
    return xp.where(2.0 * f < before, xp.minimum(line, leap), leap)


def _is_between(x: Any, x1: Any, x2: Any) -> Any:
    """Whether x lies strictly between the ends, in either order."""
    return (x1 < x) & (x < x2) | (x2 < x) & (x < x1)


def _middle(x1: Any, x2: Any, xp: Any) -> Any:
    """The arithmetic mean, or across magnitudes the geometric one.

    The ends have the same sign, or one is 0.
    """
    sign = xp.sign(x1 + x2)
    low = xp.minimum(xp.abs(x1), xp.abs(x2))
    high = xp.maximum(xp.abs(x1), xp.abs(x2))
    near = high - low <= 3.0 * (1.0 + low)
    geometric = xp.sqrt(1.0 + low) * xp.sqrt(1.0 + high) - 1.0
    return sign * xp.where(near, low + 0.5 * (high - low), geometric)
