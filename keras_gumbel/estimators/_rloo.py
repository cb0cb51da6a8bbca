"""REINFORCE with the other draws as its baseline."""

import keras
from keras import ops

from keras_gumbel._numerics import tempered_log_softmax
from keras_gumbel._probabilities import safe_probs
from keras_gumbel._typing import Tensor
from keras_gumbel.estimators._score_function import ScoreFunction


@keras.saving.register_keras_serializable(package="keras_gumbel")
class RLOO(ScoreFunction):
    """REINFORCE with a leave-one-out baseline: no bias, for any loss.

    ```
    gradient = 1/I sum_i [loss(h_i) - mean_{j != i} loss(h_j)] * grad log P(h_i)
    ```

    with I draws of the samples of the same batch, which
    `keras_gumbel.models.MonteCarloModel` evaluates in `fit` and
    `keras_gumbel.estimators.ScoreTape` in loops of your own. The loss need
    not have a gradient. The string `"rloo"` stands for it.

    In a layer, where every example has samples of its own, the losses of the
    examples are compared. For masks on weights, which all examples share, the
    losses of the batch are, and log P(m) is the logarithm of Eq. (18): this
    is VR-PGE.

    Example:

    >>> inputs = keras.Input((8,))
    >>> logits = keras.layers.Dense(3)(inputs)
    >>> code = keras_gumbel.layers.StraightThroughArgmax(estimator="rloo")
    >>> outputs = keras.layers.Dense(8)(code(logits))
    >>> model = keras_gumbel.models.MonteCarloModel(
    ...     keras.Model(inputs, outputs), num_samples=4
    ... )
    >>> model.compile("adam", loss="mse")

    References:
        - [Kool et al., 2019](https://openreview.net/forum?id=r1lgTGL5DE)
        - [Zhou et al., 2021](https://arxiv.org/abs/2111.05685), VR-PGE
    """

    def score(self, hard: Tensor, logits: Tensor, noise: Tensor) -> Tensor:
        log_p = tempered_log_softmax(logits, 1.0, -1)
        return ops.sum(ops.stop_gradient(hard) * log_p, axis=-1)

    def binary_score(
        self, hard: Tensor, probs: Tensor, noise: Tensor
    ) -> Tensor:
        inside = safe_probs(probs)
        return ops.where(hard, ops.log(inside), ops.log1p(-inside))
