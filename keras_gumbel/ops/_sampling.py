"""Samples of categorical variables with a gradient, relaxed and hard.

Everything is computed in float32 (float64 for float64 inputs) and only the
result is cast back to the dtype of the inputs.
"""

from typing import Any

from keras import ops

from keras_gumbel._numerics import gumbel_like
from keras_gumbel._numerics import is_allowed
from keras_gumbel._numerics import masked_logits
from keras_gumbel._numerics import positive_temperature
from keras_gumbel._numerics import tempered_log_softmax
from keras_gumbel._numerics import tempered_softmax
from keras_gumbel._seeds import another_seed
from keras_gumbel._straight_through import straight_through
from keras_gumbel._typing import Seed
from keras_gumbel._typing import Tensor
from keras_gumbel.estimators._base import Estimator
from keras_gumbel.estimators._lookup import get_for
from keras_gumbel.estimators._lookup import require_relaxing
from keras_gumbel.ops._discrete import one_hot_argmax


def gumbel_softmax(
    logits: Tensor,
    temperature: Tensor = 1.0,
    hard: bool = False,
    axis: int = -1,
    mask: Tensor | None = None,
    noise: Tensor | None = None,
    seed: Seed = None,
    estimator: Any = "straight_through_gumbel",
) -> Tensor:
    """Draws a relaxed one-hot vector, differentiable in the logits.

    ```
    y = softmax((x + z) / temperature),  z ~ Gumbel(0, 1)^K       # Eq. (15)
    ```

    With `hard=True`, the value is the one-hot vector of `argmax_k (x_k + z_k)`,
    an exact categorical sample at every temperature. Its gradient is the
    gradient of `y` (Eq. 16).

    Args:
        logits: Float tensor x of shape `(..., K)`, with K on `axis`; -inf
            forbids a class.
        temperature: Positive number or tensor that broadcasts to `logits`. An
            entry of a tensor below 1e-15, or NaN, counts as 1e-15. Defaults to
            `1.0`.
        hard: Boolean, whether the value is one-hot. Defaults to `False`.
        axis: Integer, the axis of the K classes. Defaults to `-1`.
        mask: Boolean tensor that broadcasts to `logits`, true where a class
            may be chosen, or `None`. Defaults to `None`.
        noise: Tensor of the shape of `logits`, Gumbel noise, or `None` to draw
            noise. Defaults to `None`.
        seed: Integer, `keras.random.SeedGenerator`, key of JAX or `None`, as
            in `keras_gumbel.random`. Defaults to `None`.
        estimator: The gradient estimator of a hard sample: a
            `keras_gumbel.estimators.Estimator` or an identifier, see
            `keras_gumbel.estimators.get`. A relaxed sample accepts only
            `StraightThroughGumbel`, which can use another temperature for the
            gradient. Defaults to `"straight_through_gumbel"`.

    Returns:
        A tensor of the shape and dtype of `logits`. Forbidden classes are
        exactly 0. If no class of a row is allowed, the whole row is 0. A row
        with a logit of NaN or +inf is NaN. Other rows are not affected.

    Raises:
        ValueError: If a temperature is a number that is not positive,
            `estimator` is unknown or does not support relaxed samples with
            `hard=False`, or `axis` is not an axis of `logits`.

    Example:

    >>> y = keras_gumbel.ops.gumbel_softmax(keras.ops.zeros((2, 3)), 0.5)
    >>> tuple(y.shape)
    (2, 3)

    References:
        - [Jang et al., 2016](https://arxiv.org/abs/1611.01144)
        - [Maddison et al., 2016](https://arxiv.org/abs/1611.00712)
    """
    owner = "gumbel_softmax"
    estimator = get_for(owner, estimator)
    if hard:
        return _sample(
            owner, logits, temperature, estimator, axis, mask, noise, seed
        )
    require_relaxing(owner, estimator)
    logits, dtype, axis = masked_logits(owner, logits, axis, mask)
    temperature = positive_temperature(owner, temperature, logits)
    noise = gumbel_like(owner, logits, noise, seed)
    sample = tempered_softmax(logits + noise, temperature, axis)
    if not estimator.needs_temperature:
        soft = estimator.soft(
            owner, sample, logits, noise, temperature, axis, None
        )
        sample = straight_through(sample, soft)
    return ops.cast(sample, dtype)


