"""Where the gradients of discrete samples come from."""

from keras_gumbel.estimators._arm import ARM as ARM
from keras_gumbel.estimators._base import Estimator as Estimator
from keras_gumbel.estimators._disarm import DisARM as DisARM
from keras_gumbel.estimators._from_function import FromFunction as FromFunction
from keras_gumbel.estimators._gapped import Gapped as Gapped
from keras_gumbel.estimators._gumbel_rao import GumbelRao as GumbelRao
from keras_gumbel.estimators._lookup import get as get
from keras_gumbel.estimators._reinmax import ReinMax as ReinMax
from keras_gumbel.estimators._rloo import RLOO as RLOO
from keras_gumbel.estimators._score_function import (
    ScoreFunction as ScoreFunction,
)
from keras_gumbel.estimators._score_tape import ScoreTape as ScoreTape
from keras_gumbel.estimators._straight_through import (
    StraightThrough as StraightThrough,
)
from keras_gumbel.estimators._straight_through_gumbel import (
    StraightThroughGumbel as StraightThroughGumbel,
)
