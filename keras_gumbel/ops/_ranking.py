"""Soft ranks and a soft choice of the k largest, without noise."""

from keras import ops

from keras_gumbel._numerics import at_least
from keras_gumbel._numerics import at_most
from keras_gumbel._numerics import is_allowed
from keras_gumbel._numerics import masked_logits
from keras_gumbel._numerics import moved_axis
from keras_gumbel._numerics import positive_temperature
from keras_gumbel._numerics import top_values
from keras_gumbel._numerics import widen
from keras_gumbel._straight_through import straight_through
from keras_gumbel._typing import Shape
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import is_broadcastable
from keras_gumbel._validation import require_axis
from keras_gumbel.ops._projection import project_capped_box
from keras_gumbel.ops._subsets import k_largest
from keras_gumbel.ops._subsets import require_subset_size

# In temperatures. For values that are further apart, exp is 0.
_NEGLIGIBLE = 200.0

# Differences of such values are finite in float32.
_LARGEST = 1e38


def soft_rank(
    values: Tensor, temperature: Tensor = 1.0, axis: int = -1
) -> Tensor:
    """Ranks values along an axis, differentiably.

    ```
    r_i = 1 + sum_{j != i} F((x_i - x_j) / temperature)
    F(t) = exp(t) / 2 if t < 0 else 1 - exp(-t) / 2
    ```

    with F the distribution function of Laplace. The smallest value has the rank
    1, and the largest the rank n. As the temperature falls, the ranks become
    whole numbers. At every temperature, equal values share the mean of their
    ranks, and the ranks sum to n (n + 1) / 2. Values are sorted once and summed
    along their order, in O(n log(n)) time.

    Args:
        values: Float tensor x of shape `(..., n)`, with n on `axis`.
        temperature: Positive number or tensor that broadcasts to `values`,
            with 1 on `axis`. Defaults to `1.0`.
        axis: Integer, the axis of the n values. Defaults to `-1`.

    Returns:
        A tensor of the shape and dtype of `values`, in [1, n]. A row with a
        NaN is NaN.

    Raises:
        ValueError: If `temperature` is a number that is not positive, or
            `axis` is not an axis of `values`.

    Example:

    >>> ranks = keras_gumbel.ops.soft_rank([5.0, 1.0, 2.0], 0.01)
    >>> keras.ops.convert_to_numpy(ranks).tolist()
    [3.0, 1.0, 2.0]

    References:
        - [Struski et al., 2025](https://arxiv.org/abs/2503.06242)
    """
    owner = "soft_rank"
    values, dtype = widen(owner, "values", values)
    axis = require_axis(owner, axis, values.shape)
    temperature = _temperature_of_rows(owner, temperature, values, axis)
    rows = moved_axis(values, axis, -1)
    order = ops.argsort(ops.stop_gradient(rows), axis=-1)
    ordered = ops.take_along_axis(rows, order, axis=-1)
    ranks = _ranks_in_order(ordered, temperature)
    ranks = ops.take_along_axis(ranks, ops.argsort(order, axis=-1), axis=-1)
    return ops.cast(moved_axis(ranks, -1, axis), dtype)


def soft_top_k(
    values: Tensor,
    k: int,
    temperature: Tensor = 1.0,
    hard: bool = False,
    axis: int = -1,
    mask: Tensor | None = None,
) -> Tensor:
    """Marks the k largest values along an axis, differentiably.

    ```
    argmin_p 1/2 ||p - x / temperature||^2
    subject to 0 <= p_i <= 1 and sum_i p_i = k
    ```

    the projection of Eq. (30) with a given sum. Values more than a temperature
    above or below the threshold are exactly 1 or 0. As the temperature falls,
    all values are. Nothing is drawn or sorted. A few sums over the values find
    the threshold.

    Args:
        values: Float tensor x of shape `(..., n)`, with n on `axis`; -inf
            forbids an item.
        k: Integer from 1 to n, the number of items to choose.
        temperature: Positive number or tensor that broadcasts to `values`,
            with 1 on `axis`. Defaults to `1.0`.
        hard: Boolean, whether the value is the k-hot vector of the k largest,
            with the gradient of p (Eq. 16). Defaults to `False`.
        axis: Integer, the axis of the n items. Defaults to `-1`.
        mask: Boolean tensor that broadcasts to `values`, true where an item
            may be chosen, or `None`. Defaults to `None`.

    Returns:
        A tensor of the shape and dtype of `values`, in [0, 1], with sum k to
        within 1e-6 k and the rounding of its dtype. If at most k items are
        allowed, all of them are 1. A row with a NaN is NaN.

    Raises:
        ValueError: If `k` is not an integer from 1 to n, `temperature` is a
            number that is not positive, or `axis` is not an axis of
            `values`.

    Example:

    >>> p = keras_gumbel.ops.soft_top_k([0.0, 3.0, 0.5, 0.75], k=2)
    >>> [round(float(share), 3) for share in p]
    [0.0, 1.0, 0.375, 0.625]

    References:
        - [Blondel et al., 2020](https://arxiv.org/abs/2002.08871)
        - [Martins and Kreutzer, 2017](https://aclanthology.org/D17-1036)
    """
    owner = "soft_top_k"
    values, dtype, axis = masked_logits(owner, values, axis, mask)
    axis = require_axis(owner, axis, values.shape)
    require_subset_size(owner, k, values.shape[axis])
    temperature = _temperature_of_rows(owner, temperature, values, axis)
    rows = moved_axis(values, axis, -1)
    if 0 in rows.shape:
        return ops.cast(values, dtype)
    soft = _projected(rows, k, temperature)
    soft = ops.cast(moved_axis(soft, -1, axis), dtype)
    if not hard:
        return soft
    return straight_through(k_largest(values, k, axis), soft)  # Eq. (16)


