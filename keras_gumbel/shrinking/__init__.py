"""From a model with dead units to a smaller one; it knows nothing of masks."""

from keras_gumbel._exports import dir_of
from keras_gumbel.shrinking._report import ShrinkReport
from keras_gumbel.shrinking._report import ShrinkRow

__all__ = [
    "ShrinkReport",
    "ShrinkRow",
]
__dir__ = dir_of(__all__)
