"""Layers that choose.

| layer | chooses | output in training |
|---|---|---|
| `GumbelSoftmax` | one of K classes | relaxed sample; `hard=True`: one-hot |
| `StraightThroughArgmax` | one of K classes | one-hot sample, or its index |
| `SubsetSampler` | k of n items | k-hot sample, or relaxed |
| `PermutationSampler` | an order of n items | permutation matrix, or relaxed |
| `ConcreteMask` | features to keep | features times a gate for each |

`GumbelSoftmax(hard=True)` and `StraightThroughArgmax()` draw the same samples
with the same gradients. Only the former can be relaxed, and only the latter
returns indices.
"""

from keras_gumbel._exports import dir_of
from keras_gumbel.layers._gumbel_softmax import GumbelSoftmax
from keras_gumbel.layers._permutation_sampler import PermutationSampler
from keras_gumbel.layers._straight_through_argmax import StraightThroughArgmax
from keras_gumbel.layers._subset_sampler import SubsetSampler
from keras_gumbel.masks._concrete_mask import ConcreteMask

__all__ = [
    "ConcreteMask",
    "GumbelSoftmax",
    "PermutationSampler",
    "StraightThroughArgmax",
    "SubsetSampler",
]
__dir__ = dir_of(__all__)
