"""Layers that choose."""

from keras_gumbel.layers._gumbel_softmax import GumbelSoftmax as GumbelSoftmax
from keras_gumbel.layers._permutation_sampler import (
    PermutationSampler as PermutationSampler,
)
from keras_gumbel.layers._straight_through_argmax import (
    StraightThroughArgmax as StraightThroughArgmax,
)
from keras_gumbel.layers._subset_sampler import SubsetSampler as SubsetSampler
from keras_gumbel.masks._concrete_mask import ConcreteMask as ConcreteMask
