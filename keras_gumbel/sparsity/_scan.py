"""Finds and names the weight matrices of a model."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import keras

from keras_gumbel import _keras_private
from keras_gumbel._validation import invalid_argument
from keras_gumbel._weight_axes import NotMasked
from keras_gumbel._weight_axes import WeightAxes
from keras_gumbel._weight_axes import known_weights
from keras_gumbel.masks import Mask

_BIAS = re.compile(r"(^|_)bias(_|$)")

FROZEN = "frozen"


@dataclasses.dataclass(eq=False)
class WeightMatrix:
    """A weight of rank 2 or more.

    Attributes:
        name: String, the names of its layers followed by its own name.
        layer: The layer that owns it.
        weight: The variable.
        axes: `WeightAxes`, or `None` if they are unknown.
        known_by: The layer whose rule names the weight: its owner or an outer
            layer; or `None`.
        reason: String, why it cannot be masked, or `None`.
    """

    name: str
    layer: keras.Layer
    weight: keras.Variable
    axes: WeightAxes | None = None
    known_by: keras.Layer | None = None
    reason: str | None = None


def require_built(owner: str, model: Any) -> None:
    """Raises unless `model` is a Keras model or layer that is built."""
    if not isinstance(model, keras.Layer):
        raise invalid_argument(
            owner, "model", "a Keras model or layer", model, error=TypeError
        )
    if not model.built:
        raise ValueError(
            f"`{owner}` needs the weights of {model.name!r}, which is not "
            "built. Call it on data or call `model.build(input_shape)` first."
        )


def named_layers(model: keras.Layer) -> Iterator[tuple[str, keras.Layer]]:
    """Yields a model and all layers in it, once each, from the outside in.

    A name consists of the names of the outer layers and the layer's own name,
    joined by slashes. Names are unique: a second layer with the same name gets
    a number.
    """
    names: set[str] = set()
    seen: set[int] = set()
    waiting = [("", model)]
    while waiting:
        prefix, layer = waiting.pop()
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        yield prefix, layer
        inside = []
        for part in _keras_private.sublayers(layer):
            if id(part) not in seen and not hasattr(part, "parts"):
                name = _unused(f"{prefix}{part.name}", names)
                inside.append((f"{name}/", part))
        waiting += reversed(inside)


def weight_matrices(model: keras.Layer) -> list[WeightMatrix]:
    """Lists all weights of rank 2 or more except biases, once each.

    They are in the order of the layers, which is the same in a copy.
    """
    layers = [
        (prefix, layer)
        for prefix, layer in named_layers(model)
        if not isinstance(layer, Mask)
    ]
    rules: dict[int, tuple[WeightAxes | NotMasked | None, Any]] = {}
    for _, layer in layers:
        for weight, axes in known_weights(layer):
            rules.setdefault(id(weight), (axes, layer))
    found: dict[int, WeightMatrix] = {}
    names: set[str] = set()
    for prefix, layer in layers:
        for weight in _own_weights(layer):
            if len(weight.shape) < 2 or _BIAS.search(weight.name):
                continue
            axes, around = rules.get(id(weight), (None, None))
            if around is not None and axes is None:
                continue
            before = found.get(id(weight))
            if before is not None and (before.axes or axes is None):
                continue
            name = _unused(f"{prefix}{weight.name}", names)
            reason = axes.reason if isinstance(axes, NotMasked) else None
            found[id(weight)] = WeightMatrix(
                name=name,
                layer=layer,
                weight=weight,
                axes=axes if isinstance(axes, WeightAxes) else None,
                known_by=around,
                reason=reason or _problem(layer, weight),
            )
    return list(found.values())


def _problem(layer: keras.Layer, weight: keras.Variable) -> str | None:
    """Returns why a weight cannot have a mask, or `None`."""
    if isinstance(layer, keras.layers.TorchModuleWrapper):
        return "read by a torch module, not by Keras"
    if getattr(layer, "lora_enabled", False):
        return "LoRA is enabled"
    if layer.quantization_mode is not None:
        return f"quantized to {layer.quantization_mode}"
    # Not `weight.dtype`, which differs while a layer is called.
    if "float" not in keras.backend.standardize_dtype(weight.dtype):
        return f"of dtype {weight.dtype}"
    return None


def _own_weights(layer: keras.Layer) -> list[keras.Variable]:
    """Lists the weights of a layer that no sublayer has."""
    inside = {
        id(w) for part in _keras_private.sublayers(layer) for w in part.weights
    }
    return [w for w in layer.weights if id(w) not in inside]


def _unused(name: str, names: set[str]) -> str:
    """Returns an unused name, and adds it to the used names."""
    unique, number = name, 1
    while unique in names:
        unique = f"{name}_{number}"
        number += 1
    names.add(unique)
    return unique
