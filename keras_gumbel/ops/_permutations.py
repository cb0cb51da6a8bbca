"""Permutations: the best one, its relaxation, and samples with a gradient.

A permutation of n items is a matrix with a single 1 in every row i and every
column j, which moves item i to place j. In a doubly stochastic matrix, every
row and column sums to 1. These matrices are the mixtures of permutations, just
as the points of the simplex are the mixtures of one-hot vectors.
"""

import dataclasses
from typing import Any

from keras import ops

from keras_gumbel._numerics import as_tensor
from keras_gumbel._numerics import at_least
from keras_gumbel._numerics import dtype_of
from keras_gumbel._numerics import gumbel_like
from keras_gumbel._numerics import is_allowed
from keras_gumbel._numerics import largest
from keras_gumbel._numerics import positive_temperature
from keras_gumbel._numerics import tempered_softmax
from keras_gumbel._numerics import widen
from keras_gumbel._straight_through import straight_through
from keras_gumbel._typing import Seed
from keras_gumbel._typing import Shape
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_broadcastable
from keras_gumbel._validation import require_positive_integer
from keras_gumbel.ops._assignment import assigned_rows
from keras_gumbel.ops._doubly_stochastic import balanced
from keras_gumbel.ops._doubly_stochastic import rounded

# Sums of a few thousand logits of this size are finite in float32.
_LARGEST = 1e30

# Next to 1, exp is 0 for numbers further below than this.
_NEGLIGIBLE = {"float32": 200.0, "float64": 1000.0}


