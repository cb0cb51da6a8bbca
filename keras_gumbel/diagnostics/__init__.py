"""The report that `keras_gumbel.gradient_report` returns."""

from keras_gumbel._exports import dir_of
from keras_gumbel.diagnostics._report import GradientReport
from keras_gumbel.diagnostics._report import GradientRow

__all__ = [
    "GradientReport",
    "GradientRow",
]
__dir__ = dir_of(__all__)
