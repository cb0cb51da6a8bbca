"""The base of the layers that choose one of K classes."""

from typing import Any

from keras_gumbel import _keras_private
from keras_gumbel._typing import Shape
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_broadcastable
from keras_gumbel._validation import is_integer
from keras_gumbel._validation import require_axis
from keras_gumbel.layers._stochastic import StochasticLayer
from keras_gumbel.ops.sampling import gumbel_softmax


class CategoricalLayer(StochasticLayer):
    """Axis, mask and inference of a choice among K classes.

    Subclasses implement `sample(logits, mask)`.
    """

    INFERENCE = ("argmax", "softmax", "sample")

    def __init__(
        self,
        temperature: Any,
        axis: int,
        inference: str,
        seed: int | None,
        **kwargs: Any,
    ) -> None:
        if not is_integer(axis):
            raise invalid_argument(
                type(self).__name__, "axis", "an integer", axis
            )
        super().__init__(temperature, inference, seed, **kwargs)
        self.axis = axis
        self.supports_masking = True

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

    def call(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        training: bool | None = False,
    ) -> Tensor:
        mask = self._class_mask(inputs, mask)
        if not self.draws(training):
            # Eq. (15) or (16) of the logits themselves.
            return gumbel_softmax(
                inputs,
                hard=self.inference == "argmax",
                axis=self.axis,
                mask=mask,
                noise=0.0,
            )
        outputs = self.sample(inputs, mask)
        self.advance(training)
        return outputs

    def sample(self, logits: Tensor, mask: Tensor | None) -> Tensor:
        raise NotImplementedError

    def _class_mask(self, inputs: Tensor, mask: Tensor | None) -> Tensor | None:
        """Tells a mask of classes from the time steps Keras passes along."""
        if mask is None:
            return None
        rank = len(mask.shape)
        if rank < len(inputs.shape) and (
            _keras_private.is_propagated_mask(mask, inputs)
            or (
                tuple(mask.shape) == tuple(inputs.shape[:rank])
                and not is_broadcastable(mask.shape, inputs.shape)
            )
        ):
            return None
        return mask

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis}
