"""A value with the gradient of another one."""

from keras import ops

from keras_gumbel._numerics import as_tensor
from keras_gumbel._typing import Tensor


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """Returns `hard` with the gradient of `soft`.

    ```
    y = hard + (soft - sg[soft])                                  # Eq. (16)
    ```

    The bracket is exactly zero in the forward pass, in every dtype and under
    every compiler. The grouping of the note, `sg[hard - soft] + soft`, is
    mathematically equal but loses bits under XLA in bfloat16.

    Args:
        hard: Tensor, the value. No gradient flows through it.
        soft: Finite tensor of the same shape, which gives the gradient.

    Returns:
        A tensor equal to `hard`, of the dtype of `soft`.

    Example:

    >>> float(keras_gumbel.ops.straight_through(1.0, 0.25))
    1.0
    """
    owner = "straight_through"
    soft = as_tensor(owner, "soft", soft)
    hard = ops.stop_gradient(as_tensor(owner, "hard", hard))
    return ops.cast(hard, soft.dtype) + (soft - ops.stop_gradient(soft))
