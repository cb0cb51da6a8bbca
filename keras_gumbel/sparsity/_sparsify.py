"""Puts masks on the weights of a dense model."""

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

# The default fraction of the channels of each group that is kept.
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

    The model is any built Keras model or layer: Sequential, Functional or
    subclassed, with your own layers at any depth. As with `Model.quantize`, it
    stays the same object. Its class, layers, methods and weights do not change,
    and its predictions do not change until it is trained. `keras_gumbel.strip`
    removes the masks. To keep the dense model, copy it first:
    `sparsify(copy.deepcopy(model))`.

    Compile the model with `keras_gumbel.optimizers.ProjectedOptimizer`
    afterwards. It keeps the scores of all masks together under one budget.
    Compile a model again that is already compiled.

    All trainable weights of rank 2 or more get a mask, except biases. One
    warning lists the weights that cannot be masked, such as those of quantized
    layers and of layers with LoRA, with the reason. Frozen weights
    (`trainable = False`) get no mask.

    Args:
        model: Keras model or layer, built.
        mask: The mask for each weight: a `keras_gumbel.masks.Mask`, which is
            copied for every weight, or a string:

            - `"learned"`: `keras_gumbel.masks.LearnedMask`, scores that are
              trained and multiplied into the weight. It is the most accurate
              mask in `docs/benchmarks/sparsity.md`.
            - `"magnitude"`: `MagnitudeMask`, the largest weights.
            - `"wanda"` and `"obs"`: `SaliencyMask`, the weights whose removal
              changes the outputs of their layers most. Call
              `keras_gumbel.calibrate` first.
            - `"random"`: `RandomMask`, a random choice.
            - `"fisher"`: `FisherMask`, the channels that the loss depends on
              most.
            - `"concrete"`: `ConcreteMask`, the soft samples of Eq. (26).
            - `"hard_concrete"`: `HardConcreteMask`.
            - `"gaussian"`: `GaussianMask`, stochastic gates.

            `None` means `"fisher"` if the granularity is `"channel"`, and
            `"learned"` otherwise. For channels, `"magnitude"` and `"random"`
            work too. Defaults to `None`.
        filters: Which weights to mask: a regex string or a list of them,
            searched in the names that `keras_gumbel.sparsity_report` shows,
            such as `"encoder/dense/kernel"`; a callable of the layer that
            owns the weight; or `None` for all weights. If the granularity is
            `"channel"`, channels may be dropped if at least one of the
            weights that compute them is chosen. Defaults to `None`.
        granularity: Which weights share a score: `"weight"` (none), `"unit"`,
            `(rows, columns)` for blocks, `"N:M"`, `"fan_in"` for the same
            number of inputs in every unit, `"channel"`, or a
            `keras_gumbel.granularities.Granularity`. Or a dictionary from
            names or regexes to these, as for densities: the first regex found
            in the name of a weight is used. A weight whose shape does not fit
            gets no mask. Budgets and densities count weights, even if many
            weights share a score. `"channel"` needs a Sequential or
            Functional model: all channels that can only be removed together
            share a score, and a budget counts the weights between kept inputs
            and kept units. Defaults to `"weight"`.
        minimum: Number in [0, 1), the smallest fraction of the scores of each
            weight that is kept, rounded up. It prevents a budget for the
            whole model from emptying a weight. The final mask keeps this many
            scores, and the scores of a weight sum to at least this number
            during training. The budget must be large enough for all minimums.
            `None` means 0.1 if the granularity is `"channel"`, and 0
            otherwise. Defaults to `None`.
        freeze_weights: Boolean. If true, all weights of the model are frozen,
            as by `model.trainable = False`, and only the masks are trained.
            Weights then need no gradients and no optimizer state. Weights
            that are already frozen get masks too. Defaults to `False`.
        keep_zeros: Boolean, whether weights that are exactly 0, such as those
            of a pruned checkpoint, stay 0. Their scores then start at 0
            instead of 1. It cannot be combined with a `minimum` for learned
            scores. Defaults to `False`.
        pretrained: Boolean, whether the network has been trained before.
            Learned scores follow the gradients of a pretrained network and of
            a new one differently: see `keras_gumbel.optimizers.ScoreSGD`. If
            `None`, `sparsify` guesses: a network is new if most of its
            biases, and most scales and offsets of its normalization, have
            their initial values. Defaults to `None`.
        seed: Integer in [0, 2**32) or `None`. Every mask gets its own random
            stream from it. Defaults to `None`.

    Returns:
        The same model.

    Raises:
        TypeError: If `model` is not a Keras model or layer, or, if the
            granularity is `"channel"`, not Sequential or Functional.
        ValueError: If the model is not built, no weight can be masked,
            `minimum` is out of range or more than a granularity allows, a
            key of a dictionary matches no weight, or no key matches a weight.

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
            "0 for learned scores if `keep_zeros` is true, because a minimum "
            "may raise scores that must stay 0",
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
            f"matches the filters. Received: filters={filters!r}, "
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
        # Only this flag: the weights stay frozen, one by one.
        model.attachment.trainable = False
        model._trainable = True
    return model


def _fixed_reason(matrix: WeightMatrix, freeze_weights: bool) -> str | None:
    """Returns why a weight gets no mask at any granularity, or `None`."""
    if matrix.reason is not None:
        return matrix.reason
    if not matrix.weight.trainable and not freeze_weights:
        return FROZEN
    return None


def _misfit(
    matrix: WeightMatrix, mask: Mask, granularity: Granularity
) -> str | None:
    """Returns why a weight does not fit a mask and granularity, or `None`."""
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
            "Call `keras_gumbel.shrink` on the model first to remove channels "
            "that are zero.",
        )


def _freeze_weights(model: keras.Layer) -> None:
    """Freezes all weights of a model, but not its masks."""
    trained = [(mask, mask.wants_training) for mask in attached_masks(model)]
    model.trainable = False
    for mask, was_trained in trained:
        mask.trainable = was_trained


def _drop_zeros(mask: Mask) -> None:
    """Sets the scores of weights that are all zero to 0.

    These scores stay 0: neither the score nor the weight has a gradient.
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
    """Warns of the weights that were selected but cannot be masked."""
    unmasked = {
        name: reason
        for name, reason in reasons.items()
        if reason not in (None, FROZEN)
    }
    if unmasked:
        warnings.warn(
            "`sparsify` put no mask on these weights: "
            + ", ".join(f"{name} ({why})" for name, why in unmasked.items())
            + ". They will not be pruned.",
            SparsityWarning,
            stacklevel=3,
        )


def _warn_of_normalized(model: keras.Layer, masked: set[int]) -> None:
    """Warns of layers with units whose scale has no effect."""
    if not _keras_private.is_functional(model):
        return
    parts = graph_models(model).values()
    calls = [c for part in parts for c in _keras_private.graph_calls(part)]
    # The layers that read a tensor; `None` if it is an output of a model.
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
            "`sparsify` gave scores to the units of layers that are followed "
            "by batch normalization: "
            + ", ".join(f"{name} ({by})" for name, by in names.items())
            + ". Batch normalization cancels the scale of a unit, so the loss "
            "hardly depends on these scores. Use `mask='magnitude'`, or put "
            "`keras_gumbel.masks.LearnedMask` layers after the normalization. "
            "In both cases, set a density for each layer: see "
            "`keras_gumbel.layer_densities`.",
            SparsityWarning,
            stacklevel=3,
        )


def _normalizes(layer: Any) -> bool:
    """Whether a layer cancels the scale of each of its channels."""
    kind = keras.layers.BatchNormalization
    return isinstance(layer, kind) and layer.trainable
