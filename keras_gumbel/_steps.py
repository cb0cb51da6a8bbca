"""The mark that says which variables count training steps.

Layers mark their counters, and a model that makes several passes in one
training step counts them as one.
"""

from collections.abc import Iterable
from typing import Any

import keras

_MARK = "keras_gumbel_step"


def mark_step(variable: keras.Variable) -> keras.Variable:
    """Marks a variable as one that a call in training adds 1 to.

    Args:
        variable: `keras.Variable` of an integer dtype.

    Returns:
        The same variable.
    """
    setattr(variable, _MARK, True)
    return variable


def marked_steps(variables: Iterable[Any]) -> list[Any]:
    """Returns the variables that carry the mark, in order."""
    return [v for v in variables if getattr(v, _MARK, False)]
