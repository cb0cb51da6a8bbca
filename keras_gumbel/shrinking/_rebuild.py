"""From a model with dead units to a smaller one."""

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

    A unit, that is a column of a Dense kernel or a filter of a convolution,
    is dead if it is constant because all that it reads is multiplied by
    exact zeros, or if nothing reads it. Heads of attention and units of
    recurrent layers are dead if nothing reads them, or if they are always
    zero. Dead units are removed with all that belongs to them
    in the layers that follow: batch normalization, activations, pooling,
    depthwise convolutions, `Flatten`, `Reshape`, `Concatenate`, and sums, of
    which a channel is removed only if no branch needs it. So are the
    operations of `keras.ops` that do the same, such as `ops.relu(x)`,
    `x + y`, `x * array`, `ops.reshape` and `x[..., :3]`. Convolutions in
    groups and `GroupNormalization` lose whole groups.

    What a constant unit contributes goes into the biases of the layers that
    read it. Predictions stay the same, up to rounding; names, and the shapes
    of the inputs and outputs of the model and of the models in it, are those
    of the original.

    At least one unit of each layer stays, and of the constants other than 0
    that a convolution pads with zeros, one that stands for all. All stay where
    a depthwise or separable convolution pads them. So do the units of layers
    that are shared or not known, and before a `LayerNormalization`, which
    mixes all channels. One warning lists the dead units that stay;
    `keras_gumbel.shrink_report` has all of them, and the reasons.

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
