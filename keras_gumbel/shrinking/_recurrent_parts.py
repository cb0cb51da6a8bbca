"""Layers whose units also read each other in the next time step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers
from keras import ops

from keras_gumbel.shrinking._channel_links import Link
from keras_gumbel.shrinking._channels import UNKNOWN
from keras_gumbel.shrinking._channels import BarrierError
from keras_gumbel.shrinking._channels import Call
from keras_gumbel.shrinking._channels import Channels
from keras_gumbel.shrinking._channels import Edit
from keras_gumbel.shrinking._channels import Layout
from keras_gumbel.shrinking._channels import MaybeChannels
from keras_gumbel.shrinking._channels import describe
from keras_gumbel.shrinking._channels import is_elementwise
from keras_gumbel.shrinking._channels import values_of
from keras_gumbel.shrinking._parts import Kept
from keras_gumbel.shrinking._parts import PartialSum
from keras_gumbel.shrinking._parts import Parts
from keras_gumbel.shrinking._parts import Step
from keras_gumbel.shrinking._parts import changed_inside

# The number of values that a unit computes in each step, and the values that
# make its state.
_GATES: dict[type, tuple[int, int]] = {
    layers.GRUCell: (3, 2),
    layers.LSTMCell: (4, 2),
    layers.SimpleRNNCell: (1, 0),
}

RECURRENT_LAYERS = (layers.GRU, layers.LSTM, layers.RNN, layers.SimpleRNN)

# The combination of the outputs of both directions.
_MERGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ave": lambda x: x.mean(axis=0),
    "concat": np.ravel,
    "mul": lambda x: np.where((x == 0).any(axis=0), 0.0, np.nan),
    "sum": lambda x: x.sum(axis=0),
}


def recurrent(call: Call) -> Parts:
    """Returns the parts of a recurrent layer.

    The second step reads the output of the layer itself.
    """
    layer, (tensor, *others) = call.layer, call.tensors
    if type(layer.cell) not in _GATES:
        raise BarrierError(UNKNOWN)
    if others:
        raise BarrierError("has an initial state")
    if layer.stateful:
        raise BarrierError("keeps its state between batches")
    (channels, *_), output = call.inputs, call.outputs[0]
    axis = len(output.shape) - 1
    sums = _sums(layer, channels, axis)
    steps = [Step(sums[0], [tensor], output), Step(sums[1], [output], output)]
    return Parts(layer, steps, lambda kept: _edit(sums, kept))


def bidirectional(call: Call) -> Parts:
    """Returns the parts of two layers that read the inputs from both ends."""
    layer, (tensor, *others) = call.layer, call.tensors
    both = [layer.forward_layer, layer.backward_layer]
    if any(
        type(x) not in RECURRENT_LAYERS or type(x.cell) not in _GATES
        for x in both
    ):
        raise BarrierError(UNKNOWN)
    if both[0].cell.units != both[1].cell.units:
        raise BarrierError("has two directions of different sizes")
    if others or layer.stateful or layer.return_state:
        raise BarrierError("is given, returns or remembers its state")
    if layer.merge_mode is None:
        raise BarrierError("returns both directions apart")
    axis = len(call.output_shape) - 1
    sums = [
        _sums(x, call.inputs[0], axis, f"{layer.name}/{x.name}") for x in both
    ]
    made = [object(), object()]
    values = np.stack([first.values for first, _ in sums])
    output = Channels(axis, _MERGES[layer.merge_mode](values))
    units = np.arange(both[0].cell.units)
    sources = joined = (units, units)
    if layer.merge_mode == "concat":
        nothing = np.full(units.size, -1)
        sources = (np.append(units, nothing), np.append(nothing, units))
    steps = [
        Step(rule, [source], own)
        for rules, own in zip(sums, made, strict=True)
        for rule, source in zip(rules, (tensor, own), strict=True)
    ]
    steps.append(Step(Link(layer, output, sources), made, call.outputs[0]))
    # Keras needs the same number of units in both directions.
    unknown = Channels(axis, np.full(units.size, np.nan))
    steps.append(Step(Link(layer, unknown, joined), made, object()))

    def edit(kept: list[Kept]) -> Edit:
        edits = [_edit(sums[0], kept[:2]), _edit(sums[1], kept[2:4])]
        config: dict[str, Any] = {}
        for name, part in zip(("layer", "backward_layer"), edits, strict=True):
            config |= changed_inside(layer, name, part.config)
        return Edit(layer, config, [*edits[0].weights, *edits[1].weights])

    return Parts(layer, steps, edit)


def _sums(
    layer: keras.Layer, channels: MaybeChannels, axis: int, title: str = ""
) -> tuple[PartialSum, PartialSum]:
    """Returns the rules of units for the inputs and for each other."""
    if channels is not None and channels.axis != 2:
        raise BarrierError("reads another axis")
    cell = layer.cell
    kernel, recurrent, *biases = values_of(layer, 2 + cell.use_bias)
    gates, _ = _GATES[type(cell)]
    zero = _always_zero(layer, channels)
    values = np.where(zero, 0.0, np.nan)
    own = Layout(outputs=1, tiles=gates)
    bias = Layout(outputs=biases[0].ndim - 1 if biases else 0, tiles=gates)
    if getattr(cell, "reset_after", False):
        bias = dataclasses.replace(bias, outputs=1)
    totals = _by_unit(kernel, gates).astype("float64")
    first = PartialSum(
        layer=layer,
        argument="units",
        weights=[kernel, *biases],
        layouts=[dataclasses.replace(own, inputs=0), bias],
        reads=(totals != 0).any(axis=2),
        totals=totals,
        bias=np.zeros(cell.units),
        uniform=True,
        merge_axis=None,
        axis=axis,
        channels=channels,
        title=title,
        values=values,
        parts=[layer.weights[0], *layer.weights[2:]],
        pinned=_pinned(layer),
        lay=lambda shift: _laid(cell, shift),
    )
    reads = (_by_unit(recurrent, gates) != 0).any(axis=2)
    second = dataclasses.replace(
        first,
        weights=[recurrent],
        layouts=[dataclasses.replace(own, inputs=0)],
        reads=reads,
        totals=np.zeros((*reads.shape, 1)),  # constant units are zero
        channels=Channels(axis, values),
        listed=False,
        parts=[layer.weights[1]],
        inside=True,
    )
    return first, second


def _edit(sums: tuple[PartialSum, PartialSum], kept: list[Kept]) -> Edit:
    """Returns the layer without the other units and inputs."""
    kernel, *biases = sums[0].selected(*kept[0])
    (recurrent,) = sums[1].selected(*kept[1])
    config: dict[str, Any] = {"units": int(kept[0][1].sum())}
    if biases:
        config["use_bias"] = True
    layer: Any = sums[0].layer
    if type(layer) is layers.RNN:
        config = changed_inside(layer, "cell", config)
    return Edit(layer, config, [kernel, recurrent, *biases])


def _by_unit(kernel: np.ndarray, gates: int) -> np.ndarray:
    """Returns a kernel of shape `(inputs, units, gates)`."""
    return kernel.reshape(len(kernel), gates, -1).swapaxes(1, 2)


def _laid(cell: keras.Layer, shift: np.ndarray) -> np.ndarray:
    """Returns sums of shape `(units, gates)` as a bias."""
    bias = shift.T.ravel()
    if getattr(cell, "reset_after", False):
        return np.stack([bias, np.zeros_like(bias)])
    return bias


def _always_zero(layer: keras.Layer, channels: MaybeChannels) -> np.ndarray:
    """Returns which units stay at zero, their initial state.

    Their state depends on nothing, or only on zeros.
    """
    cell = layer.cell
    kernel, recurrent, *biases = values_of(layer, 2 + cell.use_bias)
    gates, state = _GATES[type(cell)]
    varying = np.ones(len(kernel), bool)
    if channels is not None:
        varying = channels.constants != 0
    zero = (_by_unit(kernel, gates)[varying, :, state] == 0).all(axis=0)
    for bias in biases:
        rows = np.atleast_2d(bias)
        zero &= (_by_unit(rows, gates)[:, :, state] == 0).all(axis=0)
    at_zero = ops.convert_to_numpy(cell.activation(ops.zeros((1, 2))))
    zero &= bool((at_zero == 0).all())
    reads = _by_unit(recurrent, gates)[:, :, state] != 0
    while (wrong := zero & reads[~zero].any(axis=0)).any():
        zero &= ~wrong
    return zero


def _pinned(layer: keras.Layer) -> str | None:
    if layer.return_state:
        return f"{describe(layer)} returns its state"
    cell = layer.cell
    functions = [cell.activation, getattr(cell, "recurrent_activation", None)]
    if not all(map(is_elementwise, functions)):
        return f"{describe(layer)} has an activation that may mix units"
    return None
