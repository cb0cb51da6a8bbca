"""Pure functions: tensors in, tensors out, no variables."""

from keras_gumbel.ops.estimators import straight_through as straight_through
from keras_gumbel.ops.projection import project_capped_box as project_capped_box
from keras_gumbel.ops.sampling import gumbel_max as gumbel_max
from keras_gumbel.ops.sampling import gumbel_softmax as gumbel_softmax
from keras_gumbel.ops.sampling import one_hot_argmax as one_hot_argmax
from keras_gumbel.ops.sampling import relaxed_bernoulli as relaxed_bernoulli
