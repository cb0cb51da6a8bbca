"""Evaluates a model with its final mask."""

from typing import Any

import keras
from keras import ops

from keras_gumbel.sparsity._choices import Decisions


def evaluate_soft_and_hard(
    model: keras.Model,
    decisions: Decisions,
    data: Any,
    batch_size: int | None = None,
) -> tuple[dict[str, float], dict[str, float]]:
    """Evaluates a model as it is, and with its final mask.

    The final mask replaces the scores temporarily, because a copy of the model
    would be compiled again in every epoch. Afterwards, all variables that an
    evaluation may change, including noise and metrics, are restored.

    Returns:
        A tuple of two dictionaries of losses and metrics by name.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    scores = [s.variable for s in decisions.scores]
    touched = [*scores, *model.non_trainable_variables]
    touched += model.metrics_variables
    before = [ops.convert_to_numpy(v).copy() for v in touched]

    def evaluate() -> dict[str, float]:
        return model.evaluate(
            x,
            y,
            batch_size=batch_size,
            sample_weight=sample_weight,
            verbose=0,
            return_dict=True,
        )

    try:
        soft = evaluate()
        for variable, final in zip(scores, decisions.finals, strict=True):
            variable.assign(final)
        hard = evaluate()
    finally:
        for variable, value in zip(touched, before, strict=True):
            variable.assign(value)
    return soft, hard
