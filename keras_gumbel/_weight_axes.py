"""The meaning of the axes of weights: one table for every function."""

import dataclasses
import math
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import TypeAlias

import keras

from keras_gumbel._typing import Shape
from keras_gumbel._validation import invalid_argument

# The shape of a weight.
_Known: TypeAlias = tuple[int, ...]

# How often a call uses a weight, for one example: from the shapes of the
# inputs, that of the output, and that of the weight.
Uses: TypeAlias = Callable[[list[Shape], Shape, "_Known"], float]


@dataclasses.dataclass(frozen=True)
class WeightAxes:
    """The meaning of the axes of a weight.

    Attributes:
        units: Integer or tuple of integers, the axes of the units, counted
            from the end: the outputs of a Dense kernel, the filters of a
            convolution. Defaults to `()`.
        inputs: Integer, the axis that is summed over, counted from the end,
            or `None` if there is not exactly one. Defaults to `None`.
        uses: Callable of the list of shapes of a call's inputs, the shape of
            its output and the shape of the weight. It returns how often the
            call uses each entry of the weight for one example, which is the
            cost of an entry in multiply-adds. `None` means once for each
            position. Positions are all axes of the first input except the
            first and the last. Defaults to `None`.
        summed: Tuple of integers, all axes that one output is summed over,
            counted from the end. For a filter, these are the axes of its
            window and its inputs. `None` means only the axis of `inputs`.
            Defaults to `None`.

    Example:

    >>> axes = keras_gumbel.WeightAxes(units=-1, inputs=-2)
    >>> axes.units
    (-1,)
    """

    units: Any = ()
    inputs: int | None = None
    uses: Uses | None = None
    summed: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.units, int):
            object.__setattr__(self, "units", (self.units,))
        summed = self.summed
        if summed is None:
            summed = () if self.inputs is None else (self.inputs,)
        elif isinstance(summed, int):
            summed = (summed,)
        object.__setattr__(self, "summed", tuple(summed))

    def count_uses(
        self, inputs: list[Shape], output: Shape, weight: _Known
    ) -> float:
        """Returns how often a call uses an entry, for one example."""
        uses = self.uses or _once_a_position
        return float(uses(inputs, output, weight))


@dataclasses.dataclass(frozen=True)
class NotMasked:
    """The reason why a weight is not masked.

    Attributes:
        reason: String, which warnings and reports show.
    """

    reason: str


# What is known about the weights of a layer, by their attribute names, with
# dots for attributes of a sublayer. `None` is for variables of rank 2 or more
# that are not weight matrices.
Rule: TypeAlias = Mapping[str, WeightAxes | NotMasked | None]

_RULES: dict[type[keras.Layer], Rule | Callable[[keras.Layer], Rule]] = {}


def register_weight_axes(
    layer_class: type[keras.Layer],
    axes: Rule | Callable[[keras.Layer], Rule],
) -> None:
    """Registers the meaning of the axes of a layer's weights.

    `keras_gumbel.sparsify` masks the weight matrices of all layers, registered
    or not. Granularities other than single weights, and exact costs, need to
    know which axes are units and inputs. Register your own layers for them.
    Keras layers are registered, and so are subclasses of a registered class.

    Args:
        layer_class: Subclass of `keras.Layer`.
        axes: Dictionary from attribute names to `keras_gumbel.WeightAxes`. A
            name with dots refers to a sublayer: `"dense.kernel"`. Or a
            callable that returns such a dictionary for a built layer.

    Raises:
        TypeError: If `layer_class` is not a class of layers, or `axes` is
            neither a dictionary nor callable.

    Example:

    >>> class Mixing(keras.layers.Layer):
    ...     def build(self, shape):
    ...         self.mixer = self.add_weight(shape=(shape[-1], 4))
    ...     def call(self, inputs):
    ...         return keras.ops.matmul(inputs, self.mixer)
    >>> keras_gumbel.register_weight_axes(
    ...     Mixing, {"mixer": keras_gumbel.WeightAxes(units=-1, inputs=-2)}
    ... )
    """
    owner = "register_weight_axes"
    if not isinstance(layer_class, type) or not issubclass(
        layer_class, keras.Layer
    ):
        raise invalid_argument(
            owner,
            "layer_class",
            "a subclass of `keras.Layer`",
            layer_class,
            error=TypeError,
        )
    if not callable(axes) and not isinstance(axes, Mapping):
        raise invalid_argument(
            owner,
            "axes",
            "a dictionary of attribute names, or a callable of a layer",
            axes,
            error=TypeError,
        )
    _RULES[layer_class] = axes


