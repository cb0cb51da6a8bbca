"""Layers whose kernels are in the layers inside of them."""

import contextlib
import re

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops
from keras.src.saving import serialization_lib

from keras_gumbel.layers import ConcreteMask
from keras_gumbel.layers import Sparsified
from tests.contracts import dtype_policy
from tests.contracts import save_and_load
from tests.contracts import values_of
from tests.gradients import gradient
from tests.gradients import to_numpy
from tests.newer_keras import has_keras

SEQUENCE = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
MEMORY = np.random.default_rng(1).normal(size=(2, 5, 4)).astype("float32")
FRAMES = np.random.default_rng(2).normal(size=(2, 2, 3, 3, 2))


def simple_rnn():
    return layers.SimpleRNN(2)


def lstm():
    return layers.LSTM(2)


def gru():
    return layers.GRU(2)


def rnn_of_a_cell():
    return layers.RNN(layers.GRUCell(2, reset_after=False))


def rnn_of_cells():
    return layers.RNN([layers.LSTMCell(3), layers.SimpleRNNCell(2)])


def conv_lstm():
    return layers.ConvLSTM2D(1, 2)


def bidirectional():
    return layers.Bidirectional(layers.LSTM(2, return_sequences=True))


def time_distributed():
    return layers.TimeDistributed(layers.Dense(2))


def time_distributed_model():
    return layers.TimeDistributed(
        keras.Sequential(
            [
                layers.Dense(3, activation="tanh", name="low"),
                layers.LayerNormalization(),
                layers.Dense(2, name="high"),
            ]
        )
    )


def bidirectional_over_time():
    return layers.TimeDistributed(layers.Bidirectional(layers.SimpleRNN(2)))


def attention():
    return layers.MultiHeadAttention(2, 3)


def gated_attention():
    return layers.MultiHeadAttention(2, 3, use_gate=True)


def grouped_attention():
    return layers.GroupQueryAttention(3, 4, 2)


# The inputs, and the kernels: their names, and where plain Keras has them.
KNOWN = {
    simple_rnn: (
        (SEQUENCE,),
        {
            "kernel": "simple_rnn_cell/kernel",
            "recurrent_kernel": "simple_rnn_cell/recurrent_kernel",
        },
    ),
    lstm: (
        (SEQUENCE,),
        {
            "kernel": "lstm_cell/kernel",
            "recurrent_kernel": "lstm_cell/recurrent_kernel",
        },
    ),
    gru: (
        (SEQUENCE,),
        {
            "kernel": "gru_cell/kernel",
            "recurrent_kernel": "gru_cell/recurrent_kernel",
        },
    ),
    rnn_of_a_cell: (
        (SEQUENCE,),
        {
            "kernel": "gru_cell/kernel",
            "recurrent_kernel": "gru_cell/recurrent_kernel",
        },
    ),
    rnn_of_cells: (
        (SEQUENCE,),
        {
            "cell_0/kernel": "lstm_cell/kernel",
            "cell_0/recurrent_kernel": "lstm_cell/recurrent_kernel",
            "cell_1/kernel": "simple_rnn_cell/kernel",
            "cell_1/recurrent_kernel": "simple_rnn_cell/recurrent_kernel",
        },
    ),
    conv_lstm: (
        (FRAMES.astype("float32"),),
        {
            "kernel": "conv_lstm_cell/kernel",
            "recurrent_kernel": "conv_lstm_cell/recurrent_kernel",
        },
    ),
    bidirectional: (
        (SEQUENCE,),
        {
            "forward/kernel": "forward_lstm/lstm_cell/kernel",
            "forward/recurrent_kernel": (
                "forward_lstm/lstm_cell/recurrent_kernel"
            ),
            "backward/kernel": "backward_lstm/lstm_cell/kernel",
            "backward/recurrent_kernel": (
                "backward_lstm/lstm_cell/recurrent_kernel"
            ),
        },
    ),
    time_distributed: ((SEQUENCE,), {"kernel": "dense/kernel"}),
    time_distributed_model: (
        (SEQUENCE,),
        {"low/kernel": "low/kernel", "high/kernel": "high/kernel"},
    ),
    bidirectional_over_time: (
        (np.stack([SEQUENCE, -SEQUENCE], 1),),
        {
            "forward/kernel": "forward_simple_rnn/simple_rnn_cell/kernel",
            "forward/recurrent_kernel": (
                "forward_simple_rnn/simple_rnn_cell/recurrent_kernel"
            ),
            "backward/kernel": "backward_simple_rnn/simple_rnn_cell/kernel",
            "backward/recurrent_kernel": (
                "backward_simple_rnn/simple_rnn_cell/recurrent_kernel"
            ),
        },
    ),
    attention: (
        (SEQUENCE, MEMORY),
        {
            "query/kernel": "query/kernel",
            "key/kernel": "key/kernel",
            "value/kernel": "value/kernel",
            "attention_output/kernel": "attention_output/kernel",
        },
    ),
    gated_attention: (
        (SEQUENCE, MEMORY, 2 * MEMORY),
        {
            "query/kernel": "query/kernel",
            "key/kernel": "key/kernel",
            "value/kernel": "value/kernel",
            "gate/kernel": "gate/kernel",
            "attention_output/kernel": "attention_output/kernel",
        },
    ),
    grouped_attention: (
        (SEQUENCE, MEMORY),
        {
            "query/kernel": "query/kernel",
            "key/kernel": "key/kernel",
            "value/kernel": "value/kernel",
            "attention_output/kernel": "attention_output/kernel",
        },
    ),
}

