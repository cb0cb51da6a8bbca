"""Turns a model with masks into a plain Keras model."""

import keras
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._scores import marked_scores
from keras_gumbel._scores import set_mark
from keras_gumbel.masks import Mask
from keras_gumbel.sparsity._choices import empty
from keras_gumbel.sparsity._choices import warn_of_empty
from keras_gumbel.sparsity._found import SAVED
from keras_gumbel.sparsity._found import Replaced
from keras_gumbel.sparsity._found import find_scores
from keras_gumbel.sparsity._harden import harden_for
from keras_gumbel.sparsity._masked_layer import detach
from keras_gumbel.sparsity._masked_layer import is_masked
from keras_gumbel.sparsity._masked_weight import Part
from keras_gumbel.sparsity._masked_weight import fold


def strip(model: keras.Layer) -> keras.Layer:
    """Folds the masks of a model into its weights, in place.

    Pruned weights become exactly 0, and K weights remain. The model gets its
    own class back and contains nothing of this package, so its file loads
    without `keras_gumbel`. A mask between layers becomes a
    `keras.layers.Rescaling` by its final mask. The model stays compiled, as
    after `keras_gumbel.harden`.

    A model that was not hardened is hardened first, with the final budget of
    the `ProjectedOptimizer` that it is compiled with. Exactly K weights are
    kept, even if training stopped early, and a warning says so. A model that
    was saved with a final mask can be loaded and stripped without its
    optimizer. To remove the dead units of the stripped model, pass it to
    `keras_gumbel.shrink`.

    Args:
        model: Keras model or layer with masks.

    Returns:
        The same model.

    Raises:
        TypeError: If `model` is not a Keras model or layer.
        ValueError: If the model has no mask, a score is NaN, or the model is
            neither hardened nor compiled with a `ProjectedOptimizer`, nor was
            its mask final when it was saved.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> model = keras_gumbel.harden(keras_gumbel.sparsify(model), budget=5)
    >>> kernel, bias = keras_gumbel.strip(model).get_weights()
    >>> int((kernel != 0).sum())
    5
    """
    if is_masked(model) and not marked_scores(model.variables):
        detach(model)  # its parts were stripped one by one
        return model
    scores = find_scores("strip", model)
    if all(s.hardened for s in scores):
        warn_of_empty(empty(scores, [s.values() for s in scores]), stacklevel=2)
    else:
        harden_for("strip", model)
    parts: dict[int, Part] = {}
    for s in scores:
        if getattr(s.mask, "parts", ()):
            parts.update({id(part): part for part in s.mask.parts})
        elif s.mask is not None:
            _become_rescaling(s.mask)
        else:
            delattr(s.variable, SAVED)
        set_mark(s.variable, None)
    for part in parts.values():
        fold(part)
    Replaced.forget(model)
    detach(model)
    return model


def _become_rescaling(mask: Mask) -> None:
    """Replaces a mask between layers by a `Rescaling` layer."""
    scale = ops.convert_to_numpy(mask.broadcast(mask.final_mask))
    layer = keras.layers.Rescaling(
        scale=scale.astype("float32").tolist(),
        name=mask.name,
        dtype=mask.dtype_policy,
    )
    _keras_private.take_the_place_of(mask, layer)
