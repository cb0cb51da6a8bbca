"""Samples of categorical variables with a gradient, relaxed and hard.

Everything is computed in float32 (float64 for float64 inputs) and only the
result is cast back to the dtype of the inputs.
"""

from keras import ops

from keras_gumbel import random
from keras_gumbel._numerics import gumbel_like
from keras_gumbel._numerics import is_allowed
from keras_gumbel._numerics import masked_logits
from keras_gumbel._numerics import positive_temperature
from keras_gumbel._numerics import tempered_log_softmax
from keras_gumbel._numerics import tempered_softmax
from keras_gumbel._straight_through import straight_through
from keras_gumbel._typing import Seed
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import require_choice
from keras_gumbel._validation import require_positive
from keras_gumbel._validation import require_positive_integer
from keras_gumbel.ops.discrete import one_hot_argmax
from keras_gumbel.ops.estimators import gapped_straight_through
from keras_gumbel.ops.estimators import gumbel_rao
from keras_gumbel.ops.estimators import reinmax

ESTIMATORS = (
    "straight_through_gumbel",
    "straight_through",
    "reinmax",
    "gumbel_rao",
    "gapped",
)


def gumbel_softmax(
    logits: Tensor,
    temperature: Tensor = 1.0,
    hard: bool = False,
    axis: int = -1,
    mask: Tensor | None = None,
    noise: Tensor | None = None,
    seed: Seed = None,
    backward_temperature: Tensor | None = None,
) -> Tensor:
    """Draws a relaxed one-hot vector, differentiable in the logits.

    ```
    y = softmax((x + z) / temperature),  z ~ Gumbel(0, 1)^K       # Eq. (15)
    ```

    With `hard=True` the value is the one-hot vector of
    `argmax_k (x_k + z_k)` and the gradient is the one of `y` (Eq. 16): an
    exact categorical sample at every temperature.

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
        noise: Tensor of the shape of `logits`, Gumbel noise to use instead of
            drawing some, or `None`. Defaults to `None`.
        seed: Integer, `keras.random.SeedGenerator`, key of JAX or `None`, as
            in `keras_gumbel.random`. Defaults to `None`.
        backward_temperature: Positive number or tensor, the temperature of
            the sample whose gradient is returned, or `None` for
            `temperature`. Defaults to `None`.

    Returns:
        A tensor of the shape and dtype of `logits`. Forbidden classes are
        exactly 0, and so is a row in which no class may be chosen. A row with
        a logit of NaN or +inf is NaN, and no other row is.

    Raises:
        ValueError: If a temperature is a number that is not positive, or
            `axis` is not an axis of `logits`.

    Example:

    >>> y = keras_gumbel.ops.gumbel_softmax(keras.ops.zeros((2, 3)), 0.5)
    >>> tuple(y.shape)
    (2, 3)

    References:
        - [Jang et al., 2016](https://arxiv.org/abs/1611.01144)
        - [Maddison et al., 2016](https://arxiv.org/abs/1611.00712)
        - [Shah et al., 2024](https://arxiv.org/abs/2410.13331), for
          `backward_temperature`
    """
    owner = "gumbel_softmax"
    logits, dtype = masked_logits(owner, logits, axis, mask)
    temperature = positive_temperature(owner, temperature, logits)
    perturbed = logits + gumbel_like(owner, logits, noise, seed)
    if backward_temperature is None:
        soft = tempered_softmax(perturbed, temperature, axis)
    else:
        backward_temperature = positive_temperature(
            owner, backward_temperature, logits, "backward_temperature"
        )
        soft = tempered_softmax(perturbed, backward_temperature, axis)
        if not hard:
            value = tempered_softmax(perturbed, temperature, axis)
            soft = straight_through(value, soft)
    soft = ops.cast(soft, dtype)
    if not hard:
        return soft
    return straight_through(one_hot_argmax(perturbed, axis), soft)  # Eq. (16)


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

    the logarithm of Eq. (15), which does not underflow.

    Args:
        logits: Float tensor x of shape `(..., K)`, with K on `axis`; -inf
            forbids a class.
        temperature: Positive number or tensor that broadcasts to `logits`.
            Defaults to `1.0`.
        axis: Integer, the axis of the K classes. Defaults to `-1`.
        mask: Boolean tensor that broadcasts to `logits`, true where a class
            may be chosen, or `None`. Defaults to `None`.
        noise: Tensor of the shape of `logits`, Gumbel noise to use instead of
            drawing some, or `None`. Defaults to `None`.
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
    logits, dtype = masked_logits(owner, logits, axis, mask)
    temperature = positive_temperature(owner, temperature, logits)
    perturbed = logits + gumbel_like(owner, logits, noise, seed)
    log_y = tempered_log_softmax(perturbed, temperature, axis)
    return ops.cast(ops.where(is_allowed(logits), log_y, -float("inf")), dtype)


