"""Copies of a model in which some layers are replaced."""

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras

from keras_gumbel import _keras_private
from keras_gumbel._validation import invalid_argument
from keras_gumbel.layers.sparsified import Sparsified

# Builds the layer that takes another one's place in the copy.
Replace = Callable[[keras.Layer], keras.Layer]

# Fills the layer in the copy from the one it replaces.
Fill = Callable[[keras.Layer, keras.Layer], None]


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
    pairs = []

    def clone(layer: keras.Layer) -> keras.Layer:
        replacement = replace(layer)
        if isinstance(layer, keras.Layer):  # not `a + b`, an operation
            pairs.append((layer, replacement))
        return replacement

    inputs = None
    if not isinstance(model, keras.Sequential):
        inputs = keras.tree.map_structure(_like, model.input)
    with _uncompiled(model):
        copy = keras.models.clone_model(
            model,
            input_tensors=inputs,
            clone_function=clone,
            recursive=True,
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


def copy_layer(layer: keras.Layer) -> keras.Layer:
    """Returns a layer of the same config, with weights of its own."""
    if isinstance(layer, Sparsified):
        return copy_sparsified(layer)
    return type(layer).from_config(layer.get_config())


def copy_sparsified(layer: Sparsified, **changes: Any) -> Sparsified:
    """Returns a copy of a wrapper, with some arguments changed."""
    # Not by `from_config`, which knows the wrapped layer by its registered
    # name only.
    config = layer.get_config()
    config["mask"] = keras.saving.deserialize_keras_object(config["mask"])
    config["layer"] = copy_layer(layer.layer)
    return Sparsified(**{**config, **changes})


def copy_weights(layer: keras.Layer, copy: keras.Layer) -> None:
    """Carries all weights of a layer over to a copy of it."""
    copy.set_weights(layer.get_weights())


def require_rewritable(owner: str, model: keras.Model) -> None:
    """Raises unless the model is Sequential or Functional."""
    if not isinstance(model, keras.Model):
        raise invalid_argument(
            owner,
            "model",
            "a Keras model",
            model,
            "Wrap a single layer in `keras_gumbel.layers.Sparsified`.",
            error=TypeError,
        )
    if not _keras_private.is_functional(model):
        raise invalid_argument(
            owner,
            "model",
            "a Sequential or Functional model",
            model,
            "In a subclassed model wrap the layers where they are made: "
            "`self.hidden = keras_gumbel.layers.Sparsified("
            "keras.layers.Dense(10))`.",
            error=TypeError,
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
