"""Scores under a budget, in rows that all keep the same number."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gumbel._budgets._group import LOST
from keras_gumbel._budgets._group import NEVER
from keras_gumbel._budgets._group import WHOLE
from keras_gumbel._budgets._group import BudgetGroup
from keras_gumbel._budgets._group import floor_of
from keras_gumbel._scores import mark_of
from keras_gumbel._scores import saliency_of
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import is_number
from keras_gumbel.ops._cardinality import nan_if_any
from keras_gumbel.ops._floors import raised_in_rows
from keras_gumbel.ops._long_rows import as_rows
from keras_gumbel.ops._long_rows import from_rows
from keras_gumbel.ops._long_rows import largest_of_rows
from keras_gumbel.ops._long_rows import project_rows

# The largest rounding error of a budget in float32, as a fraction.
_ROUNDING = 2.0**-22


@dataclasses.dataclass(frozen=True)
class Table:
    """The kept number of a row, at every density where it changes.

    Attributes:
        densities: Float64 array of shape `(D,)`, increasing, from 0 on.
        costs: Float64 array of shape `(D,)`, the cost of these numbers plus the
            minimum cost of other scores.
        counts: List of int32 arrays of shape `(D,)`, one for each variable.
    """

    densities: np.ndarray
    costs: np.ndarray
    counts: list[np.ndarray]

    def at(self, density: Any, budget: Any) -> list[Any]:
        """Returns the numbers for a density, or a smaller one if K is small.

        Args:
            density: Number or scalar tensor.
            budget: Number or scalar tensor K.
        """
        if is_number(budget):
            due = np.sum(self.densities <= density)
            paid = np.sum(self.costs <= budget + WHOLE)
            place = max(min(due, paid) - 1, 0)
            return [int(count[place]) for count in self.counts]
        slack = ops.maximum(WHOLE, _ROUNDING * budget)
        due, paid = (
            ops.sum(ops.cast(ops.convert_to_tensor(x, "float32") <= y, "int32"))
            for x, y in (
                (self.densities, density),
                (self.costs, budget + slack),
            )
        )
        place = ops.maximum(ops.minimum(due, paid) - 1, 0)
        return [
            ops.cast(ops.take(ops.convert_to_tensor(count), place), "float32")
            for count in self.counts
        ]


@dataclasses.dataclass(frozen=True)
class EvenRowsGroup(BudgetGroup):
    """Scores that share a budget, and are partly in even rows.

    Every even row of length L keeps n scores, where

    ```
    n = max(1, floor(d L)),  d = K / (sum of all costs)
    ```

    or the `minimum` of the scores if this is larger. If this costs too much, d
    is the largest density within the budget. Other scores compete for the rest
    of the budget.
    """

    @functools.cached_property
    def _even(self) -> list[int]:
        return [i for i, v in enumerate(self.variables) if is_even(v)]

    @functools.cached_property
    def _others(self) -> list[int]:
        return [i for i, v in enumerate(self.variables) if not is_even(v)]

    @functools.cached_property
    def _table(self) -> Table:
        own = [self.variables[i] for i in self._even]
        lengths = [length_of(v) for v in own]
        densities = np.unique(
            np.concatenate(
                [[0.0], *((np.arange(1, n + 1) - WHOLE) / n for n in lengths)]
            )
        )
        # Equal rows keep the same number.
        found: dict[tuple[int, int], np.ndarray] = {}
        counts = []
        costs = np.full(densities.shape, self._least_of_others)
        for i, v, length in zip(self._even, own, lengths, strict=True):
            key = length, least_of_row(v)
            if key not in found:
                fair = np.floor(densities * length + WHOLE + 1e-9)
                found[key] = np.clip(fair, key[1], length).astype("int32")
            counts.append(found[key])
            rows = math.prod(v.shape) // length
            costs = costs + self.costs[i] * rows * found[key].astype("float64")
        return Table(densities, costs, counts)

    @property
    def _least_of_others(self) -> float:
        return sum(
            self.costs[i] * floor_of(self.variables[i]) for i in self._others
        )

    @property
    def least_cost(self) -> float:
        """The cost of the minimum of the scores."""
        return float(self._table.costs[0])

    def counts(self, budget: Any) -> list[Any]:
        """Returns the kept number of each row of the even variables."""
        return self._table.at(budget / self.total_cost, budget)

    def project(self, values: list[Tensor], step: Any) -> list[Tensor]:
        budget = self.budget_at(step)
        if self.ranked:
            # In a step that nothing is chosen in, `frequency` says so there.
            return super().project(values, step)
        return self._apart(
            values,
            budget,
            _projected,
            lambda group, own: group.project(own, 0),
        )

    def _largest(
        self,
        values: list[Tensor],
        budget: Any,
        row_budget: Any,
        ties: list[Tensor] | None = None,
    ) -> list[Tensor]:
        chosen = self._apart(
            values,
            budget,
            lambda v, value, count: _largest(v, value, count, None),
            lambda group, own: group._largest(own, group.budget, group.budget),
        )
        return nan_if_any(chosen, values)

    def project_again(
        self, values: list[Tensor], step: Any, last: Any
    ) -> tuple[list[Tensor], Any]:
        return self.project(values, step), last

    def final_masks(self, values: list[Tensor], budget: Any) -> list[Tensor]:
        left = self._left(budget)
        chosen = self._apart(
            values,
            budget,
            self._ranked if self.ranked else _chosen,
            lambda group, own: group.final_masks(own, left),
        )
        compared = values
        if self.ranked:
            compared = [saliency_of(v) for v in self.variables]
        return nan_if_any(chosen, compared)

    def allows(self, values: list[Tensor], step: Any, final: bool) -> bool:
        if not super().allows(values, step, final):
            return False
        if final:
            return True
        budget = float(ops.convert_to_numpy(self.budget_at(step)))
        pairs = zip(self._even, self.counts(budget), strict=True)
        return not any(
            bool(ops.any(_sums(self.variables[i], values[i]) > n * (1 + 1e-5)))
            for i, n in pairs
        )

    def fits(self, values: list[Tensor], budget: Any) -> Tensor:
        fits = super().fits(values, budget)
        for i, n in zip(self._even, self.counts(budget), strict=True):
            if is_even(self.variables[i]):  # not stripped meanwhile
                within = _sums(self.variables[i], values[i]) <= n
                fits = ops.logical_and(fits, ops.all(within))
        return fits

    def _left(self, budget: Any) -> Any:
        """Returns the rest of a budget after the even rows."""
        spent: Any = 0.0
        for i, n in zip(self._even, self.counts(budget), strict=True):
            v = self.variables[i]
            rows = math.prod(v.shape) // length_of(v)
            spent = spent + self.costs[i] * rows * n
        if is_number(budget):
            return max(budget - spent, 0.0)
        return ops.maximum(budget - spent, 0.0)

    def _apart(
        self,
        values: list[Tensor],
        budget: Any,
        even: Callable[[keras.Variable, Tensor, Any], Tensor],
        others: Callable[[BudgetGroup, list[Tensor]], list[Tensor]],
    ) -> list[Tensor]:
        """Chooses even rows separately, and other scores with the rest."""
        found = list(values)
        for i, n in zip(self._even, self.counts(budget), strict=True):
            found[i] = even(self.variables[i], values[i], n)
        if self._others:
            group = BudgetGroup(
                [self.variables[i] for i in self._others],
                [self.unit_costs[i] for i in self._others],
                budget=self._left(budget),
            )
            settled = others(group, [values[i] for i in self._others])
            for i, value in zip(self._others, settled, strict=True):
                found[i] = value
        return found

    def _ranked(
        self, variable: keras.Variable, value: Tensor, count: Any
    ) -> Tensor:
        saliency = ops.cast(saliency_of(variable), value.dtype)
        compared = ops.where(value == LOST, NEVER, saliency)
        return _largest(variable, compared, count, None)


def is_even(variable: keras.Variable) -> bool:
    """Whether all rows of scores keep the same number."""
    rows = mark_of(variable).rows
    return rows is not None and rows[0] is None


def axes_of(variable: keras.Variable) -> tuple[int, ...]:
    """Returns the axes of a row of scores."""
    rows: Any = mark_of(variable).rows
    return rows[1] if isinstance(rows[1], tuple) else (rows[1],)


def length_of(variable: keras.Variable) -> int:
    """Returns the length of a row of scores."""
    return math.prod(variable.shape[axis] for axis in axes_of(variable))


def least_of_row(variable: keras.Variable) -> int:
    """Returns the smallest number of kept scores in a row."""
    share = mark_of(variable).minimum * length_of(variable)
    return max(math.ceil(share - WHOLE), 1)


def _projected(variable: keras.Variable, value: Tensor, count: Any) -> Tensor:
    axes, shape = axes_of(variable), tuple(value.shape)
    rows = as_rows(value, axes)
    found = project_rows(rows, count)
    if mark_of(variable).minimum:
        lost = rows == LOST
        found = raised_in_rows(found, floor_of(variable), lost, count, 1)
    return from_rows(found, axes, shape)


def _chosen(variable: keras.Variable, value: Tensor, count: Any) -> Tensor:
    compared = ops.where(value == LOST, NEVER, ops.clip(value, 0.0, 1.0))
    return _largest(variable, compared, count, saliency_of(variable))


def _largest(
    variable: keras.Variable, value: Tensor, count: Any, ties: Tensor | None
) -> Tensor:
    axes = axes_of(variable)
    rows = as_rows(value, axes)
    order = None if ties is None else as_rows(ties, axes)
    largest = largest_of_rows(rows, count, order)
    kept = ops.logical_and(largest, rows > NEVER)
    mask = ops.cast(kept, value.dtype)
    return from_rows(mask, axes, tuple(value.shape))


def _sums(variable: keras.Variable, value: Tensor) -> Tensor:
    """Returns the sums of all rows."""
    return ops.sum(as_rows(value, axes_of(variable)), axis=1)
