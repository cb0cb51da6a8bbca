"""From a model with dead units to a smaller one; it knows nothing of masks."""

from keras_gumbel.shrinking._rebuild import shrink as shrink
from keras_gumbel.shrinking._report import ShrinkReport as ShrinkReport
from keras_gumbel.shrinking._report import ShrinkRow as ShrinkRow
from keras_gumbel.shrinking._report import shrink_report as shrink_report
