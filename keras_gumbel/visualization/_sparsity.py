"""Plots the density of each layer."""

from typing import Any

from keras_gumbel.sparsity import SparsityReport
from keras_gumbel.visualization._axes import BLUE
from keras_gumbel.visualization._axes import ORANGE
from keras_gumbel.visualization._axes import axes_or_new
from keras_gumbel.visualization._axes import percent


def plot_sparsity(report: SparsityReport, ax: Any = None) -> Any:
    """Draws the density of each masked kernel, and that of the budget.

    Args:
        report: `SparsityReport`, from `keras_gumbel.sparsity_report`.
        ax: Matplotlib `Axes` to draw on, or `None` for a new figure.
            Defaults to `None`.

    Returns:
        The `Axes`.
    """
    ax = axes_or_new(ax)
    names = [row.name for row in report.rows]
    bars = ax.barh(names, [row.density for row in report.rows], color=BLUE)
    labels = [f"{row.kept:,} of {row.weights:,}" for row in report.rows]
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    ax.bar_label(bars, labels, padding=5, bbox=box)
    budget = f"budget, {report.kept:,} of {report.weights:,}"
    ax.axvline(report.density, color=ORANGE, linestyle="--", label=budget)
    ax.invert_yaxis()
    ax.margins(x=0.35)
    ax.set_xlim(left=0)
    ax.xaxis.set_major_formatter(percent(decimals=None))
    ax.locator_params(axis="x", nbins=5)
    # A legend would hide bars.
    ax.set_xlabel(f"kept weights (dashed: the {budget})")
    return ax
