"""Weights that are masked for as long as a layer that has them is called.

Keras reads every variable by its `value`, wherever it is held: in attributes,
lists or other layers. While a layer with masks is called, that is the weight
under a mask; at all other times, for optimizers, files and the user, it is the
weight itself.
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
    """A weight of a layer, and the mask that is on it.

    Attributes:
        layer: The layer that owns the weight and tracks the mask.
        weight: The variable.
        mask: `Mask`, with the scores.
        granularity: `Granularity`.
        layout: `ScoreLayout`, where the scores are.
    """

    layer: keras.Layer
    weight: keras.Variable
    mask: Mask
    granularity: Granularity
    layout: ScoreLayout

    @property
    def masks(self) -> list[Mask]:
        """The masks that are on the weight."""
        return [self.mask]

    def current(self, training: bool | None) -> Tensor:
        """Returns the mask that is in force, of the shape of the weight."""
        return self.layout.expand(self.mask.current(training))

    def masked(self, weight: Tensor, mask: Tensor) -> Tensor:
        """Returns what a mask that is in force leaves of the weight."""
        return self.mask.masked(weight, mask)

    def final(self) -> Tensor:
        """Returns the final mask, of the shape of the weight."""
        return self.layout.expand(self.mask.final_mask)


@dataclasses.dataclass(frozen=True, eq=False)
class Gate:
    """A mask of channels, on an axis of a weight.

    Attributes:
        mask: `Mask`, with a score for each set of coupled channels.
        axis: Integer, the axis.
        index: Integer array, the set that each entry of the axis belongs to,
            or -1.
        reader: The layer that finds the channels on an axis of its first
            input in the same order, or `None`.
        input_axis: Integer, that axis.
    """

    mask: Mask
    axis: int
    index: np.ndarray
    reader: keras.Layer | None = None
    input_axis: int = -1

    def spread(self, values: Tensor, rank: int) -> Tensor:
        """Returns values of the sets as a tensor of a rank, 1 elsewhere."""
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
        """The masks that are on the weight, once each."""
        return list({id(g.mask): g.mask for g in self.gates}.values())

    def current(self, training: bool | None) -> Tensor:
        """Returns the mask that is in force; it broadcasts to the weight."""
        return self.spread(
            {id(mask): mask.current(training) for mask in self.masks}
        )

    def masked(self, weight: Tensor, mask: Tensor) -> Tensor:
        """Returns what a mask that is in force leaves of the weight."""
        return self.masks[0].masked(weight, mask)

    def final(self) -> Tensor:
        """Returns the final mask; it broadcasts to the weight."""
        return self.spread(
            {
                id(mask): ops.cast(mask.final_mask, "float32")
                for mask in self.masks
            }
        )

    def spread(self, values: dict[int, Tensor]) -> Tensor:
        """Returns the product of what masks have, by their ids."""
        rank = len(self.weight.shape)
        spread = [g.spread(values[id(g.mask)], rank) for g in self.gates]
        return functools.reduce(
            operator.mul, [ops.cast(x, "float32") for x in spread]
        )


Part: TypeAlias = MaskedWeight | GatedWeight


def fold(part: Part) -> None:
    """Writes the zeros of the final mask into a weight."""
    weight = ops.convert_to_tensor(part.weight)
    # A product would be -0 where the weight was negative, and these signs take
    # as much room in a compressed file as the mask.
    kept = ops.not_equal(part.final(), 0)
    part.weight.assign(ops.where(kept, weight, ops.zeros_like(weight)))


def unreadable(mask: Mask, weight: keras.Variable) -> ValueError:
    """Returns the error of ranking a weight that has no value here."""
    return ValueError(
        f"`{type(mask).__name__}` ranks {weight.path}, which is frozen: "
        "a training step on JAX cannot read it. Frozen weights need no "
        "training to be ranked: call `keras_gumbel.harden(model, "
        "density=...)` before `fit`."
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
        """Returns it in the dtype in which the weight itself was read."""
        dtype = keras.backend.standardize_dtype(weight.dtype)
        if dtype == self.dtype:
            return self.value
        # By a layer of another dtype policy.
        return self.part.masked(weight, self.mask)

    def _masked(self, weight: Tensor) -> Tensor:
        return self.part.masked(ops.cast(weight, self.dtype), self.mask)


# What is drawn for variables, by their ids. `_watched` adds what it has for
# masks.
Drawn: TypeAlias = Mapping[int, Any]

# What is drawn in the calls that are being made. Each thread has its own, such
# as those of the replicas of `tf.distribute`.
_DRAWN: contextvars.ContextVar[Drawn] = contextvars.ContextVar(
    "keras_gumbel_drawn", default=types.MappingProxyType({})
)


@contextlib.contextmanager
def masks_drawn(
    parts: Sequence[Part], training: bool | None
) -> Iterator[Drawn]:
    """Masks weights for the duration, unless a call further out does.

    Yields:
        All that is drawn, for `masks_put_back`.
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
    """Masks weights for the duration, as they have been drawn before."""
    token = _DRAWN.set(drawn)
    try:
        yield drawn
    finally:
        _DRAWN.reset(token)


def make_maskable(weight: keras.Variable) -> None:
    """Lets a variable show what is drawn for it."""
    kind: Any = type(weight)
    weight.__class__ = _maskable_class(kind)


def make_plain(weight: keras.Variable) -> None:
    """Gives a variable the class of Keras back."""
    weight.__class__ = type(weight).__base__


def is_maskable(weight: keras.Variable) -> bool:
    """Whether there is a mask on a variable."""
    return getattr(type(weight), "_is_maskable", False)


@functools.cache
def _maskable_class(kind: type[keras.Variable]) -> type[keras.Variable]:
    """Returns the class of a backend's variables with a mask."""
    read = kind.value.fget

    def value(self: Any) -> Tensor:
        drawn = _DRAWN.get().get(id(self))
        weight = read(self)
        return weight if drawn is None else drawn.read(weight)

    def assign(self: Any, value: Any) -> Tensor:
        if id(self) in _DRAWN.get():
            raise ValueError(
                f"A layer assigns to its weight {self.path} while it is "
                "called, and the weight has a mask: what it would store is "
                "the masked weight. Leave the layer out with the `filters` of "
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
