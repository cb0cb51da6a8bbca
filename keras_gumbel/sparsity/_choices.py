"""The final mask that a model would get now, and its undecided scores."""

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gumbel._budgets import BudgetGroup
from keras_gumbel._budgets import budget_groups
from keras_gumbel._budgets import group_of
from keras_gumbel._budgets import limits_of
from keras_gumbel._budgets import require_limits
from keras_gumbel._validation import SparsityWarning
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_schedule
from keras_gumbel.sparsity._budget_keeping import find_projected
from keras_gumbel.sparsity._found import Replaced
from keras_gumbel.sparsity._found import Scores
from keras_gumbel.sparsity._found import find_scores
from keras_gumbel.sparsity._found import gated_parts
from keras_gumbel.sparsity._found import gated_weights
from keras_gumbel.sparsity._found import require_numbers

# Scores between these are neither kept nor dropped yet.
UNDECIDED = (0.05, 0.95)

# With more undecided scores than this for each kept weight, the network with
# its final mask differs too much from the trained one: at the end of training,
# and when a mask is hardened and the weights are trained further.
MOST_AT_END = 1.0
MOST_WHEN_HARDENED = 3.0


@dataclasses.dataclass(frozen=True)
class Choice:
    """A budget, and the scores that share it.

    Attributes:
        group: `BudgetGroup`.
        budget: Number K of ones to keep, or the largest cost.
        settled: Boolean, whether training has made the mask final. Scores that
            are zeros and ones then do not change, even if the budget allows
            more.
    """

    group: BudgetGroup
    budget: float
    settled: bool = False

    def final_masks(
        self, values: dict[int, np.ndarray]
    ) -> dict[int, np.ndarray]:
        """Returns zeros and ones for the scores, by the ids of variables."""
        keys = [id(v) for v in self.group.variables]
        own = [values[key] for key in keys]
        decided = all(np.isin(value, (0, 1)).all() for value in own)
        if not (self.settled and decided):
            tensors = [ops.convert_to_tensor(v, "float32") for v in own]
            found = self.group.final_masks(tensors, self.budget)
            own = [ops.convert_to_numpy(mask) for mask in found]
        return dict(zip(keys, own, strict=True))


def decide(
    owner: str,
    model: keras.Layer,
    scores: list[Scores],
    density: Any = None,
    budget: Any = None,
    now: bool = False,
) -> list[Choice] | None:
    """Returns the budgets of the final mask.

    They are taken from the first of these sources that exists: the arguments,
    the final budgets of the optimizer that the model is compiled with or was
    compiled with before it was hardened, and a mask that was final when it was
    saved. Without any of them, the result is `None`. Frozen scores are in no
    budget and do not change, and without arguments, neither do hardened ones.

    Args:
        owner: String, the function or class for errors.
        model: Keras model or layer.
        scores: List of `Scores`.
        density: As in `keras_gumbel.harden`, or `None`.
        budget: As in `keras_gumbel.harden`, or `None`.
        now: Boolean, whether to return the current budgets of the optimizer.
    """
    live = [s for s in scores if not s.frozen]
    if density is not None or budget is not None:
        require_limits(owner, density, budget)
        for limit in limits_of(density) + limits_of(budget):
            if is_schedule(limit):
                raise invalid_argument(
                    owner,
                    "budget" if density is None else "density",
                    "a number, or a dictionary of numbers",
                    limit,
                    "Only the optimizer follows a schedule.",
                )
        variables = [s.variable for s in live]
        groups = budget_groups(owner, variables, density, budget)
        return [Choice(g, g.budget_at(0)) for g in groups]
    live = [s for s in live if not s.hardened]
    optimizer = projected_optimizer(model)
    if optimizer is None:
        known = live and all(s.final for s in live)
        return [whole(live)] if known else None
    if not live:
        return []
    settled = optimizer.built and optimizer.holds_final_mask()
    find = optimizer.current_budgets if now else optimizer.final_budgets
    choices = []
    for k, group in find([s.variable for s in live]):
        if settled:
            # More than K, if a part of the model is now frozen or stripped.
            values = [ops.convert_to_numpy(v) for v in group.variables]
            k = max(k, group.spent(values))
        choices.append(Choice(group, k, settled))
    return choices


def whole(scores: list[Scores]) -> Choice:
    """Returns one budget for scores: the number of ones drawn on average."""
    variables = [s.variable for s in scores]
    group = group_of(variables, [1.0] * len(variables))
    return Choice(group, round(sum(s.expected() for s in scores)), True)


def projected_optimizer(model: keras.Layer) -> Any:
    """Returns the `ProjectedOptimizer` that a model has or had, or `None`."""
    found = find_projected(getattr(model, "optimizer", None))
    replaced = Replaced.of(model)
    if found is None and replaced is not None:
        found = find_projected(replaced.before)
    return found


def final_masks(
    scores: list[Scores],
    choices: list[Choice],
    change: Callable[[np.ndarray], np.ndarray] | None = None,
) -> list[np.ndarray]:
    """Keeps as many of the largest scores as the budgets allow.

    Between equal scores, those of the larger weights are kept.

    Args:
        scores: List of `Scores`.
        choices: List of `Choice`.
        change: Callable that changes the values that are compared, or `None`.
            Defaults to `None`.

    Returns:
        A list of float32 arrays of zeros and ones, one for each of `scores`.
    """
    values = {}
    for s in scores:
        value = s.learned()
        values[id(s.variable)] = value if change is None else change(value)
    kept: dict[int, np.ndarray] = {}
    for choice in choices:
        kept.update(choice.final_masks(values))
    rest = [s for s in scores if id(s.variable) not in kept]
    for s in rest:  # frozen or hardened ones
        own = {id(s.variable): s.values()}
        kept.update(own if s.hardened else whole([s]).final_masks(own))
    return [kept[id(s.variable)] for s in scores]


