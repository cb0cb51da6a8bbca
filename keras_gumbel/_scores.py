"""The mark of variables that are scores.

Masks mark their scores, and the optimizer projects marked variables. Neither
imports the other.
"""

import dataclasses
import weakref
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any
from typing import TypeAlias

import keras
from keras import ops

from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_number

# Returns a tensor of the shape of the scores: how much each matters.
Saliency: TypeAlias = Callable[[], Tensor]

# `(n, axis)`: at most n scores along an axis; `(None, axes)`: as many as the
# density says, in every row along axes; `None`: no rows.
Rows: TypeAlias = tuple[Any, Any] | None

_MARK = "keras_gumbel_scores"
_OPTIMIZER = "keras_gumbel_optimizer"
_FINAL = "keras_gumbel_final"


@dataclasses.dataclass(frozen=True, eq=False)
class Mark:
    """What an optimizer and the functions of whole models know about scores.

    Attributes:
        saliency: Callable that returns how much each score matters, or `None`
            if this is unknown. It orders equal scores.
        ranked: Boolean, whether the scores are set by their saliencies instead
            of learned.
        weights_per_score: Integer, the number of weights that one score
            controls.
        rows: `(n, axis)`: at most `n` scores are kept along `axis` in the
            final mask; `(None, axes)`: the same number in every row, by the
            density; or `None`.
        pretrained: Boolean, whether the weights have been trained before.
        prunes_early: Boolean, whether the density falls early, if its schedule
            does not say when.
        observed: Boolean, whether the optimizer averages the gradients of the
            scores as their saliencies.
        place: The position of their channels, or `None` if they are not
            scores of channels.
        minimum: Number in [0, 1), the smallest fraction of the scores that is
            kept.
        frequency: Integer, the number of updates from one ranking to the next.
        name: String, the name in reports, or `None` for the variable's path.
    """

    saliency: Saliency | None = None
    ranked: bool = False
    weights_per_score: int = 1
    rows: Rows = None
    pretrained: bool = False
    prunes_early: bool = False
    observed: bool = False
    place: Any = None
    minimum: float = 0.0
    frequency: int = 1
    name: str | None = None


def mark_scores(
    variable: keras.Variable,
    saliency: Saliency | None = None,
    weights_per_score: int = 1,
    rows: Rows = None,
    pretrained: bool = False,
    minimum: float = 0.0,
) -> keras.Variable:
    """Marks a variable as scores, which then share the budget.

    Use it to put your own scores under the same budget as those of masks, which
    mark their scores themselves. `ProjectedOptimizer` keeps marked variables in
    {s in [0, 1]^n, sum(s) <= K} (Eq. 21) and does not apply weight decay to
    them. `keras_gumbel.sparsity_report` lists them, `keras_gumbel.harden` sets
    them to zeros and ones, and `keras_gumbel.strip` removes the mark.

    Args:
        variable: `keras.Variable` of a float dtype.
        saliency: `None` for scores that are learned. Or a callable without
            arguments that returns a tensor of their shape with entries of at
            least 0, such as the magnitudes of weights. After each step, the K
            scores with the largest saliency are then 1 and all others 0,
            independent of the gradient. Defaults to `None`.
        weights_per_score: Positive integer, the number of weights that one
            score controls. A score uses that much of the budget. Defaults to
            `1`.
        rows: `(n, axis)`. At most `n` scores are kept along `axis` in the
            final mask (N:M sparsity). Or `(None, axes)` with a tuple of axes:
            every row along these axes keeps the same number, which the
            density sets. `None` for no such limit. Defaults to `None`.
        pretrained: Boolean, whether the network has been trained before: see
            `keras_gumbel.optimizers.ScoreSGD`. Defaults to `False`.
        minimum: Number in [0, 1), the smallest fraction of the scores that is
            kept, rounded up. Defaults to `0.0`.

    Returns:
        The same variable.

    Raises:
        ValueError: If `minimum` is not in [0, 1), or more than `rows` allows.

    Example:

    >>> scores = keras_gumbel.mark_scores(keras.Variable([0.5, 0.5]))
    """
    require_minimum("mark_scores", minimum, rows, variable.shape)
    return set_mark(
        variable,
        Mark(
            saliency,
            saliency is not None,
            weights_per_score,
            rows,
            pretrained,
            minimum=minimum,
        ),
    )


