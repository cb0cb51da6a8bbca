"""What coupled channels cost, by how many of each group are kept."""

import dataclasses
from typing import Any

import numpy as np
from keras import ops


@dataclasses.dataclass(frozen=True)
class KernelAxis:
    """The channels that lie on an axis of a kernel.

    Attributes:
        fixed: Integer, the entries that always stay.
        entries: Dictionary of places of groups to the number of entries that
            each of their sets of channels has on the axis.
    """

    fixed: int
    entries: dict[int, int]


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel that is smaller with fewer channels.

    Attributes:
        name: String, the name in reports and dictionaries.
        rest: Integer, the weights for each pair of entries of the two axes.
        axes: Pair of `KernelAxis`.
    """

    name: str
    rest: int
    axes: tuple[KernelAxis, KernelAxis]


@dataclasses.dataclass(frozen=True)
class Costs:
    """What channels cost together, by the numbers n of sets that are kept.

    ```
    cost(n) = sum_l scale_l (fixed_1l + E_1l n) (fixed_2l + E_2l n)
    ```

    Attributes:
        scale: Float array of shape `(L,)`, one for each kernel.
        fixed: Float array of shape `(2, L)`.
        entries: Float array E of shape `(2, L, G)`, for G groups.
    """

    scale: np.ndarray
    fixed: np.ndarray
    entries: np.ndarray

    def of(self, counts: Any) -> Any:
        """Returns the cost, for an array or a tensor of shape `(G,)`."""
        first, second = self._lengths(counts)
        total = np.sum if isinstance(counts, np.ndarray) else ops.sum
        return total(_like(counts, self.scale) * first * second)

    def of_one_more(self, counts: Any) -> Any:
        """Returns what one more set of each group costs, of shape `(G,)`."""
        first, second = self._lengths(counts)
        scale = _like(counts, self.scale)
        left, right = (_like(counts, e.T) for e in self.entries)
        # A group may lie on both axes of a kernel.
        both = _times(left * right, scale)
        return (
            _times(left, scale * second) + _times(right, scale * first) + both
        )

    def _lengths(self, counts: Any) -> tuple[Any, Any]:
        first, second = (
            _like(counts, fixed) + _times(_like(counts, entries), counts)
            for fixed, entries in zip(self.fixed, self.entries, strict=True)
        )
        return first, second


def _times(matrix: Any, vector: Any) -> Any:
    product = np.matmul if isinstance(vector, np.ndarray) else ops.matmul
    return product(matrix, vector)


def _like(counts: Any, constant: np.ndarray) -> Any:
    """Returns a constant as what counts are, an array or a tensor."""
    if isinstance(counts, np.ndarray):
        return constant
    return ops.convert_to_tensor(constant, "float32")
