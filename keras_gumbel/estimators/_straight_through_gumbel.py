"""The gradient of the relaxed sample: straight-through Gumbel-Softmax."""

from typing import Any

import keras

from keras_gumbel._numerics import tempered_softmax
from keras_gumbel._probabilities import safe_logit
from keras_gumbel._probabilities import sigmoid
from keras_gumbel._typing import Seed
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel.estimators._base import Estimator


@keras.saving.register_keras_serializable(package="keras_gumbel")
class StraightThroughGumbel(Estimator):
    """The gradient of the relaxed sample with the same noise.

    ```
    surrogate = softmax((x + z) / temperature)              # Eqs. (15), (16)
    surrogate = sigmoid((log(s / (1 - s)) + e) / temperature)     # Eq. (26)
    ```

    for K classes and for binary variables. The string
    `"straight_through_gumbel"` stands for it. It is the only estimator that
    supports relaxed samples (`hard=False`). They have their own gradient, or
    the gradient at `backward_temperature`.

    Args:
        backward_temperature: Positive number, or a schedule of the training
            step, the temperature of the surrogate. `None` for the temperature
            of the layer or function. Defaults to `None`.

    Raises:
        ValueError: If `backward_temperature` is not positive.

    Example:

    >>> decoupled = keras_gumbel.estimators.StraightThroughGumbel(1.0)
    >>> layer = keras_gumbel.layers.GumbelSoftmax(0.5, estimator=decoupled)

    References:
        - [Jang et al., 2016](https://arxiv.org/abs/1611.01144)
        - [Shah et al., 2024](https://arxiv.org/abs/2410.13331), for
          `backward_temperature`
    """

    relaxes = True

    def surrogate(
        self,
        hard: Tensor,
        logits: Tensor,
        noise: Tensor | None,
        temperature: Any,
        seed: Seed = None,
    ) -> Tensor:
        if noise is None:
            raise invalid_argument(
                "StraightThroughGumbel", "noise", "that of the sample", noise
            )
        return tempered_softmax(logits + noise, temperature)

    def binary_surrogate(
        self,
        hard: Tensor,
        probs: Tensor,
        noise: Tensor,
        temperature: Any,
        seed: Seed = None,
    ) -> Tensor:
        return sigmoid((safe_logit(probs) + noise) / temperature)
