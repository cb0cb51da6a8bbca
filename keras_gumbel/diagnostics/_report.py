"""Bias and variance of gradient estimators on a given function."""

import dataclasses
import functools
import math
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_gumbel import ops as kg_ops
from keras_gumbel._numerics import as_tensor
from keras_gumbel._reports import Report
from keras_gumbel._reports import Table
from keras_gumbel._seeds import require_seed
from keras_gumbel._seeds import spawn_seeds
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import require_positive
from keras_gumbel._validation import require_positive_integer
from keras_gumbel.diagnostics._estimates import Sampler
from keras_gumbel.diagnostics._estimates import Total
from keras_gumbel.diagnostics._estimates import exact_gradient
from keras_gumbel.diagnostics._estimates import mask_outcomes
from keras_gumbel.diagnostics._estimates import moments
from keras_gumbel.diagnostics._estimates import of_one_draw
from keras_gumbel.diagnostics._estimates import of_several_draws
from keras_gumbel.diagnostics._estimates import one_hot_outcomes
from keras_gumbel.estimators._lookup import SHORT_NAMES
from keras_gumbel.estimators._lookup import get_for

_RELAXED = "relaxed"


@dataclasses.dataclass(frozen=True)
class GradientRow:
    """One estimator in a `GradientReport`.

    Lengths are in units of the length of the exact gradient.

    Attributes:
        estimator: String, its name.
        bias: Float, the distance from its mean to the exact gradient.
        bias_error: Float, the standard error of that mean. A smaller bias is
            not significant.
        variance: Float, the mean squared distance to its own mean.
        cosine: Float, the cosine of the angle between its mean and the exact
            gradient.
    """

    estimator: str
    bias: float
    bias_error: float
    variance: float
    cosine: float


