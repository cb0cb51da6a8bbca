"""From a dense model to one with masks."""

import collections
import re
import warnings
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import TypeAlias

import keras
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel import masks
from keras_gumbel._scores import require_minimum
from keras_gumbel._seeds import require_seed
from keras_gumbel._seeds import spawn_seeds
from keras_gumbel._validation import SparsityWarning
from keras_gumbel._validation import invalid_argument
from keras_gumbel.granularities import Granularity
from keras_gumbel.granularities import Unit
from keras_gumbel.masks import Mask
from keras_gumbel.shrinking._coupling import ChannelGroup
from keras_gumbel.shrinking._graph import graph_models
from keras_gumbel.sparsity._channel_masks import free_groups
from keras_gumbel.sparsity._channel_masks import put_channel_masks
from keras_gumbel.sparsity._channel_masks import require_mask_for_channels
from keras_gumbel.sparsity._layer_granularities import granularities_of
from keras_gumbel.sparsity._layer_granularities import is_coupled
from keras_gumbel.sparsity._layer_inputs import input_axes
from keras_gumbel.sparsity._masked_layer import attached_masks
from keras_gumbel.sparsity._masked_layer import refresh
from keras_gumbel.sparsity._masked_weight import is_maskable
from keras_gumbel.sparsity._pretrained import is_pretrained
from keras_gumbel.sparsity._saving import copy_of
from keras_gumbel.sparsity._saving import put_mask_on
from keras_gumbel.sparsity._scan import FROZEN
from keras_gumbel.sparsity._scan import WeightMatrix
from keras_gumbel.sparsity._scan import require_built
from keras_gumbel.sparsity._scan import weight_matrices

# The share of the channels of each group that stays, unless the user says.
_MINIMUM = 0.1

Filters: TypeAlias = str | Sequence[str] | Callable[[keras.Layer], bool] | None


