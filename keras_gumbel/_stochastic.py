"""The base of the layers that draw noise."""

import math
from typing import Any

import keras
from keras import ops

from keras_gumbel._seeds import generator_state
from keras_gumbel._seeds import require_seed
from keras_gumbel._seeds import restore_generator
from keras_gumbel._seeds import seed_generator
from keras_gumbel._steps import mark_step
from keras_gumbel._typing import Shape
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_schedule
from keras_gumbel._validation import require_choice
from keras_gumbel._validation import require_temperature
from keras_gumbel.random import PRECISION

_NOISE_KEY = "noise_state"


class NoiseLayer(keras.layers.Layer):
    """Noise state, and what inference does.

    The state of the noise is saved with the layer, so that a resumed run goes
    on as if it had not stopped. Keras itself does not save noise states.

    Args:
        inference: String, what the layer computes with `training=False`. One
            of `INFERENCE`, the choices of the subclass.
        seed: Integer or `None`.
        **kwargs: Arguments of the next base class.
    """

    INFERENCE: tuple[str, ...]

    def __init__(self, inference: str, seed: int | None, **kwargs: Any) -> None:
        owner = type(self).__name__
        require_choice(owner, "inference", inference, self.INFERENCE)
        seed = require_seed(owner, seed)
        super().__init__(**kwargs)
        self.inference = inference
        self.seed = seed
        self.seed_generator = seed_generator(seed)

    def draws(self, training: bool | None) -> bool:
        """Whether a call draws noise."""
        return bool(training) or self.inference == "sample"

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        store[_NOISE_KEY] = generator_state(self.seed_generator)

    def load_own_variables(self, store: Any) -> None:
        own = {key: store[key] for key in store.keys() if key != _NOISE_KEY}
        super().load_own_variables(own)
        if _NOISE_KEY in store.keys():
            restore_generator(self.seed_generator, store[_NOISE_KEY])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "inference": self.inference,
            "seed": self.seed,
        }


class StochasticLayer(NoiseLayer):
    """A layer whose noise has a temperature, with a step counter for it.

    The step counter advances by one with every call in training, and is saved
    with the layer.

    Args:
        temperature: Positive number, or a `LearningRateSchedule` of the
            layer's own step.
        inference: String, as in `NoiseLayer`.
        seed: Integer or `None`.
        learn_temperature: Boolean, whether the temperature is a trainable
            variable, positive by construction, that starts at `temperature`.
            Defaults to `False`.
        precision: String, as in `keras_gumbel.random`. Defaults to
            `"standard"`.
        **kwargs: Arguments of the next base class.
    """

    def __init__(
        self,
        temperature: Any,
        inference: str,
        seed: int | None,
        learn_temperature: bool = False,
        precision: str = "standard",
        **kwargs: Any,
    ) -> None:
        owner = type(self).__name__
        require_temperature(owner, temperature)
        if learn_temperature and is_schedule(temperature):
            raise invalid_argument(
                owner,
                "temperature",
                "a number with `learn_temperature=True`, where it starts",
                temperature,
            )
        require_choice(owner, "precision", precision, PRECISION)
        super().__init__(inference, seed, **kwargs)
        self.temperature = temperature
        self.learn_temperature = learn_temperature
        self.precision = precision

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self.step = self.add_weight(
            name="step",
            shape=(),
            dtype="int32",
            initializer="zeros",
            trainable=False,
        )
        mark_step(self.step)
        if self.learn_temperature:
            self.log_temperature = self.add_weight(
                name="log_temperature",
                shape=(),
                dtype="float32",
                initializer=keras.initializers.Constant(
                    math.log(self.temperature)
                ),
                autocast=False,
            )

    def current_temperature(self) -> Tensor:
        """Returns the temperature at the layer's own step.

        Returns:
            A scalar float32 tensor.
        """
        if self.learn_temperature:
            return ops.exp(ops.convert_to_tensor(self.log_temperature))
        if is_schedule(self.temperature):
            return ops.cast(self.temperature(self.step), "float32")
        return ops.full((), self.temperature, dtype="float32")

    def advance(self, training: bool | None) -> None:
        """Counts a step of training."""
        if training:
            self.step.assign_add(1)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "temperature": serialize_temperature(self.temperature),
            "learn_temperature": self.learn_temperature,
            "precision": self.precision,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "StochasticLayer":
        return cls(**deserialize_temperature(config))


def serialize_temperature(temperature: Any) -> Any:
    """Returns what a config holds for a temperature."""
    if is_schedule(temperature):
        return keras.saving.serialize_keras_object(temperature)
    return temperature


def deserialize_temperature(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a config with its temperatures made objects again."""
    temperatures: dict[str, Any] = {
        name: keras.saving.deserialize_keras_object(config[name])
        for name in ("temperature", "backward_temperature")
        if name in config
    }
    return {**config, **temperatures}