def _temperature_of_rows(
    owner: str, temperature: Tensor, values: Tensor, axis: int
) -> Tensor:
    """Returns a temperature for values whose axis comes last."""

    def fits(shape: Shape, to: Shape) -> bool:
        one = [1 if i == axis else length for i, length in enumerate(to)]
        return is_broadcastable(shape, tuple(one))

    found = positive_temperature(owner, temperature, values, fits=fits)
    found = ops.convert_to_tensor(found, values.dtype)
    missing = len(values.shape) - len(found.shape)
    if 0 < missing < len(values.shape):
        found = ops.reshape(found, (1,) * missing + tuple(found.shape))
    return moved_axis(found, axis, -1) if len(found.shape) else found


def _ranks_in_order(ordered: Tensor, temperature: Tensor) -> Tensor:
    """Ranks values that rise along the last axis.

    The sums of exp(-(x_i - x_j) / temperature) over all smaller, or all larger,
    x_j follow a recurrence. Each sum is the sum of the neighbor plus 1, times
    the factor of the gap between the two.
    """
    n = ordered.shape[-1]
    ordered = ops.clip(ordered, -_LARGEST, _LARGEST)  # inf - inf is not 0
    gaps = ordered[..., 1:] - ordered[..., :-1]
    gaps = at_most(gaps, _NEGLIGIBLE * ops.stop_gradient(temperature))
    factors = ops.exp(-gaps / temperature)
    ranks = ops.cast(ops.arange(1, n + 1), ordered.dtype)
    if n == 1:
        return ranks + 0.0 * ordered
    left = _decaying_sums(factors, reverse=False)
    right = _decaying_sums(factors, reverse=True)
    end = ops.zeros_like(factors[..., :1])
    smaller = ops.concatenate([end, left], axis=-1)
    larger = ops.concatenate([right, end], axis=-1)
    return ranks + 0.5 * (larger - smaller)


def _decaying_sums(factors: Tensor, reverse: bool) -> Tensor:
    """Solves s_i = (s_{i-1} + 1) q_i, or from the other end.

    It takes log(n) steps, and each doubles the number of summed neighbors.
    TensorFlow cannot compile `keras.ops.associative_scan` with XLA.
    """
    length = factors.shape[-1]
    rest = [(0, 0)] * (factors.ndim - 1)

    def neighbor(values: Tensor, distance: int) -> Tensor:
        if reverse:
            return ops.pad(values[..., distance:], [*rest, (0, distance)])
        return ops.pad(values[..., :-distance], [*rest, (distance, 0)])

    sums, distance = factors, 1
    while distance < length:
        sums = sums + factors * neighbor(sums, distance)
        factors = factors * neighbor(factors, distance)
        distance *= 2
    return sums


def _projected(rows: Tensor, k: int, temperature: Tensor) -> Tensor:
    """The soft k-hot vectors of values along the last axis.

    The threshold is at most one temperature below the k-th largest value, and
    not above it. Values that are further away can be clipped.
    """
    allowed = is_allowed(rows)
    kth = top_values(ops.stop_gradient(rows), k)[..., -1:]
    enough = is_allowed(kth)
    far = 2.0 * ops.stop_gradient(temperature)
    rows, kth = (
        ops.clip(ops.where(allowed, x, 0.0), -_LARGEST, _LARGEST)
        for x in (rows, kth)
    )
    distance = rows - kth  # also of infinite values
    distance = at_most(at_least(distance, -far), far) / temperature
    distance = ops.where(enough, distance, 2.0)
    distance = ops.where(allowed, distance, -2.0)
    count = ops.sum(ops.cast(allowed, rows.dtype), axis=-1, keepdims=True)
    budget = at_most(count, float(k))
    return project_capped_box(distance, budget, equality=True, axis=-1)
