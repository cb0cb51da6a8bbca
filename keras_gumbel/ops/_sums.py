"""Sums of many scores without loss of precision.

In float32, the sum of 1e8 scores is off by up to 6% if a compiler adds them one
by one, like XLA on a CPU. Here short rows are added in float, and their sums in
integers.
"""

import math
from typing import Any

import keras
from keras import ops

from keras_gumbel._typing import Tensor

_ROW = 32  # the fastest length under XLA on a CPU
_CHUNK = 2**17  # numbers that stay in the cache from one operation to the next
_FEW = 1024  # so many numbers may be added one by one
_EXACT_BITS = 22


def row_sums(values: Tensor, joint: bool) -> Tensor:
    """Adds parts of a tensor in float, each to within 3e-7 of its sum.

    Args:
        values: Float tensor.
        joint: Boolean, whether all entries belong together, or only those along
            the last axis.

    Returns:
        A tensor with the same sums along the last axis. If `joint`, it is a
        vector with the same sum.
    """
    if keras.backend.backend() != "tensorflow":
        # They add accurately, and JAX fuses operations that keep the shape.
        if joint:
            return ops.reshape(ops.sum(values), (1,))
        return ops.sum(values, axis=-1, keepdims=True)
    batch = () if joint else tuple(values.shape[:-1])
    values = ops.reshape(values, (*batch, -1))
    length = values.shape[-1]
    whole = length - length % _ROW
    rows = ops.reshape(values[..., :whole], (*batch, whole // _ROW, _ROW))
    sums = ops.sum(rows, axis=-1)
    if whole == length:
        return sums
    rest = ops.sum(values[..., whole:], axis=-1, keepdims=True)
    return ops.concatenate([sums, rest], axis=-1)


def add_exactly(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Adds numbers of at least 0 along the last axis, which is kept.

    Returns:
        The sum of the whole parts in int32, and of the fractions in float.
    """
    whole, fractions = _digits(sums, 0)
    if sums.shape[-1] <= _FEW:
        return _total(whole), _total(fractions)
    more, rest = add_exactly(row_sums(fractions, joint=False))
    return _total(whole) + more, rest


def exact_excess(values: list[Tensor], budget: Tensor, joint: bool) -> Tensor:
    """Compares sums with a budget.

    It is many times slower than the sums above, but is exact where they are in
    doubt. Scores are cut into digits, which are added in integers.

    Args:
        values: List of float tensors with entries in [0, 1].
        budget: Float tensor, a scalar if `joint`, otherwise with length 1 on
            the last axis.
        joint: Boolean, as for `row_sums`.

    Returns:
        The sum of the sums less the budget, or a little more if an entry has
        bits beyond 2**-22.
    """
    bits = _free_bits(sum(math.prod(_summed(v, joint)) for v in values))
    values, excess = list(values), []
    for shift in [0] + [bits] * math.ceil(_EXACT_BITS / bits):
        whole, budget = _digits(budget, shift)
        units = -whole
        for i, v in enumerate(values):
            digits, values[i] = _digits(v, shift)
            units = units + _total(digits, joint)
        excess.append(units)
    rest: Any = sum(_total(v, joint) for v in values)
    carry = ops.cast(ops.ceil(1.125 * rest - budget), "int32")
    fraction: Any = 0.0
    for units in excess[:0:-1]:
        units = units + carry
        carry = ops.floor_divide(units, 2**bits)
        units = ops.cast(units - carry * 2**bits, budget.dtype)
        fraction = (fraction + units) / 2.0**bits
    return ops.cast(excess[0] + carry, budget.dtype) + fraction


def chunks(tensor: Tensor) -> list[Tensor]:
    """Splits a tensor if this makes eager operations on it faster."""
    size = math.prod(tensor.shape)
    if keras.backend.backend() != "torch" or size <= _CHUNK:
        return [tensor]
    if tensor.device.type != "cpu":
        return [tensor]
    flat = ops.reshape(tensor, (-1,))
    return [flat[i : i + _CHUNK] for i in range(0, size, _CHUNK)]


def _free_bits(count: int) -> int:
    """The number of bits of a number if int32 must hold a sum of `count`."""
    return max(1, 30 - count.bit_length())


def _digits(values: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Splits values * 2**bits into whole part and fraction, exactly."""
    values = values * 2.0**bits
    whole = ops.floor(values)
    return ops.cast(whole, "int32"), values - whole


def _summed(values: Tensor, joint: bool) -> Any:
    return values.shape if joint else values.shape[-1:]


def _total(values: Tensor, joint: bool = False) -> Tensor:
    if joint:
        return ops.sum(values)
    return ops.sum(values, axis=-1, keepdims=True)
