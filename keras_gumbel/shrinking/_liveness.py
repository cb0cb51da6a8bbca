"""Which units of a model can be removed, and what keeps the others."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_gumbel import _keras_private
from keras_gumbel._typing import Tensor
from keras_gumbel.shrinking._channels import BarrierError
from keras_gumbel.shrinking._channels import Channels
from keras_gumbel.shrinking._channels import Edit
from keras_gumbel.shrinking._channels import MaybeChannels
from keras_gumbel.shrinking._channels import describe
from keras_gumbel.shrinking._parts import Kept
from keras_gumbel.shrinking._parts import Parts
from keras_gumbel.shrinking._parts import Step
from keras_gumbel.shrinking._steps import parts_of
from keras_gumbel.shrinking._unit_sums import UnitSum

# Reasons that occur in every model and cannot be fixed.
OUTPUT = "the model returns it"
LAST = "a layer keeps one unit"
STAND_IN = "it replaces other constants that a convolution pads with zeros"
USUAL = (OUTPUT, LAST, STAND_IN)


class _State:
    """The decisions on the channels of a tensor so far.

    Attributes:
        channels: `Channels`.
        kept: Boolean array, the channels that stay.
        united: Boolean array, channels that nothing reads but that stay because
            a coupled tensor keeps them.
        reasons: Array of strings, why they stay; empty if they are read.
    """

    def __init__(self, channels: Channels) -> None:
        self.channels = channels
        self.kept = np.full(channels.size, channels.pinned is not None)
        self.united = np.zeros(channels.size, bool)
        self.reasons = np.full(channels.size, channels.pinned or "", object)


class Liveness:
    """Follows the channels of one model.

    Constants are followed forward from the inputs. Then needed channels are
    followed back from the outputs. Layers that pass channels on must keep the
    same channels of all their tensors, so this is repeated.

    Args:
        model: Functional or built Sequential model. Nested models are layers
            that keep their shapes.
        shared: Set of ids of the layers that are called more than once.

    Attributes:
        parts: List of `Parts`, in the order of the calls.
        steps: List of all `Step` of them.
        barriers: List of pairs of a layer that keeps its shapes and why.
    """

    def __init__(self, model: keras.Model, shared: set[int]) -> None:
        self.parts: list[Parts] = []
        self.steps: list[Step] = []
        self.barriers: list[tuple[keras.Layer, str]] = []
        self._states: dict[int, _State] = {}
        self._changed = False
        for call in _keras_private.graph_calls(model):
            if call.inputs:
                self._follow(call, id(call.layer) in shared)
        for tensor in model.outputs:
            self._keep(tensor, True, OUTPUT)
            if id(tensor) in self._states:
                self._states[id(tensor)].reasons[:] = OUTPUT
        self._settle()

    def kept(self, step: Step) -> np.ndarray:
        """Returns which output channels of a step stay."""
        return self._states[id(step.output)].kept

    def dead(self, step: Step) -> Iterator[str]:
        """Yields the reason for every dead unit that stays."""
        state = self._states[id(step.output)]
        constant = ~np.isnan(step.rule.constants)
        for unit in np.flatnonzero(state.kept & (constant | state.united)):
            yield str(state.reasons[unit])

    def held(self, step: Step) -> str:
        """Returns the only reason for all units of a step, or `""`."""
        reasons = set(self._states[id(step.output)].reasons)
        reason = str(reasons.pop())
        return "" if reasons or reason in USUAL else reason

    def edits(self) -> Iterator[Edit]:
        """Yields the changes of layers."""
        for parts in self.parts:
            kept = [self._kept_of(step) for step in parts.steps]
            if not all(x.all() for pair in kept for x in pair):
                edit = parts.edit(kept)
                if edit is not None:
                    yield edit

    def _kept_of(self, step: Step) -> Kept:
        state = self._states.get(id(step.inputs[0]))
        kept_inputs = np.ones(step.rule.inputs, bool)
        if state is not None and len(step.inputs) == 1:
            kept_inputs = state.kept
        return kept_inputs, self.kept(step)

    def _follow(self, call: _keras_private.GraphCall, shared: bool) -> None:
        try:
            parts = parts_of(call, self._channels_of, shared)
        except BarrierError as error:
            self.barriers.append((call.layer, str(error)))
            for tensor in call.inputs:
                self._keep(tensor, True, f"{describe(call.layer)} {error}")
            return
        self.parts.append(parts)
        for step in parts.steps:
            self.steps.append(step)
            new = _State(step.rule.output)
            self._states.setdefault(id(step.output), new)
        for mask in parts.masks:
            why = f"{describe(call.layer)} uses it as its mask"
            self._keep(mask, True, why)

    def _channels_of(self, tensor: Tensor) -> MaybeChannels:
        state = self._states.get(id(tensor))
        return None if state is None else state.channels

    def _keep(
        self, tensor: Tensor, chosen: Any, reasons: Any, united: Any = False
    ) -> None:
        state = self._states.get(id(tensor))
        if state is None:
            return
        new = np.logical_and(chosen, ~state.kept)
        if not new.any():
            return
        state.kept |= new
        state.united |= new & united
        state.reasons = np.where(new, reasons, state.reasons)
        self._changed = True

    def _settle(self) -> None:
        for step in reversed(self.steps):
            self._pass_back(step)
        while self._changed or self._keep_stand_in() or self._keep_last():
            self._changed = False
            for step in reversed(self.steps):
                self._unite(step)
                self._pass_back(step)

    def _keep_stand_in(self) -> bool:
        """Keeps one constant that replaces others before a convolution."""
        for step in reversed(self.steps):
            rule, state = step.rule, self._states.get(id(step.inputs[0]))
            if not isinstance(rule, UnitSum) or rule.merge_axis is None:
                continue
            if state is None:
                continue
            _, uneven = rule.demand(self.kept(step))
            lost = uneven & ~state.kept
            if not lost.any() or (rule.stand_ins(uneven) & state.kept).any():
                continue
            sizes = np.abs(state.channels.constants) * lost
            chosen = np.arange(sizes.size) == np.nanargmax(sizes)
            self._keep(step.inputs[0], chosen, STAND_IN)
            return True
        return False

    def _keep_last(self) -> bool:
        """Keeps a channel of one empty tensor; returns whether there is one."""
        for step in reversed(self.steps):
            kept = self.kept(step)
            if not kept.any():
                self._keep(step.output, np.arange(kept.size) == 0, LAST, True)
                return True
        return False

    def _pass_back(self, step: Step) -> None:
        """Keeps the inputs that the kept outputs of a step need."""
        state = self._states[id(step.output)]
        if isinstance(step.rule, UnitSum):
            varying, uneven = step.rule.demand(state.kept)
            why = "pads a constant with zeros at the edges"
            self._keep(step.inputs[0], varying, "")
            if step.rule.merge_axis is None:
                why = f"{describe(step.rule.layer)} {why}"
                self._keep(step.inputs[0], uneven, why)
            return
        changes = f"{describe(step.rule.layer)} does not leave it constant"
        for tensor, sources in zip(step.inputs, step.rule.sources, strict=True):
            before = self._states.get(id(tensor))
            if before is None:
                continue
            kept = np.flatnonzero(state.kept & (sources >= 0))
            read = kept[~state.united[kept]]
            chosen, needed = np.zeros((2, before.kept.size), bool)
            reasons = np.full(before.kept.size, "", object)
            chosen[sources[kept]] = True
            needed[sources[read]] = True
            reasons[sources[kept]] = state.reasons[kept]
            varies = np.isnan(state.channels.constants[kept])
            lost = np.zeros_like(chosen)
            lost[sources[kept[varies]]] = True
            lost &= ~np.isnan(before.channels.constants) & (reasons == "")
            reasons[lost] = changes
            self._keep(tensor, chosen, reasons, ~needed)

    def _unite(self, step: Step) -> None:
        """Keeps the outputs of a link whose inputs are kept."""
        if isinstance(step.rule, UnitSum):
            return
        why = f"{describe(step.rule.layer)} combines it with one that stays"
        for tensor, sources in zip(step.inputs, step.rule.sources, strict=True):
            state = self._states.get(id(tensor))
            stays = sources >= 0
            if state is not None:
                stays = stays & state.kept[sources]
            self._keep(step.output, stays, why, True)
