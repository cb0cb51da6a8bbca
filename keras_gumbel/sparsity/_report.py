"""Reports how many weights of each layer are kept."""

import collections
import dataclasses
import math
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import keras

from keras_gumbel._reports import Report
from keras_gumbel._reports import Table
from keras_gumbel.sparsity._choices import Decisions
from keras_gumbel.sparsity._choices import count_undecided
from keras_gumbel.sparsity._choices import find_decisions
from keras_gumbel.sparsity._choices import projected_optimizer
from keras_gumbel.sparsity._choices import warn_of_empty
from keras_gumbel.sparsity._found import Scores
from keras_gumbel.sparsity._found import gated_weights
from keras_gumbel.sparsity._found import sum_scores
from keras_gumbel.sparsity._masked_layer import is_masked
from keras_gumbel.sparsity._masked_weight import is_maskable
from keras_gumbel.sparsity._scan import FROZEN
from keras_gumbel.sparsity._scan import weight_matrices
from keras_gumbel.sparsity._size import NOTHING
from keras_gumbel.sparsity._size import SparsitySize
from keras_gumbel.sparsity._size import measure
from keras_gumbel.sparsity._size import measure_others
from keras_gumbel.sparsity._size import measure_weight

_COUNTS = ("kept", "density", "sum s", "undecided")
_SIZES = ("dense", "gzip", "bitmask", "COO", "scores", "slots")

# After fewer steps, learned scores choose no better than magnitudes: see
# docs/benchmarks/pretrained.md.
_FEWEST_STEPS = 15


@dataclasses.dataclass(frozen=True)
class SparsityRow:
    """One mask of a model.

    Attributes:
        name: String, the name of the weight with the names of its layers, or
            the name of a mask between layers.
        weights: Integer, the number of weights with a score, or of features.
        kept: Integer, the number of these that the final mask keeps.
        expected: Float, the sum of their scores (Eq. 19).
        undecided: Integer, the number with a score between 0.05 and 0.95.
        size: `SparsitySize`, the bytes of the weight.
        counts: String, `"weights"`, or `"features"` for a mask between
            layers. Defaults to `"weights"`.
    """

    name: str
    weights: int
    kept: int
    expected: float
    undecided: int
    size: SparsitySize
    counts: str = "weights"

    @property
    def density(self) -> float:
        """The fraction that is kept."""
        return self.kept / self.weights

    @property
    def undecided_fraction(self) -> float:
        """The fraction of the scores between 0.05 and 0.95."""
        return self.undecided / self.weights


