"""From learned scores to the final mask."""

import warnings

import keras
import numpy as np
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel.layers.concrete_mask import ConcreteMask
from keras_gumbel.layers.sparsified import Sparsified
from keras_gumbel.sparsity._decisions import MOST_WHEN_FIXED
from keras_gumbel.sparsity._decisions import count_undecided
from keras_gumbel.sparsity._masks import Masked
from keras_gumbel.sparsity._masks import decide_budgets
from keras_gumbel.sparsity._masks import final_masks
from keras_gumbel.sparsity._masks import find_masks
from keras_gumbel.sparsity._masks import find_projected
from keras_gumbel.sparsity._rewrite import copy_layer
from keras_gumbel.sparsity._rewrite import copy_sparsified
from keras_gumbel.sparsity._rewrite import copy_weights
from keras_gumbel.sparsity._rewrite import require_rewritable
from keras_gumbel.sparsity._rewrite import rewrite


def harden(
    model: keras.Model,
    density: float | None = None,
    budget: int | None = None,
) -> keras.Model:
    """Returns a copy of a model with its final mask, of exactly K ones.

    The K largest scores of the whole model become 1 and all others 0; of
    equal scores the one on the larger weight is kept. Under several budgets
    these are the largest scores of each, and with costs as many of them as
    can be paid for. The mask is fixed: it
    draws no noise and is not trainable, so that `fit` fine-tunes the weights
    that are kept. The model that was passed, and the scores it has learned,
    do not change.

    A copy of a compiled model is compiled with the same losses and metrics
    and with a new copy of the optimizer, without its `ProjectedOptimizer`
    around it. Compile it again for another.

    Args:
        model: Sequential or Functional model with masked layers.
        density: Number in (0, 1], the share of all scores to keep, or
            `None`. Defaults to `None`.
        budget: Number K of scores to keep, or `None`. Without `density` and
            `budget` it is the budget that stands in the `ProjectedOptimizer`
            the model is compiled with. Defaults to `None`.

    Returns:
        A model of the same kind.

    Raises:
        TypeError: If `model` is not a Sequential or Functional model.
        ValueError: If the model has no mask, `density` or `budget` is out of
            range or both are given, or neither is given and the model is not
            compiled with a `ProjectedOptimizer`.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> hard = keras_gumbel.harden(keras_gumbel.sparsify(model), budget=5)
    >>> keras_gumbel.sparsity_report(hard).kept
    5
    """
    require_rewritable("harden", model)
    masks = find_masks("harden", model)
    shares = decide_budgets("harden", model, masks, density, budget)
    if shares is None:
        raise ValueError(
            "`harden` needs to know how many scores to keep. Pass `density` "
            "or `budget`, or compile the model with a `ProjectedOptimizer` "
            f"and fit it. Received: the model {model.name!r} with neither."
        )
    arrays = final_masks(masks, shares)
    if density is None and budget is None and not _warn_if_early(model):
        _warn_if_undecided(masks, arrays)
    finals = {id(m.mask): final for m, final in zip(masks, arrays, strict=True)}

    def replace(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, Sparsified):
            return copy_sparsified(layer, fixed=True)
        if isinstance(layer, ConcreteMask):
            config = {**layer.get_config(), "fixed": True}
            return ConcreteMask.from_config(config)
        return copy_layer(layer)

    def fill(layer: keras.Layer, replacement: keras.Layer) -> None:
        if isinstance(layer, Sparsified):
            copy_weights(layer.layer, replacement.layer)
            pairs = list(zip(layer.masks, replacement.masks, strict=True))
        elif isinstance(layer, ConcreteMask):
            pairs = [(layer, replacement)]
        else:
            copy_weights(layer, replacement)
            return
        for mask, final_mask in pairs:
            final_mask.mask_scores.assign(finals[id(mask)])
            if isinstance(mask, ConcreteMask):
                # By value: JAX gives up arrays that it trains with.
                final_mask.step.assign(ops.convert_to_numpy(mask.step))

    hardened = rewrite(model, replace, fill)
    arguments = _keras_private.compile_arguments(model)
    if arguments is not None:
        hardened.compile(
            **{**arguments, "optimizer": _fresh_optimizer(model.optimizer)}
        )
    return hardened


def _warn_if_early(model: keras.Model) -> bool:
    optimizer = find_projected(getattr(model, "optimizer", None))
    if optimizer is None or not optimizer.built:
        return False
    budget, final = optimizer.current_budget(), optimizer.final_budget()
    early = budget > final + 1
    if early:
        what = "in costs" if optimizer.costs else "scores"
        warnings.warn(
            f"The final mask keeps {budget:.0f} {what}, the budget where "
            f"training stands; its schedule ends at {final:.0f}. Train to the "
            "end of the schedule, or pass `density` or `budget` to `harden`.",
            stacklevel=3,
        )
    return early


def _warn_if_undecided(masks: list[Masked], finals: list[np.ndarray]) -> None:
    undecided = sum(count_undecided(m.scores()) for m in masks)
    kept = sum(int(final.sum()) for final in finals)
    if undecided > MOST_WHEN_FIXED * kept:
        warnings.warn(
            f"The final mask keeps {kept:,} weights, and the scores "
            f"of {undecided:,} are undecided (0.05 < s < 0.95), more than "
            f"{MOST_WHEN_FIXED:g} for each weight kept: the hardened model "
            "will do worse until it is fine-tuned. Train the scores at a "
            "larger learning rate, the one of `score_optimizer`, or for more "
            "steps.",
            stacklevel=3,
        )


def _fresh_optimizer(
    optimizer: keras.optimizers.Optimizer,
) -> keras.optimizers.Optimizer:
    """Returns an unused copy of what steps the weights."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    projected = find_projected(optimizer)
    if projected is optimizer:
        optimizer = projected.inner_optimizer
    return type(optimizer).from_config(optimizer.get_config())
