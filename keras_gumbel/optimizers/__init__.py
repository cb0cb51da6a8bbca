"""Optimizers of scores: keep-probabilities under a budget."""

from keras_gumbel.optimizers._projected_optimizer import (
    ProjectedOptimizer as ProjectedOptimizer,
)
from keras_gumbel.optimizers._score_sgd import ScoreSGD as ScoreSGD
