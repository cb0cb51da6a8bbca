"""ARM, averaged over the noise of the same pair of samples."""

import keras
from keras import ops

from keras_gumbel._typing import Tensor
from keras_gumbel.estimators._antithetic import Antithetic


@keras.saving.register_keras_serializable(package="keras_gumbel")
class DisARM(Antithetic):
    """DisARM: an unbiased estimator from pairs of opposite draws.

    ```
    gradient = (loss(m) - loss(m')) / 2 * (m - m') * sigmoid(|logit|)
    ```

    in the logits of binary variables. m' was drawn with the opposite noise of
    m.

    The loss does not need a gradient. It has a value for each example, on an
    even number of draws: use `keras_gumbel.models.MonteCarloModel` with `fit`,
    or `keras_gumbel.estimators.ScoreTape` in a custom training loop. For binary
    masks and for layers with K = 2 classes. The string `"disarm"` stands for
    it.

    Both draws of a pair must have the same logits. This holds for a single
    layer of samples of any width. It does not hold if the logits depend on
    other samples or on dropout. Their gradient is NaN then. `RLOO` has no such
    condition.

    Example:

    >>> layer = keras_gumbel.layers.StraightThroughArgmax(estimator="disarm")
    >>> tape = keras_gumbel.estimators.ScoreTape()
    >>> losses = []
    >>> for _ in range(2):
    ...     with tape.draw():
    ...         sample = layer(keras.ops.zeros((8, 2)), training=True)
    ...     losses.append(sample[:, 1])
    >>> tuple(tape.loss(losses).shape)
    ()

    References:
        - [Dong et al., 2020](https://arxiv.org/abs/2006.10680)
    """

    def factor(self, logit: Tensor, noise: Tensor) -> Tensor:
        probability = ops.sigmoid(ops.abs(logit))
        drawn, other = logit + noise > 0, logit - noise > 0
        sign = ops.cast(drawn, logit.dtype) - ops.cast(other, logit.dtype)
        return 0.5 * sign * probability
