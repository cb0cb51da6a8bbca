"""Log-densities of relaxed samples, and entropy and KL of categorical ones.

A relaxed sample at a low temperature is so close to a vertex that its dtype
rounds it to the vertex. The density there is 0 or infinite. The densities
therefore take the logarithm or the logit of the sample, which
`gumbel_log_softmax` and `logit_relaxed_bernoulli` draw. They are returned in
float32 or wider, because the density of 200 classes at temperature 0.01 does
not fit float16.
"""

import math

from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._numerics import dtype_of
from keras_gumbel._numerics import is_allowed
from keras_gumbel._numerics import largest
from keras_gumbel._numerics import masked_logits
from keras_gumbel._numerics import positive_temperature
from keras_gumbel._numerics import widen
from keras_gumbel._typing import Shape
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument

_INF = float("inf")

# Stands for "below all others" where -inf would make inf - inf.
_HUGE = 3e38

# The sum of shares with rounded logarithms is between these.
_LEAST, _MOST = 0.8, 1.25


def concrete_log_prob(
    log_sample: Tensor,
    logits: Tensor,
    temperature: Tensor = 1.0,
    axis: int = -1,
    mask: Tensor | None = None,
) -> Tensor:
    """Log-density of a relaxed one-hot vector y, given log y (Concrete).

    ```
    p(y) = (K - 1)! temperature^(K - 1)
           prod_k softmax(x - temperature log y)_k / y_k
    ```

    in the first K - 1 coordinates of y, the density of Eq. (15). Forbidden
    classes are ignored, and K counts the allowed classes. If y_k = 0 for
    allowed classes, the density is the limit in which all such y_k are equal.

    Args:
        log_sample: Float tensor log y, from `gumbel_log_softmax`. Its shape
            and that of `logits` broadcast, counted from the end.
        logits: Float tensor x of shape `(..., K)`, with K on `axis`; -inf
            forbids a class.
        temperature: Positive number or tensor that broadcasts to `logits`, of
            length 1 on `axis`. Defaults to `1.0`.
        axis: Integer, the axis of the K classes in `logits`. Defaults to
            `-1`.
        mask: Boolean tensor that broadcasts to `logits`, true where a class
            may be chosen, or `None`. Defaults to `None`.

    Returns:
        A tensor of the broadcast shape without `axis`, of float32, or float64
        if an argument has it. It is 0 if no class is allowed.

    Raises:
        ValueError: If `temperature` is a number that is not positive or has
            an entry for every class, `axis` is not an axis of `logits`,
            `log_sample` has another number of classes or, where its values
            are known, is not the logarithm of a sample.

    Example:

    >>> log_y = keras.ops.log([0.25, 0.75])
    >>> round(float(keras_gumbel.ops.concrete_log_prob(log_y, [0.0, 0.0])), 4)
    0.0

    References:
        - [Maddison et al., 2016](https://arxiv.org/abs/1611.00712)
    """
    return _concrete_log_prob(
        "concrete_log_prob", log_sample, logits, temperature, axis, mask, 1.0
    )


def exp_concrete_log_prob(
    log_sample: Tensor,
    logits: Tensor,
    temperature: Tensor = 1.0,
    axis: int = -1,
    mask: Tensor | None = None,
) -> Tensor:
    """Log-density of the logarithm of a relaxed one-hot vector (ExpConcrete).

    ```
    p(log y) = (K - 1)! temperature^(K - 1)
               prod_k softmax(x - temperature log y)_k
    ```

    in the measure `d(log y_1) ... d(log y_(K-1)) / y_K` of the paper, which
    treats all classes alike. The ratio of two such densities is the same as
    with `concrete_log_prob`, but is computed from smaller numbers. The
    log-density is -inf if y_k = 0 for an allowed class.

    Args:
        log_sample: Float tensor log y, from `gumbel_log_softmax`. Its shape
            and that of `logits` broadcast, counted from the end.
        logits: Float tensor x of shape `(..., K)`, with K on `axis`; -inf
            forbids a class.
        temperature: Positive number or tensor that broadcasts to `logits`, of
            length 1 on `axis`. Defaults to `1.0`.
        axis: Integer, the axis of the K classes in `logits`. Defaults to
            `-1`.
        mask: Boolean tensor that broadcasts to `logits`, true where a class
            may be chosen, or `None`. Defaults to `None`.

    Returns:
        A tensor of the broadcast shape without `axis`, of float32, or float64
        if an argument has it. It is 0 if no class is allowed.

    Raises:
        ValueError: If `temperature` is a number that is not positive or has
            an entry for every class, `axis` is not an axis of `logits`,
            `log_sample` has another number of classes or, where its values
            are known, is not the logarithm of a sample.

    Example:

    >>> log_y = keras.ops.log([0.5, 0.5])
    >>> log_p = keras_gumbel.ops.exp_concrete_log_prob(log_y, [0.0, 0.0])
    >>> round(float(log_p), 4)
    -1.3863

    References:
        - [Maddison et al., 2016](https://arxiv.org/abs/1611.00712)
    """
    return _concrete_log_prob(
        "exp_concrete_log_prob",
        log_sample,
        logits,
        temperature,
        axis,
        mask,
        0.0,
    )


