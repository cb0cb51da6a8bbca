"""A Keras regularizer of logits."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gumbel._exports import dir_of
from keras_gumbel._numerics import widen
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_integer
from keras_gumbel._validation import is_number
from keras_gumbel._validation import is_schedule
from keras_gumbel._validation import own_schedule
from keras_gumbel._validation import require_axis
from keras_gumbel._validation import require_choice
from keras_gumbel.ops._information import categorical_kl

__all__ = ["CategoricalKL"]
__dir__ = dir_of(__all__)


@keras.saving.register_keras_serializable(package="keras_gumbel")
class CategoricalKL(keras.Regularizer):
    """Pulls categorical distributions, given by logits, toward a prior.

    ```
    factor * mean over the batch of KL(softmax(x) || prior)
    ```

    Use it in the loss of an autoencoder with categorical codes.
    `reduction="sum"` adds up the divergences of the variables of an example, as
    in the evidence bound, and `"mean"` averages them. The reconstruction loss
    must be a sum too. If it is a mean over the pixels of an image, set `factor`
    to 1 divided by the number of pixels. Otherwise the codes collapse to the
    prior.

    Pass it to a layer as `logits_regularizer=`. The layer then calls it on its
    logits, evaluates a schedule, and logs the divergence in nats, without the
    factor, in `fit` and `evaluate`. In your own layer, call
    `self.add_loss(regularizer(logits))`. Do not use it as an
    `activity_regularizer`, because Keras then divides it by the batch size a
    second time.

    Args:
        factor: Non-negative finite number, or a schedule of the training step
            for the `logits_regularizer` of a layer. Defaults to `1.0`.
        prior_logits: Sequence of K numbers, the logits of the prior, or
            `None` for the uniform distribution over all classes whose logits
            are not -inf. Defaults to `None`.
        axis: Integer, the axis of the K classes. Defaults to `-1`.
        reduction: String, `"sum"` or `"mean"`, over the variables of an
            example: all axes but the first one and `axis`. Defaults to
            `"mean"`.
        name: String, the name of the divergence in logs. Defaults to `"kl"`.

    Raises:
        ValueError: If `factor` is not a non-negative finite number or a
            schedule, `prior_logits` are not the logits of a distribution,
            `axis` is not an integer, or `reduction` is unknown; when called,
            if `factor` is a schedule, because the step is unknown.

    Example:

    >>> regularizer = keras_gumbel.regularizers.CategoricalKL(0.1)
    >>> round(float(regularizer(keras.ops.array([[100.0, 0.0]]))), 4)
    0.0693

    References:
        - [Jang et al., 2016](https://arxiv.org/abs/1611.01144)
    """

    def __init__(
        self,
        factor: Any = 1.0,
        prior_logits: Sequence[float] | None = None,
        axis: int = -1,
        reduction: str = "mean",
        name: str = "kl",
    ) -> None:
        constant = is_number(factor) and 0 <= factor < math.inf
        if not constant and not is_schedule(factor):
            raise invalid_argument(
                "CategoricalKL",
                "factor",
                "a non-negative finite number or a `LearningRateSchedule`",
                factor,
            )
        require_choice("CategoricalKL", "reduction", reduction, ("sum", "mean"))
        if not is_integer(axis):
            raise invalid_argument("CategoricalKL", "axis", "an integer", axis)
        self.factor = own_schedule(factor)
        self.prior_logits = _as_list(prior_logits)
        self.axis = int(axis)
        self.reduction = reduction
        self.name = name

    def __call__(self, x: Tensor) -> Tensor:
        if is_schedule(self.factor):
            raise invalid_argument(
                "CategoricalKL",
                "factor",
                "a number, because the training step is unknown here",
                self.factor,
                "For a schedule, pass the regularizer to a layer as its "
                "`logits_regularizer`.",
            )
        return self.factor * self.divergence(x)

    def divergence(self, x: Tensor) -> Tensor:
        """Returns the divergence of logits, in nats, without the factor."""
        # The mean of many half-precision numbers may overflow.
        x, _ = widen("CategoricalKL", "x", x)
        axis = require_axis("CategoricalKL", self.axis, x.shape)
        prior = self.prior_logits
        if prior is not None:
            if x.shape[axis] != len(prior):
                raise invalid_argument(
                    "CategoricalKL",
                    "prior_logits",
                    f"one number for each of {x.shape[axis]} classes",
                    prior,
                )
            shape = [-1 if i == axis else 1 for i in range(len(x.shape))]
            prior = ops.reshape(ops.convert_to_tensor(prior, x.dtype), shape)
        kl = categorical_kl(x, prior, axis)
        if self.reduction == "sum" and axis > 0:
            kl = ops.sum(kl, axis=list(range(1, len(kl.shape))))
        elif self.reduction == "sum":
            kl = ops.sum(kl)  # the first axis holds the classes: one example
        return ops.mean(kl)

    def get_config(self) -> dict[str, Any]:
        factor = self.factor
        if is_schedule(factor):
            factor = keras.saving.serialize_keras_object(factor)
        return {
            "factor": factor,
            "prior_logits": self.prior_logits,
            "axis": self.axis,
            "reduction": self.reduction,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "CategoricalKL":
        factor = keras.saving.deserialize_keras_object(config["factor"])
        return cls(**{**config, "factor": factor})


def _as_list(prior_logits: Any) -> list[float] | None:
    """Returns the logits of a distribution as floats, or raises."""
    if prior_logits is None:
        return None
    try:
        values = np.asarray(prior_logits, "float64")
    except (TypeError, ValueError):
        values = np.empty(0)
    largest = values.max(initial=-math.inf)  # NaN if there is one
    if values.ndim != 1 or not -math.inf < largest < math.inf:
        raise invalid_argument(
            "CategoricalKL",
            "prior_logits",
            "a sequence of numbers below infinity, one of them finite, "
            "or `None`",
            prior_logits,
        )
    return values.tolist()
