"""The mask that prunes channels by their Fisher information."""

from typing import Any

import keras
from keras import ops

from keras_gumbel._typing import Tensor
from keras_gumbel.granularities import ScoreLayout
from keras_gumbel.masks._magnitude_mask import RankedMask


@keras.saving.register_keras_serializable(package="keras_gumbel")
class FisherMask(RankedMask):
    """Keeps the channels that the loss of single examples depends on most.

    ```
    g_b = dL_b / dm          for each example b, the mask m being 1
    F   = mean of g_b^2      over the batch, and over the last 20 steps or so
    m   = 1 for the channels of largest F for what they cost
    ```

    It is the default mask of `keras_gumbel.sparsify(model,
    granularity="channel")`. Its short name is `"fisher"`.

    `L_b` is the loss of an example. Coupled channels share one gradient, which
    is summed over the positions and over all layers that read the channels, and
    then squared. As in the Fisher information, the sign of the gradient has no
    effect. If the budget counts multiply-adds, the cost of a channel is that of
    all layers that contain it, given the kept channels of the other groups.

    `keras_gumbel.optimizers.ProjectedOptimizer` computes F from the gradients.
    It drops no channel in the first 20 steps, because F is not reliable yet. A
    dropped channel has no gradient and stays dropped.

    Args:
        gradient: String, as in `keras_gumbel.masks.MagnitudeMask`. Defaults to
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

    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((8, 8, 1)),
    ...         keras.layers.Conv2D(16, 3, activation="relu"),
    ...         keras.layers.Flatten(),
    ...         keras.layers.Dense(4),
    ...     ]
    ... )
    >>> mask = keras_gumbel.masks.FisherMask()
    >>> model = keras_gumbel.sparsify(model, mask, granularity="channel")

    References:
        - [Theis et al., 2018](https://arxiv.org/abs/1801.05787)
        - [Liu et al., 2021](https://arxiv.org/abs/2108.00708), coupled channels
    """

    for_channels = True
    observed = True

    def __init__(self, gradient: str = "masked", **kwargs: Any) -> None:
        # Channels are dropped only when the budget requires it.
        super().__init__(gradient, 1, **kwargs)

    def saliency(self, weight: keras.Variable, layout: ScoreLayout) -> Tensor:
        return ops.zeros(layout.scores)

    def problem(
        self,
        weight: keras.Variable,
        layout: ScoreLayout,
        input_axes: tuple[int, ...] | None,
    ) -> str | None:
        return "the Fisher mask needs `granularity='channel'`"

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["frequency"]
        return config
