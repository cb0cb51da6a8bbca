"""Entropy and Kullback-Leibler divergence of categorical variables."""

from keras import ops

from keras_gumbel._numerics import as_tensor
from keras_gumbel._numerics import is_allowed
from keras_gumbel._numerics import masked_logits
from keras_gumbel._numerics import tempered_log_softmax
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_broadcastable


def categorical_entropy(
    logits: Tensor, axis: int = -1, mask: Tensor | None = None
) -> Tensor:
    """Entropy of a categorical distribution, in nats.

    ```
    H = -sum_k p_k log(p_k),  p = softmax(x)
    ```

    Args:
        logits: Float tensor x of shape `(..., K)`, with K on `axis`; -inf
            forbids a class.
        axis: Integer, the axis of the K classes. Defaults to `-1`.
        mask: Boolean tensor that broadcasts to `logits`, true where a class
            may be chosen, or `None`. Defaults to `None`.

    Returns:
        A tensor of the shape of `logits` without `axis`, of its dtype. It is 0
        if no class is allowed.

    Raises:
        ValueError: If `axis` is not an axis of `logits`.

    Example:

    >>> round(float(keras_gumbel.ops.categorical_entropy([0.0, 0.0])), 4)
    0.6931
    """
    owner = "categorical_entropy"
    logits, dtype, axis = masked_logits(owner, logits, axis, mask)
    log_p = tempered_log_softmax(logits, 1.0, axis)
    p = ops.where(is_allowed(logits), ops.exp(log_p), 0.0)
    return ops.cast(ops.sum(p * -log_p, axis=axis), dtype)


def categorical_kl(
    logits: Tensor,
    prior_logits: Tensor | None = None,
    axis: int = -1,
    mask: Tensor | None = None,
) -> Tensor:
    """Kullback-Leibler divergence of a categorical distribution to a prior.

    ```
    KL = sum_k p_k log(p_k / q_k),  p = softmax(x), q = softmax(prior)
    ```

    It is +inf, with no gradient, if the prior forbids a class that the
    distribution allows. `mask` applies only to the distribution.

    Args:
        logits: Float tensor x of shape `(..., K)`, with K on `axis`; -inf
            forbids a class.
        prior_logits: Float tensor that broadcasts to `logits`, or `None` for
            the uniform distribution over the allowed classes. Defaults to
            `None`.
        axis: Integer, the axis of the K classes. Defaults to `-1`.
        mask: Boolean tensor that broadcasts to `logits`, true where a class
            may be chosen, or `None`. Defaults to `None`.

    Returns:
        A tensor of the shape of `logits` without `axis`, of its dtype. It is 0
        if no class is allowed.

    Raises:
        ValueError: If `axis` is not an axis of `logits`, or `prior_logits`
            does not broadcast to them.

    Example:

    >>> kl = keras_gumbel.ops.categorical_kl([100.0, 0.0])
    >>> round(float(kl), 4)
    0.6931
    """
    logits, dtype, axis = masked_logits("categorical_kl", logits, axis, mask)
    allowed = is_allowed(logits)
    if prior_logits is None:
        # Equal logits for the allowed classes.
        prior = ops.where(allowed, 0.0, logits)
    else:
        prior = as_tensor("categorical_kl", "prior_logits", prior_logits)
        prior = ops.cast(prior, logits.dtype)
        if not is_broadcastable(prior.shape, logits.shape):
            raise invalid_argument(
                "categorical_kl",
                "prior_logits",
                f"broadcastable to the logits, of shape {tuple(logits.shape)}",
                tuple(prior.shape),
            )
        prior = ops.broadcast_to(prior, ops.shape(logits))
    log_p = tempered_log_softmax(logits, 1.0, axis)
    p = ops.where(allowed, ops.exp(log_p), 0.0)
    kl = ops.sum(
        p * (log_p - tempered_log_softmax(prior, 1.0, axis)), axis=axis
    )
    excluded = ops.logical_and(allowed, ops.logical_not(is_allowed(prior)))
    kl = ops.where(ops.any(excluded, axis=axis), float("inf"), kl)
    return ops.cast(kl, dtype)
