"""The binary concrete mask."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_gumbel import random
from keras_gumbel._stochastic import StochasticLayer
from keras_gumbel._typing import Tensor
from keras_gumbel.estimators._lookup import get_for
from keras_gumbel.estimators._lookup import require_relaxing
from keras_gumbel.estimators._lookup import require_temperature_to_learn
from keras_gumbel.estimators._score_tape import shared_samples
from keras_gumbel.estimators._score_tape import warn_unless_recorded
from keras_gumbel.masks._sampled_mask import SampledMask
from keras_gumbel.ops._bernoulli import relaxed_bernoulli


@keras.saving.register_keras_serializable(package="keras_gumbel")
class ConcreteMask(StochasticLayer, SampledMask):
    """Gates its input with learned relaxed Bernoulli masks.

    Use it to learn which features, channels or weights to keep. Every feature
    has a score s, the probability that it is kept. One mask is drawn for all
    examples of a batch.

    ```
    e ~ Logistic(0, 1)
    m = sigmoid((log(s / (1 - s)) + e) / temperature)             # Eq. (26)
    output = input * m
    ```

    The scores are one trainable variable named `mask_scores`, which is float32
    under every dtype policy. Train them with
    `keras_gumbel.optimizers.ProjectedOptimizer`, which keeps the expected
    number of kept features, sum(s) (Eq. 19), within a budget. For a single
    layer, you can use the constraint `keras_gumbel.constraints.CappedBox`
    instead.

    In inference (`training=False`), no noise is drawn and no state changes. By
    default, the mask is its expectation s. `inference` changes this.

    Args:
        axis: Integer, a sequence of integers, or `None`. The axes of the
            input that have separate scores. The mask is shared along all
            other axes. `None` gives every entry a score, as for masks on
            weights. Defaults to `-1`.
        temperature: Positive number, or a schedule of the training step
            such as `keras_gumbel.schedules.LinearAnnealing`. Defaults to
            `2 / 3`.
        hard: Boolean, whether the mask in training is 0 or 1, with the
            gradient of `estimator`. Defaults to `False`.
        estimator: The gradient estimator of a hard mask: a
            `keras_gumbel.estimators.Estimator` or an identifier such as
            `"identity"`, see `keras_gumbel.estimators.get`. A relaxed mask
            accepts only `StraightThroughGumbel`, which can use another
            temperature for the gradient. Defaults to
            `"straight_through_gumbel"`.
        scores_initializer: Initializer of the scores. Defaults to `"ones"`.
        scores_constraint: Constraint of the scores, such as `CappedBox`, or
            `None`. `ProjectedOptimizer` does not accept scores with a
            constraint. Defaults to `None`.
        inference: String, the mask in inference: `"mean"` for s, `"mode"` for
            1 if s > 0.5 and 0 otherwise, `"sample"` for a sample as in
            training. Defaults to `"mean"`.
        learn_temperature: Boolean, whether the temperature is a trainable
            positive variable that starts at `temperature`. Defaults to
            `False`.
        precision: String, `"standard"` or `"high"`, the precision of the
            noise: see `keras_gumbel.random.logistic`. Defaults to
            `"standard"`.
        seed: Integer in [0, 2**32) or `None`. Defaults to `None`.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Float tensor.
        training: Boolean, whether to draw noise.

    Input shape:
        Any, with known lengths on the axes named by `axis`.

    Output shape:
        Same as the input.

    Raises:
        ValueError: If `temperature` is not positive, `inference`,
            `estimator` or `precision` is unknown, `estimator` needs a hard
            mask or has no temperature to learn, or `seed` is out of range; at
            build, if `axis` does not fit the inputs.

    Example:

    >>> gate = keras_gumbel.layers.ConcreteMask(seed=0)
    >>> tuple(gate(keras.ops.ones((2, 3)), training=True).shape)
    (2, 3)

    References:
        - [Maddison et al., 2016](https://arxiv.org/abs/1611.00712)
        - [Zhou et al., 2021](https://arxiv.org/abs/2105.01571)
    """

    def __init__(
        self,
        axis: int | Sequence[int] | None = -1,
        temperature: Any = 2 / 3,
        hard: bool = False,
        estimator: Any = "straight_through_gumbel",
        scores_initializer: Any = "ones",
        scores_constraint: Any = None,
        inference: str = "mean",
        learn_temperature: bool = False,
        precision: str = "standard",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        estimator = get_for("ConcreteMask", estimator)
        if not hard:
            require_relaxing("ConcreteMask", estimator)
        require_temperature_to_learn(
            "ConcreteMask", estimator, learn_temperature
        )
        super().__init__(
            temperature,
            inference,
            seed,
            learn_temperature=learn_temperature,
            precision=precision,
            axis=axis,
            scores_initializer=scores_initializer,
            scores_constraint=scores_constraint,
            **kwargs,
        )
        self.hard = hard
        self.estimator = estimator

    def sample(self, scores: Tensor, training: bool | None) -> Tensor:
        noise = random.logistic(
            scores.shape, "float32", self.seed_generator, self.precision
        )
        if training:
            warn_unless_recorded(self.name, self.estimator)
        step = self.count(training)
        with shared_samples():
            return relaxed_bernoulli(
                scores,
                self.current_temperature(step),
                self.hard,
                noise,
                self.seed_generator,
                self.estimator.at_step(self, step),
            )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "hard": self.hard,
            "estimator": keras.saving.serialize_keras_object(self.estimator),
        }
