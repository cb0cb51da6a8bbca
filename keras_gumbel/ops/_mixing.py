"""Logits of a mixture with the uniform distribution."""

import math
from typing import Any

from keras import ops

from keras_gumbel._numerics import at_least
from keras_gumbel._numerics import is_allowed
from keras_gumbel._numerics import log_add
from keras_gumbel._numerics import masked_logits
from keras_gumbel._numerics import tempered_log_softmax
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_number


def mix_uniform(
    logits: Tensor,
    epsilon: float = 0.01,
    axis: int = -1,
    mask: Tensor | None = None,
) -> Tensor:
    """Returns the logits of a mixture with the uniform distribution.

    ```
    log((1 - epsilon) p_k + epsilon / K),  p = softmax(x)
    ```

    Every class then has at least the probability `epsilon / K`. Exploration
    never ends, and divergences stay finite.

    Args:
        logits: Float tensor x of shape `(..., K)`, with K on `axis`; -inf
            forbids a class.
        epsilon: Number in [0, 1], the fraction of the uniform distribution.
            Defaults to `0.01`.
        axis: Integer, the axis of the K classes. Defaults to `-1`.
        mask: Boolean tensor that broadcasts to `logits`, true where a class
            may be chosen, or `None`. Defaults to `None`.

    Returns:
        A tensor of the shape and dtype of `logits`: log-probabilities, which
        can be used as logits. Forbidden classes stay at -inf, and K counts only
        the allowed classes.

    Raises:
        ValueError: If `epsilon` is not a number in [0, 1], or `axis` is not
            an axis of `logits`.

    Example:

    >>> mixed = keras_gumbel.ops.mix_uniform([100.0, 0.0], 0.1)
    >>> [round(float(p), 3) for p in keras.ops.exp(mixed)]
    [0.95, 0.05]

    References:
        - [Hafner et al., 2023](https://arxiv.org/abs/2301.04104)
    """
    owner = "mix_uniform"
    require_share(owner, "epsilon", epsilon)
    logits, dtype, axis = masked_logits(owner, logits, axis, mask)
    allowed = is_allowed(logits)
    log_p = tempered_log_softmax(logits, 1.0, axis)
    if epsilon > 0:
        count = ops.sum(ops.cast(allowed, log_p.dtype), axis, keepdims=True)
        share = math.log(epsilon) - ops.log(at_least(count, 1.0))
        share = ops.broadcast_to(share, ops.shape(log_p))
        rest = math.log1p(-epsilon) if epsilon < 1 else -1e30
        log_p = log_add(log_p + rest, share)
    return ops.cast(ops.where(allowed, log_p, -float("inf")), dtype)


def require_share(owner: str, name: str, value: Any) -> None:
    """Raises unless `value` is a number in [0, 1]."""
    if not is_number(value) or not 0 <= value <= 1:
        raise invalid_argument(owner, name, "a number in [0, 1]", value)
