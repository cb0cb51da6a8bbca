"""Plots; they need matplotlib, the extra `keras-gumbel[plot]`.

Every function draws on the `Axes` it is given, or on those of a new figure,
and returns them. None shows or saves anything. The colours are told apart by
colour-blind readers too.
"""

from keras_gumbel.visualization._densities import (
    plot_binary_concrete as plot_binary_concrete,
)
from keras_gumbel.visualization._history import plot_history as plot_history
from keras_gumbel.visualization._mask import plot_mask as plot_mask
from keras_gumbel.visualization._pareto import plot_pareto as plot_pareto
from keras_gumbel.visualization._schedules import (
    plot_schedules as plot_schedules,
)
from keras_gumbel.visualization._scores import plot_scores as plot_scores
from keras_gumbel.visualization._simplex import plot_simplex as plot_simplex
from keras_gumbel.visualization._sparsity import plot_sparsity as plot_sparsity