def sparsify(
    model: keras.Layer,
    mask: str | Mask | None = None,
    filters: Filters = None,
    granularity: Any = "weight",
    minimum: float | None = None,
    freeze_weights: bool = False,
    keep_zeros: bool = False,
    pretrained: bool | None = None,
    seed: int | None = None,
) -> keras.Layer:
    """Puts a mask on every weight matrix of a model, in place.

    The model is any Keras model or layer that is built: Sequential,
    Functional, subclassed, with layers of your own at any depth. It stays the
    object that it is, as with `Model.quantize`: its class, layers, methods and
    weights are the same, its predictions too until it is trained, and
    `keras_gumbel.strip` takes the masks off again. To keep the dense model,
    make a copy first: `sparsify(copy.deepcopy(model))`.

    Compile the model with `keras_gumbel.optimizers.ProjectedOptimizer`, which
    holds the scores of all masks together under one budget. A model that is
    compiled already has to be compiled again.

    Masked are all trainable weights of rank 2 or more but biases, whatever
    layer they are in. One warning lists those that cannot be masked, with the
    reason, such as quantized layers and layers with LoRA. Frozen weights
    (`trainable = False`) are left as they are.

    Args:
        model: Keras model or layer, built.
        mask: What is put on each weight: a `keras_gumbel.masks.Mask`, of which
            every weight gets a copy, or a string:

            - `"learned"`: `keras_gumbel.masks.LearnedMask`, scores that are
              trained and multiplied into the weight, which
              `docs/benchmarks/sparsity.md` shows to be best.
            - `"magnitude"`: `MagnitudeMask`, the largest weights.
            - `"wanda"` and `"obs"`: `SaliencyMask`, the weights that the
              outputs of their layers need most, after
              `keras_gumbel.calibrate`.
            - `"random"`: `RandomMask`, a random choice.
            - `"fisher"`: `FisherMask`, the channels that the loss depends on
              most.
            - `"concrete"`: `ConcreteMask`, the soft samples of Eq. (26).
            - `"hard_concrete"`: `HardConcreteMask`.
            - `"gaussian"`: `GaussianMask`, stochastic gates.

            `None` stands for `"fisher"` if the granularity is `"channel"`,
            which takes `"magnitude"` and `"random"` as well, and else for
            `"learned"`. Defaults to `None`.
        filters: Which of the weights to mask: a regex string or a list of
            them, searched in the names that `keras_gumbel.sparsity_report`
            shows, such as `"encoder/dense/kernel"`; a callable of the layer
            that has the weight; or `None` for all. If the granularity is
            `"channel"`, channels may be dropped if one of the weights that
            make them is chosen. Defaults to `None`.
        granularity: What has a score: `"weight"`, `"unit"`, `(rows, columns)`
            for blocks, `"N:M"`, `"fan_in"` for the same number of inputs in
            every unit, `"channel"`, or a
            `keras_gumbel.granularities.Granularity`. Or a dictionary of names
            or regexes to these, as for densities: the first regex found in
            the name of a weight counts. A weight that does not divide into it
            is left as it is. Budgets and densities count weights, however
            many share a score. `"channel"` is for Sequential and Functional
            models: all channels that can only be removed together have one
            score, and a budget counts the weights between the inputs and the
            units that are kept. Defaults to `"weight"`.
        minimum: Number in [0, 1), the share of the scores of each weight that
            is kept at least, rounded up. A budget for all weights together
            then leaves none of them empty. It holds in training, where the
            scores of a weight sum to as much, and for the final mask. The
            budget has to pay for it. `None` stands for 0.1 if the granularity
            is `"channel"`, and else for 0. Defaults to `None`.
        freeze_weights: Boolean. If true, all weights of the model are frozen,
            as by `model.trainable = False`, and the masks alone are trained:
            weights need no gradients and no optimizer state then. Weights
            that are frozen already get masks too. Defaults to `False`.
        keep_zeros: Boolean, whether weights that are exactly 0, such as those
            of a checkpoint that was pruned before, stay 0: their scores start
            at 0 instead of 1. A `minimum` cannot hold learned scores up at
            the same time. Defaults to `False`.
        pretrained: Boolean, whether the network has been trained before.
            Learned scores must not follow the gradients of a pretrained
            network as they follow those of a new one: see
            `keras_gumbel.optimizers.ScoreSGD`. `None` for a guess: a network
            is new if most of its biases, and of the scales and offsets of its
            normalization, are as they are initialized. Defaults to `None`.
        seed: Integer in [0, 2**32) or `None`. Every mask gets a stream of its
            own from it. Defaults to `None`.

    Returns:
        The same model.

    Raises:
        TypeError: If `model` is not a Keras model or layer, or, if the
            granularity is `"channel"`, not Sequential or Functional.
        ValueError: If the model is not built, no weight can be masked, or
            `minimum` is out of range or more than a granularity allows; if
            a key of a dictionary fits no weight, or none fits a weight.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> model = keras_gumbel.sparsify(model)
    >>> keras_gumbel.sparsity_report(model).weights
    32

    References:
        - [Zhou et al., 2021](https://arxiv.org/abs/2105.01571)
    """
    require_built("sparsify", model)
    coupled = is_coupled(granularity)
    if mask is None:
        mask = "fisher" if coupled else "learned"
    template = masks.get(mask)
    seed = require_seed("sparsify", seed)
    if minimum is None:
        minimum = _MINIMUM if coupled else 0.0
    require_minimum("sparsify", minimum)
    if minimum and keep_zeros and not (template.ranked or coupled):
        raise invalid_argument(
            "sparsify",
            "minimum",
            "0 for learned scores if `keep_zeros` is true: a floor may raise "
            "those that have to stay 0",
            minimum,
        )
    selected = _selection(filters)
    everything = weight_matrices(model)
    matrices = [
        matrix
        for matrix in everything
        if not is_maskable(matrix.weight) and selected(matrix)
    ]
    groups: list[ChannelGroup] = []
    grains: dict[str, Granularity] = {}
    if coupled:
        require_mask_for_channels(template)
        _require_no_zeros(keep_zeros)
        groups, reasons = free_groups(model, matrices, freeze_weights)
    else:
        reasons = {m.name: _fixed_reason(m, freeze_weights) for m in matrices}
        fixed = {name for name, why in reasons.items() if why is not None}
        grains = granularities_of(granularity, matrices, fixed)
        for m in matrices:
            if m.name not in fixed:
                reasons[m.name] = _misfit(m, template, grains[m.name])
    chosen = [m for m in matrices if reasons[m.name] is None]
    if not chosen:
        listed = ", ".join(f"{name} ({why})" for name, why in reasons.items())
        raise ValueError(
            f"`sparsify` found no weight to mask in {model.name!r}. Expected "
            "a trainable weight of rank 2 or more that has no mask yet and "
            f"passes the filters. Received: filters={filters!r}, "
            f"granularity={granularity!r}; left out: {listed or 'nothing'}."
        )
    if not coupled:
        for matrix in chosen:
            layout = grains[matrix.name].layout(
                tuple(matrix.weight.shape), matrix.axes
            )
            require_minimum("sparsify", minimum, layout.rows, layout.scores)
        _warn_of_unmasked(reasons)
    units = [m for m in chosen if isinstance(grains.get(m.name), Unit)]
    if units and not template.ranked:
        _warn_of_normalized(model, {id(m.known_by) for m in units})
    if pretrained is None:
        pretrained = is_pretrained(model, everything, chosen)
    if freeze_weights:
        _freeze_weights(model)
    if seed is None:
        seed = getattr(template, "seed", None)
    seeds = spawn_seeds(seed, len(groups) if coupled else len(chosen))
    own_masks = [copy_of(template, seed=own_seed) for own_seed in seeds]
    if coupled:
        put_channel_masks(groups, own_masks, everything, minimum)
    else:
        for matrix, own in zip(chosen, own_masks, strict=True):
            put_mask_on(matrix, own, grains[matrix.name], pretrained, minimum)
    if keep_zeros:
        for own in own_masks:
            _drop_zeros(own)
    refresh(model)
    for matrix in matrices:
        reason = reasons[matrix.name]
        if reason not in (None, FROZEN):
            model.attachment.reasons[id(matrix.weight)] = reason
    if freeze_weights:
        # Of this flag alone: the weights stay frozen, one by one.
        model.attachment.trainable = False
        model._trainable = True
    return model


