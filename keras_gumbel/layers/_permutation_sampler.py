"""The layer that chooses an order of n items."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_gumbel import random
from keras_gumbel._typing import Shape
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import require_positive_integer
from keras_gumbel.layers._sampling import SamplingLayer
from keras_gumbel.ops._permutations import matching
from keras_gumbel.ops._permutations import require_square
from keras_gumbel.ops._permutations import sample_permutation
from keras_gumbel.ops._permutations import sinkhorn


@keras.saving.register_keras_serializable(package="keras_gumbel")
class PermutationSampler(SamplingLayer):
    """Samples a permutation of n items from logits.

    Use it if a network must *order* items, or match two sets of items, and
    still be trained by gradient descent. Examples are sorting, ranking, jigsaw
    puzzles and the alignment of point clouds. The output is a matrix P: `P^T v`
    moves item i of v to the place j with P_ij = 1.

    ```
    z ~ Gumbel(0, 1)^(n x n)
    h = argmax_P sum_ij P_ij (x_ij + z_ij), P a permutation
    y = sinkhorn((x + z) / temperature)
    output = h + (y - sg[y]); y if not `hard`
    ```

    A low temperature makes y closer to h, and needs more iterations. In
    inference (`training=False`), no noise is drawn and no state changes. By
    default, the output is the permutation with the largest sum of logits.
    `inference` changes this.

    Args:
        temperature: Positive number, or a schedule of the training step
            such as `keras_gumbel.schedules.ExponentialAnnealing`. Defaults
            to `1.0`.
        hard: Boolean, whether the output is a permutation, with the gradient of
            the relaxed sample. Otherwise the output is doubly stochastic: its
            rows and columns sum to 1. Defaults to `True`.
        num_iterations: Positive integer, the iterations of
            `keras_gumbel.ops.sinkhorn`. Defaults to `20`.
        inference: String, the output in inference: `"matching"` for the
            permutation `keras_gumbel.ops.matching(x)`, which has no gradient,
            `"sinkhorn"` for the doubly stochastic
            `sinkhorn(x, temperature)`, which exports to every format,
            `"sample"` for a sample as in training. Defaults to
            `"matching"`.
        learn_temperature: Boolean, whether the temperature is a trainable
            positive variable that starts at `temperature`. Defaults to `False`.
        precision: String, `"standard"` or `"high"`, the precision of the noise:
            see `keras_gumbel.random.gumbel`. Defaults to `"standard"`.
        noise_shape: Tuple of integers and `None`, or `None`. As in
            `keras.layers.Dropout`, noise is shared along axes with the entry 1,
            and rows with equal logits then get the same sample. Defaults to
            `None`.
        return_soft: Boolean, whether the output is the pair `(hard, soft)`: the
            sample, and y of the same noise with its own gradient. Requires
            `hard=True`. In inference, `soft` is y without noise. Defaults to
            `False`.
        seed: Integer in [0, 2**32) or `None`. Defaults to `None`.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Logits x, a float tensor: x_ij is the value of moving item i to
            place j. An entry of -inf is avoided.
        mask: Boolean tensor that broadcasts to shape `(..., n)`, true for
            existing items, such as the mask of time steps that Keras passes
            along. Other items stay in place.
        training: Boolean, whether to draw noise.
        temperature: Positive tensor that broadcasts to shape `(..., 1, 1)` and
            replaces the temperature of the layer, or `None`. Defaults to
            `None`.
        noise: Gumbel noise that broadcasts to `inputs`, or `None` to draw
            noise. With given noise, no state is read or written. Defaults to
            `None`.

    Input shape:
        `(..., n, n)`.

    Output shape:
        Same as the input. For `return_soft=True`, both outputs have this shape.

    Raises:
        ValueError: If `temperature` is not positive, `num_iterations` is not
            a positive integer, `inference` or `precision` is unknown,
            `return_soft` is true without `hard`, or `seed` out of range; at
            build, if the inputs are not square matrices or `noise_shape` does
            not fit them.

    Example:

    >>> layer = keras_gumbel.layers.PermutationSampler(seed=0)
    >>> y = layer(keras.ops.zeros((3, 3)), training=True)
    >>> keras.ops.convert_to_numpy(y).sum(axis=0).tolist()
    [1.0, 1.0, 1.0]

    References:
        - [Mena et al., 2018](https://arxiv.org/abs/1802.08665)
    """

    INFERENCE = ("matching", "sinkhorn", "sample")

    def __init__(
        self,
        temperature: Any = 1.0,
        hard: bool = True,
        num_iterations: int = 20,
        inference: str = "matching",
        learn_temperature: bool = False,
        precision: str = "standard",
        noise_shape: Sequence[int | None] | None = None,
        return_soft: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        require_positive_integer(
            type(self).__name__, "num_iterations", num_iterations
        )
        super().__init__(
            hard=hard,
            temperature=temperature,
            inference=inference,
            learn_temperature=learn_temperature,
            precision=precision,
            noise_shape=noise_shape,
            return_soft=return_soft,
            seed=seed,
            **kwargs,
        )
        self.num_iterations = int(num_iterations)
        self.supports_masking = True

    def choice_axes(self) -> tuple[int, ...]:
        return (-2, -1)

    def build(self, input_shape: Shape) -> None:
        require_square(type(self).__name__, "inputs", input_shape)
        super().build(input_shape)

    def call(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        training: bool | None = False,
        temperature: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Any:
        draws = self.draws(training)
        if not draws and self.inference == "matching" and not self.return_soft:
            return matching(inputs, mask)
        # Given noise neither reads nor writes state.
        step = self.count(training) if noise is None else None
        if temperature is None:
            temperature = self.current_temperature(step)
        if not draws:
            soft = sinkhorn(inputs, temperature, self.num_iterations, mask)
            if not self.return_soft:
                return soft
            matched = self.inference == "matching"
            return matching(inputs, mask) if matched else soft, soft
        if noise is None:
            noise = random.gumbel(
                self.shape_of_noise(inputs),
                "float32",
                self.seeds(),
                self.precision,
            )
        sample = sample_permutation(
            inputs, temperature, self.num_iterations, mask, noise
        )
        if self.return_soft:
            return sample.hard(), sample.soft()
        return sample.hard() if self.hard else sample.soft()

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "hard": self.hard,
            "num_iterations": self.num_iterations,
        }
