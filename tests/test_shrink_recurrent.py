"""`shrink` removes units of recurrent layers."""

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

KINDS = {
    "gru": layers.GRU,
    "gru reset before": lambda *x, **y: layers.GRU(*x, reset_after=False, **y),
    "lstm": layers.LSTM,
    "simple": layers.SimpleRNN,
    "cell": lambda units, **kwargs: of_cell(layers.LSTMCell, units, **kwargs),
    "gru cell": lambda units, **kwargs: of_cell(
        layers.GRUCell, units, **kwargs
    ),
}


def of_cell(kind, units, name, **kwargs):
    """Returns a recurrent layer of a cell, as one writes it by hand."""
    own = ("return_state", "stateful")
    options = {k: kwargs.pop(k) for k in own if k in kwargs}
    return layers.RNN(kind(units, **kwargs), **options, name=name)


def recurrent(kind, units=5, **kwargs):
    return KINDS[kind](units, **kwargs, name="memory")


def model_of(layer, **kwargs):
    """Builds a network around a recurrent layer."""
    inputs = keras.Input((6, 2))
    x = layers.Dense(4, "tanh", name="stem")(inputs)
    outputs = layers.Dense(2, name="out")(layer(x, **kwargs))
    return randomize(keras.Model(inputs, outputs))


def kept(model):
    report = keras_gumbel.shrink_report(model)
    return {row.name: row.kept for row in report.rows}


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_shrink_removes_units_that_only_dead_ones_read(kind, use_bias):
    model = model_of(recurrent(kind, use_bias=use_bias))
    layer = model.get_layer("memory")
    zero(model.get_layer("out").kernel, [0, 2])
    gates = layer.cell.kernel.shape[1] // 5
    alive = np.tile([False, True, False, True, True], gates)
    kernel = ops.convert_to_numpy(layer.cell.recurrent_kernel).copy()
    kernel[np.ix_([0, 2], alive)] = 0.0
    layer.cell.recurrent_kernel.assign(kernel)

    check(model)

    assert kept(model) == {"stem": 4, "memory": 3, "out": 2}


@pytest.mark.every_backend
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_shrink_keeps_units_that_others_read_in_the_next_step(kind):
    model = model_of(recurrent(kind))
    zero(model.get_layer("out").kernel, [0, 2])

    check(model)

    assert kept(model)["memory"] == 5


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_shrink_folds_constants_that_units_read(kind, use_bias):
    model = model_of(recurrent(kind, use_bias=use_bias))
    zero(model.get_layer("stem").kernel, ..., [1, 2])

    check(model)

    assert kept(model) == {"stem": 2, "memory": 5, "out": 2}
    small = keras_gumbel.shrink(model)
    assert small.get_layer("memory").cell.use_bias


@pytest.mark.parametrize("kind", ["gru", "lstm", "cell"])
def test_shrink_removes_units_that_stay_at_zero(kind):
    model = model_of(recurrent(kind))
    layer = model.get_layer("memory")
    state = np.array([1, 3]) + 2 * 5  # numbers of the gate of the state
    for variable in layer.weights:
        zero(variable, ..., state)
    # The first unit reads none that is not zero. The third one does.
    zero(layer.weights[0], ..., [0, 10, 12])
    zero(layer.weights[2], ..., [0, 10, 12])
    zero(layer.weights[1], [0, 2, 4], 10)

    check(model)

    assert kept(model)["memory"] == 2


@pytest.mark.parametrize("kind", ["gru", "lstm", "simple", "cell", "gru cell"])
def test_units_are_a_coupled_group(kind):
    model = model_of(recurrent(kind))

    groups = check_coupling(model)

    assert {group.name: group.size for group in groups} == {
        "stem": 4,
        "memory": 5,
    }
    bias = int(kind.startswith("gru"))
    assert slots_of(groups[1]) == [
        ("memory", "kernel", 1, False, None),
        ("memory", "bias", bias, False, None),
        ("memory", "recurrent_kernel", 0, True, None),
        ("memory", "recurrent_kernel", 1, False, None),
        ("out", "kernel", 0, True, 1),
    ]
    assert ("memory", "kernel", 0, True, 2) in slots_of(groups[0])


@pytest.mark.parametrize(
    ("merge_mode", "kind"),
    [
        ("ave", "lstm"),
        ("concat", "lstm"),
        ("concat", "cell"),
        ("mul", "lstm"),
        ("sum", "lstm"),
    ],
)
def test_units_of_both_directions(merge_mode, kind):
    layer = layers.Bidirectional(recurrent(kind, 4), merge_mode, name="both")
    model = model_of(layer)

    groups = {group.name: group.size for group in check_coupling(model)}

    assert groups == {"stem": 4, "both/forward_memory": 4}
    check(model)


@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    ("options", "call", "why"),
    [
        ({"return_state": True}, {}, "returns its state"),
        ({"activation": "softmax"}, {}, "may mix units"),
        ({"stateful": True}, {}, "keeps its state between batches"),
        ({}, {"initial_state": 2}, "has an initial state"),
    ],
)
def test_units_whose_state_is_seen_stay(options, call, why):
    inputs = keras.Input((6, 4), batch_size=3)
    layer = layers.LSTM(4, **options, name="memory")
    if call:
        call["initial_state"] = [layers.Dense(4)(inputs[:, 0])] * 2
    x = layer(layers.Dense(4, name="stem")(inputs), **call)
    x = x[0] if isinstance(x, (list, tuple)) else x
    model = randomize(keras.Model(inputs, layers.Dense(2, name="out")(x)))
    zero(model.get_layer("out").kernel, 1)
    zero(layer.cell.recurrent_kernel, 1)

    check(model)

    skipped = keras_gumbel.shrink_report(model).skipped
    assert why in skipped["memory"]
    assert keras_gumbel.shrink(model).get_layer("memory").units == 4


def test_units_of_stacked_cells_stay():
    cells = [layers.LSTMCell(5), layers.GRUCell(4)]
    model = model_of(layers.RNN(cells, name="memory"))
    zero(model.get_layer("out").kernel, 1)

    check(model)

    assert kept(model) == {"stem": 4, "out": 2}
    assert "memory" in keras_gumbel.shrink_report(model).skipped
