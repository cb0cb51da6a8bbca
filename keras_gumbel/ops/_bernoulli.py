"""Samples of Bernoulli variables, relaxed and hard.

Everything is computed in float32 (float64 for float64 inputs) and only the
result is cast back to the dtype of the inputs.
"""

from typing import Any

from keras import ops

from keras_gumbel._numerics import logistic_like
from keras_gumbel._numerics import positive_temperature
from keras_gumbel._numerics import widen
from keras_gumbel._probabilities import exact_at_edges
from keras_gumbel._probabilities import is_one
from keras_gumbel._probabilities import safe_logit
from keras_gumbel._probabilities import sigmoid
from keras_gumbel._seeds import another_seed
from keras_gumbel._straight_through import straight_through
from keras_gumbel._typing import Seed
from keras_gumbel._typing import Tensor
from keras_gumbel.estimators._base import Estimator
from keras_gumbel.estimators._lookup import get_for
from keras_gumbel.estimators._lookup import require_relaxing


def relaxed_bernoulli(
    probs: Tensor,
    temperature: Tensor = 1.0,
    hard: bool = False,
    noise: Tensor | None = None,
    seed: Seed = None,
    estimator: Any = "straight_through_gumbel",
) -> Tensor:
    """Draws a relaxed Bernoulli variable (binary concrete).

    ```
    m = sigmoid((log(s / (1 - s)) + e) / temperature)
    e ~ Logistic(0, 1)                                            # Eq. (26)
    ```

    With `hard=True` the value is 1 where `log(s / (1 - s)) + e > 0` and 0
    elsewhere, with the gradient of `m`: P(m = 1) = s (Eq. 18).

    At s = 0 and s = 1, the value is exactly 0 and 1, but the formula has no
    finite gradient. The logit is therefore computed from s clipped to [2**-20,
    1 - 2**-20]. The gradient passes through the clip, so it is finite, and a
    probability at the edge can come back.

    Args:
        probs: Float tensor s of probabilities in [0, 1], of any shape.
        temperature: Positive number or tensor that broadcasts to `probs`. An
            entry of a tensor below 1e-15, or NaN, counts as 1e-15. Defaults to
            `1.0`.
        hard: Boolean, whether the value is 0 or 1. Defaults to `False`.
        noise: Tensor of the shape of `probs`, logistic noise, or `None` to draw
            noise. Defaults to `None`.
        seed: Integer, `keras.random.SeedGenerator`, key of JAX or `None`, as
            in `keras_gumbel.random`. Defaults to `None`.
        estimator: The gradient estimator of a hard sample: a
            `keras_gumbel.estimators.Estimator` or an identifier, see
            `keras_gumbel.estimators.get`. A relaxed sample accepts only
            `StraightThroughGumbel`, which can use another temperature for the
            gradient. Defaults to `"straight_through_gumbel"`.

    Returns:
        A tensor of the shape and dtype of `probs`, in [0, 1].

    Raises:
        ValueError: If a temperature is a number that is not positive, or
            `estimator` is unknown or does not support relaxed samples with
            `hard=False`.

    Example:

    >>> m = keras_gumbel.ops.relaxed_bernoulli(keras.ops.full((3,), 0.5))
    >>> tuple(m.shape)
    (3,)

    References:
        - [Maddison et al., 2016](https://arxiv.org/abs/1611.00712)
    """
    owner = "relaxed_bernoulli"
    estimator = get_for(owner, estimator)
    if hard:
        return _sample(owner, probs, temperature, estimator, noise, seed)
    require_relaxing(owner, estimator)
    probs, dtype = widen(owner, "probs", probs)
    temperature = positive_temperature(owner, temperature, probs)
    noise = logistic_like(owner, probs, noise, seed)
    soft = sigmoid((safe_logit(probs) + noise) / temperature)
    sample = exact_at_edges(probs, soft)
    if not estimator.needs_temperature:
        backward = estimator.temperature(owner, temperature, probs)
        soft = estimator.binary_surrogate(sample, probs, noise, backward)
        sample = straight_through(sample, soft)
    return ops.cast(sample, dtype)


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

    This is the logit of Eq. (26). Unlike the sample, it is never rounded to 0
    or 1.

    Args:
        logits: Finite float tensor log(s / (1 - s)), of any shape.
        temperature: Positive number or tensor that broadcasts to `logits`.
            Defaults to `1.0`.
        noise: Tensor of the shape of `logits`, logistic noise, or `None` to
            draw noise. Defaults to `None`.
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
    estimator: Any = "straight_through_gumbel",
    noise: Tensor | None = None,
    seed: Seed = None,
) -> Tensor:
    """Draws zeros and ones, with the gradient of an estimator.

    The value is 1 with probability s (Eq. 18), at every temperature. The
    temperature is used for the surrogate, unless the estimator has its own
    temperature. The same as `relaxed_bernoulli` with `hard=True`.

    The clip of `relaxed_bernoulli` keeps all gradients finite at s = 0 and s =
    1.

    Args:
        probs: Float tensor s of probabilities in [0, 1], of any shape.
        temperature: Positive number or tensor that broadcasts to `probs`.
            Defaults to `1.0`.
        estimator: A `keras_gumbel.estimators.Estimator` or an identifier such
            as `"reinmax"`, see `keras_gumbel.estimators.get`. Defaults to
            `"straight_through_gumbel"`.
        noise: Tensor of the shape of `probs`, logistic noise, or `None` to draw
            noise. Defaults to `None`.
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
    estimator = get_for(owner, estimator)
    return _sample(owner, probs, temperature, estimator, noise, seed)


def _sample(
    owner: str,
    probs: Tensor,
    temperature: Tensor,
    estimator: Estimator,
    noise: Tensor | None,
    seed: Seed,
) -> Tensor:
    """Draws zeros and ones with the gradient of the estimator."""
    probs, dtype = widen(owner, "probs", probs)
    temperature = positive_temperature(owner, temperature, probs)
    # An integer seed would give the same noise twice.
    rest = another_seed(owner, seed) if noise is None else seed
    noise = logistic_like(owner, probs, noise, seed)
    noise = estimator.arranged(noise, ops.negative)
    hard = is_one(probs, safe_logit(probs) + noise)
    sample = estimator.binary(owner, hard, probs, noise, temperature, rest)
    return ops.cast(sample, dtype)
