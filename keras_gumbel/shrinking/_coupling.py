"""Channels that can only be removed together."""

import collections
import dataclasses
from collections.abc import Iterator

import keras
import numpy as np

from keras_gumbel import _keras_private
from keras_gumbel._typing import Tensor
from keras_gumbel.shrinking._channel_links import Link
from keras_gumbel.shrinking._channels import BarrierError
from keras_gumbel.shrinking._channels import Channels
from keras_gumbel.shrinking._channels import MaybeChannels
from keras_gumbel.shrinking._parts import Step
from keras_gumbel.shrinking._steps import built_models
from keras_gumbel.shrinking._steps import parts_of
from keras_gumbel.shrinking._steps import shared_layers
from keras_gumbel.shrinking._unit_sums import UnitSum


@dataclasses.dataclass(frozen=True, eq=False)
class Slot:
    """The position of the channels of a group on a weight.

    Attributes:
        layer: The layer that reads, makes or passes on the channels.
        weight: `keras.Variable`, one of its weights.
        axis: Integer, the axis of the weight, not negative.
        reads: Boolean, whether the layer sums the channels with this weight.
            Otherwise it makes or scales them.
        index: Integer array, the coupled set of each entry of the axis, or -1
            if the entry is in no set of the group.
        input_axis: Integer or `None`, the axis of the first input of the layer
            with the channels in the same order. `None` if the weight does not
            read them from this input.
    """

    layer: keras.Layer
    weight: keras.Variable
    axis: int
    reads: bool
    index: np.ndarray
    input_axis: int | None


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Sets of coupled channels that lie on the same weights.

    All channels of a set are kept, or all are removed. Every set of a group
    has the same number of entries on an axis.

    Attributes:
        name: String, the name of the first layer that makes the channels,
            prefixed by the names of the models that contain it.
        size: Integer, the number of sets.
        slots: Tuple of `Slot`, all positions of these channels.
    """

    name: str
    size: int
    slots: tuple[Slot, ...]


def coupled_channels(owner: str, model: keras.Model) -> list[ChannelGroup]:
    """Finds the channels of a model that can be removed.

    If all entries that read a set are zero, `keras_gumbel.shrink` removes the
    set everywhere.

    Args:
        owner: String, the function that error messages name.
        model: Functional or built Sequential model.

    Returns:
        List of `ChannelGroup`, in the order of the calls.

    Raises:
        TypeError: If `model` is not a Sequential or Functional model.
        ValueError: If it is not built.
    """
    models = built_models(owner, model)
    shared = shared_layers(models)
    names: collections.Counter[str] = collections.Counter()
    groups = []
    for prefix, part in models.items():
        for maker, size, slots in _Coupling(part, shared).groups():
            name = prefix + maker
            names[name] += 1
            if names[name] > 1:  # parts of one layer
                name = f"{name}:{names[name]}"
            groups.append(ChannelGroup(name, size, slots))
    return groups


class _Coupling:
    """Follows the channels of one model, independent of its weights.

    Every channel of every tensor has a number. Two numbers are joined if a
    layer passes one channel on as the other.
    """

    def __init__(self, model: keras.Model, shared: set[int]) -> None:
        self._steps: list[Step] = []
        self._channels: dict[int, Channels] = {}
        self._numbers: dict[int, np.ndarray] = {}
        self._joined: list[tuple[np.ndarray, np.ndarray]] = []
        self._pinned: list[np.ndarray] = []
        self._count = 0
        for call in _keras_private.graph_calls(model):
            if call.inputs:
                self._follow(call, id(call.layer) in shared)
        for tensor in model.outputs:
            self._pin(tensor)

    def groups(self) -> Iterator[tuple[str, int, tuple[Slot, ...]]]:
        """Yields name, number of sets and slots of every group."""
        sets = joined(self._count, self._joined)
        free = np.ones(self._count, bool)
        free[sets[np.concatenate([*self._pinned, np.zeros(0, int)])]] = False
        slots = [
            (name, dataclasses.replace(slot, index=sets[slot.index]))
            for name, slot in self._slots()
        ]
        read = np.zeros(self._count, bool)
        for _, slot in slots:
            read[slot.index] |= slot.reads
        for members in self._alike(sets, free & read):
            place = np.full(self._count, -1)
            place[members] = np.arange(members.size)
            found = [
                (name, dataclasses.replace(slot, index=place[slot.index]))
                for name, slot in slots
                if (place[slot.index] >= 0).any()
            ]
            name = next(name for name, slot in found if not slot.reads)
            yield name, members.size, tuple(slot for _, slot in found)

    def _alike(self, sets: np.ndarray, chosen: np.ndarray) -> list[np.ndarray]:
        """Returns the chosen sets, grouped by their structure."""
        tensors = np.zeros(self._count, int)
        for tensor, numbers in enumerate(self._numbers.values()):
            tensors[numbers] = tensor
        numbers = np.flatnonzero(chosen[sets])
        pairs = np.stack([sets[numbers], tensors[numbers]], axis=1)
        pairs, counts = np.unique(pairs, axis=0, return_counts=True)
        members, starts = np.unique(pairs[:, 0], return_index=True)
        structures = np.split(
            np.stack([pairs[:, 1], counts], axis=1), starts[1:]
        )
        found = collections.defaultdict(list)
        for member, structure in zip(members, structures, strict=False):
            found[structure.tobytes()].append(member)
        return [np.array(x) for x in found.values()]

    def _follow(self, call: _keras_private.GraphCall, shared: bool) -> None:
        try:
            parts = parts_of(call, self._channels_of, shared)
        except BarrierError:
            for tensor in call.inputs:
                self._pin(tensor)
            return
        for step in parts.steps:
            self._add(step)
        for mask in parts.masks:
            self._pin(mask)

    def _add(self, step: Step) -> None:
        self._steps.append(step)
        output = step.rule.output
        if id(step.output) not in self._numbers:
            unknown = np.full(output.size, np.nan)  # no constants are followed
            self._channels[id(step.output)] = Channels(output.axis, unknown)
            numbers = self._count + np.arange(output.size)
            self._numbers[id(step.output)] = numbers
            self._count += output.size
        if output.pinned is not None:
            self._pin(step.output)
        if isinstance(step.rule, Link):
            numbers = self._numbers[id(step.output)]
            self._join(step.inputs, step.rule.sources, numbers)

    def _join(
        self,
        inputs: list[Tensor],
        every_sources: tuple[np.ndarray, ...],
        numbers: np.ndarray,
    ) -> None:
        for tensor, sources in zip(inputs, every_sources, strict=True):
            passed = np.flatnonzero(sources >= 0)
            before = self._numbers.get(id(tensor))
            if before is None:
                self._pinned.append(numbers[passed])
            else:
                self._joined.append((before[sources[passed]], numbers[passed]))

    def _channels_of(self, tensor: Tensor) -> MaybeChannels:
        return self._channels.get(id(tensor))

    def _pin(self, tensor: Tensor) -> None:
        self._pinned.append(self._numbers.get(id(tensor), np.zeros(0, int)))

    def _slots(self) -> Iterator[tuple[str, Slot]]:
        """Yields all positions of channels, which are given by their numbers.

        Each is preceded by the name of its units.
        """
        for step in self._steps:
            rule = step.rule
            reads = isinstance(rule, UnitSum)
            source, after = id(step.inputs[0]), self._numbers[id(step.output)]
            for weight, layout in zip(
                rule.variables, rule.layouts, strict=False
            ):
                rank = len(weight.shape)
                if layout.inputs is not None and source in self._numbers:
                    index = np.repeat(self._numbers[source], layout.repeats)
                    first = reads and layout is rule.layouts[0]
                    yield (
                        rule.name,
                        Slot(
                            layer=rule.layer,
                            weight=weight,
                            axis=layout.inputs % rank,
                            reads=reads,
                            index=index,
                            input_axis=rule.input_axis if first else None,
                        ),
                    )
                if layout.outputs is not None:
                    axis = layout.outputs % rank
                    index = np.tile(after, layout.tiles)
                    yield (
                        rule.name,
                        Slot(rule.layer, weight, axis, False, index, None),
                    )


def joined(
    count: int, pairs: list[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Returns the smallest number that each number is joined with.

    Args:
        count: Integer, the number of numbers.
        pairs: List of pairs of arrays, whose entries are joined.
    """
    smallest = np.arange(count)
    nothing = np.zeros(0, int)
    first = np.concatenate([nothing, *(a for a, _ in pairs)])
    second = np.concatenate([nothing, *(b for _, b in pairs)])
    while True:
        ends = smallest[first], smallest[second]
        low, high = np.minimum(*ends), np.maximum(*ends)
        if (low == high).all():
            return smallest
        np.minimum.at(smallest, high, low)
        while (smallest[smallest] != smallest).any():
            smallest = smallest[smallest]
