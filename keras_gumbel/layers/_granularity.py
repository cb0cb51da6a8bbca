"""Which entries of a kernel share a score."""

import dataclasses
import math
import re
from typing import Any
from typing import TypeAlias

from keras import ops

from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_integer

# That of a kernel is known.
_Shape: TypeAlias = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Granularity:
    """What a mask is made of, for kernels of any layer.

    Scores are kept in a shape that a kernel, split along some axes, broadcasts
    with: `split` is that of the kernel, `scores` that of the scores, with 1 on
    the axes along which they are shared.

    Attributes:
        value: `"weight"`, `"unit"`, `(rows, columns)` or `"N:M"`.
    """

    value: Any

    def problem(
        self, shape: _Shape, units: tuple[int, ...], axis: int | None
    ) -> str | None:
        """Says why a kernel cannot be masked so, if it cannot.

        Args:
            shape: Tuple of integers, the shape of the kernel.
            units: Tuple of the axes of units, counted from the end.
            axis: Integer, the axis of the inputs, counted from the end, or
                `None` if the kernel has not one.
        """
        if self.value == "unit" and not units:
            return "its kernel has no axis of units"
        if self.ratio is not None:
            if axis is None:
                return "its kernel is not summed over one axis of inputs"
            if shape[axis] % self.ratio[1]:
                return f"its {shape[axis]} inputs do not divide by {self.value}"
        if self.block is not None and any(
            length % size
            for length, size in zip(shape[-2:], self.block, strict=True)
        ):
            return f"{shape} does not divide into blocks of {self.block}"
        return None

    @property
    def ratio(self) -> tuple[int, int] | None:
        """N and M, if N of M are kept."""
        if not isinstance(self.value, str) or ":" not in self.value:
            return None
        kept, of = self.value.split(":")
        return int(kept), int(of)

    @property
    def block(self) -> tuple[int, int] | None:
        """The rows and columns of a block, if there are blocks."""
        return None if isinstance(self.value, str) else tuple(self.value)

    def layout(
        self, shape: _Shape, units: tuple[int, ...], axis: int | None
    ) -> "Layout":
        """Returns where the scores of a kernel are.

        Args:
            shape: Tuple of integers, the shape of the kernel.
            units: Tuple of the axes of units, counted from the end.
            axis: Integer, the axis of the inputs, counted from the end.
        """
        shape = tuple(shape)
        if self.value == "weight":
            return one_by_one(shape)
        if self.value == "unit":
            apart = {u % len(shape) for u in units}
            shared = tuple(n if i in apart else 1 for i, n in enumerate(shape))
            return Layout(shape, shape, shared)
        if self.ratio is not None and axis is not None:
            kept, of = self.ratio
            at = axis % len(shape)
            split = (*shape[:at], shape[at] // of, of, *shape[at + 1 :])
            return Layout(shape, split, split, (kept, at + 1))
        rows, columns = self.value
        blocks = shape[-2] // rows, shape[-1] // columns
        split = (*shape[:-2], blocks[0], rows, blocks[1], columns)
        shared = (*shape[:-2], blocks[0], 1, blocks[1], 1)
        return Layout(shape, split, shared)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the scores of one kernel are.

    Attributes:
        shape: Tuple of integers, the shape of the kernel.
        split: Tuple of integers, that of the kernel with some axes split.
        scores: Tuple of integers, that of the scores.
        rows: Pair of how many of a row may be kept in the end and the axis
            of the scores that rows lie on, or `None`.
    """

    shape: _Shape
    split: _Shape
    scores: _Shape
    rows: tuple[int, int] | None = None

    @property
    def weights(self) -> int:
        """How many weights share a score."""
        return math.prod(self.split) // math.prod(self.scores)

    def expand(self, scores: Tensor) -> Tensor:
        """Returns a mask of the shape of the kernel."""
        if self.scores == self.shape:
            return scores
        return ops.reshape(ops.broadcast_to(scores, self.split), self.shape)

    def saliency(self, magnitudes: Tensor) -> Tensor:
        """Returns the root mean square of what shares a score."""
        if self.scores == self.shape:
            return magnitudes
        split = ops.reshape(magnitudes, self.split)
        if self.scores == self.split:
            return split
        shared = tuple(
            i
            for i, (n, s) in enumerate(
                zip(self.split, self.scores, strict=True)
            )
            if n != s
        )
        return ops.sqrt(ops.mean(ops.square(split), axis=shared, keepdims=True))


def one_by_one(shape: _Shape) -> Layout:
    """Returns where the scores are if every entry has one."""
    return Layout(tuple(shape), tuple(shape), tuple(shape))


def require_granularity(owner: str, value: Any) -> Granularity:
    """Returns the granularity, or raises unless there is one of the name."""
    if isinstance(value, (list, tuple)):
        known = len(value) == 2 and all(is_integer(n) and n > 0 for n in value)
        value = tuple(value)
    else:
        ratio = re.fullmatch(r"(\d+):(\d+)", str(value))
        known = value in ("weight", "unit") or (
            ratio is not None and 0 < int(ratio[1]) < int(ratio[2])
        )
    if not known:
        raise invalid_argument(
            owner,
            "granularity",
            "'weight', 'unit', a pair (rows, columns) of positive integers, "
            "or 'N:M' with N < M",
            value,
        )
    return Granularity(value)
