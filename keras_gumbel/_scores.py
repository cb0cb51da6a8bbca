"""The mark that says which variables are keep-probabilities.

Layers mark their scores, the optimizer projects what is marked, and neither
knows the other.
"""

from collections.abc import Callable
from collections.abc import Iterable
from typing import Any
from typing import TypeAlias

import keras

from keras_gumbel._typing import Tensor

# Returns a tensor of the shape of the scores: how much each matters.
Saliency: TypeAlias = Callable[[], Tensor]

_MARK = "keras_gumbel_scores"
_SALIENCY = "keras_gumbel_saliency"


def mark_scores(
    variable: keras.Variable, saliency: Saliency | None = None
) -> keras.Variable:
    """Marks a variable as scores: keep-probabilities under the budget.

    `ProjectedOptimizer` keeps the marked variables it is given inside
    {0 <= s <= 1, sum(s) <= K} (Eq. 29), all of them together. The layers of
    this package mark their own scores; call this for a variable of yours, in
    `build`, so that a loaded or cloned layer is marked again.

    Args:
        variable: `keras.Variable` of a float dtype.
        saliency: `None` for scores that are learned. Or a callable without
            arguments that returns a tensor of their shape with entries of at
            least 0, such as the magnitudes of weights: whatever the gradient,
            after each step the K scores of largest saliency are 1 and all
            others 0. Defaults to `None`.

    Returns:
        The same variable.

    Example:

    >>> scores = keras_gumbel.mark_scores(keras.Variable([0.5, 0.5]))
    """
    setattr(variable, _MARK, True)
    setattr(variable, _SALIENCY, saliency)
    return variable


def marked_scores(variables: Iterable[Any]) -> list[Any]:
    """Returns the variables that carry the mark, in order."""
    return [v for v in variables if getattr(v, _MARK, False)]


def saliency_of(variable: Any) -> Saliency | None:
    """Returns what ranks the scores, or `None` if they are learned."""
    return getattr(variable, _SALIENCY, None)
