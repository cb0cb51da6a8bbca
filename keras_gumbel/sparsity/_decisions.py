"""How far the masks of a model are decided."""

import dataclasses

import keras
import numpy as np
from keras import ops

from keras_gumbel.layers.concrete_mask import ConcreteMask
from keras_gumbel.sparsity._masks import Masked
from keras_gumbel.sparsity._masks import Share
from keras_gumbel.sparsity._masks import decide_budgets
from keras_gumbel.sparsity._masks import final_masks
from keras_gumbel.sparsity._masks import find_masks
from keras_gumbel.sparsity._masks import require_numbers
from keras_gumbel.sparsity._masks import together

# Scores between these are neither kept nor dropped yet.
UNDECIDED = (0.05, 0.95)

# More undecided scores than this for each weight that is kept, and the final
# mask is another network than the one that was trained: at the end of
# training, and where a mask is fixed and the weights are trained further.
MOST_AT_END = 1.0
MOST_WHEN_FIXED = 3.0

_WITH_TEMPERATURE = ("binary_concrete", "hard_concrete")


@dataclasses.dataclass(frozen=True)
class Decisions:
    """The scores of a model, and the final mask they would give now.

    Attributes:
        masks: List of `Masked`.
        scores: List of arrays in [0, 1], one for each mask.
        finals: List of arrays of zeros and ones, one for each mask.
        spent: Float, sum_i c_i s_i over K (Eq. 30).
    """

    masks: list[Masked]
    scores: list[np.ndarray]
    finals: list[np.ndarray]
    spent: float

    @property
    def weights(self) -> int:
        """The number of weights with a score."""
        return sum(m.weights for m in self.masks)

    @property
    def kept(self) -> int:
        """The number of weights that the final mask keeps."""
        return sum(
            m.count(final)
            for m, final in zip(self.masks, self.finals, strict=True)
        )

    @property
    def undecided(self) -> int:
        """The number of weights whose score is neither near 0 nor near 1."""
        return sum(
            m.shared * count_undecided(s)
            for m, s in zip(self.masks, self.scores, strict=True)
        )

    @property
    def undecided_per_kept(self) -> float:
        """How many undecided weights there are for each one that is kept."""
        return self.undecided / max(self.kept, 1)

    @property
    def temperature(self) -> float | None:
        """The mean temperature of the masks that have one, or `None`."""
        found = [
            float(ops.convert_to_numpy(m.mask.current_temperature()))
            for m in self.masks
            if isinstance(m.mask, ConcreteMask)
            and m.mask.relaxation in _WITH_TEMPERATURE
            and not m.mask.fixed
        ]
        return sum(found) / len(found) if found else None


def find_decisions(owner: str, model: keras.Model) -> Decisions:
    """Returns the final mask that `keras_gumbel.harden` would fix now.

    Without a budget it keeps as many as a drawn mask does on average, the sum
    of the scores (Eq. 19).

    Raises:
        ValueError: If there is no mask, one is not built, or a score is NaN.
    """
    masks = find_masks(owner, model)
    require_numbers(owner, masks)
    shares = decide_budgets(owner, model, masks)
    if shares is None:
        mean = sum(m.kept() for m in masks)
        shares = [together(masks, round(mean))]
    return Decisions(
        masks=masks,
        scores=[m.scores() for m in masks],
        finals=final_masks(masks, shares),
        spent=_spent(shares),
    )


def count_undecided(scores: np.ndarray) -> int:
    """Returns how many scores are neither near 0 nor near 1."""
    low, high = UNDECIDED
    return int(np.count_nonzero((scores > low) & (scores < high)))


def sum_scores(scores: np.ndarray) -> float:
    """Returns the sum of scores, the expected number kept (Eq. 19)."""
    return float(scores.sum(dtype="float64"))


def _spent(shares: list[Share]) -> float:
    costs = [
        cost * sum_scores(m.scores())
        for share in shares
        for m, cost in zip(share.masks, share.costs, strict=True)
    ]
    budget = sum(share.budget for share in shares)
    return sum(costs) / budget if budget else 0.0
