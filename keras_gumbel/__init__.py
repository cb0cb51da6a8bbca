"""Discrete choices that train by gradient descent, for Keras 3."""

from keras_gumbel import callbacks as callbacks
from keras_gumbel import constraints as constraints
from keras_gumbel import diagnostics as diagnostics
from keras_gumbel import estimators as estimators
from keras_gumbel import granularities as granularities
from keras_gumbel import layers as layers
from keras_gumbel import masks as masks
from keras_gumbel import metrics as metrics
from keras_gumbel import models as models
from keras_gumbel import ops as ops
from keras_gumbel import optimizers as optimizers
from keras_gumbel import random as random
from keras_gumbel import regularizers as regularizers
from keras_gumbel import schedules as schedules
from keras_gumbel import shrinking as shrinking
from keras_gumbel import sparsity as sparsity
from keras_gumbel import visualization as visualization
from keras_gumbel._scores import mark_scores as mark_scores
from keras_gumbel._validation import SparsityWarning as SparsityWarning
from keras_gumbel._version import __version__ as __version__
from keras_gumbel._weight_axes import WeightAxes as WeightAxes
from keras_gumbel._weight_axes import (
    register_weight_axes as register_weight_axes,
)
from keras_gumbel.diagnostics import gradient_report as gradient_report
from keras_gumbel.shrinking import shrink as shrink
from keras_gumbel.shrinking import shrink_report as shrink_report
from keras_gumbel.sparsity import calibrate as calibrate
from keras_gumbel.sparsity import export_litert as export_litert
from keras_gumbel.sparsity import harden as harden
from keras_gumbel.sparsity import harden_best as harden_best
from keras_gumbel.sparsity import layer_densities as layer_densities
from keras_gumbel.sparsity import (
    recalibrate_batch_normalization as recalibrate_batch_normalization,
)
from keras_gumbel.sparsity import save_compressed as save_compressed
from keras_gumbel.sparsity import soften as soften
from keras_gumbel.sparsity import sparsify as sparsify
from keras_gumbel.sparsity import sparsity_costs as sparsity_costs
from keras_gumbel.sparsity import sparsity_report as sparsity_report
from keras_gumbel.sparsity import strip as strip
