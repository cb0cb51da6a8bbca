"""The distributions of subsets that `SubsetSampler` can draw from."""

from typing import Any

from keras import ops

from keras_gumbel import random
from keras_gumbel._numerics import masked_logits
from keras_gumbel._numerics import slope_carrier
from keras_gumbel._typing import Seed
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel.estimators._rloo import RLOO
from keras_gumbel.estimators._score_tape import record_once
from keras_gumbel.ops._subsets import relaxed_top_k
from keras_gumbel.ops._subsets import sample_subset
from keras_gumbel.ops._subsets import subset_marginals


class Simple:
    """Whole subsets, with the gradient of their exact probabilities."""

    noise = staticmethod(random.logistic)

    def check(self, owner: str, hard: bool, inference: str) -> None:
        """Raises if the distribution does not support options of a layer."""
        if not hard:
            raise invalid_argument(
                owner,
                "hard",
                "`True` with estimator='simple'",
                hard,
                "For relaxed samples, use estimator='relaxed_top_k'. For "
                "probabilities, use `keras_gumbel.ops.subset_marginals`.",
            )

    def sample(
        self,
        logits: Tensor,
        k: int,
        temperature: Any,
        hard: bool,
        axis: int,
        mask: Tensor | None,
        noise: Tensor | None,
        seed: Seed = None,
    ) -> Tensor:
        """Draws k-hot vectors."""
        return sample_subset(logits, k, axis, mask, noise, seed)

    def soft(
        self,
        logits: Tensor,
        k: int,
        temperature: Any,
        axis: int,
        mask: Tensor | None,
        noise: Tensor | float,
    ) -> Tensor:
        """Returns the tensor whose gradient a sample has."""
        return subset_marginals(logits, k, axis, mask)


class RelaxedTopK:
    """One item after another, with the gradient of their relaxation."""

    noise = staticmethod(random.gumbel)

    def check(self, owner: str, hard: bool, inference: str) -> None:
        """Raises if the distribution does not support options of a layer."""
        if inference == "marginals":
            raise invalid_argument(
                owner,
                "inference",
                "'top_k' or 'sample' with estimator='relaxed_top_k'",
                inference,
                "For the marginals, use estimator='simple'.",
            )

    def sample(
        self,
        logits: Tensor,
        k: int,
        temperature: Any,
        hard: bool,
        axis: int,
        mask: Tensor | None,
        noise: Tensor | None,
        seed: Seed = None,
    ) -> Tensor:
        """Draws k-hot vectors, or relaxed ones."""
        return relaxed_top_k(
            logits, k, temperature, hard, axis, mask, noise, seed
        )

    def soft(
        self,
        logits: Tensor,
        k: int,
        temperature: Any,
        axis: int,
        mask: Tensor | None,
        noise: Tensor | float,
    ) -> Tensor:
        """Returns the tensor whose gradient a sample has."""
        return relaxed_top_k(logits, k, temperature, False, axis, mask, noise)


class LeaveOneOut(Simple):
    """Whole subsets, whose gradient comes from the losses of several draws.

    The gradient of log P(S) is h - p, with p the marginals of the items.
    """

    def check(self, owner: str, hard: bool, inference: str) -> None:
        """Raises if the distribution does not support options of a layer."""
        if not hard:
            raise invalid_argument(
                owner, "hard", "`True` with estimator='rloo'", hard
            )

    def sample(
        self,
        logits: Tensor,
        k: int,
        temperature: Any,
        hard: bool,
        axis: int,
        mask: Tensor | None,
        noise: Tensor | None,
        seed: Seed = None,
    ) -> Tensor:
        """Draws k-hot vectors, and records their probabilities."""
        logits, dtype, axis = masked_logits("SubsetSampler", logits, axis, mask)
        fixed = ops.stop_gradient(logits)
        drawn = sample_subset(fixed, k, axis, None, noise, seed)

        def score() -> Tensor:
            slope = drawn - subset_marginals(fixed, k, axis)
            return ops.sum(slope * slope_carrier(logits), axis=axis)

        record_once(score, RLOO())
        return ops.cast(drawn, dtype)


SUBSETS: dict[str, Simple | RelaxedTopK] = {
    "simple": Simple(),
    "relaxed_top_k": RelaxedTopK(),
    "rloo": LeaveOneOut(),
}
