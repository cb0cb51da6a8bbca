"""Coupled channels, and that `shrink` removes those that nothing reads."""

import collections

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gumbel
from keras_gumbel.shrinking import _coupling
from tests.random_models import random_model
from tests.test_shrink_random import assert_equal_predictions
from tests.test_shrink_random import quietly

pytestmark = pytest.mark.one_backend

MODELS = 120
PER_TEST = 6


def groups_of(model):
    return _coupling.coupled_channels("test", model)


def randomize(model, seed=0):
    """Gives a model weights, biases and statistics that all matter."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        low = 0.5 if "variance" in variable.path else -1.0
        variable.assign(rng.uniform(low, 1.0, variable.shape))
    return model


def choose(groups, rng):
    """Draws which sets of each group are removed, never all."""
    chosen = []
    for group in groups:
        removed = rng.random(group.size) < rng.random()
        removed[rng.integers(group.size)] = False
        chosen.append(removed)
    return chosen


def belongs(slot, removed):
    """Says which entries of an axis belong to sets that are removed."""
    return (slot.index >= 0) & removed[slot.index]


def stop_reading(groups, chosen):
    """Zeroes all weights that read the chosen sets."""
    for group, removed in zip(groups, chosen, strict=True):
        for slot in group.slots:
            if slot.reads:
                value = ops.convert_to_numpy(slot.weight).copy()
                rows = np.moveaxis(value, slot.axis, 0)
                rows[belongs(slot, removed)] = 0.0
                slot.weight.assign(value)


def without(model, groups, chosen):
    """Returns the weights of a model without the chosen sets."""
    kept = {
        id(v): [np.ones(length, bool) for length in v.shape]
        for v in model.weights
    }
    for group, removed in zip(groups, chosen, strict=True):
        for slot in group.slots:
            kept[id(slot.weight)][slot.axis] &= ~belongs(slot, removed)
    return [
        ops.convert_to_numpy(v)[np.ix_(*kept[id(v)])] for v in model.weights
    ]


def check(model, seed=0):
    """Raises unless exactly what is no longer read is removed."""
    groups = groups_of(model)
    chosen = choose(groups, np.random.default_rng(seed))
    stop_reading(groups, chosen)

    small = quietly(keras_gumbel.shrink, model)

    assert_equal_predictions(model, small)
    expected = without(model, groups, chosen)
    for weight, value in zip(small.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(weight, value)
    return groups


def assert_well_formed(groups):
    names = [group.name for group in groups]
    assert len(set(names)) == len(names)
    places = collections.Counter()
    for group in groups:
        assert any(slot.reads for slot in group.slots)
        assert not all(slot.reads for slot in group.slots)
        for slot in group.slots:
            assert any(slot.weight is v for v in slot.layer.weights)
            assert slot.index.shape == (slot.weight.shape[slot.axis],)
            counts = np.bincount(slot.index + 1, minlength=group.size + 1)[1:]
            assert counts.min() == counts.max() > 0
            for entry in np.flatnonzero(slot.index >= 0):
                places[id(slot.weight), slot.axis, entry] += 1
    assert set(places.values()) <= {1}


@pytest.mark.parametrize(
    "first",
    [
        0,
        *(
            pytest.param(first, marks=pytest.mark.slow)
            for first in range(PER_TEST, MODELS, PER_TEST)
        ),
    ],
)
def test_random_models_lose_what_is_no_longer_read(first):
    for seed in range(first, first + PER_TEST):
        try:
            model = random_model(seed, zeros=False)
            model = quietly(keras_gumbel.shrink, model)
            assert_well_formed(check(model, seed))
        except Exception as error:
            error.add_note(f"of random_model({seed}, zeros=False)")
            raise
        keras.utils.clear_session(free_memory=False)


def test_the_check_notices_channels_that_are_not_joined(monkeypatch):
    true = _coupling.joined

    def forgetful(count, pairs):
        return true(count, [*pairs[:-2], pairs[-1]])

    monkeypatch.setattr(_coupling, "joined", forgetful)

    with pytest.raises(AssertionError):
        check(model_of(residual))


def model_of(piece, shape=(8, 8, 3)):
    inputs = keras.Input(shape)
    x = piece(inputs)
    if len(x.shape) > 2:
        x = layers.GlobalAveragePooling2D()(x)
    return randomize(keras.Model(inputs, layers.Dense(2, name="out")(x)))


def conv(filters, name, **kwargs):
    return layers.Conv2D(filters, 3, padding="same", name=name, **kwargs)


def residual(x):
    x = layers.BatchNormalization(name="norm")(conv(4, "a")(x))
    y = layers.ReLU()(conv(6, "b")(x))
    return layers.Add()([x, conv(4, "c")(y)])


def separated(x):
    x = layers.DepthwiseConv2D(3, depth_multiplier=2)(conv(4, "a")(x))
    x = layers.PReLU(shared_axes=[1, 2])(x)
    return layers.SeparableConv2D(6, 3, depth_multiplier=2, name="b")(x)


def joined(x):
    y = conv(4, "a")(x)
    return conv(5, "c")(layers.Concatenate()([y, x, conv(3, "b")(x), y]))


def excited(x):
    x = conv(4, "a")(x)
    y = layers.Dense(3, "relu", name="b")(layers.GlobalMaxPooling2D()(x))
    y = layers.Reshape((1, 1, 4))(layers.Dense(4, "sigmoid", name="c")(y))
    return x * y


def flattened(x):
    x = conv(4, "a")(x)
    return layers.Dense(5, name="b")(layers.Flatten()(x))


def sliced(x):
    x = conv(6, "a")(x)  # nothing reads the last channel
    return layers.Concatenate()([conv(2, "b")(x[..., :2]), x[..., 2:5]])


def spread(x):
    x = layers.Dense(6, name="a")(layers.Flatten()(x))
    return layers.Concatenate()([x[:, 1:3], ops.relu(x[:, 2:])])


PIECES = {
    residual: {"a": 4, "b": 6},
    separated: {"a": 4, "b": 6},
    joined: {"a": 4, "b": 3, "c": 5},
    excited: {"a": 4, "b": 3},
    flattened: {"a": 4, "b": 5},
    sliced: {"a": 2, "a:2": 3, "b": 2},
    spread: {"a": 1, "a:2": 1, "a:3": 3},
}


@pytest.mark.parametrize("piece", PIECES, ids=lambda piece: piece.__name__)
def test_groups_of(piece):
    model = quietly(keras_gumbel.shrink, model_of(piece))

    groups = check(model)

    assert_well_formed(groups)
    assert {group.name: group.size for group in groups} == PIECES[piece]


def slots_of(group):
    return [
        (s.layer.name, s.weight.name, s.axis, s.reads, s.input_axis)
        for s in group.slots
    ]


def test_slots_are_all_the_places_of_the_channels():
    group, other = groups_of(model_of(residual))

    assert slots_of(group) == [
        ("a", "kernel", 3, False, None),
        ("a", "bias", 0, False, None),
        ("norm", "gamma", 0, False, None),
        ("norm", "beta", 0, False, None),
        ("norm", "moving_mean", 0, False, None),
        ("norm", "moving_variance", 0, False, None),
        ("b", "kernel", 2, True, 3),
        ("c", "kernel", 3, False, None),
        ("c", "bias", 0, False, None),
        ("out", "kernel", 0, True, 1),
    ]
    assert ("c", "kernel", 2, True, 3) in slots_of(other)
    for slot in group.slots:
        np.testing.assert_array_equal(slot.index, np.arange(4))


def test_slots_of_a_separable_convolution():
    group, _ = groups_of(model_of(separated))

    assert [s for s in slots_of(group) if s[0] == "b"] == [
        ("b", "depthwise_kernel", 2, True, 3),
        ("b", "pointwise_kernel", 2, True, None),
    ]
    index = group.slots[-1].index
    np.testing.assert_array_equal(index, np.repeat(np.arange(4), 4))


def test_a_producer_is_a_part_of_what_is_concatenated():
    groups = groups_of(model_of(joined))

    index = {g.name: g.slots[-1].index for g in groups[:2]}
    own, other = list(range(4)), [-1] * 4
    assert list(index["a"]) == [*own, *[-1] * 6, *own]
    assert list(index["b"]) == [*other, *[-1] * 3, 0, 1, 2, *other]


def test_channels_of_a_layer_may_be_read_by_itself_through_a_sum():
    inputs = keras.Input((4,))
    x = layers.Dense(5, name="first")(inputs)
    x = layers.Add()([x, layers.Dense(5, name="second")(x)])
    model = randomize(keras.Model(inputs, layers.Dense(2)(x)))

    (group,) = check(model)

    second = [s[1:] for s in slots_of(group) if s[0] == "second"]
    assert second[:2] == [("kernel", 0, True, 1), ("kernel", 1, False, None)]


def test_what_must_stay_is_in_no_group():
    inputs = keras.Input((4,))
    x = layers.Dense(4, name="added_to_the_input")(inputs) + inputs
    x = layers.Dense(4, "softmax", name="compared")(x)
    x = layers.Dense(4, name="normalized")(x)
    x = layers.LayerNormalization()(x)
    shared = layers.Dense(4, name="shared")
    x = layers.Dense(6, name="kept")(shared(shared(x)))
    model = keras.Model(inputs, [layers.Dense(2, name="returned")(x), x])

    assert groups_of(model) == []


def nested():
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(6, name="a"), layers.Dense(4)],
        name="inner",
    )
    inputs = keras.Input((3,))
    x = inner(layers.Dense(4, name="pinned")(inputs))
    x = layers.Dense(5, name="a")(x)
    return randomize(keras.Model(inputs, layers.Dense(2)(x)))


def test_groups_of_a_model_in_a_model():
    model = nested()

    groups = check(model)

    assert {g.name: g.size for g in groups} == {"a": 5, "inner/a": 6}


@pytest.mark.parametrize("seed", range(3))
def test_groups_do_not_depend_on_weights(seed):
    model = random_model(seed, zeros=True)
    copy = keras.models.clone_model(model)

    for group, other in zip(groups_of(model), groups_of(copy), strict=True):
        assert (group.name, group.size) == (other.name, other.size)
        assert slots_of(group) == slots_of(other)
        for slot, same in zip(group.slots, other.slots, strict=True):
            np.testing.assert_array_equal(slot.index, same.index)


def test_coupled_channels_of_other_objects_raise():
    with pytest.raises(TypeError, match="`model` of `test`"):
        groups_of(layers.Dense(3))
    with pytest.raises(ValueError, match="`test`.*not built"):
        groups_of(keras.Sequential([layers.Dense(3)]))
