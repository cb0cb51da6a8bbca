"""`shrink` removes units of layers that are applied to every step of time."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gumbel
from tests.test_shrink_attention import zero
from tests.test_shrink_coupling import check as check_coupling
from tests.test_shrink_coupling import randomize
from tests.test_shrink_coupling import slots_of
from tests.test_shrink_random import check

pytestmark = pytest.mark.one_backend


def each(layer):
    return layers.TimeDistributed(layer, name=f"each_{layer.name}")


def video(data_format="channels_last", **kwargs):
    """Returns a network of frames, of three steps of time."""
    last = data_format == "channels_last"
    options = {"data_format": data_format, **kwargs}
    inputs = keras.Input((3, 6, 6, 2) if last else (3, 2, 6, 6))
    x = each(layers.Conv2D(5, 3, **options, name="first"))(inputs)
    x = layers.ReLU()(x)
    x = each(layers.Conv2D(4, 3, **options, name="second"))(x)
    x = layers.GlobalAveragePooling3D(data_format)(x) if last else x
    x = x if last else layers.Flatten()(x)
    return randomize(keras.Model(inputs, layers.Dense(2, name="out")(x)))


def words():
    inputs = keras.Input((4, 3))
    x = each(layers.Dense(6, "tanh", name="first"))(inputs)
    x = each(layers.Dense(5, "tanh", name="second"))(x)
    x = layers.GlobalAveragePooling1D()(x)
    return randomize(keras.Model(inputs, layers.Dense(2, name="out")(x)))


@pytest.mark.every_backend
@pytest.mark.parametrize("make", [words, video])
def test_shrink_removes_units_of_every_step(make):
    model = make()
    zero(model.get_layer("each_second").layer.kernel, ..., [0, 2], slice(None))
    zero(model.get_layer("out").kernel, 1)

    check(model)
    small = keras_gumbel.shrink(model)

    first, second = (
        small.get_layer(name).layer for name in ("each_first", "each_second")
    )
    width = 4 if make is words else 3
    assert first.kernel.shape[-1] == width
    assert second.kernel.shape[-2:] == (width, 4 if make is words else 3)


def test_constants_are_folded_into_the_bias():
    model = video(use_bias=False)
    layer = model.get_layer("each_first").layer
    zero(layer.kernel, ..., 1)

    check(model)

    assert keras_gumbel.shrink(model).get_layer("each_first").layer.filters == 4


@pytest.mark.parametrize("make", [words, video])
def test_units_are_coupled_groups(make):
    groups = check_coupling(make())

    names = [group.name for group in groups]
    assert names == ["each_first/first", "each_second/second"]
    rank = 2 if make is words else 4
    read = 1 if make is words else 3  # without the axis of time
    assert slots_of(groups[0]) == [
        ("first", "kernel", rank - 1, False, None),
        ("first", "bias", 0, False, None),
        ("second", "kernel", rank - 2, True, read),
    ]


@pytest.mark.backends("torch")  # TensorFlow has no such convolution on a CPU
def test_channels_before_the_pixels():
    groups = check_coupling(video("channels_first"))

    assert [group.size for group in groups] == [5, 4]


def test_other_layers_of_every_step_stay():
    inputs = keras.Input((3, 4))
    x = layers.Dense(5, name="stem")(inputs)
    x = layers.TimeDistributed(layers.LayerNormalization(), name="each")(x)
    model = randomize(keras.Model(inputs, layers.Dense(2, name="out")(x)))
    zero(model.get_layer("out").kernel, 1)

    check(model)

    report = keras_gumbel.shrink_report(model)
    assert {row.name: row.kept for row in report.rows} == {"stem": 5, "out": 2}
    predicted = ops.convert_to_numpy(model(np.ones((2, 3, 4))))
    assert np.isfinite(predicted).all()
