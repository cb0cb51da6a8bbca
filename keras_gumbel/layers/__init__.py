"""Layers that choose."""

from keras_gumbel.layers.gumbel_softmax import GumbelSoftmax as GumbelSoftmax
from keras_gumbel.layers.permutation_sampler import (
    PermutationSampler as PermutationSampler,
)
from keras_gumbel.layers.straight_through_argmax import (
    StraightThroughArgmax as StraightThroughArgmax,
)
from keras_gumbel.layers.subset_sampler import SubsetSampler as SubsetSampler
from keras_gumbel.masks.concrete_mask import ConcreteMask as ConcreteMask
