"""The gradient of the probabilities: plain straight-through."""

from typing import Any

import keras

from keras_gumbel._numerics import tempered_softmax
from keras_gumbel._probabilities import safe_logit
from keras_gumbel._probabilities import sigmoid
from keras_gumbel._typing import Seed
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import is_number
from keras_gumbel.estimators._base import Estimator


@keras.saving.register_keras_serializable(package="keras_gumbel")
class StraightThrough(Estimator):
    """The gradient of the probabilities, without noise.

    ```
    surrogate = softmax(x / temperature)
    surrogate = sigmoid(log(s / (1 - s)) / temperature)
    ```

    for K classes and for binary variables. The string `"straight_through"`
    stands for it. At temperature 1, the gradient in the probabilities is the
    gradient of the loss at the sample. It has no bias if the loss is linear.
    The string `"identity"` stands for
    `StraightThrough(backward_temperature=1.0)`.

    Args:
        backward_temperature: Positive number, or a schedule of the training
            step, the temperature of the surrogate. `None` for the temperature
            of the layer or function. Defaults to `None`.

    Raises:
        ValueError: If `backward_temperature` is not positive.

    Example:

    >>> estimator = keras_gumbel.estimators.StraightThrough(1.0)
    >>> mask = keras_gumbel.layers.ConcreteMask(hard=True, estimator=estimator)

    References:
        - [Bengio et al., 2013](https://arxiv.org/abs/1308.3432)
    """

    def surrogate(
        self,
        hard: Tensor,
        logits: Tensor,
        noise: Tensor | None,
        temperature: Any,
        seed: Seed = None,
    ) -> Tensor:
        return tempered_softmax(logits, temperature)

    def binary_surrogate(
        self,
        hard: Tensor,
        probs: Tensor,
        noise: Tensor,
        temperature: Any,
        seed: Seed = None,
    ) -> Tensor:
        if is_number(temperature) and temperature == 1.0:
            return probs
        return sigmoid(safe_logit(probs) / temperature)
