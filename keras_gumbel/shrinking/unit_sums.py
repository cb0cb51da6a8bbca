"""Layers whose units are weighted sums of the channels they read."""

import dataclasses
import functools
from collections.abc import Callable

import keras
import numpy as np
from keras import layers

from keras_gumbel.shrinking.channels import BarrierError
from keras_gumbel.shrinking.channels import Call
from keras_gumbel.shrinking.channels import Channels
from keras_gumbel.shrinking.channels import Edit
from keras_gumbel.shrinking.channels import Layout
from keras_gumbel.shrinking.channels import activated
from keras_gumbel.shrinking.channels import channel_axis
from keras_gumbel.shrinking.channels import describe
from keras_gumbel.shrinking.channels import is_elementwise
from keras_gumbel.shrinking.channels import name_of
from keras_gumbel.shrinking.channels import values_of


@dataclasses.dataclass(frozen=True)
class UnitSum:
    """A layer with units.

    Attributes:
        layer: The layer.
        argument: String, the argument that is the number of units.
        weights: List of arrays.
        layouts: List of `Layout`, one for each weight but the bias.
        reads: Boolean array of shape `(inputs, units)`, whether a unit reads
            an input channel.
        totals: Float array of that shape, what a unit adds up of an input
            channel that is 1 everywhere.
        bias: Float array of shape `(units,)`, what a unit adds to that; NaN
            if it varies.
        uniform: Boolean, whether that sum is the same everywhere. At the
            edges of inputs padded with zeros it is not.
        axis: Integer, the axis of the units in the output.
        channels: `Channels` of the input, or `None` if it keeps its shape.
    """

    layer: keras.Layer
    argument: str
    weights: list[np.ndarray]
    layouts: list[Layout]
    reads: np.ndarray
    totals: np.ndarray
    bias: np.ndarray
    uniform: bool
    axis: int
    channels: Channels | None

    @property
    def inputs(self) -> int:
        """The number of input channels."""
        return len(self.reads)

    @functools.cached_property
    def constants(self) -> np.ndarray:
        """The values of units that are constant, NaN for others.

        Those of an activation that mixes units are from before it.
        """
        known = self._foldable()
        values = np.where(known, self._inputs(), 0.0) @ self.totals + self.bias
        values = np.where(self.reads[~known].any(axis=0), np.nan, values)
        return activated(self.layer, values) if self._is_alone() else values

    @property
    def output(self) -> Channels:
        """The `Channels` of the output."""
        constants = self.constants
        if self._is_alone():
            return Channels(self.axis, constants)
        name = name_of(self.layer.activation)
        why = f"{describe(self.layer)} applies {name}, which may mix units"
        return Channels(self.axis, np.full_like(constants, np.nan), why)

    def has_edits(self) -> bool:
        """Whether the layer changes with its channels."""
        return True

    def demand(self, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns which input channels the kept units need.

        The first array is of those that vary. The second is of constants that
        cannot be folded into the bias.
        """
        read = self.reads[:, kept].any(axis=1)
        varying = read & np.isnan(self._inputs())
        return varying, read & ~varying & ~self._foldable()

    def edit(self, kept_inputs: np.ndarray, kept: np.ndarray) -> Edit:
        """Returns the layer without the other channels, folded in."""
        layouts = [*self.layouts, Layout(None, 0)]  # that of the bias
        weights = [
            layout.select(weight, kept_inputs, kept)
            for layout, weight in zip(layouts, self.weights, strict=False)
        ]
        config = {self.argument: int(kept.sum())}
        folded = np.where(~kept_inputs & self._foldable(), self._inputs(), 0.0)
        shift = (folded @ self.totals)[kept]
        if shift.any():
            if len(weights) == len(self.layouts):
                config["use_bias"] = True
                weights.append(np.zeros_like(shift))
            weights[-1] = weights[-1] + shift
        return Edit(self.layer, config, weights)

    def _inputs(self) -> np.ndarray:
        if self.channels is None:
            return np.full(len(self.reads), np.nan)
        return self.channels.constants

    def _foldable(self) -> np.ndarray:
        inputs = self._inputs()
        return ~np.isnan(inputs) if self.uniform else inputs == 0

    def _is_alone(self) -> bool:
        return is_elementwise(getattr(self.layer, "activation", None))


def unit_sum(call: Call) -> UnitSum:
    """Returns what a layer with units does.

    Raises:
        BarrierError: If its units and inputs must stay.
    """
    return _RULES[type(call.layer)](call)


def _dense(call: Call) -> UnitSum:
    axis = len(call.output_shape) - 1
    return _from_kernel(call, "units", Layout(0, 1), True, axis)


def _conv(call: Call) -> UnitSum:
    if call.layer.groups != 1:
        raise BarrierError("has groups")
    return _from_kernel(
        call,
        "filters",
        Layout(-2, -1),
        _is_unpadded(call.layer),
        channel_axis(call.layer, len(call.output_shape)),
    )


def _conv_transpose(call: Call) -> UnitSum:
    axis = channel_axis(call.layer, len(call.output_shape))
    return _from_kernel(call, "filters", Layout(-1, -2), False, axis)


def _from_kernel(
    call: Call, argument: str, layout: Layout, uniform: bool, axis: int
) -> UnitSum:
    weights = values_of(call.layer, 1 + call.layer.use_bias)
    kernel = weights[0].astype("float64")
    if layout.inputs == -1:  # transposed
        kernel = kernel.swapaxes(-1, -2)
    spatial = tuple(range(kernel.ndim - 2))
    return UnitSum(
        layer=call.layer,
        argument=argument,
        weights=weights,
        layouts=[layout],
        reads=(kernel != 0).any(axis=spatial),
        totals=kernel.sum(axis=spatial),
        bias=_bias(weights[1:], kernel.shape[-1]),
        uniform=uniform,
        axis=axis,
        channels=_input(call, axis),
    )


def _separable_conv(call: Call) -> UnitSum:
    weights = values_of(call.layer, 2 + call.layer.use_bias)
    depthwise = weights[0].astype("float64")
    spatial = tuple(range(depthwise.ndim - 2))
    sums = depthwise.sum(axis=spatial)[:, :, None]
    passes = (depthwise != 0).any(axis=spatial)[:, :, None]
    pointwise = weights[1].reshape(*sums.shape[:2], -1)
    axis = channel_axis(call.layer, len(call.output_shape))
    return UnitSum(
        layer=call.layer,
        argument="filters",
        weights=weights,
        layouts=[Layout(-2), Layout(-2, -1, repeats=sums.shape[1])],
        reads=(passes & (pointwise != 0)).any(axis=1),
        totals=(sums * pointwise).sum(axis=1),
        bias=_bias(weights[2:], pointwise.shape[-1]),
        uniform=_is_unpadded(call.layer),
        axis=axis,
        channels=_input(call, axis),
    )


def _embedding(call: Call) -> UnitSum:
    weights = values_of(call.layer, 1)
    table = weights[0].astype("float64")
    same = (table == table[0]).all(axis=0)
    return UnitSum(
        layer=call.layer,
        argument="output_dim",
        weights=weights,
        layouts=[Layout(None, 1)],
        reads=np.zeros((0, table.shape[1]), bool),
        totals=np.zeros((0, table.shape[1])),
        bias=np.where(same, table[0], np.nan),
        uniform=True,
        axis=len(call.output_shape) - 1,
        channels=None,
    )


def _bias(biases: list[np.ndarray], units: int) -> np.ndarray:
    return biases[0].astype("float64") if biases else np.zeros(units)


def _input(call: Call, axis: int) -> Channels | None:
    channels = call.inputs[0]
    if channels is not None and channels.axis != axis:
        raise BarrierError("reads another axis")
    return channels


def _is_unpadded(layer: keras.Layer) -> bool:
    return layer.padding == "valid" or set(layer.kernel_size) == {1}


_RULES: dict[type, Callable[[Call], UnitSum]] = {
    layers.Dense: _dense,
    layers.Embedding: _embedding,
    **dict.fromkeys((layers.Conv1D, layers.Conv2D, layers.Conv3D), _conv),
    **dict.fromkeys(
        (
            layers.Conv1DTranspose,
            layers.Conv2DTranspose,
            layers.Conv3DTranspose,
        ),
        _conv_transpose,
    ),
    **dict.fromkeys(
        (layers.SeparableConv1D, layers.SeparableConv2D), _separable_conv
    ),
}

UNIT_LAYERS = frozenset(_RULES)
