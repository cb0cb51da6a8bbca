"""The scores of a model: those of its masks, and other marked variables."""

import dataclasses
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gumbel._scores import Mark
from keras_gumbel._scores import is_final
from keras_gumbel._scores import mark_of
from keras_gumbel._scores import marked_scores
from keras_gumbel._scores import name_of
from keras_gumbel._scores import rename
from keras_gumbel.masks import Mask
from keras_gumbel.sparsity._masked_layer import attached_masks
from keras_gumbel.sparsity._masked_weight import GatedWeight
from keras_gumbel.sparsity._masked_weight import Part
from keras_gumbel.sparsity._scan import named_layers
from keras_gumbel.sparsity._scan import require_built
from keras_gumbel.sparsity._scan import weight_matrices


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """The scores of one mask of a model, or one marked variable.

    Attributes:
        variable: The variable with the scores.
        mask: The `Mask` it belongs to, or `None`.
    """

    variable: keras.Variable
    mask: Any = None

    @property
    def parts(self) -> tuple[Part, ...]:
        """The weights that the mask is on."""
        return getattr(self.mask, "parts", ())

    def named_parts(self) -> list[tuple[str, Part]]:
        """Returns these weights with their names in reports."""
        return [(getattr(p, "name", self.name), p) for p in self.parts]

    @property
    def part(self) -> Any:
        """The `MaskedWeight` that alone has the scores, or `None`."""
        own = self.mark.place is None and self.parts
        return self.parts[0] if own else None

    @property
    def weight(self) -> keras.Variable | None:
        """The masked weight, if it alone has the scores, or `None`."""
        return None if self.part is None else self.part.weight

    @property
    def of_features(self) -> bool:
        """Whether the mask stands between layers and masks no weight."""
        return self.mask is not None and not self.parts

    @property
    def name(self) -> str:
        """The name in reports and dictionaries."""
        return name_of(self.variable)

    @property
    def mark(self) -> Mark:
        """The `Mark` of the scores."""
        return mark_of(self.variable)

    @property
    def weights_per_score(self) -> int:
        """The number of weights that one score controls."""
        return self.mark.weights_per_score

    @property
    def size(self) -> int:
        """The number of scores."""
        return math.prod(self.variable.shape)

    @property
    def num_weights(self) -> int:
        """The number of weights that they control together."""
        return self.weights_per_score * self.size

    @property
    def hardened(self) -> bool:
        """Whether `harden` has made the mask final."""
        if self.mask is None:
            return hasattr(self.variable, SAVED)
        return self.mask.hardened

    @property
    def frozen(self) -> bool:
        """Whether the scores are not trained, but not final."""
        return not self.hardened and not self.variable.trainable

    @property
    def final(self) -> bool:
        """Whether training has ended with these scores as its final mask."""
        decided = np.isin(self.values(), (0, 1)).all()
        return bool(decided) and is_final(self.variable)

    def values(self) -> np.ndarray:
        """Returns the scores in [0, 1]: of a final mask, zeros and ones."""
        if self.mask is not None and self.mask.hardened:
            return ops.convert_to_numpy(self.mask.final_mask).astype("float32")
        return np.clip(ops.convert_to_numpy(self.variable), 0.0, 1.0)

    def learned(self) -> np.ndarray:
        """Returns the scores in [0, 1] that were learned before `harden`."""
        if self.mask is None and self.hardened:
            return np.clip(getattr(self.variable, SAVED)[0], 0.0, 1.0)
        return np.clip(ops.convert_to_numpy(self.variable), 0.0, 1.0)

    def expected(self) -> float:
        """Returns the expected number of weights that are kept (Eq. 19)."""
        return self.weights_per_score * sum_scores(self.values())

    def count(self, final: np.ndarray) -> int:
        """Returns how many weights a final mask keeps."""
        return self.weights_per_score * int(np.count_nonzero(final))

    def harden(self, final: np.ndarray) -> None:
        """Makes a mask final."""
        if self.mask is not None:
            self.mask.harden(final)
            return
        if not self.hardened:
            before = ops.convert_to_numpy(self.variable).copy()
            setattr(self.variable, SAVED, (before, self.variable.trainable))
        self.variable.assign(final)
        self.variable.trainable = False

    def soften(self) -> None:
        """Undoes `harden`."""
        if self.mask is not None:
            self.mask.soften()
        elif self.hardened:
            before, trainable = getattr(self.variable, SAVED)
            self.variable.assign(before)
            self.variable.trainable = trainable
            delattr(self.variable, SAVED)


