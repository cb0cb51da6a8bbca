"""Budgets of single layers, by the rules of published pruning methods."""

import math

import keras
import numpy as np

from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import require_choice
from keras_gumbel._validation import require_density
from keras_gumbel.optimizers._score_group import WHOLE
from keras_gumbel.sparsity._masks import Masked
from keras_gumbel.sparsity._masks import find_masks
from keras_gumbel.sparsity._rewrite import require_rewritable


def layer_densities(
    model: keras.Model, density: float, method: str = "erk"
) -> dict[str, float]:
    """Returns a density for each masked kernel, given that of them all.

    It is what `keras_gumbel.optimizers.ProjectedOptimizer` takes as `density`
    where every kernel is to have a budget of its own, instead of the one
    budget for which all of them compete:

    ```
    "uniform":  d_l = d
    "erk":      d_l = min(1, e * (sum of the shape) / (product of the shape))
    ```

    with e such that sum_l n_l d_l = d * sum_l n_l for kernels of n_l weights.
    Uniform densities are what TFMOT has; Erdős-Rényi-Kernel leaves more of
    small kernels. The densities are rounded to whole scores: every kernel
    keeps one at least, and together they keep as many as one budget over all
    of them would.

    Args:
        model: Sequential or Functional model with masked layers.
        density: Number in (0, 1], the kept share of all weights.
        method: String, `"uniform"` or `"erk"`. Defaults to `"erk"`.

    Returns:
        A dictionary of regex strings, one for the scores of each kernel, to
        floats in (0, 1].

    Raises:
        TypeError: If `model` is not a Sequential or Functional model.
        ValueError: If the model has no mask, `method` is unknown, or
            `density` is not in (0, 1] or leaves less than one score for each
            kernel.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)]
    ... )
    >>> sparse = keras_gumbel.sparsify(model)
    >>> densities = keras_gumbel.layer_densities(sparse, 0.5)
    >>> [round(d, 2) for d in densities.values()]
    [0.4, 0.92]

    Every density may fall along a schedule:

    >>> optimizer = keras_gumbel.optimizers.ProjectedOptimizer(
    ...     "adam",
    ...     density={
    ...         scores: keras_gumbel.schedules.CubicDensity(d, steps=1000)
    ...         for scores, d in densities.items()
    ...     },
    ... )

    References:
        - [Evci et al., 2020](https://arxiv.org/abs/1911.11134)
    """
    owner = "layer_densities"
    require_rewritable(owner, model)
    require_density(owner, "density", density)
    require_choice(owner, "method", method, ("uniform", "erk"))
    masks = find_masks(owner, model)
    shares = [density] * len(masks)
    if method == "erk":
        shares = _erk([m.layout.shape for m in masks], density)
    counts = _whole(masks, shares, density)
    return {
        m.scores_regex: count / m.size
        for m, count in zip(masks, counts, strict=True)
    }


def _erk(shapes: list[tuple[int, ...]], density: float) -> list[float]:
    """Returns shares by Erdős-Rényi-Kernel; what is over 1 goes to the rest."""
    sums = np.array([sum(shape) for shape in shapes])
    sizes = np.array([math.prod(shape) for shape in shapes])
    shares = np.ones(len(shapes))
    full = np.zeros(len(shapes), bool)
    while not full.all():
        left = density * sizes.sum() - sizes[full].sum()
        shares = np.where(full, 1.0, left / sums[~full].sum() * sums / sizes)
        over = shares > 1.0
        if not over.any():
            break
        full |= over
    return np.minimum(shares, 1.0).tolist()


def _whole(
    masks: list[Masked], shares: list[float], density: float
) -> list[int]:
    """Rounds shares to numbers of scores that fit the budget of them all."""
    budget = math.floor(density * sum(m.weights for m in masks) + WHOLE)
    exact = [s * m.size for s, m in zip(shares, masks, strict=True)]
    counts = [max(1, math.floor(e + WHOLE)) for e in exact]

    def left() -> int:
        kept = [m.shared * c for m, c in zip(masks, counts, strict=True)]
        return budget - sum(kept)

    while left() < 0:
        largest = max(range(len(counts)), key=lambda i: counts[i])
        if counts[largest] == 1:
            raise invalid_argument(
                "layer_densities",
                "density",
                f"a number that leaves one score for each of {len(masks)} "
                "kernels",
                density,
            )
        counts[largest] -= 1
    remainders = [c - e for c, e in zip(counts, exact, strict=True)]
    for i in sorted(range(len(counts)), key=lambda i: remainders[i]):
        if counts[i] < masks[i].size and masks[i].shared <= left():
            counts[i] += 1
    return counts
