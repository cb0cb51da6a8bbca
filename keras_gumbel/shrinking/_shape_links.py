"""Layers that move channels, or combine the channels of tensors."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_gumbel import _keras_private
from keras_gumbel.shrinking._channel_links import VALUE_RULES
from keras_gumbel.shrinking._channel_links import Link as Link
from keras_gumbel.shrinking._channel_links import one_to_one
from keras_gumbel.shrinking._channel_links import only
from keras_gumbel.shrinking._channels import UNKNOWN
from keras_gumbel.shrinking._channels import BarrierError
from keras_gumbel.shrinking._channels import Call
from keras_gumbel.shrinking._channels import Channels
from keras_gumbel.shrinking._channels import channel_axis
from keras_gumbel.shrinking._channels import finite
from keras_gumbel.shrinking._elementwise_links import ELEMENTWISE_RULES
from keras_gumbel.shrinking._grouped_links import GROUP_RULES
from keras_gumbel.shrinking._move_links import MOVE_RULES

_PADDING = (
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
)

_SPATIAL = (
    *_PADDING,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Cropping3D,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.UpSampling1D,
    layers.UpSampling2D,
    layers.UpSampling3D,
)

# The result for constants that are stacked along the first axis.
_MERGES: dict[type, Callable[[np.ndarray], np.ndarray]] = {
    layers.Add: lambda x: x.sum(axis=0),
    layers.Average: lambda x: x.mean(axis=0),
    layers.Maximum: lambda x: x.max(axis=0),
    layers.Minimum: lambda x: x.min(axis=0),
    layers.Multiply: lambda x: x.prod(axis=0),
    layers.Subtract: lambda x: x[0] - x[1],
}


def link(call: Call) -> Link:
    """Returns the link of a layer.

    Raises:
        BarrierError: If it is not known to pass channels on.
    """
    if _keras_private.is_functional(call.layer):
        raise BarrierError("is a nested model")
    rule = _RULES.get(kind_of(call.layer))
    if rule is None:
        raise BarrierError(UNKNOWN)
    return rule(call)


def kind_of(layer: Any) -> type | str:
    """Returns the class of a layer, or the class name of an operation."""
    kind = type(layer)
    if isinstance(layer, keras.Layer) or not kind.__module__.startswith(
        "keras."
    ):
        return kind
    return kind.__name__


def _spatial(call: Call) -> Link:
    channels = only(call)
    if channel_axis(call.layer, len(call.shapes[0])) != channels.axis:
        raise BarrierError("treats channels as positions")
    constants = channels.constants
    if isinstance(call.layer, _PADDING):
        constants = np.where(constants == 0, constants, np.nan)
    kept_rank = len(call.output_shape) == len(call.shapes[0])
    return one_to_one(call, constants, channels.axis if kept_rank else 1)


def _permute(call: Call) -> Link:
    channels = only(call)
    axis = call.layer.dims.index(channels.axis) + 1
    return one_to_one(call, channels.constants, axis)


def _repeat_vector(call: Call) -> Link:
    return one_to_one(call, only(call).constants, 2)


def _reshape(call: Call) -> Link:
    """All rows of the output must consist of the same channels."""
    channels = only(call)
    shape, target = call.shapes[0][1:], call.output_shape[1:]
    lengths = [length for length in shape if length is not None]
    width = target[-1]
    if len(lengths) < len(shape) or width is None:
        raise BarrierError("has a shape that is not known")
    aligned = [1] * len(shape)
    aligned[channels.axis - 1] = channels.size
    index = np.arange(channels.size).reshape(aligned)
    index = np.broadcast_to(index, lengths)
    if getattr(call.layer, "data_format", None) == "channels_first":
        index = np.moveaxis(index, 0, -1)
    rows = index.reshape(-1, width)
    if (rows != rows[0]).any():
        raise BarrierError("mixes channels and positions")

    def config(kept: np.ndarray) -> dict[str, Any]:
        if isinstance(call.layer, layers.Flatten):
            return {}
        return {"target_shape": (*target[:-1], int(kept.sum()))}

    output = Channels(len(target), channels.constants[rows[0]])
    return Link(call.layer, output, (rows[0],), config=config)


def _merge(call: Call) -> Link:
    known = [c for c in call.inputs if c is not None]
    if not known:
        raise BarrierError("has inputs that keep their shapes")
    axis, size = known[0].axis, known[0].size
    rank = len(call.output_shape)
    if any(c.axis != axis for c in known) or any(
        len(shape) != rank or shape[axis] != size for shape in call.shapes
    ):
        raise BarrierError("broadcasts channels")
    unknown = np.full(size, np.nan)
    constants = [unknown if c is None else c.constants for c in call.inputs]
    stacked = np.stack(constants)
    merged = _MERGES[type(call.layer)](stacked)
    if isinstance(call.layer, layers.Multiply):
        merged = np.where((stacked == 0).any(axis=0), 0.0, merged)
    sources = (np.arange(size),) * len(call.inputs)
    return Link(call.layer, Channels(axis, finite(merged)), sources)


def _concatenate(call: Call) -> Link:
    _require_tensors(call)
    axis = call.layer.axis % len(call.output_shape)
    if any(c is not None and c.axis != axis for c in call.inputs):
        return _side_by_side(call, {c.axis for c in call.inputs if c})
    if all(c is None for c in call.inputs):
        raise BarrierError("has inputs that keep their shapes")
    sizes = [shape[axis] for shape in call.shapes]
    constants = [
        np.full(size, np.nan) if c is None else c.constants
        for c, size in zip(call.inputs, sizes, strict=True)
    ]
    owner = np.repeat(np.arange(len(sizes)), sizes)
    place = np.concatenate([np.arange(size) for size in sizes])
    sources = tuple(np.where(owner == i, place, -1) for i in range(len(sizes)))
    output = Channels(axis, np.concatenate(constants))
    return Link(call.layer, output, sources)


def _require_tensors(call: Call) -> None:
    if len(keras.tree.flatten(list(call.arguments.values()))) > len(
        call.inputs
    ):
        raise BarrierError("joins channels and an array")


def _stack(call: Call) -> Link:
    _require_tensors(call)
    axis = call.layer.axis % len(call.output_shape)
    return _side_by_side(
        call, {c.axis + (axis <= c.axis) for c in call.inputs if c}
    )


def _side_by_side(call: Call, axes: set[int]) -> Link:
    """Returns the link of a concatenation of positions."""
    if not axes:
        raise BarrierError("has inputs that keep their shapes")
    sizes = {c.size for c in call.inputs if c is not None}
    if len(axes) > 1 or len(sizes) > 1:
        raise BarrierError("concatenates channels and positions")
    (axis,), (size,) = axes, sizes
    unknown = np.full(size, np.nan)
    constants = np.stack(
        [unknown if c is None else c.constants for c in call.inputs]
    )
    same = (constants == constants[0]).all(axis=0)
    output = Channels(axis, np.where(same, constants[0], np.nan))
    return Link(call.layer, output, (np.arange(size),) * len(call.inputs))


_RULES: dict[type | str, Callable[[Call], Link]] = {
    **VALUE_RULES,  # type: ignore[dict-item]
    **GROUP_RULES,  # type: ignore[dict-item]
    **ELEMENTWISE_RULES,  # type: ignore[dict-item]
    **MOVE_RULES,  # type: ignore[dict-item]
    "Concatenate": _concatenate,
    "Stack": _stack,
    layers.Concatenate: _concatenate,
    layers.Flatten: _reshape,
    layers.Permute: _permute,
    layers.RepeatVector: _repeat_vector,
    layers.Reshape: _reshape,
    **dict.fromkeys(_SPATIAL, _spatial),
    **dict.fromkeys(_MERGES, _merge),
}

LINKING_LAYERS = frozenset(_RULES)