@dataclasses.dataclass(frozen=True)
class GradientReport(Report):
    """Bias, variance and direction of gradient estimators.

    `print` and notebooks show it as a table.

    Attributes:
        rows: Tuple of `GradientRow`, one for each estimator.
        gradient: NumPy array, the exact gradient.
    """

    rows: tuple[GradientRow, ...]
    gradient: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain data, for JSON."""
        return dataclasses.asdict(self) | {"gradient": self.gradient.tolist()}

    def _parts(self) -> Sequence[Table | str]:
        rows = [
            [
                row.estimator,
                f"{row.bias:.3f}",
                f"{row.bias_error:.3f}",
                f"{row.variance:.3f}",
                f"{row.cosine:.3f}",
            ]
            for row in self.rows
        ]
        titles = ["estimator", "bias", "±", "variance", "cosine"]
        return [Table(titles=titles, rows=rows)]


def gradient_report(
    function: Callable[[Tensor], Tensor],
    logits: Any = None,
    probs: Any = None,
    estimators: Iterable[Any] | Mapping[str, Sampler] | None = None,
    temperature: float = 1.0,
    num_samples: int = 10_000,
    num_draws: int = 2,
    seed: int | None = None,
) -> GradientReport:
    """Compares gradient estimators with the exact gradient of a function.

    ```
    d/dx E[f(h)],  h ~ softmax(x)       or       d/ds E[f(m)],  P(m = 1) = s
    ```

    is computed exactly, as a sum over all values of h or m. The mean and the
    variance of each estimator are computed from samples.

    Args:
        function: Callable f that uses `keras.ops`. It takes a float32 tensor
            of samples of shape `(batch, *logits.shape)` or
            `(batch, *probs.shape)` and returns one number for each sample, of
            shape `(batch,)`.
        logits: Float array x of shape `(..., K)`, the logits of independent
            variables with K classes each, or `None`. Defaults to `None`.
        probs: Float array s in [0, 1] of any shape, the probabilities of
            independent binary masks, or `None`. Exactly one of `logits` and
            `probs` must be given. Defaults to `None`.
        estimators: Sequence of identifiers for `keras_gumbel.estimators.get`,
            or `"relaxed"` for the relaxed sample; or a dictionary from names
            to your own functions `sampler(x, seed)`, which return a sample
            for each row of a tensor x; or `None` for `"relaxed"` and all
            estimators that work with this number of classes. Defaults to
            `None`.
        temperature: Positive float, the temperature of the relaxed sample and
            of estimators without their own temperature. Defaults to `1.0`.
        num_samples: Positive integer, the number of sampled gradients for
            each estimator. Defaults to `10000`.
        num_draws: Integer of at least 2, the number of samples of h or m at
            which estimators without bias, such as `"rloo"`, evaluate f for
            one gradient. Estimators that compare pairs or triples use the next
            multiple. All others use one sample. Defaults to `2`.
        seed: Integer or `None`. Defaults to `None`.

    Returns:
        A `GradientReport`.

    Raises:
        ValueError: If both or neither of `logits` and `probs` are given,
            there are more than 65536 values to sum over, a probability is
            not in [0, 1], an estimator is unknown, `num_draws` is too small,
            `function` does not return one number for each sample, or the
            exact gradient is zero or not finite.

    Example:

    >>> report = keras_gumbel.gradient_report(
    ...     lambda h: keras.ops.tanh(h[:, 0] - 0.3 * h[:, 2]),
    ...     logits=[0.8, -0.4, 0.1],
    ...     estimators=["straight_through", "reinmax"],
    ...     seed=0,
    ... )
    >>> straight_through, reinmax = report.rows
    >>> reinmax.bias < straight_through.bias
    True
    """
    owner = "gradient_report"
    if (logits is None) == (probs is None):
        raise invalid_argument(
            owner, "logits", "given, or else `probs`", logits
        )
    require_positive(owner, "temperature", temperature)
    require_positive_integer(owner, "num_samples", num_samples)
    require_positive_integer(owner, "num_draws", num_draws)
    point, outcomes, relaxed = (
        (logits, one_hot_outcomes, kg_ops.gumbel_softmax)
        if probs is None
        else (probs, mask_outcomes, kg_ops.relaxed_bernoulli)
    )
    given = as_tensor(owner, "logits" if probs is None else "probs", point)
    if probs is None and not given.shape:
        raise invalid_argument(owner, "logits", "of shape `(..., K)`", point)
    point = np.asarray(ops.convert_to_numpy(point), "float64")
    exact = exact_gradient(function, *outcomes(point))
    scale = float(np.linalg.norm(exact))
    if not 0.0 < scale < float("inf"):
        raise invalid_argument(
            owner,
            "function",
            "a function whose exact gradient is finite and not zero",
            function,
        )
    relaxed = functools.partial(relaxed, temperature=temperature)
    if estimators is None:
        classes = 2 if probs is not None else point.shape[-1]
        estimators = _names_for(classes)
    totals = _totals(owner, estimators, relaxed, num_draws)
    seeds = spawn_seeds(require_seed(owner, seed), len(totals))
    rows = []
    for (name, total), own in zip(totals.items(), seeds, strict=True):
        mean, variance = moments(function, point, total, num_samples, own)
        rows.append(
            GradientRow(
                estimator=name,
                bias=float(np.linalg.norm(mean - exact)) / scale,
                bias_error=(variance / num_samples) ** 0.5 / scale,
                variance=variance / scale**2,
                cosine=_cosine(mean, exact),
            )
        )
    return GradientReport(tuple(rows), exact)


def _names_for(classes: int) -> list[str]:
    """Returns the names of estimators that fit a number of classes."""
    names = [
        name
        for name in SHORT_NAMES
        if get_for("gradient_report", name).num_classes in (None, classes)
    ]
    return [_RELAXED, *names]


def _totals(
    owner: str,
    estimators: Iterable[Any] | Mapping[str, Sampler],
    relaxed: Sampler,
    num_draws: int,
) -> dict[str, Total]:
    """Returns the function to differentiate for each estimator, by name."""
    if isinstance(estimators, Mapping):
        return {name: of_one_draw(f) for name, f in estimators.items()}
    totals = {}
    for identifier in estimators:
        if isinstance(identifier, str) and identifier == _RELAXED:
            totals[_RELAXED] = of_one_draw(relaxed)
            continue
        estimator = get_for(owner, identifier, "estimators")
        if estimator.compares_losses:
            _require_draws(owner, identifier, estimator, num_draws)
        sampler = functools.partial(relaxed, hard=True, estimator=estimator)
        totals[_name(identifier)] = (
            of_several_draws(sampler, _draws_of(estimator, num_draws))
            if estimator.compares_losses
            else of_one_draw(sampler)
        )
    return totals


def _require_draws(
    owner: str, identifier: Any, estimator: Any, num_draws: int
) -> None:
    """Raises if an estimator has nothing to compare a loss with."""
    if _draws_of(estimator, num_draws) < 2:
        raise invalid_argument(
            owner,
            "num_draws",
            f"an integer of at least 2 for the estimator {_name(identifier)}, "
            "which compares several samples",
            num_draws,
        )


def _draws_of(estimator: Any, num_draws: int) -> int:
    """Returns the next number of draws that an estimator can compare."""
    group = estimator.group or 1
    return math.ceil(num_draws / group) * group


def _name(identifier: Any) -> str:
    """Returns the name of an estimator in a report."""
    if isinstance(identifier, str):
        return identifier
    return getattr(identifier, "__name__", repr(identifier))


def _cosine(mean: np.ndarray, exact: np.ndarray) -> float:
    lengths = np.linalg.norm(mean) * np.linalg.norm(exact)
    return float((mean * exact).sum() / lengths) if lengths else 0.0
