"""Items drawn one after another without replacement, in their order.

Every draw uses the softmax of the logits of the remaining items. This is the
distribution of Plackett and Luce, and the order of the largest perturbed
logits.
"""

import keras
from keras import ops

from keras_gumbel._numerics import as_tensor
from keras_gumbel._numerics import at_least
from keras_gumbel._numerics import at_most
from keras_gumbel._numerics import gumbel_like
from keras_gumbel._numerics import is_allowed
from keras_gumbel._numerics import largest
from keras_gumbel._numerics import log_add
from keras_gumbel._numerics import masked_logits
from keras_gumbel._numerics import moved_axis
from keras_gumbel._numerics import not_a_tensor
from keras_gumbel._typing import Seed
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import require_axis
from keras_gumbel.ops._subsets import require_subset_size

# Stands for the logarithm of 0 where -inf would make inf - inf.
_LEAST = -1e30

# Next to 1, exp is 0 for numbers further below than this.
_NEGLIGIBLE = 200.0


def sample_without_replacement(
    logits: Tensor,
    k: int,
    axis: int = -1,
    mask: Tensor | None = None,
    noise: Tensor | None = None,
    seed: Seed = None,
) -> tuple[Tensor, Tensor]:
    """Draws k items one after another: indices and log-probabilities.

    ```
    i_1, ..., i_k = the k largest of x_i + z_i, from the largest downwards
    log P(i_j | i_1, ..., i_{j-1}) = x_{i_j} - log(sum of exp(x) of those left)
    ```

    with z ~ Gumbel(0, 1)^n. The sum of the log-probabilities is the
    log-probability of the items in this order. No gradient flows through the
    indices. The gradient of the log-probabilities is the score, which estimates
    the gradient of a loss without differentiating it.

    Args:
        logits: Float tensor x of shape `(..., n)`, with n on `axis`; -inf
            forbids an item.
        k: Integer from 1 to n, the number of items to draw.
        axis: Integer, the axis of the n items. Defaults to `-1`.
        mask: Boolean tensor that broadcasts to `logits`, true where an item
            may be drawn, or `None`. Defaults to `None`.
        noise: Tensor of the shape of `logits`, Gumbel noise, or `None` to draw
            noise. Defaults to `None`.
        seed: Integer, `keras.random.SeedGenerator`, key of JAX or `None`, as
            in `keras_gumbel.random`. Defaults to `None`.

    Returns:
        A tuple of the int32 indices, and the log-probabilities of each draw
        given the draws before it, in the dtype of `logits`. Both have the shape
        of `logits` with k instead of n. If fewer than k items are allowed, the
        last indices are those of forbidden items, with log-probabilities of
        -inf and no gradient.

    Raises:
        ValueError: If `k` is not an integer from 1 to n, or `axis` is not an
            axis of `logits`.

    Example:

    >>> drawn, log_probs = keras_gumbel.ops.sample_without_replacement(
    ...     [100.0, 0.0, 200.0], k=2
    ... )
    >>> keras.ops.convert_to_numpy(drawn).tolist()
    [2, 0]

    References:
        - [Kool et al., 2019](https://arxiv.org/abs/1903.06059)
    """
    owner = "sample_without_replacement"
    logits, dtype, axis = masked_logits(owner, logits, axis, mask)
    axis = require_axis(owner, axis, logits.shape)
    require_subset_size(owner, k, logits.shape[axis])
    perturbed = logits + gumbel_like(owner, logits, noise, seed)
    indices = _top_indices(moved_axis(perturbed, axis, -1), k)
    log_probs = _log_probs(indices, moved_axis(logits, axis, -1))
    return (
        moved_axis(indices, -1, axis),
        moved_axis(ops.cast(log_probs, dtype), -1, axis),
    )


