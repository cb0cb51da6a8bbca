"""From a masked model to a plain Keras one."""

import keras
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel.layers.concrete_mask import ConcreteMask
from keras_gumbel.layers.sparsified import Sparsified
from keras_gumbel.sparsity._harden import harden
from keras_gumbel.sparsity._masks import find_masks
from keras_gumbel.sparsity._rewrite import copy_layer
from keras_gumbel.sparsity._rewrite import copy_weights
from keras_gumbel.sparsity._rewrite import require_reachable
from keras_gumbel.sparsity._rewrite import require_rewritable
from keras_gumbel.sparsity._rewrite import rewrite
from keras_gumbel.sparsity._shrinking.rebuild import shrink_for


def strip(model: keras.Model, shrink: bool = False) -> keras.Model:
    """Returns a plain Keras copy of a model, its masks folded into kernels.

    Masked weights are exactly 0, K others remain, and nothing of this package
    is left: the saved file loads where `keras_gumbel` is not installed. A
    `ConcreteMask` between layers becomes a `Rescaling` by its final mask.

    A model that was not hardened is hardened first, with the budget that
    stands in the `ProjectedOptimizer` it is compiled with.

    Args:
        model: Sequential or Functional model with masked layers, or the
            `MonteCarloModel` that holds it.
        shrink: Boolean. Whether to remove the units that are dead without the
            masked weights, as `keras_gumbel.shrink` does. The model is
            smaller then, and no longer has K kernel weights. Defaults to
            `False`.

    Returns:
        A model of the same kind, not compiled.

    Raises:
        TypeError: If `model` is not a Sequential or Functional model.
        ValueError: If the model has no mask, a score is NaN, the model is
            neither hardened nor compiled with a `ProjectedOptimizer`, or a
            masked layer is inside of another layer.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> hard = keras_gumbel.harden(keras_gumbel.sparsify(model), budget=5)
    >>> kernel, bias = keras_gumbel.strip(hard).get_weights()
    >>> int((kernel != 0).sum())
    5
    """
    plain = require_rewritable("strip", model)
    masks = find_masks("strip", model)
    require_reachable("strip", plain, [m.layer for m in masks])
    if not all(m.mask.fixed for m in masks):
        plain = harden(model)

    def replace(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, Sparsified):
            return copy_layer(layer.layer)
        if isinstance(layer, ConcreteMask):
            return _rescaling(layer)
        return copy_layer(layer)

    def fill(layer: keras.Layer, replacement: keras.Layer) -> None:
        if isinstance(layer, Sparsified):
            _fold(layer, replacement)
        elif not isinstance(layer, ConcreteMask):
            copy_weights(layer, replacement)

    stripped = rewrite(plain, replace, fill)
    return shrink_for("strip", stripped) if shrink else stripped


def _fold(layer: Sparsified, plain: keras.Layer) -> None:
    """Multiplies the mask into the kernel."""
    copy_weights(layer.layer, plain)
    kernels = _keras_private.kernels(plain)
    for mask, kernel, layout in zip(
        layer.masks, kernels, layer.layouts, strict=True
    ):
        final = layout.expand(mask.mask_scores)
        kernel.assign(kernel * ops.cast(final, kernel.dtype))


def _rescaling(mask: ConcreteMask) -> keras.layers.Rescaling:
    scale = ops.convert_to_numpy(mask.broadcast(mask.mask_scores))
    return keras.layers.Rescaling(
        scale=scale.tolist(), name=mask.name, dtype=mask.dtype_policy
    )
