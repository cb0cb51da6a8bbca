"""The base of the layers that choose one of K classes."""

from typing import Any

import keras

from keras_gumbel import _keras_private
from keras_gumbel import random
from keras_gumbel._numerics import as_tensor
from keras_gumbel._numerics import masked_logits
from keras_gumbel._typing import Shape
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_broadcastable
from keras_gumbel._validation import is_integer
from keras_gumbel._validation import require_axis
from keras_gumbel.layers._penalty import add_penalty
from keras_gumbel.layers._penalty import metric_of
from keras_gumbel.layers._sampling import SamplingLayer
from keras_gumbel.ops._sampling import gumbel_softmax


class CategoricalLayer(SamplingLayer):
    """Axis, mask and inference of a choice among K classes.

    Subclasses implement `sample(logits, temperature, mask, noise, step)` and,
    for the second output, `soft(logits, temperature, mask, noise)`.
    """

    INFERENCE = ("argmax", "softmax", "sample")

    def __init__(
        self,
        axis: int,
        logits_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        if not is_integer(axis):
            raise invalid_argument(
                type(self).__name__, "axis", "an integer", axis
            )
        super().__init__(**kwargs)
        self.axis = int(axis)
        self.logits_regularizer = keras.regularizers.get(logits_regularizer)
        self.kl = metric_of(self.logits_regularizer)
        self.supports_masking = True

    def choice_axes(self) -> tuple[int, ...]:
        return (self.axis,)

    def build(self, input_shape: Shape) -> None:
        axis = require_axis(type(self).__name__, self.axis, input_shape)
        if input_shape[axis] is None:
            raise invalid_argument(
                type(self).__name__,
                "axis",
                "an axis of known length, for inputs of shape "
                f"{tuple(input_shape)}",
                self.axis,
            )
        super().build(input_shape)
        if self.kl is not None:
            self.kl.build(self)

    def call(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        training: bool | None = False,
        temperature: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Any:
        mask = self._class_mask(inputs, mask)
        inputs = self.logits(inputs, mask)
        if self.logits_regularizer is not None:
            logits, _, _ = masked_logits(self.name, inputs, self.axis, mask)
            add_penalty(
                self, self.logits_regularizer, self.kl, logits, training, noise
            )
        if not self.draws(training):
            sample = self.infer(inputs, mask)
            if not self.return_soft:
                return sample
            return sample, self.soft_inference(inputs, mask)
        # Given noise neither reads nor writes state.
        step = self.count(training) if noise is None else None
        if temperature is None:
            temperature = self.current_temperature(step)
        if noise is None:
            noise = self.draw_noise(self.shape_of_noise(inputs))
        sample = self.sample(inputs, temperature, mask, noise, step)
        if not self.return_soft:
            return sample
        return sample, self.soft(inputs, temperature, mask, noise)

    def logits(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """Returns the logits to sample from."""
        return inputs

    def draw_noise(self, shape: Any) -> Tensor:
        """Draws noise in float32: every dtype has the same stream."""
        return random.gumbel(shape, "float32", self.seeds(), self.precision)

    def infer(self, logits: Tensor, mask: Tensor | None) -> Tensor:
        """Returns what the layer computes without noise."""
        # Eq. (15) or (16) of the logits themselves.
        return gumbel_softmax(
            logits,
            hard=self.inference == "argmax",
            axis=self.axis,
            mask=mask,
            noise=0.0,
        )

    def soft_inference(self, logits: Tensor, mask: Tensor | None) -> Tensor:
        """Returns the soft output in inference, without noise."""
        return self.soft(logits, 1.0, mask, 0.0)

    def sample(
        self,
        logits: Tensor,
        temperature: Tensor,
        mask: Tensor | None,
        noise: Tensor,
        step: Tensor | None,
    ) -> Tensor:
        raise NotImplementedError

    def soft(
        self,
        logits: Tensor,
        temperature: Tensor,
        mask: Tensor | None,
        noise: Tensor | float,
    ) -> Tensor:
        raise NotImplementedError

    def _class_mask(self, inputs: Tensor, mask: Tensor | None) -> Tensor | None:
        """Tells a mask of classes from the mask of time steps of Keras."""
        if mask is None:
            return None
        mask = as_tensor(type(self).__name__, "mask", mask)
        rank = len(mask.shape)
        if rank >= len(inputs.shape):
            return mask
        if _keras_private.is_propagated_mask(mask, inputs):
            return None
        if tuple(mask.shape) != tuple(inputs.shape[:rank]):
            return mask
        if not is_broadcastable(mask.shape, inputs.shape):
            return None
        if rank > 1:
            raise invalid_argument(
                self.name,
                "mask",
                "a mask of classes with the rank of `inputs`, because this "
                "could also be a mask of time steps",
                tuple(mask.shape),
                f"Pass a mask of classes in the shape {(1, *mask.shape)}. Do "
                "not pass a mask of time steps.",
            )
        return mask

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "axis": self.axis,
            "logits_regularizer": keras.regularizers.serialize(
                self.logits_regularizer
            ),
        }
