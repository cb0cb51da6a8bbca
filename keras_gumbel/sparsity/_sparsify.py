"""From a dense model to one with learned masks."""

import collections
import re
import warnings
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import TypeAlias

import keras

from keras_gumbel import _keras_private
from keras_gumbel._seeds import require_seed
from keras_gumbel._seeds import spawn_seeds
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import require_choice
from keras_gumbel.layers._granularity import Granularity
from keras_gumbel.layers._granularity import require_granularity
from keras_gumbel.layers.concrete_mask import ConcreteMask
from keras_gumbel.layers.saliency_mask import SaliencyMask
from keras_gumbel.layers.sparsified import Sparsified
from keras_gumbel.models import MonteCarloModel
from keras_gumbel.sparsity._rewrite import copy_layer
from keras_gumbel.sparsity._rewrite import copy_weights
from keras_gumbel.sparsity._rewrite import graph_layers
from keras_gumbel.sparsity._rewrite import graph_models
from keras_gumbel.sparsity._rewrite import require_rewritable
from keras_gumbel.sparsity._rewrite import rewrite

Filters: TypeAlias = str | Sequence[str] | Callable[[keras.Layer], bool] | None

_METHODS: dict[str, Callable[[], ConcreteMask | SaliencyMask]] = {
    "learned": lambda: ConcreteMask(relaxation="mean"),
    "magnitude": lambda: SaliencyMask(),
    "random": lambda: SaliencyMask("random"),
    "hard_concrete": lambda: ConcreteMask(relaxation="hard_concrete"),
    "stochastic_gates": lambda: ConcreteMask(relaxation="gaussian"),
}


def sparsify(
    model: keras.Model,
    method: str | ConcreteMask | SaliencyMask = "learned",
    filters: Filters = None,
    granularity: str | Sequence[int] = "weight",
    seed: int | None = None,
) -> keras.Model:
    """Returns a copy of a model in which every kernel has a learned mask.

    Each layer with a kernel that is known (see
    `keras_gumbel.layers.Sparsified`) is wrapped, at every depth; the wrapper
    takes the name of the layer. The weights are copied; the model that was
    passed does not change. Compile the copy with
    `keras_gumbel.optimizers.ProjectedOptimizer`, which holds all scores
    together under one budget.

    Layers with weight matrices that are not known are left as they are, and
    one warning lists them. Another lists the layers whose units get scores
    that batch normalization makes ineffective.

    Args:
        model: Sequential or Functional model, which may contain others.
        method: String, or the mask layer it stands for, of which every kernel
            gets one:

            - `"learned"`: `ConcreteMask(relaxation="mean")`, scores that are
              trained and multiplied into the kernel, which
              `docs/benchmarks/sparsity.md` shows to be best.
            - `"magnitude"`: `SaliencyMask()`, the largest weights.
            - `"random"`: `SaliencyMask("random")`, a random choice.
            - `"hard_concrete"`: `ConcreteMask(relaxation="hard_concrete")`.
            - `"stochastic_gates"`: `ConcreteMask(relaxation="gaussian")`.

            The note's soft samples (Eq. 26) are those of
            `ConcreteMask(temperature=...)`. Defaults to `"learned"`.
        filters: Which of the layers to mask, as in `Model.quantize`: a regex
            string or a list of them, searched in the layer's name, a callable
            of the layer, or `None` for all. Defaults to `None`.
        granularity: `"weight"`, `"unit"`, `(rows, columns)` or `"N:M"`, what
            has a score: see `keras_gumbel.layers.Sparsified`. A layer that
            does not divide into it is left as it is. Budgets and densities
            count weights, however many share a score. Defaults to
            `"weight"`.
        seed: Integer in [0, 2**32) or `None`. Every mask gets a stream of its
            own from it. Defaults to `None`.

    Returns:
        A model of the same kind, not compiled.

    Raises:
        TypeError: If `model` is not a Sequential or Functional model.
        ValueError: If no layer can be masked.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> sparse = keras_gumbel.sparsify(model)
    >>> [type(layer).__name__ for layer in sparse.layers]
    ['Sparsified']
    """
    if isinstance(model, MonteCarloModel):
        sparse = sparsify(model.model, method, filters, granularity, seed)
        return MonteCarloModel(sparse, model.num_samples, name=model.name)
    require_rewritable("sparsify", model)
    selected = _selection(filters)
    grain = require_granularity("sparsify", granularity)
    candidates = [
        layer
        for layer in graph_layers(model)
        if not isinstance(layer, Sparsified)
        and _keras_private.kernel_slots(layer)
        and selected(layer)
    ]
    problems = {layer.name: _problem(layer, grain) for layer in candidates}
    layers = [x for x in candidates if problems[x.name] is None]
    if not layers:
        raise ValueError(
            f"`sparsify` found no layer to mask in the model {model.name!r}. "
            "Expected a layer with a kernel that is known (see "
            "`keras_gumbel.layers.Sparsified`) that is not masked yet and "
            f"passes the filters. Received: filters={filters!r}, "
            f"granularity={granularity!r}."
        )
    pattern = _pattern(method)
    seed = require_seed("sparsify", seed)
    seeds = dict(
        zip(map(id, layers), spawn_seeds(seed, len(layers)), strict=True)
    )

    def replace(layer: keras.Layer) -> keras.Layer:
        if id(layer) not in seeds:
            return copy_layer(layer)
        return Sparsified(
            copy_layer(layer),
            pattern,
            granularity,
            seed=seeds[id(layer)],
            name=layer.name,
        )

    def fill(layer: keras.Layer, replacement: keras.Layer) -> None:
        wrapped = id(layer) in seeds
        copy_weights(layer, replacement.layer if wrapped else replacement)

    sparse = rewrite(model, replace, fill)
    _warn_of_unmasked(sparse, problems)
    learned = isinstance(pattern, ConcreteMask)
    if granularity == "unit" and learned and model.built:
        _warn_of_normalized(model, layers)
    return sparse


