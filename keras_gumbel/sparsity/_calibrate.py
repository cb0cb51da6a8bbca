"""Observes the inputs of the weights of a model on calibration data."""

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._moments import Moments
from keras_gumbel._moments import set_moments
from keras_gumbel._typing import Tensor
from keras_gumbel._validation import invalid_argument
from keras_gumbel.sparsity._layer_inputs import input_axes
from keras_gumbel.sparsity._layer_inputs import input_rows
from keras_gumbel.sparsity._layer_inputs import observed_kernel
from keras_gumbel.sparsity._scan import WeightMatrix
from keras_gumbel.sparsity._scan import require_built
from keras_gumbel.sparsity._scan import weight_matrices


def calibrate(
    model: keras.Model,
    x: Any,
    batch_size: int | None = None,
    steps: int | None = None,
    verbose: Any = "auto",
) -> None:
    """Observes the inputs of the weights of a model on calibration data.

    Call it before you use one of the following, on a few hundred examples or
    more that resemble the data of the model:

    - `keras_gumbel.sparsify(model, "wanda")` and `"obs"`, the saliencies of
      `keras_gumbel.masks.SaliencyMask`
    - `keras_gumbel.harden(model, density=d, reconstruct=True)`
    - `keras_gumbel.layer_densities(model, d, "owl")` and `"obs"`

    ```
    H = E[x x^T], over all inputs x of a weight matrix
    ```

    The model runs once over the data in inference mode, with or without masks.
    Weights, masks and optimizers do not change. H stays in memory with each
    weight until the next call replaces it. It is not saved with the model, and
    a copy of the model does not have it.

    `calibrate` observes the kernels of `Dense`, `EinsumDense`, `Conv1D`,
    `Conv2D` and `Conv3D` layers at any depth, such as the projections of
    `MultiHeadAttention`. It does not observe embeddings, grouped and depthwise
    convolutions, recurrent layers and the layers inside them, and your own
    layers. For a kernel with more than 2048 inputs per unit, the moments are
    computed in blocks of 2048.

    Padded time steps are left out if the inputs of a layer carry a Keras mask,
    such as the mask of `Embedding(mask_zero=True)`. The projections of
    `MultiHeadAttention` do not get this mask, and neither do layers after a
    layer that does not support masking. Padded steps count there, so use
    calibration data without padding for such models.

    Args:
        model: Keras model of any kind, built, masked or not.
        x: Inputs of the model, in any form that `Model.predict` takes.
        batch_size: Integer or `None`, as in `Model.predict`. Defaults to
            `None`.
        steps: Integer or `None`, as in `Model.predict`. Defaults to `None`.
        verbose: `"auto"`, 0, 1 or 2, as in `Model.predict`. Defaults to
            `"auto"`.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model is not built, none of its weights can be
            observed, `x` has no examples, or inputs are NaN or infinite.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> x = keras.random.normal((32, 8), seed=0)
    >>> keras_gumbel.calibrate(model, x, verbose=0)
    >>> model = keras_gumbel.sparsify(model, "wanda")
    >>> model = keras_gumbel.harden(model, density=0.5, reconstruct=True)
    """
    matrices, looped = _observable(model)
    _require_examples(x)
    observer = _Observer(model, matrices)
    observer.predict(x, batch_size=batch_size, steps=steps, verbose=verbose)
    found = [sums.moments() for sums in observer.sums]
    if not any(found):
        raise _nothing_observed(model)
    _require_finite(matrices, found)
    for matrix, moments in zip(matrices, found, strict=True):
        set_moments(matrix.weight, moments)
    for matrix in looped:
        set_moments(matrix.weight, None)


def _require_examples(x: Any) -> None:
    """Raises if there is nothing to observe."""
    parts = [] if x is None else keras.tree.flatten(x)
    shapes = [tuple(part.shape) for part in parts if hasattr(part, "shape")]
    if not parts or any(shape[:1] == (0,) for shape in shapes):
        raise invalid_argument(
            "calibrate",
            "x",
            "inputs of the model with at least one example, as in "
            "`Model.predict`",
            x,
        )


def _observable(model: Any) -> tuple[list[WeightMatrix], list[WeightMatrix]]:
    """Lists the weights that can be observed, and the weights in a loop."""
    if not isinstance(model, keras.Model):
        raise invalid_argument(
            "calibrate", "model", "a Keras model", model, error=TypeError
        )
    require_built("calibrate", model)
    inside = _inside_of_recurrent_layers(model)
    known = [
        matrix
        for matrix in weight_matrices(model)
        if matrix.reason is None
        and input_axes(matrix.layer, matrix.weight) is not None
    ]
    found = [matrix for matrix in known if id(matrix.layer) not in inside]
    if not found:
        raise _nothing_observed(model)
    return found, [matrix for matrix in known if id(matrix.layer) in inside]


def _inside_of_recurrent_layers(model: keras.Model) -> set[int]:
    """Returns the ids of layers that are called in a loop of the backend."""
    return {
        id(part)
        for layer in _keras_private.flatten_layers(model)
        if isinstance(layer, keras.layers.RNN)
        for part in _keras_private.flatten_layers(layer)
    }


