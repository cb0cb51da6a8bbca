"""The mask of N:M sparsity that chooses among all patterns."""

import itertools
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gumbel import random
from keras_gumbel._stochastic import StochasticLayer
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_number
from keras_gumbel._validation import require_positive
from keras_gumbel.granularities import ScoreLayout
from keras_gumbel.masks._sampled_mask import SampledMask
from keras_gumbel.ops._cardinality import top_of_rows
from keras_gumbel.ops._discrete import one_hot_argmax
from keras_gumbel.ops._sampling import gumbel_softmax


@keras.saving.register_keras_serializable(package="keras_gumbel")
class PatternMask(StochasticLayer, SampledMask):
    """Chooses one of the patterns in which N of M weights are kept.

    Use it on a pretrained network with `keras_gumbel.sparsify(model,
    PatternMask(), granularity="2:4", freeze_weights=True)`. There are six
    patterns P that keep 2 of 4 weights. For every group of weights, one pattern
    is drawn by Gumbel-Softmax from the scores s of the group:

    ```
    z ~ Gumbel(0, 1)
    y = softmax((scale * sum_{i in P} s_i + z_P) / temperature)   # Eq. (15)
    m_i = sum of y_P over the patterns P with i
    ```

    The entries of every sample sum to N in a group of M, from the first step
    on. The scores start from the magnitudes of the weights. Train them with
    `score_optimizer=keras.optimizers.Adam(...)` and a falling temperature,
    because the samples are noisy. `LearnedMask`, the default of `sparsify`,
    accepts the same granularity, has no noise, and needs neither.

    In inference (`training=False`), no noise is drawn. By default, the mask is
    the pattern with the largest scores. `inference` changes this.

    Args:
        temperature: Positive number, or a schedule of the training step such
            as `keras_gumbel.schedules.LinearAnnealing`. Defaults to `1.0`.
        scale: Positive number, the largest difference of the logits of two
            patterns, for each weight in which they differ. Defaults to
            `10.0`.
        prior: Number in [0, 1], the initial difference between the scores of
            the N largest weights of a group and the scores of the others.
            Defaults to `0.25`.
        inference: String, the mask in inference: `"mode"` for the most
            probable pattern, `"mean"` for the expectation, `"sample"` for a
            sample as in training. Defaults to `"mode"`.
        seed: Integer in [0, 2**32) or `None`. Defaults to `None`.
        **kwargs: Arguments of `keras_gumbel.masks.Mask`.

    Call arguments:
        inputs: Float tensor, the weight.
        training: Boolean, whether to draw noise.

    Input shape:
        Any, without unknown lengths.

    Output shape:
        Same as the input.

    Raises:
        ValueError: If an argument is out of its range; at build, if the mask
            stands between layers.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> model = keras_gumbel.sparsify(
    ...     model, keras_gumbel.masks.PatternMask(seed=0), granularity="2:4"
    ... )
    >>> model = keras_gumbel.harden(model, density=0.5)

    References:
        - [Fang et al., 2024](https://arxiv.org/abs/2409.17481), MaskLLM
    """

    for_weights = True

    def __init__(
        self,
        temperature: Any = 1.0,
        scale: float = 10.0,
        prior: float = 0.25,
        inference: str = "mode",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        require_positive("PatternMask", "scale", scale)
        if not is_number(prior) or not 0 <= prior <= 1:
            raise invalid_argument(
                "PatternMask", "prior", "a number in [0, 1]", prior
            )
        super().__init__(temperature, inference, seed, **kwargs)
        self.scale = scale
        self.prior = prior

    def problem(
        self,
        weight: keras.Variable,
        layout: ScoreLayout,
        input_axes: tuple[int, ...] | None,
    ) -> str | None:
        if layout.rows is None or layout.rows[0] is None:
            return "`PatternMask` needs an N:M granularity such as '2:4'"
        return None

    def attach_to(
        self,
        weight: keras.Variable,
        layout: ScoreLayout,
        input_axes: tuple[int, ...] | None,
    ) -> None:
        rows: Any = layout.rows
        self.rows = count, axis = rows
        largest = top_of_rows(self.saliency(weight, layout), count, axis)
        largest = ops.cast(largest, "float32")
        self.mask_scores.assign(1.0 - self.prior * (1.0 - largest))

    def draw(self, training: bool | None = False) -> Tensor:
        count, axis = self.rows
        scores = ops.moveaxis(ops.convert_to_tensor(self.mask_scores), axis, -1)
        patterns = ops.convert_to_tensor(
            _patterns(count, int(scores.shape[-1]))
        )  # (P, M)
        logits = self.scale * ops.matmul(scores, ops.transpose(patterns))
        if self.draws(training):
            noise = random.gumbel(
                logits.shape, "float32", self.seed_generator, self.precision
            )
            temperature = self.current_temperature(self.count(training))
            chosen = gumbel_softmax(logits, temperature, noise=noise)
        elif self.inference == "mode":
            chosen = one_hot_argmax(logits, -1)
        else:
            chosen = ops.softmax(logits, axis=-1)
        return ops.moveaxis(ops.matmul(chosen, patterns), -1, axis)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "scale": self.scale,
            "prior": self.prior,
        }


def _patterns(count: int, length: int) -> np.ndarray:
    """Returns all masks with a given number of ones, one in each row."""
    kept = list(itertools.combinations(range(length), count))
    patterns = np.zeros((len(kept), length), "float32")
    for pattern, places in zip(patterns, kept, strict=True):
        pattern[list(places)] = 1.0
    return patterns
