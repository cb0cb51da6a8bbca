"""What a masked kernel takes, stored and in training."""

import dataclasses
import gzip

import keras
import numpy as np
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel.sparsity._masks import Masked

# Of one index along one axis, as in `scipy.sparse`.
_INDEX_BYTES = 4


@dataclasses.dataclass(frozen=True)
class SparsitySize:
    """Bytes of a masked kernel.

    The first four are the forms it can be stored in. No form is smallest at
    every density: at one half a bitmask, at a thousandth COO.

    Attributes:
        dense: Integer, the kernel with its zeros, as Keras saves it.
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
    masked: Masked,
    final: np.ndarray,
    optimizer: keras.optimizers.Optimizer | None,
) -> SparsitySize:
    """Counts the bytes of a kernel under its final mask.

    Args:
        masked: `Masked`. A mask of activations has no kernel to store.
        final: Array of zeros and ones, the final mask.
        optimizer: The optimizer of the model, or `None`.
    """
    scores = masked.mask.mask_scores
    slots = []
    if optimizer is not None:
        slots = _keras_private.slot_variables(optimizer, scores)
    training = dataclasses.replace(
        NOTHING, scores=_bytes(scores), slots=sum(map(_bytes, slots))
    )
    if masked.kernel is None:
        return training
    kernel = ops.convert_to_numpy(masked.kernel)
    mask = ops.convert_to_numpy(masked.layout.expand(final))
    kept = kernel * mask.astype(kernel.dtype)
    count = int(np.count_nonzero(mask))
    values = count * kernel.itemsize
    return dataclasses.replace(
        training,
        dense=kernel.nbytes,
        gzip=len(gzip.compress(kept.tobytes(), 6, mtime=0)),
        bitmask=-(-kernel.size // 8) + values,
        coo=values + count * kernel.ndim * _INDEX_BYTES,
    )


def measure_others(model: keras.Model, masks: list[Masked]) -> int:
    """Counts the bytes of the weights that have no mask."""
    ours = {id(m.kernel) for m in masks}
    inside = {id(v) for m in masks for v in m.mask.variables}
    return sum(
        _bytes(v)
        for v in model.weights
        if id(v) not in ours and id(v) not in inside
    )


def _bytes(variable: keras.Variable) -> int:
    return int(ops.convert_to_numpy(variable).nbytes)
