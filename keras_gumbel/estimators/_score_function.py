"""The base class of unbiased estimators."""

from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_gumbel._typing import Seed
from keras_gumbel._typing import Tensor
from keras_gumbel.estimators._base import Estimator
from keras_gumbel.estimators._base import classes_last
from keras_gumbel.estimators._base import two_classes
from keras_gumbel.estimators._score_tape import record_once


class ScoreFunction(Estimator):
    """Base class of gradient estimators that need no gradient of the loss.

    ```
    d/dx E[loss(h)] = E[loss(h) * d/dx log P(h)]
    ```

    They are unbiased for any loss. They need the values of the loss on several
    draws of the samples: use `keras_gumbel.models.MonteCarloModel` with `fit`,
    or `ScoreTape` in a custom training loop. The sample itself passes no
    gradient back to its logits.

    To write your own, subclass this class, override `score`, and register the
    class. Override `signals` for another baseline than the mean loss of the
    other draws.

    Example:

    >>> @keras.saving.register_keras_serializable(package="examples")
    ... class Reinforce(keras_gumbel.estimators.ScoreFunction):
    ...     def score(self, hard, logits, noise):
    ...         log_p = keras.ops.log_softmax(logits)
    ...         return keras.ops.sum(hard * log_p, axis=-1)
    >>> layer = keras_gumbel.layers.StraightThroughArgmax(
    ...     estimator=Reinforce()
    ... )

    References:
        - [Williams, 1992](https://doi.org/10.1007/BF00992696)
    """

    # The number of consecutive draws that are compared, or `None` for all.
    group: int | None = None
    compares_losses = True
    needs_loss_gradient = False

    def __init__(self) -> None:
        super().__init__()

    def score(self, hard: Tensor, logits: Tensor, noise: Tensor) -> Tensor:
        """Returns the tensor whose gradient multiplies the loss.

        Args:
            hard: As in `Estimator.surrogate`.
            logits: As in `Estimator.surrogate`.
            noise: As in `Estimator.surrogate`.

        Returns:
            A tensor of shape `(...,)`, without the axis of the K classes.
        """
        raise NotImplementedError(
            f"`{type(self).__name__}` has no method `score`. Override it to "
            "return the tensor whose gradient multiplies the loss."
        )

    def binary_score(
        self, hard: Tensor, probs: Tensor, noise: Tensor
    ) -> Tensor:
        """Returns `score` of the two classes of a binary variable.

        Args:
            hard: As in `Estimator.binary_surrogate`.
            probs: As in `Estimator.binary_surrogate`.
            noise: As in `Estimator.binary_surrogate`.

        Returns:
            A tensor of the shape of `probs`.
        """
        return self.score(*two_classes(hard, probs, noise))

    def signals(self, losses: Sequence[Tensor]) -> list[Any]:
        """Returns what multiplies the scores of a group of draws.

        Args:
            losses: List of the losses of the draws, which are scalars or
                tensors of shape `(batch,)`, without a gradient.

        Returns:
            A list of one tensor or number for each draw. The gradient is that
            of the sum of signal times score. By default, the signal of a draw
            is its loss less the mean of the others, over the number of draws.
        """
        total: Any = sum(losses)
        size = len(losses)
        return [(loss - (total - loss) / (size - 1)) / size for loss in losses]

    def weights(self, size: int) -> list[float]:
        """Returns the weights of a group of draws in the mean loss.

        Args:
            size: Integer, the number of draws.
        """
        return [1.0 / size] * size

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
        def score() -> Tensor:
            given = (hard, logits, noise)
            return self.score(*[classes_last(v, axis, logits) for v in given])

        record_once(score, self)
        return ops.stop_gradient(hard)

    def binary(
        self,
        owner: str,
        hard: Tensor,
        probs: Tensor,
        noise: Tensor,
        temperature: Any,
        seed: Seed,
    ) -> Tensor:
        record_once(lambda: self.binary_score(hard, probs, noise), self)
        return ops.stop_gradient(ops.cast(hard, probs.dtype))

    @property
    def needs_temperature(self) -> bool:
        """Whether the temperature of the layer gets a gradient: never."""
        return False

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Estimator:
        return cls(**config)