class _Sums:
    """The sums over the inputs of one weight, in variables.

    Args:
        owner: Keras layer that gets the variables.
        matrix: `WeightMatrix`, one that can be observed.
    """

    def __init__(self, owner: keras.Layer, matrix: WeightMatrix) -> None:
        self.axes = input_axes(matrix.layer, matrix.weight) or ()
        inputs = math.prod(matrix.weight.shape[axis] for axis in self.axes)
        self.parts = Moments.parts(inputs)
        lengths = [part.stop - part.start for part in self.parts]
        shapes: list[tuple[int, ...]] = [(), *((n, n) for n in lengths)]
        self.count, *self.blocks = [
            owner.add_weight(
                shape=shape,
                initializer="zeros",
                dtype="float32",
                trainable=False,
                autocast=False,
            )
            for shape in shapes
        ]

    def add(self, layer: keras.Layer, inputs: Tensor) -> None:
        """Adds what a layer is called on."""
        rows = input_rows(layer, inputs)  # (rows, d)
        used = _used_rows(layer, inputs)
        if used is None:
            count = ops.cast(ops.shape(rows)[0], "float32")
        else:
            rows = ops.where(used, rows, 0.0)
            count = ops.sum(ops.cast(used, "float32"))
        self.count.assign_add(count)
        for part, block in zip(self.parts, self.blocks, strict=True):
            own = rows[:, part]
            block.assign_add(ops.matmul(ops.transpose(own), own))

    def moments(self) -> Moments | None:
        """Returns the moments, or `None` if there were no inputs."""
        count = int(ops.convert_to_numpy(self.count))
        blocks = [np.array(ops.convert_to_numpy(b)) for b in self.blocks]
        return Moments(count, blocks, self.axes) if count else None


class _Observer(keras.Model):
    """Adds up the moments of the inputs of weights while a model predicts.

    Its own prediction is a zero for each example.
    """

    def __init__(
        self, model: keras.Model, matrices: list[WeightMatrix]
    ) -> None:
        super().__init__(
            name="observer", dtype=model.dtype_policy, autocast=False
        )
        self.model = model
        self.sums = [_Sums(self, matrix) for matrix in matrices]
        looped = _inside_of_recurrent_layers(model)
        by_kernel = {
            id(m.weight): sums
            for m, sums in zip(matrices, self.sums, strict=True)
        }
        # A kernel may be that of several layers.
        self.observed = [
            (layer, by_kernel[id(observed_kernel(layer))])
            for layer in [model, *_keras_private.flatten_layers(model)]
            if id(observed_kernel(layer)) in by_kernel
            and id(layer) not in looped
        ]
        self.built = True

    def call(self, inputs: Any) -> Tensor:
        with contextlib.ExitStack() as stack:
            # Sums must not be made in a trace inside of this one.
            stack.enter_context(
                _keras_private.without_rematerialization(self.model)
            )
            for layer, sums in self.observed:
                stack.enter_context(_observed(layer, sums))
            self.model(inputs, training=False)
        first = keras.tree.flatten(inputs)[0]
        return ops.zeros((ops.shape(first)[0],), "float32")


def _used_rows(layer: keras.Layer, inputs: Tensor) -> Tensor | None:
    """Returns which rows have inputs that are not padded, `None` for all."""
    mask = _keras_private.carried_mask(inputs)
    if mask is None:
        return None
    shape = tuple(inputs.shape)
    if shape[: len(mask.shape)] != tuple(mask.shape):
        return None
    spread = (1,) * (len(shape) - len(mask.shape))
    mask = ops.reshape(mask, (*ops.shape(mask), *spread))
    mask = ops.broadcast_to(mask, ops.shape(inputs))
    return ops.any(input_rows(layer, mask) > 0, axis=1, keepdims=True)


@contextlib.contextmanager
def _observed(layer: keras.Layer, sums: _Sums) -> Iterator[None]:
    """Adds up the inputs of a layer whenever it is called."""
    original = layer.call

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        inputs = args[0] if args else next(iter(kwargs.values()))
        sums.add(layer, inputs)
        return original(*args, **kwargs)

    with _keras_private.calling(layer, call):
        yield


def _nothing_observed(model: keras.Model) -> Exception:
    return invalid_argument(
        "calibrate",
        "model",
        "a model that calls a `Dense`, `EinsumDense` or ungrouped `Conv` layer",
        model,
    )


def _require_finite(
    matrices: list[WeightMatrix], found: list[Moments | None]
) -> None:
    names = [
        matrix.name
        for matrix, moments in zip(matrices, found, strict=True)
        if moments and not all(np.isfinite(b).all() for b in moments.blocks)
    ]
    if names:
        raise ValueError(
            f"`calibrate` found inputs of {', '.join(names)} that are NaN, "
            "infinite or too large to square. Received: calibration data "
            "on which the model overflows. Look for such values in the data "
            "and the weights."
        )