def known_weights(
    layer: keras.Layer,
) -> list[tuple[keras.Variable, WeightAxes | NotMasked | None]]:
    """Lists the weights of a layer that a rule is registered for.

    Args:
        layer: Keras layer, built.

    Returns:
        A list of weights, each with what is known of it.
    """
    found = []
    for path, axes in _rule_of(layer).items():
        place: Any = layer
        for name in path.split("."):
            if name.isdigit():
                place = place[int(name)]
            else:
                place = getattr(place, name, None)
        if isinstance(place, keras.Variable):
            found.append((place, axes))
    return found


def _rule_of(layer: keras.Layer) -> Rule:
    for kind in type(layer).__mro__:
        if kind in _RULES:
            rule = _RULES[kind]
            return rule(layer) if callable(rule) else rule
    return {}


def _once_a_position(inputs: list[Shape], output: Shape, weight: _Known) -> int:
    return _product(inputs[0][1:-1]) if inputs else 1


def _product(shape: Shape) -> int:
    return math.prod(n for n in shape if n is not None)


def _once_an_output(
    inputs: list[Shape], output: Shape, weight: _Known
) -> float:
    return _product(output[1:]) / weight[-1]


def _once_an_input(inputs: list[Shape], output: Shape, weight: _Known) -> float:
    return _product(inputs[0][1:]) / weight[-1]


def _once_a_channel(
    inputs: list[Shape], output: Shape, weight: _Known
) -> float:
    return _product(output[1:]) / (weight[-2] * weight[-1])


def _once_a_time_step(
    inputs: list[Shape], output: Shape, weight: _Known
) -> int:
    # Convolutional cells use a weight at each place of their output as well.
    places = output[len(output) - len(weight) + 1 : -1]
    return _product(inputs[0][1:2]) * _product(places)


def _lookup(inputs: list[Shape], output: Shape, weight: _Known) -> float:
    """Every position reads one of the rows, or all of them the other way."""
    if len(output) > len(inputs[0]):
        return _product(inputs[0][1:]) / weight[0]
    return _once_a_position(inputs, output, weight)


_DENSE = WeightAxes(-1, -2, _once_an_output)
_RECURRENT = WeightAxes(-1, -2, _once_a_time_step)
_LOOKUP = WeightAxes(-1, None, _lookup)


def _places(layer: Any) -> tuple[int, ...]:
    """Returns the axes of the places of a kernel."""
    return tuple(range(-2 - layer.rank, -2))


def _convolution(layer: Any) -> Rule:
    summed = (*_places(layer), -2)
    return {"_kernel": WeightAxes(-1, -2, _once_an_output, summed)}


def _transpose(layer: Any) -> Rule:
    summed = (*_places(layer), -1)
    return {"kernel": WeightAxes(-2, -1, _once_an_input, summed)}


def _depthwise(layer: Any) -> Rule:
    places = _places(layer)
    return {"kernel": WeightAxes((-2, -1), None, _once_a_channel, places)}


def _separable(layer: keras.Layer) -> Rule:
    def uses(inputs: list[Shape], output: Shape, weight: _Known) -> float:
        # At each place of the output, whichever of the two kernels it is.
        return _product(output[1:]) / layer.filters

    return {
        "depthwise_kernel": WeightAxes((-2, -1), None, uses, _places(layer)),
        "pointwise_kernel": WeightAxes(-1, -2, uses),
    }