def gated_parts(scores: list[Scores]) -> list[GatedWeight]:
    """Lists the weights whose channels have scores, once each."""
    parts = {
        id(p): p for s in scores for p in s.parts if isinstance(p, GatedWeight)
    }
    return list(parts.values())


def gated_weights(
    scores: list[Scores], values: list[np.ndarray]
) -> list[tuple[GatedWeight, np.ndarray]]:
    """Returns the weights whose channels have scores, with values.

    Args:
        scores: List of `Scores`.
        values: List of arrays, one for each.

    Returns:
        List of pairs of a weight and the product of the values of its
        channels, in a shape that broadcasts to that of the weight.
    """
    known = {
        id(s.mask): ops.convert_to_tensor(value, "float32")
        for s, value in zip(scores, values, strict=True)
        if s.mark.place is not None
    }
    found = []
    for part in gated_parts(scores):
        own = {
            id(m): known[id(m)] if id(m) in known else m.current(False)
            for m in part.masks
        }
        found.append((part, ops.convert_to_numpy(part.spread(own))))
    return found


# The attribute of a marked variable without a mask that keeps its value from
# before `harden`.
SAVED = "keras_gumbel_saved"


def find_scores(owner: str, model: Any) -> list[Scores]:
    """Lists the scores of a model, at every depth, once each.

    They get their names in this model, unless they already have longer names
    from a model that contains it.

    Raises:
        TypeError: If `model` is not a Keras model or layer.
        ValueError: If there are none, or the model is not built.
    """
    require_built(owner, model)
    masks: dict[int, tuple[str, Mask]] = {}
    for prefix, layer in named_layers(model):
        if isinstance(layer, Mask) and layer.built:
            masks[id(layer.mask_scores)] = prefix.removesuffix("/"), layer
    names = {id(m.weight): m.name for m in weight_matrices(model)}
    for mask in attached_masks(model):
        name = mark_of(mask.mask_scores).name or ""
        if mark_of(mask.mask_scores).place is None:
            name = names[id(mask.parts[0].weight)]
        masks[id(mask.mask_scores)] = name, mask
    found = []
    for variable in marked_scores(model.variables):
        name, own = masks.get(id(variable), (variable.path, None))
        known = mark_of(variable).name
        first = None if own is None else own.name
        if known in (None, first) or name.endswith(f"/{known}"):
            rename(variable, name)
        found.append(Scores(variable, own))
    if not found:
        raise ValueError(
            f"`{owner}` found no mask in the model {model.name!r}. Call "
            "`keras_gumbel.sparsify` on it first."
        )
    return found


class Replaced:
    """The optimizer that `harden` has replaced.

    Args:
        before: The optimizer that the model was compiled with.
        after: The optimizer that has replaced it.
    """

    _ATTRIBUTE = "keras_gumbel_replaced"

    def __init__(self, before: Any, after: Any) -> None:
        self.before = before
        self.after = after

    @classmethod
    def of(cls, model: keras.Layer) -> "Replaced | None":
        """Returns the replaced optimizer, unless the model was recompiled."""
        found = vars(model).get(cls._ATTRIBUTE)
        current = getattr(model, "optimizer", None)
        return found if found and found.after is current else None

    def keep(self, model: keras.Layer) -> None:
        """Stores it on the model, bypassing Keras, which would save it."""
        vars(model)[self._ATTRIBUTE] = self

    @classmethod
    def forget(cls, model: keras.Layer) -> None:
        """Removes it from the model."""
        vars(model).pop(cls._ATTRIBUTE, None)


def sum_scores(values: np.ndarray) -> float:
    """Returns the sum of scores, the expected number kept (Eq. 19)."""
    return float(values.sum(dtype="float64"))


def divergence(scores: list[Scores]) -> str | None:
    """Returns which scores are NaN and what to do, or `None`."""
    names = [s.name for s in scores if np.isnan(s.values()).any()]
    if not names:
        return None
    return (
        f"Training diverged: scores of {', '.join(names)} are NaN, so no "
        "final mask can be chosen. Restore earlier weights, and train with "
        "smaller learning rates or with gradient clipping."
    )


def require_numbers(owner: str, scores: list[Scores]) -> None:
    """Raises if scores are NaN."""
    diverged = divergence(scores)
    if diverged is not None:
        raise ValueError(f"`{owner}` cannot choose a mask. {diverged}")
