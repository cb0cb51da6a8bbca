"""The projection for one variable, as a Keras constraint."""

import math
from typing import Any

import keras

from keras_gumbel._exports import dir_of
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_number
from keras_gumbel.ops._projection import project_capped_box

__all__ = ["CappedBox"]
__dir__ = dir_of(__all__)


@keras.saving.register_keras_serializable(package="keras_gumbel")
class CappedBox(keras.constraints.Constraint):
    """Keeps one variable in the box [0, 1]^n with a cap on its sum.

    ```
    w <- argmin_s 1/2 ||s - w||^2
    subject to 0 <= s_i <= 1 and sum_i s_i <= budget              # Eq. (30)
    ```

    For a budget over several variables, use `ProjectedOptimizer` on variables
    without a constraint. Two projections in a row are not the projection onto
    both sets.

    Args:
        budget: Non-negative finite number K, the largest sum.

    Raises:
        ValueError: If `budget` is not a non-negative finite number.

    Example:

    >>> gate = keras_gumbel.layers.ConcreteMask(
    ...     scores_constraint=keras_gumbel.constraints.CappedBox(8)
    ... )

    References:
        - [Zhou et al., 2021](https://arxiv.org/abs/2105.01571)
    """

    def __init__(self, budget: float) -> None:
        if not is_number(budget) or not 0 <= budget < math.inf:
            raise invalid_argument(
                "CappedBox", "budget", "a non-negative finite number", budget
            )
        self.budget = budget

    def __call__(self, w: Tensor) -> Tensor:
        return project_capped_box(w, self.budget, differentiable=False)

    def get_config(self) -> dict[str, Any]:
        return {"budget": self.budget}
