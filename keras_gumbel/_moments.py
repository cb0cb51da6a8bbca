"""Second moments of what a weight matrix is multiplied with.

`keras_gumbel.calibrate` leaves them on the variable of the weight, where masks
and the functions of whole models find them.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any
from typing import ClassVar

import numpy as np

_ATTRIBUTE = "keras_gumbel_moments"

# The share of the mean second moment that is added to each of them, as in
# SparseGPT, so that the matrix of moments can be inverted.
DAMPING = 0.01


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """The moments of the inputs x of a weight, seen as a matrix (d, units).

    Attributes:
        count: Integer, the number of inputs x.
        blocks: List of float32 arrays, the sum of all x x^T. Above
            `LARGEST` inputs these are the blocks on its diagonal alone.
        axes: Tuple of integers, the axes of the weight that its inputs are
            on.
    """

    count: int
    blocks: list[np.ndarray]
    axes: tuple[int, ...]

    # The most inputs in a block.
    LARGEST: ClassVar[int] = 2048

    @classmethod
    def parts(cls, inputs: int) -> list[slice]:
        """Returns where the blocks of a number of inputs are."""
        starts = range(0, inputs, cls.LARGEST)
        return [slice(i, min(i + cls.LARGEST, inputs)) for i in starts]

    def each(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Yields where each block is, and the block."""
        start = 0
        for block in self.blocks:
            yield slice(start, start + len(block)), block
            start += len(block)

    def mean_squares(self) -> np.ndarray:
        """Returns E x_i^2 of every input."""
        diagonals = [np.diagonal(block) for block in self.blocks]
        return np.concatenate(diagonals) / self.count

    def scale(self, saliency: str) -> np.ndarray:
        """Returns what the magnitude of a weight counts, input by input.

        Args:
            saliency: String, `"wanda"` for sqrt(E x_i^2), or `"obs"` for
                1 / sqrt([H^-1]_ii) with H = E x x^T, damped.
        """
        if saliency == "wanda":
            return np.sqrt(self.mean_squares())
        return np.concatenate(
            [_removal_cost(b / self.count) for b in self.blocks]
        )

    def as_matrix(self, weight: np.ndarray) -> np.ndarray:
        """Returns a weight in the shape (d, units)."""
        inputs = sum(map(len, self.blocks))
        first = range(len(self.axes))
        return np.moveaxis(weight, self.axes, first).reshape(inputs, -1)

    def from_matrix(
        self, matrix: np.ndarray, shape: tuple[int, ...]
    ) -> np.ndarray:
        """Undoes `as_matrix`, for a weight of a shape."""
        rest = [n for i, n in enumerate(shape) if i not in self.axes]
        inputs = [shape[i] for i in self.axes]
        split = matrix.reshape(*inputs, *rest)
        return np.moveaxis(split, range(len(self.axes)), self.axes)


def damping_of(block: np.ndarray) -> float:
    """Returns what is added to the diagonal of a block of moments."""
    # Inputs that are all 0 have no moments: any damping will do.
    return DAMPING * float(np.mean(np.diagonal(block), dtype="float64")) or 1.0


def scale_shape(
    shape: tuple[int, ...], axes: tuple[int, ...]
) -> tuple[int, ...]:
    """Returns the shape of one number an input that broadcasts to a weight."""
    return tuple(n if i in axes else 1 for i, n in enumerate(shape))


def set_moments(weight: Any, moments: Moments | None) -> None:
    """Leaves moments on a variable, or that none could be observed."""
    setattr(weight, _ATTRIBUTE, moments)


def moments_of(weight: Any) -> Moments | None:
    """Returns the moments that were left on a variable, or `None`."""
    return getattr(weight, _ATTRIBUTE, None)


def missing_moments(weight: Any, input_axes: Any) -> str | None:
    """Returns why a weight has no moments, or `None`.

    Args:
        weight: The variable.
        input_axes: Tuple of integers, the axes that its inputs are on, or
            `None` if `keras_gumbel.calibrate` cannot observe them.
    """
    if moments_of(weight) is not None:
        return None
    if input_axes is None:
        return "not a layer that `keras_gumbel.calibrate` supports"
    if hasattr(weight, _ATTRIBUTE):
        return (
            "no inputs seen by `keras_gumbel.calibrate`: its layer is not "
            "called by the model, or is inside a recurrent layer"
        )
    return "no calibration data: call `keras_gumbel.calibrate` first"


def _removal_cost(block: np.ndarray) -> np.ndarray:
    """Returns 1 / sqrt([H^-1]_ii)."""
    damped = block.astype("float64")
    damped[np.diag_indices_from(damped)] += damping_of(block)
    inverse = np.diagonal(np.linalg.inv(damped))
    used = np.diagonal(block) > 0
    return np.where(used, 1.0 / np.sqrt(inverse), 0.0)
