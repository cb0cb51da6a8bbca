"""Which entries of a weight share a score."""

import dataclasses
import math
import re
from typing import Any
from typing import TypeAlias

import keras
from keras import ops

from keras_gumbel._exports import dir_of
from keras_gumbel._scores import Rows
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import require_positive_integer
from keras_gumbel._weight_axes import WeightAxes

__all__ = [
    "Block",
    "Channel",
    "FanIn",
    "Granularity",
    "NOfM",
    "ScoreLayout",
    "Unit",
    "Weight",
    "get",
]
__dir__ = dir_of(__all__)

# The shape of a weight, whose lengths are all known.
_Shape: TypeAlias = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ScoreLayout:
    """The layout of the scores of one weight.

    The shape of the scores broadcasts to the shape of the weight, some of whose
    axes may be split in two.

    Attributes:
        shape: Tuple of integers, the shape of the weight.
        split: Tuple of integers, the shape of the weight with some axes split.
        scores: Tuple of integers, the shape of the scores: as `split`, with 1
            on the axes along which a score is shared.
        rows: `(n, axis)`: at most `n` scores are kept along `axis` in the
            final mask (N:M sparsity). `(None, axes)`: every row along a tuple
            of axes keeps the same number of scores, which the density sets.
            Or `None`. Defaults to `None`.
    """

    shape: _Shape
    split: _Shape
    scores: _Shape
    rows: Rows = None

    @property
    def weights_per_score(self) -> int:
        """The number of weights that one score controls."""
        return math.prod(self.split) // math.prod(self.scores)

    def expand(self, scores: Tensor) -> Tensor:
        """Returns a mask of the shape of the weight."""
        if self.scores == self.shape:
            return scores
        return ops.reshape(ops.broadcast_to(scores, self.split), self.shape)

    def root_mean_square(self, values: Tensor) -> Tensor:
        """Returns the root mean square of values that share a score.

        Args:
            values: Float tensor of the shape of the weight, of at least 0.
        """
        if self.scores == self.shape:
            return values
        split = ops.reshape(values, self.split)
        if self.scores == self.split:
            return split
        pairs = enumerate(zip(self.split, self.scores, strict=True))
        shared = tuple(i for i, (n, s) in pairs if n != s)
        return ops.sqrt(ops.mean(ops.square(split), axis=shared, keepdims=True))


