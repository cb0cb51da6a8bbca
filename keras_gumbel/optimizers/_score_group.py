"""Scores that share a budget, and how they come under it."""

import dataclasses
import math
from typing import Any

import keras
from keras import ops

from keras_gumbel._scores import saliency_of
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import is_number
from keras_gumbel._validation import is_schedule
from keras_gumbel.ops.cardinality import top_k_mask
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
    def total_cost(self) -> float:
        """The sum of the costs of all scores."""
        return sum(
            math.prod(v.shape) * c
            for v, c in zip(self.variables, self.costs, strict=True)
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
        if not self.learned:
            return self.decide(values, step)
        same = all(cost == 1.0 for cost in self.costs)
        return project_capped_box(
            values,
            self.budget_at(step),
            costs=None if same else self.costs,
            differentiable=False,
        )

    def decide(self, values: list[Tensor], step: Any) -> list[Tensor]:
        """Returns zeros and ones for the scores that are under the budget."""
        return self._largest(values, self.budget_at(step))

    def finish(self, values: list[Tensor], step: Any) -> list[Tensor]:
        """Returns zeros and ones that fit the budget from now on."""
        now, last = self.budget_at(step), self.budget_at(LAST_STEP)
        budget = now if is_number(now) else ops.minimum(now, last)
        return self._largest(values, budget)

    def _largest(self, values: list[Tensor], budget: Any) -> list[Tensor]:
        saliencies = [saliency_of(v) for v in self.variables]
        values = [
            value if saliency is None else saliency()
            for value, saliency in zip(values, saliencies, strict=True)
        ]
        return top_k_mask(values, budget + WHOLE, self.costs)
