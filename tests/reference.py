"""The note in NumPy, in float64 or exactly, by other ways than the package."""

import itertools
from fractions import Fraction

import numpy as np


def gumbel_cdf(x, mode=0.0, scale=1.0):
    """Eqs. (2) and (3)."""
    return np.exp(-np.exp(-(x - mode) / scale))


def logistic_cdf(x):
    """The CDF of the difference of two Gumbel variables."""
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(x, "float64")))


def logit(s):
    """log(s / (1 - s))."""
    s = np.asarray(s, "float64")
    return np.log(s) - np.log1p(-s)


def softmax(x, axis=-1):
    """Eq. (4), and Eq. (15) of perturbed and divided logits."""
    x = np.asarray(x, "float64")
    share = np.exp(x - x.max(axis=axis, keepdims=True))
    return share / share.sum(axis=axis, keepdims=True)


def softmax_slopes(perturbed, temperature, weights):
    """Slopes of `sum(weights * softmax(perturbed / temperature))`.

    Returns:
        A pair: the slopes in the logits, and in the temperature of each row.
    """
    top = perturbed.max(axis=-1, keepdims=True)
    distance = np.maximum((perturbed - top) / temperature, -800.0)
    y = softmax(distance)  # exp(-800) is 0
    slopes = y * (weights - (weights * y).sum(-1, keepdims=True)) / temperature
    return slopes, -(slopes * distance).sum(-1, keepdims=True)


def binary_concrete_cdf(m, s, temperature):
    """P(M <= m) of Eq. (26): e <= temperature logit(m) - logit(s)."""
    return logistic_cdf(temperature * logit(m) - logit(s))


def concrete_density(y, logits, temperature):
    """Density of Eq. (15) on the simplex (Maddison et al., 2016, Eq. 1).

    Args:
        y: Array of shape `(..., K)`, points inside the simplex.
        logits: Array of shape `(K,)`.
        temperature: Number.
    """
    classes = len(logits)
    weights = np.exp(np.asarray(logits, "float64"))
    total = (weights * y**-temperature).sum(-1)
    product = (weights * y ** (-temperature - 1)).prod(-1)
    factor = np.prod(np.arange(1.0, classes)) * temperature ** (classes - 1)
    return factor * product / total**classes


def concrete_bins(edges, logits, temperature, nodes=60):
    """Probabilities of Eq. (15) with K = 3 in the cells of a grid.

    Cell (i, j) has y_1 in the i-th interval between the edges and
    y_2 / (1 - y_1) in the j-th. Gauss-Legendre quadrature of the density.
    """
    points, weights = np.polynomial.legendre.leggauss(nodes)
    low, high = np.asarray(edges[:-1]), np.asarray(edges[1:])
    half = 0.5 * (high - low)[:, None]
    x = (0.5 * (high + low)[:, None] + half * points).ravel()
    w = (half * weights).ravel()
    first, second = np.meshgrid(x, x, indexing="ij")
    rest = 1.0 - first
    y = np.stack([first, rest * second, rest * (1.0 - second)], axis=-1)
    mass = concrete_density(y, logits, temperature) * rest * np.outer(w, w)
    cells = len(low)
    return mass.reshape(cells, nodes, cells, nodes).sum((1, 3))


def project_exactly(values, budget):
    """The minimiser of Eq. (30), in exact rational arithmetic.

    Walks along the sorted breakpoints of sum_i clip(z_i - lambda, 0, 1), each
    score entering its slope at z_i - 1 and leaving it at z_i.

    Returns:
        A pair: the float64 array s, and the smallest lambda >= 0.
    """
    values = np.asarray(values, "float64")
    finite = [Fraction(z) for z in values.ravel() if z > -np.inf]
    budget = Fraction(budget)
    shift, total = Fraction(0), sum(min(max(z, 0), 1) for z in finite)
    corners = [(z - 1, 1) for z in finite] + [(z, -1) for z in finite]
    falling = sum(change for corner, change in corners if corner <= 0)
    for corner, change in sorted(c for c in corners if c[0] > 0):
        following = total - falling * (corner - shift)
        if following <= budget:
            break
        total, shift, falling = following, corner, falling + change
    if total > budget:
        shift += (total - budget) / falling
    s = [
        float(min(max(Fraction(z) - shift, 0), 1)) if z > -np.inf else 0.0
        for z in values.ravel()
    ]
    return np.reshape(s, values.shape), float(shift)


def project_with_floors(values, budget, costs, floors):
    """The minimiser of Eq. (30) with a floor under the sum of each array.

    Tries every choice of which arrays are on their floors, and takes the
    nearest of the points that satisfy all constraints.

    Args:
        values: List of float64 arrays z.
        budget: Number K.
        costs: List of numbers c.
        floors: List of numbers m.

    Returns:
        A list of arrays s.
    """
    best, nearest = None, np.inf
    for chosen in itertools.product([False, True], repeat=len(values)):
        on, off = ([i for i, c in enumerate(chosen) if c == k] for k in (1, 0))
        found = {i: _shifted_to([values[i]], [1.0], floors[i])[0] for i in on}
        left = budget - sum(costs[i] * floors[i] for i in on)
        rest = [np.clip(values[i], 0.0, 1.0) for i in off]
        own = [costs[i] for i in off]
        if left < 0:
            continue
        if sum(c * s.sum() for c, s in zip(own, rest, strict=True)) > left:
            rest = _shifted_to([values[i] for i in off], own, left)
        found.update(zip(off, rest, strict=True))
        if any(found[i].sum() < floors[i] - 1e-9 for i in off):
            continue
        distance = sum(
            ((found[i] - z) ** 2).sum() for i, z in enumerate(values)
        )
        if distance < nearest:
            best, nearest = [found[i] for i in range(len(values))], distance
    return best


def _shifted_to(values, costs, total):
    """Clips arrays at the shift where they cost a total, by bisection."""

    def clipped(shift):
        pairs = zip(values, costs, strict=True)
        return [np.clip(z - shift * c, 0.0, 1.0) for z, c in pairs]

    reach = 2.0 + max(abs(z).max() for z in values) / min(costs)
    low, high = -reach, reach
    for _ in range(200):
        middle = 0.5 * (low + high)
        pairs = zip(clipped(middle), costs, strict=True)
        if sum(c * s.sum() for s, c in pairs) > total:
            low = middle
        else:
            high = middle
    return clipped(high)
