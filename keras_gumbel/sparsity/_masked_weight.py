"""Weights that are masked while their layer is called.

Keras reads every variable by its `value`, in attributes, lists or other layers.
While a layer with masks is called, `value` is the masked weight. At all other
times, for optimizers, files and the user, it is the weight itself.
"""

import contextlib
import contextvars
import dataclasses
import functools
import operator
import types
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import TypeAlias

import keras
import numpy as np
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._typing import Tensor
from keras_gumbel.granularities import Granularity
from keras_gumbel.granularities import ScoreLayout
from keras_gumbel.masks import Mask


@dataclasses.dataclass(frozen=True, eq=False)
class MaskedWeight:
    """A weight of a layer, and its mask.

    Attributes:
        layer: The layer that owns the weight and tracks the mask.
        weight: The variable.
        mask: `Mask`, with the scores.
        granularity: `Granularity`.
        layout: `ScoreLayout` of the scores.
    """

    layer: keras.Layer
    weight: keras.Variable
    mask: Mask
    granularity: Granularity
    layout: ScoreLayout

    @property
    def masks(self) -> list[Mask]:
        """The masks of the weight."""
        return [self.mask]

    def current(self, training: bool | None) -> Tensor:
        """Returns the current mask, in the shape of the weight."""
        return self.layout.expand(self.mask.current(training))

    def masked(self, weight: Tensor, mask: Tensor) -> Tensor:
        """Returns the weight under its current mask."""
        return self.mask.masked(weight, mask)

    def final(self) -> Tensor:
        """Returns the final mask, in the shape of the weight."""
        return self.layout.expand(self.mask.final_mask)


@dataclasses.dataclass(frozen=True, eq=False)
class Gate:
    """A mask of channels, on an axis of a weight.

    Attributes:
        mask: `Mask`, with a score for each set of coupled channels.
        axis: Integer, the axis.
        index: Integer array, the set of each entry of the axis, or -1.
        reader: The layer that reads the channels in the same order, on an
            axis of its first input, or `None`.
        input_axis: Integer, the axis of the input.
    """

    mask: Mask
    axis: int
    index: np.ndarray
    reader: keras.Layer | None = None
    input_axis: int = -1

    def spread(self, values: Tensor, rank: int) -> Tensor:
        """Returns the values of the sets along the axis, and 1 elsewhere."""
        if not np.array_equal(self.index, np.arange(values.shape[0])):
            one = ops.ones((1,), values.dtype)
            places = np.where(self.index < 0, values.shape[0], self.index)
            extended = ops.concatenate([values, one])
            values = ops.take(extended, places.astype("int32"))
        shape = [1] * rank
        shape[self.axis] = self.index.size
        return ops.reshape(values, shape)


@dataclasses.dataclass(frozen=True, eq=False)
class GatedWeight:
    """A weight of a layer, and the masks of the channels along its axes.

    Attributes:
        layer: The layer that owns the weight.
        weight: The variable.
        name: String, the name in reports and dictionaries.
        gates: Tuple of `Gate`.
    """

    layer: keras.Layer
    weight: keras.Variable
    name: str
    gates: tuple[Gate, ...]

    @property
    def masks(self) -> list[Mask]:
        """The masks of the weight, once each."""
        return list({id(g.mask): g.mask for g in self.gates}.values())

    def current(self, training: bool | None) -> Tensor:
        """Returns the current mask, which broadcasts to the weight."""
        return self.spread(
            {id(mask): mask.current(training) for mask in self.masks}
        )

    def masked(self, weight: Tensor, mask: Tensor) -> Tensor:
        """Returns the weight under its current mask."""
        return self.masks[0].masked(weight, mask)

    def final(self) -> Tensor:
        """Returns the final mask, which broadcasts to the weight."""
        return self.spread(
            {
                id(mask): ops.cast(mask.final_mask, "float32")
                for mask in self.masks
            }
        )

    def spread(self, values: dict[int, Tensor]) -> Tensor:
        """Returns the product of the values of masks, given by their ids."""
        rank = len(self.weight.shape)
        spread = [g.spread(values[id(g.mask)], rank) for g in self.gates]
        return functools.reduce(
            operator.mul, [ops.cast(x, "float32") for x in spread]
        )


Part: TypeAlias = MaskedWeight | GatedWeight


