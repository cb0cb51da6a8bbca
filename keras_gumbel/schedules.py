"""Temperature and density as functions of the training step.

They are Keras `LearningRateSchedule` objects, and you can use any other such
object instead. Layers and optimizers count the training steps themselves, so
you do not have to call anything between steps. A step is an update of the
weights.
"""

import math
from typing import Any

import keras
from keras import ops

from keras_gumbel._calls import training_steps
from keras_gumbel._exports import dir_of
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_number
from keras_gumbel._validation import require_density
from keras_gumbel._validation import require_positive

__all__ = [
    "Constant",
    "CosineAnnealing",
    "CubicDensity",
    "ExponentialAnnealing",
    "LinearAnnealing",
]
__dir__ = dir_of(__all__)


@keras.saving.register_keras_serializable(package="keras_gumbel")
class Constant(keras.optimizers.schedules.LearningRateSchedule):
    """The same value at every step.

    Args:
        value: Positive number.

    Raises:
        ValueError: If `value` is not a positive finite number.

    Example:

    >>> float(keras_gumbel.schedules.Constant(0.5)(100))
    0.5
    """

    def __init__(self, value: float) -> None:
        require_positive("Constant", "value", value)
        self.value = value

    def __call__(self, step: Tensor) -> Tensor:
        return ops.full((), self.value, dtype="float32")

    def get_config(self) -> dict[str, Any]:
        return {"value": self.value}


class _Timed(keras.optimizers.schedules.LearningRateSchedule):
    """Base of the schedules that end after a number of steps."""

    initial: float
    final: float

    def __init__(self, steps: int | None) -> None:
        if steps is not None:
            require_positive(type(self).__name__, "steps", steps)
        self.steps = steps

    def value_at_end(self, begins: bool) -> float | None:
        """Returns the first or last value if the steps are unknown.

        Neither value depends on the steps. `None` if the steps are known.
        """
        if self._find_steps() is not None:
            return None
        return self.initial if begins else self.final

    def known_steps(self) -> float:
        """Returns `steps`, or sets them to those of the running `fit`.

        They are then saved with the schedule.
        """
        steps = self._find_steps()
        if steps is None:
            raise ValueError(
                f"`{type(self).__name__}` does not know how many steps the "
                "training takes. It reads them from `fit`, but not from your "
                "own training loop, or from `fit` on a generator without "
                "`steps_per_epoch`. Pass `steps=`, the number of updates of "
                "the weights in the whole training."
            )
        return steps

    def _find_steps(self) -> float | None:
        if self.steps is None:
            self.steps = training_steps()
        return self.steps


class _Annealing(_Timed):
    """Base of the schedules that go from one value to another."""

    def __init__(
        self, initial: float, final: float, steps: int | None = None
    ) -> None:
        owner = type(self).__name__
        require_positive(owner, "initial", initial)
        require_positive(owner, "final", final)
        super().__init__(steps)
        self.initial = initial
        self.final = final

    def __call__(self, step: Tensor) -> Tensor:
        return self._interpolate(_fraction(step, self.known_steps()))

    def _interpolate(self, fraction: Tensor) -> Tensor:
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {
            "initial": self.initial,
            "final": self.final,
            "steps": self.steps,
        }


@keras.saving.register_keras_serializable(package="keras_gumbel")
class LinearAnnealing(_Annealing):
    """Changes a value linearly.

    ```
    value(t) = initial + (final - initial) * min(t / steps, 1)
    ```

    Args:
        initial: Positive number, the value at step 0.
        final: Positive number, the value from `steps` on.
        steps: Positive number of training steps between the two, or `None`
            for all the steps of the first `fit`. Defaults to `None`.

    Raises:
        ValueError: If an argument is not a positive finite number; when
            called, if `steps` was left out and no `fit` is running, or one
            that does not know its length.

    Example:

    >>> schedule = keras_gumbel.schedules.LinearAnnealing(1.0, 0.5, steps=10)
    >>> [float(schedule(step)) for step in (0, 5, 10, 20)]
    [1.0, 0.75, 0.5, 0.5]
    """

    def _interpolate(self, fraction: Tensor) -> Tensor:
        return self.initial + (self.final - self.initial) * fraction


@keras.saving.register_keras_serializable(package="keras_gumbel")
class ExponentialAnnealing(_Annealing):
    """Changes a value by the same factor in every step.

    ```
    value(t) = initial * (final / initial) ** min(t / steps, 1)
    ```

    Args:
        initial: Positive number, the value at step 0.
        final: Positive number, the value from `steps` on.
        steps: Positive number of training steps between the two, or `None`
            for all the steps of the first `fit`. Defaults to `None`.

    Raises:
        ValueError: If an argument is not a positive finite number; when
            called, if `steps` was left out and no `fit` is running, or one
            that does not know its length.

    Example:

    >>> schedule = keras_gumbel.schedules.ExponentialAnnealing(
    ...     1.0, 0.25, steps=10
    ... )
    >>> [round(float(schedule(step)), 4) for step in (0, 5, 10, 20)]
    [1.0, 0.5, 0.25, 0.25]
    """

    def _interpolate(self, fraction: Tensor) -> Tensor:
        rate = math.log(self.final / self.initial)
        return self.initial * ops.exp(rate * fraction)


