"""Augment-REINFORCE-merge."""

import keras
from keras import ops

from keras_gumbel._typing import Tensor
from keras_gumbel.estimators._antithetic import Antithetic


@keras.saving.register_keras_serializable(package="keras_gumbel")
class ARM(Antithetic):
    """ARM: pairs of opposite draws of binary variables, without bias.

    ```
    gradient = (loss(m) - loss(m')) * (u - 1/2)
    m = 1 where u > sigmoid(-logit),  m' = 1 where u < sigmoid(logit)
    ```

    in the logits, with u uniform. `DisARM` is its mean given both samples,
    and has less variance: take that, unless you compare them.

    The loss is that of each example, evaluated on an even number of draws by
    `keras_gumbel.models.MonteCarloModel` in `fit` or by
    `keras_gumbel.estimators.ScoreTape` in loops of your own, and need not
    have a gradient. For binary masks and for layers with K = 2 classes. The
    string `"arm"` stands for it.

    Both draws of a pair must have the same logits. That is so in one layer of
    samples, however wide, and not where logits depend on other samples or on
    dropout: their gradient is NaN then. `RLOO` has no such condition.

    Example:

    >>> layer = keras_gumbel.layers.StraightThroughArgmax(estimator="arm")
    >>> tape = keras_gumbel.estimators.ScoreTape()
    >>> losses = []
    >>> for _ in range(2):
    ...     with tape.draw():
    ...         sample = layer(keras.ops.zeros((8, 2)), training=True)
    ...     losses.append(sample[:, 1])
    >>> tuple(tape.loss(losses).shape)
    ()

    References:
        - [Yin and Zhou, 2018](https://arxiv.org/abs/1807.11143)
    """

    def factor(self, logit: Tensor, noise: Tensor) -> Tensor:
        return ops.sigmoid(noise) - 0.5
