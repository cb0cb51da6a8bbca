"""The ReinMax gradient."""

from typing import Any

import keras
from keras import ops

from keras_gumbel._numerics import slope_carrier
from keras_gumbel._numerics import tempered_softmax
from keras_gumbel._probabilities import EDGE
from keras_gumbel._typing import Seed
from keras_gumbel._typing import Tensor
from keras_gumbel.estimators._base import Estimator


@keras.saving.register_keras_serializable(package="keras_gumbel")
class ReinMax(Estimator):
    """The ReinMax gradient, which has second-order accuracy.

    With the sample h, p = softmax(x) and the gradient v of the loss at h:

    ```
    gradient = 2 J(q) v - J(p) v / 2,  q = (h + softmax(x / temperature)) / 2
    J(q) v   = q * v - q <q, v>
    ```

    At temperature 1, it has no bias if the loss is quadratic in the sample. By
    default, ReinMax therefore uses temperature 1 and not the temperature of the
    layer. For a binary variable at temperature 1, the gradient in s is `v / (2
    s)` if the sample is 1, and `v / (2 (1 - s))` if it is 0. Its variance for a
    binary variable grows as 1 / s and 1 / (1 - s). The string `"reinmax"`
    stands for it.

    Args:
        backward_temperature: Positive number, or a schedule of the training
            step. `None` for the temperature of the layer or function, which
            then gets no gradient. Defaults to `1.0`.

    Raises:
        ValueError: If `backward_temperature` is not positive.

    Example:

    >>> reinmax = keras_gumbel.estimators.ReinMax()
    >>> y = reinmax([0.0, 1.0], logits=[0.5, 2.0])
    >>> keras.ops.convert_to_numpy(y).tolist()
    [0.0, 1.0]

    References:
        - [Liu et al., 2023](https://arxiv.org/abs/2304.08612)
    """

    def __init__(self, backward_temperature: Any = 1.0) -> None:
        super().__init__(backward_temperature)

    def surrogate(
        self,
        hard: Tensor,
        logits: Tensor,
        noise: Tensor | None,
        temperature: Any,
        seed: Seed = None,
    ) -> Tensor:
        q = 0.5 * (hard + tempered_softmax(logits, temperature))
        p = tempered_softmax(logits, 1.0)
        carrier = slope_carrier(logits)
        return 2.0 * _jacobian(q, carrier) - 0.5 * _jacobian(p, carrier)

    def binary_surrogate(
        self,
        hard: Tensor,
        probs: Tensor,
        noise: Tensor,
        temperature: Any,
        seed: Seed = None,
    ) -> Tensor:
        s = ops.clip(probs, EDGE, 1 - EDGE)
        logit = ops.log(s) - ops.log1p(-s)
        # The probability of the value that was not drawn.
        other = ops.sigmoid(ops.where(hard, -logit, logit) / temperature)
        factor = other * (2.0 - other) / (2.0 * s * (1.0 - s)) - 0.5
        return probs * ops.stop_gradient(factor)


def _jacobian(q: Tensor, carrier: Tensor) -> Tensor:
    """Returns zeros whose vector-Jacobian product is J(q) v."""
    q = ops.stop_gradient(q)
    return q * (carrier - ops.sum(q * carrier, axis=-1, keepdims=True))
