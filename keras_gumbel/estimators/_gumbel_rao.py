"""The Gumbel-Rao gradient."""

from typing import Any

import keras
from keras import ops

from keras_gumbel import random
from keras_gumbel._numerics import is_allowed
from keras_gumbel._numerics import log_add
from keras_gumbel._numerics import slope_carrier
from keras_gumbel._numerics import tempered_softmax
from keras_gumbel._typing import Seed
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import require_positive_integer
from keras_gumbel.estimators._base import Estimator


@keras.saving.register_keras_serializable(package="keras_gumbel")
class GumbelRao(Estimator):
    """The gradient of Eq. (16), averaged over noise of the same sample.

    ```
    surrogate = mean_r softmax((x + z_r) / temperature)
    z_r ~ Gumbel(0, 1)^K  given that  argmax_k (x_k + z_rk) = h
    ```

    It has the mean of `StraightThroughGumbel` with less variance, but takes the
    time of `num_samples` softmaxes. The string `"gumbel_rao"` stands for it.

    Args:
        num_samples: Positive integer, the number of draws of noise. Defaults
            to `10`.
        backward_temperature: Positive number, or a schedule of the training
            step, the temperature of the surrogate. `None` for the temperature
            of the layer or function. Defaults to `None`.

    Raises:
        ValueError: If `num_samples` is not a positive integer, or
            `backward_temperature` is not positive.

    Example:

    >>> gumbel_rao = keras_gumbel.estimators.GumbelRao(num_samples=100)
    >>> y = gumbel_rao([0.0, 1.0], logits=[0.5, 2.0], temperature=0.5)
    >>> keras.ops.convert_to_numpy(y).tolist()
    [0.0, 1.0]

    References:
        - [Paulus et al., 2020](https://arxiv.org/abs/2010.04838)
    """

    def __init__(
        self, num_samples: int = 10, backward_temperature: Any = None
    ) -> None:
        require_positive_integer("GumbelRao", "num_samples", num_samples)
        super().__init__(backward_temperature)
        self.num_samples = num_samples

    def surrogate(
        self,
        hard: Tensor,
        logits: Tensor,
        noise: Tensor | None,
        temperature: Any,
        seed: Seed = None,
    ) -> Tensor:
        perturbed = _perturbed_given_argmax(
            hard, logits, self.draw(logits, seed)
        )
        soft = tempered_softmax(
            ops.stop_gradient(perturbed) + slope_carrier(logits), temperature
        )
        # The mean of float64 is float32 on torch.
        return ops.sum(soft, axis=0) / self.num_samples

    def draw(self, logits: Tensor, seed: Seed) -> Tensor:
        """Draws free Gumbel noise, of shape `(num_samples, *logits.shape)`."""
        shape = (self.num_samples, *ops.shape(logits))
        return random.gumbel(shape, logits.dtype, seed)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_samples": self.num_samples}


def _perturbed_given_argmax(
    hard: Tensor, logits: Tensor, noise: Tensor
) -> Tensor:
    """Turns free noise into x + z given that the argmax is at `hard`.

    The largest entry is Gumbel(log Z). The others are Gumbel(x_k), truncated at
    the largest (Maddison et al., 2014).
    """
    hard = ops.cast(hard, "bool")
    total = ops.logsumexp(logits, axis=-1, keepdims=True)
    own = ops.where(hard, noise, 0.0)
    top = total + ops.sum(own, axis=-1, keepdims=True)
    others = -log_add(-top, -(logits + noise))
    return ops.where(hard, top, ops.where(is_allowed(logits), others, logits))
