"""A penalty on logits, as a Keras regularizer."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gumbel._numerics import widen
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_integer
from keras_gumbel._validation import is_number
from keras_gumbel._validation import require_axis
from keras_gumbel.ops.information import categorical_kl


@keras.saving.register_keras_serializable(package="keras_gumbel")
class CategoricalKL(keras.Regularizer):
    """Draws categorical distributions, given by logits, towards a prior.

    ```
    factor * mean over all variables of KL(softmax(x) || prior)
    ```

    the term that an autoencoder with categorical codes adds to its loss. A
    layer calls it on its logits, as in `self.add_loss(regularizer(logits))`.
    The loss is a mean over the batch and over the variables of an example:
    for the evidence bound of D variables an example, let `factor` be D. As an
    `activity_regularizer`, Keras divides it by the batch size once more.

    Args:
        factor: Non-negative finite number. Defaults to `1.0`.
        prior_logits: Sequence of K numbers, the logits of the prior, or
            `None` for the uniform distribution over the classes that the
            logits do not forbid with -inf. Defaults to `None`.
        axis: Integer, the axis of the K classes. Defaults to `-1`.

    Raises:
        ValueError: If `factor` is not a non-negative finite number,
            `prior_logits` are not the logits of a distribution, or `axis` is
            not an integer.

    Example:

    >>> regularizer = keras_gumbel.regularizers.CategoricalKL(0.1)
    >>> round(float(regularizer(keras.ops.array([[100.0, 0.0]]))), 4)
    0.0693

    References:
        - [Jang et al., 2016](https://arxiv.org/abs/1611.01144)
    """

    def __init__(
        self,
        factor: float = 1.0,
        prior_logits: Sequence[float] | None = None,
        axis: int = -1,
    ) -> None:
        if not is_number(factor) or not 0 <= factor < math.inf:
            raise invalid_argument(
                "CategoricalKL",
                "factor",
                "a non-negative finite number",
                factor,
            )
        if not is_integer(axis):
            raise invalid_argument("CategoricalKL", "axis", "an integer", axis)
        self.factor = factor
        self.prior_logits = _as_list(prior_logits)
        self.axis = axis

    def __call__(self, x: Tensor) -> Tensor:
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
        return self.factor * ops.mean(categorical_kl(x, prior, axis))

    def get_config(self) -> dict[str, Any]:
        return {
            "factor": self.factor,
            "prior_logits": self.prior_logits,
            "axis": self.axis,
        }


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
