"""Augment-REINFORCE-merge."""

import keras
from keras import ops

from keras_gumbel._typing import Tensor
from keras_gumbel.estimators._antithetic import Antithetic


@keras.saving.register_keras_serializable(package="keras_gumbel")
class ARM(Antithetic):
    """ARM: an unbiased estimator from pairs of opposite draws.

    ```
    gradient = (loss(m) - loss(m')) * (u - 1/2)
    m = 1 where u > sigmoid(-logit),  m' = 1 where u < sigmoid(logit)
    ```

    in the logits of binary variables, with u uniform. `DisARM` is its mean
    given both samples, and has less variance. Use `DisARM` unless you compare
    the two.

    The loss does not need a gradient. It has a value for each example, on an
    even number of draws: use `keras_gumbel.models.MonteCarloModel` with `fit`,
    or `keras_gumbel.estimators.ScoreTape` in a custom training loop. For binary
    masks and for layers with K = 2 classes. The string `"arm"` stands for it.

    Both draws of a pair must have the same logits. This holds for a single
    layer of samples of any width. It does not hold if the logits depend on
    other samples or on dropout. Their gradient is NaN then. `RLOO` has no such
    condition.

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
