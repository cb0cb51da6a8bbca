"""The mask of magnitude pruning, and the base class of ranked masks."""

from typing import Any

import keras
from keras import ops

from keras_gumbel._typing import Tensor
from keras_gumbel._validation import require_choice
from keras_gumbel._validation import require_positive_integer
from keras_gumbel.masks._base import Mask


class RankedMask(Mask):
    """Keeps the weights with the largest saliencies. Only for weights.

    Args:
        gradient: String, `"masked"` to train only the kept weights, or
            `"dense"` to train all weights with the gradient of a kept weight,
            so that pruned weights can come back. Defaults to `"masked"`.
        frequency: Positive integer. The mask is chosen every `frequency`
            updates of the optimizer, and does not change in between. It has no
            effect for `granularity="channel"`. Defaults to `1`.
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

    Pass it to `keras_gumbel.sparsify`, directly or by its short name
    `"magnitude"`. The scores are the mask and are not learned.
    `keras_gumbel.optimizers.ProjectedOptimizer` sets them after every step, at
    the current density, and compares all masks that share a budget. Weights
    that share a score are compared by their root mean square. With
    `granularity="channel"`, the root mean square of a channel is divided by the
    mean of its group. Layers have weights of different sizes, and one budget
    would otherwise empty the layers with small weights.

    With `frequency=100`, the mask is chosen in the updates 0, 100, 200, ...,
    each time at the current density. A step in between takes hardly longer than
    a step without a mask. With `gradient="dense"`, pruned weights are trained
    in between, and weights that have grown are kept the next time. Other
    libraries prune like this by default. A final mask, by `harden_step` or
    `keras_gumbel.harden`, is chosen at once.

    Args:
        gradient: String, `"masked"` to train only the kept weights, or
            `"dense"` to train all weights with the gradient of a kept weight,
            so that pruned weights can come back. Defaults to `"masked"`.
        frequency: Positive integer. The mask is chosen every `frequency`
            updates of the optimizer, and does not change in between. It has no
            effect for `granularity="channel"`. Defaults to `1`.
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