@dataclasses.dataclass(frozen=True)
class SparsityReport(Report):
    """The number of weights that a model keeps, for each mask.

    `print` and notebooks show the report as tables. Masks between layers keep
    features, not weights, and have a separate table.

    Attributes:
        rows: Tuple of `SparsityRow`, one for each mask.
        budget: Integer K, the number of weights or features that are kept.
        budget_used: Float, the sum of the scores divided by K. With costs, the
            cost of the scores divided by the budget.
        skipped: Dictionary from the names of weight matrices without a mask,
            or with a frozen mask, to the reason. They do not count against
            any budget.
        other_bytes: Integer, the bytes of all weights without a mask: skipped
            weights, biases and statistics.
        score_steps: Integer, the number of steps that trained the scores under
            the `ProjectedOptimizer` of the model; or `None` if there is no
            such optimizer or no scores are learned. Defaults to `None`.
    """

    rows: tuple[SparsityRow, ...]
    budget: int
    budget_used: float
    skipped: dict[str, str]
    other_bytes: int
    # Not compared: it describes the training, and a loaded model is the same.
    score_steps: int | None = dataclasses.field(default=None, compare=False)

    @property
    def total(self) -> SparsityRow:
        """The sum of the rows."""
        return _sum(self.rows)

    @property
    def empty(self) -> tuple[str, ...]:
        """The names of the weights that are pruned completely."""
        return tuple(row.name for row in self.rows if not row.kept)

    @property
    def weights(self) -> int:
        """The number of scores of the model."""
        return self.total.weights

    @property
    def kept(self) -> int:
        """The number of ones in the final mask of the model."""
        return self.total.kept

    @property
    def density(self) -> float:
        """The fraction of the model that is kept."""
        return self.total.density

    @property
    def expected(self) -> float:
        """The sum of all scores (Eq. 19)."""
        return self.total.expected

    @property
    def undecided(self) -> int:
        """The number of scores between 0.05 and 0.95."""
        return self.total.undecided

    @property
    def undecided_fraction(self) -> float:
        """The fraction of the scores between 0.05 and 0.95."""
        return self.total.undecided_fraction

    @property
    def size(self) -> SparsitySize:
        """The bytes of all masked weights."""
        return self.total.size

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain data, for JSON."""
        return {
            **dataclasses.asdict(self),
            "rows": [_to_dict(row) for row in self.rows],
            "total": _to_dict(self.total),
        }

    def _parts(self) -> Sequence[Table | str]:
        weights = [row for row in self.rows if row.counts == "weights"]
        features = [row for row in self.rows if row.counts == "features"]
        parts: list[Table | str] = []
        if weights:
            parts.append(
                _table(["masked weight", "weights", *_COUNTS], weights, _counts)
            )
            parts.append(_table(["bytes", *_SIZES], weights, _sizes))
        if features:
            parts.append(
                _table(["mask", "features", *_COUNTS], features, _counts)
            )
        parts.append(f"sum s / K: {self.budget_used:.4f}")
        if weights:
            parts.append(f"weights without a mask: {self.other_bytes:,} bytes")
        parts += [f"nothing is kept of: {name}" for name in self.empty]
        if self.score_steps and self.score_steps < _FEWEST_STEPS:
            parts.append(
                f"too few steps: the scores were trained for "
                f"{self.score_steps} steps, and {_FEWEST_STEPS} or more are "
                "needed to choose well. Train for more steps"
                + (
                    ", or use `sparsify(model, 'magnitude')`."
                    if weights
                    else "."
                )
            )
        if weights:
            skipped = self.skipped.items()
            parts += [f"not masked: {name} ({why})" for name, why in skipped]
        return parts


def sparsity_report(model: keras.Layer) -> SparsityReport:
    """Reports how many weights of a model each mask keeps, and their size.

    `kept` counts the K largest scores of the model, where K is the current
    budget of its `ProjectedOptimizer`. After the end of the schedule, this is
    the mask that `keras_gumbel.harden` chooses. Without this optimizer, K is
    the sum of the scores, which is the average number that a drawn mask keeps
    (Eq. 19). In a hardened model, `kept` counts the final mask. The sizes are
    those of the weights under this mask. A warning lists weights that are
    pruned completely.

    Args:
        model: Keras model or layer with masks.

    Returns:
        A `SparsityReport`.

    Raises:
        TypeError: If `model` is not a Keras model or layer.
        ValueError: If the model has no mask, or a score is NaN.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> report = keras_gumbel.sparsity_report(keras_gumbel.sparsify(model))
    >>> report.weights, report.size.dense
    (32, 128)
    """
    decisions = find_decisions("sparsity_report", model)
    warn_of_empty(decisions.empty, stacklevel=2)
    optimizer = getattr(model, "optimizer", None)
    rows = [
        SparsityRow(
            name=s.name,
            weights=s.num_weights,
            kept=s.count(final),
            expected=s.weights_per_score * sum_scores(value),
            undecided=s.weights_per_score * count_undecided(value),
            size=measure(s, final, optimizer),
            counts="features" if s.of_features else "weights",
        )
        for s, value, final in zip(
            decisions.scores, decisions.values, decisions.finals, strict=True
        )
        if s.mark.place is None
    ] + _gated_rows(decisions, optimizer)
    return SparsityReport(
        rows=tuple(rows),
        budget=decisions.kept,
        budget_used=decisions.budget_used,
        skipped=_skipped(model, decisions.frozen),
        other_bytes=measure_others(model, decisions.scores),
        score_steps=_score_steps(model, decisions.scores),
    )


def _gated_rows(decisions: Decisions, optimizer: Any) -> list[SparsityRow]:
    """Returns the rows of weights along which channels have scores."""
    # The scores of a group are counted with the first weight that they mask.
    scores: dict[int, SparsitySize] = collections.defaultdict(lambda: NOTHING)
    for s, value in zip(decisions.scores, decisions.values, strict=True):
        if s.mark.place is not None:
            scores[id(s.parts[0])] += measure(s, value, optimizer)
    expected = gated_weights(decisions.scores, decisions.values)
    finals = gated_weights(decisions.scores, decisions.finals)
    rows = []
    for (part, values), (_, mask) in zip(expected, finals, strict=True):
        count = math.prod(part.weight.shape)
        rows.append(
            SparsityRow(
                name=part.name,
                weights=count,
                kept=round(count * mask.mean(dtype="float64")),
                expected=count * float(values.mean(dtype="float64")),
                undecided=0,
                size=measure_weight(part.weight, mask) + scores[id(part)],
            )
        )
    return rows


def _score_steps(model: keras.Layer, scores: list[Scores]) -> int | None:
    """Returns how many steps have trained the scores, or `None`."""
    optimizer = projected_optimizer(model)
    if optimizer is None or all(s.mark.ranked for s in scores):
        return None
    if optimizer.harden_step in (None, "auto"):
        return optimizer.steps
    return min(optimizer.steps, optimizer.harden_step)


def _skipped(model: keras.Layer, frozen: list[Scores]) -> dict[str, str]:
    """Lists the weight matrices that do not count in a budget, and why."""
    skipped = {s.name: FROZEN for s in frozen}
    known = model.attachment.reasons if is_masked(model) else {}
    for matrix in weight_matrices(model):
        if not is_maskable(matrix.weight):
            left_out = "left out" if matrix.weight.trainable else FROZEN
            reason = matrix.reason or known.get(id(matrix.weight))
            skipped[matrix.name] = reason or left_out
    return skipped


def _to_dict(row: SparsityRow) -> dict[str, Any]:
    return {
        **dataclasses.asdict(row),
        "density": row.density,
        "undecided_fraction": row.undecided_fraction,
    }


def _sum(rows: Iterable[SparsityRow]) -> SparsityRow:
    rows = list(rows)
    counted = {row.counts for row in rows}
    return SparsityRow(
        name="total",
        weights=sum(row.weights for row in rows),
        kept=sum(row.kept for row in rows),
        expected=sum(row.expected for row in rows),
        undecided=sum(row.undecided for row in rows),
        size=sum((row.size for row in rows), NOTHING),
        counts="weights" if "weights" in counted else "features",
    )


def _table(
    titles: list[str],
    rows: list[SparsityRow],
    cells: Callable[[SparsityRow], list[str]],
) -> Table:
    total = _sum(rows)
    return Table(
        titles=titles,
        rows=[[row.name, *cells(row)] for row in rows],
        total=[total.name, *cells(total)],
    )


def _counts(row: SparsityRow) -> list[str]:
    return [
        f"{row.weights:,}",
        f"{row.kept:,}",
        f"{row.density:.2%}",
        f"{row.expected:,.1f}",
        f"{row.undecided:,} ({row.undecided_fraction:.2%})",
    ]


def _sizes(row: SparsityRow) -> list[str]:
    return [f"{count:,}" for count in dataclasses.astuple(row.size)]
