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

pytestmark = pytest.mark.one_backend

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


def caught(function, *args, **kwargs):
    """Calls a function; returns its result and the warnings for users."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        return function(*args, **kwargs), found


def shrunk(model):
    """Shrinks a model, and checks what always holds."""
    small, _ = caught(keras_gumbel.shrink, model)
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


@settings(max_examples=12)
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


@settings(max_examples=12)
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


def sequential(*middle, shape=(4,), seed=0):
    """Builds a random model between an input and two outputs."""
    model = keras.Sequential(
        [keras.Input(shape), *middle, layers.Dense(2, name="out")]
    )
    return randomize(model, np.random.default_rng(seed))


def hidden(units=4, **kwargs):
    return layers.Dense(units, "tanh", **kwargs, name="hidden")


def filters(*args, **kwargs):
    return layers.Conv2D(*args, **kwargs, name="conv")


def reasons(report):
    return {row.name: row.reasons for row in report.rows if row.reasons}


@pytest.mark.every_backend
def test_shrink_folds_constant_units_into_the_next_bias():
    model = sequential(hidden())
    kill(model.get_layer("hidden"), [0, 2])
    kernel, bias, out, out_bias = model.get_weights()

    small, report = shrunk(model)

    expected = [
        kernel[:, [1, 3]],
        bias[[1, 3]],
        out[[1, 3]],
        out_bias + np.tanh(bias[[0, 2]]) @ out[[0, 2]],
    ]
    for weight, value in zip(small.get_weights(), expected, strict=True):
        np.testing.assert_allclose(weight, value, rtol=1e-6)
    assert rows(report) == {"hidden": 2, "out": 2}
    assert reasons(report) == {}


def test_shrink_removes_units_that_nothing_reads():
    model = sequential(layers.Dense(6, name="first"), hidden())
    ignore(model.get_layer("out"), [0, 2])
    kernel = ops.convert_to_numpy(model.get_layer("hidden").kernel).copy()
    kernel[1:, [1, 3]] = 0.0  # then only the first unit is read
    model.get_layer("hidden").kernel.assign(kernel)
    before = model.get_weights()

    small, report = shrunk(model)

    assert rows(report) == {"first": 1, "hidden": 2, "out": 2}
    for weight, value in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)
    assert not {id(v) for v in small.weights} & {id(v) for v in model.weights}


@pytest.mark.parametrize("constant", [0.0, 0.5])
def test_shrink_gives_a_layer_a_bias_only_where_it_needs_one(constant):
    model = sequential(hidden(), layers.Dense(3, use_bias=False, name="next"))
    kill(model.get_layer("hidden"), [1])
    model.get_layer("hidden").bias.assign([0.1, constant, 0.2, 0.3])

    small, report = shrunk(model)

    assert rows(report)["hidden"] == 3
    assert small.get_layer("next").use_bias == (constant != 0)


@pytest.mark.parametrize("axis", ["inputs", "units"])
def test_shrink_keeps_a_unit_of_every_layer(axis):
    model = sequential(hidden(), layers.ReLU(), layers.Dense(3, name="next"))
    if axis == "inputs":
        ignore(model.get_layer("next"), slice(None))
    else:
        kill(model.get_layer("hidden"), slice(None))

    _, report = shrunk(model)

    assert rows(report) == {"hidden": 1, "next": 1, "out": 2}
    one = {"a layer keeps one unit": 1}
    assert reasons(report) == {
        "hidden": one,
        "next": one,
        "out": {"the model returns it": 2},
    }


def test_shrink_keeps_the_outputs_of_the_model():
    model = sequential(hidden())
    kill(model.get_layer("out"), [0])

    _, report = shrunk(model)

    assert reasons(report) == {"out": {"the model returns it": 1}}


def test_shrink_does_not_warn_of_outputs_of_the_model():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, "softmax", name="out")]
    )
    kill(model.get_layer("out"), [0])

    _, found = caught(keras_gumbel.shrink, model)

    assert found == []
    assert reasons(keras_gumbel.shrink_report(model)) == {
        "out": {"the model returns it": 1}
    }


PADDED = {
    "zeros": ((3, "same", 0.0), 2),
    "a constant": ((3, "same", 0.5), 3),
    "no padding": ((3, "valid", 0.5), 2),
    "one pixel": ((1, "same", 0.5), 2),
}


@pytest.mark.parametrize("case", PADDED)
def test_shrink_keeps_one_constant_that_is_padded_with_zeros(case):
    (size, padding, constant), kept = PADDED[case]
    model = sequential(
        filters(4, 3),
        layers.Conv2D(3, size, padding=padding, name="next"),
        layers.Flatten(),
        shape=(6, 6, 2),
    )
    kill(model.get_layer("conv"), [1, 2])
    model.get_layer("conv").bias.assign([0.1, -constant / 5, constant, 0.3])

    _, report = shrunk(model)

    assert rows(report)["conv"] == kept
    why = "it replaces other constants that a convolution pads with zeros"
    assert reasons(report) == ({"conv": {why: 1}} if kept == 3 else {})
    _, found = caught(keras_gumbel.shrink, model)
    assert found == []


PADDING = {
    "causal": (layers.Conv1D(3, 3, padding="causal"), 1),
    "one dimension": (layers.Conv1D(3, 2, padding="same"), 1),
    "strided": (layers.Conv2D(3, 3, 2, padding="same"), 2),
    "dilated": (layers.Conv2D(3, 3, padding="same", dilation_rate=2), 2),
    "three dimensions": (layers.Conv3D(3, 2, padding="same"), 3),
    "transposed": (layers.Conv2DTranspose(3, 3, 2), 2),
    "transposed row": (layers.Conv1DTranspose(3, 2), 1),
    "without a bias": (layers.Conv2D(3, 3, padding="same", use_bias=False), 2),
}


@pytest.mark.parametrize("kind", PADDING)
def test_one_constant_stands_for_others_in(kind):
    reader, spatial = PADDING[kind]
    units = layers.Dense(8, "relu", name="hidden")
    model = sequential(
        units,
        layers.BatchNormalization(),
        layers.LeakyReLU(),
        copy_of(reader),
        layers.Flatten(),
        shape=(5,) * spatial + (3,),
    )
    kill(units, [1, 2, 4, 7])

    small, report = shrunk(model)

    assert rows(report)["hidden"] == 5
    assert keras_gumbel.shrink_report(small).kept == report.kept


def test_a_constant_that_stays_anyway_stands_for_others():
    inputs = keras.Input((5, 5, 3))
    x = filters(4, 1)(inputs)
    y = layers.Conv2D(4, 3, padding="same", name="next")(x)
    y = layers.Add(name="add")([x, layers.Conv2D(4, 1, name="last")(y)])
    model = keras.Model(inputs, layers.Conv2D(2, 5, name="out")(y))
    randomize(model, np.random.default_rng(0))
    kill(model.get_layer("conv"), [1, 2])
    model.get_layer("conv").bias.assign([0.1, 0.5, 0.3, 0.2])
    kill(model.get_layer("last"), [1])

    _, report = shrunk(model)

    assert rows(report) == {"conv": 3, "next": 4, "last": 3, "out": 2}
    why = "`add` (Add) does not leave it constant"
    assert reasons(report) == {"conv": {why: 1}}


def test_a_small_constant_does_not_stand_for_large_ones():
    inputs = keras.Input((5, 5, 3))
    x = filters(4, 1)(inputs)
    y = layers.Conv2D(2, 3, padding="same", name="next")(x)
    z = layers.SeparableConv2D(2, 3, padding="same", name="other")(x)
    outputs = layers.Flatten()(layers.Concatenate()([y, z]))
    model = keras.Model(inputs, layers.Dense(2, name="out")(outputs))
    randomize(model, np.random.default_rng(0))
    kill(model.get_layer("conv"), [1, 2, 3])
    model.get_layer("conv").bias.assign([0.1, 1e-6, 0.5, 0.4])
    depthwise, *others = model.get_layer("other").get_weights()
    depthwise[:, :, 2:] = 0.0
    model.get_layer("other").set_weights([depthwise, *others])

    _, report = shrunk(model)

    assert rows(report)["conv"] == 3
    why = "`other` (SeparableConv2D) pads a constant with zeros at the edges"
    one = "it replaces other constants that a convolution pads with zeros"
    assert reasons(report)["conv"] == {why: 1, one: 1}


IMAGE_LAYERS = {
    "activation": layers.Activation("gelu"),
    "activity_regularization": layers.ActivityRegularization(1e-3),
    "alpha_dropout": layers.AlphaDropout(0.5),
    "average_pooling": layers.AveragePooling2D(2, padding="same"),
    "batch_normalization": layers.BatchNormalization(),
    "plain_normalization": layers.BatchNormalization(scale=False),
    "cropping": layers.Cropping2D(1),
    "depthwise": layers.DepthwiseConv2D(2, depth_multiplier=2),
    "depthwise_tanh": layers.DepthwiseConv2D(2, activation="tanh"),
    "dropout": layers.Dropout(0.5, noise_shape=(None, 1, 1, None)),
    "elu": layers.ELU(),
    "flatten": layers.Flatten(name="first_flatten"),
    "gaussian_dropout": layers.GaussianDropout(0.5),
    "gaussian_noise": layers.GaussianNoise(0.5),
    "global_average": layers.GlobalAveragePooling2D(),
    "global_max": layers.GlobalMaxPooling2D(keepdims=True),
    "identity": layers.Identity(),
    "leaky_relu": layers.LeakyReLU(),
    "max_pooling": layers.MaxPooling2D(2, padding="same"),
    "permute": layers.Permute((2, 1, 3)),
    "prelu": layers.PReLU(shared_axes=[1, 2]),
    "shared_prelu": layers.PReLU(shared_axes=[1, 2, 3]),
    "relu": layers.ReLU(max_value=0.5, threshold=0.1),
    "rescaling": layers.Rescaling(2.0, [0.1, 0.2, 0.3, 0.4]),
    "reshape": layers.Reshape((-1, 4)),
    "reshape_rows": layers.Reshape((5, 20)),
    "separable": layers.SeparableConv2D(3, 2, depth_multiplier=2),
    "spatial_dropout": layers.SpatialDropout2D(0.5),
    "up_sampling": layers.UpSampling2D(2, interpolation="bilinear"),
}


def copy_of(layer):
    return type(layer).from_config(layer.get_config())


@pytest.mark.parametrize("kind", IMAGE_LAYERS)
def test_shrink_follows_channels_through(kind):
    model = sequential(
        filters(4, 2),
        copy_of(IMAGE_LAYERS[kind]),
        layers.Flatten(),
        shape=(6, 6, 2),
    )
    kill(model.get_layer("conv"), [1, 2])

    small, report = shrunk(model)

    assert rows(report)["conv"] == 2
    assert reasons(report) == {}
    assert small.count_params() < model.count_params()


BARRIERS = {
    "zero_padding": (
        layers.ZeroPadding2D(1, name="next"),
        "`next` (ZeroPadding2D) does not leave it constant",
    ),
    "prelu": (
        layers.PReLU(name="next"),
        "`next` (PReLU) does not leave it constant",
    ),
    "layer_normalization": (
        layers.LayerNormalization(name="next"),
        "`next` (LayerNormalization) normalizes over all channels",
    ),
    "dropout": (
        layers.Dropout(0.5, noise_shape=(None, 1, 1, 4), name="next"),
        "`next` (Dropout) has noise of a fixed shape",
    ),
    "softmax": (
        layers.Activation("softmax", name="next"),
        "`next` (Activation) applies softmax, which may mix channels",
    ),
    "grouped": (
        layers.Conv2D(4, 2, groups=2, name="next"),
        "`next` (Conv2D) does not leave it constant",
    ),
    "separable": (
        layers.SeparableConv2D(3, 3, padding="same", name="next"),
        "`next` (SeparableConv2D) pads a constant with zeros at the edges",
    ),
    "depthwise": (
        layers.DepthwiseConv2D(3, padding="same", name="next"),
        "`next` (DepthwiseConv2D) does not leave it constant",
    ),
    "permute": (
        layers.Permute((3, 1, 2), name="axes"),
        "`out` (Dense) reads another axis",
    ),
    "reshape": (
        layers.Reshape((4, 25), name="next"),
        "`next` (Reshape) mixes channels and positions",
    ),
    "model": (
        keras.Sequential([layers.Dense(3)], name="next"),
        "`next` (Sequential) is a nested model",
    ),
}


@pytest.mark.parametrize("kind", BARRIERS)
def test_shrink_says_what_keeps_a_dead_unit(kind):
    layer, why = BARRIERS[kind]
    model = sequential(filters(4, 2), copy_of(layer), shape=(6, 6, 2))
    kill(model.get_layer("conv"), [1, 2])
    model.get_layer("conv").bias.assign([0.1, -0.5, -0.6, 0.2])

    _, (warning,) = caught(keras_gumbel.shrink, model)
    _, report = shrunk(model)

    assert "`shrink` kept dead units: " in str(warning.message)
    assert f"2 of conv ({why})" in str(warning.message)
    assert reasons(report) == {"conv": {why: 2}}
    assert f"dead but kept: 2 of conv, since {why}" in " ".join(
        str(report).split()
    )


def test_shrink_keeps_units_under_an_activation_of_all_of_them():
    model = sequential(layers.Dense(4, "softmax", name="hidden"))
    kill(model.get_layer("hidden"), [1])
    ignore(model.get_layer("out"), [2])

    _, report = shrunk(model)

    why = "`hidden` (Dense) applies softmax, which may mix units"
    assert reasons(report) == {"hidden": {why: 1}}


def residual():
    inputs = keras.Input((4,))
    x = layers.Dense(4, "tanh", name="first")(inputs)
    y = layers.Dense(4, "tanh", name="second")(x)
    outputs = layers.Dense(2, name="out")(layers.Add(name="sum")([x, y]))
    return randomize(keras.Model(inputs, outputs), np.random.default_rng(0))


def test_shrink_removes_channels_of_a_sum_where_both_sides_agree():
    model = residual()
    kill(model.get_layer("first"), [0, 1])
    kill(model.get_layer("second"), [1, 2])

    _, report = shrunk(model)

    assert rows(report) == {"first": 3, "second": 3, "out": 2}
    why = "`sum` (Add) does not leave it constant"
    assert reasons(report) == {"first": {why: 1}, "second": {why: 1}}


def test_shrink_keeps_an_unread_sum_where_one_side_is_read():
    model = residual()
    ignore(model.get_layer("out"), [0, 1])
    ignore(model.get_layer("second"), [1])

    _, report = shrunk(model)

    assert rows(report) == {"first": 3, "second": 3, "out": 2}
    why = "`sum` (Add) combines it with one that stays"
    assert reasons(report) == {"second": {why: 1}}


@pytest.mark.parametrize("kind", ["layer", "operator"])
def test_shrink_keeps_what_is_added_to_an_input(kind):
    inputs = keras.Input((4,))
    x = layers.Dense(4, name="hidden")(inputs)
    x = x + inputs if kind == "operator" else layers.Add()([x, inputs])
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    randomize(model, np.random.default_rng(0))
    ignore(model.get_layer("out"), [3])

    _, report = shrunk(model)

    (why,) = reasons(report)["hidden"]
    assert "combines it with one that stays" in why


def test_shrink_knows_operators_with_numbers():
    inputs = keras.Input((4,))
    x = 0.5 * (layers.Dense(4, name="hidden")(inputs) + 3.0)
    y = layers.Dense(4, name="next")(x) + np.ones(4, "float32")
    model = keras.Model(inputs, layers.Dense(2, name="out")(y))
    randomize(model, np.random.default_rng(0))
    kill(model.get_layer("hidden"), [1])
    kill(model.get_layer("next"), [1])

    _, report = shrunk(model)

    assert rows(report) == {"hidden": 3, "next": 3, "out": 2}


@pytest.mark.parametrize("kind", ["Add", "Multiply", "Average", "Minimum"])
def test_shrink_folds_constants_that_are_merged(kind):
    inputs = keras.Input((4,))
    branches = [layers.Dense(3, name=name)(inputs) for name in "ab"]
    merged = getattr(layers, kind)()(branches)
    model = keras.Model(inputs, layers.Dense(2, name="out")(merged))
    randomize(model, np.random.default_rng(0))
    kill(model.get_layer("a"), [0, 1])
    kill(model.get_layer("b"), [0])
    model.get_layer("a").bias.assign([0.3, 0.0, 0.1])

    _, report = shrunk(model)

    # Zero times anything is constant.
    kept = 1 if kind == "Multiply" else 2
    assert rows(report) == {"a": kept, "b": kept, "out": 2}


def test_shrink_takes_apart_what_is_concatenated():
    inputs = keras.Input((4,))
    branches = [layers.Dense(3, name=name)(inputs) for name in "ab"]
    joined = layers.Concatenate()([branches[0], inputs, branches[1]])
    model = keras.Model(inputs, layers.Dense(2, name="out")(joined))
    randomize(model, np.random.default_rng(0))
    kill(model.get_layer("a"), [0, 1])
    ignore(model.get_layer("out"), [3, 9])

    small, report = shrunk(model)

    assert rows(report) == {"a": 1, "b": 2, "out": 2}
    assert small.get_layer("out").kernel.shape == (7, 2)


@pytest.mark.parametrize("twice", [False, True])
def test_shrink_shrinks_the_models_in_a_model(twice):
    inner = sequential(hidden())
    kill(inner.get_layer("hidden"), [0, 2])
    kill(inner.get_layer("out"), [0])
    inputs = keras.Input((4,))
    x = inner(inputs)
    x = layers.Add()([x, inner(2 * inputs)]) if twice else x
    model = keras.Model(inputs, layers.Dense(2, name="top")(x))

    _, report = shrunk(model)

    name = inner.name
    assert rows(report) == {"top": 2, f"{name}/hidden": 2, f"{name}/out": 2}
    assert reasons(report) == {f"{name}/out": {"the model returns it": 1}}


def test_shrink_leaves_shared_and_unknown_layers():
    shared = layers.Dense(4, name="shared")
    inputs = keras.Input((3, 4))
    x = shared(shared(inputs))
    x = layers.RNN([layers.LSTMCell(4)], name="memory")(x)
    model = keras.Model(inputs, hidden(2)(x))
    randomize(model, np.random.default_rng(0))
    kill(shared, [1])

    small, report = shrunk(model)

    assert report.skipped == {
        "shared": "Dense is shared",
        "memory": "RNN is not known to keep channels apart",
    }
    assert "not shrunk: shared (Dense is shared)" in str(report)
    assert small.count_params() == model.count_params()


def test_shrink_lets_activations_be_shared():
    activation = layers.LeakyReLU()
    model = keras.Sequential([keras.Input((4,)), hidden(), activation])
    x = layers.Dense(3, name="next")(model.outputs[0])
    model = keras.Model(model.inputs, activation(x))
    randomize(model, np.random.default_rng(0))
    kill(model.get_layer("hidden"), [1])

    _, report = shrunk(model)

    assert rows(report)["hidden"] == 3


def test_shrink_does_not_fold_what_is_called_in_training():
    inputs = keras.Input((4,))
    x = layers.Dropout(0.5, seed=0)(hidden()(inputs), training=True)
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    randomize(model, np.random.default_rng(0))
    kill(model.get_layer("hidden"), [1])

    report = keras_gumbel.shrink_report(model)

    why = "`dropout` (Dropout) does not leave it constant"
    assert reasons(report) == {"hidden": {why: 1}}


OTHER_LAYERS = {
    "conv_1d": (lambda: layers.Conv1D(4, 2, padding="causal"), (6, 2)),
    "conv_3d": (lambda: layers.Conv3D(4, 2, dilation_rate=2), (5, 4, 5, 2)),
    "conv_1d_transpose": (lambda: layers.Conv1DTranspose(4, 3, 2), (6, 2)),
    "conv_3d_transpose": (lambda: layers.Conv3DTranspose(4, 2), (4, 4, 4, 2)),
    "dense_on_images": (lambda: layers.Dense(4, "gelu"), (5, 5, 2)),
}


@pytest.mark.parametrize("kind", OTHER_LAYERS)
def test_shrink_knows_layers_with_units(kind):
    make, shape = OTHER_LAYERS[kind]
    layer = make()
    model = sequential(layer, layers.Flatten(), shape=shape)
    kernel = ops.convert_to_numpy(layer.kernel).copy()
    if "transpose" in kind:
        kernel[..., [1, 2], :] = 0.0
    else:
        kernel[..., [1, 2]] = 0.0
    layer.kernel.assign(kernel)

    _, report = shrunk(model)

    assert report.rows[0].kept == 2


def test_shrink_knows_separable_convolutions():
    layer = layers.SeparableConv2D(4, 2, depth_multiplier=2, name="separable")
    model = sequential(filters(3, 2), layer, layers.Flatten(), shape=(6, 6, 2))
    kill(model.get_layer("conv"), [0])
    depthwise, pointwise, bias = layer.get_weights()
    depthwise[:, :, 1, 0] = 0.0  # of what is read of the second channel
    pointwise[..., 3, :] = 0.0  # nothing is left
    pointwise[..., [0, 1]] = 0.0
    layer.set_weights([depthwise, pointwise, bias])

    _, report = shrunk(model)

    assert rows(report) == {"conv": 1, "separable": 2, "out": 2}


@pytest.mark.every_backend
def test_shrink_narrows_an_embedding():
    table = layers.Embedding(5, 4, name="table")
    model = keras.Sequential(
        [keras.Input((3,), dtype="int32"), table, layers.Flatten(), hidden()]
    )
    randomize(model, np.random.default_rng(0))
    values = ops.convert_to_numpy(table.embeddings).copy()
    values[:, 1], values[:, 2] = 0.0, 0.7
    table.set_weights([values])
    tokens = np.array([[0, 1, 2], [4, 3, 4]])

    small = keras_gumbel.shrink(model)

    assert small.get_layer("table").output_dim == 2
    np.testing.assert_allclose(
        ops.convert_to_numpy(small(tokens)),
        ops.convert_to_numpy(model(tokens)),
        rtol=1e-5,
    )


MASKED = {
    "pooling": layers.Activation("tanh"),
    "normalization": layers.BatchNormalization(),
}


@pytest.mark.parametrize("kind", MASKED)
def test_shrink_follows_channels_of_padded_steps_through(kind):
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(7, 3, mask_zero=True)(inputs)
    x = copy_of(MASKED[kind])(layers.Dense(6, "relu", name="hidden")(x))
    x = layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    randomize(model, np.random.default_rng(0))
    kill(model.get_layer("hidden"), [1, 4])
    tokens = np.array([[1, 2, 3, 0, 0], [4, 5, 6, 1, 2], [3, 0, 0, 0, 0]])

    small = keras_gumbel.shrink(model)

    assert small.get_layer("hidden").units == 4
    np.testing.assert_allclose(
        ops.convert_to_numpy(small(tokens)),
        ops.convert_to_numpy(model(tokens)),
        rtol=1e-5,
    )


def test_shrink_keeps_the_channels_of_a_mask():
    inputs = keras.Input((5, 3))
    steps = layers.Dense(1, name="steps")(layers.Permute((2, 1))(inputs))
    mask = layers.Dense(5, name="mask")(layers.Flatten()(inputs)) > 0
    x = layers.Dense(4, name="hidden")(inputs)
    x = layers.GlobalAveragePooling1D()(x, mask=mask)
    x = layers.Concatenate()([x, layers.Flatten()(steps)])
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    randomize(model, np.random.default_rng(0))
    kill(model.get_layer("mask"), [1, 2])
    kill(model.get_layer("hidden"), [3])

    _, report = shrunk(model)

    assert rows(report)["mask"] == 5
    assert rows(report)["hidden"] == 3
    (why,) = reasons(report)["mask"]
    assert why.endswith("(GlobalAveragePooling1D) uses it as its mask")


@pytest.mark.backends("torch")  # TensorFlow has it on GPUs only
def test_shrink_knows_channels_first():
    options = {"data_format": "channels_first"}
    model = sequential(
        filters(4, 2, **options),
        layers.BatchNormalization(axis=1),
        layers.PReLU(shared_axes=[2, 3]),
        layers.MaxPooling2D(2, **options),
        layers.Conv2D(3, 2, **options, name="next"),
        layers.Flatten(**options),
        shape=(2, 9, 9),
    )
    kill(model.get_layer("conv"), [1, 2])
    kill(model.get_layer("next"), [0])

    _, report = shrunk(model)

    assert rows(report) == {"conv": 2, "next": 2, "out": 2}


@pytest.mark.every_backend
def test_shrink_returns_a_plain_model_that_saves(tmp_path):
    model = sequential(
        hidden(dtype="mixed_float16", trainable=False),
        layers.BatchNormalization(name="norm"),
    )
    kill(model.get_layer("hidden"), [2])

    small = keras_gumbel.shrink(model)
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")

    layer = loaded.get_layer("hidden")
    assert layer.dtype_policy.name == "mixed_float16"
    assert not layer.trainable
    assert layer.units == 3
    assert not small.compiled
    np.testing.assert_array_equal(predictions(loaded), predictions(small))
    np.testing.assert_allclose(
        predictions(small)[0], predictions(model)[0], rtol=1e-2
    )


def masked(density, **kwargs):
    model = keras.Sequential(
        [
            keras.Input((12, 12, 1)),
            layers.Conv2D(8, 3, activation="relu", name="conv"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.Conv2D(8, 3, use_bias=False, name="next"),
            layers.Flatten(),
            layers.Dense(16, "relu", name="hidden"),
            layers.Dense(3, name="out"),
        ]
    )
    rng = np.random.default_rng(0)
    sparse = keras_gumbel.sparsify(randomize(model, rng), **kwargs)
    return keras_gumbel.harden(sparse, density=density)


@pytest.mark.every_backend
def test_shrink_of_a_stripped_model_removes_dead_units():
    model = keras_gumbel.strip(masked(0.02))

    small, report = shrunk(model)

    assert small.count_params() < model.count_params() / 2
    assert any(row.kept < row.units for row in report.rows)
    assert "keras_gumbel" not in json.dumps(small.get_config(), default=str)
    # What is left has nothing more to remove.
    assert keras_gumbel.shrink_report(small).kept == report.kept


def test_shrink_leaves_the_stripped_model_as_it_is():
    model = keras_gumbel.strip(masked(0.02))
    before = [v.copy() for v in model.get_weights()]

    small = keras_gumbel.shrink(model)

    assert small is not model
    for weight, value in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_strip_keeps_dead_units():
    hard = masked(0.02)
    shapes = [v.shape for v in hard.weights if "mask" not in v.path]

    stripped = keras_gumbel.strip(hard)

    assert stripped is hard
    assert [v.shape for v in stripped.weights] == shapes


def test_shrink_of_a_stripped_model_warns_of_dead_units_that_stay():
    model = sequential(
        filters(4, 2), layers.LayerNormalization(), shape=(6, 6, 2)
    )
    kill(model.get_layer("conv"), [1, 2])
    hard = keras_gumbel.harden(keras_gumbel.sparsify(model), density=1.0)

    _, (warning,) = caught(keras_gumbel.shrink, keras_gumbel.strip(hard))

    assert str(warning.message).startswith(
        "`shrink` kept dead units: 2 of conv"
    )


def test_the_warning_points_at_the_caller():
    model = sequential(
        filters(4, 2), layers.LayerNormalization(), shape=(6, 6, 2)
    )
    kill(model.get_layer("conv"), [1, 2])

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        keras_gumbel.shrink(model)

    assert [warning.filename for warning in found] == [__file__]


def test_a_gate_between_layers_removes_units():
    gate = keras_gumbel.masks.ConcreteMask(name="gate")
    model = sequential(hidden(), gate)
    gate.mask_scores.assign([1.0, 0.0, 1.0, 0.0])
    hard = keras_gumbel.harden(model, density=0.5)
    before = predictions(hard)

    small = keras_gumbel.shrink(keras_gumbel.strip(hard))

    assert small.get_layer("hidden").units == 2
    np.testing.assert_allclose(predictions(small), before, atol=1e-5)


def test_shrink_removes_what_batch_normalization_scales_by_zero():
    model = sequential(hidden(), layers.BatchNormalization(name="norm"))
    model.get_layer("norm").gamma.assign([1.0, 0.0, 0.5, 0.0])

    _, report = shrunk(model)

    assert rows(report) == {"hidden": 2, "out": 2}


def test_shrink_report_is_plain_data_and_a_table():
    model = sequential(hidden())
    kill(model.get_layer("hidden"), [0])
    kill(model.get_layer("out"), [1])

    report = keras_gumbel.shrink_report(model)

    data = json.loads(json.dumps(report.to_dict()))
    assert data["parameters"] == 30
    assert data["kept"] == 23
    assert data["rows"][1] == {
        "name": "out",
        "units": 2,
        "kept": 2,
        "reasons": {"the model returns it": 1},
    }
    assert report.rows[1].dead == 1
    assert "parameters: 30 -> 23" in str(report)


@pytest.mark.parametrize("function", ["shrink", "shrink_report"])
def test_shrink_of_a_masked_model_raises(function):
    hard = masked(0.5)

    with pytest.raises(ValueError, match=f"`{function}`.*without masks.*strip"):
        getattr(keras_gumbel, function)(hard)


def test_shrink_of_an_unbuilt_model_raises():
    model = keras.Sequential([layers.Dense(3)])

    with pytest.raises(ValueError, match="not built"):
        keras_gumbel.shrink(model)


def test_shrink_of_a_layer_raises():
    with pytest.raises(TypeError, match="`model` of `shrink`"):
        keras_gumbel.shrink(layers.Dense(3))
