"""The masks of classical pruning: the largest weights are kept."""

from typing import Any

import keras
from keras import ops

from keras_gumbel._typing import Tensor
from keras_gumbel._validation import require_choice
from keras_gumbel._validation import require_positive_integer
from keras_gumbel.masks._base import Mask


class RankedMask(Mask):
    """A mask of the weights with the largest saliencies, on weights alone.

    Args:
        gradient: String, `"masked"` if only weights that are kept are
            trained, or `"dense"` if all have the gradient of a weight that is
            kept, so that one outside the mask can grow into it. Defaults to
            `"masked"`.
        frequency: Positive integer. The mask is chosen anew in every so
            manieth update of the optimizer, and stays as it is in between.
            It does not count for `granularity="channel"`. Defaults to `1`.
        **kwargs: Arguments of `keras_gumbel.masks.Mask`.
    """

    ranked = True

    def __init__(
        self, gradient: str = "masked", frequency: int = 1, **kwargs: Any
    ) -> None:
        owner = type(self).__name__
        require_choice(owner, "gradient", gradient, ("masked", "dense"))
        require_positive_integer(owner, "frequency", frequency)
        super().__init__(**kwargs)
        self.gradient = gradient
        self.frequency = frequency

    def draw(self, training: bool | None = False) -> Tensor:
        return ops.stop_gradient(ops.convert_to_tensor(self.mask_scores))

    def keep(self, inputs: Tensor, mask: Tensor) -> Tensor:
        kept = super().keep(inputs, mask)
        if self.gradient == "masked":
            return kept
        return inputs + ops.stop_gradient(kept - inputs)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "gradient": self.gradient,
            "frequency": self.frequency,
        }


@keras.saving.register_keras_serializable(package="keras_gumbel")
class MagnitudeMask(RankedMask):
    """Keeps the weights of largest magnitude.

    ```
    m = 1 for the K weights of largest |w|, and 0 for all others
    output = w * m
    ```

    Use it as the mask of `keras_gumbel.sparsify`; the string `"magnitude"`
    stands for it. The scores are the mask and are not learned:
    `keras_gumbel.optimizers.ProjectedOptimizer` sets them after every step,
    with the density that stands, and compares all masks that share a budget
    with each other. What shares a score is compared by its root mean square.
    With `granularity="channel"`, that of a channel is divided by the mean of
    all channels of its group: layers have weights of different sizes, and one
    budget would otherwise empty those whose weights are small.

    With `frequency=100` the mask is chosen in the updates 0, 100, 200, ...,
    each time with the density that stands then, and a step in between takes
    hardly longer than one without a mask. `gradient="dense"` lets the weights
    outside the mask move freely in between: those that have grown are kept
    the next time. Other libraries prune like this by default. A mask that is
    to be final, by `harden_step` or `keras_gumbel.harden`, is chosen at once.

    Args:
        gradient: String, `"masked"` if only weights that are kept are
            trained, or `"dense"` if all have the gradient of a weight that is
            kept, so that one outside the mask can grow into it. Defaults to
            `"masked"`.
        frequency: Positive integer. The mask is chosen anew in every so
            manieth update of the optimizer, and stays as it is in between.
            It does not count for `granularity="channel"`. Defaults to `1`.
        **kwargs: Arguments of `keras_gumbel.masks.Mask`.

    Call arguments:
        inputs: Float tensor, the weight.
        training: Boolean. The mask is the same with and without.

    Input shape:
        Any, without unknown lengths.

    Output shape:
        Same as the input.

    Raises:
        ValueError: If `gradient` is unknown or `frequency` is not a positive
            integer; at build, if the mask stands between layers.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> mask = keras_gumbel.masks.MagnitudeMask(gradient="dense")
    >>> model = keras_gumbel.sparsify(model, mask)

    References:
        - [Zhu and Gupta, 2017](https://arxiv.org/abs/1710.01878)
        - [Fang et al., 2023](https://arxiv.org/abs/2301.12900), magnitudes of
          coupled channels
    """

    for_channels = True
    relative = True
