"""Exact expectations of gradient estimators, in NumPy and float64.

An estimator multiplies the slope of the loss at a one-hot sample h by a
matrix that depends on h; its expectation sums over all samples. Where an
estimator has noise besides h, the matrix is averaged over it by quadrature.
"""

import numpy as np

from tests import reference

_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(48)
_UNIFORMS, _WEIGHTS = 0.5 * (_POINTS + 1), 0.5 * _WEIGHTS


def jacobian(q):
    """J(q) = diag(q) - q q^T, for points q of shape `(..., K)`."""
    return (
        q[..., :, None] * np.eye(q.shape[-1])
        - q[..., :, None] * (q[..., None, :])
    )


def straight_through(x, h, temperature):
    return jacobian(reference.softmax(x / temperature)) / temperature


def reinmax(x, h, temperature):
    """At temperature 1, which is its own."""
    return reinmax_at(x, h, 1.0)


def identity(x, h, temperature):
    return straight_through(x, h, 1.0)


def reinmax_at(x, h, temperature):
    q = 0.5 * (h + reference.softmax(x / temperature))
    return 2 * jacobian(q) - 0.5 * jacobian(reference.softmax(x))


def gapped(x, h, temperature, gap=1.0):
    raised = np.where(h > 0, x.max(), np.minimum(x, x.max() - gap))
    return straight_through(raised, h, temperature)


def straight_through_gumbel(x, h, temperature):
    """Mean over the noise of which the argmax is h.

    The largest perturbed logit is Gumbel(log Z); the others are Gumbel(x_k),
    truncated at it.
    """
    grid = np.meshgrid(*[_UNIFORMS] * len(x), indexing="ij")
    weights = np.meshgrid(*[_WEIGHTS] * len(x), indexing="ij")
    u = np.stack(grid, axis=-1).reshape(-1, len(x))
    weights = np.prod(weights, axis=0).ravel()
    chosen = int(h.argmax())
    top = np.log(np.exp(x).sum()) - np.log(-np.log(u[:, chosen]))
    below = -np.log(np.exp(-top)[:, None] - np.log(u) * np.exp(-x))
    below[:, chosen] = top
    y = reference.softmax(below / temperature)
    return np.tensordot(weights, jacobian(y), 1) / temperature


MATRICES = {
    "straight_through_gumbel": straight_through_gumbel,
    "straight_through": straight_through,
    "identity": identity,
    "reinmax": reinmax,
    "gumbel_rao": straight_through_gumbel,
    "gapped": gapped,
}


def one_layer(name, x, slope, temperature):
    """Expectation of an estimator for a loss with `slope(h)`."""
    p = reference.softmax(x)
    return sum(
        p[k] * MATRICES[name](x, h, temperature) @ slope(h)
        for k, h in enumerate(np.eye(len(x)))
    )


def two_layers(name, x, weights, slopes, temperature):
    """The same for h_1 ~ softmax(x), h_2 ~ softmax(weights h_1)."""
    p = reference.softmax(x)
    total = np.zeros_like(x)
    for k, h in enumerate(np.eye(len(x))):
        inner = weights @ h
        q = reference.softmax(inner)
        outer = MATRICES[name](x, h, temperature)
        for j, g in enumerate(np.eye(len(inner))):
            first, second = slopes(h, g)
            back = MATRICES[name](inner, g, temperature) @ second
            total += p[k] * q[j] * outer @ (first + weights.T @ back)
    return total


def exact_gradient(x, loss):
    """The gradient of E[loss(h)], h ~ softmax(x): what all estimate."""
    p = reference.softmax(x)
    eye = np.eye(len(x))
    return sum(p[k] * loss(eye[k]) * (eye[k] - p) for k in range(len(x)))


def bernoulli(name, s, slope, temperature):
    """Expectation of an estimator in s, for a loss with `slope(m)`.

    A binary variable is a choice between two classes, with logits 0 and
    log(s / (1 - s)), of which the loss sees the second.
    """
    x = np.array([0.0, reference.logit(s)])
    in_logits = one_layer(
        name, x, lambda h: np.array([0.0, slope(h[1])]), temperature
    )
    return in_logits[1] / (s * (1 - s))
