"""`shrink` removes heads of attention."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gumbel
from keras_gumbel import _keras_private
from tests.newer_keras import require_keras
from tests.test_shrink_coupling import check as check_coupling
from tests.test_shrink_coupling import randomize
from tests.test_shrink_random import assert_equal_predictions
from tests.test_shrink_random import check

pytestmark = pytest.mark.one_backend


def attention(heads=4, **kwargs):
    return layers.MultiHeadAttention(heads, 3, **kwargs, name="attention")


def encoder(**kwargs):
    """Two blocks of attention and a hidden layer, as transformers have."""
    inputs = keras.Input((5, 3))
    x = layers.Dense(8, name="stem")(inputs)
    for i in range(2):
        name = f"attention_{i}"
        y = layers.MultiHeadAttention(4, 3, **kwargs, name=name)(x, x)
        x = layers.LayerNormalization()(x + y)
        y = layers.Dense(6, "gelu", name=f"hidden_{i}")(x)
        x = layers.LayerNormalization()(
            layers.Add()([layers.Dense(8, name=f"down_{i}")(y), x])
        )
    x = layers.GlobalAveragePooling1D()(x)
    return randomize(keras.Model(inputs, layers.Dense(2, name="out")(x)))


def zero(variable, *index):
    """Zeroes some values of a variable."""
    values = ops.convert_to_numpy(variable).copy()
    values[index] = 0.0
    variable.assign(values)


def ignore_heads(layer, heads):
    zero(layer.output_dense.kernel, heads)


@pytest.mark.every_backend
@pytest.mark.parametrize("use_bias", [True, False])
def test_shrink_removes_heads_that_nothing_reads(use_bias):
    model = encoder(use_bias=use_bias)
    layer = model.get_layer("attention_1")
    before = [ops.convert_to_numpy(v) for v in layer.query_dense.weights]
    zero(layer.output_dense.kernel, [0, 2])

    check(model)
    small = keras_gumbel.shrink(model).get_layer("attention_1")

    assert small.num_heads == 2
    assert model.get_layer("attention_0").num_heads == 4
    kernel = ops.convert_to_numpy(small.query_dense.kernel)
    np.testing.assert_array_equal(kernel, before[0][:, [1, 3]])
    if use_bias:
        bias = ops.convert_to_numpy(small.query_dense.bias)
        np.testing.assert_array_equal(bias, before[1][[1, 3]])
    rows = keras_gumbel.shrink_report(model).rows
    assert {r.name: r.kept for r in rows if "attention_1" in r.name} == {
        "attention_1": 2,
        "attention_1/attention_output": 8,
    }


def test_shrink_removes_heads_whose_values_are_zero():
    model = encoder(use_bias=False)
    layer = model.get_layer("attention_0")
    zero(layer.value_dense.kernel, slice(None), 1)
    zero(layer.query_dense.kernel, slice(None), 2)

    check(model)

    assert keras_gumbel.shrink(model).get_layer("attention_0").num_heads == 3


def test_one_head_stays():
    model = encoder()
    layer = model.get_layer("attention_0")
    zero(layer.output_dense.kernel, ...)

    check(model)

    row = keras_gumbel.shrink_report(model).rows[1]
    assert (row.name, row.kept) == ("attention_0", 1)
    assert row.reasons == {"a layer keeps one unit": 1}


@pytest.mark.parametrize("use_bias", [True, False])
def test_attention_loses_the_channels_it_reads_and_makes(use_bias):
    inputs = keras.Input((5, 3))
    query = layers.Dense(6, "tanh", name="query")(inputs)
    value = layers.Dense(5, "tanh", name="value")(inputs)
    x = attention(use_bias=use_bias)(query, value)
    x = layers.Add()([x, query])
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    randomize(model)
    zero(model.get_layer("out").kernel, 1)
    layer = model.get_layer("attention")
    zero(layer.query_dense.kernel, 1)
    zero(model.get_layer("value").kernel, ..., [2, 3])

    check(model)
    small = keras_gumbel.shrink(model)

    assert small.get_layer("query").units == 5
    assert small.get_layer("value").units == 3  # constants go into biases
    assert small.get_layer("attention").output_dense.kernel.shape == (4, 3, 5)
    assert small.get_layer("attention").use_bias


def test_heads_are_a_coupled_group():
    model = encoder()

    groups = check_coupling(model)

    assert {group.name: group.size for group in groups} == {
        "attention_0": 4,
        "hidden_0": 6,
        "attention_1": 4,
        "hidden_1": 6,
    }
    layer = model.get_layer("attention_0")
    (slot,) = [slot for slot in groups[0].slots if slot.reads]
    assert slot.layer is layer.output_dense
    assert slot.weight is layer.output_dense.kernel
    assert (slot.axis, slot.input_axis) == (0, 2)
    assert [(s.layer.name, s.weight.name, s.axis) for s in groups[0].slots] == [
        (dense, weight, int(weight == "kernel"))
        for dense in ("query", "key", "value")
        for weight in ("kernel", "bias")
    ] + [("attention_output", "kernel", 0)]


def test_heads_whose_scores_are_returned_stay():
    inputs = keras.Input((5, 3))
    x, scores = attention()(inputs, inputs, return_attention_scores=True)
    model = keras.Model(inputs, [layers.Dense(2, name="out")(x), scores])
    randomize(model)
    ignore_heads(model.get_layer("attention"), 1)

    check(model)

    row = keras_gumbel.shrink_report(model).rows[0]
    assert (row.name, row.kept) == ("attention", 4)


def test_heads_of_padded_steps():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(7, 4, mask_zero=True)(inputs)
    x = attention()(x, x, use_causal_mask=True)
    x = layers.GlobalAveragePooling1D()(x)
    model = randomize(keras.Model(inputs, layers.Dense(2)(x)))
    ignore_heads(model.get_layer("attention"), 2)
    tokens = np.array([[1, 2, 3, 0, 0], [4, 5, 6, 1, 2]])

    small = keras_gumbel.shrink(model)

    assert small.get_layer("attention").num_heads == 3
    np.testing.assert_allclose(
        ops.convert_to_numpy(small(tokens)),
        ops.convert_to_numpy(model(tokens)),
        rtol=1e-5,
    )


def test_attention_over_two_axes():
    inputs = keras.Input((4, 5, 3))
    x = layers.Dense(6, name="hidden")(inputs)
    x = attention(attention_axes=(1, 2))(x, x)
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))

    groups = check_coupling(randomize(model))

    assert {group.name: group.size for group in groups} == {
        "attention": 4,
        "attention/attention_output": 6,
        "hidden": 6,
    }


@pytest.mark.every_backend
def test_a_shrunk_head_is_saved(tmp_path):
    model = encoder()
    ignore_heads(model.get_layer("attention_0"), 1)
    small = keras_gumbel.shrink(model)

    small.save(tmp_path / "small.keras")

    loaded = keras.models.load_model(tmp_path / "small.keras")
    assert_equal_predictions(small, loaded)


def grouped(dim=3, heads=6, shared=3, **kwargs):
    return layers.GroupQueryAttention(
        dim, heads, shared, **kwargs, name="attention"
    )


def decoder(use_bias=True, memory=False):
    """A block whose heads share keys and values, perhaps of another tensor."""
    inputs = keras.Input((5, 3))
    x = layers.Dense(8, "tanh", name="stem")(inputs)
    y = layers.Dense(8, "tanh", name="memory")(inputs) if memory else x
    y = grouped(use_bias=use_bias)(x, y)
    x = layers.Dense(4, "tanh", name="hidden")(layers.Add()([x, y]))
    return randomize(keras.Model(inputs, layers.Dense(2, name="out")(x)))


@pytest.mark.every_backend
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("memory", [True, False])
def test_heads_leave_with_the_keys_and_values_they_share(use_bias, memory):
    model = decoder(use_bias, memory)
    layer = model.get_layer("attention")
    output = _keras_private.sublayers(layer)[-1]
    zero(output.kernel, [0, 2, 3])  # the first group is read by its second

    check(model)
    small = keras_gumbel.shrink(model).get_layer("attention")

    assert (small.num_query_heads, small.num_key_value_heads) == (4, 2)


@pytest.mark.parametrize("memory", [True, False])
def test_grouped_heads_are_a_coupled_group(memory):
    model = decoder(memory=memory)

    groups = check_coupling(model)

    assert {group.name: group.size for group in groups} == {
        "stem": 8,
        "attention": 3,
        "hidden": 4,
    }


def test_grouped_attention_is_as_wide_as_what_it_reads():
    model = decoder(memory=True)
    zero(model.get_layer("hidden").kernel, 1)
    layer = model.get_layer("attention")
    for part in _keras_private.sublayers(layer)[:3]:
        zero(part.kernel, 1)

    check(model)
    small = keras_gumbel.shrink(model)

    # What is no longer read of one tensor leaves all three.
    assert small.get_layer("stem").units == 7
    assert small.get_layer("memory").units == 7


def test_grouped_heads_with_a_gate():
    inputs = keras.Input((5, 3))
    x = layers.Dense(8, "tanh", name="stem")(inputs)
    try:
        x = grouped(use_gate=True)(x, x)
    except (TypeError, ValueError):
        pytest.skip("this Keras has no gates of heads")
    model = randomize(keras.Model(inputs, layers.Dense(2, name="out")(x)))

    groups = check_coupling(model)

    assert {group.name: group.size for group in groups} == {
        "stem": 8,
        "attention": 3,
    }


def test_grouped_heads_whose_scores_are_returned_stay():
    require_keras("3.15", "grouped attention that returns symbolic scores")
    inputs = keras.Input((5, 8))
    x, scores = grouped()(inputs, inputs, return_attention_scores=True)
    model = keras.Model(inputs, [layers.Dense(2, name="out")(x), scores])
    randomize(model)
    part = _keras_private.sublayers(model.get_layer("attention"))
    zero(part[-1].kernel, [2, 3])

    check(model)

    assert keras_gumbel.shrink_report(model).rows[0].kept == 3
