"""Measures how the loss of each example depends on the kept channels.

If a layer reads channels with an observed mask, they are multiplied by a one
for each example and channel. The gradient of these ones is the gradient of the
masks for each example, summed over the positions and over all layers that read
the channels. The sum of its squares over the examples, not its sum, goes to the
scores.
"""

import collections
import contextlib
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gumbel._typing import Tensor
from keras_gumbel.masks import Mask
from keras_gumbel.sparsity._masked_weight import Drawn
from keras_gumbel.sparsity._masked_weight import Gate
from keras_gumbel.sparsity._masked_weight import GatedWeight
from keras_gumbel.sparsity._masked_weight import Part
from keras_gumbel.sparsity._masked_weight import masks_put_back


@contextlib.contextmanager
def channels_watched(
    drawn: Drawn, parts: Sequence[Part], training: Any, arguments: Any
) -> Iterator[Drawn]:
    """Adds ones to the drawn masks, unless an outer call does.

    Args:
        drawn: `Drawn`, from `masks_drawn`.
        parts: Sequence of `Part`, those of the layer that is called.
        training: Boolean, whether the call is a training call.
        arguments: The arguments of the call.
    """
    masks = {
        id(mask): mask
        for part in parts
        for mask in part.masks
        if mask.observed and not mask.hardened and id(mask) not in drawn
    }
    # JAX traces `training` in rematerialized parts, where ones do no harm.
    known = training is None or isinstance(training, int)
    if masks and (not known or training):
        ones = _ones_of(masks, arguments)
        with masks_put_back({**drawn, **ones}) as everything:
            yield everything
    else:
        yield drawn


def _ones_of(masks: dict[int, Mask], arguments: Any) -> dict[int, Tensor]:
    """Returns ones of shape `(batch, sets)` for masks, by their ids."""
    # Anything with a batch axis, also arrays: Keras converts them later.
    every = keras.tree.flatten(arguments)
    tensors = [x for x in every if len(getattr(x, "shape", ()))]
    if not tensors:
        return {}
    examples = ops.ones((ops.shape(tensors[0])[0], 1), "float32")
    ones = ops.custom_gradient(_ones)
    return {
        # A tensor: on TensorFlow, custom gradients do not accept variables.
        key: ones(examples, 1.0 * mask.mask_scores)
        for key, mask in masks.items()
    }


def _ones(examples: Tensor, scores: Tensor) -> Any:
    ones = examples * ops.expand_dims(ops.ones_like(scores), 0)

    def gradient(*saved: Any, upstream: Any = None) -> tuple[Tensor, Tensor]:
        if upstream is None:  # only torch passes it by name
            (upstream,) = saved
        # The loss is a mean over the batch, so the loss of one example is its
        # contribution times the batch size.
        count = ops.cast(ops.shape(upstream)[0], "float32")
        squares = ops.sum(ops.square(upstream), axis=0)
        return ops.zeros_like(upstream[:, :1]), count * squares

    return ones, gradient


def watched(
    layer: keras.Layer,
    parts: Sequence[Part],
    drawn: Drawn,
    inputs: Tensor,
) -> Tensor:
    """Multiplies the inputs of a layer by the ones of its channels."""
    by_axis: dict[int, list[Gate]] = collections.defaultdict(list)
    for part in parts:
        if not isinstance(part, GatedWeight):
            continue
        for gate in part.gates:
            if gate.reader is layer and id(gate.mask) in drawn:
                by_axis[gate.input_axis].append(gate)
    for axis, gates in by_axis.items():
        every = _side_by_side(gates, drawn)
        # Examples may be split into rows, which are read separately.
        examples, rows = every.shape[0], inputs.shape[0]
        if None not in (examples, rows) and examples != rows:
            every = ops.repeat(every, rows // examples, axis=0)
        shape = [1] * len(inputs.shape)
        shape[0], shape[axis] = -1, every.shape[1]
        inputs = inputs * ops.cast(ops.reshape(every, shape), inputs.dtype)
    return inputs


def _side_by_side(gates: list[Gate], drawn: Drawn) -> Tensor:
    """Returns the ones of all channels on an axis."""
    found = [drawn[id(gate.mask)] for gate in gates]
    width = sum(x.shape[1] for x in found)
    places = np.full(gates[0].index.size, width)
    start = 0
    for gate, x in zip(gates, found, strict=True):
        own = gate.index >= 0
        places[own] = start + gate.index[own]
        start += x.shape[1]
    every = found[0] if len(found) == 1 else ops.concatenate(found, axis=1)
    if not np.array_equal(places, np.arange(width)):
        rest = ops.ones_like(every[:, :1])
        every = ops.concatenate([every, rest], axis=1)
        every = ops.take(every, places.astype("int32"), axis=1)
    return every
