"""Warnings that say what to change, once each."""

import math
import warnings
from typing import Any

import keras
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._budgets import LAST_STEP
from keras_gumbel._budgets import WHOLE
from keras_gumbel._budgets import limits_of
from keras_gumbel._scores import mark_of
from keras_gumbel._scores import marked_scores
from keras_gumbel._validation import SparsityWarning
from keras_gumbel._validation import is_schedule
from keras_gumbel.optimizers import ProjectedOptimizer
from keras_gumbel.optimizers import ScoreSGD
from keras_gumbel.optimizers._defaults import schedule_end
from keras_gumbel.sparsity._budget_keeping import budget_is_missing
from keras_gumbel.sparsity._budget_keeping import find_projected
from keras_gumbel.sparsity._choices import MOST_AT_END
from keras_gumbel.sparsity._choices import MOST_WHEN_HARDENED
from keras_gumbel.sparsity._choices import Decisions
from keras_gumbel.sparsity._choices import mask_is_final
from keras_gumbel.sparsity._choices import nothing_is_kept
from keras_gumbel.sparsity._choices import short_schedule

# A density this much above its end has not come to it.
_CLOSE = 1.01

# The sum of the learning rates below which many scores do not get from 1 to
# 0, where a step is about as long as the learning rate; measured in
# benchmarks/score_learning_rate.py.
_LEAST_TRAVEL = 10.0

# How many times as large the learning rates would have to be for a warning.
_TOO_LITTLE = 1.05

# How many steps of a schedule are looked at.
_POINTS = 100

_MORE_TRAVEL = (
    "Raise the learning rate of `score_optimizer`, or train for more steps."
)


class Advice:
    """Follows a `fit` and warns of what will not come out well.

    Without a `ProjectedOptimizer` only the end is looked at.
    """

    def __init__(self) -> None:
        self._given: set[str] = set()
        self._live: float | None = None
        self._too_short = False

    def on_plan(self, model: keras.Model, steps: int) -> None:
        """Looks at the schedules, as soon as the end is known.

        Args:
            model: Compiled model.
            steps: Integer, the batches to come.
        """
        optimizer = find_projected(model.optimizer)
        if optimizer is None:
            self._warn("plain", budget_is_missing(model, model.optimizer))
            return
        optimizer.complete()
        calls = _keras_private.calls_per_update_by(optimizer)
        end = optimizer.steps + steps // calls
        self._too_short = False
        self._look_at_densities(optimizer, end)
        self._look_at_length(optimizer, end)
        scores = marked_scores(model.trainable_variables)
        if any(not mark_of(v).ranked for v in scores):
            self._look_at_learning_rate(optimizer, end)

    def on_divergence(self, message: str) -> None:
        """Passes on that scores are NaN, of which there is no more to say."""
        self._live = None
        self._warn("diverged", message)

    def on_decisions(self, model: keras.Model, decisions: Decisions) -> None:
        """Looks at the scores, at the end of an epoch."""
        pairs = zip(decisions.scores, decisions.values, strict=True)
        empty = [s.name for s, values in pairs if not values.any()]
        self._warn("empty", nothing_is_kept(empty))
        if mask_is_final(model, decisions.scores):
            if self._live is not None and self._live > MOST_WHEN_HARDENED:
                self._warn(
                    "fixed",
                    f"An epoch before the mask was fixed there were "
                    f"{self._live:.1f} undecided scores (0.05 < s < 0.95) for "
                    f"each weight kept; more than {MOST_WHEN_HARDENED:g} are "
                    f"too many. {_MORE_TRAVEL}",
                )
            self._live = None
        else:
            self._live = decisions.undecided_per_kept

    def on_end(self, model: keras.Model, decisions: Decisions) -> None:
        """Looks at the scores where training has ended.

        That may be before the end that was planned, or with weights that were
        restored.
        """
        if mask_is_final(model, decisions.scores) or self._too_short:
            return
        optimizer = find_projected(model.optimizer)
        message = optimizer and _is_early(optimizer)
        if message:
            self._warn("stopped", message)
            return
        live = decisions.undecided_per_kept
        if live > MOST_AT_END:
            self._warn(
                "end",
                f"Training ended with {live:.1f} undecided scores "
                "(0.05 < s < 0.95) for each weight kept; more than "
                f"{MOST_AT_END:g} are too many: with its final mask this is "
                f"another model. {_MORE_TRAVEL}",
            )

    def _look_at_densities(
        self, optimizer: ProjectedOptimizer, end: int
    ) -> None:
        name = "budget" if optimizer.density is None else "density"
        limits = getattr(optimizer, name)
        for limit in limits.values() if isinstance(limits, dict) else [limits]:
            if not is_schedule(limit):
                continue
            reached, final = _at(limit, end), _at(limit, LAST_STEP)
            if reached > final * _CLOSE:
                # A budget in whole weights, as the final mask rounds it.
                at, last = (
                    f"{math.floor(value + WHOLE):,}"
                    if name == "budget"
                    else f"{value:.4g}"
                    for value in (reached, final)
                )
                self._too_short = True
                self._warn(
                    "density",
                    f"This `fit` ends at step {end:,}, where the schedule of "
                    f"the {name} is at {at}; it ends at {last}. "
                    f"Let it end by then, with `steps={end}` if it is one of "
                    "`keras_gumbel.schedules`, or raise `epochs`.",
                )

    def _look_at_length(self, optimizer: ProjectedOptimizer, end: int) -> None:
        limits = limits_of(optimizer.density) + limits_of(optimizer.budget)
        last = schedule_end(limits)
        # A fit that comes after the schedule fine-tunes, however long.
        if last is not None and optimizer.steps < last:
            self._warn("short", short_schedule(last, end))

    def _look_at_learning_rate(
        self, optimizer: ProjectedOptimizer, end: int
    ) -> None:
        part = optimizer.score_optimizer or optimizer.inner_optimizer
        length = _step_length(part)
        if length is None:
            return
        last = min(end, optimizer.harden_step or end)
        total = _sum_of_rates(part, last)
        needed = _LEAST_TRAVEL / length
        if 0 < _TOO_LITTLE * total < needed:
            self._warn(
                "learning_rate",
                f"The learning rates of the scores add up to {total:.3g} in "
                f"the {last:,} steps that train them; under {needed:.3g} many "
                "scores do not get from 1 to 0. Give `score_optimizer` a "
                f"learning rate {needed / total:.1f} times as large, or train "
                "for more steps.",
            )

    def _warn(self, cause: str, message: str | None) -> None:
        if message is not None and cause not in self._given:
            self._given.add(cause)
            warnings.warn(message, SparsityWarning, stacklevel=2)


