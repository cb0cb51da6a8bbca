"""The calls of a model, and the rules of the called layers."""

import collections
import dataclasses
from collections.abc import Callable

import keras
from keras import layers

from keras_gumbel import _keras_private
from keras_gumbel._typing import Tensor
from keras_gumbel.shrinking._attention_parts import grouped_query_attention
from keras_gumbel.shrinking._attention_parts import multi_head_attention
from keras_gumbel.shrinking._channel_links import Link
from keras_gumbel.shrinking._channels import BarrierError
from keras_gumbel.shrinking._channels import Call
from keras_gumbel.shrinking._channels import MaybeChannels
from keras_gumbel.shrinking._distributed_parts import time_distributed
from keras_gumbel.shrinking._graph import graph_models
from keras_gumbel.shrinking._graph import require_graph
from keras_gumbel.shrinking._grouped_links import grouped_conv
from keras_gumbel.shrinking._parts import Parts
from keras_gumbel.shrinking._parts import Step
from keras_gumbel.shrinking._recurrent_parts import RECURRENT_LAYERS
from keras_gumbel.shrinking._recurrent_parts import bidirectional
from keras_gumbel.shrinking._recurrent_parts import recurrent
from keras_gumbel.shrinking._shape_links import kind_of
from keras_gumbel.shrinking._shape_links import link
from keras_gumbel.shrinking._split_parts import split
from keras_gumbel.shrinking._unit_rules import UNIT_LAYERS
from keras_gumbel.shrinking._unit_rules import unit_sum
from keras_gumbel.shrinking._unit_sums import UnitSum

# Arguments that are masks of padded steps, without channels.
_MASKS = ("mask", "query_mask", "key_mask", "value_mask", "attention_mask")

_PARTS: dict[type | str, Callable[[Call], Parts]] = {
    layers.Bidirectional: bidirectional,
    "Split": split,
    layers.GroupQueryAttention: grouped_query_attention,
    layers.MultiHeadAttention: multi_head_attention,
    layers.TimeDistributed: time_distributed,
    **dict.fromkeys(RECURRENT_LAYERS, recurrent),
}


def parts_of(
    call: _keras_private.GraphCall,
    channels_of: Callable[[Tensor], MaybeChannels],
    shared: bool,
) -> Parts:
    """Returns the effect of a layer on the channels of its inputs.

    Raises:
        BarrierError: If the channels must stay as they are.
    """
    tensors = {id(tensor) for tensor in call.inputs}
    masks = [call.arguments.get(name) for name in _MASKS]
    masks = [mask for mask in masks if id(mask) in tensors]
    inputs = [x for x in call.inputs if all(x is not mask for mask in masks)]
    known = Call(
        layer=call.layer,
        inputs=tuple(map(channels_of, inputs)),
        shapes=tuple(tuple(tensor.shape) for tensor in inputs),
        output_shape=tuple(call.outputs[0].shape),
        in_training=bool(call.arguments.get("training")),
        tensors=tuple(inputs),
        outputs=tuple(call.outputs),
        arguments=call.arguments,
    )
    parts = _parts(known)
    if shared and parts.has_edits():
        raise BarrierError("is shared")
    return dataclasses.replace(parts, masks=masks)


def _parts(call: Call) -> Parts:
    kind = kind_of(call.layer)
    if kind in _PARTS:
        return _PARTS[kind](call)
    rule: UnitSum | Link
    if kind not in UNIT_LAYERS:
        rule = link(call)
    elif getattr(call.layer, "groups", 1) > 1:
        rule = grouped_conv(call)
    else:
        rule = unit_sum(call)
    inputs = list(call.tensors)
    if isinstance(rule, Link) and len(inputs) == 1:  # once for all sources
        inputs *= len(rule.sources)
    step = Step(rule, inputs, call.outputs[0])
    return Parts(call.layer, [step], lambda kept: rule.edit(*kept[0]))


def built_models(owner: str, model: keras.Model) -> dict[str, keras.Model]:
    """Returns the model and its nested models, by prefix of names.

    Raises:
        TypeError: If `model` is not a Sequential or Functional model.
        ValueError: If it is not built.
    """
    require_graph(owner, model)
    if not model.built:
        raise ValueError(
            f"`{owner}` needs the weights of the model {model.name!r}, which "
            "is not built. Call the model on data, or call "
            "`model.build(input_shape)` first."
        )
    return graph_models(model)


def shared_layers(models: dict[str, keras.Model]) -> set[int]:
    """Returns the ids of the layers that are called more than once."""
    counts = collections.Counter(
        id(call.layer)
        for part in models.values()
        for call in _keras_private.graph_calls(part)
    )
    return {key for key, count in counts.items() if count > 1}
