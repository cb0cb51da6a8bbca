"""REINFORCE with the loss of a relaxed sample as its control variate."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_gumbel._calls import once
from keras_gumbel._numerics import is_allowed
from keras_gumbel._numerics import largest
from keras_gumbel._numerics import slope_carrier
from keras_gumbel._numerics import tempered_softmax
from keras_gumbel._probabilities import log_bernoulli
from keras_gumbel._probabilities import log_categorical
from keras_gumbel._probabilities import safe_logit
from keras_gumbel._typing import Seed
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import is_number
from keras_gumbel._validation import require_positive
from keras_gumbel.estimators._score_function import ScoreFunction
from keras_gumbel.estimators._score_tape import active_tape
from keras_gumbel.estimators._score_tape import nan_if_changed
from keras_gumbel.estimators._score_tape import of_first_draw


@keras.saving.register_keras_serializable(package="keras_gumbel")
class REBAR(ScoreFunction):
    """REBAR: an unbiased estimator for differentiable losses.

    ```
    gradient = (loss(h) - eta loss(y)) grad log P(h) + eta grad loss(y)
    y = softmax((sg[z] + r (log p - sg[log p])) / temperature)
    z = x + Gumbel noise,  h = argmax z,  r = exp(z - max z),  p = softmax(x)
    ```

    The loss of the relaxed sample y is subtracted, and its gradient is added
    back. r makes the gradient of y that of z less that of z~. z~ is z drawn
    again, given its argmax h, with the noise that z itself has.

    The loss must be differentiable, and defined at relaxed samples. Where it
    jumps between two relaxed samples, the gradient has a bias. The loss has a
    value for each example, on three draws or a multiple of 3: use
    `keras_gumbel.models.MonteCarloModel` with `fit`, or
    `keras_gumbel.estimators.ScoreTape` in a custom training loop. The first
    draw of three is a hard sample, and the others are y. The mean loss has the
    weights 1, eta and -eta, so it is the loss of the hard sample. The weights
    of the model get the gradient of the hard sample, because those of the
    others cancel. The string `"rebar"` stands for it.

    The relaxed samples have the temperature of the layer. The gradient has no
    bias at any temperature and any `eta`. Both change its variance.

    All three draws must have the same logits. This holds for a single layer of
    samples of any width. It does not hold if the logits depend on other samples
    or on dropout. Their gradient is NaN then. `RLOO` has no such condition.

    Args:
        eta: Positive number, the weight of the control variate. Defaults to
            `1.0`.

    Raises:
        ValueError: If `eta` is not positive.

    Example:

    >>> layer = keras_gumbel.layers.StraightThroughArgmax(
    ...     temperature=0.5, estimator="rebar"
    ... )
    >>> tape = keras_gumbel.estimators.ScoreTape()
    >>> losses = []
    >>> for _ in range(3):
    ...     with tape.draw():
    ...         sample = layer(keras.ops.zeros((8, 5)), training=True)
    ...     losses.append(keras.ops.square(sample[:, 1] - 0.4))
    >>> tuple(tape.loss(losses).shape)
    ()

    References:
        - [Tucker et al., 2017](https://arxiv.org/abs/1703.07370)
    """

    group = 3
    needs_loss_gradient = True

    def __init__(self, eta: float = 1.0) -> None:
        require_positive("REBAR", "eta", eta)
        super().__init__()
        self.eta = eta

    def score(self, hard: Tensor, logits: Tensor, noise: Tensor) -> Tensor:
        return log_categorical(hard, logits)

    def binary_score(
        self, hard: Tensor, probs: Tensor, noise: Tensor
    ) -> Tensor:
        return log_bernoulli(hard, probs)

    def signals(self, losses: Sequence[Tensor]) -> list[Any]:
        hard, relaxed, _ = losses
        return [hard - self.eta * relaxed, 0.0, 0.0]

    def weights(self, size: int) -> list[float]:
        return [1.0, self.eta, -self.eta]

    def surrogate(
        self,
        hard: Tensor,
        logits: Tensor,
        noise: Tensor,
        temperature: Any,
        seed: Seed = None,
    ) -> Tensor:
        perturbed = ops.stop_gradient(logits + noise)
        below = perturbed - largest(perturbed, -1)
        ratio = ops.exp(ops.where(is_allowed(perturbed), below, -1e4))
        # d log p = dx - <p, dx>
        carrier = slope_carrier(logits)
        p = ops.stop_gradient(tempered_softmax(logits, 1.0))
        slope = carrier - ops.sum(p * carrier, axis=-1, keepdims=True)
        if not is_number(temperature):
            temperature = ops.stop_gradient(temperature)
        return tempered_softmax(perturbed + ratio * slope, temperature)

    def one_hot(
        self,
        owner: str,
        hard: Tensor,
        logits: Tensor,
        noise: Tensor | None,
        temperature: Any,
        axis: int,
        seed: Seed,
    ) -> Tensor:
        sample = super().one_hot(
            owner, hard, logits, noise, temperature, axis, seed
        )

        def relax(noise: Tensor) -> Tensor:
            return self.soft(
                owner, hard, logits, noise, temperature, axis, seed
            )

        finite = ops.where(is_allowed(logits), logits, 0.0)
        return self._of_draw(sample, relax, noise, finite)

    def binary(
        self,
        owner: str,
        hard: Tensor,
        probs: Tensor,
        noise: Tensor,
        temperature: Any,
        seed: Seed,
    ) -> Tensor:
        sample = super().binary(owner, hard, probs, noise, temperature, seed)

        def relax(noise: Tensor) -> Tensor:
            return self.binary_surrogate(hard, probs, noise, temperature, seed)

        return self._of_draw(sample, relax, noise, safe_logit(probs))

    def _of_draw(
        self,
        sample: Tensor,
        relax: Callable[[Tensor], Tensor],
        noise: Tensor | None,
        logits: Tensor,
    ) -> Tensor:
        """Returns the hard sample or, in later draws, the relaxed one."""

        def find() -> tuple[int, Tensor | None]:
            tape = active_tape()
            place = 0 if tape is None else tape.place(self.group)
            return place, of_first_draw("logits", fixed, self.group)

        fixed = ops.stop_gradient(logits)
        place, first = once(find)
        if place == 0:
            return sample
        relaxed = relax(nan_if_changed(noise, fixed, first))
        # The gradients of the third draw cancel those of the second in all
        # weights but the logits.
        return relaxed if place == 1 else ops.stop_gradient(relaxed)

    def arranged(
        self, noise: Tensor, opposite: Callable[[Tensor], Tensor]
    ) -> Tensor:
        def arrange() -> Tensor:
            first = of_first_draw("noise", noise, self.group)
            return noise if first is None else first

        return once(arrange)

    def get_config(self) -> dict[str, Any]:
        return {"eta": self.eta}