def matching(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Returns the permutation with the largest sum of logits.

    ```
    argmax_P sum_ij P_ij x_ij  subject to P being a permutation matrix
    ```

    The result is exact and computed by the Hungarian method, which is compiled
    like other operations. It takes about n**2 sequential steps. No gradient
    flows through it.

    Args:
        logits: Float tensor x of shape `(..., n, n)`: x_ij is the value of
            moving item i to place j. An entry of -inf is used only if every
            permutation needs one.
        mask: Boolean tensor that broadcasts to shape `(..., n)`, true for
            existing items, or `None` for all. Other items stay in place.
            Defaults to `None`.

    Returns:
        A tensor of zeros and ones, of the shape and dtype of `logits`. A
        matrix with a logit of NaN or +inf is NaN.

    Raises:
        ValueError: If `logits` are not square matrices, or `mask` does not
            broadcast to their rows.

    Example:

    >>> permutation = keras_gumbel.ops.matching([[2.0, 3.0], [0.0, 2.0]])
    >>> keras.ops.convert_to_numpy(permutation).tolist()
    [[1.0, 0.0], [0.0, 1.0]]

    References:
        - [Jonker and Volgenant, 1987](https://doi.org/10.1007/BF02278710)
    """
    logits, dtype, _ = _prepared("matching", logits, mask)
    return ops.cast(_matching(logits), dtype)


def sinkhorn(
    logits: Tensor,
    temperature: Tensor = 1.0,
    num_iterations: int = 20,
    mask: Tensor | None = None,
) -> Tensor:
    """Returns a doubly stochastic matrix, differentiable in the logits.

    ```
    argmax_P sum_ij P_ij x_ij - temperature sum_ij P_ij log(P_ij)
    subject to P >= 0 and all rows and columns of P summing to 1
    ```

    Alternating softmaxes over rows and columns converge to this solution. As
    the temperature falls, it tends to `matching(logits)`, and needs more
    iterations. After any number of iterations, the rows and columns sum to 1,
    because the rest is spread. The gradient is that of the iterations.

    Args:
        logits: Float tensor x of shape `(..., n, n)`: x_ij is the value of
            moving item i to place j. An entry of -inf gets almost 0 if there
            are permutations without one.
        temperature: Positive number or tensor that broadcasts to shape
            `(..., 1, 1)`. Defaults to `1.0`.
        num_iterations: Positive integer, the number of softmaxes over the
            rows and over the columns. Defaults to `20`.
        mask: Boolean tensor that broadcasts to shape `(..., n)`, true for
            existing items, or `None` for all. Other items stay exactly in
            place. Defaults to `None`.

    Returns:
        A tensor of the shape and dtype of `logits`, at least 0. Its rows and
        columns sum to 1 within 1e-6, in half precision too. A matrix with a
        logit of NaN or +inf is NaN.

    Raises:
        ValueError: If `logits` are not square matrices, `temperature` is a
            number that is not positive, `num_iterations` is not a positive
            integer, or `mask` does not broadcast to the rows.

    Example:

    >>> p = keras_gumbel.ops.sinkhorn([[1.0, 0.0], [0.0, 1.0]])
    >>> [round(float(share), 3) for share in keras.ops.reshape(p, -1)]
    [0.731, 0.269, 0.269, 0.731]

    References:
        - [Mena et al., 2018](https://arxiv.org/abs/1802.08665)
        - [Altschuler et al., 2017](https://arxiv.org/abs/1705.09634), for
          what is left over
    """
    owner = "sinkhorn"
    require_positive_integer(owner, "num_iterations", num_iterations)
    logits, dtype, items = _prepared(owner, logits, mask)
    temperature = _temperature(owner, temperature, logits)
    soft = _iterated(logits, temperature, num_iterations)
    return _doubly_stochastic(soft, dtype, items)


def gumbel_sinkhorn(
    logits: Tensor,
    temperature: Tensor = 1.0,
    hard: bool = False,
    num_iterations: int = 20,
    mask: Tensor | None = None,
    noise: Tensor | None = None,
    seed: Seed = None,
) -> Tensor:
    """Draws a relaxed permutation, differentiable in the logits.

    ```
    y = sinkhorn((x + z) / temperature),  z ~ Gumbel(0, 1)^(n x n)
    ```

    With `hard=True`, the value is the permutation `matching(x + z)`, with the
    gradient of `y` as in Eq. (16).

    Args:
        logits: Float tensor x of shape `(..., n, n)`: x_ij is the value of
            moving item i to place j. An entry of -inf is avoided.
        temperature: Positive number or tensor that broadcasts to shape
            `(..., 1, 1)`. Defaults to `1.0`.
        hard: Boolean, whether the value is a permutation. Defaults to
            `False`.
        num_iterations: Positive integer, as in `sinkhorn`. Defaults to `20`.
        mask: Boolean tensor that broadcasts to shape `(..., n)`, true for
            existing items, or `None` for all. Other items stay exactly in
            place. Defaults to `None`.
        noise: Tensor that broadcasts to `logits`, Gumbel noise, or `None` to
            draw noise. Defaults to `None`.
        seed: Integer, `keras.random.SeedGenerator`, key of JAX or `None`, as
            in `keras_gumbel.random`. Defaults to `None`.

    Returns:
        A tensor of the shape and dtype of `logits`, at least 0, whose rows and
        columns sum to 1 within 1e-6. With `hard=True`, its entries are zeros
        and ones. A matrix with a logit of NaN or +inf is NaN.

    Raises:
        ValueError: If `logits` are not square matrices, `temperature` is a
            number that is not positive, `num_iterations` is not a positive
            integer, or `mask` does not broadcast to the rows.

    Example:

    >>> y = keras_gumbel.ops.gumbel_sinkhorn(keras.ops.zeros((3, 3)), hard=True)
    >>> keras.ops.convert_to_numpy(y).sum(axis=0).tolist()
    [1.0, 1.0, 1.0]

    References:
        - [Mena et al., 2018](https://arxiv.org/abs/1802.08665)
    """
    sample = sample_permutation(
        logits, temperature, num_iterations, mask, noise, seed
    )
    return sample.hard() if hard else sample.soft()


@dataclasses.dataclass(frozen=True)
class PermutationSample:
    """A sample of `gumbel_sinkhorn`, as a permutation and relaxed.

    Attributes:
        perturbed: Tensor x + z.
        relaxed: Tensor, the result of the iterations.
        dtype: String, the dtype of the outputs.
        items: Mask of the items, or `None`.
    """

    perturbed: Tensor
    relaxed: Tensor
    dtype: str
    items: Tensor | None

    def hard(self) -> Tensor:
        """Returns the permutation, with the gradient of the relaxed sample."""
        permutation = ops.cast(_matching(self.perturbed), self.dtype)
        relaxed = ops.cast(self.relaxed, self.dtype)
        return straight_through(permutation, relaxed)  # Eq. (16)

    def soft(self) -> Tensor:
        """Returns the relaxed sample."""
        return _doubly_stochastic(self.relaxed, self.dtype, self.items)


def sample_permutation(
    logits: Tensor,
    temperature: Tensor,
    num_iterations: int,
    mask: Tensor | None,
    noise: Tensor | None,
    seed: Seed = None,
) -> PermutationSample:
    """Draws the sample of `gumbel_sinkhorn`, from its arguments."""
    owner = "gumbel_sinkhorn"
    require_positive_integer(owner, "num_iterations", num_iterations)
    logits, dtype, items = _prepared(owner, logits, mask)
    temperature = _temperature(owner, temperature, logits)
    perturbed = logits + gumbel_like(owner, logits, noise, seed)
    relaxed = _iterated(perturbed, temperature, num_iterations)
    return PermutationSample(perturbed, relaxed, dtype, items)


def require_square(owner: str, name: str, shape: Shape) -> None:
    """Raises unless a shape is that of square matrices of known size."""
    if len(shape) < 2 or shape[-1] != shape[-2] or not shape[-1]:
        raise invalid_argument(
            owner, name, "square matrices, of shape (..., n, n)", tuple(shape)
        )


def _prepared(
    owner: str, logits: Tensor, mask: Tensor | None
) -> tuple[Tensor, str, Tensor | None]:
    """Checks, widens and masks logits.

    Returns:
        A tuple of the logits, the dtype they had, and the mask of the items.
    """
    logits, dtype = widen(owner, "logits", logits)
    require_square(owner, "logits", logits.shape)
    if mask is None:
        return logits, dtype, None
    mask = as_tensor(owner, "mask", mask, "bool")
    if not is_broadcastable(mask.shape, logits.shape[:-1]):
        raise invalid_argument(
            owner,
            "mask",
            f"broadcastable to the items, of shape {tuple(logits.shape[:-1])}",
            tuple(mask.shape),
        )
    both = ops.logical_and(mask[..., :, None], mask[..., None, :])
    own = ops.eye(logits.shape[-1], dtype="bool")
    stays = ops.where(own, 0.0, -float("inf"))
    logits = ops.where(both, logits, ops.cast(stays, logits.dtype))
    return logits, dtype, mask


def _temperature(owner: str, temperature: Tensor, logits: Tensor) -> Tensor:
    def fits(shape: Shape, to: Shape) -> bool:
        return is_broadcastable(shape, (*to[:-2], 1, 1))

    found = positive_temperature(owner, temperature, logits, fits=fits)
    return ops.convert_to_tensor(found, logits.dtype)


def _iterated(logits: Tensor, temperature: Tensor, iterations: int) -> Tensor:
    """Sinkhorn's iterations, with columns that sum to 1 in the end.

    They are softmaxes of x + f + g, and only f and g change.
    """
    g = 0.0
    for _ in range(iterations - 1):
        f = -_tempered_log_sum(logits + g, temperature, -1)
        g = -_tempered_log_sum(logits + f, temperature, -2)
    f = -_tempered_log_sum(logits + g, temperature, -1)
    return tempered_softmax(logits + f, temperature, -2)


def _tempered_log_sum(values: Tensor, temperature: Tensor, axis: int) -> Tensor:
    """`temperature * log(sum(exp(values / temperature)))`, finite.

    If all are -inf, it is the lowest finite number.
    """
    top = at_least(largest(values, axis), -3e38)
    floor = -_NEGLIGIBLE[dtype_of(values)] * ops.stop_gradient(temperature)
    distance = at_least(values - top, floor)
    total = ops.sum(ops.exp(distance / temperature), axis=axis, keepdims=True)
    total = ops.where(ops.equal(total, 0.0), 1.0, total)
    return top + temperature * ops.log(total)


def _doubly_stochastic(
    soft: Tensor, dtype: str, items: Tensor | None
) -> Tensor:
    """The nearby matrix of a dtype whose rows and columns sum to 1."""
    value = balanced(ops.stop_gradient(soft), items)
    if dtype in ("float16", "bfloat16") and 0 not in value.shape:
        n = value.shape[-1]
        flat = rounded(ops.reshape(value, (-1, n, n)), dtype)
        value = ops.reshape(flat, ops.shape(value))
    return straight_through(ops.cast(value, dtype), ops.cast(soft, dtype))


def _matching(logits: Tensor) -> Tensor:
    logits = ops.stop_gradient(logits)
    if 0 in logits.shape:
        return logits
    n = logits.shape[-1]
    matrix: dict[str, Any] = {"axis": (-2, -1), "keepdims": True}
    allowed = is_allowed(logits)
    # NaN cannot be ordered.
    wrong = ops.logical_or(ops.isnan(logits), logits == float("inf"))
    values = ops.clip(logits, -_LARGEST, _LARGEST)
    values = ops.where(wrong, 0.0, values)
    highest = ops.amax(ops.where(allowed, values, -_LARGEST), **matrix)
    lowest = ops.amin(ops.where(allowed, values, _LARGEST), **matrix)
    # More than any exchange of allowed entries can gain, including rounding.
    size = at_least(ops.absolute(highest), ops.absolute(lowest))
    least = n * at_least(highest - lowest, 0.0) + 1.0 + 1e-3 * size
    values = ops.where(allowed, values - highest, -least)
    rows = assigned_rows(ops.reshape(-values, (-1, n, n)))
    places = ops.arange(n, dtype="int32")
    chosen = ops.reshape(rows[:, None, :] == places[:, None], ops.shape(logits))
    chosen = ops.cast(chosen, logits.dtype)
    return ops.where(ops.any(wrong, **matrix), float("nan"), chosen)
