"""Masks: layers that multiply weights, features or channels by scores."""

from keras_gumbel._exports import dir_of
from keras_gumbel.masks._base import Mask
from keras_gumbel.masks._concrete_mask import ConcreteMask
from keras_gumbel.masks._fisher_mask import FisherMask
from keras_gumbel.masks._gaussian_mask import GaussianMask
from keras_gumbel.masks._hard_concrete_mask import HardConcreteMask
from keras_gumbel.masks._learned_mask import LearnedMask
from keras_gumbel.masks._lookup import get
from keras_gumbel.masks._magnitude_mask import MagnitudeMask
from keras_gumbel.masks._pattern_mask import PatternMask
from keras_gumbel.masks._random_mask import RandomMask
from keras_gumbel.masks._saliency_mask import SaliencyMask

__all__ = [
    "ConcreteMask",
    "FisherMask",
    "GaussianMask",
    "HardConcreteMask",
    "LearnedMask",
    "MagnitudeMask",
    "Mask",
    "PatternMask",
    "RandomMask",
    "SaliencyMask",
    "get",
]
__dir__ = dir_of(__all__)