def _fixed_reason(matrix: WeightMatrix, freeze_weights: bool) -> str | None:
    """Says why a weight gets no mask, whatever the granularity."""
    if matrix.reason is not None:
        return matrix.reason
    if not matrix.weight.trainable and not freeze_weights:
        return FROZEN
    return None


def _misfit(
    matrix: WeightMatrix, mask: Mask, granularity: Granularity
) -> str | None:
    """Says why a weight and a mask with a granularity do not fit."""
    try:
        layout = granularity.layout(tuple(matrix.weight.shape), matrix.axes)
    except ValueError as error:
        return str(error)
    axes = input_axes(matrix.layer, matrix.weight)
    return mask.problem(matrix.weight, layout, axes)


def _require_no_zeros(keep_zeros: bool) -> None:
    if keep_zeros:
        raise invalid_argument(
            "sparsify",
            "keep_zeros",
            "`False` if granularity='channel'",
            keep_zeros,
            "Remove channels that are zero before: call "
            "`keras_gumbel.shrink` on the model.",
        )


def _freeze_weights(model: keras.Layer) -> None:
    """Freezes all weights of a model, but none of the masks it has."""
    trained = [(mask, mask.wants_training) for mask in attached_masks(model)]
    model.trainable = False
    for mask, was_trained in trained:
        mask.trainable = was_trained


def _drop_zeros(mask: Mask) -> None:
    """Sets the scores of weights that are all zero to 0.

    They stay there: neither the score nor the weight has a gradient then.
    """
    (part,) = mask.parts
    magnitudes = Mask.saliency(mask, part.weight, part.layout)
    mask.mask_scores.assign(
        mask.mask_scores * ops.cast(magnitudes > 0, "float32")
    )


def _selection(filters: Filters) -> Callable[[WeightMatrix], bool]:
    if filters is None:
        return lambda matrix: True
    if callable(filters):
        return lambda matrix: bool(filters(matrix.layer))
    patterns = [filters] if isinstance(filters, str) else filters
    if not isinstance(patterns, Sequence) or not all(
        isinstance(pattern, str) for pattern in patterns
    ):
        raise invalid_argument(
            "sparsify",
            "filters",
            "a regex string, a list of them, a callable of a layer or `None`",
            filters,
            error=TypeError,
        )
    try:
        expressions = [re.compile(pattern) for pattern in patterns]
    except re.error as error:
        raise invalid_argument(
            "sparsify", "filters", f"a valid regex ({error})", filters
        ) from error
    return lambda matrix: any(e.search(matrix.name) for e in expressions)


def _warn_of_unmasked(reasons: dict[str, str | None]) -> None:
    """Lists the weights that were meant to be masked and are not."""
    unmasked = {
        name: reason
        for name, reason in reasons.items()
        if reason not in (None, FROZEN)
    }
    if unmasked:
        warnings.warn(
            "`sparsify` left these weights as they are: "
            + ", ".join(f"{name} ({why})" for name, why in unmasked.items()),
            SparsityWarning,
            stacklevel=3,
        )


def _warn_of_normalized(model: keras.Layer, masked: set[int]) -> None:
    """Lists the layers with units whose scale has no effect."""
    if not _keras_private.is_functional(model):
        return
    parts = graph_models(model).values()
    calls = [c for part in parts for c in _keras_private.graph_calls(part)]
    # Who takes a tensor; `None` stands for who takes an output of a model.
    takers = collections.defaultdict(list)
    for call in calls:
        for tensor in call.inputs:
            takers[id(tensor)].append(call.layer)
    for part in parts:
        for tensor in part.outputs:
            takers[id(tensor)].append(None)
    names = {}
    for call in calls:
        following = takers[id(call.outputs[0])]
        if (
            id(call.layer) in masked
            and getattr(call.layer, "activation", None)
            is keras.activations.linear
            and following
            and all(map(_normalizes, following))
        ):
            names[call.layer.name] = following[0].name
    if names:
        warnings.warn(
            "`sparsify` gave a score to each unit of layers that batch "
            "normalization follows: "
            + ", ".join(f"{name} ({by})" for name, by in names.items())
            + ". It undoes the scale of a unit, so that the loss hardly sees "
            "the score. Use `mask='magnitude'`, or put "
            "`keras_gumbel.masks.LearnedMask` layers after the normalization, "
            "and give each layer a density of its own: see "
            "`keras_gumbel.layer_densities`.",
            SparsityWarning,
            stacklevel=3,
        )


def _normalizes(layer: Any) -> bool:
    """Whether a layer undoes the scale of each of its channels."""
    kind = keras.layers.BatchNormalization
    return isinstance(layer, kind) and layer.trainable
