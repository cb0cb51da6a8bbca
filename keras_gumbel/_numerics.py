"""Checked tensors in wide dtypes, and functions that stay finite."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gumbel import random
from keras_gumbel._typing import Seed
from keras_gumbel._typing import Shape
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_broadcastable
from keras_gumbel._validation import is_number
from keras_gumbel._validation import require_axis
from keras_gumbel._validation import require_positive

# In temperatures. For entries further below the largest, exp is 0.
_NEGLIGIBLE = {"float32": 200.0, "float64": 1000.0}

# The smallest logarithm of a share of an allowed class, which can still be
# scaled.
_LEAST = -1e30

# Stands for "below all others" where -inf would make inf - inf.
_HUGE = 3e38

# Between these, temperatures and their gradients are finite in float32.
_COLDEST, _HOTTEST = 1e-15, 1e30


def as_tensor(
    owner: str, name: str, value: Any, dtype: str | None = None
) -> Tensor:
    """Returns a tensor of real numbers or booleans, or raises."""
    try:
        # Not directly to a dtype, because JAX accepts any object as a boolean.
        tensor = ops.convert_to_tensor(value)
        kind = dtype_of(tensor)
    except Exception as error:  # each backend raises its own errors
        raise not_a_tensor(owner, name, value) from error
    if kind == "string" or "complex" in kind:
        raise not_a_tensor(owner, name, value)
    return tensor if dtype is None else ops.cast(tensor, dtype)


def not_a_tensor(owner: str, name: str, value: Any) -> Exception:
    """Builds the error for an object that is not a tensor of numbers."""
    return invalid_argument(
        owner,
        name,
        "a tensor of real numbers, or an array or list of them",
        value,
        error=TypeError,
    )


def widen(owner: str, name: str, x: Any) -> tuple[Tensor, str]:
    """Returns `x` in float32 or wider, and the dtype of the result."""
    x = as_tensor(owner, name, x)
    dtype = dtype_of(x)
    if "float" not in dtype:
        dtype = keras.config.floatx()
    return ops.cast(x, "float64" if dtype == "float64" else "float32"), dtype


def dtype_of(x: Tensor) -> str:
    """Returns the name of a tensor's dtype."""
    return str(keras.backend.standardize_dtype(x.dtype))


def masked_logits(
    owner: str, logits: Tensor, axis: int, mask: Tensor | None
) -> tuple[Tensor, str, int]:
    """Checks, widens and masks logits.

    Returns:
        A tuple of the logits, -inf for forbidden classes, the dtype they had,
        and the axis, a negative Python integer.
    """
    logits, dtype = widen(owner, "logits", logits)
    index = require_axis(owner, axis, logits.shape)
    if logits.shape[index] == 0:
        raise invalid_argument(
            owner,
            "logits",
            f"of at least one class on axis {axis}",
            tuple(logits.shape),
        )
    if mask is not None:
        mask = as_tensor(owner, "mask", mask, "bool")
        if not is_broadcastable(mask.shape, logits.shape):
            raise invalid_argument(
                owner,
                "mask",
                f"broadcastable to the logits, of shape {tuple(logits.shape)}",
                tuple(mask.shape),
                "A mask is true where a class may be chosen.",
            )
        logits = ops.where(mask, logits, -float("inf"))
    return logits, dtype, index - len(logits.shape)


def at_least(x: Tensor, low: Any) -> Tensor:
    """`maximum(x, low)`, in float64 for a float64 `x`."""
    # Keras's returns float32 on torch. It takes one operation less.
    if dtype_of(x) == "float64":
        return ops.where(x < low, low, x)
    return ops.maximum(x, low)


def at_most(x: Tensor, high: Any) -> Tensor:
    """`minimum(x, high)`, in float64 for a float64 `x`."""
    if dtype_of(x) == "float64":
        return ops.where(x > high, high, x)
    return ops.minimum(x, high)


def log_add(a: Tensor, b: Tensor) -> Tensor:
    """`logaddexp(a, b)`, in float64 for float64 tensors."""
    # Keras's returns float32 on torch and JAX.
    if dtype_of(a) == "float64":
        low, high = at_most(a, b), at_least(a, b)
        return high + ops.softplus(low - high)
    return ops.logaddexp(a, b)