def fold(part: Part) -> None:
    """Writes the zeros of the final mask into a weight."""
    weight = ops.convert_to_tensor(part.weight)
    # A product would be -0 for negative weights, and these signs would take as
    # much space in a compressed file as the mask.
    kept = ops.not_equal(part.final(), 0)
    part.weight.assign(ops.where(kept, weight, ops.zeros_like(weight)))


def unreadable(mask: Mask, weight: keras.Variable) -> ValueError:
    """Returns the error for ranking a weight that cannot be read here."""
    return ValueError(
        f"`{type(mask).__name__}` ranks {weight.path}, which is frozen. "
        "A training step on JAX cannot read frozen weights. Their ranking "
        "needs no training: call `keras_gumbel.harden(model, density=...)` "
        "before `fit`."
    )


class _Drawn:
    """A weight under the mask that was drawn for it.

    Args:
        part: `MaskedWeight` or `GatedWeight`.
        training: Boolean, whether to draw noise.
    """

    def __init__(self, part: Part, training: bool | None) -> None:
        self.part = part
        self.dtype = keras.backend.standardize_dtype(part.layer.compute_dtype)
        self.mask = part.current(training)
        with _keras_private.without_autocast():
            self.value = self._masked(ops.convert_to_tensor(part.weight))

    def read(self, weight: Tensor) -> Tensor:
        """Returns the masked weight in the dtype of the read weight."""
        dtype = keras.backend.standardize_dtype(weight.dtype)
        if dtype == self.dtype:
            return self.value
        # The layer that reads it has another dtype policy.
        return self.part.masked(weight, self.mask)

    def _masked(self, weight: Tensor) -> Tensor:
        return self.part.masked(ops.cast(weight, self.dtype), self.mask)


# The drawn masks, by the ids of their variables. `_watched` adds its ones, by
# the ids of masks.
Drawn: TypeAlias = Mapping[int, Any]

# The drawn masks of the current calls. Each thread has its own, such as the
# threads of the replicas of `tf.distribute`.
_DRAWN: contextvars.ContextVar[Drawn] = contextvars.ContextVar(
    "keras_gumbel_drawn", default=types.MappingProxyType({})
)


@contextlib.contextmanager
def masks_drawn(
    parts: Sequence[Part], training: bool | None
) -> Iterator[Drawn]:
    """Draws masks for weights temporarily, unless an outer call has.

    Yields:
        All drawn masks, for `masks_put_back`.
    """
    drawn = _DRAWN.get()
    missing = [
        p for p in parts if id(p.weight) not in drawn and is_maskable(p.weight)
    ]
    if missing:
        new = {id(p.weight): _Drawn(p, training) for p in missing}
        with masks_put_back({**drawn, **new}) as everything:
            yield everything
    else:
        yield drawn


@contextlib.contextmanager
def masks_put_back(drawn: Drawn) -> Iterator[Drawn]:
    """Masks weights temporarily with masks that were drawn before."""
    token = _DRAWN.set(drawn)
    try:
        yield drawn
    finally:
        _DRAWN.reset(token)


def make_maskable(weight: keras.Variable) -> None:
    """Lets a variable return its masked value."""
    kind: Any = type(weight)
    weight.__class__ = _maskable_class(kind)


def make_plain(weight: keras.Variable) -> None:
    """Restores the Keras class of a variable."""
    weight.__class__ = type(weight).__base__


def is_maskable(weight: keras.Variable) -> bool:
    """Whether there is a mask on a variable."""
    return getattr(type(weight), "_is_maskable", False)


@functools.cache
def _maskable_class(kind: type[keras.Variable]) -> type[keras.Variable]:
    """Returns the class of variables with a mask."""
    read = kind.value.fget

    def value(self: Any) -> Tensor:
        drawn = _DRAWN.get().get(id(self))
        weight = read(self)
        return weight if drawn is None else drawn.read(weight)

    def assign(self: Any, value: Any) -> Tensor:
        if id(self) in _DRAWN.get():
            raise ValueError(
                f"A layer assigns to its weight {self.path} in its `call`. "
                "The weight has a mask, so the layer would store the masked "
                "weight. Leave the layer out with the `filters` of "
                "`keras_gumbel.sparsify`."
            )
        return kind.assign(self, value)

    return type(
        kind.__name__,
        (kind,),
        {
            "__module__": kind.__module__,
            "_is_maskable": True,
            "value": property(value),
            "assign": assign,
        },
    )
