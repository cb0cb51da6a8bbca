"""The masks of classical pruning: the largest weights are kept."""

from typing import Any

import keras
from keras import ops

from keras_gumbel._typing import Tensor
from keras_gumbel._validation import require_choice
from keras_gumbel.masks.base import Mask


class RankedMask(Mask):
    """A mask of the weights with the largest saliencies, on weights alone.

    Args:
        gradient: String, `"masked"` if only weights that are kept are
            trained, or `"dense"` if all have the gradient of a weight that is
            kept, so that one outside the mask can grow into it. Defaults to
            `"masked"`.
        **kwargs: Arguments of `keras_gumbel.masks.Mask`.
    """

    ranked = True

    def __init__(self, gradient: str = "masked", **kwargs: Any) -> None:
        require_choice(
            type(self).__name__, "gradient", gradient, ("masked", "dense")
        )
        super().__init__(**kwargs)
        self.gradient = gradient

    def draw(self, training: bool | None = False) -> Tensor:
        return ops.stop_gradient(ops.convert_to_tensor(self.mask_scores))

    def keep(self, inputs: Tensor, mask: Tensor) -> Tensor:
        kept = super().keep(inputs, mask)
        if self.gradient == "masked":
            return kept
        return inputs + ops.stop_gradient(kept - inputs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "gradient": self.gradient}


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

    Args:
        gradient: String, `"masked"` if only weights that are kept are
            trained, or `"dense"` if all have the gradient of a weight that is
            kept, so that one outside the mask can grow into it. Defaults to
            `"masked"`.
        **kwargs: Arguments of `keras_gumbel.masks.Mask`.

    Call arguments:
        inputs: Float tensor, the weight.
        training: Boolean. The mask is the same with and without.

    Input shape:
        Any, without unknown lengths.

    Output shape:
        Same as the input.

    Raises:
        ValueError: If `gradient` is unknown; at build, if the mask stands
            between layers.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> mask = keras_gumbel.masks.MagnitudeMask(gradient="dense")
    >>> model = keras_gumbel.sparsify(model, mask)

    References:
        - [Zhu and Gupta, 2017](https://arxiv.org/abs/1710.01878)
    """

    for_channels = True
