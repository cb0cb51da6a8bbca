"""The base of the layers that draw noise."""

import math
from typing import Any

import keras
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._calls import counting
from keras_gumbel._calls import once
from keras_gumbel._calls import outermost_layer
from keras_gumbel._seeds import generator_state
from keras_gumbel._seeds import require_seed
from keras_gumbel._seeds import restore_generator
from keras_gumbel._seeds import seed_generator
from keras_gumbel._typing import Shape
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_schedule
from keras_gumbel._validation import own_schedule
from keras_gumbel._validation import require_choice
from keras_gumbel._validation import require_temperature
from keras_gumbel.random import PRECISION

_NOISE_KEY = "noise_state"

# The range of temperatures with finite values and gradients.
_LOG_TEMPERATURES = (math.log(1e-10), math.log(1e30))


class NoiseLayer(keras.layers.Layer):
    """The noise state and the mode of inference of a layer.

    The state of the noise is saved with the layer, so a resumed run continues
    as if it had not stopped. Keras itself does not save noise states.

    Args:
        inference: String, the output with `training=False`. One of `INFERENCE`,
            the choices of the subclass.
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
    """A layer whose noise has a temperature, with a step counter.

    The counter advances by one with every call of the outermost layer or model
    in training, even if this calls the layer several times. It is saved with
    the layer.

    Args:
        temperature: Positive number, or a `LearningRateSchedule` of the
            training step.
        inference: String, as in `NoiseLayer`.
        seed: Integer or `None`.
        learn_temperature: Boolean, whether the temperature is a trainable
            positive variable that starts at `temperature`. Defaults to `False`.
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
                "a number with `learn_temperature=True`, its initial value",
                temperature,
            )
        require_choice(owner, "precision", precision, PRECISION)
        super().__init__(inference, seed, **kwargs)
        self.temperature = own_schedule(temperature)
        self.learn_temperature = learn_temperature
        self.precision = precision
        self._calls_per_update = 1

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self.step = self.add_weight(
            name="step",
            shape=(),
            dtype="int32",
            initializer="zeros",
            trainable=False,
        )
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

    def current_temperature(self, step: Tensor | None = None) -> Any:
        """Returns the temperature, a number or a scalar float32 tensor.

        Args:
            step: Integer tensor, the current training step, or `None` for the
                next one. Defaults to `None`.
        """
        if self.learn_temperature:
            logarithm = ops.convert_to_tensor(self.log_temperature)
            # The gradient is the gradient without the clip.
            beyond = logarithm - ops.clip(logarithm, *_LOG_TEMPERATURES)
            return ops.exp(logarithm - ops.stop_gradient(beyond))
        return self.at_step(self.temperature, step)

    def at_step(self, value: Any, step: Tensor | None = None) -> Any:
        """Returns the value of a schedule at a step, or a constant as it is."""
        if not is_schedule(value):
            return value
        step = self._completed() if step is None else step
        # Known only in calls of a compiled model.
        calls = _keras_private.calls_per_update(outermost_layer())
        self._calls_per_update = calls or self._calls_per_update
        return ops.cast(value(step // self._calls_per_update), "float32")

    def count(self, training: bool | None) -> Tensor:
        """Counts the training step of a call once.

        Returns:
            An integer tensor, the number of the step from 0 on.
        """
        return once(self._count) if training else self._completed()

    def _count(self) -> Tensor:
        if not _keras_private.is_first_in_call(self.step):
            return self._completed()
        with counting(self.step):
            step = ops.copy(self.step)
            self.step.assign_add(1)
        return step

    def _completed(self) -> Tensor:
        """Returns the number of steps before the current step."""
        return self.step - _keras_private.is_counted(self.step)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "temperature": _serialized(self.temperature),
            "learn_temperature": self.learn_temperature,
            "precision": self.precision,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "StochasticLayer":
        if "temperature" in config:
            temperature = keras.saving.deserialize_keras_object(
                config["temperature"]
            )
            config = {**config, "temperature": temperature}
        return cls(**config)


def _serialized(temperature: Any) -> Any:
    """Returns the entry of a config for a temperature."""
    if is_schedule(temperature):
        return keras.saving.serialize_keras_object(temperature)
    return temperature