def moved_axis(values: Tensor, axis: int, to: int) -> Tensor:
    """Moves an axis if necessary, as `torch.vmap` has no `moveaxis`."""
    rank = len(values.shape)
    if axis % rank == to % rank:
        return values
    # Negative axes do not export from torch to ONNX.
    return ops.moveaxis(values, axis % rank, to % rank)


def top_values(values: Tensor, count: int) -> Tensor:
    """Returns the largest entries along the last axis, in falling order."""
    if keras.config.backend() == "jax":
        # Little slower there than `top_k`, which TensorFlow 2.21 cannot read
        # in what JAX exports.
        return ops.flip(ops.sort(values, axis=-1)[..., -count:], axis=-1)
    return ops.top_k(values, count)[0]


def largest(values: Tensor, axis: int) -> Tensor:
    """Returns the largest entry of every row, without a gradient.

    The axis stays, with length 1.
    """
    if 0 in values.shape:
        # Keras rejects an empty batch, but not on every backend.
        return ops.sum(values, axis=axis, keepdims=True)
    # This keeps nothing for a backward pass.
    return ops.amax(ops.stop_gradient(values), axis=axis, keepdims=True)


def as_budget(owner: str, budget: Any, shape: Shape = ()) -> Any:
    """Checks a budget and returns it as a number or a tensor.

    Args:
        owner: String, the function that was called.
        budget: Number of at least 0, or a tensor.
        shape: Tuple, the shape that a tensor must broadcast to. Defaults to
            `()`.
    """
    if is_number(budget):
        if not budget >= 0:
            raise invalid_argument(
                owner, "budget", "a number of at least 0", budget
            )
        return budget
    tensor = as_tensor(owner, "budget", budget)
    if not is_broadcastable(tensor.shape, shape):
        raise invalid_argument(
            owner,
            "budget",
            f"a number, or a tensor that broadcasts to shape {shape}",
            tuple(tensor.shape),
        )
    return tensor


def positive_temperature(
    owner: str,
    temperature: Any,
    values: Tensor,
    name: str = "temperature",
    fits: Callable[[Shape, Shape], bool] = is_broadcastable,
) -> Any:
    """Checks a temperature and returns it as a number or a tensor.

    Numbers and arrays must be positive. Reading a tensor would make the device
    wait. Its entries are therefore clipped to the range where values and
    gradients are finite. 0, negative numbers and NaN become the lower end of
    the range.

    Args:
        owner: String, the function that was called.
        temperature: Number, array or tensor.
        values: Tensor that the temperature broadcasts to.
        name: String, the name of the argument. Defaults to `"temperature"`.
        fits: Callable, whether a shape is compatible with the shape of the
            values. Defaults to `is_broadcastable`.

    Returns:
        A Python float, or a tensor of the dtype of `values`.
    """
    if is_number(temperature):
        require_positive(owner, name, temperature)
        return min(max(float(temperature), _COLDEST), _HOTTEST)
    given = temperature
    temperature = as_tensor(owner, name, given, values.dtype)
    if not ops.is_tensor(given):
        for known in keras.tree.flatten(given):
            if is_number(known) or isinstance(known, np.ndarray):
                _require_all_positive(owner, name, known, given)
    if not fits(temperature.shape, values.shape):
        raise invalid_argument(
            owner,
            name,
            f"a number, or broadcastable to shape {tuple(values.shape)}",
            tuple(temperature.shape),
        )
    # NaN is not above. OpenVINO has no `nan_to_num`.
    warm = ops.where(temperature > _COLDEST, temperature, _COLDEST)
    return at_most(warm, _HOTTEST)


def _require_all_positive(owner: str, name: str, known: Any, all_: Any) -> None:
    if not np.all((np.asarray(known) > 0) & np.isfinite(known)):
        raise invalid_argument(
            owner, name, "a positive finite number or array", all_
        )


def is_allowed(logits: Tensor) -> Tensor:
    """Returns which classes are allowed, from masked logits."""
    return ops.not_equal(logits, -float("inf"))


