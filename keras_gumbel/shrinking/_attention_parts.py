"""The heads of attention."""

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_gumbel import _keras_private
from keras_gumbel.shrinking._channel_links import Link
from keras_gumbel.shrinking._channels import BIAS
from keras_gumbel.shrinking._channels import BarrierError
from keras_gumbel.shrinking._channels import Call
from keras_gumbel.shrinking._channels import Channels
from keras_gumbel.shrinking._channels import Edit
from keras_gumbel.shrinking._channels import Layout
from keras_gumbel.shrinking._channels import MaybeChannels
from keras_gumbel.shrinking._channels import describe
from keras_gumbel.shrinking._channels import values_of
from keras_gumbel.shrinking._parts import Kept
from keras_gumbel.shrinking._parts import PartialSum
from keras_gumbel.shrinking._parts import Parts
from keras_gumbel.shrinking._parts import Step
from keras_gumbel.shrinking._unit_sums import UnitSum


def multi_head_attention(call: Call) -> Parts:
    """Returns the parts of attention: heads, and the output from heads.

    A head is one channel of a tensor inside the layer. It is removed with its
    part of all four kernels.
    """
    layer = call.layer
    query, key, value = _tensors(call)
    dense = (layer.query_dense, layer.key_dense, layer.value_dense)
    every = (np.arange(layer.num_heads),) * 3
    readers = zip((query, key, value), dense, every, strict=True)
    steps = _steps(call, [*readers], layer.output_dense)

    def config(kept: list[Kept]) -> dict[str, Any]:
        heads, units = kept[-1]
        found: dict[str, Any] = {"num_heads": int(heads.sum())}
        if not (units.all() and kept[0][0].all()):
            found["output_shape"] = int(units.sum())
        return found

    return Parts(layer, steps, lambda kept: _edit(layer, steps, kept, config))


def grouped_query_attention(call: Call) -> Parts:
    """Returns the parts of attention whose heads share keys and values.

    Heads that share a key and a value are removed together. The layer makes as
    many channels as it reads queries and values. They stay or go together.
    """
    layer = call.layer
    query, key, value = _tensors(call)
    inner = {x.name: x for x in _keras_private.sublayers(layer)}
    heads = np.arange(layer.num_query_heads)
    shared = heads // layer.num_repeats
    readers = [
        (query, inner["query"], heads),
        (key, inner["key"], shared),
        *(
            [(query, inner["gate"], heads)]
            if getattr(layer, "use_gate", False)
            else []
        ),
        (value, inner["value"], shared),
    ]
    steps = _steps(call, readers, inner["attention_output"])
    tensors = [query, value, call.outputs[0]]
    units = np.arange(query.shape[-1])
    width = Channels(len(query.shape) - 1, np.full(units.size, np.nan))
    same = Step(Link(layer, width, (units,) * 3), tensors, object())

    def config(kept: list[Kept]) -> dict[str, Any]:
        return {
            "num_query_heads": int(kept[0][1].sum()),
            "num_key_value_heads": int(kept[1][1].sum()),
        }

    return Parts(
        layer, [*steps, same], lambda kept: _edit(layer, steps, kept, config)
    )


def _steps(
    call: Call, readers: list[tuple[Any, Any, np.ndarray]], reader: Any
) -> list[Step]:
    """Returns the parts that make heads from tensors and read them.

    Args:
        call: The call of the layer.
        readers: List of tuples of a tensor, the layer that reads it, and the
            units of this layer for each head. The values come last.
        reader: The layer that reads the heads.
    """
    layer = call.layer
    sums = [
        _heads(call, tensor, dense, dense is readers[-1][1])
        for tensor, dense, _ in readers
    ]
    pinned = None
    if call.arguments.get("return_attention_scores"):
        pinned = f"{describe(layer)} returns its attention scores"
    sources = tuple(units for _, _, units in readers)
    axis = len(readers[0][0].shape) - 1
    heads = Channels(axis, sums[-1].constants[sources[-1]], pinned)
    output = _output(call, heads, reader)
    known = [v for rule in (*sums, output) for v in rule.variables]
    if list(map(id, known)) != list(map(id, layer.weights)):
        raise BarrierError("has other weights than kernels and biases")
    made = [object() for _ in sums]
    joined = object()
    return [
        *map(Step, sums, ([tensor] for tensor, _, _ in readers), made),
        Step(Link(layer, heads, sources), made, joined),
        Step(output, [joined], call.outputs[0]),
    ]


