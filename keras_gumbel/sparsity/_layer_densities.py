"""Computes budgets of single layers by published rules."""

import math
from collections.abc import Callable

import keras
import numpy as np

from keras_gumbel._budgets import WHOLE
from keras_gumbel._budgets import floor_of
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import require_choice
from keras_gumbel._validation import require_density
from keras_gumbel.sparsity import _calibrated_densities
from keras_gumbel.sparsity._found import Scores
from keras_gumbel.sparsity._found import find_scores


def layer_densities(
    model: keras.Layer, density: float, method: str = "erk"
) -> dict[str, float]:
    """Returns a density for each masked weight, given the overall density.

    Pass the result as `density` to `keras_gumbel.optimizers.ProjectedOptimizer`
    or `keras_gumbel.harden`. Every weight then has a separate budget, and the
    weights do not compete for one budget. For a weight l:

    ```
    "uniform":  d_l = d
    "erk":      d_l = min(1, e * (sum of the shape) / (product of the shape))
    "owl":      d_l = d + e * (D_l - mean of D),  |d_l - d| <= 0.08
    "obs":      d_l = share of w^2 / ([H^-1]_ii tr(W^T H W)) in the K largest
    ```

    where n_l is the number of entries and e is chosen such that sum_l n_l d_l =
    d * sum_l n_l. `"uniform"` is what TFMOT does. `"erk"` (Erdős-Rényi-Kernel)
    keeps a larger fraction of small weights. The other two methods need the
    inputs of each layer, so call `keras_gumbel.calibrate` first:

    - `"owl"` keeps a larger fraction of weights with many outliers. D_l is the
      fraction of Wanda's saliencies |w_ij| sqrt(E x_i^2) that are above 5 times
      their mean. The D_l farthest from the mean of D gets a density 0.08 away
      from d.
    - `"obs"` compares the errors of the layer outputs when a weight is removed
      and the others compensate, as a fraction of the energy of the outputs.

    The densities are rounded to whole scores. Every weight keeps at least one
    score, or its `minimum` if that is more, and at most what its granularity
    allows, such as half of the scores for "2:4". Together, the weights keep as
    many as with one budget for all.

    Args:
        model: Keras model or layer with masks.
        density: Number in (0, 1], the fraction of all weights to keep.
        method: String, `"uniform"`, `"erk"`, `"owl"` or `"obs"`. Defaults to
            `"erk"`.

    Returns:
        A dictionary from the names in `keras_gumbel.sparsity_report` to floats
        in (0, 1].

    Raises:
        TypeError: If `model` is not a Keras model or layer.
        ValueError: If the model has no mask, `method` is unknown, `density`
            is not in (0, 1] or too small for the minimum of each weight, or
            the method needs calibration data that a weight does not have.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)]
    ... )
    >>> sparse = keras_gumbel.sparsify(model)
    >>> densities = keras_gumbel.layer_densities(sparse, 0.5)
    >>> [round(d, 2) for d in densities.values()]
    [0.4, 0.92]

    Every density can fall along a schedule:

    >>> optimizer = keras_gumbel.optimizers.ProjectedOptimizer(
    ...     "adam",
    ...     density={
    ...         name: keras_gumbel.schedules.CubicDensity(d, steps=1000)
    ...         for name, d in densities.items()
    ...     },
    ... )

    References:
        - [Evci et al., 2020](https://arxiv.org/abs/1911.11134),
          Erdős-Rényi-Kernel
        - [Yin et al., 2023](https://arxiv.org/abs/2310.05175), OWL
        - [Hassibi and Stork,
          1992](https://proceedings.neurips.cc/paper/1992/hash/303ed4c69846ab36c2904d3ba8573050-Abstract.html),
          OBS
    """
    owner = "layer_densities"
    require_density(owner, "density", density)
    require_choice(owner, "method", method, tuple(_METHODS))
    scores = [s for s in find_scores(owner, model) if not s.frozen]
    fractions = _METHODS[method](scores, density)
    counts = _whole(scores, _within_rows(scores, fractions), density)
    return {
        s.name: count / s.size for s, count in zip(scores, counts, strict=True)
    }


