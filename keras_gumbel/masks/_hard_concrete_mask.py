"""The hard concrete mask."""

from typing import Any

import keras

from keras_gumbel import random
from keras_gumbel._stochastic import StochasticLayer
from keras_gumbel._typing import Tensor
from keras_gumbel.masks._sampled_mask import SampledMask
from keras_gumbel.ops._gates import hard_concrete


@keras.saving.register_keras_serializable(package="keras_gumbel")
class HardConcreteMask(StochasticLayer, SampledMask):
    """Gates its input with stretched, clipped relaxed Bernoulli masks.

    ```
    u = sigmoid((log(s / (1 - s)) + e) / temperature + log(-low / high))
    m = clip(u * (high - low) + low, 0, 1),  e ~ Logistic(0, 1)
    output = input * m
    ```

    with low = -0.1 and high = 1.1, so P(m > 0) = s: see
    `keras_gumbel.ops.hard_concrete`. A sample is exactly 0 or 1 with positive
    probability. One mask is drawn for all examples of a batch.

    Args:
        temperature: Positive number, or a schedule of the training step.
            Defaults to `2 / 3`.
        inference: String, the mask in inference: `"mean"` for s, `"mode"` for
            1 if s > 0.5 and 0 otherwise, `"sample"` for a sample as in
            training. Defaults to `"mean"`.
        learn_temperature: Boolean, whether the temperature is a trainable
            positive variable that starts at `temperature`. Defaults to
            `False`.
        precision: String, `"standard"` or `"high"`, the precision of the
            noise: see `keras_gumbel.random.logistic`. Defaults to
            `"standard"`.
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
        ValueError: If `temperature` is not positive, `inference` or
            `precision` is unknown, or `seed` is out of range.

    Example:

    >>> gate = keras_gumbel.masks.HardConcreteMask(seed=0)
    >>> tuple(gate(keras.ops.ones((2, 3)), training=True).shape)
    (2, 3)

    References:
        - [Louizos et al., 2017](https://arxiv.org/abs/1712.01312)
    """

    def __init__(
        self,
        temperature: Any = 2 / 3,
        inference: str = "mean",
        learn_temperature: bool = False,
        precision: str = "standard",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            temperature,
            inference,
            seed,
            learn_temperature=learn_temperature,
            precision=precision,
            **kwargs,
        )

    def sample(self, scores: Tensor, training: bool | None) -> Tensor:
        noise = random.logistic(
            scores.shape, "float32", self.seed_generator, self.precision
        )
        temperature = self.current_temperature(self.count(training))
        return hard_concrete(scores, temperature, noise=noise)