# On JAX, which compiles every operation for every shape, a few stand for all.
FEW = keras.config.backend() == "jax"
TESTED = [lstm, bidirectional, grouped_attention] if FEW else list(KNOWN)
if not has_keras("3.14") and not FEW:
    TESTED.remove(gated_attention)


def called(layer, *args, **kwargs):
    """Calls a layer, on JAX without compiling its loops."""
    with contextlib.ExitStack() as stack:
        if keras.config.backend() == "jax":
            import jax

            stack.enter_context(jax.disable_jit())
        return layer(*args, **kwargs)


def shapes_of(make):
    if make in KNOWN:
        return [x.shape for x in KNOWN[make][0]]
    return [SEQUENCE.shape]


def built(make, **kwargs):
    """Returns the wrapper, with masks and biases that all matter."""
    layer = Sparsified(make(), **kwargs)
    layer.build(*shapes_of(make))
    generator = np.random.default_rng(3)
    for variable in layer.layer.trainable_variables:
        variable.assign(generator.uniform(-1, 1, variable.shape))
    for mask in layer.masks:
        shape = mask.mask_scores.shape
        mask.mask_scores.assign(generator.uniform(0.1, 1, shape))
    return layer


def unnumbered(variable):
    """Returns the path without what Keras counts up."""
    return re.sub(r"_[0-9]+(?=/)", "", "/" + variable.path)


def plain_of(make, layer):
    """Returns the layer without masks, and its kernels by their names."""
    _, places = KNOWN[make]
    plain = make()
    plain.build(*shapes_of(make))
    plain.set_weights(layer.layer.get_weights())
    found = {
        name: [v for v in plain.weights if unnumbered(v).endswith("/" + place)]
        for name, place in places.items()
    }
    return plain, {name: kernel for name, (kernel,) in found.items()}


def scores_of(layer):
    return [to_numpy(ops.convert_to_tensor(m.mask_scores)) for m in layer.masks]


@pytest.mark.parametrize("make", TESTED)
def test_sparsified_calls_layer_with_masked_kernels(make):
    inputs, places = KNOWN[make]
    layer = built(make)
    plain, kernels = plain_of(make, layer)
    before = to_numpy(called(plain, *inputs))

    outputs = to_numpy(called(layer, *inputs))

    assert layer.kernel_names == list(places)
    for name, mask in zip(layer.kernel_names, layer.masks, strict=True):
        assert mask.name == name.replace("/", "_") + "_mask"
        kernels[name].assign(kernels[name] * mask.mask_scores)
    np.testing.assert_allclose(
        outputs, to_numpy(called(plain, *inputs)), atol=1e-6
    )
    assert np.abs(outputs - before).max() > 0.01


