"""Scores whose weights `keras_gumbel.calibrate` has observed."""

from typing import Any

import numpy as np
from keras import ops

from keras_gumbel._moments import Moments
from keras_gumbel._moments import missing_moments
from keras_gumbel._moments import moments_of
from keras_gumbel.sparsity._found import Scores
from keras_gumbel.sparsity._layer_inputs import input_axes


def calibrated(s: Scores) -> tuple[Moments, np.ndarray]:
    """Returns the moments of scores, and their weight as a float32 matrix."""
    moments: Any = moments_of(s.weight)
    weight = ops.convert_to_numpy(ops.cast(s.weight, "float32"))
    return moments, np.array(moments.as_matrix(weight))


def why_unknown(s: Scores) -> str | None:
    """Returns why scores have no calibration data, or `None`."""
    if s.weight is None:
        return "not on a weight"
    axes = input_axes(s.part.layer, s.weight)
    return missing_moments(s.weight, axes)
