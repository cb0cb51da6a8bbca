"""Where the gradients of discrete samples come from."""

from keras_gumbel.estimators._lookup import get as get
from keras_gumbel.estimators.arm import ARM as ARM
from keras_gumbel.estimators.base import Estimator as Estimator
from keras_gumbel.estimators.disarm import DisARM as DisARM
from keras_gumbel.estimators.from_function import FromFunction as FromFunction
from keras_gumbel.estimators.gapped import Gapped as Gapped
from keras_gumbel.estimators.gumbel_rao import GumbelRao as GumbelRao
from keras_gumbel.estimators.reinmax import ReinMax as ReinMax
from keras_gumbel.estimators.rloo import RLOO as RLOO
from keras_gumbel.estimators.score_function import (
    ScoreFunction as ScoreFunction,
)
from keras_gumbel.estimators.score_tape import ScoreTape as ScoreTape
from keras_gumbel.estimators.straight_through import (
    StraightThrough as StraightThrough,
)
from keras_gumbel.estimators.straight_through_gumbel import (
    StraightThroughGumbel as StraightThroughGumbel,
)
