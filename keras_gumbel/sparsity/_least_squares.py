"""Finds weights under a mask that change the outputs of a layer least."""

import dataclasses

import numpy as np

from keras_gumbel._moments import Moments
from keras_gumbel._moments import damping_of

# The most steps of conjugate gradients.
MOST_STEPS = 500


@dataclasses.dataclass(frozen=True, eq=False)
class LeastSquares:
    """The weights V that replace W under a mask M.

    ```
    min tr((W - V)^T H (W - V))  subject to  V = 0 where M = 0
    ```

    This is the change of all outputs, ||X W - X V||^2, with damping.

    Attributes:
        weights: Float32 array W of shape `(d, units)`.
        moments: `Moments`, H = X^T X.
    """

    weights: np.ndarray
    moments: Moments

    def solve(
        self, mask: np.ndarray, start: np.ndarray, tolerance: float
    ) -> np.ndarray:
        """Returns V, by conjugate gradients on all units at once.

        Args:
            mask: Boolean array of shape `(d, units)`.
            start: Float32 array of that shape, near V.
            tolerance: Float, the norm of the gradient to stop at, as a
                fraction of that of the weights, with every input scaled by
                its second moment.
        """
        found = np.empty_like(self.weights)
        for part, block in self.moments.each():
            found[part] = _solve(
                block, self.weights[part], mask[part], start[part], tolerance
            )
        return found

    def step(self, start: np.ndarray) -> np.ndarray:
        """Returns weights after one separate step of each towards W.

        It restores weights outside of a mask if the other weights cannot
        compensate for them.

        Args:
            start: Float32 array of shape `(d, units)`.
        """
        found = np.empty_like(self.weights)
        for part, block in self.moments.each():
            missing = self.weights[part] - start[part]
            gradient = _multiply(block, missing)
            found[part] = start[part] + gradient / _diagonal(block)
        return found


def _solve(
    block: np.ndarray,
    weights: np.ndarray,
    mask: np.ndarray,
    start: np.ndarray,
    tolerance: float,
) -> np.ndarray:
    diagonal = _diagonal(block)
    enough = tolerance**2 * (diagonal * weights**2).sum(axis=0)
    solution = np.where(mask, start, 0.0).astype("float32")
    residual = np.where(mask, _multiply(block, weights - solution), 0.0)
    scaled = residual / diagonal
    direction = scaled
    norm = (residual * scaled).sum(axis=0)
    for _ in range(MOST_STEPS):
        if (norm <= enough).all():
            break
        curved = np.where(mask, _multiply(block, direction), 0.0)
        size = _ratio(norm, (direction * curved).sum(axis=0))
        solution += size * direction
        residual -= size * curved
        scaled = residual / diagonal
        before, norm = norm, (residual * scaled).sum(axis=0)
        direction = scaled + _ratio(norm, before) * direction
    return solution


def _multiply(block: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return block @ matrix + np.float32(damping_of(block)) * matrix


def _diagonal(block: np.ndarray) -> np.ndarray:
    """Returns the damped second moments, as a column."""
    return (np.diagonal(block) + np.float32(damping_of(block)))[:, None]


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Returns a ratio that is 0 for units that are solved exactly."""
    some = denominator > 0
    return np.where(some, numerator / np.where(some, denominator, 1), 0)
