"""The base of the layers that draw one of K classes."""

from typing import Any

import keras

from keras_gumbel._seeds import PerExample
from keras_gumbel._typing import Tensor
from keras_gumbel.estimators._lookup import get_for
from keras_gumbel.estimators._lookup import require_relaxing
from keras_gumbel.estimators._lookup import require_temperature_to_learn
from keras_gumbel.estimators._score_tape import warn_unless_recorded
from keras_gumbel.layers._categorical import CategoricalLayer
from keras_gumbel.ops._sampling import gumbel_softmax


class OneHotLayer(CategoricalLayer):
    """Samples of one of K classes, with the gradient of an estimator.

    Args:
        hard: Boolean, whether samples are one-hot.
        estimator: `Estimator` or what stands for one.
        **kwargs: Arguments of `CategoricalLayer`.
    """

    def __init__(self, hard: bool, estimator: Any, **kwargs: Any) -> None:
        owner = type(self).__name__
        estimator = get_for(owner, estimator)
        if not hard:
            require_relaxing(owner, estimator)
        require_temperature_to_learn(
            owner, estimator, kwargs["learn_temperature"]
        )
        super().__init__(**kwargs)
        self.hard = hard
        self.estimator = estimator

    def call(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        training: bool | None = False,
        temperature: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        if training:
            warn_unless_recorded(self.name, self.estimator)
        return super().call(inputs, mask, training, temperature, noise)

    def sample(
        self,
        logits: Tensor,
        temperature: Tensor,
        mask: Tensor | None,
        noise: Tensor,
        step: Tensor | None,
    ) -> Tensor:
        return gumbel_softmax(
            logits,
            temperature,
            self.hard,
            self.axis,
            mask,
            noise,
            PerExample(self.seed_generator),
            self.estimator.at_step(self, step),
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "estimator": keras.saving.serialize_keras_object(self.estimator),
        }
