"""Plots, which need matplotlib: install `keras-gumbel[plot]`.

Every function draws on the given `Axes`, or on those of a new figure, and
returns them. No function shows or saves a figure. Color-blind readers can tell
the colors apart.
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