def require_minimum(
    owner: str,
    minimum: Any,
    rows: Rows = None,
    shape: Any = None,
) -> None:
    """Raises unless scores can have a minimum.

    Args:
        owner: String, the function that the user called.
        minimum: The value that the user passed.
        rows: As in `mark_scores`. Defaults to `None`.
        shape: Tuple of integers, the shape of the scores, if `rows` is given.
            Defaults to `None`.
    """
    if not is_number(minimum) or not 0 <= minimum < 1:
        raise invalid_argument(
            owner,
            "minimum",
            "a number in [0, 1), the smallest fraction that is kept",
            minimum,
        )
    if rows is not None and rows[0] is not None:
        count, axis = rows
        if minimum * shape[axis] > count:
            raise invalid_argument(
                owner,
                "minimum",
                f"at most {count}/{shape[axis]}, the fraction that its "
                "granularity allows",
                minimum,
            )


def set_mark(variable: Any, mark: Mark | None) -> Any:
    """Sets or removes the mark of a variable, and returns the variable."""
    setattr(variable, _MARK, mark)
    return variable


def marked_scores(variables: Iterable[Any]) -> list[Any]:
    """Returns the variables that carry the mark, in order."""
    return [v for v in variables if getattr(v, _MARK, None) is not None]


def mark_of(variable: Any) -> Mark:
    """Returns the mark of scores, or an empty one."""
    return getattr(variable, _MARK, None) or Mark()


def name_of(variable: Any) -> str:
    """Returns the name of scores in reports and dictionaries."""
    return mark_of(variable).name or variable.path


def rename(variable: Any, name: str) -> None:
    """Gives scores another name in reports and dictionaries."""
    set_mark(variable, dataclasses.replace(mark_of(variable), name=name))


def saliency_of(variable: Any) -> Tensor:
    """Returns how much each score matters, or zeros if this is unknown."""
    saliency = mark_of(variable).saliency
    if saliency is None:
        return ops.zeros(variable.shape, "float32")
    return saliency()


def start_by_saliency(variable: Any) -> None:
    """Orders scores of a pretrained network that have never been trained.

    Those of 1 become at least 1/2, and those of 0 stay. See
    `keras_gumbel.optimizers.ProjectedOptimizer`.
    """
    mark = mark_of(variable)
    if mark.ranked or not mark.pretrained or mark.saliency is None:
        return
    trained = optimizer_of(variable) is not None or is_final(variable)
    scores = ops.convert_to_tensor(variable)
    if trained or not bool(ops.all(scores * (1.0 - scores) == 0)):
        return
    saliency = ops.cast(mark.saliency(), scores.dtype)
    mean_square = ops.mean(ops.square(saliency))
    # Weights that are all 0 have equal scores.
    scale = ops.rsqrt(2.0 * ops.where(mean_square > 0, mean_square, 1.0))
    smaller = ops.erf(saliency * scale)
    variable.assign(scores * (0.5 + 0.5 * smaller))


def importance_of(variable: Any) -> Tensor:
    """Returns what the optimizer has observed of scores, or zeros."""
    optimizer = optimizer_of(variable)
    if optimizer is None:
        return ops.zeros(variable.shape, "float32")
    return optimizer.importance_of(variable)


def train_by(variable: Any, optimizer: Any) -> None:
    """Stores which `ProjectedOptimizer` keeps scores within a budget."""
    setattr(variable, _OPTIMIZER, weakref.ref(optimizer))
    mark_final(variable, False)


def optimizer_of(variable: Any) -> Any:
    """Returns the `ProjectedOptimizer` that last trained scores, or `None`."""
    reference = getattr(variable, _OPTIMIZER, None)
    return None if reference is None else reference()


def mark_final(variable: Any, final: bool) -> None:
    """Stores whether scores were loaded as the final mask of training."""
    setattr(variable, _FINAL, final)


def is_final(variable: Any) -> bool:
    """Whether training has made scores the final mask, here or elsewhere."""
    optimizer = optimizer_of(variable)
    if optimizer is not None:
        return bool(optimizer.is_final())
    return getattr(variable, _FINAL, False)
