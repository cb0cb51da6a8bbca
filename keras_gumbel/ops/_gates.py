"""Relaxed Bernoulli variables that can be exactly 0 and 1.

The argument of both is the probability s of an open gate, P(m > 0). sum(s) is
therefore the expected number of open gates (Eq. 19) for every relaxation.
"""

import math
from typing import Any

import keras
from keras import ops

from keras_gumbel import _calls
from keras_gumbel._numerics import given_noise
from keras_gumbel._numerics import logistic_like
from keras_gumbel._numerics import positive_temperature
from keras_gumbel._numerics import widen
from keras_gumbel._probabilities import exact_at_edges
from keras_gumbel._probabilities import safe_probs
from keras_gumbel._seeds import next_seed
from keras_gumbel._typing import Seed
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_number
from keras_gumbel._validation import require_positive


def hard_concrete(
    probs: Tensor,
    temperature: Tensor = 2 / 3,
    low: float = -0.1,
    high: float = 1.1,
    noise: Tensor | None = None,
    seed: Seed = None,
) -> Tensor:
    """Draws a hard concrete variable: a stretched, clipped binary concrete.

    ```
    u = sigmoid((log(s / (1 - s)) + e) / temperature + log(-low / high))
    m = clip(u * (high - low) + low, 0, 1)
    e ~ Logistic(0, 1)
    ```

    so that P(m > 0) = s at every temperature.

    Args:
        probs: Float tensor s of probabilities in [0, 1], of any shape.
        temperature: Positive number or tensor that broadcasts to `probs`.
            Defaults to `2 / 3`.
        low: Negative number that 0 is stretched to. Defaults to `-0.1`.
        high: Number above 1 that 1 is stretched to. Defaults to `1.1`.
        noise: Tensor of the shape of `probs`, logistic noise, or `None` to draw
            noise. Defaults to `None`.
        seed: Integer, `keras.random.SeedGenerator`, key of JAX or `None`, as
            in `keras_gumbel.random`. Defaults to `None`.

    Returns:
        A tensor of the shape and dtype of `probs`, in [0, 1].

    Raises:
        ValueError: If `temperature` is a number that is not positive, `low`
            is not negative or `high` not above 1.

    Example:

    >>> m = keras_gumbel.ops.hard_concrete(keras.ops.full((3,), 0.5))
    >>> tuple(m.shape)
    (3,)

    References:
        - [Louizos et al., 2017](https://arxiv.org/abs/1712.01312)
    """
    owner = "hard_concrete"
    if not is_number(low) or not -math.inf < low < 0:
        raise invalid_argument(owner, "low", "a negative finite number", low)
    if not is_number(high) or not 1 < high < math.inf:
        raise invalid_argument(owner, "high", "a finite number above 1", high)
    probs, dtype = widen(owner, "probs", probs)
    temperature = positive_temperature(owner, temperature, probs)
    noise = logistic_like(owner, probs, noise, seed)
    inside = safe_probs(probs)
    logit = ops.log(inside) - ops.log1p(-inside)
    perturbed = (logit + noise) / temperature
    stretched = ops.sigmoid(perturbed + math.log(-low / high))
    mask = ops.clip(stretched * (high - low) + low, 0.0, 1.0)
    return ops.cast(exact_at_edges(probs, mask), dtype)


def stochastic_gate(
    probs: Tensor,
    sigma: float = 0.5,
    noise: Tensor | None = None,
    seed: Seed = None,
) -> Tensor:
    """Draws a stochastic gate: a clipped normal variable.

    ```
    m = clip(sigma * (F(s) + e), 0, 1),  e ~ Normal(0, 1)
    ```

    with F the quantile function of the standard normal distribution, so that
    P(m > 0) = s for every sigma.

    Args:
        probs: Float tensor s of probabilities in [0, 1], of any shape.
        sigma: Positive number, the standard deviation of the variable before
            it is clipped. Defaults to `0.5`.
        noise: Tensor of the shape of `probs`, normal noise, or `None` to draw
            noise. Defaults to `None`.
        seed: Integer, `keras.random.SeedGenerator`, key of JAX or `None`, as
            in `keras_gumbel.random`. Defaults to `None`.

    Returns:
        A tensor of the shape and dtype of `probs`, in [0, 1].

    Raises:
        ValueError: If `sigma` is not positive.

    Example:

    >>> m = keras_gumbel.ops.stochastic_gate(keras.ops.full((3,), 0.5))
    >>> tuple(m.shape)
    (3,)

    References:
        - [Yamada et al., 2018](https://arxiv.org/abs/1810.04247)
    """
    owner = "stochastic_gate"
    require_positive(owner, "sigma", sigma)
    probs, dtype = widen(owner, "probs", probs)
    if noise is None:
        noise = ops.cast(_normal(ops.shape(probs), seed), probs.dtype)
    else:
        noise = given_noise(owner, noise, probs)
    quantile = math.sqrt(2.0) * ops.erfinv(2.0 * safe_probs(probs) - 1.0)
    mask = ops.clip(sigma * (quantile + noise), 0.0, 1.0)
    return ops.cast(exact_at_edges(probs, mask), dtype)


def _normal(shape: Any, seed: Seed) -> Tensor:
    exported = _calls.exported_noise(shape, normal=True)
    if exported is not None:
        return exported
    seed = next_seed("stochastic_gate", seed)
    return keras.random.normal(shape, dtype="float32", seed=seed)
