"""What is kept of each layer."""

import dataclasses
import io
from typing import Any

import keras
import numpy as np

from keras_gumbel.sparsity._masks import decide_budgets
from keras_gumbel.sparsity._masks import final_masks
from keras_gumbel.sparsity._masks import find_masks
from keras_gumbel.sparsity._masks import together
from keras_gumbel.sparsity._rewrite import require_rewritable
from keras_gumbel.sparsity._sparsify import unmasked_layers

# Scores between these are neither kept nor dropped yet.
_UNDECIDED = (0.05, 0.95)


@dataclasses.dataclass(frozen=True)
class SparsityRow:
    """One mask of a model.

    Attributes:
        name: String, the names of the layer and of its kernel, or of a mask
            between layers.
        weights: Integer, the number of scores.
        kept: Integer, the ones of the final mask.
        expected: Float, the sum of the scores (Eq. 19).
        undecided: Integer, the number of scores between 0.05 and 0.95.
    """

    name: str
    weights: int
    kept: int
    expected: float
    undecided: int

    @property
    def density(self) -> float:
        """The kept share."""
        return self.kept / self.weights


@dataclasses.dataclass(frozen=True)
class SparsityReport:
    """What is kept of each masked layer of a model.

    `print` shows it as a table.

    Attributes:
        rows: Tuple of `SparsityRow`, one for each mask.
        budget: Integer K, the number of ones the final mask has.
        skipped: Dictionary, names of layers whose weight matrices have no
            mask, to the reason.
    """

    rows: tuple[SparsityRow, ...]
    budget: int
    skipped: dict[str, str]

    @property
    def weights(self) -> int:
        """The number of scores of the model."""
        return sum(row.weights for row in self.rows)

    @property
    def kept(self) -> int:
        """The ones of the final mask of the model."""
        return sum(row.kept for row in self.rows)

    @property
    def density(self) -> float:
        """The kept share of the model."""
        return self.kept / self.weights

    @property
    def expected(self) -> float:
        """The sum of all scores (Eq. 19)."""
        return sum(row.expected for row in self.rows)

    @property
    def undecided(self) -> int:
        """The number of scores between 0.05 and 0.95."""
        return sum(row.undecided for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as plain data, for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        # Keras depends on rich; importing it here keeps ours quick.
        from rich.console import Console
        from rich.table import Table

        table = Table()
        table.add_column("masked kernel")
        for title in ("weights", "kept", "density", "undecided"):
            table.add_column(title, justify="right")
        for row in self.rows:
            table.add_row(row.name, *_cells(row))
        table.add_section()
        table.add_row("total", *_cells(self))
        text = io.StringIO()
        Console(file=text, width=100).print(table)
        lines = [text.getvalue().rstrip()]
        lines += [f"not masked: {n} ({why})" for n, why in self.skipped.items()]
        return "\n".join(lines)


def sparsity_report(model: keras.Model) -> SparsityReport:
    """Reports what is kept of each masked layer of a model.

    `kept` counts the mask that `keras_gumbel.harden` would fix now: the K
    largest scores of the model, with the K of the `ProjectedOptimizer` the
    model is compiled with, or else the sum of the scores, the number a drawn
    mask keeps on average (Eq. 19). In a hardened model it is the mask itself.

    Args:
        model: Sequential or Functional model with masked layers, or the
            `MonteCarloModel` that holds it.

    Returns:
        A `SparsityReport`.

    Raises:
        TypeError: If `model` is not a Sequential or Functional model.
        ValueError: If the model has no mask.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> report = keras_gumbel.sparsity_report(keras_gumbel.sparsify(model))
    >>> report.weights
    32
    """
    plain = require_rewritable("sparsity_report", model)
    masks = find_masks("sparsity_report", model)
    scores = [m.scores() for m in masks]
    shares = decide_budgets("sparsity_report", model, masks)
    if shares is None:
        mean = round(sum(m.kept() for m in masks))
        shares = [together(masks, mean)]
    finals = final_masks(masks, shares)
    budget = sum(
        m.shared * int(np.count_nonzero(final))
        for m, final in zip(masks, finals, strict=True)
    )
    low, high = _UNDECIDED
    rows = [
        SparsityRow(
            name=m.name,
            weights=m.weights,
            kept=m.shared * int(np.count_nonzero(final)),
            expected=m.shared * float(s.sum(dtype="float64")),
            undecided=int(np.count_nonzero((s > low) & (s < high))),
        )
        for m, s, final in zip(masks, scores, finals, strict=True)
    ]
    return SparsityReport(tuple(rows), budget, unmasked_layers(plain))


def _cells(part: SparsityRow | SparsityReport) -> list[str]:
    return [
        f"{part.weights:,}",
        f"{part.kept:,}",
        f"{part.density:.2%}",
        f"{part.undecided:,}",
    ]
