"""The base of the layers that draw one of K classes."""

from typing import Any

import keras
from keras import ops

from keras_gumbel._numerics import dtype_of
from keras_gumbel._numerics import widen
from keras_gumbel._typing import Tensor
from keras_gumbel.estimators._lookup import get_for
from keras_gumbel.estimators._lookup import require_independent_samples
from keras_gumbel.estimators._lookup import require_relaxing
from keras_gumbel.estimators._lookup import require_temperature_to_learn
from keras_gumbel.estimators._score_tape import warn_unless_recorded
from keras_gumbel.layers._categorical import CategoricalLayer
from keras_gumbel.ops._mixing import mix_uniform
from keras_gumbel.ops._mixing import require_share
from keras_gumbel.ops._sampling import gumbel_softmax


class OneHotLayer(CategoricalLayer):
    """Samples of one of K classes, with the gradient of an estimator.

    Args:
        hard: Boolean, whether samples are one-hot.
        estimator: `Estimator` or an identifier of one.
        uniform_mix: Number in [0, 1], the share of the uniform distribution.
        **kwargs: Arguments of `CategoricalLayer`.
    """

    def __init__(
        self, hard: bool, estimator: Any, uniform_mix: float, **kwargs: Any
    ) -> None:
        owner = type(self).__name__
        estimator = get_for(owner, estimator)
        if not hard:
            require_relaxing(owner, estimator)
        require_temperature_to_learn(
            owner, estimator, kwargs["learn_temperature"]
        )
        require_share(owner, "uniform_mix", uniform_mix)
        require_independent_samples(
            owner, estimator, kwargs["noise_shape"], kwargs["return_soft"]
        )
        super().__init__(hard=hard, **kwargs)
        self.estimator = estimator
        self.uniform_mix = uniform_mix

    def call(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        training: bool | None = False,
        temperature: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Any:
        if training:
            warn_unless_recorded(self.name, self.estimator)
        outputs = super().call(inputs, mask, training, temperature, noise)
        if not self.uniform_mix:
            return outputs
        _, dtype = widen(self.name, "inputs", inputs)
        return keras.tree.map_structure(
            lambda y: y if "int" in dtype_of(y) else ops.cast(y, dtype), outputs
        )

    def logits(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        if not self.uniform_mix:
            return inputs
        # In half precision, rare classes would lose their probability.
        wide, _ = widen(self.name, "inputs", inputs)
        return mix_uniform(wide, self.uniform_mix, self.axis, mask)

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
            self.seeds(),
            self.estimator.at_step(self, step),
        )

    def soft(
        self,
        logits: Tensor,
        temperature: Tensor,
        mask: Tensor | None,
        noise: Tensor | float,
    ) -> Tensor:
        return gumbel_softmax(
            logits, temperature, axis=self.axis, mask=mask, noise=noise
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "estimator": keras.saving.serialize_keras_object(self.estimator),
            "uniform_mix": self.uniform_mix,
        }
