"""A smaller copy of a model with dead units."""

import warnings

import keras

from keras_gumbel._validation import SparsityWarning
from keras_gumbel.shrinking._liveness import USUAL
from keras_gumbel.shrinking._passes import follow
from keras_gumbel.shrinking._passes import needs_another
from keras_gumbel.shrinking._passes import rebuilt
from keras_gumbel.shrinking._report import ShrinkReport
from keras_gumbel.shrinking._report import report_of


def shrink(model: keras.Model) -> keras.Model:
    """Returns a smaller copy of a model, without its dead units.

    A unit is a column of a Dense kernel or a filter of a convolution. It is
    dead if nothing reads it, or if it is constant because exact zeros multiply
    everything that it reads. Heads of attention and units of recurrent layers
    are dead if nothing reads them, or if they are always zero. Dead units are
    also removed from the layers that follow: batch normalization, activations,
    pooling, depthwise convolutions, `Flatten`, `Reshape`, `Concatenate` and
    sums. A sum loses a channel only if no branch needs it. Operations of
    `keras.ops` such as `ops.relu(x)`, `x + y`, `x * array`, `ops.reshape` and
    `x[..., :3]` are treated like these layers. Grouped convolutions and
    `GroupNormalization` lose whole groups.

    The contribution of a constant unit is added to the biases of the layers
    that read it. Predictions stay the same, up to rounding. Names stay the
    same, too, and so do the shapes of the inputs and outputs of the model and
    its nested models.

    At least one unit of each layer stays. If a convolution pads nonzero
    constants with zeros, one constant stays and replaces the others. If a
    depthwise or separable convolution pads them, all of them stay. The units of
    shared or unsupported layers stay, and so do units before a
    `LayerNormalization`, which mixes all channels. One warning lists the dead
    units that stay. `keras_gumbel.shrink_report` lists all of them with the
    reasons.

    Args:
        model: Sequential or Functional model without masks, such as
            `keras_gumbel.strip` returns.

    Returns:
        A model of the same kind, not compiled.

    Raises:
        TypeError: If `model` is not a Sequential or Functional model.
        ValueError: If the model has a mask or is not built.

    Example:

    >>> hidden = keras.layers.Dense(4, "relu")
    >>> model = keras.Sequential(
    ...     [keras.Input((8,)), hidden, keras.layers.Dense(2)]
    ... )
    >>> kernel, bias = hidden.get_weights()
    >>> kernel[:, 1:3] = 0.0
    >>> hidden.set_weights([kernel, bias])
    >>> small = keras_gumbel.shrink(model)
    >>> small.layers[0].units
    2
    """
    _warn_of_dead(report_of("shrink", model))
    while needs_another(found := follow("shrink", model)):
        model = rebuilt(model, found)
    return rebuilt(model, found)


def _warn_of_dead(report: ShrinkReport) -> None:
    dead = [
        f"{count} of {row.name} ({why})"
        for row in report.rows
        for why, count in row.reasons.items()
        if why not in USUAL
    ]
    if dead:
        warnings.warn(
            "`shrink` kept dead units: " + ", ".join(dead),
            SparsityWarning,
            stacklevel=3,
        )
