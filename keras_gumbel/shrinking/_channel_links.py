"""Layers that pass every channel on and change only its values."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers
from keras import ops

from keras_gumbel.shrinking._channels import BarrierError
from keras_gumbel.shrinking._channels import Call
from keras_gumbel.shrinking._channels import Channels
from keras_gumbel.shrinking._channels import Edit
from keras_gumbel.shrinking._channels import Layout
from keras_gumbel.shrinking._channels import activated
from keras_gumbel.shrinking._channels import channel_axis
from keras_gumbel.shrinking._channels import finite
from keras_gumbel.shrinking._channels import is_elementwise
from keras_gumbel.shrinking._channels import name_of
from keras_gumbel.shrinking._channels import values_of


@dataclasses.dataclass(frozen=True)
class Link:
    """A layer that passes channels on.

    Attributes:
        layer: The layer.
        output: `Channels`.
        sources: Tuple of integer arrays, one for each input: the source channel
            of each output channel, or -1.
        layouts: Tuple of `Layout`, one for each weight.
        config: Function from kept outputs to the arguments that change.
        arguments: Function from kept inputs and kept outputs to the changed
            arguments of an operation.
        listed: Boolean, whether reports have a row for the layer.
    """

    layer: keras.Layer
    output: Channels
    sources: tuple[np.ndarray, ...]
    layouts: tuple[Layout, ...] = ()
    config: Callable[[np.ndarray], dict[str, Any]] = lambda kept: {}
    arguments: Callable[[np.ndarray, np.ndarray], dict[int | str, Any]] = (
        lambda kept_inputs, kept: {}
    )
    listed: bool = False

    @property
    def constants(self) -> np.ndarray:
        """The values of constant output channels, NaN for others."""
        return self.output.constants

    @property
    def name(self) -> str:
        """The name of the layer."""
        return str(self.layer.name)

    @property
    def variables(self) -> list[keras.Variable]:
        """The weights of the layer."""
        return list(getattr(self.layer, "weights", ()))

    @property
    def input_axis(self) -> None:
        """Always `None`: nothing is summed over an axis of the input."""
        return None

    @property
    def inputs(self) -> int:
        """The number of channels of the first input."""
        return int(self.sources[0].max()) + 1

    def has_edits(self) -> bool:
        """Whether the layer changes with its channels."""
        every = np.ones(self.output.size, bool)
        return bool(
            self.layouts or self.config(every) or self.arguments(every, every)
        )

    def edit(self, kept_inputs: np.ndarray, kept: np.ndarray) -> Edit | None:
        """Returns the layer without the other channels."""
        config, arguments = self.config(kept), self.arguments(kept_inputs, kept)
        if not (self.layouts or config or arguments):
            return None
        weights = values_of(self.layer, len(self.layouts))
        selected = [
            layout.select(weight, kept_inputs, kept)
            for layout, weight in zip(self.layouts, weights, strict=True)
        ]
        return Edit(self.layer, config, selected, arguments)


def only(call: Call) -> Channels:
    """Returns the channels of the only input of a call."""
    channels, *others = call.inputs
    if others or channels is None:
        raise BarrierError("has an input that keeps its shape")
    return channels


def one_to_one(
    call: Call, constants: np.ndarray, axis: int, **kwargs: Any
) -> Link:
    """Returns a link that passes every channel on."""
    if call.in_training:
        constants = np.full_like(constants, np.nan)
    output = Channels(axis, finite(constants))
    return Link(call.layer, output, (np.arange(output.size),), **kwargs)


def _unchanged(call: Call) -> Link:
    channels = only(call)
    noise_shape = getattr(call.layer, "noise_shape", None)
    if noise_shape and noise_shape[channels.axis] not in (None, 1):
        raise BarrierError("has noise of a fixed shape")
    return one_to_one(call, channels.constants, channels.axis)


def _elementwise(call: Call) -> Link:
    channels = only(call)
    _require_elementwise(getattr(call.layer, "activation", None))
    return one_to_one(call, _probe(call, channels), channels.axis)


def _require_elementwise(activation: Any) -> None:
    if not is_elementwise(activation):
        name = name_of(activation)
        raise BarrierError(f"applies {name}, which may mix channels")


def _batch_normalization(call: Call) -> Link:
    layer, channels = call.layer, only(call)
    if layer.axis % len(call.output_shape) != channels.axis:
        raise BarrierError("normalizes another axis")
    scale = ops.convert_to_numpy(layer.gamma) if layer.scale else np.ones(1)
    return one_to_one(
        call,
        _probe(call, channels, ignored=scale == 0),
        channels.axis,
        layouts=(Layout(outputs=0),) * len(layer.weights),
    )


def _prelu(call: Call) -> Link:
    channels = only(call)
    shared = channels.axis in (call.layer.shared_axes or ())
    layout = Layout() if shared else Layout(outputs=channels.axis - 1)
    constants = _probe(call, channels)
    return one_to_one(call, constants, channels.axis, layouts=(layout,))


def _rescaling(call: Call) -> Link:
    layer, channels = call.layer, only(call)
    scales = {"scale": layer.scale, "offset": layer.offset}
    arrays = {n: np.asarray(x, "float32") for n, x in scales.items()}
    arrays = {n: x for n, x in arrays.items() if x.ndim}
    if arrays and (
        channels.axis != len(call.output_shape) - 1
        or keras.config.image_data_format() == "channels_first"
    ):
        raise BarrierError("scales channels that are not on the last axis")

    def config(kept: np.ndarray) -> dict[str, Any]:
        return {
            name: np.compress(kept, x, -1).tolist()
            for name, x in arrays.items()
            if x.shape[-1] == kept.size > 1
        }

    scale = np.asarray(layer.scale, "float32")
    rows = scale.reshape(-1, scale.shape[-1] if scale.ndim else 1)
    constants = _probe(call, channels, ignored=(rows == 0).all(axis=0))
    return one_to_one(call, constants, channels.axis, config=config)


def _probe(
    call: Call, channels: Channels, ignored: np.ndarray | None = None
) -> np.ndarray:
    """Calls the layer on the constants; NaN if they become variable.

    `ignored` marks the channels that the layer multiplies by zero.
    """
    known = channels.constants
    if ignored is not None:
        known = np.where(ignored, 0.0, known)
    unknown = np.isnan(known)
    if unknown.all():
        return known
    shape = [1, *(length or 1 for length in call.shapes[0][1:])]
    aligned = [1] * len(shape)
    aligned[channels.axis] = channels.size
    inputs = np.where(unknown, 0.0, known).reshape(aligned)
    tensor = ops.convert_to_tensor(
        np.broadcast_to(inputs, shape), call.layer.compute_dtype
    )
    outputs = ops.convert_to_numpy(ops.cast(call.layer(tensor), "float32"))
    columns = np.moveaxis(outputs, channels.axis, -1)
    columns = columns.reshape(-1, channels.size)
    same = (columns == columns[0]).all(axis=0)
    return np.where(same & ~unknown, columns[0], np.nan)


def _depthwise_conv(call: Call) -> Link:
    require_convolved(call)
    kernel, *biases = values_of(call.layer, 1 + call.layer.use_bias)
    layouts = (Layout(-2), *[Layout(outputs=0)] * len(biases))
    return depthwise_link(call, kernel, biases, layouts=layouts)


def depthwise_link(
    call: Call, kernel: np.ndarray, biases: list[np.ndarray], **kwargs: Any
) -> Link:
    """Returns the link of a convolution with one input for each output.

    Args:
        call: The call of the layer.
        kernel: Array whose last axes are the inputs, and the outputs of each
            input.
        biases: List of the bias, if there is one.
        **kwargs: Attributes of the link.
    """
    layer, channels = call.layer, only(call)
    sources = np.repeat(np.arange(channels.size), kernel.shape[-1])
    spatial = tuple(range(kernel.ndim - 2))
    read = (kernel != 0).any(axis=spatial).ravel()
    inputs = channels.constants[sources]
    unpadded = layer.padding == "valid" or set(layer.kernel_size) == {1}
    known = ~np.isnan(inputs) if unpadded else inputs == 0
    values = np.where(known, inputs, 0.0)
    values = values * kernel.sum(axis=spatial, dtype="float64").ravel()
    values = np.where(read & ~known, np.nan, values + sum(biases))
    output = Channels(channels.axis, activated(layer, values))
    return Link(layer, output, (sources,), **kwargs)


def require_convolved(call: Call) -> None:
    """Raises unless the channels of the input are those of a convolution."""
    if channel_axis(call.layer, len(call.output_shape)) != only(call).axis:
        raise BarrierError("reads another axis")
    _require_elementwise(call.layer.activation)


VALUE_RULES: dict[type, Callable[[Call], Link]] = {
    layers.BatchNormalization: _batch_normalization,
    layers.PReLU: _prelu,
    layers.Rescaling: _rescaling,
    **dict.fromkeys(
        (layers.Activation, layers.ELU, layers.LeakyReLU, layers.ReLU),
        _elementwise,
    ),
    **dict.fromkeys(
        (
            layers.ActivityRegularization,
            layers.AlphaDropout,
            layers.Dropout,
            layers.GaussianDropout,
            layers.GaussianNoise,
            layers.Identity,
            layers.SpatialDropout1D,
            layers.SpatialDropout2D,
            layers.SpatialDropout3D,
        ),
        _unchanged,
    ),
    **dict.fromkeys(
        (layers.DepthwiseConv1D, layers.DepthwiseConv2D), _depthwise_conv
    ),
}