def _warn_of_normalized(model: keras.Model, layers: list[keras.Layer]) -> None:
    """Lists the layers with units whose scale has no effect."""
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
    masked = set(map(id, layers))
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
            "the score. Use `method='magnitude'`, or put `ConcreteMask` "
            "layers after the normalization, and give each layer a density "
            "of its own: see `keras_gumbel.layer_densities`.",
            stacklevel=3,
        )


def _normalizes(layer: Any) -> bool:
    """Whether a layer undoes the scale of each of its channels."""
    kind = keras.layers.BatchNormalization
    return isinstance(layer, kind) and layer.trainable


def _problem(layer: keras.Layer, granularity: Granularity) -> str | None:
    """Says why a layer cannot be masked so, if it is built and cannot."""
    if not layer.built:
        return None
    problems = (
        granularity.problem(tuple(kernel.shape), slot.units, slot.inputs)
        for kernel, slot in zip(
            _keras_private.kernels(layer),
            _keras_private.kernel_slots(layer),
            strict=True,
        )
    )
    return next(filter(None, problems), None)


def unmasked_layers(model: keras.Model) -> dict[str, str]:
    """Lists the layers whose weight matrices have no mask, and why."""
    reasons = {}
    for layer in graph_layers(model):
        if isinstance(layer, ConcreteMask):
            continue
        masked = isinstance(layer, Sparsified)
        whole = layer.layer if masked else layer
        if not masked and _keras_private.kernel_slots(layer):
            reasons[layer.name] = "left out"
            continue
        for part in _keras_private.unknown_parts(whole):
            kind = f"no known kernel in {type(part).__name__}"
            name = f"{layer.name}/{part.name}" if masked else layer.name
            reasons[name] = kind
    return reasons


def _pattern(method: Any) -> ConcreteMask | SaliencyMask:
    """Returns a mask like those that the kernels get."""
    if isinstance(method, (ConcreteMask, SaliencyMask)):
        return method
    require_choice("sparsify", "method", method, tuple(_METHODS))
    return _METHODS[method]()


def _selection(filters: Filters) -> Callable[[keras.Layer], bool]:
    if filters is None:
        return lambda layer: True
    if callable(filters):
        return filters
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
    return lambda layer: any(re.search(p, layer.name) for p in patterns)


def _warn_of_unmasked(
    model: keras.Model, problems: dict[str, str | None]
) -> None:
    """Lists the layers that were meant to be masked and are not."""
    unmasked = {
        name: problems.get(name) or reason
        for name, reason in unmasked_layers(model).items()
        if problems.get(name) or reason != "left out"
    }
    if unmasked:
        warnings.warn(
            "`sparsify` left these layers as they are: "
            + ", ".join(f"{name} ({why})" for name, why in unmasked.items()),
            stacklevel=3,
        )
