"""The classes of the report of `keras_gumbel.shrink_report`.

The functions `shrink` and `shrink_report` are in the package itself.
"""

from keras_gumbel._exports import dir_of
from keras_gumbel.shrinking._report import ShrinkReport
from keras_gumbel.shrinking._report import ShrinkRow

__all__ = [
    "ShrinkReport",
    "ShrinkRow",
]
__dir__ = dir_of(__all__)
