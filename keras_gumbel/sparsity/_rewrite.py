"""Copies of a model in which some layers are replaced."""

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras

from keras_gumbel import _keras_private
from keras_gumbel._validation import invalid_argument
from keras_gumbel.layers.sparsified import Sparsified
from keras_gumbel.models import MonteCarloModel

# Builds the layer that takes another one's place in the copy.
Replace = Callable[[keras.Layer], keras.Layer]

# Fills the layer in the copy from the one it replaces.
Fill = Callable[[keras.Layer, keras.Layer], None]

_RECIPE = """In a subclassed model wrap the layers where they are made:

    self.hidden = keras_gumbel.layers.Sparsified(keras.layers.Dense(10))
    optimizer = keras_gumbel.optimizers.ProjectedOptimizer("adam", density=0.1)
"""


def rewrite(model: keras.Model, replace: Replace, fill: Fill) -> keras.Model:
    """Returns an uncompiled copy of a model with other layers in it.

    Args:
        model: Sequential or Functional model, which may contain others.
        replace: Called with each layer that is not such a model; returns the
            layer of the copy, with weights of its own.
        fill: Called with each layer and its replacement once the copy is
            built; carries the weights over.

    Returns:
        A model of the same class, with the same names of inputs.
    """
    copies: dict[int, keras.Operation] = {}
    pairs = []

    def clone(layer: keras.Operation) -> keras.Operation:
        if id(layer) not in copies:
            copies[id(layer)] = new(layer)
        return copies[id(layer)]

    def new(layer: keras.Operation) -> keras.Operation:
        if not isinstance(layer, keras.Layer):  # `a + b`, an operation
            return copy_layer(layer)
        # `clone_model(recursive=True)` reaches every depth from Keras 3.14 on.
        if _keras_private.is_functional(layer):
            return keras.models.clone_model(layer, clone_function=clone)
        replacement = replace(layer)
        pairs.append((layer, replacement))
        return replacement

    inputs = None
    if not isinstance(model, keras.Sequential):
        inputs = keras.tree.map_structure(_like, model.input)
    with _uncompiled(model):
        copy = keras.models.clone_model(
            model, input_tensors=inputs, clone_function=clone
        )
    for layer, replacement in pairs:
        if layer.built and replacement.built:
            fill(layer, replacement)
    return copy


def graph_layers(model: keras.Model) -> list[keras.Layer]:
    """Lists the layers of a model and of the models in it, once each."""
    found = {}
    for layer in model.layers:
        if _keras_private.is_functional(layer):
            found.update({id(x): x for x in graph_layers(layer)})
        else:
            found[id(layer)] = layer
    return list(found.values())


def graph_models(model: keras.Model) -> dict[str, keras.Model]:
    """Returns a built model and those in it, once each, by prefix of names."""
    found = {"": model}
    waiting = [("", model)]
    while waiting:
        prefix, part = waiting.pop()
        for layer, *_ in _keras_private.graph_calls(part):
            known = any(layer is x for x in found.values())
            if _keras_private.is_functional(layer) and not known:
                name = f"{prefix}{layer.name}/"
                found[name] = layer
                waiting.append((name, layer))
    return found


def copy_layer(layer: keras.Operation) -> keras.Operation:
    """Returns a layer of the same config, with weights of its own.

    The graph of a model has operations of `keras.ops` in it as well.
    """
    if isinstance(layer, Sparsified):
        return copy_sparsified(layer)
    if not isinstance(layer, keras.Layer):
        return type(layer).from_config(layer.get_config())
    # Classes that are not registered may be inside.
    kinds = {type(x) for x in _keras_private.flatten_layers(layer)}
    own = {
        k.__name__: k for k in kinds if not k.__module__.startswith("keras.")
    }
    with keras.saving.custom_object_scope(own):
        return type(layer).from_config(layer.get_config())


def copy_sparsified(layer: Sparsified, **changes: Any) -> Sparsified:
    """Returns a copy of a wrapper, with some arguments changed."""
    # Not by `from_config`, which knows the wrapped layer by its registered
    # name only.
    own = {"mask": layer.mask, "layer": copy_layer(layer.layer)}
    return Sparsified(**{**layer.get_config(), **own, **changes})


def copy_weights(layer: keras.Layer, copy: keras.Layer) -> None:
    """Carries all weights of a layer over to a copy of it."""
    copy.set_weights(layer.get_weights())


def require_rewritable(owner: str, model: keras.Model) -> keras.Model:
    """Returns a Sequential or Functional model, or raises.

    It is the model, or the one that a `MonteCarloModel` holds.
    """
    if not isinstance(model, keras.Model):
        raise invalid_argument(
            owner,
            "model",
            "a Keras model",
            model,
            "Wrap a single layer in `keras_gumbel.layers.Sparsified`.",
            error=TypeError,
        )
    if isinstance(model, MonteCarloModel):
        return require_rewritable(owner, model.model)
    if not _keras_private.is_functional(model):
        raise invalid_argument(
            owner,
            "model",
            "a Sequential or Functional model",
            model,
            _RECIPE,
            error=TypeError,
        )
    return model


def require_reachable(
    owner: str, model: keras.Model, masked: Sequence[keras.Layer]
) -> None:
    """Raises if a masked layer is inside a layer that is not rewritten."""
    reachable = {id(layer) for layer in graph_layers(model)}
    hidden = [x.name for x in masked if id(x) not in reachable]
    if hidden:
        raise ValueError(
            f"`{owner}` cannot replace masked layers inside of other layers. "
            "Expected `Sparsified` around the outer layer, as in "
            "`Sparsified(TimeDistributed(Dense(10)))`. Received: "
            f"the model {model.name!r} with {', '.join(hidden)} inside."
        )


def _like(tensor: keras.KerasTensor) -> keras.KerasTensor:
    """Returns an input of the same name: `fit` knows inputs by name."""
    return keras.Input(
        batch_shape=tensor.shape,
        dtype=tensor.dtype,
        sparse=tensor.sparse,
        name=_keras_private.input_name(tensor),
    )


@contextlib.contextmanager
def _uncompiled(model: keras.Model) -> Iterator[None]:
    """Hides that models are compiled: `clone_model` compiles Sequentials."""
    compiled = [
        part
        for part in [model, *_keras_private.flatten_layers(model)]
        if isinstance(part, keras.Model) and part.compiled
    ]
    for part in compiled:
        part.compiled = False
    try:
        yield
    finally:
        for part in compiled:
            part.compiled = True
