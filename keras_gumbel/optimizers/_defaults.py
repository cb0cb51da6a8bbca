"""What `ProjectedOptimizer` does where its user says "auto"."""

import math
from typing import Any

import keras

from keras_gumbel import _keras_private
from keras_gumbel._validation import is_number
from keras_gumbel.optimizers.score_sgd import ScoreSGD

# The share of the steps of its schedules after which the mask is final.
_LIVE = 0.7

# The first learning rate of the scores, and how far a score must be able to go
# within the run for it to be decided (docs/benchmarks/score_learning_rate.md).
_LEARNING_RATE = 0.05
_REACH = 10.0
_MOMENTUM = 0.8


def schedule_steps(limits: list[Any]) -> float | None:
    """Returns how long schedules of this package last, if there is one."""
    lengths = [getattr(limit, "steps", 0.0) for limit in limits]
    longest: float = max(n for n in lengths if is_number(n))
    return longest or None


def default_harden_step(limits: list[Any], live: float = _LIVE) -> int | None:
    """Returns the step after which the mask is final.

    Args:
        limits: List of numbers and schedules. It is their length that counts,
            and that all of them have ended.
        live: Share of the steps before. Defaults to `0.7`.
    """
    steps = schedule_steps(limits)
    if steps is None:
        return None
    ends = [getattr(limit, "end", 0.0) for limit in limits]
    return max(1, math.ceil(max(live, *ends) * steps))


def default_score_optimizer(
    inner: keras.optimizers.Optimizer, steps: float | None
) -> keras.optimizers.Optimizer | None:
    """Returns the optimizer for scores if the user names none."""
    if isinstance(inner, _keras_private.MULTI_OPTIMIZER):
        return None
    rate: Any = _LEARNING_RATE
    if steps is not None:
        # A cosine decay has half of its first rate on average.
        enough = _REACH * (1.0 - _MOMENTUM) / (0.5 * steps)
        rate = keras.optimizers.schedules.CosineDecay(max(rate, enough), steps)
    return ScoreSGD(
        rate,
        momentum=_MOMENTUM,
        use_ema=inner.use_ema,
        ema_momentum=inner.ema_momentum,
        ema_overwrite_frequency=inner.ema_overwrite_frequency,
        gradient_accumulation_steps=inner.gradient_accumulation_steps,
    )
