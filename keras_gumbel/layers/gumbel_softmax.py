"""The Gumbel-Softmax layer."""

from typing import Any

import keras

from keras_gumbel._typing import Tensor
from keras_gumbel.layers._categorical import CategoricalLayer
from keras_gumbel.ops.sampling import gumbel_softmax


@keras.saving.register_keras_serializable(package="keras_gumbel")
class GumbelSoftmax(CategoricalLayer):
    """Samples a relaxed one-hot vector from logits.

    Use it where a network must *choose* one of K classes and still be trained
    by gradient descent. A high temperature gives smooth samples and gradients
    of low variance, a low one samples near one-hot and gradients of high
    variance; common practice anneals from 1 to 0.5. Where the next layer can
    only take a one-hot vector, use `hard=True`.

    ```
    z ~ Gumbel(0, 1)^K
    y = softmax((x + z) / temperature)                            # Eq. (15)
    ```

    In inference (`training=False`) no noise is drawn and no state changes:
    the output is the one-hot vector of the likeliest class, or what
    `inference` says.

    Args:
        temperature: Positive number, or a schedule of the layer's own step
            such as `keras_gumbel.schedules.ExponentialAnnealing`. Defaults
            to `1.0`.
        hard: Boolean, whether the output is one-hot, with the gradient of the
            relaxed sample (Eq. 16). Defaults to `False`.
        axis: Integer, the axis of the K classes. Defaults to `-1`.
        inference: String, the output in inference: `"argmax"` for the one-hot
            vector of the largest logit, `"softmax"` for `softmax(x)`, the
            probabilities of the classes, `"sample"` for a sample as in
            training. Defaults to `"argmax"`.
        seed: Integer in [0, 2**32) or `None`. Defaults to `None`.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Logits x, a float tensor; -inf forbids a class.
        mask: Boolean tensor that broadcasts to `inputs`, true where a class
            may be chosen. A forbidden class gets exactly 0. The mask of time
            steps that Keras passes along does not forbid classes.
        training: Boolean, whether to draw noise.

    Input shape:
        `(..., K)`, with K on `axis`.

    Output shape:
        Same as the input.

    Raises:
        ValueError: If `temperature` is not positive, `inference` is unknown
            or `seed` out of range; at build, if the inputs have no such
            `axis`.

    Example:

    >>> layer = keras_gumbel.layers.GumbelSoftmax(temperature=0.5, seed=0)
    >>> tuple(layer(keras.ops.zeros((2, 3)), training=True).shape)
    (2, 3)

    References:
        - [Jang et al., 2016](https://arxiv.org/abs/1611.01144)
        - [Maddison et al., 2016](https://arxiv.org/abs/1611.00712)
    """

    def __init__(
        self,
        temperature: Any = 1.0,
        hard: bool = False,
        axis: int = -1,
        inference: str = "argmax",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(temperature, axis, inference, seed, **kwargs)
        self.hard = hard

    def sample(self, logits: Tensor, mask: Tensor | None) -> Tensor:
        return gumbel_softmax(
            logits,
            self.current_temperature(),
            hard=self.hard,
            axis=self.axis,
            mask=mask,
            seed=self.seed_generator,
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "hard": self.hard}