class Granularity:
    """Base class of granularities: which entries of a weight share a score.

    To write your own granularity, subclass this class and override `layout`. If
    it has arguments, override `get_config`. To save models with it, register
    the class with `keras.saving.register_keras_serializable`.

    Example:

    >>> class Row(keras_gumbel.granularities.Granularity):
    ...     def layout(self, shape, axes):
    ...         scores = (shape[0],) + (1,) * (len(shape) - 1)
    ...         return keras_gumbel.granularities.ScoreLayout(
    ...             shape, shape, scores
    ...         )
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> model = keras_gumbel.sparsify(model, granularity=Row())
    """

    def layout(self, shape: _Shape, axes: WeightAxes | None) -> ScoreLayout:
        """Returns the layout of the scores of a weight.

        Args:
            shape: Tuple of integers, the shape of the weight.
            axes: `keras_gumbel.WeightAxes`, the meaning of the axes of the
                weight, or `None` if it is unknown.

        Returns:
            A `ScoreLayout`.

        Raises:
            ValueError: If the granularity does not fit the weight. Warnings
                and reports show the message as the reason.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Granularity":
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_gumbel")
class Weight(Granularity):
    """Every entry of a weight has a score: `granularity="weight"`.

    Example:

    >>> layout = keras_gumbel.granularities.Weight().layout((8, 4), None)
    >>> layout.scores
    (8, 4)
    """

    def layout(self, shape: _Shape, axes: WeightAxes | None) -> ScoreLayout:
        shape = tuple(shape)
        return ScoreLayout(shape, shape, shape)


@keras.saving.register_keras_serializable(package="keras_gumbel")
class Unit(Granularity):
    """Every unit has a score: `granularity="unit"`.

    A unit is a neuron of a Dense layer, a filter of a convolution, a head of an
    attention layer, or a feature of an embedding. All input weights of a unit
    share its score.

    Example:

    >>> axes = keras_gumbel.WeightAxes(units=-1, inputs=-2)
    >>> layout = keras_gumbel.granularities.Unit().layout((8, 4), axes)
    >>> layout.scores
    (1, 4)
    """

    def layout(self, shape: _Shape, axes: WeightAxes | None) -> ScoreLayout:
        if axes is None or not axes.units:
            raise ValueError(
                "which of its axes are units is not known: see "
                "`keras_gumbel.register_weight_axes`"
            )
        shape = tuple(shape)
        apart = {unit % len(shape) for unit in axes.units}
        scores = tuple(n if i in apart else 1 for i, n in enumerate(shape))
        return ScoreLayout(shape, shape, scores)


@keras.saving.register_keras_serializable(package="keras_gumbel")
class Block(Granularity):
    """Every block has a score: `granularity=(rows, columns)`.

    Args:
        rows: Positive integer, the length of a block on the last axis but one.
        columns: Positive integer, its length on the last axis.

    Raises:
        ValueError: If an argument is not a positive integer.

    Example:

    >>> layout = keras_gumbel.granularities.Block(4, 1).layout((8, 4), None)
    >>> layout.weights_per_score
    4
    """

    def __init__(self, rows: int, columns: int) -> None:
        require_positive_integer("Block", "rows", rows)
        require_positive_integer("Block", "columns", columns)
        self.rows = int(rows)
        self.columns = int(columns)

    def layout(self, shape: _Shape, axes: WeightAxes | None) -> ScoreLayout:
        shape = tuple(shape)
        rows, columns = self.rows, self.columns
        if shape[-2] % rows or shape[-1] % columns:
            raise ValueError(
                f"{shape} does not divide into blocks of {(rows, columns)}"
            )
        blocks = shape[-2] // rows, shape[-1] // columns
        split = (*shape[:-2], blocks[0], rows, blocks[1], columns)
        scores = (*shape[:-2], blocks[0], 1, blocks[1], 1)
        return ScoreLayout(shape, split, scores)

    def get_config(self) -> dict[str, Any]:
        return {"rows": self.rows, "columns": self.columns}


@keras.saving.register_keras_serializable(package="keras_gumbel")
class NOfM(Granularity):
    """N of every M inputs of a unit: `granularity="2:4"`.

    Every entry has a score. Of every M consecutive inputs of a unit, the final
    mask keeps at most N, even if the budget allows more.

    Args:
        n: Positive integer.
        m: Integer above `n`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> axes = keras_gumbel.WeightAxes(units=-1, inputs=-2)
    >>> layout = keras_gumbel.granularities.NOfM(2, 4).layout((8, 4), axes)
    >>> layout.rows
    (2, 1)
    """

    def __init__(self, n: int, m: int) -> None:
        require_positive_integer("NOfM", "n", n)
        require_positive_integer("NOfM", "m", m)
        if not n < m:
            raise invalid_argument("NOfM", "m", f"an integer above {n}", m)
        self.n = int(n)
        self.m = int(m)

    def layout(self, shape: _Shape, axes: WeightAxes | None) -> ScoreLayout:
        if axes is None or axes.inputs is None:
            raise ValueError("it has no single known axis of inputs")
        shape = tuple(shape)
        at = axes.inputs % len(shape)
        if shape[at] % self.m:
            raise ValueError(
                f"its {shape[at]} inputs do not divide by {self.n}:{self.m}"
            )
        split = (*shape[:at], shape[at] // self.m, self.m, *shape[at + 1 :])
        return ScoreLayout(shape, split, split, (self.n, at + 1))

    def get_config(self) -> dict[str, Any]:
        return {"n": self.n, "m": self.m}


@keras.saving.register_keras_serializable(package="keras_gumbel")
class FanIn(Granularity):
    """The same number of inputs for every unit: `granularity="fan_in"`.

    Every entry has a score. Of its L inputs, every unit of a weight keeps

    ```
    n = max(1, floor(density * L))
    ```

    in the final mask, exactly. The inputs of a filter are all entries of its
    kernel. All weights under one budget have the same density, which is K as a
    fraction of the cost of all scores. If the minimum of one input per unit
    costs more than this allows, the density is the largest that fits the
    budget. Weights of other granularities compete for the rest that the
    rounding leaves. During training, the scores of a unit sum to at most n.

    Example:

    >>> axes = keras_gumbel.WeightAxes(units=-1, inputs=-2)
    >>> layout = keras_gumbel.granularities.FanIn().layout((8, 4), axes)
    >>> layout.rows
    (None, (0,))

    References:
        - [Lasby et al., 2023](https://arxiv.org/abs/2305.02299), constant
          fan-in
    """

    def layout(self, shape: _Shape, axes: WeightAxes | None) -> ScoreLayout:
        if axes is None or not axes.summed:
            raise ValueError(
                "which of its axes are inputs is not known: see "
                "`keras_gumbel.register_weight_axes`"
            )
        shape = tuple(shape)
        summed = tuple(sorted(axis % len(shape) for axis in axes.summed))
        return ScoreLayout(shape, shape, shape, (None, summed))


@keras.saving.register_keras_serializable(package="keras_gumbel")
class Channel(Granularity):
    """Every set of coupled channels has a score: `granularity="channel"`.

    Channels are coupled if they can only be removed together, such as channels
    that a residual connection adds up or that the same normalization scales. A
    set includes all weights along these channels, in every layer.
    `keras_gumbel.shrink` removes dropped channels. The model must be Sequential
    or Functional, because its graph is followed. See `keras_gumbel.sparsify`.

    Example:

    >>> keras_gumbel.granularities.get("channel").get_config()
    {}
    """

    def layout(self, shape: _Shape, axes: WeightAxes | None) -> ScoreLayout:
        raise ValueError("coupled channels need a whole model, not one weight")


def get(identifier: Any) -> Granularity:
    """Returns a granularity, given a granularity, short name or config.

    Args:
        identifier: `Granularity`, `"weight"`, `"unit"`, `"fan_in"`,
            `"channel"`, a pair `(rows, columns)`, `"N:M"`, or the config of a
            registered class.

    Returns:
        A `Granularity`.

    Raises:
        ValueError: If the identifier is unknown.

    Example:

    >>> keras_gumbel.granularities.get((4, 1)).columns
    1
    """
    if isinstance(identifier, Granularity):
        return identifier
    if isinstance(identifier, dict) and "class_name" in identifier:
        found = keras.saving.deserialize_keras_object(identifier)
        if isinstance(found, Granularity):
            return found
    if identifier == "weight":
        return Weight()
    if identifier == "unit":
        return Unit()
    if identifier == "fan_in":
        return FanIn()
    if identifier == "channel":
        return Channel()
    if isinstance(identifier, (list, tuple)) and len(identifier) == 2:
        return Block(*identifier)
    ratio = re.fullmatch(r"(\d+):(\d+)", str(identifier))
    if ratio is not None:
        return NOfM(int(ratio[1]), int(ratio[2]))
    raise invalid_argument(
        "sparsify",
        "granularity",
        "'weight', 'unit', 'channel', 'fan_in', a pair (rows, columns) of "
        "positive integers, 'N:M', or a "
        "`keras_gumbel.granularities.Granularity`",
        identifier,
    )
