"""The known properties of channels, and the changes of layers.

A unit is a column of a Dense kernel or a filter of a convolution. It makes one
channel of the output of its layer.
"""

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gumbel._typing import Shape
from keras_gumbel._typing import Tensor


@dataclasses.dataclass(frozen=True)
class Channels:
    """The channels of a symbolic tensor.

    Attributes:
        axis: Integer, the axis of the channels.
        constants: Float array, the value of each channel that is the same
            everywhere for all inputs of the model, and NaN for others.
        pinned: String or `None`, why every channel must stay.
    """

    axis: int
    constants: np.ndarray
    pinned: str | None = None

    @property
    def size(self) -> int:
        """The number of channels."""
        return int(self.constants.size)


# A tensor without `Channels` keeps its shape, because nothing is known of it.
MaybeChannels = Channels | None


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a layer.

    Attributes:
        layer: The layer, or the operation of `keras.ops`.
        inputs: Tuple of `Channels` or `None`, one for each input.
        shapes: Tuple of shapes, one for each input.
        output_shape: The shape of the first output.
        in_training: Boolean, whether it was called with `training=True`.
        tensors: Tuple of symbolic tensors, the inputs.
        outputs: Tuple of symbolic tensors.
        arguments: Dictionary of all arguments, by position or name.
    """

    layer: keras.Layer
    inputs: tuple[MaybeChannels, ...]
    shapes: tuple[Shape, ...]
    output_shape: Shape
    in_training: bool
    tensors: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    arguments: dict[int | str, Any]


@dataclasses.dataclass(frozen=True)
class Edit:
    """The changes of a layer.

    Attributes:
        layer: The layer.
        config: Dictionary, the arguments that change.
        weights: List of arrays, all weights.
        arguments: Dictionary of the changed arguments of its call, by position
            or name.
    """

    layer: keras.Layer
    config: dict[str, Any]
    weights: list[np.ndarray]
    arguments: dict[int | str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Layout:
    """The axes of a weight that follow the channels.

    Attributes:
        inputs: Integer or `None`, the axis of the input channels.
        outputs: Integer or `None`, the axis of the output channels.
        repeats: Integer, the number of entries for each input channel.
        tiles: Integer, how often the output channels are repeated in sequence.
    """

    inputs: int | None = None
    outputs: int | None = None
    repeats: int = 1
    tiles: int = 1

    def select(
        self, weight: np.ndarray, kept_inputs: np.ndarray, kept: np.ndarray
    ) -> np.ndarray:
        """Returns the part of a weight that belongs to kept channels."""
        if self.inputs is not None:
            chosen = np.repeat(kept_inputs, self.repeats)
            weight = np.compress(chosen, weight, self.inputs)
        if self.outputs is not None:
            chosen = np.tile(kept, self.tiles)
            weight = np.compress(chosen, weight, self.outputs)
        return weight


BIAS = Layout(None, 0)

# Why most layers keep their shapes.
UNKNOWN = "is not known to keep channels apart"


class BarrierError(Exception):
    """A layer that must keep its shapes; the message says why."""


# Functions of one number. Other activations of Keras may combine channels, like
# softmax.
_ELEMENTWISE = {
    getattr(keras.activations, name)
    for name in (
        "celu elu exponential gelu hard_shrink hard_sigmoid hard_silu "
        "hard_tanh leaky_relu linear log_sigmoid mish relu relu6 selu sigmoid "
        "silu soft_shrink softplus softsign sparse_plus sparse_sigmoid "
        "squareplus tanh tanh_shrink threshold"
    ).split()
}


def is_elementwise(activation: Any) -> bool:
    """Whether an activation is known to be elementwise."""
    return activation is None or (
        not isinstance(activation, keras.Layer) and activation in _ELEMENTWISE
    )


def name_of(activation: Any) -> str:
    """Returns the name of a function or layer."""
    default = type(activation).__name__
    return str(getattr(activation, "__name__", default))


def activated(layer: keras.Layer, values: np.ndarray) -> np.ndarray:
    """Applies the activation of a layer at the precision of the layer."""
    activation = getattr(layer, "activation", None)
    if activation is None or np.isnan(values).all():
        return finite(values)
    known = np.where(np.isnan(values), 0.0, values)
    tensor = ops.convert_to_tensor(known, layer.compute_dtype)
    results = ops.convert_to_numpy(ops.cast(activation(tensor), "float32"))
    return finite(np.where(np.isnan(values), np.nan, results))


def finite(constants: np.ndarray) -> np.ndarray:
    """Replaces infinite constants by NaN, because they cannot be folded."""
    return np.where(np.isfinite(constants), constants, np.nan)


def channel_axis(layer: keras.Layer, rank: int) -> int:
    """Returns the axis on which a layer expects channels."""
    data_format = getattr(layer, "data_format", "channels_last")
    return 1 if data_format == "channels_first" else rank - 1


def values_of(layer: keras.Layer, count: int) -> list[np.ndarray]:
    """Returns the weights of a layer that should have `count` of them."""
    weights = [ops.convert_to_numpy(w) for w in getattr(layer, "weights", ())]
    if len(weights) != count:
        raise BarrierError(f"has {len(weights)} weights, not {count}")
    return weights


def describe(layer: keras.Layer) -> str:
    """Returns the name and the class of a layer, for a reason."""
    return f"`{layer.name}` ({type(layer).__name__})"
