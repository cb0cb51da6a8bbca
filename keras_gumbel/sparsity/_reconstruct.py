"""Adjusts the kept weights to compensate for the pruned ones."""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from keras import ops

from keras_gumbel._moments import moments_of
from keras_gumbel._validation import SparsityWarning
from keras_gumbel.sparsity._calibrated import calibrated
from keras_gumbel.sparsity._calibrated import why_unknown
from keras_gumbel.sparsity._choices import Choice
from keras_gumbel.sparsity._choices import final_masks
from keras_gumbel.sparsity._found import Scores
from keras_gumbel.sparsity._least_squares import LeastSquares

# Ranked masks are chosen in rounds: their densities fall geometrically, and
# the last rounds exchange weights at the final density.
ROUNDS = 16
ROUNDS_AT_END = 4

# The tolerances of the weights between rounds, and at the end.
_ROUGH = 1e-2
_EXACT = 1e-4


class Reconstruction:
    """The weights of a model that have calibration data.

    Args:
        owner: String, the function that the user called.
        scores: List of `Scores`.

    Raises:
        ValueError: If no weight has calibration data.
    """

    def __init__(self, owner: str, scores: list[Scores]) -> None:
        self.scores = scores
        masked = [s for s in scores if s.weight is not None]
        self.known = [_Known.of(s) for s in masked if moments_of(s.weight)]
        if not self.known:
            raise ValueError(
                f"`{owner}` needs calibration data for `reconstruct=True`. "
                "Call `keras_gumbel.calibrate` on the model first. Received: "
                "a model without calibration data."
            )
        _warn_of_unknown([s for s in masked if not moments_of(s.weight)])

    def choose(self, choices: list[Choice]) -> list[np.ndarray]:
        """Chooses final masks, and assigns the weights that fit them.

        If this fails, the weights do not change.

        Args:
            choices: List of `Choice`.

        Returns:
            A list of float32 arrays of zeros and ones, one for each of the
            scores.
        """
        with self._put_back_on_error():
            finals = final_masks(self.scores, choices)
            following = {
                id(s.variable) for s in self.scores if _follows_weight(s)
            }
            ranked = {
                id(variable)
                for choice in choices
                if choice.group.ranked
                and not choice.settled
                and following.intersection(map(id, choice.group.variables))
                for variable in choice.group.variables
            }
            for number in range(1, ROUNDS + 1 if ranked else 1):
                share = min(1.0, number / (ROUNDS - ROUNDS_AT_END))
                for known in self.known:
                    known.assign(known.problem.step(known.found))
                masks = final_masks(
                    self.scores, [_falling(c, share) for c in choices]
                )
                finals = [
                    mask if id(s.variable) in ranked else final
                    for s, mask, final in zip(
                        self.scores, masks, finals, strict=True
                    )
                ]
                self._solve(finals, _ROUGH)
        self.fit(finals)
        return finals

    def fit(self, finals: list[np.ndarray]) -> None:
        """Assigns the weights that fit masks.

        Args:
            finals: List of arrays of zeros and ones, one for each of the
                scores.
        """
        with self._put_back_on_error():
            self._solve(finals, _EXACT)
            for known in self.known:
                known.assign(known.found)

    def _solve(self, finals: list[np.ndarray], tolerance: float) -> None:
        masks = {
            id(s.variable): final
            for s, final in zip(self.scores, finals, strict=True)
        }
        for known in self.known:
            mask = known.expand(masks[id(known.scores.variable)])
            known.found = known.problem.solve(mask, known.found, tolerance)

    @contextlib.contextmanager
    def _put_back_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            for known in self.known:
                known.assign(known.problem.weights)
            raise


@dataclasses.dataclass(eq=False)
class _Known:
    """A weight with calibration data.

    Attributes:
        scores: `Scores`, those of its mask.
        problem: `LeastSquares`, with the weight as it was.
        found: Float32 array, the weights so far, as a matrix.
    """

    scores: Scores
    problem: LeastSquares
    found: np.ndarray

    @classmethod
    def of(cls, scores: Scores) -> "_Known":
        moments, matrix = calibrated(scores)
        return cls(scores, LeastSquares(matrix, moments), matrix)

    def expand(self, final: np.ndarray) -> np.ndarray:
        """Returns a mask of scores as a boolean matrix of weights."""
        layout = self.scores.part.layout
        mask = layout.expand(ops.convert_to_tensor(final, "float32"))
        kept = ops.convert_to_numpy(mask) > 0
        return self.problem.moments.as_matrix(kept)

    def assign(self, matrix: np.ndarray) -> None:
        """Gives the weight other values."""
        weight: Any = self.scores.weight
        shape = tuple(weight.shape)
        weight.assign(self.problem.moments.from_matrix(matrix, shape))


def _follows_weight(s: Scores) -> bool:
    """Whether a mask ranks by its weight. `"random"` does not."""
    if s.weight is None or not s.mask.ranked:
        return False
    layout = s.part.layout
    found, other = (
        ops.convert_to_numpy(s.mask.saliency(weight, layout))
        for weight in (s.weight, ops.zeros(s.weight.shape))
    )
    return not np.array_equal(found, other)


def _falling(choice: Choice, share: float) -> Choice:
    """Returns a choice part of the way to its density."""
    if choice.settled or not choice.group.ranked:
        return choice
    total = choice.group.total_cost
    density = min(float(choice.budget) / total, 1.0)
    return dataclasses.replace(choice, budget=total * density**share)


def _warn_of_unknown(scores: list[Scores]) -> None:
    listed = ", ".join(f"{s.name} ({why_unknown(s)})" for s in scores)
    if listed:
        warnings.warn(
            f"`harden` does not reconstruct these weights: {listed}. They do "
            "not change.",
            SparsityWarning,
            stacklevel=5,
        )
