"""Probabilities of samples, which can be exactly 0 and 1."""

from keras import ops

from keras_gumbel._numerics import tempered_log_softmax
from keras_gumbel._straight_through import straight_through
from keras_gumbel._typing import Tensor

# The smallest distance of keep-probabilities from 0 and 1 in the logit. It is
# the power of two next to 1e-6, so 1 - p is exact in float32.
EDGE = 2.0**-20


def is_one(probs: Tensor, perturbed: Tensor) -> Tensor:
    """Whether the sample is 1: never at s = 0, always at s = 1."""
    return ops.logical_and(probs > 0, ops.logical_or(perturbed > 0, probs >= 1))


def exact_at_edges(probs: Tensor, mask: Tensor) -> Tensor:
    """Makes a mask 0 at s = 0 and 1 at s = 1, and keeps its gradient."""
    exact = ops.where(probs <= 0, 0.0, ops.where(probs >= 1, 1.0, mask))
    return straight_through(exact, mask)


def safe_probs(probs: Tensor) -> Tensor:
    """Clips s away from 0 and 1, with the gradient of the identity."""
    return straight_through(ops.clip(probs, EDGE, 1 - EDGE), probs)


def safe_logit(probs: Tensor) -> Tensor:
    """Returns the logit of s clipped away from 0 and 1."""
    inside = safe_probs(probs)
    return ops.log(inside) - ops.log1p(-inside)


def log_bernoulli(hard: Tensor, probs: Tensor) -> Tensor:
    """Returns log P(m) of a boolean sample."""
    inside = safe_probs(probs)
    return ops.where(hard, ops.log(inside), ops.log1p(-inside))


def log_categorical(hard: Tensor, logits: Tensor) -> Tensor:
    """Returns log P(h) of a one-hot sample, with K on the last axis."""
    log_p = tempered_log_softmax(logits, 1.0, -1)
    return ops.sum(ops.stop_gradient(hard) * log_p, axis=-1)


def sigmoid(x: Tensor) -> Tensor:
    """The logistic function, with a gradient that does not vanish near 1.

    The textbook gradient m (1 - m) is 0 as soon as m rounds to 1.
    """
    small = ops.sigmoid(ops.where(x > 0, -x, x))
    return ops.where(x > 0, 1.0 - small, small)