def tempered_softmax(
    values: Tensor, temperature: Tensor, axis: int = -1
) -> Tensor:
    """`softmax(values / temperature)`, finite in value and both gradients.

    A row with only -inf gives zeros without a gradient. A row with NaN or +inf
    gives NaN.

    Args:
        values: Float32 or float64 tensor.
        temperature: As `positive_temperature` returns it.
        axis: Integer. Defaults to `-1`.

    Returns:
        A tensor of the shape and dtype of `values`.
    """
    # The largest of only -inf is -inf or, in OpenVINO, some number.
    top = at_least(largest(values, axis), -_HUGE)
    # Only differences survive a division by a small temperature.
    distance = values - top
    if not is_number(temperature):
        # Its gradient needs finite distances, which take a third of the time
        # of the backward pass.
        floor = -_NEGLIGIBLE[dtype_of(values)] * ops.stop_gradient(temperature)
        distance = at_least(distance, floor)
    elif keras.backend.backend() == "torch" and values.shape[axis] > 1:
        # Keras warns of a softmax over one class.
        return _softmax(distance, temperature, top, axis)
    share = ops.exp(distance / temperature)
    total = ops.sum(share, axis=axis, keepdims=True)
    total = ops.where(ops.equal(total, 0.0), 1.0, total)
    return share * (1.0 / total)


def _softmax(
    distance: Tensor, temperature: float, top: Tensor, axis: int
) -> Tensor:
    """`softmax(distance / temperature)`, and zeros for rows of -inf alone.

    Eager torch computes it in one operation, and keeps nothing but the result
    for the backward pass. Such a row would be NaN: it gets the finite `top` for
    all its entries, and is multiplied by 0. A compiler does as well without
    `softmax`, and ONNX files from TensorFlow have `where` as a product, of 0
    and -inf in such a row.
    """
    some = ops.not_equal(top, -_HUGE)
    if temperature != 1.0:
        distance = distance / temperature
    return ops.softmax(ops.where(some, distance, top), axis=axis) * some


def slope_carrier(logits: Tensor) -> Tensor:
    """Returns zeros that have the gradient of the logits."""
    finite = ops.where(is_allowed(logits), logits, 0.0)
    return finite - ops.stop_gradient(finite)


def gumbel_like(
    owner: str, logits: Tensor, noise: Tensor | None, seed: Seed
) -> Tensor:
    """Returns the given noise, or draws noise for logits."""
    if noise is None:
        return random.gumbel(ops.shape(logits), logits.dtype, seed)
    return given_noise(owner, noise, logits)


def logistic_like(
    owner: str, values: Tensor, noise: Tensor | None, seed: Seed
) -> Tensor:
    """Returns the given noise, or draws noise for logits or probabilities."""
    if noise is None:
        return random.logistic(ops.shape(values), values.dtype, seed)
    return given_noise(owner, noise, values)


def given_noise(owner: str, noise: Any, values: Tensor) -> Tensor:
    """Returns the given noise in the dtype of the values."""
    noise = as_tensor(owner, "noise", noise)
    if not is_broadcastable(noise.shape, values.shape):
        raise invalid_argument(
            owner,
            "noise",
            f"broadcastable to shape {tuple(values.shape)}",
            tuple(noise.shape),
        )
    return ops.cast(noise, values.dtype)


def tempered_log_softmax(
    values: Tensor, temperature: Tensor, axis: int
) -> Tensor:
    """`log_softmax(values / temperature)`, finite in value and gradients.

    Entries of -inf are ignored and get 0. NaN or +inf gives a row of NaN.
    """
    allowed = is_allowed(values)
    top = largest(values, axis)
    distance = ops.where(allowed, values - at_least(top, -_HUGE), 0.0)
    # NaN is not below.
    below = distance <= _LEAST * temperature
    scaled = ops.where(below, 0.0, distance) / temperature
    scaled = ops.where(below, _LEAST, scaled)
    total = ops.sum(
        ops.where(allowed, ops.exp(scaled), 0.0), axis=axis, keepdims=True
    )
    total = ops.where(is_allowed(top), total, 1.0)
    return ops.where(allowed, scaled - ops.log(total), 0.0)
