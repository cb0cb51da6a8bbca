"""Operations of `keras.ops` that move channels and positions."""

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_gumbel.shrinking._channel_links import Link
from keras_gumbel.shrinking._channel_links import one_to_one
from keras_gumbel.shrinking._channel_links import only
from keras_gumbel.shrinking._channels import UNKNOWN
from keras_gumbel.shrinking._channels import BarrierError
from keras_gumbel.shrinking._channels import Call
from keras_gumbel.shrinking._channels import Channels
from keras_gumbel.shrinking._elementwise_links import evaluate
from keras_gumbel.shrinking._elementwise_links import rows_of

# They can move or repeat entries, or choose among the entries of one channel.
_MOVES = (
    "AveragePool Copy ExpandDims Flip MaxPool Moveaxis Repeat Reshape Squeeze "
    "Swapaxes Tile Transpose"
).split()

_REDUCTIONS = (
    "All Amax Amin Any CountNonzero Logsumexp Max Mean Median Min Prod Std Sum "
    "Var"
).split()

# For a constant, these do not depend on the number of entries.
_AVERAGES = "All Amax Amin Any Max Mean Median Min Std Var".split()


def _move(call: Call) -> Link:
    """Finds the new position of each channel by a call."""
    channels = only(call)
    axis, sources = _traced(call, channels, seed=0)
    if axis is None or not np.array_equal(
        sources, _traced(call, channels, seed=1)[1]
    ):
        raise BarrierError("mixes channels and positions")

    def config(kept: np.ndarray) -> dict[str, Any]:
        shape = getattr(call.layer, "newshape", None)
        if shape is None:
            return {}
        return {
            "newshape": tuple(
                int(kept.sum()) if i == axis else length
                for i, length in enumerate(shape)
            )
        }

    output = Channels(axis, channels.constants[sources])
    return Link(call.layer, output, (sources,), config=config)


def _traced(
    call: Call, channels: Channels, seed: int
) -> tuple[int | None, np.ndarray]:
    """Returns the axis of the channels in the output, and their sources.

    Every channel is filled with a different number.
    """
    nothing = np.zeros(0, int)
    codes = np.random.default_rng(seed).permutation(4 * channels.size) + 1
    codes = np.sort(codes[: channels.size])
    shape = [length or 4 for length in call.shapes[0]]
    aligned = [1] * len(shape)
    aligned[channels.axis] = channels.size
    inputs = np.broadcast_to(codes.reshape(aligned), shape)
    try:
        outputs = evaluate(call, [inputs])
    except Exception:  # the call fails if it depends on unknown lengths
        return None, nothing
    sources = np.searchsorted(codes, outputs).clip(max=channels.size - 1)
    if (codes[sources] != outputs).any() or np.ptp(sources) == 0:
        return None, nothing
    for axis in reversed(range(1, sources.ndim)):
        row, same = rows_of(sources, axis)
        if same.all():
            return axis, row
    return None, nothing


def _get_item(call: Call) -> Link:
    channels = only(call)
    (place,) = set(call.arguments) - {0, "x"}
    axis, position, parts = _parsed(call.arguments[place], call, channels)
    if not isinstance(parts[position], slice):
        raise BarrierError("picks one channel")
    index = np.arange(channels.size)[parts[position]]
    if not index.size or (np.diff(index) != 1).any():
        raise BarrierError("does not pick neighbors")

    def arguments(before: np.ndarray, kept: np.ndarray) -> dict[Any, Any]:
        start = int(before[: index[0]].sum())
        chosen = slice(start, start + int(kept.sum()))
        return {
            place: (*parts[:position], chosen, *parts[position + 1 :]),
        }

    output = Channels(axis, channels.constants[index])
    return Link(call.layer, output, (index,), arguments=arguments)


def _parsed(
    key: Any, call: Call, channels: Channels
) -> tuple[int, int, list[Any]]:
    """Returns the axis of the channels after `x[key]`, and its place in key.

    The third value is the key with a slice for every axis of `x`.
    """
    parts = list(key) if isinstance(key, (tuple, list)) else [key]
    used = sum(part is not None and part is not Ellipsis for part in parts)
    full = [slice(None)] * (len(call.shapes[0]) - used)
    if Ellipsis not in parts:
        parts.append(Ellipsis)
    hole = parts.index(Ellipsis)
    parts = [*parts[:hole], *full, *parts[hole + 1 :]]
    axes = [i for i, part in enumerate(parts) if part is not None]
    position = axes[channels.axis]
    axis = sum(not isinstance(part, int) for part in parts[:position])
    if axis == 0:
        raise BarrierError(UNKNOWN)
    return axis, position, parts


def _reduction(call: Call) -> Link:
    channels = only(call)
    rank = len(call.shapes[0])
    axes = call.layer.axis
    axes = range(rank) if axes is None else np.ravel(axes) % rank
    if channels.axis in axes or 0 in axes:
        raise BarrierError("computes one number from many channels")
    axis = channels.axis
    if not call.layer.keepdims:
        axis -= sum(int(i < axis) for i in axes)
    shape = [length or 1 for length in call.shapes[0]]
    constants = channels.constants
    counted = type(call.layer).__name__ not in _AVERAGES
    if counted and any(call.shapes[0][i] is None for i in axes):
        constants = np.full_like(constants, np.nan)
    aligned = [1] * rank
    aligned[channels.axis] = channels.size
    inputs = np.where(np.isnan(constants), 1.0, constants).reshape(aligned)
    values, _ = rows_of(evaluate(call, [np.broadcast_to(inputs, shape)]), axis)
    return one_to_one(call, np.where(np.isnan(constants), np.nan, values), axis)


def _pad(call: Call) -> Link:
    channels = only(call)
    widths = np.broadcast_to(call.layer.pad_width, (len(call.shapes[0]), 2))
    if widths[channels.axis].any():
        raise BarrierError("adds channels")
    constants = channels.constants
    if call.layer.mode == "constant":
        value = call.arguments.get("constant_values") or 0
        constants = np.where(constants == value, constants, np.nan)
    return one_to_one(call, constants, channels.axis)


MOVE_RULES: dict[str, Callable[[Call], Link]] = {
    "GetItem": _get_item,
    "Pad": _pad,
    **dict.fromkeys(_MOVES, _move),
    **dict.fromkeys(_REDUCTIONS, _reduction),
}
