"""Gradient estimators for discrete values, written with `stop_gradient`.

Each function returns a discrete value as it is and gives it a gradient. With
logits x, probabilities p = softmax(x), a one-hot sample h and the slope v of
the loss at h, an estimator is a vector in place of the gradient of
E_h[loss(h)] in x. Many are made of the softmax Jacobian at a point q of the
simplex:

```
J(q) v = q * v - q <q, v>
```
"""

from typing import Any

from keras import ops

from keras_gumbel import random
from keras_gumbel._numerics import as_tensor
from keras_gumbel._numerics import is_allowed
from keras_gumbel._numerics import largest
from keras_gumbel._numerics import masked_logits
from keras_gumbel._numerics import positive_temperature
from keras_gumbel._numerics import slope_carrier
from keras_gumbel._numerics import tempered_softmax
from keras_gumbel._straight_through import straight_through
from keras_gumbel._typing import Seed
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_broadcastable
from keras_gumbel._validation import require_axis
from keras_gumbel._validation import require_positive
from keras_gumbel._validation import require_positive_integer


def reinmax(
    hard: Tensor,
    logits: Tensor,
    temperature: Tensor = 1.0,
    axis: int = -1,
) -> Tensor:
    """Returns a one-hot sample with the ReinMax gradient.

    ```
    gradient = 2 J(q) v - J(p) v / 2,  q = (h + softmax(x / temperature)) / 2
    ```

    Second-order accurate: without bias where the loss is quadratic in the
    sample, at temperature 1. It takes the sample itself, not its noise, and
    gives the temperature no gradient.

    Args:
        hard: One-hot tensor h of shape `(..., K)`, drawn from softmax(x).
        logits: Float tensor x of the same shape, -inf where a class is
            forbidden.
        temperature: Positive number or tensor that broadcasts to `logits`.
            Defaults to `1.0`.
        axis: Integer, the axis of the K classes. Defaults to `-1`.

    Returns:
        A tensor equal to `hard`, of the dtype of `logits`.

    Raises:
        ValueError: If `temperature` is a number that is not positive, or
            `axis` is not an axis of `logits`.

    Example:

    >>> y = keras_gumbel.ops.reinmax([0.0, 1.0], [0.5, 2.0])
    >>> keras.ops.convert_to_numpy(y).tolist()
    [0.0, 1.0]

    References:
        - [Liu et al., 2023](https://arxiv.org/abs/2304.08612)
    """
    owner = "reinmax"
    logits, dtype = masked_logits(owner, logits, axis, None)
    temperature = positive_temperature(owner, temperature, logits)
    hard = _given_sample(owner, hard, logits)
    q = 0.5 * (hard + tempered_softmax(logits, temperature, axis))
    p = tempered_softmax(logits, 1.0, axis)
    carrier = slope_carrier(logits)
    slope = 2.0 * _jacobian(q, carrier, axis) - 0.5 * _jacobian(
        p, carrier, axis
    )
    return ops.cast(ops.stop_gradient(hard) + slope, dtype)


def gumbel_rao(
    hard: Tensor,
    logits: Tensor,
    temperature: Tensor = 1.0,
    num_samples: int = 10,
    axis: int = -1,
    noise: Tensor | None = None,
    seed: Seed = None,
) -> Tensor:
    """Returns a one-hot sample with the Gumbel-Rao gradient.

    ```
    gradient = mean_r J(y_r) v / temperature                      # of Eq. (16)
    y_r = softmax((x + z_r) / temperature),  z_r ~ Gumbel | argmax = h
    ```

    The gradient of Eq. (16), averaged over noise that would have led to the
    same sample: the same mean, less variance.

    Args:
        hard: One-hot tensor h of shape `(..., K)`, drawn from softmax(x).
        logits: Float tensor x of the same shape, -inf where a class is
            forbidden.
        temperature: Positive number or tensor that broadcasts to `logits`.
            Defaults to `1.0`.
        num_samples: Positive integer, the number of draws of noise. Defaults
            to `10`.
        axis: Integer, the axis of the K classes. Defaults to `-1`.
        noise: Tensor of shape `(num_samples, *logits.shape)`, Gumbel noise to
            use instead of drawing some, or `None`. Defaults to `None`.
        seed: Integer, `keras.random.SeedGenerator`, key of JAX or `None`, as
            in `keras_gumbel.random`. Defaults to `None`.

    Returns:
        A tensor equal to `hard`, of the dtype of `logits`.

    Raises:
        ValueError: If `temperature` is a number that is not positive,
            `num_samples` is not a positive integer, or `axis` is not an axis
            of `logits`.

    Example:

    >>> y = keras_gumbel.ops.gumbel_rao([0.0, 1.0], [0.5, 2.0], 0.5)
    >>> keras.ops.convert_to_numpy(y).tolist()
    [0.0, 1.0]

    References:
        - [Paulus et al., 2020](https://arxiv.org/abs/2010.04838)
    """
    owner = "gumbel_rao"
    require_positive_integer(owner, "num_samples", num_samples)
    logits, dtype = masked_logits(owner, logits, axis, None)
    temperature = positive_temperature(owner, temperature, logits)
    hard = _given_sample(owner, hard, logits)
    axis = require_axis(owner, axis, logits.shape)
    if noise is None:
        shape = (num_samples, *ops.shape(logits))
        noise = random.gumbel(shape, logits.dtype, seed)
    else:
        noise = _given_draws(owner, noise, num_samples, logits)
    perturbed = ops.stop_gradient(
        _perturbed_given_argmax(hard, logits, noise, axis)
    )
    soft = tempered_softmax(
        perturbed + slope_carrier(logits), temperature, axis + 1
    )
    soft = ops.mean(soft, axis=0)
    return ops.cast(straight_through(hard, soft), dtype)