def steps_taken(model: keras.Model) -> int:
    """Returns the batches a model has seen under `ProjectedOptimizer`."""
    optimizer = find_projected(model.optimizer)
    if optimizer is None:
        return 0
    return optimizer.steps * _keras_private.calls_per_update_by(optimizer)


def _is_early(optimizer: ProjectedOptimizer) -> str | None:
    """Says that training stopped before its schedule ended, if it did."""
    now, end = optimizer.whole_budgets()
    if now <= end:
        return None
    what = "costs" if optimizer.costs else "weights"
    return (
        f"Training ended at step {optimizer.steps:,}, where the schedule of "
        f"the budget stands at {now:,} {what}. It ends at {end:,}, and "
        "`strip` keeps as many: the model was not trained with so few and "
        "will do worse. Train to the end of the schedule. Wrap callbacks that "
        "stop training in `keras_gumbel.callbacks.OnceFinal`."
    )


def _step_length(optimizer: keras.optimizers.Optimizer) -> float | None:
    """Returns how far a score moves in a step, in learning rates.

    `None` where that hangs on the size of the gradients.
    """
    if isinstance(optimizer, ScoreSGD):
        return 1.0 / (1.0 - optimizer.momentum)
    kin = ("Adam", "Adamax", "Nadam", "Lion")
    if any(isinstance(optimizer, getattr(keras.optimizers, k)) for k in kin):
        return 1.0
    return None


def _sum_of_rates(optimizer: keras.optimizers.Optimizer, steps: int) -> float:
    """Adds up the learning rates of a number of steps, from the first on."""
    rate = optimizer.get_config()["learning_rate"]
    if isinstance(rate, dict):
        schedule = keras.saving.deserialize_keras_object(rate)
        points = [(i + 0.5) * steps / _POINTS for i in range(_POINTS)]
        rate = sum(_at(schedule, int(point)) for point in points) / _POINTS
    return rate * steps


def _at(schedule: Any, step: int) -> float:
    return float(ops.convert_to_numpy(schedule(step)))
