"""Optimizers that train scores under a budget."""

from keras_gumbel._exports import dir_of
from keras_gumbel.optimizers._projected_optimizer import ProjectedOptimizer
from keras_gumbel.optimizers._score_sgd import ScoreSGD

__all__ = [
    "ProjectedOptimizer",
    "ScoreSGD",
]
__dir__ = dir_of(__all__)
