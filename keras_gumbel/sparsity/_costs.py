"""What a kept weight costs."""

import math
import re

import keras

from keras_gumbel import _keras_private
from keras_gumbel._typing import Shape
from keras_gumbel._validation import require_choice
from keras_gumbel.sparsity._masks import Masked
from keras_gumbel.sparsity._masks import find_masks
from keras_gumbel.sparsity._rewrite import require_rewritable

_TRANSPOSES = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
_RECURRENT = (keras.layers.RNN, keras.layers.Bidirectional)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
_ONCE_AN_OUTPUT = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    *_SEPARABLE,
)


def sparsity_costs(
    model: keras.Model, unit: str = "multiply_adds"
) -> dict[str, float]:
    """Returns what one weight of each masked kernel costs.

    It is what `keras_gumbel.optimizers.ProjectedOptimizer` takes as `costs`:
    a density is then the share of all multiply-adds that is left, or of all
    bytes, and a budget their number.

    Args:
        model: Sequential or Functional model with masked layers.
        unit: String, `"multiply_adds"` for those of one example, read off the
            shapes that layers are called with, or `"bytes"` of the kernel.
            Defaults to `"multiply_adds"`.

    Returns:
        A dictionary of regex strings, one for the scores of each kernel, to
        positive floats.

    Raises:
        TypeError: If `model` is not a Sequential or Functional model.
        ValueError: If the model has no mask, `unit` is unknown, or the
            multiply-adds of a kernel are not known: those of an embedding,
            or of inputs of unknown length.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3, name="conv")]
    ... )
    >>> costs = keras_gumbel.sparsity_costs(keras_gumbel.sparsify(model))
    >>> list(costs.values())
    [36.0]
    """
    owner = "sparsity_costs"
    require_rewritable(owner, model)
    require_choice(owner, "unit", unit, ("multiply_adds", "bytes"))
    masks = [m for m in find_masks(owner, model) if m.kernel is not None]
    cost = _bytes if unit == "bytes" else _multiply_adds
    return {m.scores_regex: cost(m) for m in masks}


def _bytes(m: Masked) -> float:
    dtype = keras.backend.standardize_dtype(m.kernel.dtype)  # type: ignore[union-attr]
    return int(re.sub(r"\D", "", dtype)) / 8


def _multiply_adds(m: Masked) -> float:
    """Counts how often a weight is used for one example, over all calls."""
    slots = _keras_private.kernel_slots(m.layer.layer)
    index = m.layer.masks.index(m.mask)
    uses = [
        _uses(m.layer.layer, slots[index], m.layout.shape, inputs, output)
        for inputs, output in _keras_private.call_shapes(m.layer)
    ]
    if not uses or not all(uses):
        raise ValueError(
            f"`sparsity_costs` does not know the multiply-adds of {m.name}, "
            f"a kernel of {type(m.layer.layer).__name__}. Expected a layer "
            "other than an embedding that is called on inputs of known "
            "lengths. Leave it out with `filters` of `sparsify`, give the "
            "inputs their lengths, or count `unit='bytes'`."
        )
    return float(sum(uses))


def _uses(
    layer: keras.Layer,
    slot: _keras_private.Slot,
    kernel: tuple[int, ...],
    inputs: list[Shape],
    output: Shape,
) -> int:
    """Returns how often a call uses a weight for one example, or 0."""
    if isinstance(layer, keras.layers.TimeDistributed):
        layer = layer.layer
    if isinstance(layer, _RECURRENT):
        return _product(inputs[0][1:2])
    if isinstance(layer, _keras_private.ATTENTION):
        queries = slot.name.startswith(("query", "gate", "attention_output"))
        return _product((inputs[0] if queries else inputs[1])[1:-1])
    if isinstance(layer, _TRANSPOSES):
        return _product(inputs[0][1:]) // kernel[-1]
    if not isinstance(layer, _ONCE_AN_OUTPUT):
        return 0
    # At each place of the output, whichever of the two kernels it is.
    separable = isinstance(layer, _SEPARABLE)
    units = math.prod(kernel[axis] for axis in slot.units)
    return _product(output[1:]) // (layer.filters if separable else units)


def _product(shape: Shape) -> int:
    """Multiplies lengths, 0 where one is not known."""
    return 0 if None in shape else math.prod(shape)  # type: ignore[arg-type]
