"""Gradient estimators of discrete samples."""

from keras_gumbel._exports import dir_of
from keras_gumbel.estimators._arm import ARM
from keras_gumbel.estimators._base import Estimator
from keras_gumbel.estimators._disarm import DisARM
from keras_gumbel.estimators._from_function import FromFunction
from keras_gumbel.estimators._gapped import Gapped
from keras_gumbel.estimators._gumbel_rao import GumbelRao
from keras_gumbel.estimators._lookup import get
from keras_gumbel.estimators._rebar import REBAR
from keras_gumbel.estimators._reinmax import ReinMax
from keras_gumbel.estimators._rloo import RLOO
from keras_gumbel.estimators._score_function import ScoreFunction
from keras_gumbel.estimators._score_tape import ScoreTape
from keras_gumbel.estimators._straight_through import StraightThrough
from keras_gumbel.estimators._straight_through_gumbel import (
    StraightThroughGumbel,
)

__all__ = [
    "ARM",
    "REBAR",
    "RLOO",
    "DisARM",
    "Estimator",
    "FromFunction",
    "Gapped",
    "GumbelRao",
    "ReinMax",
    "ScoreFunction",
    "ScoreTape",
    "StraightThrough",
    "StraightThroughGumbel",
    "get",
]
__dir__ = dir_of(__all__)
