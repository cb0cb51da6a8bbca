"""Samples of categorical and Bernoulli variables, hard and relaxed.

Everything is computed in float32 (float64 for float64 inputs) and only the
result is cast back to the dtype of the inputs.
"""

from keras import ops

from keras_gumbel import random
from keras_gumbel._typing import Seed
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import require_axis
from keras_gumbel._validation import require_positive_if_number
from keras_gumbel.ops._numerics import masked_logits
from keras_gumbel.ops._numerics import tempered_softmax
from keras_gumbel.ops._numerics import widen
from keras_gumbel.ops.estimators import straight_through

# Keep-probabilities enter the logit no closer than this to 0 and 1. It is the
# power of two next to 1e-6, so that 1 - p is exact in float32.
_EDGE = 2.0**-20


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

    so that P(y = k) = softmax(x)_k (Eq. 14). No gradient flows through it.

    Args:
        logits: Float tensor x of shape `(..., K)`, with K on `axis`; -inf
            forbids a class.
        axis: Integer, the axis of the K classes. Defaults to `-1`.
        mask: Boolean tensor that broadcasts to `logits`, true where a class
            may be chosen, or `None`. Defaults to `None`.
        noise: Tensor of the shape of `logits`, Gumbel noise to use instead of
            drawing some, or `None`. Defaults to `None`.
        seed: Integer, `keras.random.SeedGenerator` or `None`, as in
            `keras.random`. Defaults to `None`.

    Returns:
        An int32 tensor of the shape of `logits` without `axis`. Where no
        class may be chosen it is 0.

    Raises:
        ValueError: If `axis` is not an axis of `logits`.

    Example:

    >>> logits = keras.ops.array([[0.0, 100.0], [100.0, 0.0]])
    >>> keras.ops.convert_to_numpy(keras_gumbel.ops.gumbel_max(logits)).tolist()
    [1, 0]
    """
    logits, _ = masked_logits("gumbel_max", logits, axis, mask)
    perturbed = logits + _gumbel_like(logits, noise, seed)
    return ops.argmax(perturbed, axis=axis)


def gumbel_softmax(
    logits: Tensor,
    temperature: Tensor = 1.0,
    hard: bool = False,
    axis: int = -1,
    mask: Tensor | None = None,
    noise: Tensor | None = None,
    seed: Seed = None,
) -> Tensor:
    """Draws a relaxed one-hot vector, differentiable in the logits.

    ```
    y = softmax((x + z) / temperature),  z ~ Gumbel(0, 1)^K       # Eq. (15)
    ```

    With `hard=True` the value is the one-hot vector of
    `argmax_k (x_k + z_k)` and the gradient is the one of `y` (Eq. 16): an
    exact categorical sample at every temperature.

    Args:
        logits: Float tensor x of shape `(..., K)`, with K on `axis`; -inf
            forbids a class.
        temperature: Positive number or tensor that broadcasts to `logits`.
            Defaults to `1.0`.
        hard: Boolean, whether the value is one-hot. Defaults to `False`.
        axis: Integer, the axis of the K classes. Defaults to `-1`.
        mask: Boolean tensor that broadcasts to `logits`, true where a class
            may be chosen, or `None`. Defaults to `None`.
        noise: Tensor of the shape of `logits`, Gumbel noise to use instead of
            drawing some, or `None`. Defaults to `None`.
        seed: Integer, `keras.random.SeedGenerator` or `None`, as in
            `keras.random`. Defaults to `None`.

    Returns:
        A tensor of the shape and dtype of `logits`. Forbidden classes are
        exactly 0, and so is a row in which no class may be chosen.

    Raises:
        ValueError: If `temperature` is a number that is not positive, or
            `axis` is not an axis of `logits`.

    Example:

    >>> y = keras_gumbel.ops.gumbel_softmax(keras.ops.zeros((2, 3)), 0.5)
    >>> tuple(y.shape)
    (2, 3)

    References:
        - [Jang et al., 2016](https://arxiv.org/abs/1611.01144)
        - [Maddison et al., 2016](https://arxiv.org/abs/1611.00712)
    """
    require_positive_if_number("gumbel_softmax", "temperature", temperature)
    logits, dtype = masked_logits("gumbel_softmax", logits, axis, mask)
    perturbed = logits + _gumbel_like(logits, noise, seed)
    soft = tempered_softmax(perturbed, temperature, axis)
    soft = ops.cast(soft, dtype)
    if not hard:
        return soft
    return straight_through(one_hot_argmax(perturbed, axis), soft)  # Eq. (16)


def one_hot_argmax(values: Tensor, axis: int = -1) -> Tensor:
    """Returns the one-hot vector of the largest entry along an axis.

    The first of several equal largest entries wins. A row of -inf alone has
    no largest entry and gives zeros. Written with comparisons: `argmax` on
    floats does not export from TensorFlow to ONNX, LiteRT or OpenVINO.

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
    values = ops.stop_gradient(ops.convert_to_tensor(values))
    axis = require_axis("one_hot_argmax", axis, values.shape)
    classes = values.shape[axis]
    positions = ops.arange(classes, dtype="int32")
    positions = ops.reshape(
        positions, [classes if i == axis else 1 for i in range(values.ndim)]
    )
    top = ops.max(values, axis=axis, keepdims=True)
    largest = ops.logical_and(
        values >= top, ops.not_equal(values, -float("inf"))
    )
    first = ops.min(
        ops.where(largest, positions, classes), axis=axis, keepdims=True
    )
    return ops.cast(positions == first, values.dtype)


def relaxed_bernoulli(
    probs: Tensor,
    temperature: Tensor = 1.0,
    hard: bool = False,
    noise: Tensor | None = None,
    seed: Seed = None,
) -> Tensor:
    """Draws a relaxed Bernoulli variable (binary concrete).

    ```
    m = sigmoid((log(s / (1 - s)) + e) / temperature)
    e ~ Logistic(0, 1)                                            # Eq. (26)
    ```

    With `hard=True` the value is 1 where `log(s / (1 - s)) + e > 0` and 0
    elsewhere, with the gradient of `m`: P(m = 1) = s (Eq. 18).

    At s = 0 and s = 1 the formula has no finite gradient. Here the logit is
    that of s clipped to [2**-20, 1 - 2**-20], and the gradient passes through
    the clip, so value and gradient are finite and a probability at the edge
    can come back.

    Args:
        probs: Float tensor s of probabilities in [0, 1], of any shape.
        temperature: Positive number or tensor that broadcasts to `probs`.
            Defaults to `1.0`.
        hard: Boolean, whether the value is 0 or 1. Defaults to `False`.
        noise: Tensor of the shape of `probs`, logistic noise to use instead
            of drawing some, or `None`. Defaults to `None`.
        seed: Integer, `keras.random.SeedGenerator` or `None`, as in
            `keras.random`. Defaults to `None`.

    Returns:
        A tensor of the shape and dtype of `probs`, in [0, 1].

    Raises:
        ValueError: If `temperature` is a number that is not positive.

    Example:

    >>> m = keras_gumbel.ops.relaxed_bernoulli(keras.ops.full((3,), 0.5))
    >>> tuple(m.shape)
    (3,)

    References:
        - [Maddison et al., 2016](https://arxiv.org/abs/1611.00712)
    """
    require_positive_if_number("relaxed_bernoulli", "temperature", temperature)
    probs, dtype = widen(probs)
    if noise is None:
        noise = random.logistic(ops.shape(probs), probs.dtype, seed)
    perturbed = _safe_logit(probs) + ops.cast(noise, probs.dtype)
    temperature = ops.convert_to_tensor(temperature, probs.dtype)
    soft = ops.cast(_sigmoid(perturbed / temperature), dtype)
    if not hard:
        return soft
    return straight_through(perturbed > 0, soft)  # Eq. (16)


def _safe_logit(probs: Tensor) -> Tensor:
    """`log(s / (1 - s))` of the clipped s, with the gradient of no clip."""
    inside = ops.clip(probs, _EDGE, 1 - _EDGE)
    inside = straight_through(inside, probs)
    return ops.log(inside) - ops.log1p(-inside)


def _sigmoid(x: Tensor) -> Tensor:
    """The logistic function, with a gradient that does not vanish near 1.

    The textbook gradient m (1 - m) is 0 as soon as m rounds to 1.
    """
    small = ops.sigmoid(ops.where(x > 0, -x, x))
    return ops.where(x > 0, 1.0 - small, small)


def _gumbel_like(logits: Tensor, noise: Tensor | None, seed: Seed) -> Tensor:
    if noise is None:
        return random.gumbel(ops.shape(logits), logits.dtype, seed)
    return ops.cast(noise, logits.dtype)
