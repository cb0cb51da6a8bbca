"""The random mask, a baseline for other masks."""

import random
from typing import Any

import keras
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._seeds import require_seed
from keras_gumbel._typing import Tensor
from keras_gumbel.granularities import ScoreLayout
from keras_gumbel.masks._magnitude_mask import RankedMask


@keras.saving.register_keras_serializable(package="keras_gumbel")
class RandomMask(RankedMask):
    """Keeps weights by a random ranking that is drawn once.

    Pass it to `keras_gumbel.sparsify`, directly or by its short name
    `"random"`, as a baseline for other masks. As the budget falls, weights are
    dropped in the order of the ranking.

    Args:
        seed: Integer in [0, 2**32), or `None` for a random seed. It is saved
            with the weights of the model, so a resumed run continues with the
            same ranking. Defaults to `None`.
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

    for_channels = True

    def __init__(self, seed: int | None = None, **kwargs: Any) -> None:
        seed = require_seed("RandomMask", seed)
        super().__init__(**kwargs)
        # As Keras draws seeds, so that `keras.utils.set_random_seed` applies.
        self.seed = random.randrange(2**31) if seed is None else seed

    def attach_to(
        self,
        weight: keras.Variable,
        layout: ScoreLayout,
        input_axes: tuple[int, ...] | None,
    ) -> None:
        # A number that torch also accepts as a seed.
        self._last_seed = self.seed % 2**31
        with _keras_private.unlocked(self):
            self.ranking_seed = self.add_weight(
                name="ranking_seed",
                shape=(),
                initializer=keras.initializers.Constant(self._last_seed),
                dtype="int32",
                trainable=False,
                autocast=False,
            )

    def saliency(self, weight: keras.Variable, layout: ScoreLayout) -> Tensor:
        self._read_seed()
        return keras.random.uniform(layout.scores, seed=self._last_seed)

    def load_own_variables(self, store: Any) -> None:
        super().load_own_variables(store)
        self._read_seed()

    def _read_seed(self) -> None:
        """Reads the seed, unless it is not readable in a training step."""
        if not _keras_private.is_readable(self.ranking_seed):
            return
        with _keras_private.outside_graph():
            seed = ops.convert_to_tensor(self.ranking_seed)
            if _keras_private.is_eager(seed):
                self._last_seed = int(ops.convert_to_numpy(seed))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}
