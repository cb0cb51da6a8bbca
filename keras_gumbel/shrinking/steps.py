"""The calls of a model, and the rules of the layers that are called."""

import collections
import dataclasses
from collections.abc import Callable

import keras

from keras_gumbel import _keras_private
from keras_gumbel._typing import Tensor
from keras_gumbel.shrinking.channel_links import Link
from keras_gumbel.shrinking.channels import BarrierError
from keras_gumbel.shrinking.channels import Call
from keras_gumbel.shrinking.channels import MaybeChannels
from keras_gumbel.shrinking.graph import graph_models
from keras_gumbel.shrinking.graph import require_graph
from keras_gumbel.shrinking.shape_links import link
from keras_gumbel.shrinking.unit_rules import UNIT_LAYERS
from keras_gumbel.shrinking.unit_rules import unit_sum
from keras_gumbel.shrinking.unit_sums import UnitSum


@dataclasses.dataclass(frozen=True)
class Step:
    """A layer that may change, where it is called.

    Attributes:
        rule: `UnitSum` or `Link`.
        inputs: List of symbolic tensors.
        output: Symbolic tensor.
        mask: Symbolic tensor that says which steps are padded, or `None`.
    """

    rule: UnitSum | Link
    inputs: list[Tensor]
    output: Tensor
    mask: Tensor | None


def step_of(
    call: _keras_private.GraphCall,
    channels_of: Callable[[Tensor], MaybeChannels],
    shared: bool,
) -> Step:
    """Returns what a layer does with the channels it is called with.

    Raises:
        BarrierError: If they must stay as they are.
    """
    mask = call.arguments.get("mask")  # of padded steps, without channels
    inputs = [tensor for tensor in call.inputs if tensor is not mask]
    known = Call(
        layer=call.layer,
        inputs=tuple(map(channels_of, inputs)),
        shapes=tuple(tuple(tensor.shape) for tensor in inputs),
        output_shape=tuple(call.outputs[0].shape),
        in_training=bool(call.arguments.get("training")),
        tensors=tuple(inputs),
        arguments=call.arguments,
    )
    has_units = type(call.layer) in UNIT_LAYERS
    rule = unit_sum(known) if has_units else link(known)
    if shared and rule.has_edits():
        raise BarrierError("is shared")
    has_mask = len(inputs) < len(call.inputs)
    return Step(rule, inputs, call.outputs[0], mask if has_mask else None)


def built_models(owner: str, model: keras.Model) -> dict[str, keras.Model]:
    """Returns the model and those in it, by a prefix of names.

    Raises:
        TypeError: If `model` is not a Sequential or Functional model.
        ValueError: If it is not built.
    """
    require_graph(owner, model)
    if not model.built:
        raise ValueError(
            f"`{owner}` needs the weights of the model {model.name!r}, which "
            "is not built. Call it on data, or `model.build(input_shape)`, "
            "first."
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