def binary_concrete_log_prob(
    logit_sample: Tensor, logits: Tensor, temperature: Tensor = 1.0
) -> Tensor:
    """Log-density of a relaxed Bernoulli variable m, given its logit.

    ```
    p(m) = temperature sigmoid(u) sigmoid(-u) / (m (1 - m))
    u = temperature log(m / (1 - m)) - log(s / (1 - s))
    ```

    the density of Eq. (26) on (0, 1). At m = 0 and m = 1 it is the limit.

    Args:
        logit_sample: Float tensor log(m / (1 - m)), from
            `logit_relaxed_bernoulli`. It broadcasts with `logits`.
        logits: Finite float tensor log(s / (1 - s)), of any shape.
        temperature: Positive number or tensor that broadcasts to `logits`.
            Defaults to `1.0`.

    Returns:
        A tensor of the broadcast shape, of float32, or float64 if an argument
        has it.

    Raises:
        ValueError: If `temperature` is a number that is not positive.

    Example:

    >>> float(keras_gumbel.ops.binary_concrete_log_prob(3.0, 0.0))
    0.0

    References:
        - [Maddison et al., 2016](https://arxiv.org/abs/1611.00712)
    """
    return _binary_concrete_log_prob(
        "binary_concrete_log_prob", logit_sample, logits, temperature, 1.0
    )


def logit_binary_concrete_log_prob(
    logit_sample: Tensor, logits: Tensor, temperature: Tensor = 1.0
) -> Tensor:
    """Log-density of the logit of a relaxed Bernoulli variable.

    ```
    p(log(m / (1 - m))) = temperature sigmoid(u) sigmoid(-u)
    u = temperature log(m / (1 - m)) - log(s / (1 - s))
    ```

    This is a logistic distribution of scale 1 / temperature. The ratio of two
    such densities is the same as with `binary_concrete_log_prob`.

    Args:
        logit_sample: Float tensor log(m / (1 - m)), from
            `logit_relaxed_bernoulli`. It broadcasts with `logits`.
        logits: Finite float tensor log(s / (1 - s)), of any shape.
        temperature: Positive number or tensor that broadcasts to `logits`.
            Defaults to `1.0`.

    Returns:
        A tensor of the broadcast shape, of float32, or float64 if an argument
        has it.

    Raises:
        ValueError: If `temperature` is a number that is not positive.

    Example:

    >>> log_p = keras_gumbel.ops.logit_binary_concrete_log_prob(0.0, 0.0)
    >>> round(float(log_p), 4)
    -1.3863

    References:
        - [Maddison et al., 2016](https://arxiv.org/abs/1611.00712)
    """
    return _binary_concrete_log_prob(
        "logit_binary_concrete_log_prob",
        logit_sample,
        logits,
        temperature,
        0.0,
    )


def _concrete_log_prob(
    owner: str,
    log_sample: Tensor,
    logits: Tensor,
    temperature: Tensor,
    axis: int,
    mask: Tensor | None,
    power: float,
) -> Tensor:
    """The log-density of log y, less `power` times the sum of log y."""
    logits, _, axis = masked_logits(owner, logits, axis, mask)
    log_sample, logits, t = _alike(
        owner, "log_sample", log_sample, logits, temperature
    )
    classes = logits.shape[axis]
    _require_classes(owner, "log_sample", log_sample, axis, classes)
    if len(t.shape) >= -axis:
        _require_classes(owner, "temperature", t, axis, 1)
    allowed = is_allowed(logits)
    _require_logarithms(owner, log_sample, allowed, axis)
    zero = ops.logical_and(allowed, ops.equal(log_sample, -_INF))
    log_y = ops.where(
        ops.logical_and(allowed, ops.logical_not(zero)), log_sample, 0.0
    )
    weights = logits - t * log_y
    count, zeros = (
        ops.sum(ops.cast(x, logits.dtype), axis=axis, keepdims=True)
        for x in (allowed, zero)
    )
    # If some y_k are 0, their weights y_k^-t exceed all others.
    leading = ops.where(zeros > 0, zero, allowed)
    top = ops.where(leading, weights, -_HUGE)
    top = largest(top, axis)
    weights = weights - top
    shares = ops.exp(ops.where(leading, weights, -_HUGE))
    total = ops.sum(shares, axis=axis, keepdims=True)
    total = ops.log(ops.where(count > 0, total, 1.0))
    terms = ops.where(allowed, weights - total - power * log_y, 0.0)
    # log((K - 1)!) for K = 0, 1, ...; Keras has no lgamma.
    table = [math.lgamma(max(k, 1)) for k in range(classes + 1)]
    log_factorial = ops.convert_to_tensor(table, logits.dtype)
    value = (
        ops.take(log_factorial, ops.cast(count, "int32"))
        + ops.where(count > 0, count - 1.0, 0.0) * ops.log(t)
        + ops.sum(terms, axis=axis, keepdims=True)
        + _limit(zeros > 0, zeros * (power + t) - count * t)
    )
    return ops.squeeze(value, axis=axis)


