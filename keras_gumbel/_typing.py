"""Type aliases shared by the package."""

from typing import Any
from typing import TypeAlias

# A tensor is a `jax.Array`, a `tf.Tensor`, a `torch.Tensor`, a `KerasTensor`
# or anything `keras.ops.convert_to_tensor` accepts: no static type covers
# them, and Keras itself ships none.
Tensor: TypeAlias = Any

# One entry per dimension, or `None` if its length is unknown until the model
# runs.
Shape: TypeAlias = tuple[int | None, ...]

# Seeds as in `keras.random`: an integer, `None`, or a
# `keras.random.SeedGenerator`, which Keras does not type.
Seed: TypeAlias = Any
