"""Makes the mask of a model final, and undoes that."""

import warnings
from typing import Any

import keras

from keras_gumbel import _keras_private
from keras_gumbel._budgets import limits_of
from keras_gumbel._validation import SparsityWarning
from keras_gumbel.optimizers._defaults import schedule_end
from keras_gumbel.sparsity._budget_keeping import find_projected
from keras_gumbel.sparsity._choices import MOST_WHEN_HARDENED
from keras_gumbel.sparsity._choices import count_kept
from keras_gumbel.sparsity._choices import count_undecided
from keras_gumbel.sparsity._choices import decide
from keras_gumbel.sparsity._choices import empty
from keras_gumbel.sparsity._choices import final_masks
from keras_gumbel.sparsity._choices import short_schedule
from keras_gumbel.sparsity._choices import warn_of_empty
from keras_gumbel.sparsity._choices import what_counts
from keras_gumbel.sparsity._found import Replaced
from keras_gumbel.sparsity._found import Scores
from keras_gumbel.sparsity._found import find_scores
from keras_gumbel.sparsity._found import require_numbers
from keras_gumbel.sparsity._reconstruct import Reconstruction


def harden(
    model: keras.Layer,
    density: Any = None,
    budget: Any = None,
    reconstruct: bool = False,
) -> keras.Layer:
    """Gives a model its final mask, of exactly K ones, in place.

    The K largest scores of the whole model become 1, and all others become 0.
    Between equal scores, those of the larger weights are kept. With several
    budgets, the largest scores under each budget are kept. With costs, as many
    of them are kept as the budget allows. The final mask draws no noise and is
    not trained, so `fit` fine-tunes the kept weights.

    The model keeps its scores. Call `harden` again to choose another density,
    or `keras_gumbel.soften` to train the scores further.

    A compiled model stays compiled. It gets a new copy of the inner optimizer,
    without the `ProjectedOptimizer` around it.

    With `reconstruct=True`, the kept weights are adjusted to compensate for the
    pruned ones, on the data that `keras_gumbel.calibrate` has seen. The weights
    W become V:

    ```
    min ||X W - X V||^2  over V  subject to  V = 0 outside of the mask
    ```

    for the inputs X of each layer, damped by 0.01 of their mean square. Ranked
    masks, such as `"magnitude"`, `"wanda"` and `"obs"`, are chosen in rounds
    with these solutions. Use it to prune a trained model in one shot, without
    training. V is zero outside of the mask. `soften` and a second `harden` do
    not restore W: copy the model first if you want to try several densities.

    Args:
        model: Keras model or layer with masks.
        density: Number in (0, 1], the fraction of all scores to keep; or, for
            several budgets, a dictionary from the names in
            `keras_gumbel.sparsity_report` or regexes to such numbers, as
            `keras_gumbel.layer_densities` returns it; or `None`. Defaults to
            `None`.
        budget: Number K of scores to keep, a dictionary of these, or `None`.
            If `density` and `budget` are both `None`, the budget is the final
            budget of the `ProjectedOptimizer` that the model is compiled
            with. Defaults to `None`.
        reconstruct: Boolean, whether to adjust the kept weights. A warning
            lists weights without calibration data, which do not change.
            Defaults to `False`.

    Returns:
        The same model.

    Raises:
        TypeError: If `model` is not a Keras model or layer.
        ValueError: If the model has no mask, a score is NaN, `density` or
            `budget` is out of range or both are given, neither is given and
            the model is not compiled with a `ProjectedOptimizer`, the budget
            is too small for the `minimum` of each weight, or `reconstruct` is
            true and no weight has calibration data.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> model = keras_gumbel.harden(keras_gumbel.sparsify(model), budget=5)
    >>> keras_gumbel.sparsity_report(model).kept
    5

    References:
        - [Zhou et al., 2021](https://arxiv.org/abs/2105.01571)
    """
    return harden_for("harden", model, density, budget, reconstruct)


