"""Plots schedules over the training steps."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_gumbel._validation import require_positive_integer
from keras_gumbel.visualization._axes import axes_or_new
from keras_gumbel.visualization._axes import line_styles

_POINTS = 200


def plot_schedules(
    schedules: Mapping[str, keras.optimizers.schedules.LearningRateSchedule],
    steps: int,
    ax: Any = None,
) -> Any:
    """Draws the values of schedules over the training steps.

    Args:
        schedules: Mapping from labels to schedules of
            `keras_gumbel.schedules` or of Keras.
        steps: Positive integer, the number of training steps to draw.
        ax: Matplotlib `Axes` to draw on, or `None` for a new figure.
            Defaults to `None`.

    Returns:
        The `Axes`.

    Raises:
        ValueError: If `steps` is not a positive integer.
    """
    require_positive_integer("plot_schedules", "steps", steps)
    ax = axes_or_new(ax)
    points = sorted({round(i * steps / _POINTS) for i in range(_POINTS + 1)})
    for (label, schedule), style in zip(
        schedules.items(), line_styles(), strict=False
    ):
        values = [float(ops.convert_to_numpy(schedule(p))) for p in points]
        ax.plot(points, values, label=label, **style)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("training step")
    ax.set_ylabel("value")
    ax.legend()
    return ax
