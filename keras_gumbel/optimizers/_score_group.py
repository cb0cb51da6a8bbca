"""Scores that share a budget, and how they come under it."""

import dataclasses
import math
from typing import Any

import keras
from keras import ops

from keras_gumbel._scores import mark_of
from keras_gumbel._scores import saliency_of
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import is_number
from keras_gumbel._validation import is_schedule
from keras_gumbel.ops.cardinality import top_k_mask
from keras_gumbel.ops.cardinality import top_of_rows
from keras_gumbel.ops.projection import project_capped_box

# A schedule in float32 may leave K this much below the number it means.
WHOLE = 1e-3

# A step that every schedule has ended by.
LAST_STEP = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class ScoreGroup:
    """Scores that share a budget.

    Args:
        variables: List of variables.
        costs: List of floats, what one score of each variable costs.
        density: Number, schedule or `None`, K as a share of all costs.
            Defaults to `None`.
        budget: Number, schedule or `None`, K. Defaults to `None`.
    """

    variables: list[keras.Variable]
    costs: list[float]
    density: Any = None
    budget: Any = None

    @property
    def prices(self) -> list[float]:
        """What one score of each variable costs, with all its weights."""
        return [
            mark_of(v).weights * c
            for v, c in zip(self.variables, self.costs, strict=True)
        ]

    @property
    def total_cost(self) -> float:
        """The sum of the costs of all scores."""
        return sum(
            math.prod(v.shape) * price
            for v, price in zip(self.variables, self.prices, strict=True)
        )

    @property
    def learned(self) -> bool:
        """Whether scores are learned, not derived from saliencies."""
        return all(saliency_of(v) is None for v in self.variables)

    def budget_at(self, step: Any) -> Any:
        """Returns K, a number or a scalar tensor, after a number of steps."""
        limit = self.budget if self.density is None else self.density
        if is_schedule(limit):
            limit = ops.cast(limit(step), "float32")
        return limit if self.density is None else limit * self.total_cost

    def project(self, values: list[Tensor], step: Any) -> list[Tensor]:
        """Returns values for the scores that are under the budget."""
        budget = self.budget_at(step)
        if not self.learned:
            return self._largest(values, budget, budget)
        # Rows first: what the whole takes off keeps them within theirs.
        inside = [
            self._project_rows(value, mark_of(variable).rows, budget)
            for value, variable in zip(values, self.variables, strict=True)
        ]
        same = all(price == 1.0 for price in self.prices)
        return project_capped_box(
            inside,
            budget,
            costs=None if same else self.prices,
            differentiable=False,
        )

    def finish(self, values: list[Tensor], step: Any) -> list[Tensor]:
        """Returns zeros and ones that fit the budget from now on."""
        now, last = self.budget_at(step), self.budget_at(LAST_STEP)
        budget = now if is_number(now) else ops.minimum(now, last)
        return self._largest(values, budget, 0)

    def _project_rows(
        self, value: Tensor, rows: tuple[int, int] | None, budget: Any
    ) -> Tensor:
        if rows is None:
            return value
        return project_capped_box(
            value,
            self._row_budget(value, rows, budget),
            axis=rows[1],
            differentiable=False,
        )

    def _row_budget(
        self, value: Tensor, rows: tuple[int, int], budget: Any
    ) -> Any:
        """Returns how many of a row may be kept, while the budget is K.

        It falls with the density, down to the number in the end.
        """
        at_most, axis = rows
        length = value.shape[axis]
        fair = length * (budget / self.total_cost)
        if is_number(fair):
            return min(max(fair, at_most), length)
        return ops.clip(fair, float(at_most), float(length))

    def _largest(
        self, values: list[Tensor], budget: Any, row_budget: Any
    ) -> list[Tensor]:
        """Marks the largest, under a budget and one that rows follow."""
        marks = [mark_of(v) for v in self.variables]
        values = [
            value if mark.saliency is None else mark.saliency()
            for value, mark in zip(values, marks, strict=True)
        ]
        rows = [
            self._top_of_rows(value, mark.rows, row_budget)
            for value, mark in zip(values, marks, strict=True)
        ]
        # Below all that may be kept, and above where the search starts.
        values = [
            value if row is None else ops.where(row, value, -0.5)
            for value, row in zip(values, rows, strict=True)
        ]
        chosen = top_k_mask(values, budget + WHOLE, self.prices)
        return [
            mask if row is None else mask * ops.cast(row, mask.dtype)
            for mask, row in zip(chosen, rows, strict=True)
        ]

    def _top_of_rows(
        self, value: Tensor, rows: tuple[int, int] | None, budget: Any
    ) -> Tensor | None:
        if rows is None:
            return None
        count = self._row_budget(value, rows, budget) + WHOLE
        return top_of_rows(value, count, axis=rows[1])
