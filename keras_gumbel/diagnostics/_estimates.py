"""Gradients of expectations: exactly by enumeration, and by sampling."""

import itertools
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from keras_gumbel._seeds import seed_generator
from keras_gumbel._typing import Seed
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel.estimators._score_tape import ScoreTape

Function = Callable[[Tensor], Tensor]
Sampler = Callable[..., Tensor]

# Returns the sum over rows of a loss that has the gradient to be measured.
Total = Callable[[Function, Tensor, Seed], Tensor]

_MOST_OUTCOMES = 2**16
_CHUNK = 2**20  # entries of the samples held at once


def one_hot_outcomes(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lists all values of independent categorical variables.

    Args:
        logits: Array x of shape `(..., K)`.

    Returns:
        The one-hot outcomes h of shape `(count, ..., K)`, and the derivative
        of the probability of each in x, of the same shape.
    """
    rows = logits.reshape(-1, logits.shape[-1])
    odds = np.exp(rows - rows.max(axis=-1, keepdims=True))
    p = odds / odds.sum(axis=-1, keepdims=True)
    h = np.eye(p.shape[-1])[_grid("logits", *p.shape)]  # (count, variables, K)
    weights = (h * p).sum(axis=-1).prod(axis=-1)
    slopes = weights[:, None, None] * (h - p)
    shape = (-1, *logits.shape)
    return h.reshape(shape), slopes.reshape(shape)


def mask_outcomes(probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lists all values of independent binary masks.

    Args:
        probs: Array s of any shape.

    Returns:
        The outcomes m of shape `(count, *probs.shape)`, and the derivative of
        the probability of each in s, of the same shape.
    """
    s = probs.ravel()
    if not ((s >= 0) & (s <= 1)).all():
        raise invalid_argument(
            "gradient_report", "probs", "probabilities in [0, 1]", probs
        )
    m = _grid("probs", s.size, 2)  # (count, masks)
    weights = np.where(m == 1, s, 1 - s)
    others = [np.delete(weights, i, axis=1).prod(axis=1) for i in range(s.size)]
    slopes = np.stack(others, axis=1) * (2 * m - 1)
    shape = (-1, *probs.shape)
    return m.reshape(shape), slopes.reshape(shape)


def exact_gradient(
    function: Function, outcomes: np.ndarray, slopes: np.ndarray
) -> np.ndarray:
    """Returns `sum_h f(h) dP(h)`.

    Args:
        function: Callable f.
        outcomes: Array of all h, along the first axis.
        slopes: Array of the same shape, the derivatives of P(h).

    Returns:
        A float64 array of the shape of one outcome.
    """
    values = ops.convert_to_numpy(function(ops.cast(outcomes, "float32")))
    if values.shape != outcomes.shape[:1]:
        raise invalid_argument(
            "gradient_report",
            "function",
            "a function that returns one number for each sample, a tensor of "
            f"shape {outcomes.shape[:1]} for samples of shape {outcomes.shape}",
            values.shape,
        )
    values = values.astype("float64")
    # The derivatives sum to zero, so an offset of f would only add rounding.
    return np.tensordot(values - values.mean(), slopes, axes=1)


def of_one_draw(sampler: Sampler) -> Total:
    """Returns the total of the function at one sample for each row."""

    def total(function: Function, x: Tensor, seed: Seed) -> Tensor:
        return ops.sum(function(sampler(x, seed=seed)))

    return total


def of_several_draws(sampler: Sampler, count: int) -> Total:
    """Returns the loss that a tape computes from several samples."""

    def total(function: Function, x: Tensor, seed: Seed) -> Tensor:
        tape = ScoreTape()
        values = []
        for _ in range(count):
            with tape.draw():
                sample = sampler(x, seed=seed)
            values.append(function(sample))
        return tape.loss(values) * x.shape[0]

    return total


def moments(
    function: Function,
    point: np.ndarray,
    total: Total,
    num_samples: int,
    seed: int | None,
) -> tuple[np.ndarray, float]:
    """Samples an estimator.

    Args:
        function: Callable f.
        point: Array, the parameters of the samples.
        total: Callable of `of_one_draw` or `of_several_draws`.
        num_samples: Integer.
        seed: Integer or `None`.

    Returns:
        The mean of the gradients of f(sample) in the parameters, and the mean
        squared distance to it.
    """
    chunk = min(num_samples, max(1, _CHUNK // max(1, point.size)))
    layer = _Samples(function, point, total, chunk, seed)
    model = keras.Sequential([keras.Input((1,)), layer])
    # A step of gradient descent from 0 with learning rate 1 is the gradient.
    # It is the only way to get gradients that Keras has on every backend.
    model.compile(optimizer=keras.optimizers.SGD(1.0), jit_compile=False)
    added, squares, left = np.zeros_like(point), 0.0, num_samples
    while left:
        layer.shift.assign(ops.zeros(layer.shift.shape))
        model.train_on_batch(np.zeros((1, 1)))
        drawn = -ops.convert_to_numpy(layer.shift.value)[:left].astype(
            "float64"
        )
        added += drawn.sum(axis=0)
        squares += float((drawn**2).sum())
        left -= len(drawn)
    mean = added / num_samples
    return mean, max(0.0, squares / num_samples - float((mean**2).sum()))


class _Samples(keras.layers.Layer):
    """Adds the loss `sum_i f(sample(x + shift_i))` to a model."""

    def __init__(
        self,
        function: Function,
        point: np.ndarray,
        total: Total,
        count: int,
        seed: int | None,
    ) -> None:
        super().__init__(dtype="float32")
        self.function = function
        self.total = total
        self.point = ops.cast(point, "float32")
        self.seed_generator = seed_generator(seed)
        self.shift = self.add_weight(
            shape=(count, *point.shape), initializer="zeros"
        )

    def call(self, inputs: Tensor) -> Tensor:
        x = self.point + self.shift
        self.add_loss(self.total(self.function, x, self.seed_generator))
        return inputs


def _grid(name: str, count: int, choices: int) -> np.ndarray:
    """Returns all ways to choose one of `choices`, `count` times, as rows."""
    if choices**count > _MOST_OUTCOMES:
        raise invalid_argument(
            "gradient_report",
            name,
            f"a size with at most {_MOST_OUTCOMES} values to sum over",
            f"{choices}**{count} values",
        )
    return np.array(list(itertools.product(range(choices), repeat=count)))
