"""The mark that says which variables are keep-probabilities.

Layers mark their scores, the optimizer projects what is marked, and neither
knows the other.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any
from typing import TypeAlias

import keras

from keras_gumbel._typing import Tensor

# Returns a tensor of the shape of the scores: how much each matters.
Saliency: TypeAlias = Callable[[], Tensor]

_MARK = "keras_gumbel_scores"


@dataclasses.dataclass(frozen=True)
class Mark:
    """What an optimizer has to know of scores.

    Attributes:
        saliency: Callable that returns how much each matters, or `None` for
            scores that are learned.
        weights: Integer, how many weights share a score.
        rows: Pair of how many of a row may be kept and the axis that rows
            lie on, or `None`.
    """

    saliency: Saliency | None = None
    weights: int = 1
    rows: tuple[int, int] | None = None


def mark_scores(
    variable: keras.Variable,
    saliency: Saliency | None = None,
    weights: int = 1,
    rows: tuple[int, int] | None = None,
) -> keras.Variable:
    """Marks a variable as scores: keep-probabilities under the budget.

    `ProjectedOptimizer` keeps the marked variables it is given inside
    {s in [0, 1]^n, sum(s) <= K} (Eq. 21) and excludes them from weight decay.
    The masked layers of this package mark their own; mark a variable to put
    scores of yours under the same budget.

    Args:
        variable: `keras.Variable` of a float dtype.
        saliency: `None` for scores that are learned. Or a callable without
            arguments that returns a tensor of their shape with entries of at
            least 0, such as the magnitudes of weights: whatever the gradient,
            after each step the K scores of largest saliency are 1 and all
            others 0. Defaults to `None`.
        weights: Positive integer, how many weights share one score, as which
            it counts in a budget. Defaults to `1`.
        rows: Pair of integers, how many scores of a row may be kept in the
            end, and the axis that rows lie on, or `None` for no such limit.
            Defaults to `None`.

    Returns:
        The same variable.

    Example:

    >>> scores = keras_gumbel.mark_scores(keras.Variable([0.5, 0.5]))
    """
    setattr(variable, _MARK, Mark(saliency, weights, rows))
    return variable


def marked_scores(variables: Iterable[Any]) -> list[Any]:
    """Returns the variables that carry the mark, in order."""
    return [v for v in variables if getattr(v, _MARK, None) is not None]


def mark_of(variable: Any) -> Mark:
    """Returns the mark of scores, or an empty one."""
    return getattr(variable, _MARK, None) or Mark()


def saliency_of(variable: Any) -> Saliency | None:
    """Returns what ranks the scores, or `None` if they are learned."""
    return mark_of(variable).saliency
