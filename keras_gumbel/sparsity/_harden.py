"""From learned scores to the final mask."""

import warnings
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._seeds import generator_state
from keras_gumbel._seeds import require_seed
from keras_gumbel._seeds import seed_generator
from keras_gumbel._validation import require_positive_integer
from keras_gumbel.layers.concrete_mask import ConcreteMask
from keras_gumbel.layers.sparsified import Sparsified
from keras_gumbel.sparsity._decisions import MOST_WHEN_FIXED
from keras_gumbel.sparsity._decisions import count_undecided
from keras_gumbel.sparsity._masks import Masked
from keras_gumbel.sparsity._masks import decide_budgets
from keras_gumbel.sparsity._masks import final_masks
from keras_gumbel.sparsity._masks import find_masks
from keras_gumbel.sparsity._masks import find_projected
from keras_gumbel.sparsity._masks import require_numbers
from keras_gumbel.sparsity._rewrite import copy_layer
from keras_gumbel.sparsity._rewrite import copy_sparsified
from keras_gumbel.sparsity._rewrite import copy_weights
from keras_gumbel.sparsity._rewrite import require_reachable
from keras_gumbel.sparsity._rewrite import require_rewritable
from keras_gumbel.sparsity._rewrite import rewrite


def harden(
    model: keras.Model,
    density: float | None = None,
    budget: int | None = None,
    data: Any = None,
    num_samples: int = 10,
    batch_size: int | None = None,
    seed: int | None = None,
) -> keras.Model:
    """Returns a copy of a model with its final mask, of exactly K ones.

    The K largest scores of the whole model become 1 and all others 0; of
    equal scores the one on the larger weight is kept. Under several budgets
    these are the largest scores of each, and with costs as many of them as
    can be paid for. The mask is fixed: it
    draws no noise and is not trainable, so that `fit` fine-tunes the weights
    that are kept. The model that was passed, and the scores it has learned,
    do not change.

    With `data` the masks are compared by the loss on it: the one of the
    largest scores, and as many random ones of the same size, in which a
    weight is kept with a probability close to its score s (Eq. 18). The mask
    of the lowest loss is taken.

    ```
    m = 1 for the K largest of log(s / (1 - s)) + e, and 0 for all others
    e ~ Logistic(0, 1)                                            # Eq. (26)
    ```

    Scores that are all 0 or 1, as `ProjectedOptimizer` leaves them after its
    `harden_step`, have one mask alone; there is nothing to compare then.
    `BatchNormalization` is in inference mode, with the statistics it has.

    A copy of a compiled model is compiled with the same losses and metrics
    and with a new copy of the optimizer, without its `ProjectedOptimizer`
    around it. Compile it again for another.

    Args:
        model: Sequential or Functional model with masked layers, or the
            `MonteCarloModel` that holds it.
        density: Number in (0, 1], the share of all scores to keep, or
            `None`. Defaults to `None`.
        budget: Number K of scores to keep, or `None`. Without `density` and
            `budget` it is the budget that stands in the `ProjectedOptimizer`
            the model is compiled with. Defaults to `None`.
        data: What the random masks are compared on: tuple `(x, y)` or
            `(x, y, sample_weight)` of what `Model.evaluate` takes, a dataset,
            or `None` for no random masks. Defaults to `None`.
        num_samples: Positive integer, the number of random masks. Defaults
            to `10`.
        batch_size: Integer or `None`, as in `Model.evaluate`. Defaults to
            `None`.
        seed: Integer in [0, 2**32) or `None`, of the random masks, which are
            the same on every backend. Defaults to `None`.

    Returns:
        A Sequential or Functional model.

    Raises:
        TypeError: If `model` is not a Sequential or Functional model.
        ValueError: If the model has no mask, a score is NaN, `density` or
            `budget` is out of range or both are given, or neither is given
            and the model is not compiled with a `ProjectedOptimizer`, a
            masked layer is inside of another layer, or `data` is given for a
            model that is not compiled.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> hard = keras_gumbel.harden(keras_gumbel.sparsify(model), budget=5)
    >>> keras_gumbel.sparsity_report(hard).kept
    5

    References:
        - [Zhou et al., 2021](https://arxiv.org/abs/2105.01571), the best of
          several masks
        - [Bondesson et al.,
          2006](https://doi.org/10.1111/j.1467-9469.2006.00497.x), the
          distribution of the random ones: Pareto sampling
    """
    plain = require_rewritable("harden", model)
    require_positive_integer("harden", "num_samples", num_samples)
    seed = require_seed("harden", seed)
    arguments = _keras_private.compile_arguments(model)
    if data is not None and arguments is None:
        raise ValueError(
            "`harden` compares masks by the loss that the model is compiled "
            "with. Compile it, or pass no `data`. Received: the model "
            f"{model.name!r}, which is not compiled."
        )
    masks = find_masks("harden", model)
    require_reachable("harden", plain, [m.layer for m in masks])
    require_numbers("harden", masks)
    shares = decide_budgets("harden", model, masks, density, budget)
    if shares is None:
        raise ValueError(
            "`harden` needs to know how many scores to keep. Pass `density` "
            "or `budget`, or compile the model with a `ProjectedOptimizer` "
            f"and fit it. Received: the model {model.name!r} with neither."
        )
    finals = final_masks(masks, shares)
    if density is None and budget is None and not _warn_if_early(model):
        _warn_if_undecided(masks, finals)
    scores: dict[int, keras.Variable] = {}

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
            scores[id(mask)] = final_mask.mask_scores
            if isinstance(mask, ConcreteMask):
                # By value: JAX gives up arrays that it trains with.
                final_mask.step.assign(ops.convert_to_numpy(mask.step))

    hardened = rewrite(plain, replace, fill)
    variables = [scores[id(m.mask)] for m in masks]
    if arguments is not None and data is not None:
        rest = {"optimizer": None, "metrics": None, "weighted_metrics": None}
        hardened.compile(**{**arguments, **rest})
        generator = np.random.default_rng(generator_state(seed_generator(seed)))
        drawn = (
            final_masks(masks, shares, generator) for _ in range(num_samples)
        )

        def loss(finals: list[np.ndarray]) -> float:
            _assign(variables, finals)
            return _loss(hardened, data, batch_size)

        finals = _best(finals, drawn, loss)
    _assign(variables, finals)
    if arguments is not None:
        hardened.compile(
            **{**arguments, "optimizer": _fresh_optimizer(model.optimizer)}
        )
    return hardened


def _best(
    first: list[np.ndarray],
    others: Iterable[list[np.ndarray]],
    loss: Callable[[list[np.ndarray]], float],
) -> list[np.ndarray]:
    """Returns the masks of lowest loss: the first ones, or better ones."""
    best, lowest = first, None
    for finals in others:
        if all(map(np.array_equal, finals, first)):
            continue
        if lowest is None:
            lowest = loss(first)
        found = loss(finals)
        if found < lowest:
            best, lowest = finals, found
    return best


def _loss(model: keras.Model, data: Any, batch_size: int | None) -> float:
    arrays = data if isinstance(data, tuple) else (data,)
    inputs = dict(zip(("x", "y", "sample_weight"), arrays, strict=False))
    logs = model.evaluate(
        **inputs, batch_size=batch_size, verbose=0, return_dict=True
    )
    return float(logs["loss"])


def _assign(variables: list[keras.Variable], values: list[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


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
    undecided = sum(m.shared * count_undecided(m.scores()) for m in masks)
    kept = sum(m.count(f) for m, f in zip(masks, finals, strict=True))
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
