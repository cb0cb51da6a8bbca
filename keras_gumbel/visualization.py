"""Plots; they need matplotlib, the extra `keras-gumbel[plot]`."""

import itertools
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from keras_gumbel.sparsity import SparsityReport

# Told apart without colour.
_LINES = ("-", "--", ":", "-.")


def plot_sparsity(report: SparsityReport, ax: Any = None) -> Any:
    """Draws the kept share of each masked kernel, beside the budget's.

    Args:
        report: `SparsityReport`, from `keras_gumbel.sparsity_report`.
        ax: Matplotlib `Axes` to draw on, or `None` for a new figure.
            Defaults to `None`.

    Returns:
        The `Axes`.
    """
    ax = _axes(ax)
    names = [row.name for row in report.rows]
    bars = ax.barh(names, [row.density for row in report.rows], color="C0")
    labels = [f"{row.kept:,} of {row.weights:,}" for row in report.rows]
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    ax.bar_label(bars, labels, padding=5, bbox=box)
    ax.axvline(
        report.density,
        color="C1",
        linestyle="--",
        label=f"model: {report.kept:,} of {report.weights:,}",
    )
    ax.invert_yaxis()
    ax.margins(x=0.35)
    ax.set_xlim(left=0)
    ax.xaxis.set_major_formatter(_percent())
    ax.set_xlabel("kept weights")
    ax.legend()
    return ax


def plot_history(
    history: Mapping[str, Sequence[float]],
    keys: Sequence[str],
    ax: Any = None,
) -> Any:
    """Draws shares that were logged at each epoch, in per cent.

    Args:
        history: Mapping of names to one value in [0, 1] per epoch, such as
            `History.history`.
        keys: Sequence of the names to draw.
        ax: Matplotlib `Axes` to draw on, or `None` for a new figure.
            Defaults to `None`.

    Returns:
        The `Axes`.
    """
    ax = _axes(ax)
    for key, style in zip(keys, itertools.cycle(_LINES), strict=False):
        values = history[key]
        ax.plot(range(1, len(values) + 1), values, style, label=key)
    ax.yaxis.set_major_formatter(_percent())
    ax.set_xlabel("epoch")
    ax.legend()
    return ax


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]


def _percent() -> Any:
    from matplotlib.ticker import PercentFormatter

    return PercentFormatter(xmax=1.0, decimals=0)
