"""Samples of k among n items, their relaxation and their probabilities.

There are two distributions over the subsets S of k items with logits x. The
first draws items one after another without replacement, each by the softmax of
the remaining items (Plackett-Luce). The k largest of x + z have this
distribution. The second is the conditional Bernoulli distribution, with P(S)
proportional to exp(sum of x over S). It is the softmax over all subsets. For k
= 1, both are the categorical distribution.
"""

from typing import Any

from keras import ops

from keras_gumbel._numerics import at_least
from keras_gumbel._numerics import at_most
from keras_gumbel._numerics import gumbel_like
from keras_gumbel._numerics import is_allowed
from keras_gumbel._numerics import largest
from keras_gumbel._numerics import logistic_like
from keras_gumbel._numerics import masked_logits
from keras_gumbel._numerics import moved_axis
from keras_gumbel._numerics import positive_temperature
from keras_gumbel._numerics import tempered_softmax
from keras_gumbel._numerics import top_values
from keras_gumbel._straight_through import straight_through
from keras_gumbel._typing import Seed
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_integer
from keras_gumbel._validation import require_axis
from keras_gumbel.ops._conditional_bernoulli import allowed_count
from keras_gumbel.ops._conditional_bernoulli import bernoulli_sums
from keras_gumbel.ops._conditional_bernoulli import drawn_items
from keras_gumbel.ops._conditional_bernoulli import marginals
from keras_gumbel.ops._discrete import one_hot_argmax

# Next to 1, exp is 0 for numbers further below than this.
_NEGLIGIBLE = 200.0

# In temperatures. A score so far ahead has no useful gradient.
_FAR = 1e4


def gumbel_top_k(
    logits: Tensor,
    k: int,
    axis: int = -1,
    mask: Tensor | None = None,
    noise: Tensor | None = None,
    seed: Seed = None,
) -> Tensor:
    """Draws k items without replacement, as a k-hot vector.

    ```
    S = the k largest of x_i + z_i,  z ~ Gumbel(0, 1)^n
    ```

    For k = 1, this is Eq. (5). No gradient flows through it.

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
        A tensor of the shape and dtype of `logits` with exactly k ones and
        zeros elsewhere. The first of equal items win. If fewer than k items are
        allowed, all of them are drawn. A row with a logit of NaN is NaN.

    Raises:
        ValueError: If `k` is not an integer from 1 to n, or `axis` is not an
            axis of `logits`.

    Example:

    >>> drawn = keras_gumbel.ops.gumbel_top_k([100.0, 0.0, 200.0], k=2)
    >>> keras.ops.convert_to_numpy(drawn).tolist()
    [1.0, 0.0, 1.0]

    References:
        - [Kool et al., 2019](https://arxiv.org/abs/1903.06059)
    """
    owner = "gumbel_top_k"
    logits, dtype, axis = _prepared(owner, logits, k, axis, mask)
    perturbed = logits + gumbel_like(owner, logits, noise, seed)
    return ops.cast(k_largest(perturbed, k, axis), dtype)


