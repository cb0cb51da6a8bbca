"""Plots accuracy against density."""

import itertools
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from keras_gumbel.visualization._axes import MARKERS
from keras_gumbel.visualization._axes import axes_or_new
from keras_gumbel.visualization._axes import line_styles
from keras_gumbel.visualization._axes import percent


def plot_pareto(
    results: Mapping[str, Sequence[tuple[float, float, float]]],
    ax: Any = None,
) -> Any:
    """Draws the accuracy of methods against the density.

    Args:
        results: Mapping from the names of methods to sequences of
            `(density, mean, error)`: a density in (0, 1], a mean accuracy in
            [0, 1], and the length of its error bar to either side.
        ax: Matplotlib `Axes` to draw on, or `None` for a new figure.
            Defaults to `None`.

    Returns:
        The `Axes`.
    """
    from matplotlib.ticker import NullFormatter

    ax = axes_or_new(ax)
    for (name, points), style, marker in zip(
        results.items(), line_styles(), itertools.cycle(MARKERS), strict=False
    ):
        densities, means, errors = zip(*sorted(points), strict=True)
        ax.errorbar(
            densities,
            means,
            yerr=errors,
            label=name,
            marker=marker,
            markersize=5,
            capsize=3,
            **style,
        )
    ticks = {density for points in results.values() for density, *_ in points}
    ax.set_xscale("log")
    ax.set_xticks(sorted(ticks))
    ax.xaxis.set_major_formatter(percent(decimals=None))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_formatter(percent(decimals=None))
    ax.set_xlabel("kept weights")
    ax.set_ylabel("accuracy")
    ax.legend()
    return ax
