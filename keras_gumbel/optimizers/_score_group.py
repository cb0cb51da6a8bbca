"""Scores that share a budget, and how they come under it."""

import dataclasses
import math
import re
from collections.abc import Iterable
from typing import Any

import keras
from keras import ops

from keras_gumbel._scores import mark_of
from keras_gumbel._scores import saliency_of
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_number
from keras_gumbel._validation import is_schedule
from keras_gumbel.ops.cardinality import nan_if_any
from keras_gumbel.ops.cardinality import top_k_mask
from keras_gumbel.ops.cardinality import top_of_rows
from keras_gumbel.ops.projection import project_capped_box
from keras_gumbel.ops.projection import project_over

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

    def project(
        self,
        values: list[Tensor],
        step: Any,
        alive: list[Tensor] | None = None,
    ) -> list[Tensor]:
        """Returns values for the scores that are under the budget.

        Args:
            values: List of float tensors z, which may be written over.
            step: Integer or tensor, the number of steps so far.
            alive: List of boolean tensors, which scores may be more than 0,
                or `None` for all. Defaults to `None`.
        """
        budget = self.budget_at(step)
        if not self.learned:
            return self._largest(values, budget, budget, alive)
        if alive is not None:
            values = list(map(_only, values, alive, [0.0] * len(values)))
        # Rows first: what the whole takes off keeps them within theirs.
        inside = [
            self._project_rows(value, mark_of(variable).rows, budget)
            for value, variable in zip(values, self.variables, strict=True)
        ]
        same = all(price == 1.0 for price in self.prices)
        costs = None if same else self.prices
        return project_over(inside, budget, costs)

    def finish(
        self,
        values: list[Tensor],
        step: Any,
        alive: list[Tensor] | None = None,
    ) -> list[Tensor]:
        """Returns zeros and ones that fit the budget from now on."""
        now, last = self.budget_at(step), self.budget_at(LAST_STEP)
        budget = now if is_number(now) else ops.minimum(now, last)
        return self._largest(values, budget, 0, alive)

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
        self,
        values: list[Tensor],
        budget: Any,
        row_budget: Any,
        alive: list[Tensor] | None,
    ) -> list[Tensor]:
        """Marks the largest, under a budget and one that rows follow.

        A NaN makes all of them NaN: training that diverged has no mask.
        """
        marks = [mark_of(v) for v in self.variables]
        values = [
            value if mark.saliency is None else mark.saliency()
            for value, mark in zip(values, marks, strict=True)
        ]
        compared = values
        allowed = alive or [None] * len(values)
        # Below all that may be kept, and above where the search starts.
        values = list(map(_only, values, allowed, [-0.5] * len(values)))
        rows = [
            self._top_of_rows(value, mark.rows, row_budget)
            for value, mark in zip(values, marks, strict=True)
        ]
        values = list(map(_only, values, rows, [-0.5] * len(values)))
        chosen = top_k_mask(values, budget + WHOLE, self.prices)
        for kept in (allowed, rows):
            chosen = list(map(_only, chosen, kept, [0.0] * len(values)))
        return nan_if_any(chosen, compared)

    def _top_of_rows(
        self, value: Tensor, rows: tuple[int, int] | None, budget: Any
    ) -> Tensor | None:
        if rows is None:
            return None
        count = self._row_budget(value, rows, budget) + WHOLE
        return top_of_rows(value, count, axis=rows[1])


def score_groups(
    scores: list[keras.Variable], name: str, limits: Any, costs: Any
) -> list[ScoreGroup]:
    """Sorts scores by the budget they are under.

    Args:
        scores: List of variables.
        name: String, "budget" or "density", what the limits are.
        limits: One for all scores, or a dictionary of regexes to them.
        costs: Dictionary of regexes to costs, or `None`.
    """
    if not isinstance(limits, dict):
        limits = {"": limits}
    members: dict[str, list[keras.Variable]] = {key: [] for key in limits}
    for variable in scores:
        pattern = _first_found(limits, variable)
        if pattern is None:
            raise invalid_argument(
                "ProjectedOptimizer",
                name,
                "a number, or a dictionary with a regex for all scores",
                limits,
                f"No regex is found in {variable.path}.",
            )
        members[pattern].append(variable)
    return [
        ScoreGroup(
            variables=variables,
            costs=[_cost(costs or {}, v) for v in variables],
            **{name: limits[pattern]},
        )
        for pattern, variables in members.items()
        if variables
    ]


def _cost(costs: dict[str, float], variable: keras.Variable) -> float:
    pattern = _first_found(costs, variable)
    return 1.0 if pattern is None else float(costs[pattern])


def _first_found(
    patterns: Iterable[str], variable: keras.Variable
) -> str | None:
    found = (p for p in patterns if re.search(p, variable.path))
    return next(found, None)


def _only(value: Tensor, kept: Tensor | None, other: float) -> Tensor:
    """Returns a tensor with another number where it is not kept."""
    return value if kept is None else ops.where(kept, value, other)
