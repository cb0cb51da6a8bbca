"""Returns the inputs of kernels, with one rule for each kind of layer."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_gumbel._typing import Tensor


@dataclasses.dataclass(frozen=True)
class _InputRule:
    """How to see a kernel as a matrix that multiplies rows of inputs.

    Attributes:
        axes: Callable of the layer. It returns the axes of the kernel that
            are summed over, in increasing order, or `None` if the layer is
            not a product with one matrix.
        rows: Callable of the layer and its inputs. It returns a tensor of
            shape `(rows, d)`, with the d inputs in the order of these axes.
    """

    axes: Callable[[Any], tuple[int, ...] | None]
    rows: Callable[[Any, Tensor], Tensor]


def input_axes(
    layer: keras.Layer, weight: keras.Variable
) -> tuple[int, ...] | None:
    """Returns the axes of a weight that its inputs are on.

    Args:
        layer: Keras layer, built.
        weight: A variable of the layer.

    Returns:
        A tuple of integers, or `None` if they are not known.
    """
    if observed_kernel(layer) is not weight:
        return None
    return _rule_of(layer).axes(layer)


def observed_kernel(layer: keras.Layer) -> keras.Variable | None:
    """Returns the weight whose inputs are known, or `None`."""
    rule = _RULES.get(_kind_of(layer))
    if rule is None or not layer.built or rule.axes(layer) is None:
        return None
    return layer._kernel


def input_rows(layer: keras.Layer, inputs: Tensor) -> Tensor:
    """Returns the inputs of the kernel of a layer in a call.

    Args:
        layer: Keras layer that has an `observed_kernel`.
        inputs: Tensor, the inputs of the layer.

    Returns:
        A float32 tensor of shape `(rows, d)`.
    """
    return _rule_of(layer).rows(layer, ops.cast(inputs, "float32"))


def _kind_of(layer: keras.Layer) -> type | None:
    return next((k for k in type(layer).__mro__ if k in _RULES), None)


def _rule_of(layer: keras.Layer) -> _InputRule:
    return _RULES[_kind_of(layer)]


def _dense_rows(layer: keras.layers.Dense, inputs: Tensor) -> Tensor:
    return ops.reshape(inputs, (-1, inputs.shape[-1]))


def _labels(layer: keras.layers.EinsumDense) -> tuple[str, str, str]:
    """Returns the letters of the inputs, the kernel and the outputs."""
    operands, outputs = layer.equation.replace(" ", "").split("->")
    inputs, kernel = operands.split(",")
    return inputs, kernel, outputs


def _einsum_axes(layer: keras.layers.EinsumDense) -> tuple[int, ...] | None:
    inputs, kernel, outputs = _labels(layer)
    if any((x in inputs) == (x in outputs) for x in kernel):
        return None
    return tuple(i for i, x in enumerate(kernel) if x in inputs) or None


def _einsum_rows(layer: keras.layers.EinsumDense, inputs: Tensor) -> Tensor:
    labels, kernel, outputs = _labels(layer)
    summed = [x for x in kernel if x in labels]
    rest = [x for x in labels.replace("...", "") if x not in summed]
    any_others = "..." if "..." in labels else ""
    kept = any_others + "".join(x for x in rest if x in outputs)
    rows = ops.einsum(f"{labels}->{kept}{''.join(summed)}", inputs)
    d = math.prod(layer.kernel.shape[kernel.index(x)] for x in summed)
    return ops.reshape(rows, (-1, d))


def _convolution_axes(layer: Any) -> tuple[int, ...] | None:
    return tuple(range(layer.rank + 1)) if layer.groups == 1 else None


def _convolution_rows(layer: Any, inputs: Tensor) -> Tensor:
    """Returns the patches, by a convolution that takes each input apart."""
    first = layer.data_format == "channels_first"
    padding = layer.padding
    if padding == "causal":
        before = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
        pads = [[0, 0], [0, 0], [0, 0]]
        pads[2 if first else 1] = [before, 0]
        inputs, padding = ops.pad(inputs, pads), "valid"
    d = math.prod(layer.kernel.shape[:-1])
    patches = ops.conv(
        inputs,
        ops.reshape(ops.eye(d), (*layer.kernel.shape[:-1], d)),
        strides=list(layer.strides),
        padding=padding,
        data_format=layer.data_format,
        dilation_rate=layer.dilation_rate,
    )
    if first:
        patches = ops.moveaxis(patches, 1, -1)
    return ops.reshape(patches, (-1, d))


_CONVOLUTION = _InputRule(_convolution_axes, _convolution_rows)

_RULES: dict[type | None, _InputRule] = {
    keras.layers.Dense: _InputRule(lambda layer: (0,), _dense_rows),
    keras.layers.EinsumDense: _InputRule(_einsum_axes, _einsum_rows),
    keras.layers.Conv1D: _CONVOLUTION,
    keras.layers.Conv2D: _CONVOLUTION,
    keras.layers.Conv3D: _CONVOLUTION,
}
