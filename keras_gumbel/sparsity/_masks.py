"""The masks of a model, and the final mask that keeps exactly K."""

import dataclasses
import math

import keras
import numpy as np
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_number
from keras_gumbel._validation import require_density
from keras_gumbel.layers.concrete_mask import ConcreteMask
from keras_gumbel.layers.sparsified import Sparsified
from keras_gumbel.optimizers import ProjectedOptimizer

# A float32 schedule may leave K this much below the whole number it means.
_WHOLE = 1e-3


@dataclasses.dataclass(frozen=True)
class Masked:
    """A mask and what it masks.

    Attributes:
        layer: The layer in the model: a `Sparsified`, or the mask itself.
        mask: The `ConcreteMask`.
        kernel: The variable it masks, or `None` for a mask of activations.
    """

    layer: keras.Layer
    mask: ConcreteMask
    kernel: keras.Variable | None

    @property
    def name(self) -> str:
        """The names of the layer and of its kernel, or of the mask."""
        if self.kernel is None:
            return str(self.layer.name)
        return f"{self.layer.name}/{self.kernel.name}"

    def scores(self) -> np.ndarray:
        """Returns the scores in [0, 1]."""
        scores = ops.convert_to_numpy(self.mask.mask_scores)
        return np.clip(scores, 0.0, 1.0)

    def magnitudes(self) -> np.ndarray:
        """Returns what decides between equal scores."""
        if self.kernel is None:
            return np.zeros(self.mask.mask_scores.shape, "float32")
        return np.abs(ops.convert_to_numpy(self.kernel).astype("float32"))


def find_masks(owner: str, model: keras.Model) -> list[Masked]:
    """Lists the masks of a model, at every depth, once each.

    Raises:
        ValueError: If there is none, or one is not built.
    """
    layers = _keras_private.flatten_layers(model)
    wrapped = [layer for layer in layers if isinstance(layer, Sparsified)]
    inside = {id(mask) for layer in wrapped for mask in layer.masks}
    gates = [
        layer
        for layer in layers
        if isinstance(layer, ConcreteMask) and id(layer) not in inside
    ]
    if not wrapped and not gates:
        raise ValueError(
            f"`{owner}` found no masked layer in the model {model.name!r}. "
            "Expected a model returned by `keras_gumbel.sparsify`, or with "
            "layers of `keras_gumbel.layers.Sparsified` in it."
        )
    if not all(layer.built for layer in wrapped + gates):
        raise ValueError(
            f"`{owner}` needs the masks of the model {model.name!r}, which is "
            "not built. Call it on data, or `model.build(input_shape)`, first."
        )
    masks = [
        Masked(layer, mask, kernel)
        for layer in wrapped
        for mask, kernel in zip(layer.masks, layer.kernels, strict=True)
    ]
    masks += [Masked(gate, gate, None) for gate in gates]
    return masks


def find_projected(
    optimizer: keras.optimizers.Optimizer | None,
) -> ProjectedOptimizer | None:
    """Returns the `ProjectedOptimizer` in what a model is compiled with."""
    if optimizer is None or isinstance(optimizer, ProjectedOptimizer):
        return optimizer
    inner = getattr(optimizer, "inner_optimizer", None)
    parts = [inner, *getattr(optimizer, "optimizers", [])]
    found = (find_projected(part) for part in parts if part is not None)
    return next((part for part in found if part is not None), None)


def decide_budget(
    owner: str,
    model: keras.Model,
    masks: list[Masked],
    density: float | None = None,
    budget: int | None = None,
) -> int | None:
    """Returns the number of ones of the final mask.

    It is the argument where one is given, else the budget in force in the
    optimizer the model is compiled with, else the number of ones of masks
    that are fixed already, else `None`.
    """
    count = sum(m.scores().size for m in masks)
    if density is not None and budget is not None:
        raise invalid_argument(
            owner, "density", "given only if `budget` is not", density
        )
    if density is not None:
        require_density(owner, "density", density)
        return math.floor(density * count + _WHOLE)
    if budget is not None:
        if not is_number(budget) or not 0 < budget <= count:
            raise invalid_argument(
                owner,
                "budget",
                f"a number in (0, {count}], the number of scores of the model",
                budget,
            )
        return math.floor(budget)
    optimizer = find_projected(getattr(model, "optimizer", None))
    if optimizer is not None and optimizer.built:
        return math.floor(optimizer.current_budget() + _WHOLE)
    if all(m.mask.fixed for m in masks):
        return round(sum(float(m.scores().sum()) for m in masks))
    return None


def top_k(masks: list[Masked], budget: int) -> list[np.ndarray]:
    """Keeps the largest scores of all masks together, exactly `budget`.

    Of equal scores the one on the larger weight is kept.

    Returns:
        A list of float32 arrays of zeros and ones, one for each mask.
    """
    scores = np.concatenate([m.scores().ravel() for m in masks])
    magnitudes = np.concatenate([m.magnitudes().ravel() for m in masks])
    kept = np.lexsort((-magnitudes, -scores))[:budget]
    chosen = np.zeros(scores.size, "float32")
    chosen[kept] = 1.0
    shapes = [m.scores().shape for m in masks]
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    parts = np.split(chosen, ends[:-1])
    return [
        part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)
    ]
