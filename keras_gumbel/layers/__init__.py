"""Layers that choose."""

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