def _binary_concrete_log_prob(
    owner: str,
    logit_sample: Tensor,
    logits: Tensor,
    temperature: Tensor,
    power: float,
) -> Tensor:
    """The log-density of the logit, less `power` times log(m (1 - m))."""
    logits, _ = widen(owner, "logits", logits)
    logit, logits, t = _alike(
        owner, "logit_sample", logit_sample, logits, temperature
    )
    sign = ops.cast(ops.where(logit >= 0, 1.0, -1.0), logit.dtype)
    edge = ops.isinf(logit)
    size = ops.where(edge, 0.0, logit) * sign
    # |logit m| occurs only once, so two large numbers are never subtracted.
    bounded = ops.log_sigmoid(t * size - sign * logits)
    bounded = 2.0 * (bounded - power * ops.log_sigmoid(size))
    value = ops.log(t) + sign * logits + (power - t) * size
    return value + ops.where(edge, 0.0, bounded) + _limit(edge, power - t)


def _alike(
    owner: str, name: str, sample: Tensor, logits: Tensor, temperature: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns all three in float32, or in float64 if one tensor has it."""
    sample, _ = widen(owner, name, sample)
    if not _compatible(sample.shape, logits.shape):
        raise invalid_argument(
            owner,
            name,
            f"broadcastable with the logits, of shape {tuple(logits.shape)}",
            tuple(sample.shape),
        )
    dtypes = dtype_of(sample), dtype_of(logits)
    dtype = "float64" if "float64" in dtypes else "float32"
    logits = ops.cast(logits, dtype)
    temperature = positive_temperature(
        owner, temperature, logits, fits=_compatible
    )
    temperature = ops.convert_to_tensor(temperature, dtype)
    return ops.cast(sample, dtype), logits, temperature


def _compatible(one: Shape, other: Shape) -> bool:
    """Whether tensors of two shapes broadcast with each other."""
    return all(
        a == b or a in (1, None) or b in (1, None)
        for a, b in zip(one[::-1], other[::-1], strict=False)
    )


def _require_logarithms(
    owner: str, log_sample: Tensor, allowed: Tensor, axis: int
) -> None:
    """Raises if the sample itself was passed, if its values are known.

    The exponentials of logarithms of shares sum to 1, up to the rounding of
    half precision. The exponentials of K shares themselves sum to more than K.
    """
    if not _keras_private.is_eager(log_sample):
        return
    shares = ops.exp(ops.where(allowed, log_sample, -_INF))
    total = ops.stop_gradient(ops.sum(shares, axis=axis))
    some = ops.any(ops.cast(shares > 0, "bool"), axis=axis)
    wrong = ops.logical_or(total > _MOST, ops.logical_and(some, total < _LEAST))
    try:
        found = bool(ops.any(wrong))  # not for NaN
    except RuntimeError:  # torch traces, or vectorizes
        return
    if found:
        raise invalid_argument(
            owner,
            "log_sample",
            "the logarithm of a relaxed sample, whose exponentials sum to 1",
            log_sample,
            "Pass a sample of `gumbel_log_softmax`, or the logarithm of a "
            "sample of `gumbel_softmax`.",
        )


def _limit(edge: Tensor, slope: Tensor) -> Tensor:
    """`slope * inf` at the edge, 0 for a slope of 0, without a gradient."""
    limit = ops.where(slope > 0, _INF, ops.where(slope < 0, -_INF, 0.0))
    return ops.cast(ops.where(edge, limit, 0.0), slope.dtype)


def _require_classes(
    owner: str, name: str, tensor: Tensor, axis: int, length: int
) -> None:
    if len(tensor.shape) < -axis or tensor.shape[axis] not in (length, None):
        raise invalid_argument(
            owner,
            name,
            f"a tensor of length {length} on axis {axis}",
            tuple(tensor.shape),
        )
