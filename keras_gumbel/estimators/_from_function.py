"""A user's function as an estimator."""

from collections.abc import Callable
from typing import Any

import keras

from keras_gumbel._typing import Seed
from keras_gumbel._typing import Tensor
from keras_gumbel.estimators._base import Estimator


@keras.saving.register_keras_serializable(package="keras_gumbel")
class FromFunction(Estimator):
    """The gradient of the tensor that your own function returns.

    A function that is passed as an `estimator` is converted to this class.
    Register the function with Keras to save a layer that uses it.

    Args:
        function: Callable of `hard`, `logits`, `noise` and `temperature`,
            which returns the surrogate: see `Estimator.surrogate`.
        backward_temperature: Positive number, or a schedule of the training
            step, the temperature that the function gets. `None` for the
            temperature of the layer or function that samples. Defaults to
            `None`.

    Raises:
        ValueError: If `backward_temperature` is not positive.

    Example:

    >>> def plain(hard, logits, noise, temperature):
    ...     return keras.ops.softmax(logits / temperature)
    >>> estimator = keras_gumbel.estimators.FromFunction(plain, 0.5)
    >>> y = keras_gumbel.ops.sample_one_hot([0.0, 99.0], estimator=estimator)
    >>> keras.ops.convert_to_numpy(y).tolist()
    [0.0, 1.0]
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        backward_temperature: Any = None,
    ) -> None:
        super().__init__(backward_temperature)
        self.function = function

    def surrogate(
        self,
        hard: Tensor,
        logits: Tensor,
        noise: Tensor | None,
        temperature: Any,
        seed: Seed = None,
    ) -> Tensor:
        return self.function(hard, logits, noise, temperature)

    def get_config(self) -> dict[str, Any]:
        function = keras.saving.serialize_keras_object(self.function)
        return {**super().get_config(), "function": function}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Estimator:
        function = keras.saving.deserialize_keras_object(config["function"])
        return super().from_config({**config, "function": function})
