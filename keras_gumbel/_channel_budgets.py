"""Coupled channels that share a budget of what is computed with them."""

import dataclasses
import functools
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._budgets import NEVER
from keras_gumbel._budgets import BudgetGroup
from keras_gumbel._scores import mark_of
from keras_gumbel._scores import name_of
from keras_gumbel._scores import saliency_of
from keras_gumbel._typing import Tensor
from keras_gumbel.ops._cardinality import nan_if_any
from keras_gumbel.ops._loops import either

# A choice is made for this many steps ahead, so that it stands for a while.
_AHEAD = 20

# Training takes this many steps before what it has seen can choose.
_WARM_UP = 20

# What a channel costs depends on those that are kept, so it is found again.
_ROUNDS = 4

# Products of counts are compared with a budget in float32.
_ROUNDING = 1e-6


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
        return _times(left, scale * second) + _times(right, scale * first)

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
    def ranked(self) -> bool:
        """Whether saliencies set the scores, and gradients do not."""
        return True

    def spent(self, values: list[np.ndarray]) -> float:
        """Returns what scores cost, as arrays."""
        counts = np.array([v.sum(dtype="float64") for v in values])
        return float(self.joint.of(counts))

    def project(self, values: list[Tensor], step: Any) -> list[Tensor]:
        now, later = self.budget_at(step), self.budget_at(step + _AHEAD)
        return self._drop(values, now, ops.minimum(now, later), step)

    def finish(self, values: list[Tensor], step: Any) -> list[Tensor]:
        budget = self.final_budget_at(step)
        return self._drop(values, budget, budget, _WARM_UP)

    def _drop(
        self, values: list[Tensor], budget: Any, target: Any, step: Any
    ) -> list[Tensor]:
        """Drops channels if they cost more than a budget, down to a target."""
        values = [ops.maximum(v, 0.0) for v in values]
        saliencies = [saliency_of(v) for v in self.variables]
        fits, known = self._fits(values, budget), self._known(saliencies, step)
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
        return self.is_final_mask(values, budget)

    def final_masks(self, values: list[Tensor], budget: Any) -> list[Tensor]:
        saliencies = [saliency_of(v) for v in self.variables]
        known = self._known(saliencies, _WARM_UP)
        if _keras_private.is_eager(known) and not known:
            fits = self._fits(values, budget)
            if fits:
                return values
            listed = ", ".join(map(name_of, self.variables))
            raise ValueError(
                "Nothing is known yet of how much each channel matters, so "
                f"none can be dropped of {listed}. Train the model with a "
                "`ProjectedOptimizer` first, or use `mask='magnitude'`."
            )
        return self._choose(values, saliencies, budget)

    def _known(self, saliencies: list[Tensor], step: Any) -> Any:
        """Whether there are saliencies to choose by."""
        if not any(mark_of(v).observed for v in self.variables):
            return ops.convert_to_tensor(True)
        some = functools.reduce(
            ops.logical_or, [ops.any(s != 0.0) for s in saliencies]
        )
        return ops.logical_and(some, step >= _WARM_UP)

    def _fits(self, values: list[Tensor], budget: Any) -> Tensor:
        whole = [ops.all(ops.logical_or(v == 1.0, v == 0.0)) for v in values]
        fits = self._within(self.joint.of(_counts(values)), budget)
        return functools.reduce(ops.logical_and, [fits, *whole])

    def _within(self, spent: Any, budget: Any) -> Any:
        return spent <= budget * (1.0 + _ROUNDING)

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
        order = _Order([math.prod(v.shape) for v in self.variables])
        kept = ops.cast(order.together(allowed) > NEVER, "float32")
        saliency = ops.cast(order.together(saliencies), "float32")
        observed = any(mark_of(v).observed for v in self.variables)
        rounds = _ROUNDS if observed else 1
        spent = self.joint.of(order.count(kept))
        ratio = ops.maximum(spent / budget, 1.0)

        def drop(number: Any, kept: Tensor) -> Tensor:
            value = saliency
            if observed:
                costs = self.joint.of_one_more(order.count(kept))
                costs = ops.maximum(costs, _ROUNDING * self.every)
                value = saliency / ops.take(costs, _integers(order.groups))
            live = kept > 0.0
            rank = order.rank(ops.where(live, value, -1.0), self._floors)
            left = 1.0 - (ops.cast(number, "float32") + 1.0) / rounds
            first = self._affordable(order, rank, live, budget * ratio**left)
            return ops.cast(ops.logical_and(rank < first, live), "float32")

        kept = _repeat(rounds, drop, kept)
        return nan_if_any(order.apart(kept), saliencies)

    def _affordable(
        self, order: "_Order", rank: Tensor, live: Tensor, budget: Any
    ) -> Tensor:
        """Returns how many of the first channels the budget pays for."""

        def halve(_: Any, ends: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            low, high = ends
            middle = (low + high + 1) // 2
            first = ops.cast(ops.logical_and(rank < middle, live), "float32")
            fits = self._within(self.joint.of(order.count(first)), budget)
            return (
                ops.where(fits, middle, low),
                ops.where(fits, high, middle - 1),
            )

        fewest = ops.convert_to_tensor(int(self._floors.sum()), "int32")
        all_of_them = ops.convert_to_tensor(order.size, "int32")
        times = order.size.bit_length()
        return _repeat(times, halve, (fewest, all_of_them))[0]


def _repeat(times: int, body: Any, state: Any) -> Any:
    """Returns what becomes of a state; only in a trace is the loop compiled."""
    if times > 1 and not _keras_private.is_eager(keras.tree.flatten(state)[0]):
        return ops.fori_loop(0, times, body, state)
    for number in range(times):
        state = body(number, state)
    return state


class _Order:
    """Channels of several groups in one tensor.

    They are shuffled, always alike: between equal ones no group comes first.

    Args:
        sizes: List of integers, how many there are of each group.
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
        """Returns how many of each group are kept, of shape `(groups,)`."""
        return ops.segment_sum(kept, _integers(self.groups), len(self.sizes))

    def rank(self, values: Tensor, floors: np.ndarray) -> Tensor:
        """Returns the place of each channel, the largest values first.

        Before all others come the largest of each group, as many as `floors`.
        """
        place = _ranks(values)
        # Places within the groups: by group, and there by place.
        keys = place + _integers(self.groups * np.int32(self.size))
        within = _ranks(-keys) - _integers(self._starts[self.groups])
        first = within < _integers(floors[self.groups])
        return _ranks(-ops.where(first, place, place + self.size))


def _integers(values: np.ndarray) -> Tensor:
    return ops.convert_to_tensor(values, "int32")


def _ranks(values: Tensor) -> Tensor:
    """Returns the place of each entry, the largest first."""
    order = ops.argsort(-values)
    return ops.cast(ops.argsort(order), "int32")


def _counts(values: list[Tensor]) -> Tensor:
    return ops.stack([ops.sum(ops.cast(v, "float32")) for v in values])


def _count(scores: keras.Variable) -> float:
    """Returns how many channels scores keep that training does not change."""
    if not _keras_private.is_readable(scores):
        return float(math.prod(scores.shape))
    with _keras_private.outside_graph():
        return float(ops.convert_to_numpy(scores).sum())
