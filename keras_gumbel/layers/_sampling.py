"""The base of the layers that sample: shared noise, and the soft output."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_gumbel._seeds import PerExample
from keras_gumbel._stochastic import StochasticLayer
from keras_gumbel._typing import Shape
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_integer


class SamplingLayer(StochasticLayer):
    """Noise that is shared along axes, and a soft sample with the hard one.

    Subclasses implement `choice_axes`, the axes of one choice.

    Args:
        hard: Boolean, whether samples are discrete.
        noise_shape: Tuple of integers and `None`, or `None`.
        return_soft: Boolean, whether calls return `(hard, soft)`.
        **kwargs: Arguments of `StochasticLayer`.
    """

    def __init__(
        self,
        hard: bool,
        noise_shape: Sequence[int | None] | None,
        return_soft: bool,
        **kwargs: Any,
    ) -> None:
        owner = type(self).__name__
        if return_soft and not hard:
            raise invalid_argument(
                owner,
                "return_soft",
                "`False` with `hard=False`, because the sample is soft itself",
                return_soft,
            )
        noise_shape = _checked(owner, noise_shape)
        super().__init__(**kwargs)
        self.hard = hard
        self.noise_shape = noise_shape
        self.return_soft = return_soft

    def choice_axes(self) -> tuple[int, ...]:
        raise NotImplementedError

    def build(self, input_shape: Shape) -> None:
        if self.noise_shape is not None:
            self._require_noise_shape(self.noise_shape, input_shape)
        super().build(input_shape)

    def _require_noise_shape(
        self, given: tuple[int | None, ...], input_shape: Shape
    ) -> None:
        rank = len(input_shape)
        own = {axis % rank for axis in self.choice_axes()}
        fits = len(given) == rank and all(
            entry in (None, length) or (entry == 1 and axis not in own)
            for axis, (entry, length) in enumerate(
                zip(given, input_shape, strict=True)
            )
        )
        if not fits:
            raise invalid_argument(
                type(self).__name__,
                "noise_shape",
                f"of {rank} entries for inputs of shape {tuple(input_shape)}, "
                "each `None`, the length of the axis, or 1",
                given,
                "The axes of the choices need separate noise. Only other axes "
                "can share noise.",
            )

    def shape_of_noise(self, inputs: Tensor) -> Shape:
        """Returns the shape of the noise of a call."""
        shape = tuple(ops.shape(inputs))
        if self.noise_shape is None:
            return shape
        return tuple(
            1 if entry == 1 else length
            for entry, length in zip(self.noise_shape, shape, strict=True)
        )

    def seeds(self) -> keras.random.SeedGenerator:
        """Returns the seeds of noise, for `keras_gumbel.random`.

        Every replica has its own examples and its own noise, unless all
        examples share the noise.
        """
        if self.noise_shape is not None and self.noise_shape[0] == 1:
            return self.seed_generator
        return PerExample(self.seed_generator)

    def compute_output_shape(self, input_shape: Shape) -> Any:
        shape = tuple(input_shape)
        return (shape, shape) if self.return_soft else shape

    def compute_mask(self, inputs: Tensor, previous_mask: Any) -> Any:
        return (previous_mask,) * 2 if self.return_soft else previous_mask

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "noise_shape": self.noise_shape,
            "return_soft": self.return_soft,
        }


def _checked(owner: str, shape: Any) -> tuple[int | None, ...] | None:
    """Returns a noise shape as a tuple, or raises."""
    if shape is None:
        return None
    entries = tuple(shape) if isinstance(shape, (list, tuple)) else ()
    if not entries or not all(
        entry is None or (is_integer(entry) and entry > 0) for entry in entries
    ):
        raise invalid_argument(
            owner,
            "noise_shape",
            "`None`, or a tuple of positive integers and `None`, one for each "
            "axis of the inputs",
            shape,
        )
    return tuple(None if entry is None else int(entry) for entry in entries)
