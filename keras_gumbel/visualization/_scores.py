"""Plots the distribution of the scores."""

from typing import Any

import keras
import numpy as np

from keras_gumbel._validation import require_positive_integer
from keras_gumbel.sparsity._choices import UNDECIDED
from keras_gumbel.sparsity._choices import find_decisions
from keras_gumbel.visualization._axes import AMBER
from keras_gumbel.visualization._axes import BLUE
from keras_gumbel.visualization._axes import axes_or_new


def plot_scores(model: keras.Model, bins: int = 40, ax: Any = None) -> Any:
    """Draws the histogram of all scores of a model.

    Undecided scores, between 0.05 and 0.95, are shaded. Counts have a
    logarithmic scale, because most scores are 0.

    Args:
        model: Model with masked layers.
        bins: Positive integer, the number of bars. Defaults to `40`.
        ax: Matplotlib `Axes` to draw on, or `None` for a new figure.
            Defaults to `None`.

    Returns:
        The `Axes`.

    Raises:
        ValueError: If the model has no mask, a score is NaN, or `bins` is
            not a positive integer.
    """
    require_positive_integer("plot_scores", "bins", bins)
    decisions = find_decisions("plot_scores", model)
    scores = np.concatenate([v.ravel() for v in decisions.values])
    counts, edges = np.histogram(scores, bins=bins, range=(0.0, 1.0))
    share = decisions.undecided / decisions.num_weights
    ax = axes_or_new(ax)
    ax.axvspan(
        *UNDECIDED,
        color=AMBER,
        alpha=0.25,
        linewidth=0,
        zorder=0,
        label=f"undecided: {decisions.undecided:,} ({share:.2%})",
    )
    ax.bar(
        edges[:-1],
        counts,
        width=np.diff(edges),
        align="edge",
        color=BLUE,
        label=f"{scores.size:,} scores",
    )
    ax.set_yscale("log")
    # Starts below one, so that a single score is visible.
    ax.set_ylim(bottom=0.5)
    ax.set_xlim(0, 1)
    ax.set_xlabel("score s")
    ax.set_ylabel("number of scores")
    ax.legend()
    return ax
