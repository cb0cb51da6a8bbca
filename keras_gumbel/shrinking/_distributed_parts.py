"""A layer that is applied to every time step."""

import dataclasses

from keras_gumbel._typing import Shape
from keras_gumbel.shrinking._channels import UNKNOWN
from keras_gumbel.shrinking._channels import BarrierError
from keras_gumbel.shrinking._channels import Call
from keras_gumbel.shrinking._channels import Channels
from keras_gumbel.shrinking._channels import Edit
from keras_gumbel.shrinking._channels import MaybeChannels
from keras_gumbel.shrinking._parts import Kept
from keras_gumbel.shrinking._parts import Parts
from keras_gumbel.shrinking._parts import Step
from keras_gumbel.shrinking._parts import changed_inside
from keras_gumbel.shrinking._unit_rules import UNIT_LAYERS
from keras_gumbel.shrinking._unit_rules import unit_sum


def time_distributed(call: Call) -> Parts:
    """Returns the parts of a layer with units in every time step."""
    wrapper, layer = call.layer, call.layer.layer
    if type(layer) not in UNIT_LAYERS or getattr(layer, "groups", 1) > 1:
        raise BarrierError(UNKNOWN)
    inner = dataclasses.replace(
        call,
        layer=layer,
        inputs=tuple(map(_of_a_step, call.inputs)),
        shapes=tuple(map(_without_time, call.shapes)),
        output_shape=_without_time(call.output_shape),
    )
    rule = unit_sum(inner)
    title = f"{wrapper.name}/{layer.name}"
    rule = dataclasses.replace(rule, axis=rule.axis + 1, title=title)

    def edit(kept: list[Kept]) -> Edit:
        part = rule.edit(*kept[0])
        config = changed_inside(wrapper, "layer", part.config)
        return Edit(wrapper, config, part.weights)

    step = Step(rule, list(call.tensors), call.outputs[0])
    return Parts(wrapper, [step], edit)


def _of_a_step(channels: MaybeChannels) -> MaybeChannels:
    if channels is None:
        return None
    if channels.axis == 1:
        raise BarrierError("reads another axis")
    return Channels(channels.axis - 1, channels.constants, channels.pinned)


def _without_time(shape: Shape) -> Shape:
    return (shape[0], *shape[2:])
