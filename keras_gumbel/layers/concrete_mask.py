"""The binary concrete mask layer."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_gumbel import random
from keras_gumbel._scores import mark_scores
from keras_gumbel._typing import Shape
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_integer
from keras_gumbel._validation import require_axis
from keras_gumbel._validation import require_choice
from keras_gumbel.layers._stochastic import StochasticLayer
from keras_gumbel.ops.bernoulli import BERNOULLI_ESTIMATORS
from keras_gumbel.ops.bernoulli import relaxed_bernoulli
from keras_gumbel.ops.bernoulli import sample_bernoulli
from keras_gumbel.ops.gates import hard_concrete
from keras_gumbel.ops.gates import stochastic_gate

RELAXATIONS = ("binary_concrete", "hard_concrete", "gaussian", "mean")


@keras.saving.register_keras_serializable(package="keras_gumbel")
class ConcreteMask(StochasticLayer):
    """Gates its input with learned relaxed Bernoulli masks.

    Use it to let training decide which features, channels or weights to keep:
    every feature has a score s, the probability to be kept, and one mask is
    drawn for all examples of a batch.

    ```
    e ~ Logistic(0, 1)
    m = sigmoid((log(s / (1 - s)) + e) / temperature)             # Eq. (26)
    output = input * m
    ```

    The scores are one trainable float32 variable named `mask_scores`,
    whatever the dtype policy. Train them with
    `keras_gumbel.optimizers.ProjectedOptimizer`, which holds the expected
    number of kept features, sum(s) (Eq. 19), under a budget; or give a single
    layer a `keras_gumbel.constraints.CappedBox`.

    In inference (`training=False`) no noise is drawn and no state changes:
    the mask is s, its expectation, or what `inference` says.

    Args:
        axis: Integer, a sequence of integers, or `None`. The axes of the
            input that have scores of their own; a mask is shared along all
            others. `None` gives every entry a score, for masks on weights.
            Defaults to `-1`.
        temperature: Positive number, or a schedule of the layer's own step
            such as `keras_gumbel.schedules.LinearAnnealing`. Defaults to
            `2 / 3`.
        hard: Boolean, whether the mask in training is 0 or 1, with the
            gradient of `estimator`. Defaults to `False`.
        estimator: String, the gradient of a hard mask: `"binary_concrete"`
            for the one of the relaxed mask (Eq. 16), `"straight_through"`,
            `"identity"` or `"reinmax"`, as in
            `keras_gumbel.ops.sample_bernoulli`. Defaults to
            `"binary_concrete"`.
        relaxation: String, the mask in training: `"binary_concrete"` for
            the one above, `"hard_concrete"` or `"gaussian"` for samples that
            are 0 and 1 with positive probability, as in
            `keras_gumbel.ops.hard_concrete` and
            `keras_gumbel.ops.stochastic_gate`, or `"mean"` for s itself, the
            expectation, without noise. Defaults to `"binary_concrete"`.
        fixed: Boolean, whether the scores are a final mask: not trainable,
            applied as they are, without noise. Defaults to `False`.
        scores_initializer: Initializer of the scores. Defaults to `"ones"`.
        scores_constraint: Constraint of the scores, such as `CappedBox`, or
            `None`. `ProjectedOptimizer` does not take scores that have one.
            Defaults to `None`.
        inference: String, the mask in inference: `"mean"` for s, `"mode"` for
            1 where s > 0.5 and 0 elsewhere, `"sample"` for a sample as in
            training. Defaults to `"mean"`.
        learn_temperature: Boolean, whether the temperature is a trainable
            variable that starts at `temperature`, positive by construction.
            Defaults to `False`.
        precision: String, `"standard"` or `"high"`, the noise's: see
            `keras_gumbel.random.logistic`. Defaults to `"standard"`.
        seed: Integer in [0, 2**32) or `None`. Defaults to `None`.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Float tensor.
        training: Boolean, whether to draw noise.

    Input shape:
        Any, with known lengths on the axes named by `axis`.

    Output shape:
        Same as the input.

    Raises:
        ValueError: If `temperature` is not positive, `inference`,
            `estimator` or `precision` is unknown, `estimator` needs a hard
            mask, or `seed` is out of range; at build, if `axis` does not fit
            the inputs.

    Example:

    >>> gate = keras_gumbel.layers.ConcreteMask(seed=0)
    >>> tuple(gate(keras.ops.ones((2, 3)), training=True).shape)
    (2, 3)

    References:
        - [Maddison et al., 2016](https://arxiv.org/abs/1611.00712)
        - [Zhou et al., 2021](https://arxiv.org/abs/2105.01571)
    """

    INFERENCE = ("mean", "mode", "sample")

    def __init__(
        self,
        axis: int | Sequence[int] | None = -1,
        temperature: Any = 2 / 3,
        hard: bool = False,
        estimator: str = "binary_concrete",
        relaxation: str = "binary_concrete",
        fixed: bool = False,
        scores_initializer: Any = "ones",
        scores_constraint: Any = None,
        inference: str = "mean",
        learn_temperature: bool = False,
        precision: str = "standard",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        named = axis if isinstance(axis, Sequence) else [axis]
        if axis is not None and not all(map(is_integer, named)):
            raise invalid_argument(
                "ConcreteMask",
                "axis",
                "an integer, a sequence of integers, or `None`",
                axis,
            )
        require_choice(
            "ConcreteMask", "estimator", estimator, BERNOULLI_ESTIMATORS
        )
        require_choice("ConcreteMask", "relaxation", relaxation, RELAXATIONS)
        if hard and relaxation != "binary_concrete":
            raise invalid_argument(
                "ConcreteMask",
                "relaxation",
                "'binary_concrete' with `hard=True`",
                relaxation,
            )
        if estimator != "binary_concrete" and not hard:
            raise invalid_argument(
                "ConcreteMask",
                "estimator",
                "'binary_concrete' with `hard=False`",
                estimator,
                "Pass `hard=True`: a relaxed mask has its own gradient.",
            )
        super().__init__(
            temperature,
            inference,
            seed,
            learn_temperature=learn_temperature,
            precision=precision,
            **kwargs,
        )
        self.axis = axis
        self.hard = hard
        self.estimator = estimator
        self.relaxation = relaxation
        self.fixed = fixed
        self.scores_initializer = keras.initializers.get(scores_initializer)
        self.scores_constraint = keras.constraints.get(scores_constraint)
        self.supports_masking = True

    def build(self, input_shape: Shape) -> None:
        axes = self._axes(len(input_shape))
        if any(input_shape[axis] is None for axis in axes):
            raise invalid_argument(
                "ConcreteMask",
                "axis",
                f"axes of known length, for inputs of shape {input_shape}",
                self.axis,
            )
        self.input_spec = keras.InputSpec(ndim=len(input_shape))
        self.mask_scores = self.add_weight(
            name="mask_scores",
            shape=[input_shape[axis] for axis in axes],
            initializer=self.scores_initializer,
            constraint=self.scores_constraint,
            trainable=not self.fixed,
            dtype="float32",
            autocast=False,
        )
        if not self.fixed:
            mark_scores(self.mask_scores)
        super().build(input_shape)

    def call(self, inputs: Tensor, training: bool | None = False) -> Tensor:
        mask = self.broadcast(self.draw(training))
        return inputs * ops.cast(mask, inputs.dtype)

    def draw(self, training: bool | None = False) -> Tensor:
        """Returns a mask, as the next call would apply it.

        Args:
            training: Boolean, whether to draw noise. Defaults to `False`.

        Returns:
            A float32 tensor of the shape of `mask_scores`, in [0, 1].
        """
        scores = ops.convert_to_tensor(self.mask_scores)
        if self.fixed:
            return scores
        if training and self.relaxation == "mean":
            self.advance(training)
            return scores
        if not self.draws(training):
            if self.inference == "mode":
                return ops.cast(scores > 0.5, scores.dtype)
            return ops.clip(scores, 0.0, 1.0)
        mask = self._sample(scores)
        self.advance(training)
        return mask

    def _sample(self, scores: Tensor) -> Tensor:
        if self.relaxation == "gaussian":
            noise = keras.random.normal(
                scores.shape, dtype="float32", seed=self.seed_generator
            )
            return stochastic_gate(scores, noise=noise)
        noise = random.logistic(
            scores.shape, "float32", self.seed_generator, self.precision
        )
        temperature = self.current_temperature()
        if self.hard:
            return sample_bernoulli(scores, temperature, self.estimator, noise)
        relaxed = (
            hard_concrete
            if self.relaxation == "hard_concrete"
            else relaxed_bernoulli
        )
        return relaxed(scores, temperature, noise=noise)

    def broadcast(self, mask: Tensor) -> Tensor:
        """Returns a mask in a shape that broadcasts to the inputs.

        Args:
            mask: Tensor of the shape of `mask_scores`.

        Returns:
            A tensor of the rank of the inputs, of length 1 on the axes that
            have no scores.
        """
        rank = self.input_spec.ndim
        lengths = iter(mask.shape)
        axes = self._axes(rank)
        shape = [next(lengths) if a in axes else 1 for a in range(rank)]
        return ops.reshape(mask, shape)

    def _axes(self, rank: int) -> list[int]:
        """Returns the axes that have scores, in increasing order."""
        if self.axis is None:
            return list(range(rank))
        named = self.axis if isinstance(self.axis, Sequence) else [self.axis]
        shape = (None,) * rank
        return sorted({require_axis("ConcreteMask", a, shape) for a in named})

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "axis": self.axis,
            "hard": self.hard,
            "estimator": self.estimator,
            "relaxation": self.relaxation,
            "fixed": self.fixed,
            "scores_initializer": keras.initializers.serialize(
                self.scores_initializer
            ),
            "scores_constraint": keras.constraints.serialize(
                self.scores_constraint
            ),
        }
