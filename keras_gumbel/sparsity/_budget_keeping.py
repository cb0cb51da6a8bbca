"""Checks of a model with masks that its scores stay within a budget."""

import warnings
from typing import Any

import keras

from keras_gumbel import _keras_private
from keras_gumbel._scores import marked_scores
from keras_gumbel._scores import name_of
from keras_gumbel._validation import SparsityWarning
from keras_gumbel.optimizers import ProjectedOptimizer


def find_projected(
    optimizer: keras.optimizers.Optimizer | None,
) -> ProjectedOptimizer | None:
    """Returns the `ProjectedOptimizer` in the optimizer of a model."""
    if optimizer is None or isinstance(optimizer, ProjectedOptimizer):
        return optimizer
    inner = getattr(optimizer, "inner_optimizer", None)
    parts = [inner, *getattr(optimizer, "optimizers", [])]
    found = (find_projected(part) for part in parts if part is not None)
    return next((part for part in found if part is not None), None)


def bring_back(model: Any) -> None:
    """Brings restored scores back under the budget.

    Callbacks such as `EarlyStopping(restore_best_weights=True)` restore the
    weights of an earlier epoch, but not the optimizer.
    """
    optimizer = find_projected(getattr(model, "optimizer", None))
    if optimizer is not None and optimizer.bring_back():
        what = "a final mask" if optimizer.is_final() else "the budget"
        warnings.warn(
            f"The weights of {model.name!r} were restored from another step of "
            f"its training than step {optimizer.steps:,} of its optimizer. "
            f"Their scores were outside of {what} of this step and have been "
            "projected onto it, so the model may do worse. Restore the "
            "optimizer together with the weights, or choose the best epoch "
            "after the mask is final: see `keras_gumbel.callbacks.OnceFinal`.",
            SparsityWarning,
            stacklevel=3,
        )


def budget_is_missing(model: Any, optimizer: Any) -> str | None:
    """Returns a warning if no optimizer keeps scores under a budget."""
    loose = [
        name_of(scores)
        for scores in marked_scores(model.trainable_variables)
        if scores.constraint is None
    ]
    if optimizer is None or not loose or find_projected(optimizer) is not None:
        return None
    return (
        f"The model {model.name!r} has masks, but is compiled with "
        f"`{type(optimizer).__name__}`, which has no budget. Training will "
        f"not prune {', '.join(loose)}. Compile it with "
        "`keras_gumbel.optimizers.ProjectedOptimizer`, or call "
        "`keras_gumbel.harden` first to train with a final mask."
    )


def require_known_scores(model: Any) -> None:
    """Raises if the optimizer was built before scores could be trained."""
    optimizer = model.optimizer
    if optimizer is None or not optimizer.built:
        return
    own = find_projected(optimizer) or optimizer
    known = {id(v) for v in _keras_private.trained_by(own)}
    scores = marked_scores(model.trainable_variables)
    new = [name_of(v) for v in scores if id(v) not in known]
    if new:
        raise ValueError(
            f"The optimizer of {model.name!r} cannot train the scores of "
            f"{', '.join(new)}, because it was built without them. Call "
            "`compile` again, with a "
            "`keras_gumbel.optimizers.ProjectedOptimizer`, after `sparsify`, "
            "and after `soften` on a loaded model."
        )


def warn_of_plain_optimizer(model: Any, optimizer: Any) -> None:
    """Warns once of each optimizer that has no budget."""
    if optimizer is model.attachment.unfit:
        return
    message = budget_is_missing(model, optimizer)
    if message is not None:
        model.attachment.unfit = optimizer
        warnings.warn(message, SparsityWarning, stacklevel=4)
