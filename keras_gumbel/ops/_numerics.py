"""What the functions of this package compute with: wide, safe tensors."""

import keras
from keras import ops

from keras_gumbel import random
from keras_gumbel._typing import Seed
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_broadcastable
from keras_gumbel._validation import is_number
from keras_gumbel._validation import require_axis

# Further below the largest entry than this, in temperatures, exp gives 0.
_NEGLIGIBLE = {"float32": 200.0, "float64": 1000.0}

# The least logarithm of a share of an allowed class: it can still be scaled.
_LEAST = -1e30

# Stands for "below all others" where -inf would make inf - inf.
_HUGE = 3e38


def widen(x: Tensor) -> tuple[Tensor, str]:
    """Returns `x` in float32 or wider, and the dtype to hand back."""
    x = ops.convert_to_tensor(x)
    dtype = dtype_of(x)
    if "float" not in dtype:
        dtype = keras.config.floatx()
    return ops.cast(x, "float64" if dtype == "float64" else "float32"), dtype


def dtype_of(x: Tensor) -> str:
    """Returns the name of a tensor's dtype."""
    return str(keras.backend.standardize_dtype(x.dtype))


def masked_logits(
    owner: str, logits: Tensor, axis: int, mask: Tensor | None
) -> tuple[Tensor, str]:
    """Checks, widens and masks logits; also returns the dtype they had.

    Forbidden classes have logits of -inf.
    """
    logits, dtype = widen(logits)
    require_axis(owner, axis, logits.shape)
    if mask is not None:
        mask = ops.convert_to_tensor(mask, dtype="bool")
        if not is_broadcastable(mask.shape, logits.shape):
            raise invalid_argument(
                owner,
                "mask",
                f"broadcastable to the logits, of shape {tuple(logits.shape)}",
                tuple(mask.shape),
                "A mask says which classes may be chosen.",
            )
        logits = ops.where(mask, logits, -float("inf"))
    return logits, dtype


def moved_axis(values: Tensor, axis: int, to: int) -> Tensor:
    """Moves an axis, if it has to be: `torch.vmap` knows no `moveaxis`."""
    rank = len(values.shape)
    if axis % rank == to % rank:
        return values
    # An axis counted from the end does not export from torch to ONNX.
    return ops.moveaxis(values, axis % rank, to % rank)


def top_values(values: Tensor, count: int) -> Tensor:
    """Returns the largest entries along the last axis, in falling order."""
    if keras.config.backend() == "jax":
        # Little slower there than `top_k`, which TensorFlow 2.21 cannot read
        # in what JAX exports.
        return ops.flip(ops.sort(values, axis=-1)[..., -count:], axis=-1)
    return ops.top_k(values, count)[0]


def is_allowed(logits: Tensor) -> Tensor:
    """Returns where a class may be chosen, from masked logits."""
    return ops.not_equal(logits, -float("inf"))


def tempered_softmax(
    values: Tensor, temperature: Tensor, axis: int = -1
) -> Tensor:
    """`softmax(values / temperature)`, finite in value and both gradients.

    A row of -inf alone gives zeros without a gradient; a row with NaN or +inf
    gives NaN.

    Args:
        values: Float32 or float64 tensor.
        temperature: Positive number or tensor that broadcasts to `values`.
        axis: Integer. Defaults to `-1`.

    Returns:
        A tensor of the shape and dtype of `values`.
    """
    top = ops.stop_gradient(ops.amax(values, axis=axis, keepdims=True))
    # Only differences survive a division by a small temperature.
    distance = values - ops.maximum(top, -_HUGE)
    if not is_number(temperature):
        # Its gradient needs all distances finite, which takes a third of the
        # time of the backward pass.
        temperature = ops.convert_to_tensor(temperature, values.dtype)
        floor = -_NEGLIGIBLE[dtype_of(values)] * ops.stop_gradient(temperature)
        distance = ops.maximum(distance, floor)
    share = ops.exp(distance / temperature)
    total = ops.sum(share, axis=axis, keepdims=True)
    total = ops.where(ops.equal(total, 0.0), 1.0, total)
    return share * (1.0 / total)


def slope_carrier(logits: Tensor) -> Tensor:
    """Returns zeros that have the gradient of the logits."""
    finite = ops.where(is_allowed(logits), logits, 0.0)
    return finite - ops.stop_gradient(finite)


def gumbel_like(logits: Tensor, noise: Tensor | None, seed: Seed) -> Tensor:
    """Returns the noise given, or draws some for logits."""
    if noise is None:
        return random.gumbel(ops.shape(logits), logits.dtype, seed)
    return ops.cast(noise, logits.dtype)


def tempered_log_softmax(
    values: Tensor, temperature: Tensor, axis: int
) -> Tensor:
    """`log_softmax(values / temperature)`, finite in value and gradients.

    Entries of -inf take no part and get 0. NaN or +inf gives a row of NaN.
    """
    temperature = ops.convert_to_tensor(temperature, values.dtype)
    allowed = is_allowed(values)
    top = ops.stop_gradient(ops.amax(values, axis=axis, keepdims=True))
    distance = ops.where(allowed, values - ops.maximum(top, -_HUGE), 0.0)
    # NaN is not below.
    below = distance <= _LEAST * temperature
    scaled = ops.where(below, 0.0, distance) / temperature
    scaled = ops.where(below, _LEAST, scaled)
    total = ops.sum(
        ops.where(allowed, ops.exp(scaled), 0.0), axis=axis, keepdims=True
    )
    total = ops.where(is_allowed(top), total, 1.0)
    return ops.where(allowed, scaled - ops.log(total), 0.0)