@pytest.mark.parametrize("make", TESTED)
def test_sparsified_puts_the_variables_back(make):
    layer = built(make)
    kernels = list(layer.kernels)
    before = values_of(layer.layer.weights)

    called(layer, *KNOWN[make][0])

    assert all(isinstance(kernel, keras.Variable) for kernel in kernels)
    assert [id(k) for k in layer.kernels] == [id(k) for k in kernels]
    assert {id(k) for k in kernels} <= {id(v) for v in layer.layer.weights}
    for old, new in zip(before, values_of(layer.layer.weights), strict=True):
        np.testing.assert_array_equal(old, new)


def slopes_of(layer, inputs):
    """Differentiates the outputs in each trainable variable, by its path."""
    variables = layer.trainable_variables
    point = [v.astype("float32") for v in values_of(variables)]
    state = [ops.convert_to_tensor(v) for v in layer.non_trainable_variables]
    tensors = [ops.convert_to_tensor(x) for x in inputs]

    def energy(*values):
        outputs, _ = called(layer.stateless_call, values, state, *tensors)
        return ops.sum(ops.square(outputs))

    slopes = gradient(energy, *point)
    return {id(v): s for v, s in zip(variables, slopes, strict=True)}


@pytest.mark.parametrize("make", TESTED)
def test_sparsified_has_the_gradient_of_the_product(make):
    inputs, _ = KNOWN[make]
    layer = built(make)
    plain, kernels = plain_of(make, layer)
    scores, unmasked = scores_of(layer), values_of(layer.kernels)

    slopes = slopes_of(layer, inputs)

    for name, mask in zip(layer.kernel_names, layer.masks, strict=True):
        kernels[name].assign(kernels[name] * mask.mask_scores)
    slopes_of_product = slopes_of(plain, inputs)
    for i, name in enumerate(layer.kernel_names):
        expected = slopes_of_product[id(kernels[name])]
        assert np.abs(expected * unmasked[i]).max() > 1e-4
        np.testing.assert_allclose(
            slopes[id(layer.masks[i].mask_scores)],
            expected * unmasked[i],
            atol=1e-5,
        )
        np.testing.assert_allclose(
            slopes[id(layer.kernels[i])], expected * scores[i], atol=1e-5
        )


@pytest.mark.parametrize("make", TESTED)
def test_sparsified_runs_in_half_precision(make):
    with dtype_policy("mixed_float16"):
        layer = built(make)
        outputs = called(layer, *KNOWN[make][0])

    assert keras.backend.standardize_dtype(outputs.dtype) == "float16"
    assert np.isfinite(to_numpy(outputs)).all()
    assert {v.dtype for v in layer.trainable_variables} == {"float32"}


def test_sparsified_masks_have_the_dtype_of_their_part():
    inner = layers.Dense(2, dtype="mixed_bfloat16")

    layer = Sparsified(layers.TimeDistributed(inner))

    assert layer.dtype_policy.name == "float32"
    assert layer.masks[0].dtype_policy.name == "mixed_bfloat16"


def entrances_of(make):
    return [keras.Input(x.shape[1:]) for x in KNOWN[make][0]]


def test_sparsified_layers_are_saved_and_loaded():
    entrances = [entrances_of(make) for make in TESTED]
    sparsified = [built(make) for make in TESTED]
    exits = [f(*x) for f, x in zip(sparsified, entrances, strict=True)]
    model = keras.Model(keras.tree.flatten(entrances), exits)
    inputs = [x for make in TESTED for x in KNOWN[make][0]]

    loaded = save_and_load(model)

    outputs, again = called(model, inputs), called(loaded, inputs)
    assert len(outputs) == len(TESTED)
    for one, other, layer in zip(outputs, again, sparsified, strict=True):
        assert loaded.get_layer(layer.name).kernel_names == layer.kernel_names
        np.testing.assert_array_equal(to_numpy(one), to_numpy(other))


@pytest.mark.parametrize("make", [attention, grouped_attention])
def test_sparsified_attention_is_built_by_its_shapes(make):
    query, value = (tuple(x.shape) for x in KNOWN[make][0])
    layer = Sparsified(make())

    layer.build(query, value)

    assert layer.built
    assert layer.get_build_config() == {
        "shapes_dict": {"query_shape": query, "value_shape": value}
    }
    layer(*KNOWN[make][0])


