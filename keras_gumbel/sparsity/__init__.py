"""The reports that the functions for pruning return.

The functions are in the package itself: `keras_gumbel.sparsify`,
`keras_gumbel.sparsity_report`, `keras_gumbel.export_litert` and others.
"""

from keras_gumbel._exports import dir_of
from keras_gumbel.sparsity._export_litert import LiteRTReport
from keras_gumbel.sparsity._report import SparsityReport
from keras_gumbel.sparsity._report import SparsityRow
from keras_gumbel.sparsity._size import SparsitySize

__all__ = [
    "LiteRTReport",
    "SparsityReport",
    "SparsityRow",
    "SparsitySize",
]
__dir__ = dir_of(__all__)
