"""Chooses the best of several final masks."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gumbel._seeds import generator_state
from keras_gumbel._seeds import require_seed
from keras_gumbel._seeds import seed_generator
from keras_gumbel._validation import require_positive_integer
from keras_gumbel.sparsity._choices import decide
from keras_gumbel.sparsity._choices import final_masks
from keras_gumbel.sparsity._found import find_scores
from keras_gumbel.sparsity._harden import harden_for


def harden_best(
    model: keras.Model,
    data: Any,
    density: Any = None,
    budget: Any = None,
    num_samples: int = 10,
    batch_size: int | None = None,
    seed: int | None = None,
) -> keras.Model:
    """Gives a model the best of several final masks, in place.

    The masks are compared by their loss on `data`. The first mask keeps the
    largest scores, as `keras_gumbel.harden` does. The others are random masks
    of the same size, in which a weight is kept with a probability close to its
    score s (Eq. 18).

    ```
    m = 1 for the K largest of log(s / (1 - s)) + e, and 0 for all others
    e ~ Logistic(0, 1)                                            # Eq. (26)
    ```

    If all scores are 0 or 1, as after the `harden_step` of
    `ProjectedOptimizer`, there is only one mask and nothing to compare.
    `BatchNormalization` is in inference mode, with its current statistics.

    Args:
        model: Keras model with masks, compiled.
        data: Tuple `(x, y)` or `(x, y, sample_weight)` of arrays, or a
            dataset, as for `Model.evaluate`.
        density: As in `keras_gumbel.harden`. Defaults to `None`.
        budget: As in `keras_gumbel.harden`. Defaults to `None`.
        num_samples: Positive integer, the number of random masks. Defaults to
            `10`.
        batch_size: Integer or `None`, as in `Model.evaluate`. Defaults to
            `None`.
        seed: Integer in [0, 2**32) or `None`, the seed of the random masks.
            They are the same on every backend. Defaults to `None`.

    Returns:
        The same model.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model is not compiled, `num_samples` is not a
            positive integer, or `keras_gumbel.harden` raises an error.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> model = keras_gumbel.sparsify(model)
    >>> model.compile(loss="mse")
    >>> data = keras.ops.ones((2, 8)), keras.ops.ones((2, 4))
    >>> model = keras_gumbel.harden_best(model, data, density=0.5)

    References:
        - [Zhou et al., 2021](https://arxiv.org/abs/2105.01571), the best of
          several masks
        - [Bondesson et al.,
          2006](https://doi.org/10.1111/j.1467-9469.2006.00497.x), the
          distribution of the random ones: Pareto sampling
    """
    require_positive_integer("harden_best", "num_samples", num_samples)
    seed = require_seed("harden_best", seed)
    scores = find_scores("harden_best", model)
    if not getattr(model, "compiled", False):
        raise ValueError(
            "`harden_best` compares masks by the loss that the model is "
            f"compiled with. Received: the model {model.name!r}, which is not "
            "compiled. Call `compile` with a `loss` first."
        )
    choices = decide("harden_best", model, scores, density, budget)
    harden_for("harden_best", model, density, budget)
    if choices is None:  # hardened already
        return model
    generator = np.random.default_rng(generator_state(seed_generator(seed)))
    best, lowest = [s.values() for s in scores], None
    for _ in range(num_samples):
        finals = final_masks(
            scores, choices, lambda values: _perturbed(values, generator)
        )
        if all(map(np.array_equal, finals, best)):
            continue
        if lowest is None:
            lowest = _loss(model, data, batch_size)
        for s, final in zip(scores, finals, strict=True):
            s.harden(final)
        loss = _loss(model, data, batch_size)
        if loss < lowest:
            best, lowest = finals, loss
    for s, final in zip(scores, best, strict=True):
        s.harden(final)
    return model


def _loss(model: keras.Model, data: Any, batch_size: int | None) -> float:
    arrays = data if isinstance(data, tuple) else (data,)
    touched = model.metrics_variables + model.non_trainable_variables
    before = [ops.convert_to_numpy(v).copy() for v in touched]
    inputs = dict(zip(("x", "y", "sample_weight"), arrays, strict=False))
    logs = model.evaluate(
        **inputs, batch_size=batch_size, verbose=0, return_dict=True
    )
    for variable, value in zip(touched, before, strict=True):
        variable.assign(value)
    return float(logs["loss"])


def _perturbed(values: np.ndarray, generator: np.random.Generator) -> Any:
    """Adds the noise of Eq. (26) to the logits of scores.

    The signs of the results are Bernoulli masks (Eq. 18). The K largest results
    are a mask of K ones, by Pareto sampling. The results are mapped to (0, 1)
    in the same order.
    """
    probs = values.astype("float64")
    with np.errstate(divide="ignore"):  # scores of 0 and 1 are certain
        logits = np.log(probs) - np.log1p(-probs)
    perturbed = logits + generator.logistic(size=probs.shape)
    certain = np.isinf(perturbed)
    finite = np.where(certain, 0.0, perturbed)
    return np.where(certain, probs, 0.5 + 0.5 * finite / (1.0 + abs(finite)))
