"""Scores that share a budget, and how they come under it."""

import dataclasses
import functools
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._scores import mark_of
from keras_gumbel._scores import saliency_of
from keras_gumbel._scores import start_by_saliency
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import is_number
from keras_gumbel._validation import is_schedule
from keras_gumbel.ops._cardinality import nan_if_any
from keras_gumbel.ops._cardinality import top_k_mask
from keras_gumbel.ops._cardinality import top_of_rows
from keras_gumbel.ops._floors import nearest_with_sum
from keras_gumbel.ops._floors import project_above_floors
from keras_gumbel.ops._floors import raised_in_rows
from keras_gumbel.ops._loops import either
from keras_gumbel.ops._projection import project_again
from keras_gumbel.ops._projection import project_capped_box
from keras_gumbel.ops._short_rows import LONGEST
from keras_gumbel.ops._short_rows import project_short_rows

# A schedule in float32 may leave K this much below the number it means.
WHOLE = 1e-3

# A step that every schedule has ended by.
LAST_STEP = 2**31 - 1

# What takes the place of a score that has been lost for good: a number that
# no step leads to, for a score that is alive may fall as low.
LOST = -1.0 - 2.0**-23

# Such a score in comparisons. All others count as 0 at least.
NEVER = -0.5


@dataclasses.dataclass(frozen=True)
class BudgetGroup:
    """Scores that share a budget.

    Args:
        variables: List of variables.
        unit_costs: List of floats, what one weight of each variable costs.
        density: Number, schedule or `None`, K as a fraction of all costs.
            Defaults to `None`.
        budget: Number, schedule or `None`, K. Defaults to `None`.
    """

    variables: list[keras.Variable]
    unit_costs: list[float]
    density: Any = None
    budget: Any = None

    # Kept, for a mark may be removed from scores that are stripped.
    @functools.cached_property
    def costs(self) -> list[float]:
        """What one score of each variable costs, with all its weights."""
        return [
            mark_of(v).weights_per_score * c
            for v, c in zip(self.variables, self.unit_costs, strict=True)
        ]

    @property
    def total_cost(self) -> float:
        """The sum of the costs of all scores."""
        pairs = zip(self.variables, self.costs, strict=True)
        return sum(math.prod(v.shape) * cost for v, cost in pairs)

    @functools.cached_property
    def floors(self) -> list[int]:
        """How many scores of each variable are kept at least."""
        return [floor_of(v) for v in self.variables]

    @property
    def least_cost(self) -> float:
        """What the scores cost that are kept at least."""
        pairs = zip(self.costs, self.floors, strict=True)
        return sum(cost * floor for cost, floor in pairs)

    @property
    def fixed_cost(self) -> float:
        """What has to be kept whatever the minimums are."""
        return 0.0

    @property
    def ranked(self) -> bool:
        """Whether saliencies set the scores, and gradients do not."""
        return any(mark_of(v).ranked for v in self.variables)

    def plan(self) -> None:
        """Completes a schedule that depends on the network."""
        limit = self.budget if self.density is None else self.density
        early = all(mark_of(v).prunes_early for v in self.variables)
        if early and hasattr(limit, "prune_early"):
            limit.prune_early()

    def start(self) -> None:
        """Orders scores of a pretrained network, if the budget drops some."""
        if self.ranked:
            return
        spent = self.spent(list(map(ops.convert_to_numpy, self.variables)))
        if spent > float(ops.convert_to_numpy(self.budget_at(LAST_STEP))):
            for variable in self.variables:
                start_by_saliency(variable)

    @property
    def frequency(self) -> int:
        """The number of updates from one ranking to the next."""
        return mark_of(self.variables[0]).frequency

    def spent(self, values: list[np.ndarray]) -> float:
        """Returns what scores cost, given as arrays."""
        pairs = zip(self.costs, values, strict=True)
        return sum(cost * value.sum(dtype="float64") for cost, value in pairs)

    def budget_at(self, step: Any) -> Any:
        """Returns K, a number or a scalar tensor, after a number of steps."""
        limit = self.budget if self.density is None else self.density
        if is_schedule(limit):
            limit = _value_at(limit, step)
        return limit if self.density is None else limit * self.total_cost

    def project(self, values: list[Tensor], step: Any) -> list[Tensor]:
        """Returns values for the scores that are under the budget.

        Args:
            values: List of float tensors z, which may be written over.
            step: Integer or tensor, the number of steps so far.
        """
        if not self.ranked:
            return self.project_again(values, step, None)[0]

        def choose() -> list[Tensor]:
            budget = self.budget_at(step)
            saliencies = [saliency_of(v) for v in self.variables]
            return self._largest(_never_as(values, saliencies), budget, budget)

        if self.frequency == 1:
            return choose()
        due = ops.logical_or(
            ops.equal(step % self.frequency, 0),
            # Scores that were written from outside, or never chosen yet.
            ops.logical_not(self._count_fits(values, self._last_choice(step))),
        )
        return either(
            due, choose, lambda: [ops.maximum(v, 0.0) for v in values]
        )

    def _last_choice(self, step: Any) -> Any:
        """Returns the step that scores in force were chosen at."""
        return step - step % self.frequency

    def _count_fits(self, values: list[Tensor], step: Any) -> Tensor:
        """Whether so many scores fit the budget at a step, if each is 1."""
        spent = sum(
            cost * ops.cast(ops.sum(ops.cast(v > 0.0, "int32")), "float32")
            for v, cost in zip(values, self.costs, strict=True)
        )
        return spent <= self.budget_at(step) + WHOLE

    def project_again(
        self, values: list[Tensor], step: Any, last: Any
    ) -> tuple[list[Tensor], Any]:
        """Projects in less time, given what the last projection has returned.

        Args:
            values: As in `project`.
            step: As there.
            last: Tensor of two numbers, or `None`.

        Returns:
            A list of tensors, and what `last` is the next time.
        """
        if self.ranked:
            return self.project(values, step), last
        budget = self.budget_at(step)
        # Rows first: what the whole takes off keeps them within theirs.
        inside = [
            self._project_rows(value, mark_of(variable).rows, budget)
            for value, variable in zip(values, self.variables, strict=True)
        ]
        if self.least_cost:
            floors = self._floors_within(budget)
            found = project_above_floors(
                inside,
                budget,
                self.costs,
                floors,
                [
                    functools.partial(self._lowest, *parts, budget)
                    for parts in zip(
                        self.variables, values, inside, floors, strict=True
                    )
                ],
            )
            return found, last
        same = all(cost == 1.0 for cost in self.costs)
        costs = None if same else self.costs
        return project_again(inside, budget, costs, last)

    def _lowest(
        self,
        variable: keras.Variable,
        value: Tensor,
        inside: Tensor,
        floor: Any,
        budget: Any,
    ) -> Tensor:
        """Returns scores that sum to their floor, within their rows."""
        rows = mark_of(variable).rows
        if rows is None:
            return nearest_with_sum(value, floor, value == LOST)
        most = self._row_budget(value, rows, budget)
        return raised_in_rows(inside, floor, value == LOST, most, rows[1])

    def _floors_within(self, budget: Any) -> list[Any]:
        """Returns the floors, lower where a schedule dips below them."""
        if is_number(budget):
            share = min(1.0, budget / self.least_cost)
            return [math.floor(share * m + WHOLE) for m in self.floors]
        share = ops.minimum(1.0, budget / self.least_cost)
        return [ops.floor(share * m + WHOLE) for m in self.floors]

    def final_budget_at(self, step: Any) -> Any:
        """Returns the K of a mask that is to fit the budget from now on."""
        now, last = self.budget_at(step), self.budget_at(LAST_STEP)
        return now if is_number(now) else ops.minimum(now, last)

    def finish(self, values: list[Tensor], step: Any) -> list[Tensor]:
        """Returns zeros and ones that fit the budget from now on."""
        return self.final_masks(values, self.final_budget_at(step))

    def remain(
        self, values: list[Tensor], step: Any, settled: Any, kept: Any = False
    ) -> list[Tensor]:
        """Returns a final mask as it is, or chooses one where it is none.

        Args:
            values: List of float tensors.
            step: Integer or tensor, the number of steps so far.
            settled: Boolean or tensor, whether they were made a final mask
                before. They are none all the same where scores were written
                from outside: weights of an earlier epoch that a callback
                restores.
            kept: Boolean or tensor, whether they are known to be part of the
                mask that training has made. Defaults to `False`.
        """
        fits = self.fits(values, self.final_budget_at(step))
        remains = ops.logical_and(settled, ops.logical_or(fits, kept))
        return either(
            remains, lambda: values, lambda: self.finish(values, step)
        )

    def allows(self, values: list[Tensor], step: Any, final: bool) -> bool:
        """Whether scores are within the budget, or NaN, which is to show.

        Args:
            values: List of float tensors that have values now.
            step: Integer, the number of steps so far.
            final: Boolean, whether they must be a final mask.
        """
        spent = self.spent([ops.convert_to_numpy(value) for value in values])
        if math.isnan(spent):
            return True
        if final:
            budget = self.final_budget_at(step)
            return bool(self.fits(values, budget))
        budget = float(ops.convert_to_numpy(self.budget_at(step)))
        if self.least_cost:
            floors = self._floors_within(budget)
            if any(
                ops.convert_to_numpy(value).sum(dtype="float64")
                < floor * (1.0 - 1e-5)
                for value, floor in zip(values, floors, strict=True)
            ):
                return False
        # TensorFlow swaps moving averages by sums and differences that round.
        return spent <= budget * (1.0 + 1e-6)

    def fits(self, values: list[Tensor], budget: Any) -> Tensor:
        """Whether values are zeros and ones that fit a budget."""
        spent: Any = 0.0
        decided: Any = True
        floors = self._floors_within(budget) if self.least_cost else None
        for i, (value, cost) in enumerate(zip(values, self.costs, strict=True)):
            ones = value == 1.0
            # Sums of integers are exact; a NaN is neither 0 nor 1.
            count = ops.sum(ops.cast(ones, "int32"))
            spent += cost * ops.cast(count, "float32")
            known = ops.all(ops.logical_or(ones, value == 0.0))
            decided = ops.logical_and(decided, known)
            if floors is not None:
                enough = ops.cast(count, "float32") >= floors[i]
                decided = ops.logical_and(decided, enough)
        return ops.logical_and(decided, spent <= budget + WHOLE)

    def final_masks(self, values: list[Tensor], budget: Any) -> list[Tensor]:
        """Returns ones for the largest scores, as many as the budget allows.

        Of equal scores, those of the larger weights are kept.

        Args:
            values: List of float tensors, what the scores would be.
            budget: Number or scalar tensor K.
        """
        saliencies = [saliency_of(v) for v in self.variables]
        if self.ranked:
            return self._largest(_never_as(values, saliencies), budget, 0)
        values = [
            ops.where(v == LOST, NEVER, ops.clip(v, 0.0, 1.0)) for v in values
        ]
        return self._largest(values, budget, 0, saliencies)

    def _project_rows(
        self, value: Tensor, rows: tuple[int, int] | None, budget: Any
    ) -> Tensor:
        if rows is None:
            return value
        limit = self._row_budget(value, rows, budget)
        if value.shape[rows[1]] <= LONGEST:
            return project_short_rows(value, limit, rows[1])
        return project_capped_box(
            value, limit, axis=rows[1], differentiable=False
        )

    def _row_budget(
        self, value: Tensor, rows: tuple[int, int], budget: Any
    ) -> Any:
        """Returns the largest kept number of a row while the budget is K.

        It falls with the density, down to the number in the end.
        """
        at_most, axis = rows
        length = value.shape[axis]
        fair = length * (budget / self.total_cost)
        if is_number(fair):
            return min(max(fair, at_most), length)
        return ops.clip(fair, float(at_most), float(length))

    def _largest(
        self,
        values: list[Tensor],
        budget: Any,
        row_budget: Any,
        ties: list[Tensor] | None = None,
    ) -> list[Tensor]:
        """Marks the largest, under a budget and one that rows follow.

        A NaN makes all of them NaN: training that diverged has no mask.
        """
        allowed = []
        for i, (value, variable) in enumerate(
            zip(values, self.variables, strict=True)
        ):
            kept = value > NEVER
            rows = mark_of(variable).rows
            if rows is not None:
                count = self._row_budget(value, rows, row_budget) + WHOLE
                tie = None if ties is None else ties[i]
                top = top_of_rows(value, count, rows[1], tie)
                kept = ops.logical_and(kept, top)
            allowed.append(kept)
        compared = [
            ops.where(kept, value, NEVER)
            for kept, value in zip(allowed, values, strict=True)
        ]
        if not self.least_cost:
            chosen = top_k_mask(compared, budget + WHOLE, self.costs, ties)
        else:
            chosen = self._largest_above_floors(compared, budget, ties)
        chosen = [
            ops.where(kept, mask, 0.0)
            for kept, mask in zip(allowed, chosen, strict=True)
        ]
        return nan_if_any(chosen, values)

    def _largest_above_floors(
        self, values: list[Tensor], budget: Any, ties: list[Tensor] | None
    ) -> list[Tensor]:
        """Marks the largest of each variable, then of what is left."""
        floors = self._floors_within(budget)
        first = [
            top_k_mask(value, floor, ties=None if ties is None else ties[i])
            if self.floors[i]
            else ops.zeros_like(value)
            for i, (value, floor) in enumerate(zip(values, floors, strict=True))
        ]
        pairs = zip(self.costs, floors, strict=True)
        left = budget - sum(cost * floor for cost, floor in pairs)
        rest = [
            ops.where(mask > 0.0, NEVER, value)
            for mask, value in zip(first, values, strict=True)
        ]
        if not is_number(left):
            left = ops.maximum(left, 0.0)
        others = top_k_mask(rest, left + WHOLE, self.costs, ties)
        return [
            ops.where(mask > 0.0, mask, other)
            for mask, other in zip(first, others, strict=True)
        ]


def floor_of(variable: keras.Variable) -> int:
    """Returns the smallest number of scores that a variable keeps."""
    share = mark_of(variable).minimum * math.prod(variable.shape)
    return max(math.ceil(share - WHOLE), 1 if share else 0)


def _value_at(schedule: Any, step: Any) -> Any:
    """Returns the value of a schedule, whose steps may not be known yet."""
    known = isinstance(step, int) or _keras_private.is_eager(step)
    if hasattr(schedule, "value_at_end") and known:
        if int(step) in (0, LAST_STEP):
            value = schedule.value_at_end(begins=int(step) == 0)
            if value is not None:
                return ops.convert_to_tensor(value, "float32")
    return ops.cast(schedule(step), "float32")


def _never_as(values: list[Tensor], saliencies: list[Tensor]) -> list[Tensor]:
    """Returns saliencies, without those of scores that may not be kept.

    One of NaN stays: training that diverged is to show.
    """
    found = []
    for value, saliency in zip(values, saliencies, strict=True):
        number = ops.logical_not(ops.isnan(saliency))
        never = ops.logical_and(value == LOST, number)
        found.append(ops.where(never, NEVER, ops.cast(saliency, value.dtype)))
    return found
