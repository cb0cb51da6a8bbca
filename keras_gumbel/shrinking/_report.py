"""The report of the units that shrinking can and cannot remove."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from keras_gumbel import _keras_private
from keras_gumbel._reports import Report
from keras_gumbel._reports import Table
from keras_gumbel.shrinking._liveness import Liveness
from keras_gumbel.shrinking._passes import edits_of
from keras_gumbel.shrinking._passes import follow
from keras_gumbel.shrinking._passes import needs_another
from keras_gumbel.shrinking._passes import rebuilt
from keras_gumbel.shrinking._shape_links import LINKING_LAYERS


@dataclasses.dataclass(frozen=True)
class ShrinkRow:
    """One layer with units of a model.

    Attributes:
        name: String, the name of the layer, prefixed by the names of the models
            that contain it. The units of a `MultiHeadAttention` are its heads.
            Its output units have a separate row.
        units: Integer, the number of its units.
        kept: Integer, the number of units that stay.
        reasons: Dictionary from the reason why dead units stay to the number of
            such units. A dead unit computes nothing, or nothing reads it.
    """

    name: str
    units: int
    kept: int
    reasons: dict[str, int]

    @property
    def dead(self) -> int:
        """The number of dead units that stay."""
        return sum(self.reasons.values())


@dataclasses.dataclass(frozen=True)
class ShrinkReport(Report):
    """The units that `keras_gumbel.shrink` removes from a model.

    `print` and notebooks show it as a table.

    Attributes:
        rows: Tuple of `ShrinkRow`, one for each layer with units.
        parameters: Integer, the number of weights of the model.
        kept: Integer, the number of weights of the smaller model.
        skipped: Dictionary from the names of layers that keep all their units
            to the reasons.
    """

    rows: tuple[ShrinkRow, ...]
    parameters: int
    kept: int
    skipped: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain data, for JSON."""
        return dataclasses.asdict(self)

    def _parts(self) -> Sequence[Table | str]:
        rows = [
            [row.name, f"{row.units:,}", f"{row.kept:,}", f"{row.dead:,}"]
            for row in self.rows
        ]
        return [
            Table(titles=["layer", "units", "kept", "dead"], rows=rows),
            f"parameters: {self.parameters:,} -> {self.kept:,}",
            *(
                f"dead but kept: {count} of {row.name}, since {why}"
                for row in self.rows
                for why, count in row.reasons.items()
            ),
            *(f"not shrunk: {n} ({why})" for n, why in self.skipped.items()),
        ]


def shrink_report(model: keras.Model) -> ShrinkReport:
    """Reports the units that `keras_gumbel.shrink` would remove or keep.

    Args:
        model: Sequential or Functional model without masks.

    Returns:
        A `ShrinkReport`.

    Raises:
        TypeError: If `model` is not a Sequential or Functional model.
        ValueError: If the model has a mask or is not built.

    Example:

    >>> hidden = keras.layers.Dense(4, "relu", name="hidden")
    >>> model = keras.Sequential(
    ...     [keras.Input((8,)), hidden, keras.layers.Dense(2)]
    ... )
    >>> kernel, bias = hidden.get_weights()
    >>> kernel[:, 1:3] = 0.0
    >>> hidden.set_weights([kernel, bias])
    >>> report = keras_gumbel.shrink_report(model)
    >>> report.rows[0].name, report.rows[0].kept, report.kept
    ('hidden', 2, 24)
    """
    return report_of("shrink_report", model)


def report_of(owner: str, model: keras.Model) -> ShrinkReport:
    """Reports on all passes over a model, on behalf of a function."""
    found = follow(owner, model)
    report = _report(model, found)
    if not needs_another(found):
        return report
    last = report_of(owner, rebuilt(model, found))
    rows = zip(report.rows, last.rows, strict=True)
    return ShrinkReport(
        rows=tuple(dataclasses.replace(b, units=a.units) for a, b in rows),
        parameters=report.parameters,
        kept=last.kept,
        skipped=last.skipped,
    )


def _report(model: keras.Model, found: dict[str, Liveness]) -> ShrinkReport:
    """Combines the results for a model and its nested models."""
    units = {
        prefix + step.rule.name: (step, liveness)
        for prefix, liveness in found.items()
        for step in liveness.steps
        if step.rule.listed
    }
    rows = [
        ShrinkRow(
            name=name,
            units=int(liveness.kept(step).size),
            kept=int(liveness.kept(step).sum()),
            reasons=dict(collections.Counter(liveness.dead(step))),
        )
        for name, (step, liveness) in units.items()
    ]
    skipped = {
        prefix + layer.name: f"{type(layer).__name__} {reason}"
        for prefix, liveness in found.items()
        for layer, reason in liveness.barriers
        if _has_units(layer)
    }
    for name, (step, liveness) in units.items():
        if reason := liveness.held(step):
            skipped[name] = reason
    parameters = int(model.count_params())
    removed = sum(
        edit.layer.count_params() - sum(w.size for w in edit.weights)
        for edit in edits_of(found).values()
        if edit.weights
    )
    kept = parameters - int(removed)
    return ShrinkReport(tuple(rows), parameters, kept, skipped)


def _has_units(layer: keras.Layer) -> bool:
    """Whether a layer that keeps its shapes could lose units in principle."""
    if type(layer) in LINKING_LAYERS or _keras_private.is_functional(layer):
        return False
    return any(len(w.shape) > 1 for w in getattr(layer, "weights", ()))
