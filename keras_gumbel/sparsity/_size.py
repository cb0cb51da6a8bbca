"""What a masked weight takes, stored and in training."""

import dataclasses
import gzip

import keras
import numpy as np
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel.sparsity._found import Scores

# Of one index along one axis, as in `scipy.sparse`.
_INDEX_BYTES = 4


@dataclasses.dataclass(frozen=True)
class SparsitySize:
    """Bytes of a masked weight.

    The first four are the forms it can be stored in. No form is smallest at
    every density: at one half a bitmask, at a thousandth COO.

    Attributes:
        dense: Integer, the weight with its zeros, as Keras saves it.
        gzip: Integer, the same bytes compressed with gzip.
        bitmask: Integer, one bit for each weight, and the values kept.
        coo: Integer, the values kept, each with 4 bytes for its index along
            each axis.
        scores: Integer, the scores, which exist in training only.
        slots: Integer, what the optimizer holds for the scores; 0 before it
            is built.
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
        scores: `Scores`. Those of activations have no weight to store.
        final: Array of zeros and ones, the final mask.
        optimizer: The optimizer of the model, or `None`.
    """
    slots = []
    if optimizer is not None:
        slots = _keras_private.slot_variables(optimizer, scores.variable)
    training = dataclasses.replace(
        NOTHING, scores=_bytes(scores.variable), slots=sum(map(_bytes, slots))
    )
    if scores.weight is None:
        return training
    weight = ops.convert_to_numpy(scores.weight)
    mask = ops.convert_to_numpy(scores.mask.part.layout.expand(final))
    kept = weight * mask.astype(weight.dtype)
    count = int(np.count_nonzero(mask))
    values = count * weight.itemsize
    return dataclasses.replace(
        training,
        dense=weight.nbytes,
        gzip=len(gzip.compress(kept.tobytes(), 6, mtime=0)),
        bitmask=-(-weight.size // 8) + values,
        coo=values + count * weight.ndim * _INDEX_BYTES,
    )


def measure_others(model: keras.Layer, scores: list[Scores]) -> int:
    """Counts the bytes of the weights that have no mask."""
    ours = {id(s.weight) for s in scores} | {id(s.variable) for s in scores}
    ours |= {id(v) for s in scores if s.mask for v in s.mask.variables}
    return sum(_bytes(v) for v in model.weights if id(v) not in ours)


def _bytes(variable: keras.Variable) -> int:
    return int(ops.convert_to_numpy(variable).nbytes)
