"""The mark that says which variables are keep-probabilities.

Layers mark their scores, the optimizer projects what is marked, and neither
knows the other.
"""

from collections.abc import Iterable

import keras

_MARK = "keras_gumbel_scores"


def mark_scores(variable: keras.Variable) -> keras.Variable:
    """Marks a variable as scores: keep-probabilities under the budget.

    `ProjectedOptimizer` keeps the marked variables it is given inside
    {0 <= s <= 1, sum(s) <= K} (Eq. 29), all of them together. The layers of
    this package mark their own scores; call this for a variable of yours, in
    `build`, so that a loaded or cloned layer is marked again.

    Args:
        variable: `keras.Variable` of a float dtype.

    Returns:
        The same variable.

    Example:

    >>> scores = keras_gumbel.mark_scores(keras.Variable([0.5, 0.5]))
    """
    setattr(variable, _MARK, True)
    return variable


def marked_scores(variables: Iterable[keras.Variable]) -> list[keras.Variable]:
    """Returns the variables that carry the mark, in order."""
    return [v for v in variables if getattr(v, _MARK, False)]
