"""`shrink`, groups of channels and layers that split them."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gumbel
from tests.test_shrink_attention import zero
from tests.test_shrink_coupling import check as check_coupling
from tests.test_shrink_coupling import model_of
from tests.test_shrink_coupling import slots_of
from tests.test_shrink_random import check
from tests.test_shrink_random import quietly

pytestmark = pytest.mark.one_backend


def between(*middle, filters=8):
    """Builds a convnet with layers between two convolutions."""

    def piece(x):
        x = layers.Conv2D(filters, 3, name="conv")(x)
        for layer in middle:
            x = layer(x)
        return x

    return model_of(piece)


def sizes(model):
    return {group.name: group.size for group in check_coupling(model)}


def kept(model):
    report = keras_gumbel.shrink_report(model)
    return {row.name: row.kept for row in report.rows}


def conv(filters, **kwargs):
    return layers.Conv2D(filters, 3, **kwargs, name="grouped")


GROUPED = {
    "depthwise": (conv(8, groups=8, padding="same"), 8),
    "two outputs": (conv(16, groups=8), 8),
    "pairs": (conv(8, groups=4), 4),
    "more outputs": (conv(12, groups=2), 2),
    "fewer outputs": (conv(4, groups=4, use_bias=False), 4),
    "normalization": (layers.GroupNormalization(4), 4),
    "each alone": (layers.GroupNormalization(-1), 8),
    "one": (layers.GroupNormalization(1), 1),
}


def copy_of(layer):
    return type(layer).from_config(layer.get_config())


@pytest.mark.parametrize("kind", GROUPED)
def test_groups_go_together(kind):
    layer, count = GROUPED[kind]

    assert sizes(between(copy_of(layer))) == {"conv": count}


@pytest.mark.parametrize("kind", ["pairs", "normalization"])
def test_a_group_stays_if_a_channel_of_it_is_read(kind):
    model = between(copy_of(GROUPED[kind][0]))
    zero(model.get_layer("out").kernel, [0, 1, 2, 5, 6, 7])

    check(model)

    assert kept(model)["conv"] == 4
    assert quietly(keras_gumbel.shrink, model).layers[2].groups == 2


def test_the_last_group_loses_single_filters():
    model = between(conv(8, groups=2))
    zero(model.get_layer("out").kernel, [0, 1, 4, 5, 6, 7])

    check(model)

    assert kept(model) == {"conv": 4, "grouped": 2, "out": 2}
    small = quietly(keras_gumbel.shrink, model)
    assert small.get_layer("grouped").groups == 1


def test_what_a_group_normalization_scales_by_zero_is_constant():
    layer = layers.GroupNormalization(4, name="norm")
    model = between(layer)
    zero(model.get_layer("norm").gamma, [0, 1, 2])

    check(model)

    assert kept(model)["conv"] == 6


def test_a_grouped_convolution_of_zeros_is_constant():
    model = between(conv(8, groups=4, activation="relu"))
    zero(model.get_layer("grouped").kernel, ..., [0, 1, 2])

    check(model)

    assert kept(model)["conv"] == 6


def test_slots_of_a_grouped_convolution():
    model = between(conv(12, groups=4))

    (group,) = check_coupling(model)

    assert slots_of(group) == [
        ("conv", "kernel", 3, False, None),
        ("conv", "bias", 0, False, None),
        ("grouped", "kernel", 3, False, None),
        ("grouped", "bias", 0, False, None),
        ("out", "kernel", 0, True, 1),
    ]
    index = group.slots[2].index
    np.testing.assert_array_equal(index, np.repeat(np.arange(4), 3))


NORMALIZATIONS = {
    "layer": layers.LayerNormalization(name="norm"),
    "layer of images": layers.LayerNormalization(axis=(1, 2, 3), name="norm"),
    "rms": layers.RMSNormalization(name="norm"),
    "unit": layers.UnitNormalization(name="norm"),
}


@pytest.mark.backends("torch")
@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_normalizations_of_all_channels_keep_them(kind):
    model = between(copy_of(NORMALIZATIONS[kind]))
    zero(model.get_layer("out").kernel, 3)

    check(model)

    assert kept(model)["conv"] == 8
    assert sizes(model) == {}
    skipped = keras_gumbel.shrink_report(model).skipped
    assert "normalizes over all channels" in skipped["conv"]


@pytest.mark.every_backend
@pytest.mark.backends("jax", "tensorflow")  # Keras fails on torch
@pytest.mark.parametrize("axis", [1, (1, 2)])
def test_normalizations_of_positions_keep_channels_apart(axis):
    model = between(layers.LayerNormalization(axis=axis))

    assert sizes(model) == {"conv": 8}


EQUATIONS = {
    "any rank": ("...a,ab->...b", 6, "b"),
    "rank three": ("abc,cd->abd", (5, 6), "d"),
    "no bias": ("xyz,zw->xyw", (None, 6), None),
}


@pytest.mark.parametrize("kind", EQUATIONS)
def test_einsum_dense(kind):
    equation, shape, bias_axes = EQUATIONS[kind]
    inputs = keras.Input((5, 3))
    x = layers.Dense(4, "tanh", name="stem")(inputs)
    layer = layers.EinsumDense(
        equation, shape, "relu", bias_axes=bias_axes, name="einsum"
    )
    x = layers.Dense(2, name="out")(layer(x))
    model = keras.Model(inputs, x)
    for i, weight in enumerate(model.weights):
        rng = np.random.default_rng(i)
        weight.assign(rng.uniform(-1.0, 1.0, weight.shape))
    zero(layer.kernel, ..., 2)
    zero(model.get_layer("stem").kernel, ..., [1])

    check(model)

    bias = 0 if bias_axes is None else 1
    assert kept(model) == {"stem": 3, "einsum": 5, "out": 2}
    small = keras_gumbel.shrink(model).get_layer("einsum")
    assert small.bias is not None
    assert len(layer.weights) == 1 + bias
    assert sizes(keras.models.clone_model(model)) == {"stem": 4, "einsum": 6}


@pytest.mark.backends("torch")
def test_other_equations_keep_their_units():
    inputs = keras.Input((5, 3))
    x = layers.Dense(4, name="stem")(inputs)
    x = layers.EinsumDense("abc,cde->abde", (5, 2, 3), name="heads")(x)
    x = layers.EinsumDense("abde,edf->abf", (5, 2), name="out")(x)
    model = keras.Model(inputs, x)

    check(model)

    why = 'does not have the equation "...a,ab->...b"'
    assert keras_gumbel.shrink_report(model).skipped == {
        "heads": f"EinsumDense {why}",
        "out": f"EinsumDense {why}",
        "stem": f"`heads` (EinsumDense) {why}",
    }


def test_split_gates():
    def piece(x):
        x = layers.Conv2D(8, 1, name="conv")(x)
        x, gate = ops.split(x, 2, axis=-1)
        return x * ops.sigmoid(gate)

    model = model_of(piece)

    (group,) = check_coupling(model)

    assert (group.name, group.size) == ("conv", 4)
    np.testing.assert_array_equal(group.slots[0].index, np.tile(range(4), 2))


def test_split_in_parts_of_different_sizes():
    def piece(x):
        x = layers.Conv2D(8, 1, name="conv")(x)
        parts = ops.split(x, [1, 5], axis=-1)
        return layers.Concatenate()([ops.relu(part) for part in parts])

    assert sizes(model_of(piece)) == {"conv": 1, "conv:2": 4, "conv:3": 3}
