"""Callbacks; none is needed to train."""

from keras_gumbel.callbacks._once_final import OnceFinal as OnceFinal
from keras_gumbel.callbacks._sparsity_logger import (
    SparsityLogger as SparsityLogger,
)
