"""Samples of Bernoulli variables, relaxed and hard.

Everything is computed in float32 (float64 for float64 inputs) and only the
result is cast back to the dtype of the inputs.
"""

from keras import ops

from keras_gumbel._numerics import logistic_like
from keras_gumbel._numerics import positive_temperature
from keras_gumbel._numerics import widen
from keras_gumbel._probabilities import EDGE
from keras_gumbel._probabilities import exact_at_edges
from keras_gumbel._probabilities import is_one
from keras_gumbel._probabilities import safe_logit
from keras_gumbel._probabilities import sigmoid
from keras_gumbel._straight_through import straight_through
from keras_gumbel._typing import Seed
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import require_choice

BERNOULLI_ESTIMATORS = (
    "binary_concrete",
    "straight_through",
    "identity",
    "reinmax",
)


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
    elsewhere, with the gradient of `m`: P(m = 1) = s (Eq. 18). For other
    gradients of hard samples see `sample_bernoulli`.

    At s = 0 and s = 1 the value is exactly 0 and 1, but the formula has no
    finite gradient. Here the logit is that of s clipped to
    [2**-20, 1 - 2**-20], and the gradient passes through the clip, so it is
    finite and a probability at the edge can come back.

    Args:
        probs: Float tensor s of probabilities in [0, 1], of any shape.
        temperature: Positive number or tensor that broadcasts to `probs`. An
            entry of a tensor below 1e-15, or NaN, counts as 1e-15. Defaults to
            `1.0`.
        hard: Boolean, whether the value is 0 or 1. Defaults to `False`.
        noise: Tensor of the shape of `probs`, logistic noise to use instead
            of drawing some, or `None`. Defaults to `None`.
        seed: Integer, `keras.random.SeedGenerator`, key of JAX or `None`, as
            in `keras_gumbel.random`. Defaults to `None`.

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
    owner = "relaxed_bernoulli"
    probs, dtype = widen(owner, "probs", probs)
    temperature = positive_temperature(owner, temperature, probs)
    noise = logistic_like(owner, probs, noise, seed)
    perturbed = safe_logit(probs) + noise
    soft = sigmoid(perturbed / temperature)
    if hard:
        mask = straight_through(is_one(probs, perturbed), soft)  # Eq. (16)
    else:
        mask = exact_at_edges(probs, soft)
    return ops.cast(mask, dtype)


def logit_relaxed_bernoulli(
    logits: Tensor,
    temperature: Tensor = 1.0,
    noise: Tensor | None = None,
    seed: Seed = None,
) -> Tensor:
    """Draws the logit of a relaxed Bernoulli variable, a scaled logistic.

    ```
    log(m / (1 - m)) = (log(s / (1 - s)) + e) / temperature
    e ~ Logistic(0, 1)
    ```

    the logit of Eq. (26), which rounds neither to 0 nor to 1.

    Args:
        logits: Finite float tensor log(s / (1 - s)), of any shape.
        temperature: Positive number or tensor that broadcasts to `logits`.
            Defaults to `1.0`.
        noise: Tensor of the shape of `logits`, logistic noise to use instead
            of drawing some, or `None`. Defaults to `None`.
        seed: Integer, `keras.random.SeedGenerator`, key of JAX or `None`, as
            in `keras_gumbel.random`. Defaults to `None`.

    Returns:
        A tensor of the shape and dtype of `logits`.

    Raises:
        ValueError: If `temperature` is a number that is not positive.

    Example:

    >>> logit_m = keras_gumbel.ops.logit_relaxed_bernoulli([0.0, 2.0], 0.01)
    >>> tuple(logit_m.shape)
    (2,)

    References:
        - [Maddison et al., 2016](https://arxiv.org/abs/1611.00712)
    """
    owner = "logit_relaxed_bernoulli"
    logits, dtype = widen(owner, "logits", logits)
    temperature = positive_temperature(owner, temperature, logits)
    perturbed = logits + logistic_like(owner, logits, noise, seed)
    return ops.cast(perturbed / temperature, dtype)


def sample_bernoulli(
    probs: Tensor,
    temperature: Tensor = 1.0,
    estimator: str = "binary_concrete",
    noise: Tensor | None = None,
    seed: Seed = None,
) -> Tensor:
    """Draws zeros and ones, with the gradient of an estimator.

    The value is 1 with probability s (Eq. 18). With the slope v of the loss
    at the sample, the gradient in s is, by `estimator`:

    - `"binary_concrete"`: v times the slope of the relaxed sample of
      Eq. (26) with the same noise.
    - `"straight_through"`: v times the slope of
      `sigmoid(log(s / (1 - s)) / temperature)`, without noise.
    - `"identity"`: v, without bias where the loss is linear in the sample.
      The same as `"straight_through"` at temperature 1.
    - `"reinmax"`: `v / (2 s)` where the sample is 1 and `v / (2 (1 - s))`
      where it is 0, without bias where the loss is quadratic. Its variance
      grows as 1 / s and 1 / (1 - s).

    Only the first two depend on the temperature. All are finite at s = 0 and
    s = 1, by the clip of `relaxed_bernoulli`.

    Args:
        probs: Float tensor s of probabilities in [0, 1], of any shape.
        temperature: Positive number or tensor that broadcasts to `probs`.
            Defaults to `1.0`.
        estimator: String, one of the above. Defaults to `"binary_concrete"`.
        noise: Tensor of the shape of `probs`, logistic noise to use instead
            of drawing some, or `None`. Defaults to `None`.
        seed: Integer, `keras.random.SeedGenerator`, key of JAX or `None`, as
            in `keras_gumbel.random`. Defaults to `None`.

    Returns:
        A tensor of zeros and ones, of the shape and dtype of `probs`.

    Raises:
        ValueError: If `temperature` is a number that is not positive or
            `estimator` is unknown.

    Example:

    >>> m = keras_gumbel.ops.sample_bernoulli([0.0, 1.0], estimator="identity")
    >>> keras.ops.convert_to_numpy(m).tolist()
    [0.0, 1.0]

    References:
        - [Bengio et al., 2013](https://arxiv.org/abs/1308.3432)
        - [Liu et al., 2023](https://arxiv.org/abs/2304.08612)
    """
    owner = "sample_bernoulli"
    require_choice(owner, "estimator", estimator, BERNOULLI_ESTIMATORS)
    probs, dtype = widen(owner, "probs", probs)
    temperature = positive_temperature(owner, temperature, probs)
    logit = safe_logit(probs)
    perturbed = logit + logistic_like(owner, probs, noise, seed)
    hard = is_one(probs, perturbed)
    if estimator == "binary_concrete":
        soft = sigmoid(perturbed / temperature)
    elif estimator == "straight_through":
        soft = sigmoid(logit / temperature)
    elif estimator == "identity":
        soft = probs
    else:
        inside = ops.stop_gradient(ops.clip(probs, EDGE, 1 - EDGE))
        soft = 0.5 * probs / ops.where(hard, inside, 1.0 - inside)
    return ops.cast(straight_through(hard, soft), dtype)
