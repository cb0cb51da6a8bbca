"""Elementwise operations of `keras.ops`.

The graph of a model contains them if it uses `ops.relu(x)` or `x + y` instead
of layers. Their classes are not public in Keras, so rules are found by name.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gumbel.shrinking._channel_links import Link
from keras_gumbel.shrinking._channels import UNKNOWN
from keras_gumbel.shrinking._channels import BarrierError
from keras_gumbel.shrinking._channels import Call
from keras_gumbel.shrinking._channels import Channels
from keras_gumbel.shrinking._channels import finite

# Functions of one number each from every operand.
_ELEMENTWISE = (
    "Abs Absolute Arccos Arccosh Arcsin Arcsinh Arctan Arctanh Cast Cbrt Ceil "
    "Celu Clip ConvertToTensor Copy Cos Cosh Elu Erf Erfc Exp Exp2 Expm1 Fabs "
    "Floor Gelu HardShrink HardSigmoid HardSilu HardTanh Isfinite Isinf Isnan "
    "LeakyRelu Log Log10 Log1p Log2 LogSigmoid LogicalNot NanToNum Negative "
    "ReLU Reciprocal Relu Relu6 Round Rsqrt SaturateCast Selu Sigmoid Sign "
    "Silu Sin Sinc Sinh SoftShrink Softplus Softsign SparsePlus SparseSigmoid "
    "Sqrt Square Squareplus StopGradient Tan Tanh TanhShrink Threshold Trunc "
    "Add Arctan2 Divide DivideNoNan Equal FloorDivide Fmax Fmin Fmod Greater "
    "GreaterEqual Hypot Less LessEqual Logaddexp LogicalAnd LogicalOr "
    "LogicalXor Maximum Minimum Mod Multiply NotEqual Power Subtract "
    "TrueDivide Where"
).split()


def evaluate(call: Call, values: list[np.ndarray]) -> np.ndarray:
    """Calls an operation on values instead of its symbolic inputs."""
    known = {id(t): v for t, v in zip(call.tensors, values, strict=True)}

    def fill(argument: Any) -> Any:
        if not isinstance(argument, keras.KerasTensor):
            return argument
        tensor = ops.convert_to_tensor(known[id(argument)].astype("float32"))
        return ops.cast(tensor, argument.dtype)

    args, kwargs = [], {}
    for place, argument in call.arguments.items():
        filled = keras.tree.map_structure(fill, argument)
        if isinstance(place, int):
            args.append(filled)
        else:
            kwargs[place] = filled
    result = call.layer(*args, **kwargs)
    return np.asarray(ops.convert_to_numpy(ops.cast(result, "float32")))


def rows_of(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns one entry of each channel, and whether all others equal it."""
    rows = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])
    return rows[0], (rows == rows[0]).all(axis=0)


def _elementwise(call: Call) -> Link:
    axis, size = _common_axis(call)
    rank = len(call.output_shape)
    arrays = _arrays(call)
    lengths = {
        place: _length(array.shape, axis, rank)
        for place, array in arrays.items()
    }
    shapes = [_length(shape, axis, rank) for shape in call.shapes]
    if any(x not in (1, size) for x in (*lengths.values(), *shapes)):
        raise BarrierError("broadcasts channels")
    every, nothing = np.arange(size), np.full(size, -1)

    def arguments(_: np.ndarray, kept: np.ndarray) -> dict[int | str, Any]:
        return {
            place: np.compress(kept, array, axis - rank)
            for place, array in arrays.items()
            if lengths[place] == size > 1
        }

    return Link(
        call.layer,
        Channels(axis, _constants(call, axis, size)),
        tuple(every if length == size else nothing for length in shapes),
        arguments=arguments,
    )


def _common_axis(call: Call) -> tuple[int, int]:
    """Returns the axis of the channels in the output, and their number."""
    _require_numbers(call.layer)
    rank = len(call.output_shape)
    found = {
        (channels.axis + rank - len(shape), channels.size)
        for channels, shape in zip(call.inputs, call.shapes, strict=True)
        if channels is not None
    }
    if not found:
        raise BarrierError("has inputs that keep their shapes")
    if len(found) > 1:
        raise BarrierError("broadcasts channels")
    axis, size = found.pop()
    if call.output_shape[axis] != size:
        raise BarrierError("broadcasts channels")
    return axis, size


def _require_numbers(operation: Any) -> None:
    """Raises if an operation has its own arrays, such as bounds of `clip`."""
    for name, value in vars(operation).items():
        if not name.startswith("_") and np.ndim(value) > 0:
            raise BarrierError(f"gets an array as its `{name}`")


def _length(shape: tuple[int | None, ...], axis: int, rank: int) -> int | None:
    """Returns the length on an axis of the output."""
    place = axis - rank + len(shape)
    return 1 if place < 0 else shape[place]


def _arrays(call: Call) -> dict[int | str, np.ndarray]:
    """Returns the operands that are not tensors of the model."""
    arrays = {
        place: np.asarray(ops.convert_to_numpy(argument))
        for place, argument in call.arguments.items()
        if argument is not None and not isinstance(argument, keras.KerasTensor)
    }
    if any(array.dtype.kind not in "biuf" for array in arrays.values()):
        raise BarrierError(UNKNOWN)
    return arrays


def _constants(call: Call, axis: int, size: int) -> np.ndarray:
    unknown = np.zeros(size, bool)
    values = []
    for channels, shape in zip(call.inputs, call.shapes, strict=True):
        known = np.full(size, np.nan)
        if channels is not None:
            known = channels.constants
        unknown |= np.isnan(known)
        # Any number can be used, but a product with 1 is 0 only if the rest is
        # 0.
        known = np.where(np.isnan(known), 1.0, known)
        aligned = [1] * len(shape)
        if channels is not None:
            aligned[channels.axis] = size
        values.append(known[: np.prod(aligned)].reshape(aligned))
    result, same = rows_of(evaluate(call, values), axis)
    if type(call.layer).__name__ == "Multiply":
        unknown &= result != 0
    return finite(np.where(same & ~unknown, result, np.nan))


ELEMENTWISE_RULES: dict[str, Callable[[Call], Link]] = dict.fromkeys(
    _ELEMENTWISE, _elementwise
)
