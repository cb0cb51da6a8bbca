"""Nested models, and copies with replaced layers."""

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras

from keras_gumbel import _keras_private
from keras_gumbel._validation import invalid_argument

# Builds the layer that replaces another layer in the copy.
Replace = Callable[[keras.Layer], keras.Layer]

# Fills the layer in the copy from the one it replaces.
Fill = Callable[[keras.Layer, keras.Layer], None]


# Returns the changed arguments of an operation, by position or name.
Arguments = Callable[[keras.Operation], dict[int | str, Any]]


def rewrite(
    model: keras.Model, replace: Replace, fill: Fill, arguments: Arguments
) -> keras.Model:
    """Returns an uncompiled copy of a model with other layers in it.

    Args:
        model: Sequential or Functional model, which may contain others.
        replace: Called with each layer or operation that is not such a model.
            Returns the layer of the copy, with its own weights.
        fill: Called with each layer and its replacement after the copy is
            built. Copies the weights.
        arguments: Called with each operation. Returns the arguments that differ
            in the copy.

    Returns:
        A model of the same class, with the same input names.
    """
    copies: dict[int, keras.Operation] = {}
    originals: dict[int, keras.Operation] = {}
    pairs = []

    def clone(layer: keras.Operation) -> keras.Operation:
        if id(layer) not in copies:
            copies[id(layer)] = new(layer)
            originals[id(copies[id(layer)])] = layer
        return copies[id(layer)]

    def new(layer: keras.Operation) -> keras.Operation:
        if not isinstance(layer, keras.Layer):  # `a + b`, an operation
            return replace(layer)
        # `clone_model(recursive=True)` reaches every depth from Keras 3.14 on.
        if _keras_private.is_functional(layer):
            return keras.models.clone_model(
                layer, clone_function=clone, call_function=call_of(layer)
            )
        replacement = replace(layer)
        pairs.append((layer, replacement))
        return replacement

    def call_of(part: keras.Model) -> Callable[..., Any] | None:
        return None if isinstance(part, keras.Sequential) else call

    def call(copy: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        if isinstance(copy, keras.Layer):
            return copy(*args, **kwargs)
        others = arguments(originals[id(copy)])
        args = tuple(others.pop(i, x) for i, x in enumerate(args))
        kwargs.update((str(place), x) for place, x in others.items())
        return copy(*args, **kwargs)

    inputs = None
    if not isinstance(model, keras.Sequential):
        inputs = keras.tree.map_structure(_like, model.input)
    with _uncompiled(model):
        copy = keras.models.clone_model(
            model,
            input_tensors=inputs,
            clone_function=clone,
            call_function=call_of(model),
        )
    for layer, replacement in pairs:
        if layer.built and replacement.built:
            fill(layer, replacement)
    return copy


def graph_models(model: keras.Model) -> dict[str, keras.Model]:
    """Returns a built model and its nested models by prefix, once each."""
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
    """Returns a layer with the same config and its own weights.

    The graph of a model also contains operations of `keras.ops`. An operation
    without a config has no weights, and both models share it.
    """
    if not isinstance(layer, keras.Layer):
        try:
            return type(layer).from_config(layer.get_config())
        except NotImplementedError:
            return layer
    # There may be unregistered classes inside.
    kinds = {type(x) for x in _keras_private.flatten_layers(layer)}
    own = {
        k.__name__: k for k in kinds if not k.__module__.startswith("keras.")
    }
    with keras.saving.custom_object_scope(own):
        return type(layer).from_config(layer.get_config())


def copy_weights(layer: keras.Layer, copy: keras.Layer) -> None:
    """Copies all weights of a layer to its copy."""
    copy.set_weights(layer.get_weights())


def require_graph(owner: str, model: Any) -> None:
    """Raises unless `model` is a Sequential or Functional model."""
    if not isinstance(model, keras.Layer) or not _keras_private.is_functional(
        model
    ):
        raise invalid_argument(
            owner,
            "model",
            "a Sequential or Functional model, whose graph can be followed",
            model,
            error=TypeError,
        )


def _like(tensor: keras.KerasTensor) -> keras.KerasTensor:
    """Returns an input of the same name, because `fit` uses input names."""
    return keras.Input(
        batch_shape=tensor.shape,
        dtype=tensor.dtype,
        sparse=tensor.sparse,
        name=_keras_private.input_name(tensor),
    )


@contextlib.contextmanager
def _uncompiled(model: keras.Model) -> Iterator[None]:
    """Hides that models are compiled, or `clone_model` compiles clones."""
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