def sequences():
    return layers.LSTM(2, return_sequences=True, return_state=True)


STATE = [np.full((2, 2), value, "float32") for value in (0.5, -0.5)]
TIMES = np.array([[True, True, False], [True, False, False]])
PAIRS = np.random.default_rng(4).uniform(size=(2, 3, 5)) > 0.3

CALLS = {
    "return_state": (sequences, (SEQUENCE,), {}),
    "initial_state": (sequences, (SEQUENCE,), {"initial_state": STATE}),
    "positional_state": (sequences, (SEQUENCE, STATE), {}),
    "mask": (sequences, (SEQUENCE,), {"mask": TIMES}),
    "named": (attention, (), {"query": SEQUENCE, "value": MEMORY}),
    "key": (attention, (SEQUENCE, MEMORY), {"key": 2 * MEMORY}),
    "scores": (
        attention,
        (SEQUENCE,),
        {"value": MEMORY, "return_attention_scores": True},
    ),
    "attention_mask": (
        attention,
        (SEQUENCE, MEMORY),
        {"attention_mask": PAIRS, "use_causal_mask": True},
    ),
    "causal": (
        grouped_attention,
        (SEQUENCE, SEQUENCE),
        {"use_causal_mask": True},
    ),
}


def is_array(value):
    return isinstance(value, np.ndarray)


@pytest.mark.parametrize("symbolic", [True] if FEW else [False, True])
@pytest.mark.parametrize("case", CALLS)
def test_sparsified_is_called_as_the_layer_is(case, symbolic):
    make, args, kwargs = CALLS[case]
    plain = make()
    layer = Sparsified(plain)
    layer.build(*shapes_of(make))
    expected = called(plain, *args, **kwargs)

    if symbolic:
        arrays = [x for x in keras.tree.flatten((args, kwargs)) if is_array(x)]
        entrances = iter(
            [keras.Input(x.shape[1:], dtype=x.dtype) for x in arrays]
        )
        symbols = keras.tree.map_structure(
            lambda x: next(entrances) if is_array(x) else x, (args, kwargs)
        )
        exits = layer(*symbols[0], **symbols[1])
        inputs = keras.tree.flatten(symbols)
        model = keras.Model(
            [x for x in inputs if isinstance(x, keras.KerasTensor)], exits
        )
        outputs = called(model, arrays)
    else:
        outputs = called(layer, *args, **kwargs)

    assert len(keras.tree.flatten(outputs)) == len(keras.tree.flatten(expected))
    for one, other in zip(
        keras.tree.flatten(outputs), keras.tree.flatten(expected), strict=True
    ):
        np.testing.assert_allclose(to_numpy(one), to_numpy(other), atol=1e-6)


@pytest.mark.parametrize("make", [lstm, sequences, bidirectional, attention])
def test_sparsified_sees_and_passes_masks_as_the_layer_does(make):
    words = np.array([[1, 2, 0, 0], [3, 1, 2, 0]])
    embedding = layers.Embedding(4, 4, mask_zero=True)
    plain = make()
    layer = Sparsified(plain)
    layer.build(*shapes_of(make))
    count = len(shapes_of(make))

    expected = called(plain, *[embedding(words)] * count)
    outputs = called(layer, *[embedding(words)] * count)

    for one, other in zip(
        keras.tree.flatten(outputs), keras.tree.flatten(expected), strict=True
    ):
        np.testing.assert_allclose(to_numpy(one), to_numpy(other), atol=1e-6)
        masks = [keras.src.backend.get_keras_mask(x) for x in (one, other)]
        assert (masks[0] is None) == (masks[1] is None)
        if masks[0] is not None:
            np.testing.assert_array_equal(*map(to_numpy, masks))


DROPOUTS = {
    "lstm": lambda: layers.LSTM(2, dropout=0.5, seed=0),
    "recurrent": lambda: layers.GRU(2, recurrent_dropout=0.5, seed=0),
    "bidirectional": lambda: layers.Bidirectional(
        layers.SimpleRNN(2, dropout=0.5, seed=0)
    ),
    "time_distributed": lambda: layers.TimeDistributed(
        keras.Sequential([layers.Dropout(0.5, seed=0), layers.Dense(2)])
    ),
    "attention": lambda: layers.MultiHeadAttention(2, 3, dropout=0.5, seed=0),
}


