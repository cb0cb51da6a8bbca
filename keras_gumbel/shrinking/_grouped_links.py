"""Layers that keep groups of channels apart."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import layers
from keras import ops

from keras_gumbel.shrinking._channel_links import Link
from keras_gumbel.shrinking._channel_links import depthwise_link
from keras_gumbel.shrinking._channel_links import one_to_one
from keras_gumbel.shrinking._channel_links import only
from keras_gumbel.shrinking._channel_links import require_convolved
from keras_gumbel.shrinking._channels import BarrierError
from keras_gumbel.shrinking._channels import Call
from keras_gumbel.shrinking._channels import Channels
from keras_gumbel.shrinking._channels import Layout
from keras_gumbel.shrinking._channels import activated
from keras_gumbel.shrinking._channels import values_of


def grouped_conv(call: Call) -> Link:
    """Returns the link of a grouped convolution.

    All inputs and outputs of a group stay or go together. If a group has a
    single input, each of its outputs belongs to this input.
    """
    require_convolved(call)
    layer, channels = call.layer, only(call)
    kernel, *biases = values_of(layer, 1 + layer.use_bias)
    width = kernel.shape[-2]
    layouts = (Layout(outputs=-1), *[Layout(outputs=0)] * len(biases))

    def config(kept: np.ndarray) -> dict[str, Any]:
        groups = layer.groups * int(kept.sum()) // kept.size
        return {"filters": int(kept.sum()), "groups": groups}

    if width == 1:
        spread = (*kernel.shape[:-2], channels.size, -1)
        link = depthwise_link(call, kernel.reshape(spread), biases)
    else:
        zero = (kernel == 0).all(axis=tuple(range(kernel.ndim - 1)))
        bias = biases[0] if biases else np.zeros(zero.size)
        values = activated(layer, np.where(zero, bias, np.nan))
        output = Channels(channels.axis, values)
        sources = _within(channels.size, zero.size, layer.groups)
        link = Link(layer, output, sources)
    return dataclasses.replace(
        link, layouts=layouts, config=config, listed=True
    )


def group_normalization(call: Call) -> Link:
    """Returns the link of a normalization of groups of channels."""
    layer, channels = call.layer, only(call)
    if layer.axis % len(call.output_shape) != channels.axis:
        raise BarrierError("normalizes another axis")
    zero = np.zeros(channels.size, bool)
    if layer.scale:
        zero = ops.convert_to_numpy(layer.gamma) == 0
    beta = ops.convert_to_numpy(layer.beta) if layer.center else 0.0

    def config(kept: np.ndarray) -> dict[str, Any]:
        return {"groups": layer.groups * int(kept.sum()) // kept.size}

    return Link(
        layer,
        Channels(channels.axis, np.where(zero, beta, np.nan)),
        _within(channels.size, channels.size, layer.groups)[:2],
        (Layout(outputs=0),) * len(layer.weights),
        config,
    )


def normalization(call: Call) -> Link:
    """Returns the link of a normalization of positions.

    Raises:
        BarrierError: If channels are normalized, because each of them then
            depends on all.
    """
    channels = only(call)
    axes = np.ravel(call.layer.axis) % len(call.output_shape)
    if channels.axis in axes:
        raise BarrierError("normalizes over all channels")
    unknown = np.full(channels.size, np.nan)
    return one_to_one(call, unknown, channels.axis)


def _within(inputs: int, outputs: int, groups: int) -> tuple[np.ndarray, ...]:
    """Returns, in order, every input of the group of each output."""
    width, place = inputs // groups, np.arange(outputs)
    first = place // (outputs // groups) * width
    return tuple(first + (place + i) % width for i in range(width))


GROUP_RULES: dict[type, Callable[[Call], Link]] = {
    layers.GroupNormalization: group_normalization,
    layers.LayerNormalization: normalization,
    layers.RMSNormalization: normalization,
    layers.UnitNormalization: normalization,
}
