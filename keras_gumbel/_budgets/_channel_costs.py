"""The cost of coupled channels, by the kept number of each group."""

import dataclasses
from typing import Any

import numpy as np
from keras import ops


@dataclasses.dataclass(frozen=True)
class KernelAxis:
    """The channels on an axis of a kernel.

    Attributes:
        fixed: Integer, the entries that always stay.
        entries: Dictionary from positions of groups to the number of entries of
            each of their sets of channels on the axis.
    """

    fixed: int
    entries: dict[int, int]


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel that becomes smaller with fewer channels.

    Attributes:
        name: String, the name in reports and dictionaries.
        rest: Integer, the number of weights for each pair of entries of the
            axes.
        axes: Pair of `KernelAxis`.
    """

    name: str
    rest: int
    axes: tuple[KernelAxis, KernelAxis]


@dataclasses.dataclass(frozen=True)
class Costs:
    """The total cost of channels, by the numbers n of kept sets.

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
        """Returns the cost of one more set of each group, of shape `(G,)`."""
        first, second = self._lengths(counts)
        scale = _like(counts, self.scale)
        left, right = (_like(counts, e.T) for e in self.entries)
        # A group can be on both axes of a kernel.
        both = _times(left * right, scale)
        return (
            _times(left, scale * second) + _times(right, scale * first) + both
        )

    def of_exchange(self, counts: Any) -> Any:
        """Returns the cost with one set of a group in place of another.

        It has the shape `(G, G)`: row i is for one set less of group i, column
        j for one more of group j.
        """
        first, second = self._lengths(counts)
        scale = _like(counts, self.scale)
        left, right = self.entries
        # Entries of both groups, on either axis, are on a kernel once less.
        cross = (left * self.scale[:, None]).T @ right
        less = _times(_like(counts, left.T), scale * second)
        less = less + _times(_like(counts, right.T), scale * first)
        less = less - _like(counts, np.diag(cross))
        more = self.of_one_more(counts)
        return (
            self.of(counts)
            + more
            - less[:, None]
            - _like(counts, cross + cross.T)
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
    """Returns a constant in the type of counts, an array or a tensor."""
    if isinstance(counts, np.ndarray):
        return constant
    return ops.convert_to_tensor(constant, "float32")
