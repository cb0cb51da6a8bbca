"""The order of channels of several groups."""

import numpy as np
from keras import ops

from keras_gumbel._typing import Tensor


class Order:
    """Channels of several groups in one tensor.

    They are always shuffled in the same way, so no group comes first among
    equal channels.

    Args:
        sizes: List of integers, the number of channels in each group.
    """

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes
        self.size = sum(sizes)
        self._shuffled = np.random.default_rng(0).permutation(self.size)
        self._places = np.argsort(self._shuffled).astype("int32")
        self.groups = np.repeat(np.arange(len(sizes)), sizes)[self._shuffled]
        self.groups = self.groups.astype("int32")
        self._starts = np.cumsum([0, *sizes[:-1]]).astype("int32")

    def together(self, values: list[Tensor]) -> Tensor:
        """Returns a tensor of shape `(size,)`."""
        flat = ops.concatenate([ops.reshape(v, (-1,)) for v in values])
        return ops.take(flat, self._shuffled.astype("int32"))

    def apart(self, values: Tensor) -> list[Tensor]:
        """Undoes `together`."""
        flat = ops.take(values, self._places)
        ends = self._starts[1:].tolist()
        return ops.split(flat, ends) if ends else [flat]

    def count(self, kept: Tensor) -> Tensor:
        """Returns the number of kept channels of each group, as `(groups,)`."""
        return ops.segment_sum(kept, integers(self.groups), len(self.sizes))

    def rank(self, values: Tensor, floors: np.ndarray) -> Tensor:
        """Returns the rank of each channel, the largest values first.

        The largest channels of each group come before all others, as many as
        `floors`.
        """
        place = ranks(values)
        # Ranks within the groups: by group, and then by rank.
        keys = place + integers(self.groups * np.int32(self.size))
        within = ranks(-keys) - integers(self._starts[self.groups])
        first = within < integers(floors[self.groups])
        return ranks(-ops.where(first, place, place + self.size))


def integers(values: np.ndarray) -> Tensor:
    return ops.convert_to_tensor(values, "int32")


def ranks(values: Tensor) -> Tensor:
    """Returns the rank of each entry, the largest first."""
    order = ops.argsort(-values)
    return ops.cast(ops.argsort(order), "int32")