@dataclasses.dataclass(frozen=True)
class Decisions:
    """The scores of a model, and the final mask that it would get now.

    Attributes:
        scores: List of `Scores`, without those that are frozen.
        frozen: List of `Scores`, the frozen ones.
        values: List of arrays in [0, 1], one for each.
        finals: List of arrays of zeros and ones, one for each.
        budget_used: Float, sum_i c_i s_i over K (Eq. 30).
    """

    scores: list[Scores]
    frozen: list[Scores]
    values: list[np.ndarray]
    finals: list[np.ndarray]
    budget_used: float

    @property
    def num_weights(self) -> int:
        """The number of weights with a score."""
        own = sum(s.num_weights for s in self.scores if s.mark.place is None)
        gated = gated_parts(self.scores)
        return own + sum(math.prod(part.weight.shape) for part in gated)

    @property
    def kept(self) -> int:
        """The number of weights that the final mask keeps."""
        return count_kept(self.scores, self.finals)

    @property
    def undecided(self) -> int:
        """The number of weights whose score is neither near 0 nor near 1."""
        pairs = zip(self.scores, self.values, strict=True)
        return sum(s.weights_per_score * count_undecided(v) for s, v in pairs)

    @property
    def undecided_per_kept(self) -> float:
        """How many undecided weights there are for each one that is kept."""
        return self.undecided / max(self.kept, 1)

    @property
    def empty(self) -> list[str]:
        """The names of the weights that the final mask prunes completely."""
        return empty(self.scores, self.finals)

    @property
    def temperature(self) -> float | None:
        """The mean temperature of the masks that have one, or `None`."""
        found = [
            float(ops.convert_to_numpy(s.mask.current_temperature()))
            for s in self.scores
            if hasattr(s.mask, "current_temperature") and not s.hardened
        ]
        return sum(found) / len(found) if found else None


def find_decisions(owner: str, model: keras.Layer) -> Decisions:
    """Returns the mask that the current budget allows.

    Without a budget, it keeps as many scores as a drawn mask does on average:
    the sum of the scores (Eq. 19).

    Raises:
        ValueError: If there is no mask, the model is not built, or a score is
            NaN.
    """
    found = find_scores(owner, model)
    require_numbers(owner, found)
    scores = [s for s in found if not s.frozen]
    frozen = [s for s in found if s.frozen]
    if all(s.hardened for s in scores):
        values = [s.values() for s in scores]
        return Decisions(scores, frozen, values, values, 1.0)
    choices = decide(owner, model, scores, now=True)
    if choices is None:
        live = [s for s in scores if not s.hardened]
        choices = [dataclasses.replace(whole(live), settled=False)]
    return Decisions(
        scores=scores,
        frozen=frozen,
        values=[s.values() for s in scores],
        finals=final_masks(scores, choices),
        budget_used=_budget_used(scores, choices),
    )


def mask_is_final(model: keras.Layer, scores: list[Scores]) -> bool:
    """Whether training will not change any score of a model."""
    if all(s.hardened for s in scores if not s.frozen):
        return True
    optimizer = find_projected(getattr(model, "optimizer", None))
    return optimizer is not None and optimizer.is_final()


def count_kept(scores: list[Scores], finals: list[np.ndarray]) -> int:
    """Returns how many weights a final mask keeps."""
    own = sum(
        s.count(final)
        for s, final in zip(scores, finals, strict=True)
        if s.mark.place is None
    )
    gated = gated_weights(scores, finals)
    return own + sum(
        round(math.prod(part.weight.shape) * mask.mean(dtype="float64"))
        for part, mask in gated
    )


def what_counts(scores: list[Scores]) -> str:
    """Returns what a final mask keeps, as a plural noun."""
    return "features" if all(s.of_features for s in scores) else "weights"


def empty(scores: list[Scores], finals: list[np.ndarray]) -> list[str]:
    """Lists the names of the weights that a mask prunes completely."""
    pairs = zip(scores, finals, strict=True)
    return [s.name for s, final in pairs if not final.any()]


def nothing_is_kept(names: list[str]) -> str | None:
    """Returns a warning about weights that are pruned completely."""
    if not names:
        return None
    return (
        f"Nothing is kept of {', '.join(names)}, so no signal passes through. "
        "Pass a `minimum` to `keras_gumbel.sparsify`, set a separate budget "
        "with a dictionary of regexes for `density` or `budget`, or raise the "
        "density."
    )


def warn_of_empty(names: list[str], stacklevel: int) -> None:
    """Warns of weights that are pruned completely, if there are any."""
    message = nothing_is_kept(names)
    if message is not None:
        warnings.warn(message, SparsityWarning, stacklevel=stacklevel + 1)


def short_schedule(end: float | None, steps: int) -> str | None:
    """Returns a warning if a schedule ends early in a training run."""
    if end is None or end * 10 >= steps:
        return None
    return (
        f"The budget schedule ends at step {end:,.0f}, in the first tenth of "
        f"the {steps:,} training steps. Most weights were pruned before the "
        "network had learned much. The `steps` of a schedule are batches, not "
        "epochs: set them to those of the whole run, `epochs * batches`."
    )


def count_undecided(values: np.ndarray) -> int:
    """Returns how many scores are neither near 0 nor near 1."""
    low, high = UNDECIDED
    return int(np.count_nonzero((values > low) & (values < high)))


def _budget_used(scores: list[Scores], choices: list[Choice]) -> float:
    values = {id(s.variable): s.values() for s in scores}
    spent = sum(
        choice.group.spent([values[id(v)] for v in choice.group.variables])
        for choice in choices
    )
    budget = sum(choice.budget for choice in choices)
    return spent / budget if budget else 0.0
