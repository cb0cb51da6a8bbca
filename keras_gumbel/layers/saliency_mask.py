"""The masks of classical pruning: what matters most is kept."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gumbel._scores import Saliency
from keras_gumbel._seeds import require_seed
from keras_gumbel._typing import Shape
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import require_choice


@keras.saving.register_keras_serializable(package="keras_gumbel")
class SaliencyMask(keras.layers.Layer):
    """Masks a kernel by the magnitude of its weights, or at random.

    Use it as the mask of `keras_gumbel.layers.Sparsified`, which is what
    `keras_gumbel.sparsify(model, method="magnitude")` does. The scores are 1
    for the weights that are kept and 0 for all others; they are not learned.
    `keras_gumbel.optimizers.ProjectedOptimizer` sets them after every step,
    with the density that stands: all masks that share a budget are compared
    with each other.

    ```
    m = 1 for the K weights of largest |w|, and 0 for all others
    output = w * m
    ```

    Args:
        saliency: String, `"magnitude"`, or `"random"` for a ranking that is
            drawn once. Defaults to `"magnitude"`.
        gradient: String, `"masked"` if only weights that are kept are
            trained, or `"dense"` if all have the gradient of a weight that is
            kept, so that one outside the mask can grow into it. Defaults to
            `"masked"`.
        fixed: Boolean, whether the mask is final. Defaults to `False`.
        seed: Integer in [0, 2**32) or `None`, of a random ranking. Defaults
            to `None`.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Float tensor, the kernel.

    Input shape:
        Any, without unknown lengths.

    Output shape:
        Same as the input.

    Raises:
        ValueError: If `saliency` or `gradient` is unknown, or `seed` is out
            of range.

    Example:

    >>> mask = keras_gumbel.layers.SaliencyMask(gradient="dense")
    >>> layer = keras_gumbel.layers.Sparsified(keras.layers.Dense(4), mask)

    References:
        - [Zhu and Gupta, 2017](https://arxiv.org/abs/1710.01878)
    """

    def __init__(
        self,
        saliency: str = "magnitude",
        gradient: str = "masked",
        fixed: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        owner = "SaliencyMask"
        require_choice(owner, "saliency", saliency, ("magnitude", "random"))
        require_choice(owner, "gradient", gradient, ("masked", "dense"))
        seed = require_seed(owner, seed)
        super().__init__(**kwargs)
        self.saliency = saliency
        self.gradient = gradient
        self.fixed = fixed
        self.seed = seed

    def build(self, input_shape: Shape) -> None:
        self.mask_scores = self.add_weight(
            name="mask_scores",
            shape=input_shape,
            initializer="ones",
            trainable=not self.fixed,
            dtype="float32",
            autocast=False,
        )

    def ranking(self, magnitudes: Saliency) -> Saliency:
        """Returns what ranks the scores.

        Args:
            magnitudes: Callable that returns the magnitudes of what is
                masked, in the shape of the scores.
        """
        if self.saliency == "magnitude":
            return magnitudes
        # A number that torch, too, takes for a seed.
        seed = int(np.random.default_rng(self.seed).integers(2**31))
        shape = self.mask_scores.shape
        return lambda: keras.random.uniform(shape, seed=seed)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        return self.keep(inputs, self.mask_scores)

    def keep(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """Returns what is kept of the inputs, with the gradient asked for.

        Args:
            inputs: Float tensor.
            mask: Tensor of zeros and ones that broadcasts to `inputs`.
        """
        masked = inputs * ops.cast(ops.stop_gradient(mask), inputs.dtype)
        if self.gradient == "masked" or self.fixed:
            return masked
        return inputs + ops.stop_gradient(masked - inputs)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "saliency": self.saliency,
            "gradient": self.gradient,
            "fixed": self.fixed,
            "seed": self.seed,
        }
