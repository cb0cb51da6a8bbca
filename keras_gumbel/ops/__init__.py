"""Pure functions: tensors in, tensors out, no variables.

Choose one of K classes:

| function | returns | gradient |
|---|---|---|
| `gumbel_softmax` | relaxed one-hot sample | its own |
| `gumbel_log_softmax` | the logarithm of a relaxed sample | its own |
| `sample_one_hot` | one-hot sample: `gumbel_softmax(hard=True)` | estimator's |
| `gumbel_max` | index of a sample | none |
| `categorical` | the same, faster for many classes; no `noise=` | none |
| `one_hot_argmax` | one-hot vector of the largest, no sample | none |

Choose k of n items:

| function | returns | gradient |
|---|---|---|
| `relaxed_top_k` | relaxed sample of k items, drawn one by one | its own |
| `gumbel_top_k` | k-hot sample of the same items | none |
| `sample_without_replacement` | their indices, in order | log-probability's |
| `sample_subset` | k-hot sample of a whole subset | exact marginals' |
| `subset_marginals` | the probability of each item, no sample | its own |
| `soft_top_k` | the k largest, relaxed, no sample | its own |
| `top_k_mask` | the K largest of several tensors, no sample | none |

`gumbel_top_k` and `sample_subset` draw from different distributions. The former
draws items one after another without replacement. The latter draws subsets in
proportion to the product of their weights.
"""

from keras_gumbel._exports import dir_of
from keras_gumbel._straight_through import straight_through
from keras_gumbel.ops._bernoulli import logit_relaxed_bernoulli
from keras_gumbel.ops._bernoulli import relaxed_bernoulli
from keras_gumbel.ops._bernoulli import sample_bernoulli
from keras_gumbel.ops._cardinality import top_k_mask
from keras_gumbel.ops._densities import binary_concrete_log_prob
from keras_gumbel.ops._densities import concrete_log_prob
from keras_gumbel.ops._densities import exp_concrete_log_prob
from keras_gumbel.ops._densities import logit_binary_concrete_log_prob
from keras_gumbel.ops._discrete import categorical
from keras_gumbel.ops._discrete import gumbel_max
from keras_gumbel.ops._discrete import one_hot_argmax
from keras_gumbel.ops._gates import hard_concrete
from keras_gumbel.ops._gates import stochastic_gate
from keras_gumbel.ops._information import categorical_entropy
from keras_gumbel.ops._information import categorical_kl
from keras_gumbel.ops._mixing import mix_uniform
from keras_gumbel.ops._orders import plackett_luce_log_prob
from keras_gumbel.ops._orders import sample_without_replacement
from keras_gumbel.ops._permutations import gumbel_sinkhorn
from keras_gumbel.ops._permutations import matching
from keras_gumbel.ops._permutations import sinkhorn
from keras_gumbel.ops._projection import project_capped_box
from keras_gumbel.ops._ranking import soft_rank
from keras_gumbel.ops._ranking import soft_top_k
from keras_gumbel.ops._sampling import gumbel_log_softmax
from keras_gumbel.ops._sampling import gumbel_softmax
from keras_gumbel.ops._sampling import sample_one_hot
from keras_gumbel.ops._subsets import gumbel_top_k
from keras_gumbel.ops._subsets import relaxed_top_k
from keras_gumbel.ops._subsets import sample_subset
from keras_gumbel.ops._subsets import subset_marginals

__all__ = [
    "binary_concrete_log_prob",
    "categorical",
    "categorical_entropy",
    "categorical_kl",
    "concrete_log_prob",
    "exp_concrete_log_prob",
    "gumbel_log_softmax",
    "gumbel_max",
    "gumbel_sinkhorn",
    "gumbel_softmax",
    "gumbel_top_k",
    "hard_concrete",
    "logit_binary_concrete_log_prob",
    "logit_relaxed_bernoulli",
    "matching",
    "mix_uniform",
    "one_hot_argmax",
    "plackett_luce_log_prob",
    "project_capped_box",
    "relaxed_bernoulli",
    "relaxed_top_k",
    "sample_bernoulli",
    "sample_one_hot",
    "sample_subset",
    "sample_without_replacement",
    "sinkhorn",
    "soft_rank",
    "soft_top_k",
    "stochastic_gate",
    "straight_through",
    "subset_marginals",
    "top_k_mask",
]
__dir__ = dir_of(__all__)
