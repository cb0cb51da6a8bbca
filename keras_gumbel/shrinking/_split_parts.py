"""The split of one tensor into several."""

import itertools

import numpy as np

from keras_gumbel.shrinking._channel_links import Link
from keras_gumbel.shrinking._channel_links import only
from keras_gumbel.shrinking._channels import BarrierError
from keras_gumbel.shrinking._channels import Call
from keras_gumbel.shrinking._channels import Channels
from keras_gumbel.shrinking._channels import Edit
from keras_gumbel.shrinking._parts import Kept
from keras_gumbel.shrinking._parts import Parts
from keras_gumbel.shrinking._parts import Step


def split(call: Call) -> Parts:
    """Returns the parts of `ops.split`."""
    channels = only(call)
    axis = call.layer.axis % len(call.shapes[0])
    if axis == 0:
        raise BarrierError("splits the batch")
    places = [np.arange(channels.size)] * len(call.outputs)
    if axis == channels.axis:
        sizes = [tensor.shape[axis] for tensor in call.outputs]
        if 0 in sizes:
            raise BarrierError("has an empty part")
        places = np.split(np.arange(channels.size), np.cumsum(sizes)[:-1])
    steps = [
        Step(_link(call, channels, place), list(call.tensors), output)
        for place, output in zip(places, call.outputs, strict=True)
    ]

    def edit(kept: list[Kept]) -> Edit | None:
        if axis != channels.axis:
            return None
        counts = [int(after.sum()) for _, after in kept]
        ends = list(itertools.accumulate(counts[:-1]))
        return Edit(call.layer, {"indices_or_sections": ends}, [])

    return Parts(call.layer, steps, edit)


def _link(call: Call, channels: Channels, place: np.ndarray) -> Link:
    output = Channels(channels.axis, channels.constants[place])
    return Link(call.layer, output, (place,))
