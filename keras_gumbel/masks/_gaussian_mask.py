"""The Gaussian mask: stochastic gates."""

from typing import Any

import keras

from keras_gumbel._typing import Tensor
from keras_gumbel.masks._sampled_mask import SampledMask
from keras_gumbel.ops._gates import stochastic_gate


@keras.saving.register_keras_serializable(package="keras_gumbel")
class GaussianMask(SampledMask):
    """Gates its input with clipped Gaussian samples: stochastic gates.

    ```
    m = clip(0.5 * (F(s) + e), 0, 1),  e ~ Normal(0, 1)
    output = input * m
    ```

    F is the quantile function of the standard normal distribution, so P(m > 0)
    = s: see `keras_gumbel.ops.stochastic_gate`. A sample is exactly 0 or 1 with
    positive probability. One mask is drawn for all examples of a batch.

    Args:
        inference: String, the mask in inference: `"mean"` for s, `"mode"` for
            1 if s > 0.5 and 0 otherwise, `"sample"` for a sample as in
            training. Defaults to `"mean"`.
        seed: Integer in [0, 2**32) or `None`. Defaults to `None`.
        **kwargs: Arguments of `keras_gumbel.masks.Mask`.

    Call arguments:
        inputs: Float tensor.
        training: Boolean, whether to draw noise.

    Input shape:
        Any, with known lengths on the axes named by `axis`.

    Output shape:
        Same as the input.

    Raises:
        ValueError: If `inference` is unknown, or `seed` is out of range.

    Example:

    >>> gate = keras_gumbel.masks.GaussianMask(seed=0)
    >>> tuple(gate(keras.ops.ones((2, 3)), training=True).shape)
    (2, 3)

    References:
        - [Yamada et al., 2018](https://arxiv.org/abs/1810.04247)
    """

    def __init__(
        self,
        inference: str = "mean",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(inference, seed, **kwargs)

    def sample(self, scores: Tensor, training: bool | None) -> Tensor:
        return stochastic_gate(scores, seed=self.seed_generator)
