"""The "auto" settings of `ProjectedOptimizer`."""

import math
from typing import Any

import keras

from keras_gumbel import _keras_private
from keras_gumbel._validation import is_number
from keras_gumbel._validation import is_schedule
from keras_gumbel.optimizers._score_sgd import ScoreSGD

# The fraction of the steps of its schedules after which the mask is final.
_LIVE = 0.7

# The first learning rate of the scores, and the distance that a score must be
# able to move in the run (docs/benchmarks/score_learning_rate.md).
_LEARNING_RATE = 0.05
_REACH = 10.0
_MOMENTUM = 0.8


def schedule_steps(limits: list[Any]) -> float | None:
    """Returns the steps of the longest schedule, if one has a known end."""
    return max(filter(None, map(_length, limits)), default=None)


def schedule_end(limits: list[Any]) -> float | None:
    """Returns the step from which no schedule changes, if it is known."""
    ends = [
        (_length(limit) or 0.0) * getattr(limit, "end", 1.0)
        for limit in limits
        if is_schedule(limit)
    ]
    return max(ends, default=None) or None


def has_unknown_steps(limits: list[Any]) -> bool:
    """Whether a schedule takes its steps from the next `fit`."""
    return any(
        hasattr(limit, "known_steps") and limit.steps is None
        for limit in limits
    )


def find_steps(limits: list[Any]) -> None:
    """Sets missing steps of schedules to those of the running `fit`."""
    for limit in limits:
        if hasattr(limit, "known_steps"):
            limit.known_steps()


def _length(limit: Any) -> float | None:
    """Returns the steps of a schedule of ours or of Keras, if it has an end."""
    schedules = keras.optimizers.schedules
    if not is_schedule(limit):
        return None
    if isinstance(limit, schedules.PolynomialDecay):
        return None if limit.cycle else limit.decay_steps
    if isinstance(limit, schedules.CosineDecay):
        warms_up = limit.warmup_target is not None
        return limit.decay_steps + (limit.warmup_steps if warms_up else 0)
    if isinstance(limit, schedules.PiecewiseConstantDecay):
        return max(limit.boundaries)
    steps = getattr(limit, "steps", None)
    return steps if is_number(steps) else None


def default_harden_step(limits: list[Any], live: float = _LIVE) -> int | None:
    """Returns the step after which the mask is final.

    Args:
        limits: List of numbers and schedules, all of which must have ended.
        live: The fraction of the steps before. Defaults to `0.7`.
    """
    steps = schedule_steps(limits)
    if steps is None:
        return None
    ends = [getattr(limit, "end", 0.0) for limit in limits]
    return max(1, math.ceil(max(live, *ends) * steps))


def default_score_optimizer(
    inner: keras.optimizers.Optimizer, steps: float | None
) -> keras.optimizers.Optimizer | None:
    """Returns the optimizer for scores if the user passes none."""
    if isinstance(inner, _keras_private.MULTI_OPTIMIZER):
        return None
    return ScoreSGD(
        default_rate(steps, _REACH),
        momentum=_MOMENTUM,
        gradient_accumulation_steps=inner.gradient_accumulation_steps,
    )


def default_rate(steps: float | None, reach: float = 0.0) -> Any:
    """Returns the default learning rate of scores, a number or a schedule.

    Args:
        steps: Number of steps, or `None` if it is unknown.
        reach: The distance that a score must be able to move. Scores that start
            in a good order need not move far. Defaults to `0.0`.
    """
    if steps is None:
        return _LEARNING_RATE
    # A cosine decay has half of its first rate on average.
    enough = reach * (1.0 - _MOMENTUM) / (0.5 * steps)
    return keras.optimizers.schedules.CosineDecay(
        max(_LEARNING_RATE, enough), steps
    )
