"""Samples of categorical variables without a gradient, and the argmax."""

import math

import keras
from keras import ops

from keras_gumbel import random
from keras_gumbel._numerics import as_tensor
from keras_gumbel._numerics import gumbel_like
from keras_gumbel._numerics import largest
from keras_gumbel._numerics import masked_logits
from keras_gumbel._numerics import moved_axis
from keras_gumbel._typing import Seed
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import require_axis

# From this K on, two draws among sqrt(K) are cheaper than one among K.
_MANY = 256


def gumbel_max(
    logits: Tensor,
    axis: int = -1,
    mask: Tensor | None = None,
    noise: Tensor | None = None,
    seed: Seed = None,
) -> Tensor:
    """Draws the index of a class from the categorical distribution.

    ```
    y = argmax_k (x_k + z_k),  z ~ Gumbel(0, 1)^K                  # Eq. (5)
    ```

    Then P(y = k) = softmax(x)_k (Eq. 14). No gradient flows through the index.

    Args:
        logits: Float tensor x of shape `(..., K)`, with K on `axis`; -inf
            forbids a class.
        axis: Integer, the axis of the K classes. Defaults to `-1`.
        mask: Boolean tensor that broadcasts to `logits`, true where a class
            may be chosen, or `None`. Defaults to `None`.
        noise: Tensor of the shape of `logits`, Gumbel noise, or `None` to draw
            noise. Defaults to `None`.
        seed: Integer, `keras.random.SeedGenerator`, key of JAX or `None`, as
            in `keras_gumbel.random`. Defaults to `None`.

    Returns:
        An int32 tensor of the shape of `logits` without `axis`. It is 0 if no
        class is allowed, and the index of the NaN if a logit is NaN.

    Raises:
        ValueError: If `axis` is not an axis of `logits`.

    Example:

    >>> logits = keras.ops.array([[0.0, 100.0], [100.0, 0.0]])
    >>> keras.ops.convert_to_numpy(keras_gumbel.ops.gumbel_max(logits)).tolist()
    [1, 0]
    """
    owner = "gumbel_max"
    logits, _, axis = masked_logits(owner, logits, axis, mask)
    perturbed = logits + gumbel_like(owner, logits, noise, seed)
    return _argmax(perturbed, axis)


def categorical(
    logits: Tensor,
    axis: int = -1,
    mask: Tensor | None = None,
    seed: Seed = None,
) -> Tensor:
    """Draws the index of a class fast, for many classes.

    It has the distribution of `gumbel_max`, but needs only about 2 sqrt(K)
    random numbers instead of K. The Gumbel-max trick (Eq. 5) draws one of
    sqrt(K) blocks of classes by the sums of their weights, and then a class of
    this block.

    Args:
        logits: Float tensor x of shape `(..., K)`, with K on `axis`; -inf
            forbids a class, +inf leaves no other.
        axis: Integer, the axis of the K classes. Defaults to `-1`.
        mask: Boolean tensor that broadcasts to `logits`, true where a class
            may be chosen, or `None`. Defaults to `None`.
        seed: Integer, `keras.random.SeedGenerator`, key of JAX or `None`, as
            in `keras_gumbel.random`. Defaults to `None`.

    Returns:
        An int32 tensor of the shape of `logits` without `axis`. It is 0 if no
        class is allowed, and the index of the NaN if a logit is NaN.

    Raises:
        ValueError: If `axis` is not an axis of `logits`.

    Example:

    >>> logits = keras.ops.array([[0.0, 100.0], [100.0, 0.0]])
    >>> index = keras_gumbel.ops.categorical(logits)
    >>> keras.ops.convert_to_numpy(index).tolist()
    [1, 0]
    """
    owner = "categorical"
    logits, _, axis = masked_logits(owner, logits, axis, mask)
    logits = moved_axis(logits, axis, -1)
    classes = logits.shape[-1]
    if classes is None or classes < _MANY:
        return _argmax(logits + gumbel_like(owner, logits, None, seed), -1)
    batch = ops.shape(logits)[:-1]
    size = math.isqrt(classes)
    count, rest = divmod(classes, size)
    blocks = ops.reshape(logits[..., : count * size], (*batch, count, size))
    weights = _log_sum(blocks)
    if rest:
        last = _log_sum(logits[..., count * size :])
        weights = ops.concatenate([weights, last[..., None]], axis=-1)
        count += 1
    noise = random.gumbel((*batch, count + size), logits.dtype, seed)
    start = size * _argmax(weights + noise[..., :count], -1)[..., None]
    positions = start + ops.arange(size, dtype="int32")
    inside = ops.take_along_axis(
        logits, ops.minimum(positions, classes - 1), axis=-1
    )
    inside = ops.where(positions < classes, inside, -float("inf"))
    chosen = _argmax(inside + noise[..., count:], -1)
    return start[..., 0] + chosen


def one_hot_argmax(values: Tensor, axis: int = -1) -> Tensor:
    """Returns the one-hot vector of the largest entry along an axis.

    The first of several equal largest entries wins. A row with only -inf has no
    largest entry and gives zeros. It is computed with comparisons, because
    `argmax` of floats does not export from TensorFlow to ONNX, LiteRT or
    OpenVINO.

    Args:
        values: Float tensor of shape `(..., K)`, with K on `axis`.
        axis: Integer, the axis to look along. Defaults to `-1`.

    Returns:
        A tensor of zeros and ones, of the shape and dtype of `values`.

    Example:

    >>> one_hot = keras_gumbel.ops.one_hot_argmax([0.5, 2.0, 2.0])
    >>> keras.ops.convert_to_numpy(one_hot).tolist()
    [0.0, 1.0, 0.0]
    """
    values = ops.stop_gradient(as_tensor("one_hot_argmax", "values", values))
    axis = require_axis("one_hot_argmax", axis, values.shape)
    classes = values.shape[axis]
    # The number of classes from each one on; it is largest for the first.
    left = ops.reshape(
        ops.arange(classes, 0, -1, dtype="int32"),
        [classes if i == axis else 1 for i in range(values.ndim)],
    )
    top = largest(values, axis)
    leading = ops.logical_and(
        values >= top, ops.not_equal(values, -float("inf"))
    )
    first = largest(ops.where(leading, left, 0), axis)
    return ops.cast(left == first, values.dtype)


def _argmax(values: Tensor, axis: int) -> Tensor:
    """The first of the largest entries, or of the NaN entries."""
    if keras.config.backend() == "tensorflow":  # which passes NaN over
        values = ops.where(ops.isnan(values), float("inf"), values)
    return ops.argmax(values, axis=axis)


def _log_sum(blocks: Tensor) -> Tensor:
    """`log(sum(exp))` along the last axis, also correct for -inf and +inf."""
    top = largest(blocks, -1)[..., 0]
    base = ops.where(ops.isfinite(top), top, 0.0)
    total = ops.sum(ops.exp(blocks - base[..., None]), axis=-1)
    return base + ops.log(total)
