"""Plots the logs of training."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from keras_gumbel.visualization._axes import axes_or_new
from keras_gumbel.visualization._axes import line_styles
from keras_gumbel.visualization._axes import percent

_DEFAULT = ("density", "undecided", "temperature")

# It is not a fraction and has a separate axis on the right.
_TEMPERATURE = "temperature"


def plot_history(
    history: Mapping[str, Sequence[float]],
    keys: Sequence[str] | None = None,
    ax: Any = None,
) -> Any:
    """Draws the logs of each epoch, with fractions in percent.

    A temperature has a separate axis on the right.

    Args:
        history: Mapping from names to one value per epoch, such as
            `History.history`: fractions in [0, 1], and the temperature.
        keys: Sequence of the names to draw, or `None` for `density`,
            `undecided` and `temperature`, if present. Defaults to `None`.
        ax: Matplotlib `Axes` to draw on, or `None` for a new figure.
            Defaults to `None`.

    Returns:
        The `Axes` of the fractions.
    """
    ax = axes_or_new(ax)
    if keys is None:
        keys = [key for key in _DEFAULT if key in history]
    lines = []
    for key, style in zip(keys, line_styles(), strict=False):
        values = history[key]
        epochs = range(1, len(values) + 1)
        place = ax
        if key == _TEMPERATURE:
            place = ax.twinx()
            place.set_ylabel(key)
            place.margins(y=0.1)
        lines += place.plot(epochs, values, label=key, **style)
    ax.yaxis.set_major_formatter(percent())
    ax.set_xlabel("epoch")
    ax.set_ylabel("share")
    ax.legend(handles=lines)
    return ax