def gapped_straight_through(
    hard: Tensor,
    logits: Tensor,
    temperature: Tensor = 1.0,
    gap: float = 1.0,
    axis: int = -1,
) -> Tensor:
    """Returns a one-hot sample with the gapped straight-through gradient.

    ```
    gradient = J(y) v / temperature,  y = softmax((x + m) / temperature)
    ```

    The shift m, which has no gradient, raises the sampled logit to the
    largest and pushes the others at least `gap` below it: what noise would
    have done, without its variance.

    Args:
        hard: One-hot tensor h of shape `(..., K)`, drawn from softmax(x).
        logits: Float tensor x of the same shape, -inf where a class is
            forbidden.
        temperature: Positive number or tensor that broadcasts to `logits`.
            Defaults to `1.0`.
        gap: Positive number, in units of the logits. Defaults to `1.0`.
        axis: Integer, the axis of the K classes. Defaults to `-1`.

    Returns:
        A tensor equal to `hard`, of the dtype of `logits`.

    Raises:
        ValueError: If `temperature` or `gap` is a number that is not
            positive, or `axis` is not an axis of `logits`.

    Example:

    >>> y = keras_gumbel.ops.gapped_straight_through([0.0, 1.0], [0.5, 2.0])
    >>> keras.ops.convert_to_numpy(y).tolist()
    [0.0, 1.0]

    References:
        - [Fan et al., 2022](https://arxiv.org/abs/2206.07235)
    """
    owner = "gapped_straight_through"
    require_positive(owner, "gap", gap)
    logits, dtype = masked_logits(owner, logits, axis, None)
    temperature = positive_temperature(owner, temperature, logits)
    hard = _given_sample(owner, hard, logits)
    top = largest(logits, axis)
    shifted = ops.where(
        ops.cast(hard, "bool"), top, ops.minimum(logits, top - gap)
    )
    soft = tempered_softmax(
        ops.stop_gradient(shifted) + slope_carrier(logits), temperature, axis
    )
    return ops.cast(straight_through(hard, soft), dtype)


def _given_sample(owner: str, hard: Any, logits: Tensor) -> Tensor:
    """Returns the sample given, in the dtype of the logits."""
    hard = as_tensor(owner, "hard", hard)
    if not is_broadcastable(hard.shape, logits.shape):
        raise invalid_argument(
            owner,
            "hard",
            f"a one-hot tensor of the shape of logits, {tuple(logits.shape)}",
            tuple(hard.shape),
        )
    return ops.cast(hard, logits.dtype)


def _given_draws(
    owner: str, noise: Any, num_samples: int, logits: Tensor
) -> Tensor:
    """Returns the draws of noise given, in the dtype of the logits."""
    noise = as_tensor(owner, "noise", noise)
    shape = (num_samples, *logits.shape)
    if len(noise.shape) != len(shape) or not is_broadcastable(
        noise.shape, shape
    ):
        raise invalid_argument(
            owner, "noise", f"a tensor of shape {shape}", tuple(noise.shape)
        )
    return ops.cast(noise, logits.dtype)


def _jacobian(q: Tensor, carrier: Tensor, axis: int) -> Tensor:
    """Zeros whose vector-Jacobian product is J(q) v."""
    q = ops.stop_gradient(q)
    return q * (carrier - ops.sum(q * carrier, axis=axis, keepdims=True))


def _perturbed_given_argmax(
    hard: Tensor, logits: Tensor, noise: Tensor, axis: int
) -> Tensor:
    """Turns free noise into x + z given that the argmax is at `hard`.

    The largest entry is Gumbel(log Z); the others are Gumbel(x_k), truncated
    at the largest (Maddison et al., 2014).
    """
    hard = ops.cast(hard, "bool")
    total = ops.logsumexp(logits, axis=axis, keepdims=True)
    own = ops.where(hard, noise, 0.0)
    top = total + ops.sum(own, axis=axis + 1, keepdims=True)
    others = -ops.logaddexp(-top, -(logits + noise))
    return ops.where(hard, top, ops.where(is_allowed(logits), others, logits))
