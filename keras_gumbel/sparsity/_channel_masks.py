"""Masks of coupled channels, for `granularity="channel"`."""

import collections
import dataclasses
import math
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._budgets._channel_costs import Kernel
from keras_gumbel._budgets._channel_costs import KernelAxis
from keras_gumbel._budgets._channels import Network
from keras_gumbel._budgets._channels import Place
from keras_gumbel._scores import Mark
from keras_gumbel._scores import importance_of
from keras_gumbel._scores import set_mark
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel.granularities import ScoreLayout
from keras_gumbel.masks import Mask
from keras_gumbel.shrinking._coupling import ChannelGroup
from keras_gumbel.shrinking._coupling import Slot
from keras_gumbel.shrinking._coupling import coupled_channels
from keras_gumbel.sparsity._masked_layer import attach_gates
from keras_gumbel.sparsity._masked_layer import hold
from keras_gumbel.sparsity._masked_weight import Gate
from keras_gumbel.sparsity._masked_weight import GatedWeight
from keras_gumbel.sparsity._masked_weight import is_maskable
from keras_gumbel.sparsity._masked_weight import unreadable
from keras_gumbel.sparsity._scan import FROZEN
from keras_gumbel.sparsity._scan import WeightMatrix
from keras_gumbel.sparsity._scan import weight_matrices

# Why a weight has no channels to remove. `shrink_report` knows what keeps them.
_FIXED = "its units cannot be removed from the model"


@dataclasses.dataclass(frozen=True)
class SetLayout(ScoreLayout):
    """The positions of sets of coupled channels on an axis of a weight.

    Attributes:
        axis: Integer, the axis.
        entries: Integer array of shape `(sets, entries)`, the places of the
            entries of each set.
    """

    axis: int = 0
    entries: Any = None

    @property
    def weights_per_score(self) -> int:
        """The number of weights that one score controls."""
        others = math.prod(self.shape) // self.shape[self.axis]
        return int(others * self.entries.shape[1])

    def root_mean_square(self, values: Tensor) -> Tensor:
        """Returns the root mean square of the values of each set."""
        axes = [i for i in range(len(values.shape)) if i != self.axis]
        squares = ops.mean(ops.square(values), axis=axes)
        places = self.entries.astype("int32")
        return ops.sqrt(ops.mean(ops.take(squares, places), axis=1))


def require_mask_for_channels(mask: Mask) -> None:
    """Raises unless a mask can be put on coupled channels."""
    if not mask.for_channels:
        raise invalid_argument(
            "sparsify",
            "mask",
            "'fisher', 'magnitude', 'random' or another mask with "
            "`for_channels = True`, if granularity='channel'",
            mask,
            "Learned scores do not find better channels, because normalization "
            "cancels their scale.",
        )


def free_groups(
    model: keras.Layer,
    chosen: list[WeightMatrix],
    include_frozen: bool,
) -> tuple[list[ChannelGroup], dict[str, str | None]]:
    """Returns the groups of channels to mask, and why a weight has none.

    Args:
        model: Keras model.
        chosen: List of `WeightMatrix`, those whose units may be dropped.
        include_frozen: Boolean, whether frozen weights count.

    Raises:
        TypeError: If the model is not Sequential or Functional.
    """
    matrices = {id(m.weight): m for m in weight_matrices(model)}
    makers = {id(m.weight) for m in chosen}
    reasons: dict[str, str | None] = {m.name: _FIXED for m in chosen}
    groups = []
    for group in coupled_channels("sparsify", model):
        own = {id(s.weight) for s in group.slots} & matrices.keys()
        if not any(id(s.weight) in makers for s in group.slots if not s.reads):
            continue
        problems = [_problem(matrices[key], include_frozen) for key in own]
        why = next((p for p in problems if p is not None), None)
        if why is None:
            groups.append(group)
        for key in own & makers:
            name = matrices[key].name
            if reasons[name] is not None:
                reasons[name] = why
    return groups, reasons


def _problem(matrix: WeightMatrix, include_frozen: bool) -> str | None:
    """Returns why the channels of a weight cannot be removed, or `None`."""
    if is_maskable(matrix.weight):
        return f"coupled with {matrix.name}, which has a mask"
    if matrix.reason is not None:
        return f"coupled with {matrix.name}, {matrix.reason}"
    if not matrix.weight.trainable and not include_frozen:
        return FROZEN
    return None


