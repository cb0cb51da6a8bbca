"""What is done to a whole model."""

from keras_gumbel.sparsity._calibrate import calibrate as calibrate
from keras_gumbel.sparsity._costs import sparsity_costs as sparsity_costs
from keras_gumbel.sparsity._export_litert import LiteRTReport as LiteRTReport
from keras_gumbel.sparsity._export_litert import export_litert as export_litert
from keras_gumbel.sparsity._harden import harden as harden
from keras_gumbel.sparsity._harden import soften as soften
from keras_gumbel.sparsity._harden_best import harden_best as harden_best
from keras_gumbel.sparsity._layer_densities import (
    layer_densities as layer_densities,
)
from keras_gumbel.sparsity._recalibrate import (
    recalibrate_batch_normalization as recalibrate_batch_normalization,
)
from keras_gumbel.sparsity._report import SparsityReport as SparsityReport
from keras_gumbel.sparsity._report import SparsityRow as SparsityRow
from keras_gumbel.sparsity._report import sparsity_report as sparsity_report
from keras_gumbel.sparsity._save_compressed import (
    save_compressed as save_compressed,
)
from keras_gumbel.sparsity._size import SparsitySize as SparsitySize
from keras_gumbel.sparsity._sparsify import sparsify as sparsify
from keras_gumbel.sparsity._strip import strip as strip
