"""What `ProjectedOptimizer` requires of its parts and of the scores."""

from typing import Any

import keras

from keras_gumbel._budgets import BudgetGroup
from keras_gumbel._scores import mark_of
from keras_gumbel._scores import name_of
from keras_gumbel._validation import invalid_argument


def require_optimizer(name: str, value: Any) -> keras.optimizers.Optimizer:
    """Returns the optimizer that `value` is or names, or raises."""
    if isinstance(value, (str, dict)):
        value = keras.optimizers.get(value)
    wraps = hasattr(value, "inner_optimizer")
    if not isinstance(value, keras.optimizers.Optimizer) or wraps:
        raise invalid_argument(
            "ProjectedOptimizer",
            name,
            "a Keras optimizer that is not a `LossScaleOptimizer` or "
            "`ProjectedOptimizer`",
            value,
            "For loss scaling, pass "
            "`LossScaleOptimizer(ProjectedOptimizer(...))`.",
            error=TypeError,
        )
    return value


def leaves_of(
    optimizer: keras.optimizers.Optimizer,
) -> list[keras.optimizers.Optimizer]:
    """Lists the optimizers inside a `MultiOptimizer`, or the one given."""
    return list(getattr(optimizer, "optimizers", [optimizer]))


def require_partner(
    inner: keras.optimizers.Optimizer, score: keras.optimizers.Optimizer
) -> None:
    """Raises unless the two optimizers can share the training steps."""
    if score.weight_decay:
        raise invalid_argument(
            "ProjectedOptimizer",
            "score_optimizer",
            "an optimizer without weight decay, which is not applied to scores",
            score,
            "Set its `weight_decay` to `None`.",
        )
    if any(leaf.use_ema for leaf in leaves_of(score)):
        raise invalid_argument(
            "ProjectedOptimizer",
            "score_optimizer",
            "an optimizer without moving averages (`use_ema`)",
            score,
            "Set `use_ema=True` only on the inner optimizer. Its weights are "
            "then averaged, and the current mask is used.",
        )
    if score.loss_scale_factor not in (None, inner.loss_scale_factor):
        raise invalid_argument(
            "ProjectedOptimizer",
            "score_optimizer",
            "an optimizer with the `loss_scale_factor` of the inner one, "
            f"{inner.loss_scale_factor}, or none",
            score.loss_scale_factor,
        )
    steps = inner.gradient_accumulation_steps
    if score.gradient_accumulation_steps != steps:
        raise invalid_argument(
            "ProjectedOptimizer",
            "score_optimizer",
            "an optimizer with the same `gradient_accumulation_steps` as the "
            f"inner one, {steps}",
            score.gradient_accumulation_steps,
        )


def require_scores(scores: list[keras.Variable]) -> None:
    """Raises unless there are scores, none of them with a constraint."""
    if not scores:
        raise ValueError(
            "`ProjectedOptimizer` found no scores among the trainable "
            "variables: the model has no masks, or its masks are already "
            "final. Call `keras_gumbel.sparsify(model)`, or compile the model "
            "with the inner optimizer."
        )
    for score in scores:
        if score.constraint is not None:
            raise ValueError(
                f"Scores under `ProjectedOptimizer` must have no "
                f"constraint of their own. Received: {score.path} with "
                f"{score.constraint!r}. Two projections in a row are not the "
                "projection onto both sets. Remove the constraint."
            )


def require_sound(group: BudgetGroup) -> None:
    """Raises unless scores can share a budget."""
    ranked = [mark_of(v).ranked for v in group.variables]
    if any(ranked) and not all(ranked):
        listed = ", ".join(map(name_of, group.variables))
        raise ValueError(
            "Scores that share a budget must all be learned, or all be ranked "
            f"by a saliency. Received both in: {listed}. Pass a dictionary to "
            "give them separate budgets."
        )
    frequencies = sorted({mark_of(v).frequency for v in group.variables})
    if len(frequencies) > 1:
        listed = ", ".join(map(name_of, group.variables))
        raise ValueError(
            "Masks that share a budget must have the same `frequency`. "
            f"Received {frequencies} in: {listed}. Pass a dictionary to give "
            "them separate budgets."
        )