def relaxed_top_k(
    logits: Tensor,
    k: int,
    temperature: Tensor = 1.0,
    hard: bool = False,
    axis: int = -1,
    mask: Tensor | None = None,
    noise: Tensor | None = None,
    seed: Seed = None,
) -> Tensor:
    """Draws a relaxed k-hot vector, differentiable in the logits.

    ```
    s_1 = x + z,  z ~ Gumbel(0, 1)^n
    a_j = softmax(s_j / temperature),  s_{j+1} = s_j + log(1 - a_j)
    y   = a_1 + ... + a_k
    ```

    For k = 1, this is Eq. (15). As the temperature falls, y tends to the sample
    of `gumbel_top_k`. Keep the temperature well below 1. At high temperatures,
    the softmax hardly reduces the scores of drawn items, and an entry of y can
    exceed 1. With `hard=True`, the value is the sample of `gumbel_top_k` at
    every temperature, with the gradient of y (Eq. 16).

    Args:
        logits: Float tensor x of shape `(..., n)`, with n on `axis`; -inf
            forbids an item.
        k: Integer from 1 to n, the number of items to draw.
        temperature: Positive number or tensor that broadcasts to `logits`.
            Defaults to `1.0`.
        hard: Boolean, whether the value is k-hot. Defaults to `False`.
        axis: Integer, the axis of the n items. Defaults to `-1`.
        mask: Boolean tensor that broadcasts to `logits`, true where an item
            may be drawn, or `None`. Defaults to `None`.
        noise: Tensor of the shape of `logits`, Gumbel noise, or `None` to draw
            noise. Defaults to `None`.
        seed: Integer, `keras.random.SeedGenerator`, key of JAX or `None`, as
            in `keras_gumbel.random`. Defaults to `None`.

    Returns:
        A tensor of the shape and dtype of `logits`, at least 0, with sum k.
        Forbidden items are exactly 0. If fewer than k items are allowed, the
        sum is their number. A row with a logit of NaN or +inf is NaN.

    Raises:
        ValueError: If `k` is not an integer from 1 to n, `temperature` is a
            number that is not positive, or `axis` is not an axis of `logits`.

    Example:

    >>> y = keras_gumbel.ops.relaxed_top_k(keras.ops.zeros((2, 5)), 3, 0.5)
    >>> [round(float(total), 3) for total in keras.ops.sum(y, axis=-1)]
    [3.0, 3.0]

    References:
        - [Xie and Ermon, 2019](https://arxiv.org/abs/1901.10517)
    """
    owner = "relaxed_top_k"
    logits, dtype, axis = _prepared(owner, logits, k, axis, mask)
    temperature = positive_temperature(owner, temperature, logits)
    temperature = ops.convert_to_tensor(temperature, logits.dtype)
    perturbed = logits + gumbel_like(owner, logits, noise, seed)
    choices = allowed_count(logits, axis)
    scores, soft = perturbed, ops.zeros_like(perturbed)
    for drawn in range(k):
        share = tempered_softmax(scores, temperature, axis)
        soft = soft + ops.where(drawn < choices, share, 0.0)
        scores = scores + _log_rest(scores, share, temperature, axis)
    soft = ops.cast(soft, dtype)
    if not hard:
        return soft
    return straight_through(k_largest(perturbed, k, axis), soft)  # Eq. (16)


def subset_marginals(
    logits: Tensor, k: int, axis: int = -1, mask: Tensor | None = None
) -> Tensor:
    """Computes the probability of every item to be among k.

    ```
    p_i = P(i in S),  P(S) proportional to exp(sum_{i in S} x_i), |S| = k
    ```

    The probabilities are exact and differentiable. The Jacobian of p in x is
    the covariance of the k-hot vector of S. For k = 1, p is `softmax(x)`. Each
    row takes O(n k) memory.

    Args:
        logits: Float tensor x of shape `(..., n)`, with n on `axis`; -inf
            forbids an item.
        k: Integer from 1 to n, the number of items in a subset.
        axis: Integer, the axis of the n items. Defaults to `-1`.
        mask: Boolean tensor that broadcasts to `logits`, true where an item
            may be drawn, or `None`. Defaults to `None`.

    Returns:
        A tensor of the shape and dtype of `logits`, in [0, 1], with sum k.
        Forbidden items are exactly 0. If at most k items are allowed, these are
        exactly 1 and have no gradient. A row with a logit of NaN, or with
        several of +inf, is NaN.

    Raises:
        ValueError: If `k` is not an integer from 1 to n, or `axis` is not an
            axis of `logits`.

    Example:

    >>> p = keras_gumbel.ops.subset_marginals([0.0, 0.0, 0.0, -100.0], k=2)
    >>> [round(float(p_i), 3) for p_i in p]
    [0.667, 0.667, 0.667, 0.0]

    References:
        - [Ahmed et al., 2022](https://arxiv.org/abs/2210.01941)
    """
    logits, dtype, axis = _prepared("subset_marginals", logits, k, axis, mask)
    rows, restore = _as_rows(logits, axis)
    return ops.cast(restore(marginals(rows, bernoulli_sums(rows, k), k)), dtype)


