"""Coupled channels that share a budget of what is computed with them."""

import dataclasses
import functools
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._budgets._channel_costs import Costs
from keras_gumbel._budgets._channel_costs import Kernel
from keras_gumbel._budgets._channel_moves import Moves
from keras_gumbel._budgets._channel_order import Order
from keras_gumbel._budgets._channel_order import integers
from keras_gumbel._budgets._group import NEVER
from keras_gumbel._budgets._group import BudgetGroup
from keras_gumbel._scores import mark_of
from keras_gumbel._scores import name_of
from keras_gumbel._scores import saliency_of
from keras_gumbel._typing import Tensor
from keras_gumbel.ops._cardinality import nan_if_any
from keras_gumbel.ops._loops import either

# A choice is made for this many steps ahead, so that it stands for a while.
_AHEAD = 20

# The last choice is made where this multiple of the final budget is left. What
# it drops, it can choose from to spend the whole budget.
_LAST = 1.1

# The number of training steps before the statistics can choose.
_WARM_UP = 20

# The cost of a channel depends on the kept channels, so it is recomputed.
_ROUNDS = 4

# Products of counts are compared with a budget in float32.
_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """The groups of coupled channels of a model, and what they cost.

    Attributes:
        kernels: List of `Kernel`.
        scores: List of variables, the scores of each group.
    """

    kernels: list[Kernel]
    scores: list[keras.Variable]

    def budget(
        self,
        variables: list[keras.Variable],
        unit_costs: dict[str, float],
        density: Any,
        budget: Any,
    ) -> "ChannelBudget":
        """Returns a budget of what the model computes with its channels.

        Args:
            variables: List of variables, some or all of `scores`. The others
                keep the channels that they have.
            unit_costs: Dictionary of the names of kernels to what one weight
                of theirs costs.
            density: K as a share of what all channels cost, or `None`.
            budget: K, or `None`.
        """
        sizes = [math.prod(v.shape) for v in self.scores]
        axes = [[kernel.axes[i] for kernel in self.kernels] for i in (0, 1)]
        entries = np.array(
            [
                [[x.entries.get(g, 0) for g in range(len(sizes))] for x in own]
                for own in axes
            ],
            "float64",
        )
        fixed = np.array([[x.fixed for x in own] for own in axes], "float64")
        scale = np.array([k.rest * unit_costs[k.name] for k in self.kernels])
        dense = Costs(scale, fixed, entries)
        every = float(dense.of(np.array(sizes, "float64")))
        places = {id(v): i for i, v in enumerate(self.scores)}
        own = [places[id(v)] for v in variables]
        others = [i for i in range(len(sizes)) if i not in own]
        stay = [_count(self.scores[i]) for i in others]
        fixed = fixed + entries[:, :, others] @ np.array(stay, "float64")
        costs = Costs(scale, fixed, entries[:, :, own])
        return ChannelBudget(variables, [], density, budget, costs, every)

    def share(
        self, variables: list[keras.Variable], density: Any, budget: Any
    ) -> "ChannelBudget":
        """Returns a budget that counts channels, however much they cost."""
        sizes = [math.prod(v.shape) for v in variables]
        costs = Costs(
            np.ones(1),
            np.array([[0.0], [1.0]]),
            np.array([[[1.0] * len(sizes)], [[0.0] * len(sizes)]]),
        )
        return ChannelBudget(
            variables, [], density, budget, costs, float(sum(sizes))
        )


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the channels are that scores stand for.

    Attributes:
        network: `Network`.
        index: Integer, the place of their group.
    """

    network: Network
    index: int


@dataclasses.dataclass(frozen=True)
class ChannelBudget(BudgetGroup):
    """Coupled channels that share a budget.

    Kept are the channels of largest saliency. A choice is made when the budget
    demands one; what it drops stays dropped.

    Args:
        variables: List of variables, the scores of groups of channels.
        unit_costs: Not used.
        density: As in `BudgetGroup`.
        budget: As in `BudgetGroup`.
        joint: `Costs`.
        every: Float, what all channels of the model cost.
    """

    joint: Any = None
    every: float = 0.0

    @property
    def total_cost(self) -> float:
        """What all channels of the model cost."""
        return self.every

    @property
    def least_cost(self) -> float:
        """What the fewest channels cost that every group has to keep."""
        return float(self.joint.of(self._floors.astype("float64")))

    @property
    def fixed_cost(self) -> float:
        """What is left with one channel of every group."""
        return float(self.joint.of(np.ones(len(self.variables))))

    @property
    def ranked(self) -> bool:
        """Whether saliencies set the scores, and gradients do not."""
        return True

    def spent(self, values: list[np.ndarray]) -> float:
        """Returns what scores cost, as arrays."""
        counts = np.array([v.sum(dtype="float64") for v in values])
        return float(self.joint.of(counts))

    def project(self, values: list[Tensor], step: Any) -> list[Tensor]:
        now, later = self.budget_at(step), self.budget_at(step + _AHEAD)
        final = self.final_budget_at(step)
        target = ops.where(later <= _LAST * final, final, later)
        return self._drop(values, now, ops.minimum(now, target), step)

    def finish(self, values: list[Tensor], step: Any) -> list[Tensor]:
        budget = self.final_budget_at(step)
        return self._drop(values, budget, budget, _WARM_UP)

    def _drop(
        self, values: list[Tensor], budget: Any, target: Any, step: Any
    ) -> list[Tensor]:
        """Drops channels if they cost more than a budget, down to a target."""
        values = [ops.maximum(v, 0.0) for v in values]
        saliencies = [saliency_of(v) for v in self.variables]
        fits, known = self.fits(values, budget), self._known(saliencies, step)
        due = ops.logical_and(ops.logical_not(fits), known)

        def choose() -> list[Tensor]:
            allowed = [ops.where(v > 0.0, 1.0, NEVER) for v in values]
            return self._choose(allowed, saliencies, target)

        return either(due, choose, lambda: values)

    def allows(self, values: list[Tensor], step: Any, final: bool) -> bool:
        saliencies = [saliency_of(v) for v in self.variables]
        if not bool(self._known(saliencies, step)):
            return True
        budget = self.final_budget_at(step) if final else self.budget_at(step)
        return bool(self.fits(values, budget))

    def final_masks(self, values: list[Tensor], budget: Any) -> list[Tensor]:
        saliencies = [saliency_of(v) for v in self.variables]
        known = self._known(saliencies, _WARM_UP)
        if _keras_private.is_eager(known) and not known:
            fits = self.fits(values, budget)
            if fits:
                return values
            listed = ", ".join(map(name_of, self.variables))
            raise ValueError(
                f"No channel of {listed} can be dropped, because it is not "
                "known yet how much each channel matters. Train the model with "
                "a `ProjectedOptimizer` first, or use `mask='magnitude'`."
            )
        return self._choose(values, saliencies, budget)

    def _known(self, saliencies: list[Tensor], step: Any) -> Any:
        """Whether there are saliencies to choose by."""
        if not self._observed:
            return ops.convert_to_tensor(True)
        some = functools.reduce(
            ops.logical_or, [ops.any(s != 0.0) for s in saliencies]
        )
        return ops.logical_and(some, step >= _WARM_UP)

    def fits(self, values: list[Tensor], budget: Any) -> Tensor:
        whole = [ops.all(ops.logical_or(v == 1.0, v == 0.0)) for v in values]
        fits = self._within(self.joint.of(_counts(values)), budget)
        return functools.reduce(ops.logical_and, [fits, *whole])

    def _within(self, spent: Any, budget: Any) -> Any:
        return spent <= budget * (1.0 + _ROUNDING)

    @property
    def _observed(self) -> bool:
        """Whether saliencies are known from training alone."""
        return any(mark_of(v).observed for v in self.variables)

    @property
    def _floors(self) -> np.ndarray:
        """How many sets every group has to keep."""
        return np.maximum(self.floors, 1).astype("int32")

    def _choose(
        self, allowed: list[Tensor], saliencies: list[Tensor], budget: Any
    ) -> list[Tensor]:
        """Marks the channels of largest saliency.

        Observed saliencies are compared for what the channels cost, with as
        many as are kept of all others. They are dropped in rounds, since these
        costs change as they go.

        Args:
            allowed: List of tensors, above `NEVER` where a channel may be
                kept.
            saliencies: List of tensors of these shapes.
            budget: Number or scalar tensor K.
        """
        order = Order([math.prod(v.shape) for v in self.variables])
        live = order.together(allowed) > NEVER
        saliency = ops.cast(order.together(saliencies), "float32")
        kept = self._dropped(order, live, saliency, budget)
        moves = Moves(
            order,
            self.joint,
            self._floors,
            budget * (1.0 + _ROUNDING),
            live,
            saliency,
            self._value(order, saliency, kept),
        )
        kept = moves.all_from(kept)
        return nan_if_any(order.apart(kept), saliencies)

    def _dropped(
        self, order: Order, live: Tensor, saliency: Tensor, budget: Any
    ) -> Tensor:
        """Keeps the first channels, as many as the budget pays for."""
        kept = ops.cast(live, "float32")
        spent = self.joint.of(order.count(kept))
        ratio = ops.maximum(spent / budget, 1.0)
        rounds = _ROUNDS if self._observed else 1

        def drop(number: Any, kept: Tensor) -> Tensor:
            value = self._value(order, saliency, kept)
            value = ops.where(kept > 0.0, value, -1.0)
            rank = order.rank(value, self._floors)
            left = 1.0 - (ops.cast(number, "float32") + 1.0) / rounds
            limit = budget * ratio**left
            fewest = int(self._floors.sum())
            return self._first(order, rank, kept, limit, fewest)

        return _repeat(rounds, drop, kept)

    def _value(self, order: Order, saliency: Tensor, kept: Tensor) -> Tensor:
        """Returns what channels are compared by, with as many kept of all."""
        if not self._observed:
            return saliency
        costs = self.joint.of_one_more(order.count(kept))
        costs = ops.maximum(costs, _ROUNDING * self.every)
        return saliency / ops.take(costs, integers(order.groups))

    def _first(
        self,
        order: Order,
        rank: Tensor,
        some: Tensor,
        budget: Any,
        fewest: int,
    ) -> Tensor:
        """Marks the first of some channels that the budget pays for.

        Args:
            order: `Order`.
            rank: Integer tensor, the places that they are taken by.
            some: Tensor of ones for them.
            budget: Number or scalar tensor.
            fewest: Integer, the number of places that are always taken.
        """

        def up_to(place: Tensor) -> Tensor:
            return some * ops.cast(rank < place, "float32")

        def halve(_: Any, ends: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            low, high = ends
            middle = (low + high + 1) // 2
            spent = self.joint.of(order.count(up_to(middle)))
            fits = self._within(spent, budget)
            return (
                ops.where(fits, middle, low),
                ops.where(fits, high, middle - 1),
            )

        low = ops.convert_to_tensor(fewest, "int32")
        high = ops.convert_to_tensor(order.size, "int32")
        times = order.size.bit_length()
        return up_to(_repeat(times, halve, (low, high))[0])


def _repeat(times: int, body: Any, state: Any) -> Any:
    """Returns what becomes of a state; only in a trace is the loop compiled."""
    if times > 1 and not _keras_private.is_eager(keras.tree.flatten(state)[0]):
        return ops.fori_loop(0, times, body, state)
    for number in range(times):
        state = body(number, state)
    return state


def _counts(values: list[Tensor]) -> Tensor:
    return ops.stack([ops.sum(ops.cast(v, "float32")) for v in values])


def _count(scores: keras.Variable) -> float:
    """Returns the number of channels that fixed scores keep."""
    if not _keras_private.is_readable(scores):
        return float(math.prod(scores.shape))
    with _keras_private.outside_graph():
        return float(ops.convert_to_numpy(scores).sum())
