"""The base class of gradient estimators."""

import copy
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_gumbel._numerics import as_tensor
from keras_gumbel._numerics import given_noise
from keras_gumbel._numerics import masked_logits
from keras_gumbel._numerics import moved_axis
from keras_gumbel._numerics import positive_temperature
from keras_gumbel._probabilities import safe_logit
from keras_gumbel._straight_through import straight_through
from keras_gumbel._typing import Seed
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_broadcastable
from keras_gumbel._validation import is_number
from keras_gumbel._validation import is_schedule
from keras_gumbel._validation import own_schedule
from keras_gumbel._validation import require_temperature


class Estimator:
    """Base class of gradient estimators of discrete samples.

    A one-hot sample h ~ softmax(x) has no gradient in the logits x. An
    estimator gives it the gradient of a surrogate. A surrogate is a
    differentiable tensor of the same shape:

    ```
    output = h + (surrogate - sg[surrogate])                      # Eq. (16)
    ```

    To write your own, subclass this class, override `surrogate` and register
    the class. All layers, masks and functions with an `estimator` argument
    accept it, for K classes and for binary variables, and so does
    `keras_gumbel.gradient_report`. If the estimator has no options, a function
    of the same four arguments is enough, as in the example.

    Called with a one-hot sample and its logits, an estimator returns the
    sample with its gradient: `ReinMax()(hard, logits)`.

    Args:
        backward_temperature: Positive number, or a schedule of the training
            step for layers, the temperature of the surrogate. `None` for the
            temperature of the layer or function. Defaults to `None`.

    Raises:
        ValueError: If `backward_temperature` is not positive.

    Example:

    >>> @keras.saving.register_keras_serializable(package="examples")
    ... class Sparsemax(keras_gumbel.estimators.Estimator):
    ...     def surrogate(self, hard, logits, noise, temperature, seed=None):
    ...         return keras.ops.sparsemax((logits + noise) / temperature)
    >>> layer = keras_gumbel.layers.StraightThroughArgmax(
    ...     estimator=Sparsemax(backward_temperature=0.5)
    ... )
    >>> def plain(hard, logits, noise, temperature):
    ...     return keras.ops.softmax(logits)
    >>> layer = keras_gumbel.layers.StraightThroughArgmax(estimator=plain)
    """

    # Whether the surrogate is the relaxed sample of Eq. (15). Relaxed samples
    # can then also use the estimator.
    relaxes = False

    # The only supported number of classes, or `None` for any number.
    num_classes: int | None = None

    # Whether gradients come from the losses of several draws.
    compares_losses = False

    # Whether the gradient of the loss is used, so that indices have none.
    needs_loss_gradient = True

    def __init__(self, backward_temperature: Any = None) -> None:
        if backward_temperature is not None:
            require_temperature(
                type(self).__name__,
                backward_temperature,
                "backward_temperature",
            )
        self.backward_temperature = own_schedule(backward_temperature)

    def surrogate(
        self,
        hard: Tensor,
        logits: Tensor,
        noise: Tensor,
        temperature: Any,
        seed: Seed = None,
    ) -> Tensor:
        """Returns the tensor whose gradient the sample gets.

        Args:
            hard: One-hot tensor of shape `(..., K)`, the sample: the argmax
                of `logits + noise`.
            logits: Float32 or float64 tensor of the same shape, -inf where a
                class is forbidden.
            noise: Tensor of the same shape, the Gumbel noise of the sample. A
                binary variable is a choice between two classes, and only the
                difference of the two entries matters.
            temperature: Positive number, or a tensor that broadcasts to
                `logits`.
            seed: Seed of additional noise, as in `keras_gumbel.random`.
                Defaults to `None`.

        Returns:
            A finite tensor of the shape of `logits`. Only its gradient is used,
            not its value.
        """
        raise NotImplementedError(
            f"`{type(self).__name__}` has no method `surrogate`. Override it "
            "to define the gradient."
        )

    def binary_surrogate(
        self,
        hard: Tensor,
        probs: Tensor,
        noise: Tensor,
        temperature: Any,
        seed: Seed = None,
    ) -> Tensor:
        """Returns the surrogate for binary variables.

        The default is `surrogate` of the two classes. Override it if there is a
        shorter formula.

        Args:
            hard: Boolean tensor, the sample: where
                `log(s / (1 - s)) + noise > 0`.
            probs: Float32 or float64 tensor s of the same shape, the
                probabilities of 1. They may be 0 and 1.
            noise: Tensor of the same shape, the logistic noise of the sample.
            temperature: Positive number, or a tensor that broadcasts to
                `probs`.
            seed: As in `surrogate`.

        Returns:
            A finite tensor of the shape of `probs`.
        """
        if not is_number(temperature):
            temperature = ops.expand_dims(temperature, -1)
        pair = two_classes(hard, probs, noise)
        return self.surrogate(*pair, temperature, seed)[..., 1]

    def __call__(
        self,
        hard: Tensor,
        logits: Tensor,
        temperature: Tensor = 1.0,
        axis: int = -1,
        noise: Tensor | None = None,
        seed: Seed = None,
    ) -> Tensor:
        """Gives an existing sample its gradient.

        Args:
            hard: One-hot tensor of shape `(..., K)`, drawn from
                softmax(logits).
            logits: Float tensor of the same shape, -inf where a class is
                forbidden.
            temperature: Positive number or tensor that broadcasts to
                `logits`. Defaults to `1.0`.
            axis: Integer, the axis of the K classes. Defaults to `-1`.
            noise: Tensor, the Gumbel noise of the sample, for estimators that
                need it. Defaults to `None`.
            seed: Integer, `keras.random.SeedGenerator`, key of JAX or `None`,
                for estimators that draw noise. Defaults to `None`.

        Returns:
            A tensor equal to `hard`, of the dtype of `logits`.
        """
        owner = type(self).__name__
        logits, dtype, axis = masked_logits(owner, logits, axis, None)
        hard = _given_sample(owner, hard, logits)
        if noise is not None:
            noise = given_noise(owner, noise, logits)
        temperature = positive_temperature(owner, temperature, logits)
        sample = self.one_hot(
            owner, hard, logits, noise, temperature, axis, seed
        )
        return ops.cast(sample, dtype)

    def one_hot(
        self,
        owner: str,
        hard: Tensor,
        logits: Tensor,
        noise: Tensor | None,
        temperature: Any,
        axis: int,
        seed: Seed,
    ) -> Tensor:
        """Returns a one-hot sample, with its gradient."""
        soft = self.soft(owner, hard, logits, noise, temperature, axis, seed)
        return straight_through(hard, soft)

    def soft(
        self,
        owner: str,
        hard: Tensor,
        logits: Tensor,
        noise: Tensor | None,
        temperature: Any,
        axis: int,
        seed: Seed,
    ) -> Tensor:
        """Returns the surrogate for classes on any axis."""
        temperature = self.temperature(owner, temperature, logits)
        soft = self.surrogate(
            classes_last(hard, axis, logits),
            classes_last(logits, axis, logits),
            classes_last(noise, axis, logits),
            classes_last(temperature, axis, logits),
            seed,
        )
        return moved_axis(soft, -1, axis)

    def binary(
        self,
        owner: str,
        hard: Tensor,
        probs: Tensor,
        noise: Tensor,
        temperature: Any,
        seed: Seed,
    ) -> Tensor:
        """Returns a sample of zeros and ones, with its gradient."""
        temperature = self.temperature(owner, temperature, probs)
        soft = self.binary_surrogate(hard, probs, noise, temperature, seed)
        return straight_through(hard, soft)

    def temperature(self, owner: str, temperature: Any, values: Tensor) -> Any:
        """Returns the temperature of the surrogate."""
        own = self.backward_temperature
        if own is None:
            return temperature
        if is_schedule(own):
            raise invalid_argument(
                owner,
                "estimator",
                "one whose `backward_temperature` is not a schedule",
                self,
                "A schedule needs the training step, which only layers count.",
            )
        return positive_temperature(owner, own, values, "backward_temperature")

    @property
    def needs_temperature(self) -> bool:
        """Whether the temperature of the layer gets a gradient."""
        return self.backward_temperature is None

    def arranged(
        self, noise: Tensor, opposite: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Returns the noise for a sample.

        Args:
            noise: Tensor, noise that was drawn.
            opposite: Callable that returns the opposite of noise.
        """
        return noise

    def at_step(self, layer: Any, step: Tensor | None) -> "Estimator":
        """Returns the estimator with the value of its schedule at a step."""
        if not is_schedule(self.backward_temperature):
            return self
        fixed = copy.copy(self)
        fixed.backward_temperature = layer.at_step(
            self.backward_temperature, step
        )
        return fixed

    def __repr__(self) -> str:
        given = {
            name: value
            for name, value in vars(self).items()
            if not name.startswith("_") and value is not None
        }
        arguments = ", ".join(f"{k}={v!r}" for k, v in given.items())
        return f"{type(self).__name__}({arguments})"

    def get_config(self) -> dict[str, Any]:
        temperature = self.backward_temperature
        if is_schedule(temperature):
            temperature = keras.saving.serialize_keras_object(temperature)
        return {"backward_temperature": temperature}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Estimator":
        temperature = config.get("backward_temperature")
        return cls(
            **{
                **config,
                "backward_temperature": (
                    keras.saving.deserialize_keras_object(temperature)
                ),
            }
        )


def classes_last(values: Any, axis: int, logits: Tensor) -> Any:
    """Moves the classes of a tensor like logits to the last axis."""
    if values is None or is_number(values) or len(values.shape) == 0:
        return values
    lacking = len(logits.shape) - len(values.shape)
    if lacking:
        values = ops.reshape(values, (1,) * lacking + ops.shape(values))
    return moved_axis(values, axis, -1)


def two_classes(
    hard: Tensor, probs: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns sample, logits and noise of a choice between 0 and 1."""
    logit = safe_logit(probs)
    # The gradient in the logit of the less likely class loses no digits to a
    # difference of nearly equal numbers.
    likely = logit > 0
    logits = [ops.where(likely, -logit, 0.0), ops.where(likely, 0.0, logit)]
    one = ops.cast(hard, logit.dtype)
    return (
        ops.stack([1.0 - one, one], axis=-1),
        ops.stack(logits, axis=-1),
        ops.stack([ops.zeros_like(noise), noise], axis=-1),
    )


def _given_sample(owner: str, hard: Any, logits: Tensor) -> Tensor:
    """Returns the sample given, in the dtype of the logits."""
    hard = as_tensor(owner, "hard", hard)
    if not is_broadcastable(hard.shape, logits.shape):
        raise invalid_argument(
            owner,
            "hard",
            f"a one-hot tensor of the shape of logits, {tuple(logits.shape)}",
            tuple(hard.shape),
        )
    return ops.cast(hard, logits.dtype)
