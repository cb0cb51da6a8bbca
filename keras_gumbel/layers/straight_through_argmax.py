"""The straight-through argmax layer."""

from typing import Any

import keras

from keras_gumbel._typing import Tensor
from keras_gumbel.layers._categorical import CategoricalLayer
from keras_gumbel.ops.sampling import gumbel_softmax


@keras.saving.register_keras_serializable(package="keras_gumbel")
class StraightThroughArgmax(CategoricalLayer):
    """Samples a class exactly, with the gradient of a relaxed sample.

    Use it where only a one-hot vector makes sense: an action, a code, the
    branch of a network. The forward pass is an exact categorical sample at
    every temperature; the backward pass, and only that, is biased by it.

    ```
    z ~ Gumbel(0, 1)^K
    h = one_hot(argmax_k (x_k + z_k))                              # Eq. (5)
    y = softmax((x + z) / temperature)                            # Eq. (15)
    output = h + (y - sg[y])                                      # Eq. (16)
    ```

    In inference (`training=False`) no noise is drawn and no state changes:
    the output is the one-hot vector of the likeliest class, or what
    `inference` says.

    Args:
        temperature: Positive number, or a schedule of the layer's own step
            such as `keras_gumbel.schedules.ExponentialAnnealing`. Defaults
            to `1.0`.
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

    >>> layer = keras_gumbel.layers.StraightThroughArgmax(seed=0)
    >>> y = layer(keras.ops.zeros((2, 3)), training=True)
    >>> keras.ops.convert_to_numpy(y).sum(axis=-1).tolist()
    [1.0, 1.0]

    References:
        - [Bengio et al., 2013](https://arxiv.org/abs/1308.3432)
        - [Jang et al., 2016](https://arxiv.org/abs/1611.01144)
    """

    def __init__(
        self,
        temperature: Any = 1.0,
        axis: int = -1,
        inference: str = "argmax",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(temperature, axis, inference, seed, **kwargs)

    def sample(self, logits: Tensor, mask: Tensor | None) -> Tensor:
        return gumbel_softmax(
            logits,
            self.current_temperature(),
            hard=True,
            axis=self.axis,
            mask=mask,
            seed=self.seed_generator,
        )
