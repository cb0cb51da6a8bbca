"""The estimators that have short names, by what they need."""

from keras_gumbel import estimators
from keras_gumbel.estimators._lookup import SHORT_NAMES

# Those that need one draw, and the gradient of the loss there.
PATHWISE = [
    name for name in SHORT_NAMES if not estimators.get(name).compares_losses
]

# Those that have no bias for any loss.
UNBIASED = [
    name for name in SHORT_NAMES if not estimators.get(name).needs_loss_gradient
]
