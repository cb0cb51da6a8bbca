"""ARM, averaged over what led to the same pair of samples."""

import keras
from keras import ops

from keras_gumbel._typing import Tensor
from keras_gumbel.estimators._antithetic import Antithetic


@keras.saving.register_keras_serializable(package="keras_gumbel")
class DisARM(Antithetic):
    """DisARM: pairs of opposite draws of binary variables, without bias.

    ```
    gradient = (loss(m) - loss(m')) / 2 * (m - m') * sigmoid(|logit|)
    ```

    in the logits, where m' was drawn with the opposite noise of m.

    The loss is that of each example, evaluated on an even number of draws by
    `keras_gumbel.models.MonteCarloModel` in `fit` or by
    `keras_gumbel.estimators.ScoreTape` in loops of your own, and need not
    have a gradient. For binary masks and for layers with K = 2 classes. The
    string `"disarm"` stands for it.

    Both draws of a pair must have the same logits. That is so in one layer of
    samples, however wide, and not where logits depend on other samples or on
    dropout: their gradient is NaN then. `RLOO` has no such condition.

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
