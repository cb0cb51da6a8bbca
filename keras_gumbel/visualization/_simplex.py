"""Plots samples on the simplex."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_gumbel._seeds import require_seed
from keras_gumbel._seeds import spawn_seeds
from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import require_positive_integer
from keras_gumbel.ops._sampling import gumbel_softmax
from keras_gumbel.visualization._axes import MARKERS
from keras_gumbel.visualization._axes import axes_or_new
from keras_gumbel.visualization._axes import ramp

# The corners for classes 1, 2 and 3.
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]])


def plot_simplex(
    logits: Any = (0.0, 0.0, 0.0),
    temperatures: Sequence[float] = (0.1, 0.5, 1.0, 5.0),
    num_samples: int = 200,
    seed: int | None = None,
    ax: Any = None,
) -> Any:
    """Draws Gumbel-Softmax samples of three classes on a triangle.

    Each corner is a class. Samples with a low temperature are close to the
    corners, and samples with a high temperature are close to the center
    (Eq. 15).

    Args:
        logits: Three numbers. Defaults to `(0.0, 0.0, 0.0)`.
        temperatures: Sequence of positive numbers. Defaults to
            `(0.1, 0.5, 1.0, 5.0)`.
        num_samples: Positive integer, the number of samples for each
            temperature. Defaults to `200`.
        seed: Integer in [0, 2**32) or `None`. Defaults to `None`.
        ax: Matplotlib `Axes` to draw on, or `None` for a new figure.
            Defaults to `None`.

    Returns:
        The `Axes`.

    Raises:
        ValueError: If there are not three logits, a temperature is not
            positive, or `num_samples` is not a positive integer.
    """
    logits = np.asarray(logits, "float32")
    if logits.shape != (3,):
        raise invalid_argument(
            "plot_simplex", "logits", "three numbers", logits.tolist()
        )
    require_positive_integer("plot_simplex", "num_samples", num_samples)
    seeds = spawn_seeds(require_seed("plot_simplex", seed), len(temperatures))
    rows = np.tile(logits, (num_samples, 1))
    samples = [
        ops.convert_to_numpy(gumbel_softmax(rows, t, seed=own))
        for t, own in zip(temperatures, seeds, strict=True)
    ]
    ax = axes_or_new(ax)
    ax.plot(*CORNERS[[0, 1, 2, 0]].T, color="0.3", linewidth=1, zorder=1)
    for t, y, color, marker in zip(
        temperatures,
        samples,
        ramp(temperatures),
        itertools.cycle(MARKERS),
        strict=False,
    ):
        ax.scatter(
            *(y @ CORNERS).T,
            s=14,
            color=color,
            marker=marker,
            alpha=0.6,
            linewidths=0,
            label=f"temperature {t:g}",
            zorder=2,
            clip_on=False,
        )
    for number, (corner, below) in enumerate(
        zip(CORNERS, (True, True, False), strict=True), start=1
    ):
        ax.annotate(
            f"class {number}",
            corner,
            xytext=(0, -8 if below else 8),
            textcoords="offset points",
            ha="center",
            va="top" if below else "bottom",
        )
    ax.set_aspect("equal")
    ax.margins(0.1)
    ax.set_axis_off()
    ax.legend(loc="upper left", frameon=False)
    return ax
