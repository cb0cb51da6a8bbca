"""Single channels that are taken back after a choice, or exchanged."""

from typing import Any

import numpy as np
from keras import ops

from keras_gumbel._budgets._channel_costs import Costs
from keras_gumbel._budgets._channel_order import Order
from keras_gumbel._budgets._channel_order import integers
from keras_gumbel._typing import Tensor
from keras_gumbel.ops._loops import repeated


class Moves:
    """Moves of single channels by which more saliency is kept.

    A channel that fits the budget is taken back, the one of largest value
    first. If none fits, one is taken back in exchange for another one of
    smaller saliency, where that fits.

    Args:
        order: `Order`.
        costs: `Costs`.
        floors: Integer array, how many channels every group has to keep.
        budget: Number or scalar tensor, slightly above K for rounding.
        live: Boolean tensor, whether a channel may be kept.
        saliency: Tensor of this shape.
        value: Tensor of this shape, ordered like `saliency` in each group.
    """

    def __init__(
        self,
        order: Order,
        costs: Costs,
        floors: np.ndarray,
        budget: Any,
        live: Tensor,
        saliency: Tensor,
        value: Tensor,
    ) -> None:
        self._order = order
        self._costs = costs
        self._floors = ops.convert_to_tensor(floors, "float32")
        self._budget = budget
        self._live = ops.cast(live, "float32")
        descending = ops.argsort(-saliency)
        self._rank = ops.cast(ops.argsort(descending), "float32")
        self._saliency = ops.take(saliency, descending)
        self._value = ops.take(value, descending)

    def all_from(self, kept: Tensor) -> Tensor:
        """Returns what is kept when no move is left."""

        def goes_on(number: Tensor, kept: Tensor, moved: Tensor) -> Tensor:
            return ops.logical_and(moved, number > 0)

        def move(
            number: Tensor, kept: Tensor, moved: Tensor
        ) -> tuple[Tensor, Tensor, Tensor]:
            return number - 1, *self._best_from(kept)

        most = ops.convert_to_tensor(self._order.size, "int32")
        moved = ops.convert_to_tensor(True)
        return repeated(goes_on, move, (most, kept, moved))[1]

    def _best_from(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Returns what is kept after the best move, and whether it is one."""
        counts = self._order.count(kept)
        size, groups = self._order.size, len(self._order.sizes)
        out = self._live * (1.0 - kept)
        # The first dropped and the last kept channel of each group.
        first = -self._largest(out, -self._rank)
        last = self._largest(kept, self._rank)

        more = self._costs.of(counts) + self._costs.of_one_more(counts)
        fits = ops.logical_and(first < size, more <= self._budget)
        value = ops.where(fits, self._at(first, self._value), -1.0)

        after = self._costs.of_exchange(counts)
        fair = ops.logical_and(first < size, after <= self._budget)
        spare = ops.expand_dims(counts > self._floors, 1)
        lost = ops.expand_dims(self._at(last, self._saliency), 1)
        gain = self._at(first, self._saliency) - lost
        gain = ops.where(ops.logical_and(fair, spare), gain, 0.0)
        gain = ops.reshape(gain, (-1,))

        some, pair = ops.any(fits), ops.argmax(gain)
        moved = ops.logical_or(some, ops.max(gain) > 0.0)
        taken = ops.where(some, ops.argmax(value), pair % groups)
        # No channel has the rank -1.
        given = ops.where(some, -1.0, ops.take(last, pair // groups))
        after = ops.where(self._rank == ops.take(first, taken), 1.0, kept)
        after = ops.where(self._rank == given, 0.0, after)
        return ops.where(moved, after, kept), moved

    def _largest(self, some: Tensor, values: Tensor) -> Tensor:
        """Returns the largest value of some channels in each group.

        It is minus the number of channels if there are none.
        """
        values = ops.where(some > 0.0, values, -float(self._order.size))
        groups = integers(self._order.groups)
        return ops.segment_max(values, groups, len(self._order.sizes))

    def _at(self, rank: Tensor, values: Tensor) -> Tensor:
        rank = ops.clip(rank, 0.0, float(self._order.size - 1))
        return ops.take(values, ops.cast(rank, "int32"))