def sample_subset(
    logits: Tensor,
    k: int,
    axis: int = -1,
    mask: Tensor | None = None,
    noise: Tensor | None = None,
    seed: Seed = None,
) -> Tensor:
    """Draws a k-hot vector with the gradient of its probabilities (SIMPLE).

    ```
    S ~ P(S) proportional to exp(sum_{i in S} x_i), |S| = k
    output = h + (p - sg[p]),  p = subset_marginals(x, k)         # Eq. (16)
    ```

    with h the k-hot vector of S: an exact sample, without a temperature.

    Args:
        logits: Float tensor x of shape `(..., n)`, with n on `axis`; -inf
            forbids an item.
        k: Integer from 1 to n, the number of items to draw.
        axis: Integer, the axis of the n items. Defaults to `-1`.
        mask: Boolean tensor that broadcasts to `logits`, true where an item
            may be drawn, or `None`. Defaults to `None`.
        noise: Tensor of the shape of `logits`, logistic noise, or `None` to
            draw noise. Defaults to `None`.
        seed: Integer, `keras.random.SeedGenerator`, key of JAX or `None`, as
            in `keras_gumbel.random`. Defaults to `None`.

    Returns:
        A tensor of the shape and dtype of `logits` with exactly k ones and
        zeros elsewhere. If fewer than k items are allowed, all of them are
        drawn. A row with a logit of NaN, or with several of +inf, is NaN.

    Raises:
        ValueError: If `k` is not an integer from 1 to n, or `axis` is not an
            axis of `logits`.

    Example:

    >>> drawn = keras_gumbel.ops.sample_subset(keras.ops.zeros((2, 5)), k=3)
    >>> keras.ops.convert_to_numpy(drawn).sum(axis=-1).tolist()
    [3.0, 3.0]

    References:
        - [Ahmed et al., 2022](https://arxiv.org/abs/2210.01941)
    """
    owner = "sample_subset"
    logits, dtype, axis = _prepared(owner, logits, k, axis, mask)
    noise = logistic_like(owner, logits, noise, seed)
    noise = ops.broadcast_to(noise, ops.shape(logits))
    rows, restore = _as_rows(logits, axis)
    sums = bernoulli_sums(rows, k)
    drawn = restore(drawn_items(rows, sums, _as_rows(noise, axis)[0], k))
    soft = restore(marginals(rows, sums, k))
    return straight_through(drawn, ops.cast(soft, dtype))  # Eq. (16)


def require_subset_size(owner: str, k: Any, items: int | None) -> None:
    """Raises unless `k` is an integer from 1 to the number of items."""
    if not is_integer(k) or items is None or not 1 <= k <= items:
        raise invalid_argument(
            owner, "k", f"an integer from 1 to {items}, the length of axis", k
        )


def _prepared(
    owner: str, logits: Tensor, k: int, axis: int, mask: Tensor | None
) -> tuple[Tensor, str, int]:
    logits, dtype, axis = masked_logits(owner, logits, axis, mask)
    axis = require_axis(owner, axis, logits.shape)
    require_subset_size(owner, k, logits.shape[axis])
    return logits, dtype, axis


def k_largest(values: Tensor, k: int, axis: int) -> Tensor:
    """The k-hot vector of the k largest entries; the first equals win."""
    values = moved_axis(ops.stop_gradient(values), axis, -1)
    least = top_values(values, k)[..., -1:]
    above = values > least
    level = ops.logical_and(values == least, is_allowed(values))
    left = k - ops.sum(ops.cast(above, "int32"), axis=-1, keepdims=True)
    place = ops.cumsum(ops.cast(level, "int32"), axis=-1)
    chosen = ops.logical_or(above, ops.logical_and(level, place <= left))
    wrong = ops.any(ops.isnan(values), axis=-1, keepdims=True)
    chosen = ops.where(wrong, float("nan"), ops.cast(chosen, values.dtype))
    return moved_axis(chosen, -1, axis)


def _log_rest(
    scores: Tensor, share: Tensor, temperature: Tensor, axis: int
) -> Tensor:
    """`log(1 - share)` of a softmax, accurate even for a share near 1.

    Only the largest share can be close to 1. Let Z be the sum of all exp(s /
    t), and R the sum of the others. The logarithm is log(R) - log(Z), both
    relative to their largest term, less the distance of these terms.
    """
    first = ops.cast(one_hot_argmax(scores, axis), "bool")
    others = ops.where(first, -float("inf"), scores)
    top, second = (
        at_least(largest(values, axis), -3e38) for values in (scores, others)
    )
    fixed = ops.stop_gradient(temperature)
    gap = straight_through(
        at_most((top - second) / fixed, 1e38),
        at_most(top - second, _FAR * fixed) / temperature,
    )

    def log_sum(values: Tensor, largest: Tensor) -> Tensor:
        distance = at_least(values - largest, -_NEGLIGIBLE * fixed)
        return ops.logsumexp(distance / temperature, axis=axis, keepdims=True)

    log_first = log_sum(others, second) - log_sum(scores, top) - gap
    log_other = ops.log1p(-ops.where(first, 0.0, share))
    return ops.where(first, log_first, log_other)


def _as_rows(values: Tensor, axis: int) -> tuple[Tensor, Any]:
    """Returns values of shape `(rows, n)`, and a function to undo this."""
    values = moved_axis(values, axis, -1)

    def restore(rows: Tensor) -> Tensor:
        return moved_axis(ops.reshape(rows, ops.shape(values)), -1, axis)

    return ops.reshape(values, (-1, values.shape[-1])), restore