def plackett_luce_log_prob(
    indices: Tensor, logits: Tensor, axis: int = -1, mask: Tensor | None = None
) -> Tensor:
    """Log-probability of k items, drawn in this order without replacement.

    ```
    log P(i_1, ..., i_k) = sum_j (x_{i_j} - log(sum of exp(x) of those left))
    ```

    Args:
        indices: Integer tensor of the shape of `logits` with k instead of n,
            the indices of the items, distinct and in [0, n). This is not
            checked. For k = 0, the result is 0.
        logits: Float tensor x of shape `(..., n)`, with n on `axis`; -inf
            forbids an item.
        axis: Integer, the axis of the n items. Defaults to `-1`.
        mask: Boolean tensor that broadcasts to `logits`, true where an item
            may be drawn, or `None`. Defaults to `None`.

    Returns:
        A tensor of the shape of `logits` without `axis`, of its dtype,
        differentiable in the logits. It is -inf, with no gradient, if one of
        the items is forbidden.

    Raises:
        TypeError: If `indices` are not integers.
        ValueError: If `axis` is not an axis of `logits`, or `indices` have
            another shape.

    Example:

    >>> log_p = keras_gumbel.ops.plackett_luce_log_prob([2, 0], [0.0] * 3)
    >>> round(float(keras.ops.exp(log_p)), 4)
    0.1667
    """
    owner = "plackett_luce_log_prob"
    given, indices = indices, as_tensor(owner, "indices", indices)
    if "int" not in keras.backend.standardize_dtype(indices.dtype):
        raise not_a_tensor(owner, "indices", given)
    logits, dtype, axis = masked_logits(owner, logits, axis, mask)
    axis = require_axis(owner, axis, logits.shape)
    shape, expected = list(indices.shape), list(logits.shape)
    if len(shape) == len(expected):
        shape[axis] = expected[axis]
    if shape != expected:
        raise invalid_argument(
            owner,
            "indices",
            f"of the shape of the logits, {tuple(logits.shape)}, except for "
            f"axis {axis}",
            tuple(indices.shape),
        )
    indices = ops.cast(moved_axis(indices, axis, -1), "int32")
    log_probs = _log_probs(indices, moved_axis(logits, axis, -1))
    return ops.cast(ops.sum(log_probs, axis=-1), dtype)


def _top_indices(values: Tensor, k: int) -> Tensor:
    """Returns the indices of the largest entries, the largest first."""
    values = ops.stop_gradient(values)
    if keras.config.backend() == "jax":
        # Little slower there than `top_k`, which TensorFlow 2.21 cannot read
        # in what JAX exports.
        return ops.cast(ops.argsort(-values, axis=-1)[..., :k], "int32")
    return ops.cast(ops.top_k(values, k)[1], "int32")


def _log_probs(indices: Tensor, logits: Tensor) -> Tensor:
    """Log-probability of each draw, given those before it.

    Sums are built from the items that are never drawn up to the first drawn
    item, so no digits are lost in differences.
    """
    if not indices.shape[-1]:
        return logits[..., :0]
    allowed = is_allowed(logits)
    top = at_least(largest(logits, -1), -3e38)
    finite = ops.where(allowed, at_least(logits - top, 0.5 * _LEAST), _LEAST)
    places = ops.arange(logits.shape[-1], dtype="int32")
    count = indices.shape[-1]
    left = allowed
    for j in range(count):
        left = ops.logical_and(left, places != indices[..., j : j + 1])
    drawn = ops.take_along_axis(finite, indices, axis=-1)
    possible = drawn > _LEAST
    total = _log_sum(ops.where(left, finite, _LEAST))
    steps = []
    for j in reversed(range(count)):
        item = drawn[..., j : j + 1]
        total = log_add(total, item)
        steps.append(at_most(item - total, 0.0))
    log_probs = ops.concatenate(steps[::-1], axis=-1)
    return ops.where(possible, log_probs, -float("inf"))


def _log_sum(values: Tensor) -> Tensor:
    """`log(sum(exp))` along the last axis, without entries of `_LEAST`."""
    top = largest(values, -1)
    share = ops.exp(at_least(values - top, -_NEGLIGIBLE))
    total = ops.sum(
        ops.where(values > _LEAST, share, 0.0), axis=-1, keepdims=True
    )
    return top + ops.log(ops.where(ops.equal(total, 0.0), 1.0, total))
