"""The Gumbel-Softmax layer."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_gumbel.layers._one_hot import OneHotLayer


@keras.saving.register_keras_serializable(package="keras_gumbel")
class GumbelSoftmax(OneHotLayer):
    """Samples a relaxed one-hot vector from logits.

    Use it if a network must *choose* one of K classes and still be trained by
    gradient descent. A high temperature gives smooth samples, and gradients
    with low variance. A low temperature gives samples that are nearly one-hot,
    and gradients with high variance. Common practice anneals from 1 to 0.5.

    Use it if the next layer accepts relaxed samples, or to compare relaxed
    samples with hard ones. `GumbelSoftmax(hard=True)` and
    `StraightThroughArgmax()` are the same. Use the latter if only one-hot
    vectors or indices make sense.

    ```
    z ~ Gumbel(0, 1)^K
    y = softmax((x + z) / temperature)                            # Eq. (15)
    ```

    In inference (`training=False`), no noise is drawn and no state changes. By
    default, the output is the one-hot vector of the most likely class.
    `inference` changes this.

    Args:
        temperature: Positive number, or a schedule of the training step
            such as `keras_gumbel.schedules.ExponentialAnnealing`. Defaults
            to `1.0`.
        hard: Boolean, whether the output is one-hot, with the gradient of
            `estimator`. By default, this is the gradient of the relaxed sample
            (Eq. 16). Defaults to `False`.
        estimator: The gradient estimator of a hard sample: a
            `keras_gumbel.estimators.Estimator` or an identifier, see
            `keras_gumbel.estimators.get`. A relaxed sample accepts only
            `StraightThroughGumbel`, which can use another temperature for the
            gradient. Defaults to `"straight_through_gumbel"`.
        axis: Integer, the axis of the K classes. Defaults to `-1`.
        inference: String, the output in inference: `"argmax"` for the one-hot
            vector of the largest logit, `"softmax"` for `softmax(x)`, the
            probabilities of the classes, `"sample"` for a sample as in
            training. Defaults to `"argmax"`.
        learn_temperature: Boolean, whether the temperature is a trainable
            positive variable that starts at `temperature`. Defaults to `False`.
        precision: String, `"standard"` or `"high"`, the precision of the noise:
            see `keras_gumbel.random.gumbel`. Defaults to `"standard"`.
        logits_regularizer: Regularizer of the logits, such as
            `keras_gumbel.regularizers.CategoricalKL`, or `None`. Forbidden
            classes reach it as -inf. Defaults to `None`.
        uniform_mix: Number in [0, 1], the fraction of the uniform distribution
            that is mixed into softmax(x), so that no class dies out: see
            `keras_gumbel.ops.mix_uniform`. It is also mixed in during
            inference. Defaults to `0.0`.
        noise_shape: Tuple of integers and `None`, or `None`. As in
            `keras.layers.Dropout`, noise is shared along axes with the entry 1,
            and rows with equal logits then get the same sample. Defaults to
            `None`.
        return_soft: Boolean, whether the output is the pair `(hard, soft)`: the
            sample, and the relaxed sample of the same noise with its own
            gradient. Requires `hard=True`. In inference, `soft` is softmax(x).
            Defaults to `False`.
        seed: Integer in [0, 2**32) or `None`. Defaults to `None`.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Logits x, a float tensor; -inf forbids a class.
        mask: Boolean tensor that broadcasts to `inputs`, true where a class
            may be chosen. A forbidden class gets exactly 0. The mask of time
            steps that Keras passes along does not forbid classes.
        training: Boolean, whether to draw noise.
        temperature: Positive tensor that broadcasts to `inputs` and replaces
            the temperature of the layer, or `None`. Defaults to `None`.
        noise: Gumbel noise that broadcasts to `inputs`, or `None` to draw
            noise. With given noise, no state is read or written. Defaults to
            `None`.

    Input shape:
        `(..., K)`, with K on `axis`.

    Output shape:
        Same as the input. For `return_soft=True`, both outputs have this shape.

    Raises:
        ValueError: If `temperature` is not positive, `estimator` or `inference`
            is unknown, `estimator` does not support relaxed samples with
            `hard=False` or has no temperature to learn, `seed` is out of range,
            `return_soft` is true without `hard`, or `noise_shape` or
            `return_soft` is passed with an estimator that compares losses; at
            build, if the inputs have no such `axis` or `noise_shape` does not
            fit them.

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
        estimator: Any = "straight_through_gumbel",
        axis: int = -1,
        inference: str = "argmax",
        learn_temperature: bool = False,
        precision: str = "standard",
        logits_regularizer: Any = None,
        uniform_mix: float = 0.0,
        noise_shape: Sequence[int | None] | None = None,
        return_soft: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            hard,
            estimator,
            temperature=temperature,
            axis=axis,
            inference=inference,
            learn_temperature=learn_temperature,
            precision=precision,
            logits_regularizer=logits_regularizer,
            uniform_mix=uniform_mix,
            noise_shape=noise_shape,
            return_soft=return_soft,
            seed=seed,
            **kwargs,
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "hard": self.hard}