def _einsum(layer: keras.layers.EinsumDense) -> Rule:
    """Reads the axes of units, and of the inputs, off an equation."""
    operands, outputs = layer.equation.replace(" ", "").split("->")
    inputs, kernel = operands.split(",")
    places = {label: i - len(kernel) for i, label in enumerate(kernel)}
    units = tuple(i for x, i in places.items() if x not in inputs)
    summed = [i for x, i in places.items() if x in inputs and x not in outputs]

    def uses(inputs: list[Shape], output: Shape, weight: _Known) -> float:
        shared = [i for x, i in places.items() if x in outputs]
        return _product(output[1:]) / math.prod(weight[i] for i in shared)

    last = summed[-1] if summed else None
    return {"_kernel": WeightAxes(units, last, uses, summed)}


def _attention(layer: keras.Layer) -> Rule:
    """Units are heads: of (inputs, heads, size) and (heads, size, outputs)."""
    query = WeightAxes(-2, -3)
    value = WeightAxes(-2, -3, lambda i, *_: _product(i[:2][-1][1:-1]))
    return {
        "_query_dense._kernel": query,
        "_gate_dense._kernel": query,
        "_key_dense._kernel": value,
        "_value_dense._kernel": value,
        "_output_dense._kernel": WeightAxes(-3, -2, summed=(-3, -2)),
    }


def _reversible(layer: keras.layers.Embedding) -> Rule:
    """Of two tables, one is for lookups and the other for logits."""
    if layer.tie_weights:
        return {"_embeddings": _LOOKUP}

    def looked_up(inputs: list[Shape], output: Shape, weight: _Known) -> float:
        forward = len(output) > len(inputs[0])
        return _lookup(inputs, output, weight) if forward else 0

    def reversed_(inputs: list[Shape], output: Shape, weight: _Known) -> float:
        forward = len(output) > len(inputs[0])
        return 0 if forward else _once_a_position(inputs, output, weight)

    return {
        "_embeddings": WeightAxes(-1, None, looked_up),
        "reverse_embeddings": WeightAxes(-1, -2, reversed_),
    }


def _recurrent(layer: keras.layers.RNN) -> Rule:
    cells = getattr(layer.cell, "cells", None)
    paths = ["cell"]
    if cells is not None:
        paths = [f"cell.cells.{i}" for i in range(len(cells))]
    return {f"{path}.{name}": axes for path in paths for name, axes in _CELL}


_CELL = (("kernel", _RECURRENT), ("recurrent_kernel", _RECURRENT))

_KERAS: dict[type[keras.Layer], Any] = {
    keras.layers.Dense: {"_kernel": _DENSE},
    keras.layers.EinsumDense: _einsum,
    keras.layers.Conv1D: _convolution,
    keras.layers.Conv2D: _convolution,
    keras.layers.Conv3D: _convolution,
    keras.layers.Conv1DTranspose: _transpose,
    keras.layers.Conv2DTranspose: _transpose,
    keras.layers.Conv3DTranspose: _transpose,
    keras.layers.DepthwiseConv1D: _depthwise,
    keras.layers.DepthwiseConv2D: _depthwise,
    keras.layers.SeparableConv1D: _separable,
    keras.layers.SeparableConv2D: _separable,
    keras.layers.Embedding: {"_embeddings": _LOOKUP},
    keras.layers.SimpleRNNCell: dict(_CELL),
    keras.layers.LSTMCell: dict(_CELL),
    keras.layers.GRUCell: dict(_CELL),
    keras.layers.RNN: _recurrent,
    keras.layers.MultiHeadAttention: _attention,
    keras.layers.GroupQueryAttention: _attention,
    keras.layers.PReLU: {"alpha": None},
    keras.layers.BatchNormalization: {"gamma": None, "beta": None},
    keras.layers.LayerNormalization: {"gamma": None, "beta": None},
    keras.layers.SpectralNormalization: {
        "kernel": NotMasked("SpectralNormalization writes to it in every step")
    },
}
for _kind, _axes in _KERAS.items():
    register_weight_axes(_kind, _axes)

if hasattr(keras.layers, "ReversibleEmbedding"):  # from Keras 3.15 on
    register_weight_axes(keras.layers.ReversibleEmbedding, _reversible)