def sample_one_hot(
    logits: Tensor,
    temperature: Tensor = 1.0,
    estimator: str = "straight_through_gumbel",
    num_samples: int = 10,
    gap: float = 1.0,
    axis: int = -1,
    mask: Tensor | None = None,
    noise: Tensor | None = None,
    seed: Seed = None,
) -> Tensor:
    """Draws an exact categorical sample, with the gradient of an estimator.

    The value is the one-hot vector of `argmax_k (x_k + z_k)` (Eq. 5). The
    gradient is, by `estimator`:

    - `"straight_through_gumbel"`: the one of
      `softmax((x + z) / temperature)`, with the same noise (Eq. 16).
    - `"straight_through"`: the one of `softmax(x / temperature)`, without
      noise.
    - `"reinmax"`: see `reinmax`.
    - `"gumbel_rao"`: see `gumbel_rao`.
    - `"gapped"`: see `gapped_straight_through`.

    The value does not depend on the temperature, which is therefore the
    backward temperature of decoupled straight-through.

    Args:
        logits: Float tensor x of shape `(..., K)`, with K on `axis`; -inf
            forbids a class.
        temperature: Positive number or tensor that broadcasts to `logits`.
            Defaults to `1.0`.
        estimator: String, one of the above. Defaults to
            `"straight_through_gumbel"`.
        num_samples: Positive integer, the draws of noise of `"gumbel_rao"`.
            Defaults to `10`.
        gap: Positive number, the gap of `"gapped"`. Defaults to `1.0`.
        axis: Integer, the axis of the K classes. Defaults to `-1`.
        mask: Boolean tensor that broadcasts to `logits`, true where a class
            may be chosen, or `None`. Defaults to `None`.
        noise: Tensor of the shape of `logits`, Gumbel noise to use instead of
            drawing some, or `None`. Defaults to `None`.
        seed: Integer, `keras.random.SeedGenerator`, key of JAX or `None`, as
            in `keras_gumbel.random`. Defaults to `None`.

    Returns:
        A one-hot tensor of the shape and dtype of `logits`; zeros where no
        class may be chosen.

    Raises:
        ValueError: If `temperature` or `gap` is a number that is not
            positive, `num_samples` is not a positive integer, `estimator` is
            unknown, or `axis` is not an axis of `logits`.

    Example:

    >>> y = keras_gumbel.ops.sample_one_hot([0.0, 99.0], estimator="reinmax")
    >>> keras.ops.convert_to_numpy(y).tolist()
    [0.0, 1.0]

    References:
        - [Jang et al., 2016](https://arxiv.org/abs/1611.01144)
        - [Bengio et al., 2013](https://arxiv.org/abs/1308.3432)
    """
    owner = "sample_one_hot"
    require_choice(owner, "estimator", estimator, ESTIMATORS)
    require_positive_integer(owner, "num_samples", num_samples)
    require_positive(owner, "gap", gap)
    logits, dtype = masked_logits(owner, logits, axis, mask)
    temperature = positive_temperature(owner, temperature, logits)
    own, other = noise, None
    if noise is None and estimator == "gumbel_rao":
        # One draw for both: the same integer seed twice is the same noise.
        shape = (num_samples + 1, *ops.shape(logits))
        drawn = random.gumbel(shape, logits.dtype, seed)
        own, other = drawn[0], drawn[1:]
    perturbed = logits + gumbel_like(owner, logits, own, seed)
    hard = one_hot_argmax(perturbed, axis)
    if estimator == "straight_through_gumbel":
        soft = tempered_softmax(perturbed, temperature, axis)
        sample = straight_through(hard, soft)  # Eq. (16)
    elif estimator == "straight_through":
        soft = tempered_softmax(logits, temperature, axis)
        sample = straight_through(hard, soft)
    elif estimator == "reinmax":
        sample = reinmax(hard, logits, temperature, axis)
    elif estimator == "gumbel_rao":
        sample = gumbel_rao(
            hard, logits, temperature, num_samples, axis, other, seed
        )
    else:
        sample = gapped_straight_through(hard, logits, temperature, gap, axis)
    return ops.cast(sample, dtype)
