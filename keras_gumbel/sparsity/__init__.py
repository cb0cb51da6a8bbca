"""What is done to a whole model."""

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
