"""The density of relaxed masks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_gumbel._validation import invalid_argument
from keras_gumbel._validation import is_number
from keras_gumbel.ops._densities import binary_concrete_log_prob
from keras_gumbel.visualization._axes import axes_or_new
from keras_gumbel.visualization._axes import line_styles
from keras_gumbel.visualization._axes import ramp

_POINTS = 401


def plot_binary_concrete(
    prob: float = 0.5,
    temperatures: Sequence[float] = (0.2, 0.5, 1.0, 2.0),
    ax: Any = None,
) -> Any:
    """Draws the density of the binary concrete mask by temperature.

    Below a temperature of 1, the density rises towards both ends, where it is
    infinite. The plot is cut off at the top.

    Args:
        prob: Number in (0, 1), the score s. Defaults to `0.5`.
        temperatures: Sequence of positive numbers. Defaults to
            `(0.2, 0.5, 1.0, 2.0)`.
        ax: Matplotlib `Axes` to draw on, or `None` for a new figure.
            Defaults to `None`.

    Returns:
        The `Axes`.

    Raises:
        ValueError: If `prob` is not in (0, 1), or a temperature is not
            positive.
    """
    if not is_number(prob) or not 0 < prob < 1:
        raise invalid_argument(
            "plot_binary_concrete", "prob", "a number in (0, 1)", prob
        )
    # Closer together near the ends, where the density changes most.
    logits = np.linspace(-9.0, 9.0, _POINTS, dtype="float32")
    masks = 1.0 / (1.0 + np.exp(-logits.astype("float64")))
    score = np.log(prob) - np.log1p(-prob)
    curves = [
        np.exp(ops.convert_to_numpy(binary_concrete_log_prob(logits, score, t)))
        for t in temperatures
    ]
    ax = axes_or_new(ax)
    for t, density, color, style in zip(
        temperatures, curves, ramp(temperatures), line_styles(), strict=False
    ):
        label = f"temperature {t:g}"
        ax.plot(masks, density, label=label, **{**style, "color": color})
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 4)
    ax.set_xlabel(f"mask m, for a score of {prob:g}")
    ax.set_ylabel("density")
    ax.legend()
    return ax
