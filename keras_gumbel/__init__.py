"""Discrete choices that train by gradient descent, for Keras 3.

To prune a model is to take it through these states:

| call | the model after it |
|---|---|
| `sparsify(model)` | Its weights have masks, which are trained with them. |
| `harden(model)` | The masks are final, with K ones. `fit` fine-tunes. |
| `strip(model)` | A plain Keras model again, with zeros. No scores are left. |
| `shrink(model)` | A smaller copy, without the units that the zeros cut off. |

`sparsify`, `harden` and `strip` change the model in place, and `soften` undoes
`harden`. `strip` hardens a model that is not hardened yet. Zeros alone make a
model no faster, and its `.keras` file no smaller: `shrink`, `export_litert` and
`save_compressed` do.

`sparsity_report` says what is kept of each weight, and `shrink_report` what
`shrink` would remove. `sparsity_costs` returns the cost of each weight, for
budgets in multiply-adds, bytes or seconds. The classes of the reports are in
the modules `sparsity` and `shrinking`.

Layers and functions that choose are in `layers` and `ops`.
"""

import importlib.util
from typing import TYPE_CHECKING
from typing import Any

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

if TYPE_CHECKING:
    from keras_gumbel._feature_selector import FeatureSelector

__all__ = [
    "FeatureSelector",
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
# scikit-learn is optional: without it `help` and completion list the rest.
if importlib.util.find_spec("sklearn") is None:
    __all__.remove("FeatureSelector")

__dir__ = dir_of(__all__)


def __getattr__(name: str) -> Any:
    if name != "FeatureSelector":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from keras_gumbel._feature_selector import FeatureSelector

    globals()[name] = FeatureSelector
    return FeatureSelector
