"""Plots the mask of one layer."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_gumbel._validation import invalid_argument
from keras_gumbel.sparsity._choices import find_decisions
from keras_gumbel.visualization._axes import SKY
from keras_gumbel.visualization._axes import axes_or_new


def plot_mask(
    model: keras.Model,
    name: str | None = None,
    image_shape: Sequence[int] | None = None,
    ax: Any = None,
) -> Any:
    """Draws the final mask that `harden` would choose for one layer now.

    A matrix is drawn with a row for each input. With `image_shape`, it is drawn
    as an image of the inputs that shows how many weights of each pixel are
    kept. The kernels of a convolution are drawn side by side, with a row for
    each input channel if there are several.

    Args:
        model: Model with masked layers.
        name: String, the name of a row of `keras_gumbel.sparsity_report`, or
            the name of its layer, or `None` for the first. Defaults to
            `None`.
        image_shape: The shape of the input images of a matrix: two integers
            for height and width, or three with the channels last; or `None`.
            Defaults to `None`.
        ax: Matplotlib `Axes` to draw on, or `None` for a new figure.
            Defaults to `None`.

    Returns:
        The `Axes`.

    Raises:
        ValueError: If the model has no mask, or none with this name, a score
            is NaN, or `image_shape` does not fit the inputs of a matrix.
    """
    decisions = find_decisions("plot_mask", model)
    finals = {
        s.name: final
        for s, final in zip(decisions.scores, decisions.finals, strict=True)
    }
    name = _find(name, list(finals))
    mask = finals[name]
    ax = axes_or_new(ax)
    ax.set_title(f"{name}: {np.count_nonzero(mask):,} of {mask.size:,} kept")
    if image_shape is not None:
        shown = ax.imshow(_image_of_inputs(mask, image_shape), vmin=0)
        ax.figure.colorbar(shown, ax=ax, label="kept weights of the pixel")
        ax.set(xlabel="column of pixels", ylabel="row of pixels")
        return ax
    tiled = mask.ndim > 3
    image = _tiles(mask) if tiled else np.reshape(mask, (-1, mask.shape[-1]))
    ax.imshow(
        image,
        cmap="gray_r",
        vmin=0,
        vmax=1,
        interpolation="nearest",
        aspect="equal" if tiled else "auto",
    )
    ax.set(xlabel="output", ylabel="input")
    if tiled:
        ax.set_facecolor(SKY)
        ax.set(xticks=[], yticks=[], xlabel="output channels")
        ax.set_ylabel("input channels" if mask.shape[-2] > 1 else "")
    return ax


def _find(name: str | None, names: list[str]) -> str:
    """Returns the name of a mask, given its name or that of its layer."""
    if name is None:
        return names[0]
    found = [n for n in names if n == name or n.startswith(f"{name}/")]
    if not found:
        listed = ", ".join(repr(n) for n in names)
        raise invalid_argument("plot_mask", "name", f"one of {listed}", name)
    return found[0]


def _image_of_inputs(mask: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Counts the kept weights of each pixel."""
    inputs = mask.size if mask.ndim == 1 else mask.shape[0]
    if mask.ndim > 2 or len(shape) not in (2, 3) or np.prod(shape) != inputs:
        raise invalid_argument(
            "plot_mask",
            "image_shape",
            "two or three integers whose product is the number of inputs of "
            f"a matrix, for a mask of shape {mask.shape}",
            shape,
        )
    image = np.reshape(mask, (*shape, -1))
    return image.sum(axis=tuple(range(2, image.ndim)))


def _tiles(mask: np.ndarray) -> np.ndarray:
    """Arranges the kernels of a convolution, with gaps of NaN."""
    *window, inputs, outputs = mask.shape
    kernels = np.reshape(mask, (-1, window[-1], inputs, outputs))
    if inputs == 1:  # one row would be too long
        columns = math.isqrt(outputs - 1) + 1
        inputs = -(-outputs // columns)
        missing = inputs * columns - outputs
        kernels = np.pad(
            kernels,
            [(0, 0), (0, 0), (0, 0), (0, missing)],
            constant_values=np.nan,
        )
        kernels = np.reshape(kernels, (*kernels.shape[:2], inputs, columns))
    gaps = [(0, 1), (0, 1), (0, 0), (0, 0)]
    kernels = np.pad(kernels, gaps, constant_values=np.nan)
    height, width, rows, columns = kernels.shape
    image = np.transpose(kernels, (2, 0, 3, 1))
    return np.reshape(image, (rows * height, columns * width))[:-1, :-1]
