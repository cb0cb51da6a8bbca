"""Warnings of `SparsityLogger`, each given once."""

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

# A density more than this factor above its final value has not reached it.
_CLOSE = 1.01

# With a smaller sum of learning rates, many scores cannot move from 1 to 0, if
# a step is about as long as the learning rate. Measured in
# benchmarks/score_learning_rate.py.
_LEAST_TRAVEL = 10.0

# Warns if the learning rates must be larger by at least this factor.
_TOO_LITTLE = 1.05

# The number of sampled points of a schedule.
_POINTS = 100

_MORE_TRAVEL = (
    "Raise the learning rate of `score_optimizer`, or train for more steps."
)


class Advice:
    """Watches a `fit` and warns of settings that lead to poor results.

    Without a `ProjectedOptimizer`, it checks only the end of training.
    """

    def __init__(self) -> None:
        self._given: set[str] = set()
        self._live: float | None = None
        self._too_short = False

    def on_plan(self, model: keras.Model, steps: int) -> None:
        """Checks the schedules, once the length of the run is known.

        Args:
            model: Compiled model.
            steps: Integer, the number of remaining batches.
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
        # Scores of pretrained networks start from magnitudes instead of 1.
        marks = map(mark_of, marked_scores(model.trainable_variables))
        if any(not (m.ranked or m.pretrained) for m in marks):
            self._look_at_learning_rate(optimizer, end)

    def on_divergence(self, message: str) -> None:
        """Warns that scores are NaN."""
        self._live = None
        self._warn("diverged", message)

    def on_decisions(self, model: keras.Model, decisions: Decisions) -> None:
        """Checks the scores at the end of an epoch."""
        pairs = zip(decisions.scores, decisions.values, strict=True)
        empty = [s.name for s, values in pairs if not values.any()]
        self._warn("empty", nothing_is_kept(empty))
        if mask_is_final(model, decisions.scores):
            if self._live is not None and self._live > MOST_WHEN_HARDENED:
                self._warn(
                    "fixed",
                    f"One epoch before the mask became final, there were "
                    f"{self._live:.1f} undecided scores (0.05 < s < 0.95) for "
                    f"each kept weight, which is more than "
                    f"{MOST_WHEN_HARDENED:g}. The final mask may be a poor "
                    f"choice. {_MORE_TRAVEL}",
                )
            self._live = None
        else:
            self._live = decisions.undecided_per_kept

    def on_end(self, model: keras.Model, decisions: Decisions) -> None:
        """Checks the scores at the end of training.

        Training may have stopped early, or weights may have been restored.
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
                "(0.05 < s < 0.95) for each kept weight, which is more than "
                f"{MOST_AT_END:g}. The model will do worse with its final "
                f"mask. {_MORE_TRAVEL}",
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
                # A budget is rounded to whole weights, as in the final mask.
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
                    f"the {name} has fallen to {at}, but the schedule ends at "
                    f"{last}. Shorten the schedule, with `steps={end}` if it "
                    "is one of `keras_gumbel.schedules`, or raise `epochs`.",
                )

    def _look_at_length(self, optimizer: ProjectedOptimizer, end: int) -> None:
        limits = limits_of(optimizer.density) + limits_of(optimizer.budget)
        last = schedule_end(limits)
        # A `fit` after the end of the schedule only fine-tunes.
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
                f"the {last:,} steps that train them. Below {needed:.3g}, many "
                "scores cannot move from 1 to 0. Make the learning rate of "
                f"`score_optimizer` {needed / total:.1f} times as large, or "
                "train for more steps.",
            )

    def _warn(self, cause: str, message: str | None) -> None:
        if message is not None and cause not in self._given:
            self._given.add(cause)
            warnings.warn(message, SparsityWarning, stacklevel=2)


def steps_taken(model: keras.Model) -> int:
    """Returns the number of batches of a model's `ProjectedOptimizer`."""
    optimizer = find_projected(model.optimizer)
    if optimizer is None:
        return 0
    return optimizer.steps * _keras_private.calls_per_update_by(optimizer)


def _is_early(optimizer: ProjectedOptimizer) -> str | None:
    """Returns a warning if training stopped before its schedule ended."""
    now, end = optimizer.whole_budgets()
    if now <= end:
        return None
    what = "costs" if optimizer.costs else "weights"
    return (
        f"Training ended at step {optimizer.steps:,}, where the budget "
        f"schedule is at {now:,} {what}. The schedule ends at {end:,}, and "
        "`strip` keeps that many. The model was not trained with so few and "
        "will do worse. Train to the end of the schedule. Wrap callbacks that "
        "stop training in `keras_gumbel.callbacks.OnceFinal`."
    )


def _step_length(optimizer: keras.optimizers.Optimizer) -> float | None:
    """Returns how far a score moves in a step, in learning rates.

    `None` if this depends on the size of the gradients.
    """
    if isinstance(optimizer, ScoreSGD):
        return 1.0 / (1.0 - optimizer.momentum)
    kin = ("Adam", "Adamax", "Nadam", "Lion")
    if any(isinstance(optimizer, getattr(keras.optimizers, k)) for k in kin):
        return 1.0
    return None


def _sum_of_rates(optimizer: keras.optimizers.Optimizer, steps: int) -> float:
    """Adds up the learning rates of the first steps."""
    rate = optimizer.get_config()["learning_rate"]
    if isinstance(rate, dict):
        schedule = keras.saving.deserialize_keras_object(rate)
        points = [(i + 0.5) * steps / _POINTS for i in range(_POINTS)]
        rate = sum(_at(schedule, int(point)) for point in points) / _POINTS
    return rate * steps


def _at(schedule: Any, step: int) -> float:
    return float(ops.convert_to_numpy(schedule(step)))
