"""Pure functions: tensors in, tensors out, no variables."""

from keras_gumbel._straight_through import straight_through as straight_through
from keras_gumbel.ops.bernoulli import (
    logit_relaxed_bernoulli as logit_relaxed_bernoulli,
)
from keras_gumbel.ops.bernoulli import relaxed_bernoulli as relaxed_bernoulli
from keras_gumbel.ops.bernoulli import sample_bernoulli as sample_bernoulli
from keras_gumbel.ops.cardinality import top_k_mask as top_k_mask
from keras_gumbel.ops.densities import (
    binary_concrete_log_prob as binary_concrete_log_prob,
)
from keras_gumbel.ops.densities import concrete_log_prob as concrete_log_prob
from keras_gumbel.ops.densities import (
    exp_concrete_log_prob as exp_concrete_log_prob,
)
from keras_gumbel.ops.densities import (
    logit_binary_concrete_log_prob as logit_binary_concrete_log_prob,
)
from keras_gumbel.ops.discrete import categorical as categorical
from keras_gumbel.ops.discrete import gumbel_max as gumbel_max
from keras_gumbel.ops.discrete import one_hot_argmax as one_hot_argmax
from keras_gumbel.ops.gates import hard_concrete as hard_concrete
from keras_gumbel.ops.gates import stochastic_gate as stochastic_gate
from keras_gumbel.ops.information import (
    categorical_entropy as categorical_entropy,
)
from keras_gumbel.ops.information import categorical_kl as categorical_kl
from keras_gumbel.ops.mixing import mix_uniform as mix_uniform
from keras_gumbel.ops.orders import (
    plackett_luce_log_prob as plackett_luce_log_prob,
)
from keras_gumbel.ops.orders import (
    sample_without_replacement as sample_without_replacement,
)
from keras_gumbel.ops.permutations import gumbel_sinkhorn as gumbel_sinkhorn
from keras_gumbel.ops.permutations import matching as matching
from keras_gumbel.ops.permutations import sinkhorn as sinkhorn
from keras_gumbel.ops.projection import project_capped_box as project_capped_box
from keras_gumbel.ops.ranking import soft_rank as soft_rank
from keras_gumbel.ops.ranking import soft_top_k as soft_top_k
from keras_gumbel.ops.sampling import gumbel_log_softmax as gumbel_log_softmax
from keras_gumbel.ops.sampling import gumbel_softmax as gumbel_softmax
from keras_gumbel.ops.sampling import sample_one_hot as sample_one_hot
from keras_gumbel.ops.subsets import gumbel_top_k as gumbel_top_k
from keras_gumbel.ops.subsets import relaxed_top_k as relaxed_top_k
from keras_gumbel.ops.subsets import sample_subset as sample_subset
from keras_gumbel.ops.subsets import subset_marginals as subset_marginals
