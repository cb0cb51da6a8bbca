"""Checks of user input, the wording of their errors, and our warnings."""

import copy
import numbers
from typing import Any

import keras

from keras_gumbel._typing import Shape


class SparsityWarning(UserWarning):
    """The category of all warnings of this package.

    Each warning says what happened, what it means for the model, and what to
    do. Filter this category to silence the warnings or turn them into errors.

    Args:
        message: String.

    Example:

    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", keras_gumbel.SparsityWarning)
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)


def invalid_argument(
    owner: str,
    name: str,
    expected: str,
    value: Any,
    fix: str | None = None,
    error: type[Exception] = ValueError,
) -> Exception:
    """Builds the error for a bad argument (one wording everywhere).

    Args:
        owner: String, the class or function the argument belongs to.
        name: String, the name of the argument.
        expected: String, completes "must be ...".
        value: What was received.
        fix: String or `None`, a sentence that says how to fix it. Defaults
            to `None`.
        error: The class of the error: `ValueError`, or `TypeError` for an
            object of the wrong kind. Defaults to `ValueError`.

    Returns:
        The exception, to be raised by the caller.
    """
    message = (
        f"Argument `{name}` of `{owner}` must be {expected}. "
        f"Received: {name}={value!r} (of type {type(value).__name__})."
    )
    return error(message if fix is None else f"{message} {fix}")


def is_number(value: Any) -> bool:
    """Whether `value` is a real Python or NumPy number, not a boolean."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_integer(value: Any) -> bool:
    """Whether `value` is a Python or NumPy integer, not a boolean."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_schedule(value: Any) -> bool:
    """Whether `value` is a function of the training step, as Keras has it."""
    return isinstance(value, keras.optimizers.schedules.LearningRateSchedule)


def own_schedule(value: Any) -> Any:
    """Returns a copy of a schedule that will find its steps, or the value.

    The schedule of a user may go into several models, whose runs differ.
    """
    return copy.deepcopy(value) if hasattr(value, "known_steps") else value


def is_broadcastable(shape: Shape, to: Shape) -> bool:
    """Whether a tensor of one shape broadcasts to the other, as it stands."""
    return len(shape) <= len(to) and all(
        length in (1, None) or target in (length, None)
        for length, target in zip(shape[::-1], to[::-1], strict=False)
    )


def require_positive(owner: str, name: str, value: Any) -> None:
    """Raises unless `value` is a finite number above zero."""
    if not is_number(value) or not 0 < value < float("inf"):
        raise invalid_argument(owner, name, "a positive finite number", value)


def require_positive_integer(owner: str, name: str, value: Any) -> None:
    """Raises unless `value` is a positive integer."""
    if not is_integer(value) or value < 1:
        raise invalid_argument(owner, name, "a positive integer", value)


def require_temperature(
    owner: str, value: Any, name: str = "temperature"
) -> None:
    """Raises unless `value` is a positive number or a schedule."""
    if is_schedule(value):
        return
    if not is_number(value) or not 0 < value < float("inf"):
        raise invalid_argument(
            owner,
            name,
            "a positive finite number or a `LearningRateSchedule`",
            value,
            "For one-hot samples use `hard=True` or `StraightThroughArgmax` "
            "and keep the temperature positive.",
        )


def require_density(owner: str, name: str, value: Any) -> None:
    """Raises unless `value` is a number in (0, 1]."""
    if not is_number(value) or not 0 < value <= 1:
        raise invalid_argument(
            owner,
            name,
            "a kept fraction in (0, 1]",
            value,
            "A density of 0.05 keeps 5% of the weights. To keep 50 weights, "
            "divide 50 by the number of weights.",
        )


def require_choice(
    owner: str, name: str, value: Any, choices: tuple[str, ...]
) -> None:
    """Raises unless `value` is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise invalid_argument(owner, name, f"one of {listed}", value)


def require_axis(owner: str, axis: Any, shape: Shape) -> int:
    """Returns `axis` as a non-negative integer, or raises."""
    rank = len(shape)
    if not is_integer(axis) or not -rank <= axis < rank:
        raise invalid_argument(
            owner,
            "axis",
            f"an integer in [{-rank}, {rank}) for inputs of shape "
            f"{tuple(shape)}",
            axis,
        )
    return int(axis) % rank
