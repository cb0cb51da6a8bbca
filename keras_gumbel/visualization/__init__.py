"""Plots; they need matplotlib, the extra `keras-gumbel[plot]`.

Every function draws on the `Axes` it is given, or on those of a new figure,
and returns them. None shows or saves anything. The colours are told apart by
colour-blind readers too.
"""

from keras_gumbel._exports import dir_of
from keras_gumbel.visualization._densities import plot_binary_concrete
from keras_gumbel.visualization._history import plot_history
from keras_gumbel.visualization._mask import plot_mask
from keras_gumbel.visualization._pareto import plot_pareto
from keras_gumbel.visualization._schedules import plot_schedules
from keras_gumbel.visualization._scores import plot_scores
from keras_gumbel.visualization._simplex import plot_simplex
from keras_gumbel.visualization._sparsity import plot_sparsity

__all__ = [
    "plot_binary_concrete",
    "plot_history",
    "plot_mask",
    "plot_pareto",
    "plot_schedules",
    "plot_scores",
    "plot_simplex",
    "plot_sparsity",
]
__dir__ = dir_of(__all__)
