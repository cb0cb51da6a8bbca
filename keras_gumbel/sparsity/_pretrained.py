"""Guesses whether a network has been trained before."""

import keras
import numpy as np
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel.masks import Mask
from keras_gumbel.sparsity._scan import WeightMatrix


def is_pretrained(
    model: keras.Layer,
    matrices: list[WeightMatrix],
    chosen: list[WeightMatrix],
) -> bool:
    """Guesses whether a network has been trained before.

    Initializers fill biases, and the scales and offsets of normalization, with
    constants, and training changes them. A network counts as pretrained if at
    least half of these weights are no longer constant, or if it has none.

    Args:
        model: Keras model or layer.
        matrices: List of `WeightMatrix`, all of the model.
        chosen: List of `WeightMatrix`, the weights that are to be masked.
    """
    owners = {id(matrix.layer) for matrix in chosen}
    known = {id(matrix.weight) for matrix in matrices}
    vectors = {
        id(weight): weight
        for layer in [model, *_keras_private.flatten_layers(model)]
        if not isinstance(layer, Mask)
        for weight in layer.weights
        if (weight.trainable or id(layer) in owners)
        and id(weight) not in known
        and np.prod(weight.shape) > 1
    }
    changed = [not _is_initial(weight) for weight in vectors.values()]
    return not changed or 2 * sum(changed) >= len(changed)


def _is_initial(weight: keras.Variable) -> bool:
    """Whether a weight holds one constant, or zeros and ones."""
    values = ops.convert_to_numpy(ops.cast(weight, "float32"))
    # An LSTM starts with ones for its forget gates among zeros.
    return bool(
        (values == values.flat[0]).all() or np.isin(values, (0, 1)).all()
    )
