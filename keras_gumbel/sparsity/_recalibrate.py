"""Recalibrates the batch statistics of a network that has changed."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument


def recalibrate_batch_normalization(
    model: keras.Model,
    x: Any,
    batch_size: int | None = None,
    steps: int | None = None,
) -> None:
    """Estimates the statistics of `BatchNormalization` layers again.

    Call it after `keras_gumbel.harden` or a short training run. The layers of
    a pruned network have other inputs than those that the moving averages were
    computed from.

    ```
    moving_mean     = mean of all inputs of the layer, over all batches
    moving_variance = their variance about it
    ```

    for any `momentum`. The model runs once over the data in inference mode: no
    noise is drawn, and dropout is off. In each batch, every
    `BatchNormalization` layer at any depth, including frozen layers, normalizes
    with the mean and variance of that batch, as in training. The layers after
    it see the final statistics only if all data is in one batch, so use large
    batches. All other weights do not change.

    Args:
        model: Keras model of any kind, masked or not.
        x: Inputs of the model, in any form that `Model.predict` takes.
        batch_size: Integer or `None`, as in `Model.predict`. Defaults to
            `None`.
        steps: Integer or `None`, as in `Model.predict`. Defaults to `None`.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model has no built `BatchNormalization` layer, or
            such a layer has `renorm=True`.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((2,)), keras.layers.BatchNormalization()]
    ... )
    >>> x = keras.ops.array([[0.0, 2.0], [4.0, 2.0]])
    >>> keras_gumbel.recalibrate_batch_normalization(model, x)
    >>> model.layers[0].moving_mean.numpy().tolist()
    [2.0, 2.0]
    """
    layers = _find_layers(model)
    observed = _Observer(model).predict(
        x, batch_size=batch_size, steps=steps, verbose=0
    )
    for index, moments in observed.items():
        _assign(layers[int(index)], moments.astype("float64"))


def _find_layers(
    model: keras.Model,
) -> list[keras.layers.BatchNormalization]:
    owner = "recalibrate_batch_normalization"
    if not isinstance(model, keras.Model):
        raise invalid_argument(
            owner, "model", "a Keras model", model, error=TypeError
        )
    layers = [
        layer
        for layer in [model, *_keras_private.flatten_layers(model)]
        if isinstance(layer, keras.layers.BatchNormalization) and layer.built
    ]
    if not layers:
        raise invalid_argument(
            owner,
            "model",
            "a model with a `BatchNormalization` layer that is built",
            model,
        )
    for layer in layers:
        if getattr(layer, "renorm", False):  # Keras has it from 3.14 on
            raise invalid_argument(
                owner,
                "model",
                "a model without `BatchNormalization(renorm=True)`",
                model,
            )
    return layers


class _Observer(keras.Model):
    """Returns the moments of the inputs that layers normalize in a batch.

    The call returns a tensor of shape `(calls, 3, channels)` for each layer
    that is called. `predict` concatenates them along the first axis.
    """

    def __init__(self, model: keras.Model) -> None:
        super().__init__(
            name="observer", dtype=model.dtype_policy, autocast=False
        )
        self.model = model
        self.built = True

    def call(self, inputs: Any) -> dict[str, Tensor]:
        with contextlib.ExitStack() as stack:
            observed = [
                stack.enter_context(_observed(layer))
                for layer in _find_layers(self.model)
            ]
            self.model(inputs, training=False)
        return {
            str(index): ops.stack(moments)
            for index, moments in enumerate(observed)
            if moments
        }


@contextlib.contextmanager
def _observed(
    layer: keras.layers.BatchNormalization,
) -> Iterator[list[Tensor]]:
    """Lets a layer normalize by batch, and lists the moments of its inputs."""
    moments: list[Tensor] = []
    original = layer.call

    def call(
        inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        count, mean, variance = _moments(inputs, layer.axis, mask)
        moments.append(ops.stack([count, mean, variance]))
        names = ("moving_mean", "moving_variance")
        kept = {name: vars(layer)[name] for name in names}
        # Past Keras, which would track what is set as an attribute.
        vars(layer).update(moving_mean=mean, moving_variance=variance)
        try:
            return original(inputs, training=False, mask=mask)
        finally:
            vars(layer).update(kept)

    with _keras_private.calling(layer, call):
        yield moments


def _moments(
    inputs: Tensor, axis: int, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns how many entries a channel has, their mean and variance."""
    inputs = ops.cast(inputs, "float32")
    weights = ops.ones_like(inputs)
    if mask is not None:
        weights = weights * ops.cast(ops.expand_dims(mask, -1), "float32")
    axes = [a for a in range(inputs.ndim) if a != axis % inputs.ndim]
    count = ops.sum(weights, axis=axes, keepdims=True)
    some = ops.maximum(count, 1.0)
    mean = ops.sum(inputs * weights, axis=axes, keepdims=True) / some
    squares = ops.square(inputs - mean) * weights
    variance = ops.sum(squares, axis=axes) / ops.reshape(some, (-1,))
    return ops.reshape(count, (-1,)), ops.reshape(mean, (-1,)), variance


def _assign(
    layer: keras.layers.BatchNormalization, moments: np.ndarray
) -> None:
    """Combines the moments of batches."""
    counts, means, variances = moments.swapaxes(0, 1)
    total = counts.sum(axis=0)
    if not total.all():  # all of it is masked
        return
    shares = counts / total
    mean = (shares * means).sum(axis=0)
    layer.moving_mean.assign(mean)
    layer.moving_variance.assign(
        (shares * (variances + (means - mean) ** 2)).sum(axis=0)
    )