def _shape(s: Scores) -> tuple[int, ...]:
    """Returns the shape of the weight or variable that has the scores."""
    return tuple((s.variable if s.weight is None else s.weight).shape)


def _uniform(scores: list[Scores], density: float) -> list[float]:
    """Returns the same density for all."""
    return [density] * len(scores)


def _erk(scores: list[Scores], density: float) -> list[float]:
    """Returns densities by Erdős-Rényi-Kernel, and shares out any excess."""
    shapes = [_shape(s) for s in scores]
    sums = np.array([sum(shape) for shape in shapes])
    sizes = np.array([math.prod(shape) for shape in shapes])
    densities = np.ones(len(shapes))
    full = np.zeros(len(shapes), bool)
    while not full.all():
        left = density * sizes.sum() - sizes[full].sum()
        densities = np.where(full, 1.0, left / sums[~full].sum() * sums / sizes)
        over = densities > 1.0
        if not over.any():
            break
        full |= over
    return np.minimum(densities, 1.0).tolist()


_METHODS: dict[str, Callable[[list[Scores], float], list[float]]] = {
    "uniform": _uniform,
    "erk": _erk,
    "owl": _calibrated_densities.owl,
    "obs": _calibrated_densities.obs,
}


def _most(s: Scores) -> int:
    """Returns how many scores can be kept, as rows may allow fewer than all."""
    rows = s.mark.rows
    if rows is None or rows[0] is None:
        return s.size
    count, axis = rows
    length = s.variable.shape[axis]
    return s.size // length * min(count, length)


def _within_rows(scores: list[Scores], fractions: list[float]) -> list[float]:
    """Gives what rows do not allow to the other weights, in proportion."""
    most = np.array([_most(s) / s.size for s in scores])
    sizes = np.array([s.num_weights for s in scores])
    found = np.array(fractions)
    total = (found * sizes).sum()
    full = np.zeros(len(scores), bool)
    while (over := found > np.where(full, np.inf, most)).any():
        full |= over
        left = total - (most * sizes)[full].sum()
        others = (found * sizes)[~full].sum()
        found = np.where(full, most, found * (left / others if others else 1.0))
    return found.tolist()


def _whole(
    scores: list[Scores], fractions: list[float], density: float
) -> list[int]:
    """Rounds densities to numbers of scores that fit the overall budget."""
    budget = math.floor(density * sum(s.num_weights for s in scores) + WHOLE)
    exact = [f * s.size for f, s in zip(fractions, scores, strict=True)]
    least = [max(1, floor_of(s.variable)) for s in scores]
    most = [_most(s) for s in scores]
    counts = [
        max(m, math.floor(e + WHOLE)) for m, e in zip(least, exact, strict=True)
    ]

    def left() -> int:
        pairs = zip(scores, counts, strict=True)
        return budget - sum(s.weights_per_score * c for s, c in pairs)

    while left() < 0:
        largest = max(range(len(counts)), key=lambda i: counts[i] - least[i])
        if counts[largest] == least[largest]:
            raise invalid_argument(
                "layer_densities",
                "density",
                f"a number large enough for the minimums of {len(scores)} "
                f"weights, which are {sum(least):,} scores together",
                density,
            )
        counts[largest] -= 1
    remainders = [c - e for c, e in zip(counts, exact, strict=True)]
    for i in sorted(range(len(counts)), key=lambda i: remainders[i]):
        if counts[i] < most[i] and scores[i].weights_per_score <= left():
            counts[i] += 1
    # Something is left if the rule itself gives nothing to the others.
    for i, s in enumerate(scores):
        counts[i] += min(most[i] - counts[i], left() // s.weights_per_score)
    return counts
