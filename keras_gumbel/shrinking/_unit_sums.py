"""Layers whose units are weighted sums of the channels they read."""

import dataclasses
import functools
from typing import Any

import keras
import numpy as np

from keras_gumbel.shrinking._channels import Channels
from keras_gumbel.shrinking._channels import Edit
from keras_gumbel.shrinking._channels import Layout
from keras_gumbel.shrinking._channels import activated
from keras_gumbel.shrinking._channels import describe
from keras_gumbel.shrinking._channels import is_elementwise
from keras_gumbel.shrinking._channels import name_of


@dataclasses.dataclass(frozen=True)
class UnitSum:
    """A layer with units.

    Attributes:
        layer: The layer.
        argument: String, the argument for the number of units.
        weights: List of arrays.
        layouts: List of `Layout`, one for each weight and one for a bias.
        reads: Boolean array of shape `(inputs, units)`, whether a unit reads
            an input channel.
        totals: Float array of the same shape, the sum of a unit for an input
            channel that is 1 everywhere.
        bias: Float array of shape `(units,)`, the number that a unit adds to
            the sum; NaN if it varies.
        uniform: Boolean, whether the sum is the same everywhere. This is not so
            at the edges of inputs that are padded with zeros.
        merge_axis: Integer, the axis of the kernel on which one constant input
            can replace others, or `None` in a separable convolution, where this
            is impossible.
        axis: Integer, the axis of the units in the output.
        channels: `Channels` of the input, or `None` if it keeps its shape.
        leading: Tuple or `None`, the lengths before the number of units if the
            argument is a shape.
        new_bias: Dictionary, the arguments of a layer that gets a bias.
        title: String, the name of the units in reports.
        listed: Boolean, whether reports list the units.
    """

    layer: keras.Layer
    argument: str
    weights: list[np.ndarray]
    layouts: list[Layout]
    reads: np.ndarray
    totals: np.ndarray
    bias: np.ndarray
    uniform: bool
    merge_axis: int | None
    axis: int
    channels: Channels | None
    leading: tuple[int | None, ...] | None = None
    new_bias: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {"use_bias": True}
    )
    title: str = ""
    listed: bool = True

    @property
    def name(self) -> str:
        """The name of the units in reports."""
        return self.title or str(self.layer.name)

    @property
    def variables(self) -> list[keras.Variable]:
        """The variables that `weights` are the values of."""
        return list(self.layer.weights)

    @property
    def input_axis(self) -> int | None:
        """The axis of the input that the layer reads."""
        return None if self.channels is None else self.channels.axis

    @property
    def inputs(self) -> int:
        """The number of input channels."""
        return len(self.reads)

    @functools.cached_property
    def constants(self) -> np.ndarray:
        """The values of units that are constant, NaN for others.

        If an activation mixes units, these are the values before the
        activation.
        """
        known = self._foldable()
        values = np.where(known, self._inputs(), 0.0) @ self.totals + self.bias
        values = np.where(self.reads[~known].any(axis=0), np.nan, values)
        return activated(self.layer, values) if self._is_alone() else values

    @property
    def output(self) -> Channels:
        """The `Channels` of the output."""
        constants = self.constants
        if self._is_alone():
            return Channels(self.axis, constants)
        name = name_of(self.layer.activation)
        why = f"{describe(self.layer)} applies {name}, which may mix units"
        return Channels(self.axis, np.full_like(constants, np.nan), why)

    def has_edits(self) -> bool:
        """Whether the layer changes with its channels."""
        return True

    def demand(self, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns which input channels the kept units need.

        The first array marks channels that vary. The second marks constants
        that cannot be folded into the bias.
        """
        read = self.reads[:, kept].any(axis=1)
        varying = read & np.isnan(self._inputs())
        return varying, read & ~varying & ~self._foldable()

    def stand_ins(self, uneven: np.ndarray) -> np.ndarray:
        """Returns which constant inputs can replace those of `demand`.

        Much smaller inputs would need much larger weights.
        """
        sizes = np.nan_to_num(np.abs(self._inputs()))
        return sizes >= max(0.1 * sizes[uneven].max(), np.finfo("f4").tiny)

    def edit(self, kept_inputs: np.ndarray, kept: np.ndarray) -> Edit:
        """Returns the layer with the other channels folded into it."""
        weights = self.selected(kept_inputs, kept)
        config: dict[str, Any] = {self.argument: int(kept.sum())}
        if self.leading is not None:
            config[self.argument] = (*self.leading, int(kept.sum()))
        if len(weights) > len(self.weights):
            config.update(self.new_bias)
        return Edit(self.layer, config, weights)

    def selected(
        self, kept_inputs: np.ndarray, kept: np.ndarray
    ) -> list[np.ndarray]:
        """Returns the weights of the kept channels, perhaps with a new bias."""
        weights = [
            layout.select(weight, kept_inputs, kept)
            for layout, weight in zip(
                self.layouts, self._merged(kept_inputs, kept), strict=False
            )
        ]
        folded = np.where(~kept_inputs & self._foldable(), self._inputs(), 0.0)
        shift = np.tensordot(folded, self.totals, 1)[kept]
        if shift.any():
            shift = self.as_bias(shift)
            if len(weights) < len(self.layouts):
                weights.append(np.zeros_like(shift))
            weights[-1] = weights[-1] + shift
        return weights

    def as_bias(self, shift: np.ndarray) -> np.ndarray:
        """Returns the sums of units in the shape of a bias."""
        return shift

    def _merged(
        self, kept_inputs: np.ndarray, kept: np.ndarray
    ) -> list[np.ndarray]:
        """Returns the weights after one constant input replaces others.

        Inputs `a` and `b` are constant up to the edges. Their contribution
        equals that of `a` alone with the weights `w_a + w_b b / a`, including
        the edges.
        """
        inputs = self._inputs()
        _, uneven = self.demand(kept)
        lost = uneven & ~kept_inputs
        if self.merge_axis is None or not lost.any():
            return self.weights
        sizes = np.nan_to_num(np.abs(inputs)) * kept_inputs
        stand_in = np.argmax(sizes)
        dtype = self.weights[0].dtype
        kernel = np.moveaxis(self.weights[0], self.merge_axis, 0)
        kernel = kernel.astype("float64")
        shares = inputs[lost] / inputs[stand_in]
        kernel[stand_in] += np.tensordot(shares, kernel[lost], 1)
        kernel = np.moveaxis(kernel, 0, self.merge_axis).astype(dtype)
        return [kernel, *self.weights[1:]]

    def _inputs(self) -> np.ndarray:
        if self.channels is None:
            return np.full(len(self.reads), np.nan)
        return self.channels.constants

    def _foldable(self) -> np.ndarray:
        inputs = self._inputs()
        return ~np.isnan(inputs) if self.uniform else inputs == 0

    def _is_alone(self) -> bool:
        return is_elementwise(getattr(self.layer, "activation", None))
