"""Loops and branches that depend on the values in them."""

from collections.abc import Callable
from typing import Any

from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._typing import Tensor


def repeated(
    condition: Callable[..., Tensor],
    body: Callable[..., tuple[Any, ...]],
    state: tuple[Any, ...],
    constants: tuple[Any, ...] = (),
) -> tuple[Any, ...]:
    """Applies `body` to tensors while `condition` holds.

    Outside a trace it compiles nothing, because JAX would compile the loop
    again in every call.

    Args:
        condition: Callable, takes the tensors and returns a Boolean scalar.
        body: Callable, takes the tensors and returns the same number of tensors
            with the same shapes and dtypes.
        state: Tuple of tensors.
        constants: Tuple of other tensors that the functions use. Defaults to
            `()`.

    Returns:
        A tuple of tensors.
    """
    if not all(map(_keras_private.is_eager, (*state, *constants))):
        return tuple(ops.while_loop(condition, body, state))
    while condition(*state):
        state = body(*state)
    return state


def either(
    predicate: Tensor, true: Callable[[], Any], false: Callable[[], Any]
) -> Any:
    """Runs one of two functions. Outside a trace, it compiles neither.

    Args:
        predicate: Boolean scalar.
        true: Callable without arguments, run if it is true.
        false: Callable without arguments that returns as `true` does.
    """
    if _keras_private.is_eager(predicate):
        return true() if predicate else false()
    return ops.cond(predicate, true, false)
