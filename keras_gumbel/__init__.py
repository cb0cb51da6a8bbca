"""Discrete choices that train by gradient descent, for Keras 3."""

from keras_gumbel import callbacks
from keras_gumbel import constraints
from keras_gumbel import diagnostics
from keras_gumbel import estimators
from keras_gumbel import granularities
from keras_gumbel import layers
from keras_gumbel import masks
from keras_gumbel import metrics
from keras_gumbel import models
from keras_gumbel import ops
from keras_gumbel import optimizers
from keras_gumbel import random
from keras_gumbel import regularizers
from keras_gumbel import schedules
from keras_gumbel import shrinking
from keras_gumbel import sparsity
from keras_gumbel import visualization
from keras_gumbel._exports import dir_of
from keras_gumbel._scores import mark_scores
from keras_gumbel._validation import SparsityWarning
from keras_gumbel._version import __version__
from keras_gumbel._weight_axes import WeightAxes
from keras_gumbel._weight_axes import register_weight_axes
from keras_gumbel.diagnostics._report import gradient_report
from keras_gumbel.shrinking._rebuild import shrink
from keras_gumbel.shrinking._report import shrink_report
from keras_gumbel.sparsity._calibrate import calibrate
from keras_gumbel.sparsity._costs import sparsity_costs
from keras_gumbel.sparsity._export_litert import export_litert
from keras_gumbel.sparsity._harden import harden
from keras_gumbel.sparsity._harden import soften
from keras_gumbel.sparsity._harden_best import harden_best
from keras_gumbel.sparsity._layer_densities import layer_densities
from keras_gumbel.sparsity._recalibrate import recalibrate_batch_normalization
from keras_gumbel.sparsity._report import sparsity_report
from keras_gumbel.sparsity._save_compressed import save_compressed
from keras_gumbel.sparsity._sparsify import sparsify
from keras_gumbel.sparsity._strip import strip

__all__ = [
    "SparsityWarning",
    "WeightAxes",
    "__version__",
    "calibrate",
    "callbacks",
    "constraints",
    "diagnostics",
    "estimators",
    "export_litert",
    "gradient_report",
    "granularities",
    "harden",
    "harden_best",
    "layer_densities",
    "layers",
    "mark_scores",
    "masks",
    "metrics",
    "models",
    "ops",
    "optimizers",
    "random",
    "recalibrate_batch_normalization",
    "register_weight_axes",
    "regularizers",
    "save_compressed",
    "schedules",
    "shrink",
    "shrink_report",
    "shrinking",
    "soften",
    "sparsify",
    "sparsity",
    "sparsity_costs",
    "sparsity_report",
    "strip",
    "visualization",
]
__dir__ = dir_of(__all__)