def put_channel_masks(
    groups: Sequence[ChannelGroup],
    masks: Sequence[Mask],
    everything: Sequence[WeightMatrix],
    minimum: float,
) -> None:
    """Puts a mask on each group of channels. Call `refresh` afterwards.

    Args:
        groups: List of `ChannelGroup`.
        masks: List of `Mask`, not built, one for each group.
        everything: List of `WeightMatrix`, those of the model.
        minimum: Number, the fraction of the channels of each group to keep.
    """
    matrices = {id(m.weight): m for m in everything}
    gates: dict[int, list[Gate]] = collections.defaultdict(list)
    network = Network([], [])
    for index, (group, mask) in enumerate(zip(groups, masks, strict=True)):
        slots = [s for s in group.slots if id(s.weight) in matrices]
        first = next((s for s in slots if not s.reads), slots[0])
        mask.axis = None
        with keras.name_scope(group.name.replace("/", "_")):
            mask.build((group.size,))
            mask.attach_to(first.weight, _layout(first, group.size), None)
        set_mark(
            mask.mask_scores,
            Mark(
                saliency=_saliency(
                    mask, [(s.weight, _layout(s, group.size)) for s in slots]
                ),
                ranked=True,
                minimum=minimum,
                observed=mask.observed,
                place=Place(network, index),
                name=group.name,
            ),
        )
        network.scores.append(mask.mask_scores)
        hold(matrices[id(first.weight)].layer, mask)
        for slot in slots:
            reader = slot.layer if slot.input_axis is not None else None
            gates[id(slot.weight)].append(
                Gate(mask, slot.axis, slot.index, reader, slot.input_axis or -1)
            )
    places = {id(mask): i for i, mask in enumerate(masks)}
    for key, own in gates.items():
        matrix = matrices[key]
        network.kernels.append(_kernel(matrix, own, places))
        attach_gates(
            GatedWeight(matrix.layer, matrix.weight, matrix.name, tuple(own))
        )


def _saliency(
    mask: Mask, places: list[tuple[keras.Variable, SetLayout]]
) -> Callable[[], Tensor]:
    """Returns a function that computes the saliency of each set of channels."""
    if mask.observed:
        return lambda: importance_of(mask.mask_scores)
    weights = sum(layout.weights_per_score for _, layout in places)

    def root_mean_square() -> Tensor:
        total: Any = 0.0
        for weight, layout in places:
            if not _keras_private.is_readable(weight):
                raise unreadable(mask, weight)
            squares = ops.square(mask.saliency(weight, layout))
            total = total + layout.weights_per_score / weights * squares
        found = ops.sqrt(total)
        if mask.relative:
            # Of weights that are all zero, none matters.
            found = found / ops.maximum(ops.mean(found), keras.config.epsilon())
        return found

    return root_mean_square


def _layout(slot: Slot, sets: int) -> SetLayout:
    order = np.argsort(slot.index, kind="stable")
    entries = order[(slot.index < 0).sum() :].reshape(sets, -1)
    shape = tuple(slot.weight.shape)
    return SetLayout(shape, shape, (sets,), None, slot.axis, entries)


def _kernel(
    matrix: WeightMatrix, gates: list[Gate], places: dict[int, int]
) -> Kernel:
    """Returns how the size of a kernel depends on its channels.

    Channels are on one axis or two: that of the inputs and that of the outputs.
    """
    shape = tuple(matrix.weight.shape)
    axes = sorted({gate.axis for gate in gates})
    rest = math.prod(n for i, n in enumerate(shape) if i not in axes)
    found = []
    for axis in axes:
        own = [gate for gate in gates if gate.axis == axis]
        entries: dict[int, int] = collections.defaultdict(int)
        taken = np.zeros(shape[axis], bool)
        for gate in own:
            sets = gate.mask.mask_scores.shape[0]
            entries[places[id(gate.mask)]] += (
                int((gate.index >= 0).sum()) // sets
            )
            taken |= gate.index >= 0
        found.append(KernelAxis(int((~taken).sum()), dict(entries)))
    if len(found) == 1:
        found.append(KernelAxis(1, {}))
    return Kernel(matrix.name, rest, (found[0], found[1]))
