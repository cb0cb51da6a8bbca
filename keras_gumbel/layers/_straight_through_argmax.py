"""The straight-through argmax layer."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_gumbel._numerics import masked_logits
from keras_gumbel._typing import Shape
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import require_choice
from keras_gumbel.layers._one_hot import OneHotLayer
from keras_gumbel.ops._discrete import gumbel_max
from keras_gumbel.ops._discrete import one_hot_argmax


@keras.saving.register_keras_serializable(package="keras_gumbel")
class StraightThroughArgmax(OneHotLayer):
    """Samples a class exactly, with the gradient of a relaxed sample.

    Use it if only a one-hot vector makes sense: an action, a code, the branch
    of a network. The forward pass is an exact categorical sample at every
    temperature. The temperature biases only the backward pass.

    ```
    z ~ Gumbel(0, 1)^K
    h = one_hot(argmax_k (x_k + z_k))                              # Eq. (5)
    y = softmax((x + z) / temperature)                            # Eq. (15)
    output = h + (y - sg[y])                                      # Eq. (16)
    ```

    For other gradients than Eq. (16), pass an `estimator`. With the same
    arguments, `GumbelSoftmax(hard=True)` draws the same samples with the same
    gradients. Use this layer if a relaxed sample makes no sense, or for
    indices.

    In inference (`training=False`), no noise is drawn and no state changes. By
    default, the output is the one-hot vector of the most likely class.
    `inference` changes this.

    Args:
        temperature: Positive number, or a schedule of the training step
            such as `keras_gumbel.schedules.ExponentialAnnealing`. Defaults
            to `1.0`.
        estimator: The gradient estimator: a `keras_gumbel.estimators.Estimator`
            such as `keras_gumbel.estimators.GumbelRao(num_samples=100)`, or an
            identifier such as `"reinmax"`, see `keras_gumbel.estimators.get`.
            Defaults to `"straight_through_gumbel"`.
        output_mode: String, `"one_hot"`, or `"index"` for the int32 index of
            the class. No gradient flows through an index. The logits then get a
            gradient only from an estimator such as `"rloo"`. Defaults to
            `"one_hot"`.
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
            sample, and the relaxed sample of the same noise (Eq. 15) with its
            own gradient. In inference, `soft` is softmax(x). Defaults to
            `False`.
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
            noise. With given noise, only `"gumbel_rao"` reads or writes state.
            Defaults to `None`.

    Input shape:
        `(..., K)`, with K on `axis`.

    Output shape:
        Same as the input. For `output_mode="index"`, without `axis`.

    Raises:
        ValueError: If `temperature` is not positive, `estimator`,
            `output_mode`, `inference` or `precision` is unknown, `estimator`
            has no temperature to learn, `seed` is out of range, or
            `noise_shape` or `return_soft` is passed with an estimator that
            compares losses; at build, if the inputs have no such `axis` or
            `noise_shape` does not fit them.

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
        estimator: Any = "straight_through_gumbel",
        output_mode: str = "one_hot",
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
        owner = type(self).__name__
        require_choice(owner, "output_mode", output_mode, ("one_hot", "index"))
        if output_mode == "index" and inference == "softmax":
            raise invalid_argument(
                owner,
                "inference",
                "'argmax' or 'sample' with `output_mode='index'`",
                inference,
            )
        super().__init__(
            True,
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
        self.output_mode = output_mode

    def infer(self, logits: Tensor, mask: Tensor | None) -> Tensor:
        if self.output_mode == "one_hot":
            return super().infer(logits, mask)
        logits, _, _ = masked_logits(self.name, logits, self.axis, mask)
        return self._index(one_hot_argmax(logits, self.axis))

    def _index(self, one_hot: Tensor) -> Tensor:
        # Unlike `argmax` of floats, `argmax` of integers exports to all
        # formats.
        return ops.argmax(ops.cast(one_hot, "int32"), axis=self.axis)

    def sample(
        self,
        logits: Tensor,
        temperature: Tensor,
        mask: Tensor | None,
        noise: Tensor,
        step: Tensor | None,
    ) -> Tensor:
        if self.output_mode == "index" and self.estimator.needs_loss_gradient:
            return gumbel_max(logits, self.axis, mask, noise)
        sample = super().sample(logits, temperature, mask, noise, step)
        return sample if self.output_mode == "one_hot" else self._index(sample)

    def compute_output_spec(self, inputs: Tensor, **kwargs: Any) -> Any:
        if self.output_mode == "one_hot":
            return super().compute_output_spec(inputs, **kwargs)
        index = keras.KerasTensor(self._index_shape(inputs.shape), "int32")
        if not self.return_soft:
            return index
        return index, keras.KerasTensor(inputs.shape, self.compute_dtype)

    def compute_output_shape(self, input_shape: Shape) -> Any:
        if self.output_mode == "one_hot":
            return super().compute_output_shape(input_shape)
        index = self._index_shape(input_shape)
        return (index, tuple(input_shape)) if self.return_soft else index

    def _index_shape(self, input_shape: Shape) -> Shape:
        axis = self.axis % len(input_shape)
        return (*input_shape[:axis], *input_shape[axis + 1 :])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "output_mode": self.output_mode}
