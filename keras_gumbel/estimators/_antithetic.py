"""The base of estimators that compare a draw with its opposite."""

from collections.abc import Callable

from keras import ops

from keras_gumbel._calls import once
from keras_gumbel._numerics import is_allowed
from keras_gumbel._probabilities import safe_logit
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel.estimators._score_function import ScoreFunction
from keras_gumbel.estimators._score_tape import nan_if_changed
from keras_gumbel.estimators._score_tape import of_first_draw


class Antithetic(ScoreFunction):
    """Pairs of draws with opposite noise.

    Subclasses implement `factor(logit, noise)`. It is an odd function of the
    noise and multiplies the difference of the losses.
    """

    group = 2
    num_classes = 2

    def factor(self, logit: Tensor, noise: Tensor) -> Tensor:
        raise NotImplementedError

    def score(self, hard: Tensor, logits: Tensor, noise: Tensor) -> Tensor:
        if logits.shape[-1] != 2:
            raise invalid_argument(
                type(self).__name__,
                "logits",
                "of two classes, the only supported number",
                tuple(logits.shape),
                "For more classes, use `keras_gumbel.estimators.RLOO`.",
            )
        both = ops.all(is_allowed(logits), axis=-1)
        safe = ops.where(both[..., None], logits, 0.0)
        logit = safe[..., 1] - safe[..., 0]
        score = self._of_logit(logit, noise[..., 1] - noise[..., 0])
        return ops.where(both, score, 0.0)

    def binary_score(
        self, hard: Tensor, probs: Tensor, noise: Tensor
    ) -> Tensor:
        return self._of_logit(safe_logit(probs), noise)

    def _of_logit(self, logit: Tensor, noise: Tensor) -> Tensor:
        fixed = ops.stop_gradient(logit)
        factor = self.factor(fixed, noise)
        first = of_first_draw("logits", fixed, self.group)
        return nan_if_changed(factor, fixed, first) * logit

    def arranged(
        self, noise: Tensor, opposite: Callable[[Tensor], Tensor]
    ) -> Tensor:
        def arrange() -> Tensor:
            first = of_first_draw("noise", noise, self.group)
            return noise if first is None else opposite(first)

        return once(arrange)
