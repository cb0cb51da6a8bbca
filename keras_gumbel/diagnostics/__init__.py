"""How good the gradients of discrete samples are."""

from keras_gumbel.diagnostics._report import GradientReport as GradientReport
from keras_gumbel.diagnostics._report import GradientRow as GradientRow
from keras_gumbel.diagnostics._report import gradient_report as gradient_report
