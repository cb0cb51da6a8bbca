"""The parts of a layer in a call."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_gumbel.shrinking._channel_links import Link
from keras_gumbel.shrinking._channels import Channels
from keras_gumbel.shrinking._channels import Edit
from keras_gumbel.shrinking._unit_sums import UnitSum

# The kept inputs and the kept outputs of a step.
Kept = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Step:
    """A step that maps the channels of tensors to an output.

    Attributes:
        rule: `UnitSum` or `Link`.
        inputs: List of symbolic tensors, or of objects that represent tensors
            inside the layer.
        output: Symbolic tensor, or such an object.
    """

    rule: UnitSum | Link
    inputs: list[Any]
    output: Any


@dataclasses.dataclass(frozen=True)
class Parts:
    """The call of a layer: one step, or several.

    Attributes:
        layer: The layer.
        steps: List of `Step`. The step that makes a tensor comes before the
            steps that read it, unless a layer reads its own output.
        edit: Function from the kept channels of each step to the layer without
            the other channels.
        masks: List of symbolic tensors, the masks of padded steps.
    """

    layer: keras.Layer
    steps: list[Step]
    edit: Callable[[list[Kept]], Edit | None]
    masks: list[Any] = dataclasses.field(default_factory=list)

    def has_edits(self) -> bool:
        """Whether the layer changes with its channels."""
        return any(step.rule.has_edits() for step in self.steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartialSum(UnitSum):
    """A sum inside a layer, with several numbers for each unit.

    Its `totals` have the shape `(inputs, units, numbers)`.

    Attributes:
        values: Float array, the values of units that are constant, NaN for
            others.
        parts: List of the variables whose values `weights` are.
        inside: Boolean, whether it reads a tensor inside the layer.
        pinned: String or `None`, why all units stay.
        lay: Function from sums of shape `(units, numbers)` to a bias.
    """

    values: np.ndarray
    parts: list[keras.Variable]
    inside: bool = False
    pinned: str | None = None
    lay: Callable[[np.ndarray], np.ndarray] = lambda shift: shift

    @property
    def constants(self) -> np.ndarray:  # type: ignore[override]
        """The values of units that are constant, NaN for others."""
        return self.values

    @property
    def output(self) -> Channels:
        """The `Channels` of the output."""
        return Channels(self.axis, self.values, self.pinned)

    @property
    def variables(self) -> list[keras.Variable]:
        """The variables that `weights` are the values of."""
        return self.parts

    @property
    def input_axis(self) -> int | None:
        """The axis of the input that the layer reads."""
        return None if self.inside else super().input_axis

    def as_bias(self, shift: np.ndarray) -> np.ndarray:
        """Returns the sums of units in the shape of a bias."""
        return self.lay(shift)


def changed_inside(
    wrapper: keras.Layer, name: str, changes: dict[str, Any]
) -> dict[str, Any]:
    """Returns an argument of a wrapper, with changes of the layer inside."""
    inside = wrapper.get_config()[name]
    inside["config"].update(changes)
    inside.pop("build_config", None)  # of the old inputs
    return {name: inside}
