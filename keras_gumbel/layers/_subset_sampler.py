"""The layer that chooses k of n items."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_gumbel._typing import Shape
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import require_choice
from keras_gumbel._validation import require_positive_integer
from keras_gumbel.estimators._lookup import require_independent_samples
from keras_gumbel.estimators._rloo import RLOO
from keras_gumbel.estimators._score_tape import warn_unless_recorded
from keras_gumbel.layers._categorical import CategoricalLayer
from keras_gumbel.layers._subsets import SUBSETS
from keras_gumbel.ops._subsets import gumbel_top_k
from keras_gumbel.ops._subsets import require_subset_size
from keras_gumbel.ops._subsets import subset_marginals


@keras.saving.register_keras_serializable(package="keras_gumbel")
class SubsetSampler(CategoricalLayer):
    """Samples k of n items from logits.

    Use it if a network must *choose* k different items, such as features,
    tokens or neighbors, and still be trained by gradient descent. The estimator
    `"simple"` samples whole subsets, with the gradient of their exact
    probabilities. It has no temperature to tune. `"relaxed_top_k"` samples one
    item after another. Use it if the next layer accepts relaxed samples.

    ```
    "simple":         h ~ P(S) proportional to exp(sum_{i in S} x_i), |S| = k
                      output = h + (p - sg[p]),  p_i = P(i in S)
    "relaxed_top_k":  h = the k largest of x + z,  z ~ Gumbel(0, 1)^n
                      output = h + (y - sg[y]),  y relaxed; y if not `hard`
    "rloo":           output = h as in "simple"
    ```

    In inference (`training=False`), no noise is drawn and no state changes. By
    default, the output is the k-hot vector of the most likely subset.
    `inference` changes this.

    Args:
        k: Positive integer, the number of items to choose.
        temperature: Positive number, or a schedule of the training step such as
            `keras_gumbel.schedules.ExponentialAnnealing`. Only used by the
            estimator `"relaxed_top_k"`, which needs a value well below 1 unless
            `hard`. Defaults to `1.0`.
        estimator: String, the distribution of the samples and their gradient.
            `"simple"` is `keras_gumbel.ops.sample_subset`, and
            `"relaxed_top_k"` is `keras_gumbel.ops.relaxed_top_k`. `"rloo"`
            draws the samples of `"simple"` and gets an unbiased gradient from
            the losses of several draws: see `keras_gumbel.estimators.RLOO`.
            Defaults to `"simple"`.
        hard: Boolean, whether the output is k-hot. It must be true with
            `"simple"` and `"rloo"`. Defaults to `True`.
        axis: Integer, the axis of the n items. Defaults to `-1`.
        inference: String, the output in inference: `"top_k"` for the k-hot
            vector of the k largest logits, which has no gradient, `"marginals"`
            for the probabilities p of the items (not for `"relaxed_top_k"`), or
            `"sample"` for a sample as in training. Defaults to `"top_k"`.
        learn_temperature: Boolean, whether the temperature is a trainable
            positive variable that starts at `temperature`. Defaults to `False`.
        precision: String, `"standard"` or `"high"`, the precision of the noise:
            see `keras_gumbel.random.gumbel`. Defaults to `"standard"`.
        logits_regularizer: Regularizer of the logits, or `None`. Forbidden
            items reach it as -inf. Defaults to `None`.
        noise_shape: Tuple of integers and `None`, or `None`. As in
            `keras.layers.Dropout`, noise is shared along axes with the entry 1,
            and rows with equal logits then get the same sample. Defaults to
            `None`.
        return_soft: Boolean, whether the output is the pair `(hard, soft)`: the
            sample, and p for `"simple"` or y for `"relaxed_top_k"` with its own
            gradient. Requires `hard=True`. In inference, `soft` is p, or y
            without noise. Defaults to `False`.
        seed: Integer in [0, 2**32) or `None`. Defaults to `None`.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Logits x, a float tensor; -inf forbids an item.
        mask: Boolean tensor that broadcasts to `inputs`, true where an item may
            be chosen. A forbidden item gets exactly 0. If fewer than k items
            are allowed, all of them are chosen. The mask of time steps that
            Keras passes along does not forbid items.
        training: Boolean, whether to draw noise.
        temperature: Positive tensor that broadcasts to `inputs` and replaces
            the temperature of the layer, or `None`. Defaults to `None`.
        noise: Tensor that broadcasts to `inputs`, Gumbel noise for
            `"relaxed_top_k"` and logistic noise for the others, or `None` to
            draw noise. With given noise, no state is read or written. Defaults
            to `None`.

    Input shape:
        `(..., n)`, with n on `axis`, at least k.

    Output shape:
        Same as the input. For `return_soft=True`, both outputs have this shape.

    Raises:
        ValueError: If `k` or `temperature` is not positive, `estimator` or
            `inference` is unknown, `estimator` does not support the given
            `hard`, `inference`, `noise_shape` or `return_soft`, `return_soft`
            is true without `hard`, or `seed` is out of range; at build, if the
            inputs have no such `axis` or fewer than k items, or `noise_shape`
            does not fit them.

    Example:

    >>> layer = keras_gumbel.layers.SubsetSampler(k=2, seed=0)
    >>> y = layer(keras.ops.zeros((2, 5)), training=True)
    >>> keras.ops.convert_to_numpy(y).sum(axis=-1).tolist()
    [2.0, 2.0]

    References:
        - [Ahmed et al., 2022](https://arxiv.org/abs/2210.01941)
        - [Xie and Ermon, 2019](https://arxiv.org/abs/1901.10517)
    """

    INFERENCE = ("top_k", "marginals", "sample")

    def __init__(
        self,
        k: int,
        temperature: Any = 1.0,
        estimator: str = "simple",
        hard: bool = True,
        axis: int = -1,
        inference: str = "top_k",
        learn_temperature: bool = False,
        precision: str = "standard",
        logits_regularizer: Any = None,
        noise_shape: Sequence[int | None] | None = None,
        return_soft: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        owner = type(self).__name__
        require_positive_integer(owner, "k", k)
        require_choice(owner, "estimator", estimator, tuple(SUBSETS))
        SUBSETS[estimator].check(owner, hard, inference)
        if estimator == "rloo":
            require_independent_samples(owner, RLOO(), noise_shape, return_soft)
        super().__init__(
            hard=hard,
            temperature=temperature,
            axis=axis,
            inference=inference,
            learn_temperature=learn_temperature,
            precision=precision,
            logits_regularizer=logits_regularizer,
            noise_shape=noise_shape,
            return_soft=return_soft,
            seed=seed,
            **kwargs,
        )
        self.k = int(k)
        self.estimator = estimator

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        items = input_shape[self.axis]
        require_subset_size(type(self).__name__, self.k, items)

    def call(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        training: bool | None = False,
        temperature: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Any:
        if training and self.estimator == "rloo":
            warn_unless_recorded(self.name, RLOO())
        return super().call(inputs, mask, training, temperature, noise)

    def draw_noise(self, shape: Any) -> Tensor:
        draw = SUBSETS[self.estimator].noise
        return draw(shape, "float32", self.seeds(), self.precision)

    def infer(self, logits: Tensor, mask: Tensor | None) -> Tensor:
        if self.inference == "marginals":
            return subset_marginals(logits, self.k, self.axis, mask)
        return gumbel_top_k(logits, self.k, self.axis, mask, noise=0.0)

    def sample(
        self,
        logits: Tensor,
        temperature: Tensor,
        mask: Tensor | None,
        noise: Tensor,
        step: Tensor | None,
    ) -> Tensor:
        return SUBSETS[self.estimator].sample(
            logits, self.k, temperature, self.hard, self.axis, mask, noise
        )

    def soft(
        self,
        logits: Tensor,
        temperature: Tensor,
        mask: Tensor | None,
        noise: Tensor | float,
    ) -> Tensor:
        return SUBSETS[self.estimator].soft(
            logits, self.k, temperature, self.axis, mask, noise
        )

    def soft_inference(self, logits: Tensor, mask: Tensor | None) -> Tensor:
        return self.soft(logits, self.current_temperature(), mask, 0.0)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "k": self.k,
            "estimator": self.estimator,
            "hard": self.hard,
        }
