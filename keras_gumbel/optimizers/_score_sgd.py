"""The default optimizer of scores."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._scores import mark_of
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_number
from keras_gumbel._validation import require_positive


@keras.saving.register_keras_serializable(package="keras_gumbel")
class ScoreSGD(keras.optimizers.Optimizer):
    """Momentum on normalized gradients of scores, with a correction.

    The gradient g of a score s is the effect of a small change of its mask on
    the loss. This is not enough to choose between m = 1 and m = 0: near a
    minimum, g is 0 on average, both for weights that matter and for weights
    that do not. The correction depends on whether the network is pretrained.

    In a network that is trained from scratch, the second-order term of the loss
    is added:

    ```
    L(m = 1) - L(m = 0) = g - curvature * h * (s - 1/2)
    h = batch_size * average of g**2
    ```

    Here h is the curvature in s. If the loss is a negative log-likelihood, it
    is the diagonal of the empirical Fisher information.

    In a pretrained network, g is mostly the noise of the batches, which is
    largest for the weights that matter. Scores that follow g lose these weights
    first. A force as large as the noise prevents this:

    ```
    g - 1/2 * significance / sqrt(t) * sqrt(average of g**2)
    ```

    After t steps, noise has moved a score by about sqrt(t) standard deviations.
    The force has moved it `significance` times as far in the other direction. A
    score falls before others only if its gradients have a trend with a
    t-statistic above `significance`. `keras_gumbel.sparsify` detects whether a
    network is pretrained and marks its scores.

    These differences are divided by their root mean square over all scores,
    one number, and averaged with momentum:

    ```
    d = difference / rms over all scores
    v <- momentum * v + d
    s <- s - learning_rate * v
    ```

    A separate scale for each score, as in Adam, would lose the ranking of
    scores that share a budget.

    The average of g**2 and v are kept in the dtype of the scores. In pretrained
    networks, whose weights may be frozen, they are kept in bfloat16 to save
    memory.

    Args:
        learning_rate: Number or `LearningRateSchedule`, the change of a score
            of average size in one step without momentum. Defaults to `0.05`.
        momentum: Number in [0, 1). Defaults to `0.8`.
        curvature: Number of at least 0, the weight of the second-order term
            in networks that are trained from scratch. Defaults to `1.0`.
        batch_size: Positive number of examples in a batch. A factor of 3 up
            or down matters little. Defaults to `32`.
        decay: Number in [0, 1), the decay rate of the average of g**2.
            Defaults to `0.95`.
        significance: Number of at least 0, the strength of the force in
            pretrained networks. Defaults to `5.0`.
        name: String. Defaults to `"score_sgd"`.
        **kwargs: Arguments of `keras.optimizers.Optimizer`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> optimizer = keras_gumbel.optimizers.ProjectedOptimizer(
    ...     "adam",
    ...     density=0.1,
    ...     score_optimizer=keras_gumbel.optimizers.ScoreSGD(batch_size=128),
    ... )

    References:
        - [LeCun et al., 1989](https://proceedings.neurips.cc/paper/1989/hash/6c9882bbac1c7093bd25041881277658-Abstract.html)
    """

    def __init__(
        self,
        learning_rate: Any = 0.05,
        momentum: float = 0.8,
        curvature: float = 1.0,
        batch_size: float = 32,
        decay: float = 0.95,
        significance: float = 5.0,
        name: str = "score_sgd",
        **kwargs: Any,
    ) -> None:
        for argument, value in {"momentum": momentum, "decay": decay}.items():
            if not is_number(value) or not 0 <= value < 1:
                raise invalid_argument(
                    "ScoreSGD", argument, "a number in [0, 1)", value
                )
        weights = {"curvature": curvature, "significance": significance}
        for argument, value in weights.items():
            if not is_number(value) or not 0 <= value < float("inf"):
                raise invalid_argument(
                    "ScoreSGD", argument, "a finite number >= 0", value
                )
        require_positive("ScoreSGD", "batch_size", batch_size)
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.momentum = momentum
        self.curvature = curvature
        self.batch_size = batch_size
        self.decay = decay
        self.significance = significance

    def build(self, variables: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        self._momentums: list[keras.Variable] = []
        self._squares: list[keras.Variable] = []
        for variable in variables:
            self._momentums.append(self._slot(variable, "momentum"))
            self._squares.append(self._slot(variable, "squared_gradient"))

    def _slot(self, variable: keras.Variable, name: str) -> keras.Variable:
        """Adds an average, in bfloat16 if the network is pretrained."""
        if not mark_of(variable).pretrained:
            return self.add_variable_from_reference(variable, name)
        return self.add_variable(
            shape=variable.shape,
            dtype="bfloat16",
            layout=getattr(variable, "_layout", None),
            name=f"{variable.path.replace('/', '_')}_{name}",
        )

    def _backend_update_step(
        self,
        grads: Sequence[Tensor],
        trainable_variables: Sequence[keras.Variable],
        learning_rate: Tensor,
    ) -> None:
        grads, replicas = _keras_private.sum_over_replicas(list(grads))
        differences = [
            self._difference(g, v)
            for g, v in zip(grads, trainable_variables, strict=True)
        ]
        count = sum(math.prod(d.shape) for d in differences)
        square: Any = sum(ops.sum(ops.square(d)) for d in differences) / count
        positive = square > 0
        scale = ops.where(
            positive, ops.rsqrt(ops.where(positive, square, 1.0)), 0.0
        )
        for i in range(len(differences)):
            # Keras adds up what the replicas hand it.
            differences[i] *= scale / replicas
        super()._backend_update_step(
            differences, trainable_variables, learning_rate
        )

    def _difference(self, gradient: Tensor, variable: keras.Variable) -> Tensor:
        """Updates the average of g**2, and returns L(m = 1) - L(m = 0)."""
        average = self._squares[self._get_variable_index(variable)]
        gradient = ops.cast(gradient, variable.dtype)
        # Eager torch computes `*=` and `+=` in place, here in the memory of
        # the variable. This takes half of the time.
        square = ops.cast(ops.convert_to_tensor(average), variable.dtype)
        square *= self.decay
        recent = ops.square(gradient)
        recent *= 1.0 - self.decay
        square += recent
        average.assign(ops.cast(square, average.dtype))
        step = ops.cast(self.iterations + 1, variable.dtype)
        seen = 1.0 - ops.power(self.decay, step)
        if mark_of(variable).pretrained:
            difference = ops.sqrt(square)
            difference *= -0.5 * self.significance * ops.rsqrt(step * seen)
        else:
            difference = ops.stop_gradient(variable) - 0.5
            difference *= square
            difference *= -self.curvature * self.batch_size / seen
        difference += gradient
        return difference

    def update_step(
        self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor
    ) -> None:
        velocity = self._momentums[self._get_variable_index(variable)]
        step = ops.cast(ops.convert_to_tensor(velocity), variable.dtype)
        step *= self.momentum
        step += gradient
        self.assign(velocity, ops.cast(step, velocity.dtype))
        self.assign_sub(variable, ops.cast(learning_rate, step.dtype) * step)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "curvature": self.curvature,
            "batch_size": self.batch_size,
            "decay": self.decay,
            "significance": self.significance,
        }
