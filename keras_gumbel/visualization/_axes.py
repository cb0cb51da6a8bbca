"""Axes, colors and formatters that all plots share."""

import itertools
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

# The colors of Okabe and Ito, without yellow, which is faint on white.
BLUE = "#0072B2"
ORANGE = "#D55E00"
GREEN = "#009E73"
PURPLE = "#CC79A7"
AMBER = "#E69F00"
SKY = "#56B4E9"
COLORS = (BLUE, ORANGE, GREEN, PURPLE, AMBER, SKY)

# Distinct without color.
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P")


def axes_or_new(ax: Any) -> Any:
    """Returns the axes, or those of a new figure."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]


def line_styles() -> Iterator[dict[str, Any]]:
    """Yields pairs of color and dashes. The first twelve are distinct."""
    return (
        {"color": color, "linestyle": line}
        for color, line in zip(
            itertools.cycle(COLORS), itertools.cycle(LINES), strict=False
        )
    )


def ramp(values: Iterable[float]) -> list[Any]:
    """Returns colors that get lighter with the rank of the value."""
    import matplotlib as mpl

    order = sorted(set(values))
    shades = mpl.colormaps["viridis"].resampled(256)
    last = max(len(order) - 1, 1)
    # The lightest yellow is hard to see on white.
    return [shades(0.85 * order.index(v) / last) for v in values]


def percent(decimals: int | None = 0) -> Any:
    """Returns a formatter of fractions as percentages."""
    from matplotlib.ticker import PercentFormatter

    return PercentFormatter(xmax=1.0, decimals=decimals)