def harden_for(
    owner: str,
    model: keras.Layer,
    density: Any = None,
    budget: Any = None,
    reconstruct: bool = False,
) -> keras.Layer:
    """Hardens a model for the function that the user called, for errors."""
    scores = find_scores(owner, model)
    require_numbers(owner, scores)
    implied = density is None and budget is None
    if implied and all(s.hardened for s in scores):
        if reconstruct:
            Reconstruction(owner, scores).fit([s.values() for s in scores])
        return model
    choices = decide(owner, model, scores, density, budget)
    if choices is None:
        raise ValueError(
            f"`{owner}` needs the number of scores to keep. Pass `density` "
            "or `budget`, or compile the model with a `ProjectedOptimizer`. "
            f"Received: the model {model.name!r} with neither."
        )
    if reconstruct:
        finals = Reconstruction(owner, scores).choose(choices)
    else:
        finals = final_masks(scores, choices)
    if implied and not _warn_if_early(model, scores, finals):
        _warn_if_undecided(scores, finals)
        _warn_if_short(model)
    warn_of_empty(empty(scores, finals), stacklevel=3)
    for s, final in zip(scores, finals, strict=True):
        s.harden(final)
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None:
        replaced, fresh = Replaced.of(model), _fresh(optimizer)
        if optimizer.built and model.trainable_variables:
            fresh.build(model.trainable_variables)
        _keras_private.replace_optimizer(model, fresh)
        before = replaced.before if replaced else optimizer
        Replaced(before, fresh).keep(model)
    _keras_private.variables_changed(model)
    return model


def soften(model: keras.Layer) -> keras.Layer:
    """Undoes `keras_gumbel.harden` and restores the learned scores.

    The previous optimizer of the model is restored with all of its state,
    unless the model has been compiled again. Weights that were fine-tuned or
    reconstructed in the meantime do not change.

    Args:
        model: Keras model or layer with masks.

    Returns:
        The same model.

    Raises:
        TypeError: If `model` is not a Keras model or layer.
        ValueError: If the model has no mask.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> model = keras_gumbel.harden(keras_gumbel.sparsify(model), budget=5)
    >>> keras_gumbel.sparsity_report(keras_gumbel.soften(model)).kept
    32
    """
    for s in find_scores("soften", model):
        s.soften()
    replaced = Replaced.of(model)
    if replaced is not None:
        _keras_private.replace_optimizer(model, replaced.before)
    Replaced.forget(model)
    _keras_private.variables_changed(model)
    return model


def _warn_if_early(
    model: keras.Layer, scores: list[Scores], finals: list[Any]
) -> bool:
    optimizer = find_projected(getattr(model, "optimizer", None))
    if optimizer is None or not optimizer.built:
        return False
    now, end = optimizer.whole_budgets()
    early = now > end
    if early:
        counted = what_counts(scores)
        what = "costs" if optimizer.costs else counted
        warnings.warn(
            f"The final mask keeps {count_kept(scores, finals):,} {counted}, "
            f"because the budget schedule ends at {end:,} {what}. Training "
            f"stopped earlier, at {now:,}. The model was not trained with so "
            "few and will do worse. Train to the end of the schedule, or pass "
            "`density` or `budget` to `harden`.",
            SparsityWarning,
            stacklevel=4,
        )
    return early


def _warn_if_short(model: keras.Layer) -> None:
    optimizer = find_projected(getattr(model, "optimizer", None))
    if optimizer is None:
        return
    limits = limits_of(optimizer.density) + limits_of(optimizer.budget)
    message = short_schedule(schedule_end(limits), optimizer.steps)
    if message is not None:
        warnings.warn(message, SparsityWarning, stacklevel=4)


def _warn_if_undecided(scores: list[Scores], finals: list[Any]) -> None:
    undecided = sum(
        s.weights_per_score * count_undecided(s.values()) for s in scores
    )
    kept = count_kept(scores, finals)
    if undecided > MOST_WHEN_HARDENED * kept:
        warnings.warn(
            f"The final mask keeps {kept:,} {what_counts(scores)}, but "
            f"{undecided:,} scores are undecided (0.05 < s < 0.95), more "
            f"than {MOST_WHEN_HARDENED:g} for each one kept. The hardened "
            "model will do worse until it is fine-tuned. Raise the learning "
            "rate of `score_optimizer`, or train the scores for more steps.",
            SparsityWarning,
            stacklevel=4,
        )


def _fresh(
    optimizer: keras.optimizers.Optimizer,
) -> keras.optimizers.Optimizer:
    """Returns an unused copy of the optimizer of the weights."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        config = optimizer.get_config()
        config["inner_optimizer"] = _fresh(optimizer.inner_optimizer)
        return keras.optimizers.LossScaleOptimizer(**config)
    projected = find_projected(optimizer)
    if projected is optimizer:
        optimizer = projected.inner_optimizer
    return type(optimizer).from_config(optimizer.get_config())
