"""Projection of scores onto the budget set (Eqs. 29-33)."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_number

# A sum this share below the budget is close enough to stop at.
_TOLERANCE = 1e-6

# Bounds the relative rounding error of a float sum.
_ROUNDING = 2.0**-21

# More halvings than any float32 (float64) bracket survives.
_MOST_STEPS = {"float32": 160, "float64": 320}

# Stands for +inf as the end of a bracket.
_HUGE = 3e38


def project_capped_box(values: Any, budget: Tensor) -> Any:
    """Projects scores onto the box [0, 1]^n with a cap on their sum.

    ```
    argmin_s 1/2 ||s - z||^2
    subject to 0 <= s_i <= 1 and sum_i s_i <= K                   # Eq. (30)
    ```

    The solution is `s_i = clip(z_i - lambda, 0, 1)` with the smallest
    `lambda >= 0` for which the sum fits (Eqs. 31-33). It is found by
    bisection, and the end of the bracket that fits is returned: the sum does
    not exceed K, and falls short of an active K by at most 1e-6 K where the
    dtype can resolve `lambda` that well. A point that fits already is only
    clipped, bit for bit.

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
    >>> print(keras_gumbel.ops.project_capped_box(z, 1.0))
    [1. 0. 0.]
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
    wide = [ops.cast(z, working) for z in tensors]
    shift = _find_shift(wide, _round_down(budget, working))
    projected = [
        ops.cast(ops.clip(z - shift, 0.0, 1.0), dtype)
        for z, dtype in zip(wide, dtypes, strict=True)
    ]
    return projected if several else projected[0]


def _find_shift(tensors: list[Tensor], budget: Tensor) -> Tensor:
    """Returns the smallest lambda >= 0 whose sum fits the budget."""
    dtype = keras.backend.standardize_dtype(budget.dtype)
    size = sum(math.prod(z.shape) for z in tensors)
    budget = ops.minimum(budget, size)

    def excess(shift: Tensor) -> Tensor:
        return _excess(tensors, shift, budget, size)

    zero = ops.zeros((), dtype)
    at_zero = excess(zero)
    # The sum falls by at most n per unit of lambda: a lower bound. At the
    # largest value every score is 0: an upper bound that fits.
    low = ops.maximum(zero, at_zero) / size
    high = zero
    for z in tensors:
        high = ops.maximum(high, ops.minimum(ops.max(z), _HUGE))
    high = ops.where(at_zero > 0, high, zero)

    def unfinished(low: Tensor, high: Tensor) -> Tensor:
        middle = _middle(low, high)
        return ops.logical_and(low < middle, middle < high)

    def halve(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        middle = _middle(low, high)
        at_middle = excess(middle)
        fits = at_middle <= 0
        enough = ops.logical_or(
            ops.logical_not(fits), at_middle >= -_TOLERANCE * budget
        )
        # Fitting and close enough moves both ends: an empty bracket stops.
        return ops.where(enough, middle, low), ops.where(fits, middle, high)

    _, high = _iterate(unfinished, halve, (low, high), _MOST_STEPS[dtype])
    return ops.where(at_zero > 0, high, zero)


def _excess(
    tensors: list[Tensor], shift: Tensor, budget: Tensor, size: int
) -> Tensor:
    """Returns sum(clip(z - shift, 0, 1)) - budget, rounded up.

    Each score is split into a multiple of 1/scale, summed exactly in int32,
    and a remainder below 1/scale: float32 alone loses whole scores in a sum
    of many.
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
    rest = rest * (1 + _ROUNDING) - (budget - whole / scale)
    return ops.cast(units, budget.dtype) / scale + rest


def _round_down(budget: Tensor, dtype: str) -> Tensor:
    """Converts a budget without rounding it up."""
    if is_number(budget):
        rounded = np.dtype(dtype).type(budget)
        if rounded > budget:
            rounded = np.nextafter(rounded, np.dtype(dtype).type(0))
        budget = rounded
    return ops.cast(ops.convert_to_tensor(budget), dtype)


def _middle(low: Tensor, high: Tensor) -> Tensor:
    """The arithmetic mean, or across magnitudes the geometric one."""
    near = high - low <= 3.0 * (1.0 + low)
    geometric = ops.sqrt(1.0 + low) * ops.sqrt(1.0 + high) - 1.0
    return ops.where(near, low + 0.5 * (high - low), geometric)


def _iterate(
    condition: Callable[..., Tensor],
    body: Callable[..., tuple[Tensor, Tensor]],
    state: tuple[Tensor, Tensor],
    most_steps: int,
) -> tuple[Tensor, Tensor]:
    """`keras.ops.while_loop`, as a Python loop where tensors have values.

    JAX compiles a `while_loop` anew at every eager call.
    """
    if not _keras_private.is_eager(state[0]):
        return ops.while_loop(
            condition, body, state, maximum_iterations=most_steps
        )
    for _ in range(most_steps):
        if not condition(*state):
            break
        state = body(*state)
    return state
