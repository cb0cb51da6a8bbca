"""REINFORCE with the other draws as its baseline."""

import keras

from keras_gumbel._probabilities import log_bernoulli
from keras_gumbel._probabilities import log_categorical
from keras_gumbel._typing import Tensor
from keras_gumbel.estimators._score_function import ScoreFunction


@keras.saving.register_keras_serializable(package="keras_gumbel")
class RLOO(ScoreFunction):
    """REINFORCE with a leave-one-out baseline: unbiased for any loss.

    ```
    gradient = 1/I sum_i [loss(h_i) - mean_{j != i} loss(h_j)] * grad log P(h_i)
    ```

    with I draws of the samples of the same batch. The loss does not need a
    gradient. Use `keras_gumbel.models.MonteCarloModel` with `fit`, or
    `keras_gumbel.estimators.ScoreTape` in a custom training loop. The string
    `"rloo"` stands for it.

    In a layer, every example has its own samples, and the losses of the
    examples are compared. All examples share a mask on weights, so the losses
    of the batch are compared. log P(m) is then the logarithm of Eq. (18), and
    the estimator is VR-PGE.

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
        return log_categorical(hard, logits)

    def binary_score(
        self, hard: Tensor, probs: Tensor, noise: Tensor
    ) -> Tensor:
        return log_bernoulli(hard, probs)
