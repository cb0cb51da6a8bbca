"""Sums of independent Bernoulli variables, and items given their sum.

The conditional Bernoulli distribution is the distribution of n independent
Bernoulli variables given that their sum is k. It does not change if a constant
c is subtracted from the logits. If c makes the sum k on average, P(sum = k) is
at least 1 / (n + 1). Everything else is computed from sums and products of
probabilities. Without logarithms or differences, nothing overflows or loses
digits.
"""

import math

from keras import ops

from keras_gumbel._numerics import is_allowed
from keras_gumbel._numerics import top_values
from keras_gumbel._typing import Tensor

# Finds the tilt within 0.1% of its bracket. The bracket is wide only if the sum
# is k almost everywhere in it.
_BISECTIONS = 12

# The logit of probability 0. ONNX from TensorFlow multiplies it with 0.
_NEVER = -1e4


def _centred(logits: Tensor, k: int) -> Tensor:
    """Subtracts c from the logits such that sigmoid(x - c) sums to k."""
    items = logits.shape[-1]
    top = top_values(ops.stop_gradient(logits), min(k + 1, items))
    kth, following = top[..., k - 1 : k], top[..., -1:]
    # If at most k items are allowed, no c solves this, and any c can be used.
    solvable = is_allowed(following)
    logits = logits - ops.where(solvable, kth, 0.0)
    low = ops.where(solvable, following - kth, 0.0) - math.log(k)
    high = ops.full_like(low, math.log(max(items - k, 1)))
    for _ in range(_BISECTIONS):
        middle = 0.5 * low + 0.5 * high
        odds = ops.sigmoid(ops.stop_gradient(logits) - middle)
        many = ops.sum(odds, axis=-1, keepdims=True) > k
        low = ops.where(many, middle, low)
        high = ops.where(many, high, middle)
    return logits - 0.5 * low - 0.5 * high


def bernoulli_sums(logits: Tensor, k: int) -> list[Tensor]:
    """P(sum = 0), ..., P(sum = k) of 1, 2, 4, ... neighbors, up to a half.

    The items are the leaves of a binary tree, filled up with items that are
    never drawn. Level l has the shape `(rows, nodes, min(2**l, k) + 1)`.
    """
    items = int(logits.shape[-1])  # a tensor while torch traces for ONNX
    missing = 2 ** (items - 1).bit_length() - items
    logits = ops.pad(
        _centred(logits, k), [(0, 0), (0, missing)], "constant", _NEVER
    )
    logits = ops.where(logits < _NEVER, _NEVER, logits)
    # The smaller of both probabilities keeps its digits and its gradient.
    small = ops.sigmoid(ops.where(logits > 0, -logits, logits))
    drawn = ops.where(logits > 0, 1.0 - small, small)
    left_out = ops.where(logits > 0, small, 1.0 - small)
    levels = [ops.stack([left_out, drawn], axis=-1)]
    while levels[-1].shape[1] > 2:
        pairs = _pairs(levels[-1])
        level = _convolve(pairs[:, :, 0], pairs[:, :, 1])[..., : k + 1]
        levels.append(level)
    return levels


def _downwards(sums: list[Tensor]) -> list[Tensor]:
    """The levels below the root, downwards; none if it is the only item."""
    return [level for level in reversed(sums) if level.shape[1] > 1]


def _pairs(level: Tensor) -> Tensor:
    """Puts neighbors together: `(rows, nodes / 2, 2, ...)`."""
    nodes, length = level.shape[1:]
    return ops.reshape(level, (-1, nodes // 2, 2, length))


def _convolve(one: Tensor, other: Tensor) -> Tensor:
    """The polynomial product along the last axis, for every other index."""
    product = one[..., :, None] * other[..., None, :]
    *nodes, rows, columns = product.shape[1:]
    # Cutting a padded matrix into rows that are one shorter shifts row i by i.
    padding = [(0, 0)] * (product.ndim - 1) + [(0, rows)]
    flat = ops.reshape(
        ops.pad(product, padding), (-1, *nodes, rows * (rows + columns))
    )
    shape = (-1, *nodes, rows, rows + columns - 1)
    return ops.sum(ops.reshape(flat[..., :-rows], shape), axis=-2)


def marginals(logits: Tensor, sums: list[Tensor], k: int) -> Tensor:
    """P(item drawn) given that k items are, from the sums of the others."""
    # P(sum of the others = k - j) for j drawn in a node, from the root down.
    others = ops.one_hot([[k]], k + 1, dtype=logits.dtype)
    for level in _downwards(sums):
        siblings = ops.flip(_pairs(level), axis=2)
        length = level.shape[-1]
        others = _convolve(others[:, :, None], ops.flip(siblings, axis=-1))
        others = others[..., length - 1 : 2 * length - 1]
        others = ops.reshape(others, (-1, *level.shape[1:]))
    joint = (sums[0] * others)[:, : logits.shape[-1]]
    total = ops.sum(joint, axis=-1)
    forced = allowed_count(logits, -1) <= k
    share = joint[..., 1] / ops.where(forced, 1.0, total)
    return ops.where(forced, ops.cast(is_allowed(logits), share.dtype), share)


def drawn_items(
    logits: Tensor, sums: list[Tensor], noise: Tensor, k: int
) -> Tensor:
    """Splits k among the halves of every node, from the root down.

    A node splits with the noise of the first item of its right half: every
    item but the first one has one node.
    """
    missing = sums[0].shape[1] - noise.shape[-1]
    odds = ops.exp(ops.pad(noise, [(0, 0), (0, missing)]))
    counts = ops.full_like(sums[-1][:, :1, 0], k, dtype="int32")
    for level in _downwards(sums):
        nodes, length = level.shape[1:]
        pairs = ops.stop_gradient(_pairs(level))
        some = ops.arange(length, dtype="int32")
        # Compared with all, as `take_along_axis` does not export from torch.
        fits = some[:, None] + some == counts[..., None, None]
        right = ops.where(fits, pairs[:, :, 1][..., None, :], 0.0)
        weight = pairs[:, :, 0] * ops.sum(right, axis=-1)
        upto = ops.cumsum(weight, axis=-1)
        above = ops.flip(ops.cumsum(ops.flip(weight, axis=-1), axis=-1), -1)
        above = ops.pad(above[..., 1:], [(0, 0), (0, 0), (0, 1)])
        stride = 2 * sums[0].shape[1] // nodes
        node_odds = odds[:, stride // 2 :: stride, None]
        # u > P(at most j on the left), where u / (1 - u) is `node_odds`.
        exceeded = ops.cast(node_odds * above > upto, "int32")
        first = ops.sum(exceeded, axis=-1)
        counts = ops.stack([first, counts - first], axis=-1)
        counts = ops.reshape(counts, (-1, nodes))
    drawn = counts[:, : logits.shape[-1]] > 0
    forced = allowed_count(logits, -1) <= k
    # ONNX Runtime has no `where` of booleans.
    return ops.logical_or(
        ops.logical_and(forced, is_allowed(logits)),
        ops.logical_and(ops.logical_not(forced), drawn),
    )


def allowed_count(logits: Tensor, axis: int) -> Tensor:
    allowed = ops.cast(is_allowed(logits), "int32")
    return ops.sum(allowed, axis=axis, keepdims=True)
