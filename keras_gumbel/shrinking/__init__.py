"""From a model with dead units to a smaller one; it knows nothing of masks."""

from keras_gumbel.shrinking.rebuild import shrink as shrink
from keras_gumbel.shrinking.report import ShrinkReport as ShrinkReport
from keras_gumbel.shrinking.report import ShrinkRow as ShrinkRow
from keras_gumbel.shrinking.report import shrink_report as shrink_report
