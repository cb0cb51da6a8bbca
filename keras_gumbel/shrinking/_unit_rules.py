"""The layers with units."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
from keras import layers

from keras_gumbel.shrinking._channels import BIAS
from keras_gumbel.shrinking._channels import BarrierError
from keras_gumbel.shrinking._channels import Call
from keras_gumbel.shrinking._channels import Channels
from keras_gumbel.shrinking._channels import Layout
from keras_gumbel.shrinking._channels import channel_axis
from keras_gumbel.shrinking._channels import values_of
from keras_gumbel.shrinking._unit_sums import UnitSum


def unit_sum(call: Call) -> UnitSum:
    """Returns the rule of a layer with units.

    Raises:
        BarrierError: If its units and inputs must stay.
    """
    return _RULES[type(call.layer)](call)


def _dense(call: Call) -> UnitSum:
    axis = len(call.output_shape) - 1
    return _from_kernel(call, "units", Layout(0, 1), True, axis)


def _einsum_dense(call: Call) -> UnitSum:
    """Returns the rule of a layer that multiplies the last axis by a matrix."""
    layer = call.layer
    equation, units = layer.equation, layer.equation[-1]
    inputs, _ = equation.split(",")
    matrix = f"{inputs},{inputs[-1]}{units}->{inputs[:-1]}{units}"
    if equation != matrix or units in inputs:
        raise BarrierError('does not have the equation "...a,ab->...b"')
    if layer.bias_axes not in (None, units):
        raise BarrierError("has a bias that is not per unit")
    axis = len(call.output_shape) - 1
    return dataclasses.replace(
        _from_kernel(call, "output_shape", Layout(0, 1), True, axis),
        leading=layer.partial_output_shape[:-1],
        new_bias={"bias_axes": units},
    )


def _conv(call: Call) -> UnitSum:
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
    has_bias = call.layer.bias is not None
    weights = values_of(call.layer, 1 + has_bias)
    kernel = weights[0].astype("float64")
    if layout.inputs == -1:  # transposed
        kernel = kernel.swapaxes(-1, -2)
    spatial = tuple(range(kernel.ndim - 2))
    return UnitSum(
        layer=call.layer,
        argument=argument,
        weights=weights,
        layouts=[layout, BIAS],
        reads=(kernel != 0).any(axis=spatial),
        totals=kernel.sum(axis=spatial),
        bias=_bias(weights[1:], kernel.shape[-1]),
        uniform=uniform,
        merge_axis=layout.inputs,
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
        layouts=[Layout(-2), Layout(-2, -1, repeats=sums.shape[1]), BIAS],
        reads=(passes & (pointwise != 0)).any(axis=1),
        totals=(sums * pointwise).sum(axis=1),
        bias=_bias(weights[2:], pointwise.shape[-1]),
        uniform=_is_unpadded(call.layer),
        merge_axis=None,
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
        layouts=[Layout(None, 1), BIAS],
        reads=np.zeros((0, table.shape[1]), bool),
        totals=np.zeros((0, table.shape[1])),
        bias=np.where(same, table[0], np.nan),
        uniform=True,
        merge_axis=None,
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
    layers.EinsumDense: _einsum_dense,
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
