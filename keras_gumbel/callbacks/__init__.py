"""Callbacks for logging and final masks. Training needs none of them."""

from keras_gumbel._exports import dir_of
from keras_gumbel.callbacks._once_final import OnceFinal
from keras_gumbel.callbacks._sparsity_logger import SparsityLogger

__all__ = [
    "OnceFinal",
    "SparsityLogger",
]
__dir__ = dir_of(__all__)