@keras.saving.register_keras_serializable(package="keras_gumbel")
class CosineAnnealing(_Annealing):
    """Changes a value along half a cosine wave.

    ```
    value(t) = final + (initial - final) * (1 + cos(pi f)) / 2
    f = min(t / steps, 1)
    ```

    Args:
        initial: Positive number, the value at step 0.
        final: Positive number, the value from `steps` on.
        steps: Positive number of training steps between the two, or `None`
            for all the steps of the first `fit`. Defaults to `None`.

    Raises:
        ValueError: If an argument is not a positive finite number; when
            called, if `steps` was left out and no `fit` is running, or one
            that does not know its length.

    Example:

    >>> schedule = keras_gumbel.schedules.CosineAnnealing(1.0, 0.5, steps=10)
    >>> [round(float(schedule(step)), 4) for step in (0, 5, 10, 20)]
    [1.0, 0.75, 0.5, 0.5]
    """

    def _interpolate(self, fraction: Tensor) -> Tensor:
        share = 0.5 * (1.0 + ops.cos(math.pi * fraction))
        return self.final + (self.initial - self.final) * share


@keras.saving.register_keras_serializable(package="keras_gumbel")
class CubicDensity(_Timed):
    """Lowers the density along a cubic: fast at first, then slowly.

    ```
    density(t) = final + (initial - final) * (1 - f) ** 3
    f = clip((t / steps - begin) / (end - begin), 0, 1)
    ```

    Args:
        final: Number in (0, 1], the density from `end` on.
        steps: Positive number of training steps of the whole run, or `None`
            for all the steps of the first `fit`. Defaults to `None`.
        initial: Number in (0, 1], the density up to `begin`. `None` is 1, or
            `final ** 0.4` for a `LearnedMask` on a pretrained network.
            Defaults to `None`.
        begin: Number in [0, 1), the fraction of `steps` after which the
            density starts to fall. Defaults to `0.0`.
        end: Number in (begin, 1], the fraction of `steps` after which the
            density is constant. `None` is 0.6, or halfway from `begin` to 0.6
            for a `LearnedMask` on a pretrained network. Defaults to `None`.

    Raises:
        ValueError: If an argument is out of its range; when called, if `steps`
            was left out and no `fit` of known length is running.

    Example:

    >>> density = keras_gumbel.schedules.CubicDensity(0.05, steps=1000)
    >>> [round(float(density(step)), 4) for step in (0, 300, 600, 1000)]
    [1.0, 0.1688, 0.05, 0.05]

    References:
        - [Zhu and Gupta, 2017](https://arxiv.org/abs/1710.01878)
    """

    def __init__(
        self,
        final: float,
        steps: int | None = None,
        initial: float | None = None,
        begin: float = 0.0,
        end: float | None = None,
    ) -> None:
        # What was left out, until it is known whether the network is
        # pretrained.
        self._open = {
            name
            for name, value in {"initial": initial, "end": end}.items()
            if value is None
        }
        initial = 1.0 if initial is None else initial
        end = 0.6 if end is None else end
        require_density("CubicDensity", "final", final)
        require_density("CubicDensity", "initial", initial)
        if not is_number(begin) or not 0 <= begin < 1:
            raise invalid_argument(
                "CubicDensity", "begin", "a fraction in [0, 1)", begin
            )
        if not is_number(end) or not begin < end <= 1:
            raise invalid_argument(
                "CubicDensity", "end", f"a fraction in ({begin}, 1]", end
            )
        super().__init__(steps)
        self.final = final
        self.initial = initial
        self.begin = begin
        self.end = end

    def prune_early(self) -> None:
        """Sets what was left out to the defaults of pretrained networks."""
        if "initial" in self._open:
            self.initial = self.final**0.4
        if "end" in self._open:
            self.end = (self.begin + self.end) / 2
        self._open.clear()

    def __call__(self, step: Tensor) -> Tensor:
        steps = self.known_steps()
        begin = self.begin * steps
        length = (self.end - self.begin) * steps
        step = ops.cast(step, "float32") - begin
        remaining = 1.0 - _fraction(step, length)
        return self.final + (self.initial - self.final) * remaining**3

    def get_config(self) -> dict[str, Any]:
        known = {"initial": self.initial, "end": self.end}
        return {
            "final": self.final,
            "steps": self.steps,
            "begin": self.begin,
            **{n: None if n in self._open else v for n, v in known.items()},
        }


def _fraction(step: Tensor, steps: float) -> Tensor:
    """Returns the completed fraction of `steps`, in [0, 1]."""
    return ops.clip(ops.cast(step, "float32") / steps, 0.0, 1.0)
