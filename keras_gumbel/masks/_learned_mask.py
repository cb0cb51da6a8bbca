"""The mask that consists of the scores themselves."""

import keras
from keras import ops

from keras_gumbel._typing import Tensor
from keras_gumbel.masks._base import Mask


@keras.saving.register_keras_serializable(package="keras_gumbel")
class LearnedMask(Mask):
    """Multiplies by the scores themselves, without noise.

    ```
    m = s
    output = input * m
    ```

    It is the default of `keras_gumbel.sparsify(model)`, and the relaxed mask
    with the best results in `docs/benchmarks/sparsity.md`. Between layers, it
    scales features or channels by scores in [0, 1]. Train it with
    `keras_gumbel.optimizers.ProjectedOptimizer`, which keeps sum(s) within a
    budget (Eq. 19).

    Args:
        axis: Integer, a sequence of integers, or `None`. The axes of the
            input that have separate scores. The mask is shared along all
            other axes. `None` gives every entry a score. It has no effect if
            the mask is on a weight. Defaults to `-1`.
        scores_initializer: Initializer of the scores. Defaults to `"ones"`.
        scores_constraint: Constraint of the scores, such as
            `keras_gumbel.constraints.CappedBox`, or `None`.
            `ProjectedOptimizer` does not accept scores with a constraint.
            Defaults to `None`.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Float tensor.
        training: Boolean. The mask is the same with and without.

    Input shape:
        Any, with known lengths on the axes named by `axis`.

    Output shape:
        Same as the input.

    Example:

    >>> gate = keras_gumbel.masks.LearnedMask()
    >>> tuple(gate(keras.ops.ones((2, 3))).shape)
    (2, 3)
    """

    prunes_early = True

    def draw(self, training: bool | None = False) -> Tensor:
        scores = ops.convert_to_tensor(self.mask_scores)
        return scores if training else ops.clip(scores, 0.0, 1.0)
