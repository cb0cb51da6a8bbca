"""Finds weights under a mask that change the outputs of a layer least."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from keras_gumbel._moments import Moments
from keras_gumbel._moments import damping_of

# The most steps of conjugate gradients.
MOST_STEPS = 500

# The most units that are solved at once, and the number of eigenvectors of the
# moments that the preconditioner knows: it has a matrix of that size for each
# unit. Of fewer inputs, it knows an eighth.
MOST_UNITS = 512
EIGENVECTORS = 64


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
        """Returns V, by conjugate gradients on many units at once.

        Args:
            mask: Boolean array of shape `(d, units)`.
            start: Float32 array of that shape, near V.
            tolerance: Float, the norm of the gradient to stop at, as a
                fraction of that of the weights, with every input scaled by
                its second moment.
        """
        found = np.empty_like(self.weights)
        for part, block in self._blocks:
            for i in range(0, found.shape[1], MOST_UNITS):
                own = part, slice(i, i + MOST_UNITS)
                found[own] = _solve(
                    block, self.weights[own], mask[own], start[own], tolerance
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
        for part, block in self._blocks:
            missing = self.weights[part] - start[part]
            gradient = block.multiply(missing)
            found[part] = start[part] + gradient / block.diagonal
        return found

    @functools.cached_property
    def _blocks(self) -> "list[tuple[slice, _Block]]":
        return [(part, _Block.of(block)) for part, block in self.moments.each()]


@dataclasses.dataclass(frozen=True, eq=False)
class _Block:
    """A block of moments H with damping.

    ```
    D^(-1/2) H D^(-1/2) ~ U U^T + R,  D = diag(H), R diagonal
    ```

    Attributes:
        moments: Float32 array of shape `(d, d)`, without damping.
        damping: Float32 number.
        diagonal: Float32 array D of shape `(d, 1)`.
        vectors: Float32 array U of shape `(d, k)`.
        rest: Float32 array R of shape `(d, 1)`.
    """

    moments: np.ndarray
    damping: np.float32
    diagonal: np.ndarray
    vectors: np.ndarray
    rest: np.ndarray

    @classmethod
    def of(cls, moments: np.ndarray) -> "_Block":
        damping = np.float32(damping_of(moments))
        diagonal = (np.diagonal(moments) + damping)[:, None]
        scale = np.sqrt(diagonal)
        vectors = _largest_eigenvectors(moments / scale / scale.T)
        # What is left of ones. The damping keeps it positive.
        rest = 1.0 - (vectors**2).sum(axis=1, keepdims=True)
        rest = np.maximum(rest, damping / diagonal)
        return cls(moments, damping, diagonal, vectors, rest)

    def multiply(self, matrix: np.ndarray) -> np.ndarray:
        """Returns H times a matrix."""
        return self.moments @ matrix + self.damping * matrix

    def inverse(self, mask: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """Returns what nearly divides by H, with a mask for each unit.

        It takes and returns matrices that are 0 outside of the mask. By the
        identity of Woodbury, it needs matrices of shape `(k, k)` alone.
        """
        count = self.vectors.shape[1]
        scaled = self.vectors / self.rest
        products = scaled[:, :, None] * self.vectors[:, None, :]
        inner = mask.T.astype("float32") @ products.reshape(len(mask), -1)
        inner = inner.reshape(-1, count, count) + np.eye(count, dtype="float32")
        inverse = np.linalg.inv(inner)  # (units, k, k)
        scale = np.sqrt(self.diagonal)

        def divide(matrix: np.ndarray) -> np.ndarray:
            matrix = matrix / scale
            known = (inverse @ (scaled.T @ matrix).T[..., None])[..., 0].T
            known = np.where(mask, scaled @ known, 0.0)
            return (matrix / self.rest - known) / scale

        return divide


def _largest_eigenvectors(matrix: np.ndarray) -> np.ndarray:
    """Returns U such that U U^T is the largest part of a matrix."""
    count = min(EIGENVECTORS, -(-len(matrix) // 8))
    generator = np.random.default_rng(0)
    found = generator.normal(size=(len(matrix), count)).astype("float32")
    for _ in range(4):
        found, _ = np.linalg.qr(matrix @ found)
    values, rotation = np.linalg.eigh(found.T @ (matrix @ found))
    return found @ rotation * np.sqrt(np.maximum(values, 0.0))


def _solve(
    block: _Block,
    weights: np.ndarray,
    mask: np.ndarray,
    start: np.ndarray,
    tolerance: float,
) -> np.ndarray:
    enough = tolerance**2 * (block.diagonal * weights**2).sum(axis=0)
    solution = np.where(mask, start, 0.0).astype("float32")
    residual = np.where(mask, block.multiply(weights - solution), 0.0)

    def is_solved() -> bool:
        left = (residual**2 / block.diagonal).sum(axis=0)
        return bool((left <= enough).all())

    if is_solved():
        return solution
    divide = block.inverse(mask)
    direction = divide(residual)
    norm = (residual * direction).sum(axis=0)
    for _ in range(MOST_STEPS):
        curved = np.where(mask, block.multiply(direction), 0.0)
        size = _ratio(norm, (direction * curved).sum(axis=0))
        solution += size * direction
        residual -= size * curved
        if is_solved():
            break
        scaled = divide(residual)
        before, norm = norm, (residual * scaled).sum(axis=0)
        direction = scaled + _ratio(norm, before) * direction
    return solution


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Returns a ratio that is 0 for units that are solved exactly."""
    some = denominator > 0
    return np.where(some, numerator / np.where(some, denominator, 1), 0)
