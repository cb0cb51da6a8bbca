"""The gapped straight-through gradient."""

from typing import Any

import keras
from keras import ops

from keras_gumbel._numerics import at_most
from keras_gumbel._numerics import largest
from keras_gumbel._numerics import slope_carrier
from keras_gumbel._numerics import tempered_softmax
from keras_gumbel._typing import Seed
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import require_positive
from keras_gumbel.estimators._base import Estimator


@keras.saving.register_keras_serializable(package="keras_gumbel")
class Gapped(Estimator):
    """The gradient of logits that are shifted instead of perturbed.

    ```
    surrogate = softmax((x + m) / temperature)
    ```

    The shift m has no gradient. It raises the sampled logit to the largest, and
    pushes the others at least `gap` below it. It replaces the noise and has no
    variance. The string `"gapped"` stands for it.

    Args:
        gap: Positive number, in units of the logits. Defaults to `1.0`.
        backward_temperature: Positive number, or a schedule of the training
            step, the temperature of the surrogate. `None` for the temperature
            of the layer or function. Defaults to `None`.

    Raises:
        ValueError: If `gap` or `backward_temperature` is not positive.

    Example:

    >>> gapped = keras_gumbel.estimators.Gapped(gap=0.5)
    >>> y = gapped([0.0, 1.0], logits=[0.5, 2.0], temperature=0.5)
    >>> keras.ops.convert_to_numpy(y).tolist()
    [0.0, 1.0]

    References:
        - [Fan et al., 2022](https://arxiv.org/abs/2206.07235)
    """

    def __init__(
        self, gap: float = 1.0, backward_temperature: Any = None
    ) -> None:
        require_positive("Gapped", "gap", gap)
        super().__init__(backward_temperature)
        self.gap = gap

    def surrogate(
        self,
        hard: Tensor,
        logits: Tensor,
        noise: Tensor | None,
        temperature: Any,
        seed: Seed = None,
    ) -> Tensor:
        top = largest(logits, -1)
        shifted = ops.where(
            ops.cast(hard, "bool"), top, at_most(logits, top - self.gap)
        )
        return tempered_softmax(
            ops.stop_gradient(shifted) + slope_carrier(logits), temperature
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "gap": self.gap}
