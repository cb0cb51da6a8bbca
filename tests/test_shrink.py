import json
import warnings

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import layers
from keras import ops

import keras_gumbel

ACTIVATIONS = [None, "relu", "tanh", "sigmoid", "softplus", "gelu"]


def unit_layers(model):
    kinds = (layers.Dense, layers.Conv1D, layers.Conv2D)
    return [layer for layer in model.layers if type(layer) in kinds]


def randomize(model, rng):
    """Gives a model weights, biases and statistics that all matter."""
    for variable in model.weights:
        low = 0.5 if "variance" in variable.path else -1.0
        variable.assign(rng.uniform(low, 1.0, variable.shape))
    return model


def kill(layer, units):
    """Zeroes all that units of a layer read."""
    kernel = ops.convert_to_numpy(layer.kernel).copy()
    kernel[..., units] = 0.0
    layer.set_weights([kernel, *layer.get_weights()[1:]])


def ignore(layer, channels):
    """Zeroes all that a layer reads of input channels."""
    kernel = ops.convert_to_numpy(layer.kernel).copy()
    kernel[..., channels, :] = 0.0
    layer.set_weights([kernel, *layer.get_weights()[1:]])


def predictions(model, seed=0):
    rng = np.random.default_rng(seed)
    inputs = [
        ops.convert_to_tensor(
            rng.normal(size=(3, *x.shape[1:])).astype("float32")
        )
        for x in model.inputs
    ]
    outputs = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    return [ops.convert_to_numpy(x) for x in keras.tree.flatten(outputs)]


def assert_same_function(model, small):
    for before, after in zip(
        predictions(model), predictions(small), strict=True
    ):
        scale = max(1.0, np.abs(before).max())
        np.testing.assert_allclose(after, before, atol=1e-5 * scale)


def shrunk(model):
    """Shrinks a model without warnings, and checks what always holds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = keras_gumbel.shrink(model)
    report = keras_gumbel.shrink_report(model)
    assert type(small) is type(model)
    assert [x.name for x in small.layers] == [x.name for x in model.layers]
    assert small.input_shape == model.input_shape
    assert small.output_shape == model.output_shape
    assert report.parameters == model.count_params()
    assert report.kept == small.count_params()
    assert_same_function(model, small)
    return small, report


def rows(report):
    return {row.name: row.kept for row in report.rows}


def chain(rng):
    """Draws a chain in which every dead unit can be removed."""
    spatial = int(rng.integers(0, 3))
    inputs = keras.Input((9,) * spatial + (3,))
    x = inputs
    for _ in range(int(rng.integers(1, 4))):
        options = {
            "units": int(rng.integers(2, 7)),
            "activation": ACTIVATIONS[rng.integers(len(ACTIVATIONS))],
            "use_bias": bool(rng.integers(4)),
        }
        if spatial and len(x.shape) > 2:
            size = int(rng.integers(1, 3))
            convolution = getattr(layers, f"Conv{spatial}D")
            x = convolution(options.pop("units"), size, **options)(x)
        else:
            x = layers.Dense(**options)(x)
        x = in_between(x, rng)
    if len(x.shape) > 2:
        pool = getattr(layers, f"GlobalAveragePooling{spatial}D")
        x = [layers.Flatten(), pool()][rng.integers(2)](x)
    return keras.Model(inputs, layers.Dense(2)(x))


def in_between(x, rng):
    """Appends some layers that keep channels apart."""
    spatial = len(x.shape) - 2
    choices = [
        layers.BatchNormalization(),
        layers.LeakyReLU(),
        layers.PReLU(shared_axes=list(range(1, spatial + 1))),
        layers.Activation("tanh"),
        layers.Dropout(0.5),
        layers.Rescaling(0.5, 0.25),
    ]
    if spatial:
        choices += [
            getattr(layers, f"MaxPooling{spatial}D")(2, 1),
            getattr(layers, f"AveragePooling{spatial}D")(2, 1, "same"),
            getattr(layers, f"UpSampling{spatial}D")(2),
            getattr(layers, f"Cropping{spatial}D")(1),
        ]
    for i in rng.permutation(len(choices))[:2]:
        x = choices[i](x)
    return x


@settings(max_examples=10)
@given(st.integers(0, 2**31))
def test_shrink_removes_every_dead_unit_of_a_chain(seed):
    rng = np.random.default_rng(seed)
    model = randomize(chain(rng), rng)
    alive = {}
    for layer in unit_layers(model)[:-1]:
        dead = rng.random(layer.kernel.shape[-1]) < 0.4
        kill(layer, dead)
        alive[layer.name] = int(max(1, np.sum(~dead)))

    small, report = shrunk(model)

    kept = rows(report)
    assert all(kept[name] <= count for name, count in alive.items())
    lost = any(row.kept < row.units for row in report.rows)
    assert (small.count_params() < model.count_params()) == lost


def graph(rng):
    """Draws a network with branches, sums, and padding."""
    spatial = int(rng.integers(0, 2))
    shape = (8, 8, 3) if spatial else (4,)

    def units(x, count, size=3):
        options = {
            "activation": ACTIVATIONS[rng.integers(len(ACTIVATIONS))],
            "use_bias": bool(rng.integers(3)),
        }
        if not spatial:
            return layers.Dense(count, **options)(x)
        kind = rng.integers(4)
        if kind == 0:
            x = layers.DepthwiseConv2D(size, padding="same", **options)(x)
        if kind == 1:
            convolution = layers.SeparableConv2D
        elif kind == 2:
            convolution = layers.Conv2DTranspose
        else:
            convolution = layers.Conv2D
        return convolution(count, size, padding="same", **options)(x)

    inputs = keras.Input(shape)
    x = units(inputs, 6)
    for _ in range(int(rng.integers(1, 4))):
        branch = layers.BatchNormalization()(units(x, 6))
        merge = rng.integers(5)
        if merge == 0:
            x = layers.Add()([x, units(branch, 6)])
        elif merge == 1:
            x = x + branch
        elif merge == 2:
            x = layers.Concatenate()([branch, x])
            x = units(layers.ReLU()(x), 6, 1)
        elif merge == 3:
            x = layers.Multiply()([branch, units(x, 6)])
        else:
            x = layers.Maximum()([layers.LeakyReLU()(branch), x, branch])
    if spatial:
        x = layers.MaxPooling2D(3, 2, "same")(x)
        x = [layers.Flatten(), layers.GlobalMaxPooling2D()][rng.integers(2)](x)
    return keras.Model(inputs, layers.Dense(2)(x))


@settings(max_examples=10)
@given(st.integers(0, 2**31))
def test_shrink_keeps_what_any_branch_needs(seed):
    rng = np.random.default_rng(seed)
    model = randomize(graph(rng), rng)
    for layer in unit_layers(model):
        dead = rng.random(layer.kernel.shape[-1]) < 0.5
        unread = rng.random(layer.kernel.shape[-2]) < 0.5
        kill(layer, dead)
        if rng.random() < 0.5:
            ignore(layer, unread)
        if layer.use_bias and rng.random() < 0.5:
            layer.bias.assign(layer.bias * (rng.random(dead.size) < 0.5))

    small, report = shrunk(model)

    lost = any(row.kept < row.units for row in report.rows)
    assert (small.count_params() < model.count_params()) == lost