def gumbel_log_softmax(
    logits: Tensor,
    temperature: Tensor = 1.0,
    axis: int = -1,
    mask: Tensor | None = None,
    noise: Tensor | None = None,
    seed: Seed = None,
) -> Tensor:
    """Draws the logarithm of a relaxed one-hot vector (ExpConcrete).

    ```
    log y = log_softmax((x + z) / temperature),  z ~ Gumbel(0, 1)^K
    ```

    This is the logarithm of Eq. (15). It does not underflow.

    Args:
        logits: Float tensor x of shape `(..., K)`, with K on `axis`; -inf
            forbids a class.
        temperature: Positive number or tensor that broadcasts to `logits`.
            Defaults to `1.0`.
        axis: Integer, the axis of the K classes. Defaults to `-1`.
        mask: Boolean tensor that broadcasts to `logits`, true where a class
            may be chosen, or `None`. Defaults to `None`.
        noise: Tensor of the shape of `logits`, Gumbel noise, or `None` to draw
            noise. Defaults to `None`.
        seed: Integer, `keras.random.SeedGenerator`, key of JAX or `None`, as
            in `keras_gumbel.random`. Defaults to `None`.

    Returns:
        A tensor of the shape and dtype of `logits`, -inf for forbidden
        classes.

    Raises:
        ValueError: If `temperature` is a number that is not positive, or
            `axis` is not an axis of `logits`.

    Example:

    >>> logits = keras.ops.array([0.0, 0.0])
    >>> log_y = keras_gumbel.ops.gumbel_log_softmax(logits, 0.01)
    >>> float(keras_gumbel.ops.exp_concrete_log_prob(log_y, logits, 0.01)) < 0
    True

    References:
        - [Maddison et al., 2016](https://arxiv.org/abs/1611.00712)
    """
    owner = "gumbel_log_softmax"
    logits, dtype, axis = masked_logits(owner, logits, axis, mask)
    temperature = positive_temperature(owner, temperature, logits)
    perturbed = logits + gumbel_like(owner, logits, noise, seed)
    log_y = tempered_log_softmax(perturbed, temperature, axis)
    return ops.cast(ops.where(is_allowed(logits), log_y, -float("inf")), dtype)


def sample_one_hot(
    logits: Tensor,
    temperature: Tensor = 1.0,
    estimator: Any = "straight_through_gumbel",
    axis: int = -1,
    mask: Tensor | None = None,
    noise: Tensor | None = None,
    seed: Seed = None,
) -> Tensor:
    """Draws an exact categorical sample, with the gradient of an estimator.

    ```
    h = one_hot(argmax_k (x_k + z_k)),  z ~ Gumbel(0, 1)^K         # Eq. (5)
    output = h + (surrogate - sg[surrogate])                      # Eq. (16)
    ```

    The temperature is used only for the surrogate, and the value does not
    depend on it. The same as `gumbel_softmax` with `hard=True`.

    Args:
        logits: Float tensor x of shape `(..., K)`, with K on `axis`; -inf
            forbids a class.
        temperature: Positive number or tensor that broadcasts to `logits`.
            Defaults to `1.0`.
        estimator: A `keras_gumbel.estimators.Estimator` or an identifier such
            as `"reinmax"`, see `keras_gumbel.estimators.get`. Defaults to
            `"straight_through_gumbel"`.
        axis: Integer, the axis of the K classes. Defaults to `-1`.
        mask: Boolean tensor that broadcasts to `logits`, true where a class
            may be chosen, or `None`. Defaults to `None`.
        noise: Tensor of the shape of `logits`, Gumbel noise, or `None` to draw
            noise. Defaults to `None`.
        seed: Integer, `keras.random.SeedGenerator`, key of JAX or `None`, as
            in `keras_gumbel.random`. Defaults to `None`.

    Returns:
        A one-hot tensor of the shape and dtype of `logits`, or zeros if no
        class is allowed.

    Raises:
        ValueError: If `temperature` is a number that is not positive,
            `estimator` is unknown, or `axis` is not an axis of `logits`.

    Example:

    >>> y = keras_gumbel.ops.sample_one_hot([0.0, 99.0], estimator="reinmax")
    >>> keras.ops.convert_to_numpy(y).tolist()
    [0.0, 1.0]

    References:
        - [Jang et al., 2016](https://arxiv.org/abs/1611.01144)
        - [Bengio et al., 2013](https://arxiv.org/abs/1308.3432)
    """
    owner = "sample_one_hot"
    estimator = get_for(owner, estimator)
    return _sample(
        owner, logits, temperature, estimator, axis, mask, noise, seed
    )


def _sample(
    owner: str,
    logits: Tensor,
    temperature: Tensor,
    estimator: Estimator,
    axis: int,
    mask: Tensor | None,
    noise: Tensor | None,
    seed: Seed,
) -> Tensor:
    """Draws a one-hot sample with the gradient of the estimator."""
    logits, dtype, axis = masked_logits(owner, logits, axis, mask)
    temperature = positive_temperature(owner, temperature, logits)
    # An integer seed would give the same noise twice.
    rest = another_seed(owner, seed) if noise is None else seed
    noise = gumbel_like(owner, logits, noise, seed)
    noise = estimator.arranged(noise, lambda z: ops.flip(z, axis))
    hard = one_hot_argmax(logits + noise, axis)
    sample = estimator.one_hot(
        owner, hard, logits, noise, temperature, axis, rest
    )
    return ops.cast(sample, dtype)
