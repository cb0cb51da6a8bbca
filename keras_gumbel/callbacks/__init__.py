"""Callbacks; none is needed to train."""

from keras_gumbel.callbacks.once_final import OnceFinal as OnceFinal
from keras_gumbel.callbacks.sparsity_logger import (
    SparsityLogger as SparsityLogger,
)