@pytest.mark.parametrize("case", DROPOUTS)
def test_sparsified_layer_sees_training(case):
    inputs = [SEQUENCE] * (2 if case == "attention" else 1)
    layer = Sparsified(DROPOUTS[case](), fixed=True)
    layer.build(*[x.shape for x in inputs])
    plain = to_numpy(called(layer, *inputs))

    training = to_numpy(called(layer, *inputs, training=True))

    assert np.abs(training - plain).max() > 1e-3
    np.testing.assert_array_equal(
        to_numpy(called(layer, *inputs, training=False)), plain
    )


def test_sparsified_rnn_keeps_its_state():
    plain = layers.GRU(2, stateful=True)
    layer = Sparsified(plain, fixed=True)
    layer.build(SEQUENCE.shape)
    first, second = (to_numpy(called(layer, SEQUENCE)) for _ in range(2))

    plain.reset_state()

    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_allclose(
        to_numpy(called(plain, SEQUENCE)), first, atol=1e-6
    )
    np.testing.assert_allclose(
        to_numpy(called(plain, SEQUENCE)), second, atol=1e-6
    )


def test_sparsified_embedding_takes_numbers_of_words_as_they_are():
    """float16 has no 2049."""
    with dtype_policy("mixed_float16"):
        plain = layers.Embedding(2050, 4)
        layer = Sparsified(plain)
    words = np.array([[2049.0]], "float32")

    np.testing.assert_array_equal(
        to_numpy(layer(words)), to_numpy(plain(words))
    )


def test_sparsified_trains_recurrent_and_attention_layers_compiled():
    inputs = keras.Input(SEQUENCE.shape[1:])
    rnn = Sparsified(layers.LSTM(4, return_sequences=True))
    attend = Sparsified(layers.MultiHeadAttention(1, 2))
    hidden = rnn(inputs)
    model = keras.Model(inputs, attend(hidden, hidden))
    half = keras.initializers.Constant(0.5)
    for mask in rnn.masks + attend.masks:
        mask.mask_scores.assign(half(mask.mask_scores.shape))
    model.compile(
        keras.optimizers.SGD(1.0),
        "mse",
        jit_compile=keras.config.backend() == "jax",
    )
    before = values_of(model.trainable_variables)

    model.fit(SEQUENCE, SEQUENCE, epochs=2, verbose=0)

    assert len(before) == 3 + 8 + 2 + 4
    for variable, old, new in zip(
        model.trainable_variables,
        before,
        values_of(model.trainable_variables),
        strict=True,
    ):
        assert np.isfinite(new).all()
        # Attention does not change with the bias of the keys.
        assert (new != old).any() or variable.path.endswith("key/bias")
    assert all(isinstance(k, keras.Variable) for k in rnn.kernels)


class Cell(layers.Layer):
    state_size = 2

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], 2))

    def call(self, inputs, states):
        output = ops.matmul(inputs, self.kernel) + states[0]
        return output, [output]


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.RNN(Cell()),
        lambda: layers.TimeDistributed(layers.LayerNormalization()),
        lambda: layers.TimeDistributed(Sparsified(layers.Dense(2))),
        lambda: layers.SpectralNormalization(layers.Dense(2)),
        lambda: layers.Attention(),
        lambda: ConcreteMask(),
        lambda: keras.Sequential([layers.Dense(2)]),
    ],
)
def test_sparsified_rejects_layer_without_known_kernel(make):
    with pytest.raises(ValueError, match=r"`layer`.*kernel that is known"):
        Sparsified(make())


def test_sparsified_masks_are_not_one_object_while_a_model_is_loaded():
    mask = ConcreteMask()

    with serialization_lib.ObjectSharingScope():
        wrapped = [Sparsified(layers.LSTM(2), mask) for _ in range(2)]

    masks = [mask for layer in wrapped for mask in layer.masks]
    assert len({id(mask) for mask in masks}) == 4
