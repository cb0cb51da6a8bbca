"""The estimators that have short names, by what they need."""

from keras_gumbel import estimators
from keras_gumbel.estimators._lookup import SHORT_NAMES

# Those that need a gradient of the loss.
PATHWISE = [
    name for name in SHORT_NAMES if not estimators.get(name).compares_losses
]

# Those that compare losses, and have no bias.
UNBIASED = [name for name in SHORT_NAMES if name not in PATHWISE]
