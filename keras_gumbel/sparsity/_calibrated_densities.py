"""Densities of single layers that depend on their inputs."""

import numpy as np

from keras_gumbel._moments import Moments
from keras_gumbel.sparsity._calibrated import calibrated
from keras_gumbel.sparsity._calibrated import why_unknown
from keras_gumbel.sparsity._found import Scores

# A saliency that is this many times the mean of its layer is an outlier.
OUTLIER = 5.0

# The largest distance of the density of a layer from the overall density.
OWL_RANGE = 0.08


def owl(scores: list[Scores], density: float) -> list[float]:
    """Returns densities by the fraction of outliers in Wanda's saliencies.

    Args:
        scores: List of `Scores`, calibrated.
        density: Float, the mean over all weights.
    """
    _require_moments(scores)
    shares = np.array([_outlier_share(s) for s in scores])
    sizes = np.array([s.num_weights for s in scores])
    above = shares - (sizes * shares).sum() / sizes.sum()
    farthest = np.abs(above).max()
    if farthest > 0:
        above *= min(OWL_RANGE, density, 1.0 - density) / farthest
    return (density + above).tolist()


def obs(scores: list[Scores], density: float) -> list[float]:
    """Returns the fraction of each layer in the K largest OBS saliencies.

    Args:
        scores: List of `Scores`, calibrated.
        density: Float, K as a fraction of all weights.
    """
    _require_moments(scores)
    costs = [_removal_costs(s) for s in scores]
    joined = np.concatenate(costs)
    budget = max(1, int(density * joined.size))
    least = np.partition(joined, joined.size - budget)[joined.size - budget]
    return [float((cost >= least).mean()) for cost in costs]


def _outlier_share(s: Scores) -> float:
    saliencies = _saliencies(*calibrated(s), "wanda")
    return float((saliencies > OUTLIER * saliencies.mean()).mean())


def _removal_costs(s: Scores) -> np.ndarray:
    """Returns the error of the layer's output when each weight is removed."""
    moments, matrix = calibrated(s)
    energy = sum(
        float((matrix[part] * (block @ matrix[part])).sum(dtype="float64"))
        for part, block in moments.each()
    )
    costs = _saliencies(moments, matrix, "obs") ** 2
    return costs * moments.count / energy if energy > 0 else costs


def _saliencies(moments: Moments, matrix: np.ndarray, kind: str) -> np.ndarray:
    return (np.abs(matrix) * moments.scale(kind)[:, None]).ravel()


def _require_moments(scores: list[Scores]) -> None:
    listed = ", ".join(
        f"{s.name} ({why_unknown(s)})" for s in scores if why_unknown(s)
    )
    if listed:
        raise ValueError(
            "`layer_densities` needs calibration data for the methods 'owl' "
            f"and 'obs'. Received: a model without data for {listed}. Call "
            "`keras_gumbel.calibrate`, use `method='erk'`, or leave these "
            "weights out with the `filters` of `keras_gumbel.sparsify`."
        )
