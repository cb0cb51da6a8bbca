"""Measures the bytes of a masked weight, stored and in training."""

import dataclasses
import gzip

import keras
import numpy as np
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel.sparsity._found import Scores

# Bytes of one index along one axis, as in `scipy.sparse`.
_INDEX_BYTES = 4

# gzip takes seconds for 25 million weights. For a weight with more bytes than
# `_SAMPLE`, it compresses only this many, in pieces from the whole weight.
_SAMPLE = 2**19
_PIECE = 2**12

# The compressed size of one byte in a long run of zeros.
_ZERO = 1 / 1030


@dataclasses.dataclass(frozen=True)
class SparsitySize:
    """Bytes of a masked weight.

    The first four are formats to store it in. Which one is smallest depends on
    the density: at one half it is a bitmask, at a thousandth it is COO.

    Attributes:
        dense: Integer, the weight with its zeros, as Keras saves it.
        gzip: Integer, the same bytes compressed with gzip. For a weight of
            more than 512 KiB, 512 KiB are compressed. The rest is estimated
            from these and from the number of zeros: to within 3% if single
            weights are pruned, and to within 10% if whole rows are.
        bitmask: Integer, one bit for each weight, and the kept values.
        coo: Integer, the kept values, each with 4 bytes for its index along
            each axis.
        scores: Integer, the scores, which exist only in training.
        slots: Integer, the optimizer variables of the scores; 0 before the
            optimizer is built.
    """

    dense: int
    gzip: int
    bitmask: int
    coo: int
    scores: int
    slots: int

    def __add__(self, other: "SparsitySize") -> "SparsitySize":
        return SparsitySize(
            *(
                a + b
                for a, b in zip(
                    dataclasses.astuple(self),
                    dataclasses.astuple(other),
                    strict=True,
                )
            )
        )


NOTHING = SparsitySize(0, 0, 0, 0, 0, 0)


def measure(
    scores: Scores,
    final: np.ndarray,
    optimizer: keras.optimizers.Optimizer | None,
) -> SparsitySize:
    """Counts the bytes of a weight under its final mask.

    Args:
        scores: `Scores`. Scores of activations have no weight to store.
        final: Array of zeros and ones, the final mask.
        optimizer: The optimizer of the model, or `None`.
    """
    slots = []
    if optimizer is not None:
        slots = _keras_private.slot_variables(optimizer, scores.variable)
    training = dataclasses.replace(
        NOTHING, scores=_bytes(scores.variable), slots=sum(map(_bytes, slots))
    )
    if scores.part is None:
        return training
    mask = ops.convert_to_numpy(scores.part.layout.expand(final))
    return training + measure_weight(scores.part.weight, mask)


def measure_weight(variable: keras.Variable, mask: np.ndarray) -> SparsitySize:
    """Counts the bytes of a weight under a mask, as it is stored."""
    weight = ops.convert_to_numpy(variable)
    mask = np.broadcast_to(mask, weight.shape)
    count = int(np.count_nonzero(mask))
    values = count * weight.itemsize
    return dataclasses.replace(
        NOTHING,
        dense=weight.nbytes,
        gzip=_gzip_size(weight, mask),
        bitmask=-(-weight.size // 8) + values,
        coo=values + count * weight.ndim * _INDEX_BYTES,
    )


def measure_others(model: keras.Layer, scores: list[Scores]) -> int:
    """Counts the bytes of the weights that have no mask."""
    ours = {id(part.weight) for s in scores for part in s.parts}
    ours |= {id(s.variable) for s in scores}
    ours |= {id(v) for s in scores if s.mask for v in s.mask.variables}
    return sum(_bytes(v) for v in model.weights if id(v) not in ours)


def _gzip_size(weight: np.ndarray, mask: np.ndarray) -> int:
    """Returns the bytes of a masked weight after gzip, or an estimate."""
    if weight.nbytes <= _SAMPLE:
        return _gzipped(np.where(mask, weight, 0))
    length = _PIECE // weight.itemsize
    count = weight.size // length
    pieces = mask.ravel()[: count * length].reshape(count, length)
    # Measures the size of the kept values and their positions. Pieces without
    # kept values are skipped.
    (filled,) = np.nonzero(pieces.any(axis=1))
    most = _SAMPLE // _PIECE
    if len(filled) > most:
        filled = filled[np.linspace(0, len(filled) - 1, most, dtype=int)]
    pieces = pieces[filled]
    values = weight.ravel()[: count * length].reshape(count, length)[filled]
    ones = max(int(np.count_nonzero(pieces)), 1)
    zero = _ZERO * weight.itemsize
    size = _gzipped(np.where(pieces, values, 0))
    each = (size - zero * (pieces.size - ones)) / ones
    kept = np.count_nonzero(mask)
    return round(each * kept + zero * (mask.size - kept))


def _gzipped(array: np.ndarray) -> int:
    return len(gzip.compress(array.tobytes(), 6, mtime=0))


def _bytes(variable: keras.Variable) -> int:
    return int(ops.convert_to_numpy(variable).nbytes)
