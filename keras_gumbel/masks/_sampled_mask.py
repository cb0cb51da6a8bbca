"""The base class of masks with noise."""

from keras import ops

from keras_gumbel._stochastic import NoiseLayer
from keras_gumbel._typing import Tensor
from keras_gumbel.masks._base import Mask


class SampledMask(NoiseLayer, Mask):
    """A mask that is drawn in training, and the mean or mode in inference."""

    INFERENCE: tuple[str, ...] = ("mean", "mode", "sample")

    def draw(self, training: bool | None = False) -> Tensor:
        scores = ops.convert_to_tensor(self.mask_scores)
        if self.draws(training):
            return self.sample(scores, training)
        if self.inference == "mode":
            return ops.cast(scores > 0.5, scores.dtype)
        return ops.clip(scores, 0.0, 1.0)

    def sample(self, scores: Tensor, training: bool | None) -> Tensor:
        """Draws a mask from its scores."""
        raise NotImplementedError
