"""Pure functions: tensors in, tensors out, no variables."""

from keras_gumbel._straight_through import straight_through as straight_through
from keras_gumbel.ops._bernoulli import (
    logit_relaxed_bernoulli as logit_relaxed_bernoulli,
)
from keras_gumbel.ops._bernoulli import relaxed_bernoulli as relaxed_bernoulli
from keras_gumbel.ops._bernoulli import sample_bernoulli as sample_bernoulli
from keras_gumbel.ops._cardinality import top_k_mask as top_k_mask
from keras_gumbel.ops._densities import (
    binary_concrete_log_prob as binary_concrete_log_prob,
)
from keras_gumbel.ops._densities import concrete_log_prob as concrete_log_prob
from keras_gumbel.ops._densities import (
    exp_concrete_log_prob as exp_concrete_log_prob,
)
from keras_gumbel.ops._densities import (
    logit_binary_concrete_log_prob as logit_binary_concrete_log_prob,
)
from keras_gumbel.ops._discrete import categorical as categorical
from keras_gumbel.ops._discrete import gumbel_max as gumbel_max
from keras_gumbel.ops._discrete import one_hot_argmax as one_hot_argmax
from keras_gumbel.ops._gates import hard_concrete as hard_concrete
from keras_gumbel.ops._gates import stochastic_gate as stochastic_gate
from keras_gumbel.ops._information import (
    categorical_entropy as categorical_entropy,
)
from keras_gumbel.ops._information import categorical_kl as categorical_kl
from keras_gumbel.ops._mixing import mix_uniform as mix_uniform
from keras_gumbel.ops._orders import (
    plackett_luce_log_prob as plackett_luce_log_prob,
)
from keras_gumbel.ops._orders import (
    sample_without_replacement as sample_without_replacement,
)
from keras_gumbel.ops._permutations import gumbel_sinkhorn as gumbel_sinkhorn
from keras_gumbel.ops._permutations import matching as matching
from keras_gumbel.ops._permutations import sinkhorn as sinkhorn
from keras_gumbel.ops._projection import (
    project_capped_box as project_capped_box,
)
from keras_gumbel.ops._ranking import soft_rank as soft_rank
from keras_gumbel.ops._ranking import soft_top_k as soft_top_k
from keras_gumbel.ops._sampling import gumbel_log_softmax as gumbel_log_softmax
from keras_gumbel.ops._sampling import gumbel_softmax as gumbel_softmax
from keras_gumbel.ops._sampling import sample_one_hot as sample_one_hot
from keras_gumbel.ops._subsets import gumbel_top_k as gumbel_top_k
from keras_gumbel.ops._subsets import relaxed_top_k as relaxed_top_k
from keras_gumbel.ops._subsets import sample_subset as sample_subset
from keras_gumbel.ops._subsets import subset_marginals as subset_marginals
