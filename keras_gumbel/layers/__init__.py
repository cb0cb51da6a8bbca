"""Layers that choose, and layers that keep some of their weights."""

from keras_gumbel.layers.concrete_mask import ConcreteMask as ConcreteMask
from keras_gumbel.layers.gumbel_softmax import GumbelSoftmax as GumbelSoftmax
from keras_gumbel.layers.saliency_mask import SaliencyMask as SaliencyMask
from keras_gumbel.layers.sparsified import Sparsified as Sparsified
from keras_gumbel.layers.straight_through_argmax import (
    StraightThroughArgmax as StraightThroughArgmax,
)
from keras_gumbel.layers.subset_sampler import SubsetSampler as SubsetSampler
