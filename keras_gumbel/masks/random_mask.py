"""A random choice of weights, the baseline of every other."""

import random
from typing import Any

import keras

from keras_gumbel._seeds import require_seed
from keras_gumbel._typing import Tensor
from keras_gumbel.granularities import ScoreLayout
from keras_gumbel.masks.magnitude_mask import RankedMask


@keras.saving.register_keras_serializable(package="keras_gumbel")
class RandomMask(RankedMask):
    """Keeps weights by a ranking that is drawn once.

    Use it as the mask of `keras_gumbel.sparsify`; the string `"random"`
    stands for it. As the budget falls, weights are dropped in the order of
    the ranking. It is the baseline that any other choice has to beat.

    Args:
        seed: Integer in [0, 2**32) or `None` for one that is drawn, and saved
            with the mask. Defaults to `None`.
        **kwargs: Arguments of `keras_gumbel.masks.MagnitudeMask`.

    Call arguments:
        inputs: Float tensor, the weight.
        training: Boolean. The mask is the same with and without.

    Input shape:
        Any, without unknown lengths.

    Output shape:
        Same as the input.

    Raises:
        ValueError: If `gradient` is unknown or `seed` is out of range; at
            build, if the mask stands between layers.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> mask = keras_gumbel.masks.RandomMask(seed=0)
    >>> model = keras_gumbel.sparsify(model, mask)
    """

    def __init__(self, seed: int | None = None, **kwargs: Any) -> None:
        seed = require_seed("RandomMask", seed)
        super().__init__(**kwargs)
        # As Keras draws seeds, so that `keras.utils.set_random_seed` counts.
        self.seed = random.randrange(2**31) if seed is None else seed

    def saliency(self, weight: keras.Variable, layout: ScoreLayout) -> Tensor:
        # A number that torch, too, takes for a seed.
        return keras.random.uniform(layout.scores, seed=self.seed % 2**31)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}