def _tensors(call: Call) -> list[Any]:
    """Returns the query, the key and the value."""
    query, value, key = (
        call.arguments.get(place, call.arguments.get(name))
        for place, name in enumerate(("query", "value", "key"))
    )
    found = [query, value if key is None else key, value]
    if {id(x) for x in call.tensors} != {id(x) for x in found}:
        raise BarrierError("has other inputs than query, value and key")
    return found


def _heads(
    call: Call, tensor: Any, dense: Any, makes_values: bool
) -> PartialSum:
    """Returns the rule of the heads that read one tensor.

    A head is constant if its values are zero.
    """
    weights = values_of(dense, 1 + call.layer.use_bias)
    kernel = weights[0].astype("float64")
    channels = _channels_of(call, tensor)
    zero = np.full(kernel.shape[1], makes_values)
    varying = np.ones(len(kernel), bool)
    if channels is not None:
        varying = channels.constants != 0
    zero &= (kernel[varying] == 0).all(axis=(0, 2))
    for bias in weights[1:]:
        zero &= (bias == 0).all(axis=1)
    return PartialSum(
        layer=dense,
        argument="num_heads",
        weights=weights,
        layouts=[Layout(0, 1), BIAS],
        reads=(kernel != 0).any(axis=2),
        totals=kernel,
        bias=np.zeros(kernel.shape[1]),
        uniform=True,
        merge_axis=None,
        axis=len(tensor.shape) - 1,
        channels=channels,
        title=call.layer.name,
        listed=makes_values,
        values=np.where(zero, 0.0, np.nan),
        parts=list(dense.weights),
    )


def _channels_of(call: Call, tensor: Any) -> MaybeChannels:
    for channels, other in zip(call.inputs, call.tensors, strict=True):
        if other is tensor and channels is not None:
            if channels.axis != len(tensor.shape) - 1:
                raise BarrierError("reads another axis")
            return channels
    return None


def _output(call: Call, heads: Channels, dense: Any) -> UnitSum:
    weights = values_of(dense, 1 + call.layer.use_bias)
    if weights[0].ndim != 3:
        raise BarrierError("makes outputs of several axes")
    reads = (weights[0] != 0).any(axis=1)
    bias = np.zeros(reads.shape[1])
    return UnitSum(
        layer=dense,
        argument="output_shape",
        weights=weights,
        layouts=[Layout(0, 2), BIAS],
        reads=reads,
        totals=np.zeros(reads.shape),  # constant heads are zero
        bias=weights[1].astype("float64") if len(weights) > 1 else bias,
        uniform=True,
        merge_axis=None,
        axis=len(call.output_shape) - 1,
        channels=heads,
        title=f"{call.layer.name}/{dense.name}",
    )


def _edit(
    layer: Any,
    steps: list[Step],
    kept: list[Kept],
    config_of: Callable[[list[Kept]], dict[str, Any]],
) -> Edit:
    kept = kept[: len(steps)]
    config = config_of(kept)
    weights = [
        step.rule.selected(*pair)
        for step, pair in zip(steps, kept, strict=True)
        if isinstance(step.rule, UnitSum)
    ]
    _, units = kept[-1]
    if any(len(x) > 1 for x in weights):
        config["use_bias"] = True
        for x in weights[:-1]:
            x[1:] = x[1:] or [np.zeros(x[0].shape[1:])]
        weights[-1][1:] = weights[-1][1:] or [np.zeros(units.sum())]
    return Edit(layer, config, [x for part in weights for x in part])
