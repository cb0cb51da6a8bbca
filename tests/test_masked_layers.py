"""Layers of Keras with masks on their weights, by `sparsify` in place."""

import contextlib
import re

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops
from scipy import special

import keras_gumbel as kg
from keras_gumbel.masks import ConcreteMask
from keras_gumbel.masks import LearnedMask
from keras_gumbel.schedules import LinearAnnealing
from tests.contracts import dtype_policy
from tests.contracts import save_and_load
from tests.contracts import step_counters
from tests.contracts import values_of
from tests.gradients import dtype_of
from tests.gradients import gradient
from tests.gradients import to_numpy
from tests.newer_keras import has_keras

HALF = keras.initializers.Constant(0.5)


def normal(seed, *shape):
    generator = np.random.default_rng(seed)
    return generator.normal(size=shape).astype("float32")


SEQUENCE = normal(0, 2, 3, 4)
MEMORY = normal(1, 2, 5, 4)
FRAMES = normal(2, 2, 2, 3, 3, 2)
# Every token occurs.
TOKENS = np.arange(12, dtype="int32").reshape(3, 4) % 4


def dense():
    return layers.Dense(2, bias_initializer="ones")


def einsum_dense():
    return layers.EinsumDense("abc,cd->abd", (2, 2), bias_axes="d")


def conv_1d():
    return layers.Conv1D(2, 2)


def conv_2d():
    return layers.Conv2D(2, 2, strides=2)


def conv_3d():
    return layers.Conv3D(2, 2)


def conv_1d_transpose():
    return layers.Conv1DTranspose(2, 2)


def conv_2d_transpose():
    return layers.Conv2DTranspose(2, 2)


def conv_3d_transpose():
    return layers.Conv3DTranspose(2, 2)


def depthwise_conv_1d():
    return layers.DepthwiseConv1D(2, depth_multiplier=2)


def depthwise_conv_2d():
    return layers.DepthwiseConv2D(2)


def separable_conv_1d():
    return layers.SeparableConv1D(2, 2)


def separable_conv_2d():
    return layers.SeparableConv2D(2, 2)


def embedding():
    return layers.Embedding(4, 3)


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
            ],
            name="inner",
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


def cell(name, prefix=""):
    return [f"{prefix}{name}_cell/{w}kernel" for w in ("", "recurrent_")]


HEADS = [
    f"{part}/kernel" for part in ("query", "key", "value", "attention_output")
]
SEPARABLE = ["depthwise_kernel", "pointwise_kernel"]

# The inputs, and what reports call the weights that get a mask. Layers that
# compile in no time come first.
SIMPLE = {
    dense: (normal(0, 2, 3), ["kernel"]),
    einsum_dense: (normal(0, 2, 2, 3), ["kernel"]),
    conv_1d: (normal(0, 2, 4, 3), ["kernel"]),
    conv_2d: (normal(0, 2, 4, 4, 3), ["kernel"]),
    conv_3d: (normal(0, 2, 3, 3, 3, 2), ["kernel"]),
    conv_1d_transpose: (normal(0, 2, 3, 3), ["kernel"]),
    conv_2d_transpose: (normal(0, 2, 3, 3, 2), ["kernel"]),
    conv_3d_transpose: (normal(0, 2, 2, 2, 2, 2), ["kernel"]),
    depthwise_conv_1d: (normal(0, 2, 4, 3), ["kernel"]),
    depthwise_conv_2d: (normal(0, 2, 4, 4, 3), ["kernel"]),
    separable_conv_1d: (normal(0, 2, 4, 3), SEPARABLE),
    separable_conv_2d: (normal(0, 2, 4, 4, 3), SEPARABLE),
    embedding: (TOKENS, ["embeddings"]),
}
NESTED = {
    simple_rnn: ([SEQUENCE], cell("simple_rnn")),
    lstm: ([SEQUENCE], cell("lstm")),
    gru: ([SEQUENCE], cell("gru")),
    rnn_of_a_cell: ([SEQUENCE], cell("gru")),
    rnn_of_cells: (
        [SEQUENCE],
        cell("lstm", "stacked_rnn_cells/")
        + cell("simple_rnn", "stacked_rnn_cells/"),
    ),
    conv_lstm: ([FRAMES], cell("conv_lstm")),
    bidirectional: (
        [SEQUENCE],
        cell("lstm", "forward_lstm/") + cell("lstm", "backward_lstm/"),
    ),
    time_distributed: ([SEQUENCE], ["dense/kernel"]),
    time_distributed_model: (
        [SEQUENCE],
        ["inner/low/kernel", "inner/high/kernel"],
    ),
    bidirectional_over_time: (
        [np.stack([SEQUENCE, -SEQUENCE], 1)],
        cell("simple_rnn", "bidirectional/forward_simple_rnn/")
        + cell("simple_rnn", "bidirectional/backward_simple_rnn/"),
    ),
    attention: ([SEQUENCE, MEMORY], HEADS),
    gated_attention: (
        [SEQUENCE, MEMORY, 2 * MEMORY],
        [*HEADS[:2], "gate/kernel", *HEADS[2:]],
    ),
    grouped_attention: ([SEQUENCE, MEMORY], HEADS),
}
KNOWN = {make: ([x], names) for make, (x, names) in SIMPLE.items()} | NESTED

# On JAX, which compiles every operation for every shape, a few stand for all.
FEW = keras.config.backend() == "jax"
FEW_NESTED = [lstm, bidirectional, grouped_attention] if FEW else list(NESTED)
TESTED = [*SIMPLE, *FEW_NESTED]
if not has_keras("3.14") and not FEW:
    TESTED.remove(gated_attention)


def called(layer, *args, **kwargs):
    """Calls a layer, on JAX without compiling its loops."""
    with contextlib.ExitStack() as stack:
        if keras.config.backend() == "jax":
            import jax

            stack.enter_context(jax.disable_jit())
        return layer(*args, **kwargs)


def built(make):
    """Returns a layer with weights at random, without masks."""
    layer = make()
    layer.build(*[x.shape for x in KNOWN[make][0]])
    generator = np.random.default_rng(3)
    for variable in layer.trainable_variables:
        variable.assign(generator.uniform(-1, 1, variable.shape))
    return layer


def with_masks(make, mask="learned", **kwargs):
    """Returns the same layer, with masks that all matter."""
    layer = kg.sparsify(built(make), mask, **kwargs)
    generator = np.random.default_rng(4)
    for mask in masks_of(layer):
        shape = mask.mask_scores.shape
        mask.mask_scores.assign(generator.uniform(0.1, 1, shape))
    return layer


def masks_of(layer):
    """Lists the masks of a layer and of those in it."""
    inside = [layer, *layer._flatten_layers(include_self=False)]
    found = {
        id(mask): mask
        for x in inside
        for mask in getattr(x, "weight_masks", ())
    }
    return list(found.values())


def plain_weights(layer):
    """Lists the weights of a layer that it had before it got masks."""
    added = {id(v) for mask in masks_of(layer) for v in mask.variables}
    return [w for w in layer.weights if id(w) not in added]


def multiplied(make):
    """Returns a layer whose weights are multiplied with the masks by hand.

    And its weights that are, in the order of the masks.
    """
    masked, plain = with_masks(make), built(make)
    places = [id(w) for w in plain_weights(masked)]
    weights = [
        plain.weights[places.index(id(mask.parts[0].weight))]
        for mask in masks_of(masked)
    ]
    for weight, mask in zip(weights, masks_of(masked), strict=True):
        weight.assign(weight * mask.mask_scores)
    return plain, weights


@pytest.mark.parametrize("make", TESTED)
def test_masked_layer_is_called_with_masked_weights(make):
    inputs, names = KNOWN[make]
    layer, (expected, _) = with_masks(make), multiplied(make)

    outputs = to_numpy(called(layer, *inputs))

    rows = kg.sparsity_report(layer).rows
    assert [re.sub(r"_\d+(?=/)", "", row.name) for row in rows] == names
    np.testing.assert_allclose(
        outputs, to_numpy(called(expected, *inputs)), atol=1e-6
    )
    unmasked = to_numpy(called(built(make), *inputs))
    assert np.abs(outputs - unmasked).max() > 0.01


@pytest.mark.one_backend
@pytest.mark.parametrize("make", TESTED)
def test_masked_layer_keeps_class_and_weights(make):
    plain = built(make)
    weights, values = list(plain.weights), values_of(plain.weights)

    layer = kg.sparsify(plain)
    called(layer, *KNOWN[make][0])

    assert layer is plain
    assert isinstance(layer, type(make()))
    assert type(layer).__name__ == type(make()).__name__
    assert [id(w) for w in plain_weights(layer)] == [id(w) for w in weights]
    for old, new in zip(values, values_of(weights), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.one_backend
@pytest.mark.parametrize("make", TESTED)
def test_stripped_layer_has_its_class_and_variables_back(make):
    layer, plain = with_masks(make), built(make)

    kg.strip(kg.harden(layer, density=1.0))

    assert type(layer) is type(plain)
    assert len(layer.weights) == len(plain.weights)
    assert len(layer.variables) == len(plain.variables)
    for one, other in zip(layer.weights, plain.weights, strict=True):
        assert type(one) is type(other)
        np.testing.assert_array_equal(to_numpy(one), to_numpy(other))


def slopes_of(layer, inputs):
    """Differentiates the outputs in each trainable variable, by its id."""
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
def test_masked_layer_has_the_gradient_of_the_product(make):
    inputs, _ = KNOWN[make]
    layer, (product, weights) = with_masks(make), multiplied(make)

    slopes, expected = slopes_of(layer, inputs), slopes_of(product, inputs)

    for mask, weight in zip(masks_of(layer), weights, strict=True):
        slope = expected[id(weight)]
        value, scores = (
            to_numpy(mask.parts[0].weight),
            to_numpy(mask.mask_scores),
        )
        assert np.abs(slope * value).max() > 1e-4
        np.testing.assert_allclose(
            slopes[id(mask.mask_scores)], slope * value, rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(
            slopes[id(mask.parts[0].weight)],
            slope * scores,
            rtol=1e-4,
            atol=1e-5,
        )


@pytest.mark.parametrize(
    "make", [dense, separable_conv_2d, *FEW_NESTED] if FEW else TESTED
)
def test_masked_layer_runs_in_half_precision(make):
    with dtype_policy("mixed_float16"):
        layer = with_masks(make)
        outputs = called(layer, *KNOWN[make][0])

    assert dtype_of(outputs) == "float16"
    assert np.isfinite(to_numpy(outputs)).all()
    assert to_numpy(outputs).any()
    assert {v.dtype for v in layer.trainable_variables} == {"float32"}


def test_masked_layer_follows_the_dtype_of_the_layer_inside():
    inner = layers.Dense(2, dtype="mixed_bfloat16", use_bias=False)
    layer = layers.TimeDistributed(inner)
    layer.build(SEQUENCE.shape)
    expected = to_numpy(layer(SEQUENCE))

    kg.sparsify(layer, LearnedMask(scores_initializer=HALF))

    assert layer.dtype_policy.name == "float32"
    np.testing.assert_array_equal(to_numpy(layer(SEQUENCE)), 0.5 * expected)


@pytest.fixture(scope="module")
def trained():
    """All simple layers in one model, before and after a step of training.

    One model is one compilation.
    """
    keras.utils.set_random_seed(0)
    inputs = [x for x, _ in SIMPLE.values()]
    entrances = [keras.Input(x.shape[1:], dtype=x.dtype) for x in inputs]
    own = [make() for make in SIMPLE]
    exits = [f(x) for f, x in zip(own, entrances, strict=True)]
    model = keras.Model(entrances, exits)
    kg.sparsify(model, ConcreteMask(scores_initializer=HALF), seed=0)
    targets = [
        np.ones((len(x), *y.shape[1:]), "float32")
        for x, y in zip(inputs, exits, strict=True)
    ]
    # No XLA on TensorFlow, where it takes seconds a layer.
    jit = keras.config.backend() == "jax"
    losses = ["mse"] * len(SIMPLE)
    model.compile(keras.optimizers.SGD(0.1), losses, jit_compile=jit)
    before = [values_of(layer.weights) for layer in own]
    model.train_on_batch(inputs, targets)
    return model, inputs, own, before


@pytest.mark.parametrize("make", SIMPLE)
def test_masked_layer_trains_every_variable(trained, make):
    _, _, own, before = trained
    index = list(SIMPLE).index(make)
    layer, old = own[index], before[index]

    new = values_of(layer.weights)

    moves = [b - a for a, b in zip(old, new, strict=True)]
    steps = {id(v) for v in step_counters(layer)}
    for variable, move in zip(layer.weights, moves, strict=True):
        assert np.isfinite(move).all()
        assert move == 1 if id(variable) in steps else move.any()
    assert len(steps) == len(masks_of(layer))


def test_masked_simple_layers_are_saved_and_loaded(trained):
    model, inputs, _, _ = trained

    loaded = save_and_load(model)

    outputs, again = model(inputs), loaded(inputs)
    assert len(outputs) == len(SIMPLE)
    for one, other in zip(outputs, again, strict=True):
        np.testing.assert_array_equal(to_numpy(one), to_numpy(other))


@pytest.mark.one_backend
def test_masked_nested_layers_are_saved_and_loaded():
    makes = [make for make in TESTED if make in NESTED]
    inputs = [x for make in makes for x in NESTED[make][0]]
    entrances = [
        [keras.Input(x.shape[1:]) for x in NESTED[make][0]] for make in makes
    ]
    own = [with_masks(make) for make in makes]
    exits = [f(*x) for f, x in zip(own, entrances, strict=True)]
    model = keras.Model(keras.tree.flatten(entrances), exits)

    loaded = save_and_load(model)

    outputs, again = called(model, inputs), called(loaded, inputs)
    assert len(outputs) == len(makes)
    for one, other, layer in zip(outputs, again, own, strict=True):
        found = loaded.get_layer(layer.name)
        assert len(masks_of(found)) == len(masks_of(layer))
        np.testing.assert_array_equal(to_numpy(one), to_numpy(other))


def test_masked_layer_trains_under_mixed_float16():
    (inputs,), _ = KNOWN[dense]
    with dtype_policy("mixed_float16"):
        model = keras.Sequential([keras.Input((3,)), dense()])
        kg.sparsify(model, ConcreteMask(scores_initializer=HALF), seed=0)
        model.compile(keras.optimizers.SGD(0.1), "mse")
    before = values_of(model.trainable_variables)

    for _ in range(2):
        model.train_on_batch(inputs, np.zeros((2, 2)))

    assert len(before) == 3
    for old, new in zip(
        before, values_of(model.trainable_variables), strict=True
    ):
        assert np.isfinite(new).all()
        assert (new != old).any()


def closed(layer, *shape):
    """Returns the layer with all of its weights masked out."""
    layer.build(shape)
    return kg.sparsify(layer, LearnedMask(scores_initializer="zeros"))


def test_masked_layer_leaves_biases_alone():
    layer = closed(dense(), 2, 3)

    outputs = to_numpy(layer(KNOWN[dense][0][0]))

    assert (outputs == 1.0).all()


def test_masked_layer_regularizes_the_weight_without_the_mask():
    layer = closed(
        layers.Dense(
            2,
            kernel_initializer="ones",
            kernel_regularizer=keras.regularizers.L1(1.0),
        ),
        2,
        3,
    )

    layer(KNOWN[dense][0][0])

    assert [float(to_numpy(loss)) for loss in layer.losses] == [6.0]


class Failing(layers.Dense):
    def call(self, inputs):
        raise RuntimeError("a failure inside")


@pytest.mark.parametrize("compiled", [False, True])
def test_masked_layer_has_its_weight_back_after_an_exception(compiled):
    layer = closed(Failing(2, kernel_initializer="ones"), 2, 3)
    model = keras.Sequential([keras.Input((3,)), layer])
    model.compile("sgd", "mse")
    inputs = KNOWN[dense][0][0]

    with pytest.raises(RuntimeError, match="a failure inside"):
        model.train_on_batch(inputs, inputs) if compiled else layer(inputs)

    assert (to_numpy(layer.kernel) == 1.0).all()
    layer.kernel.assign(2 * layer.kernel)
    assert (to_numpy(layer.kernel) == 2.0).all()


class Scaled(layers.Dense):
    """A Dense layer with call arguments of its own."""

    def call(self, inputs, scale=1.0, shift=None):
        outputs = super().call(inputs) * scale
        return outputs if shift is None else outputs + shift


def test_masked_layer_takes_call_arguments_of_its_own():
    layer = Scaled(2, bias_initializer="ones")
    entrance, shift = keras.Input((3,)), keras.Input((2,))
    layer.build((None, 3))
    kg.sparsify(layer)
    scaled, shifted = layer(entrance, scale=2.0), layer(entrance, shift=shift)
    model = keras.Model([entrance, shift], [scaled, shifted])
    inputs, shift = KNOWN[dense][0][0], np.full((2, 2), 3.0, "float32")

    plain = to_numpy(layer(inputs))

    for found in (
        (layer(inputs, scale=2.0), layer(inputs, shift=shift)),
        model([inputs, shift]),
    ):
        np.testing.assert_allclose(to_numpy(found[0]), 2 * plain, rtol=1e-6)
        np.testing.assert_allclose(to_numpy(found[1]), 3 + plain, rtol=1e-6)


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
KNOWN[sequences] = KNOWN[lstm]


def symbolic_outputs(layer, args, kwargs):
    """Returns what a model of the layer gives for the arrays."""
    arrays = [x for x in keras.tree.flatten((args, kwargs)) if is_array(x)]
    entrances = [keras.Input(x.shape[1:], dtype=x.dtype) for x in arrays]
    left = iter(entrances)
    args, kwargs = keras.tree.map_structure(
        lambda x: next(left) if is_array(x) else x, (args, kwargs)
    )
    model = keras.Model(entrances, layer(*args, **kwargs))
    return called(model, arrays)


def is_array(value):
    return isinstance(value, np.ndarray)


@pytest.mark.parametrize("symbolic", [True] if FEW else [False, True])
@pytest.mark.parametrize("case", CALLS)
def test_masked_layer_is_called_as_without_masks(case, symbolic):
    make, args, kwargs = CALLS[case]
    expected = called(built(make), *args, **kwargs)
    layer = kg.sparsify(built(make))

    if symbolic:
        outputs = symbolic_outputs(layer, args, kwargs)
    else:
        outputs = called(layer, *args, **kwargs)

    found, right = keras.tree.flatten(outputs), keras.tree.flatten(expected)
    assert len(found) == len(right)
    for one, other in zip(found, right, strict=True):
        np.testing.assert_allclose(to_numpy(one), to_numpy(other), atol=1e-6)


@pytest.mark.parametrize("make", [lstm, sequences, bidirectional, attention])
def test_masked_layer_sees_and_passes_keras_masks(make):
    words = np.array([[1, 2, 0, 0], [3, 1, 2, 0]])
    embed = layers.Embedding(4, 4, mask_zero=True)
    count = len(KNOWN[make][0])
    expected = called(built(make), *[embed(words)] * count)
    kg.sparsify(embed)

    outputs = called(kg.sparsify(built(make)), *[embed(words)] * count)

    for one, other in zip(
        keras.tree.flatten(outputs), keras.tree.flatten(expected), strict=True
    ):
        np.testing.assert_allclose(to_numpy(one), to_numpy(other), atol=1e-6)
        masks = [getattr(x, "_keras_mask", None) for x in (one, other)]
        assert (masks[0] is None) == (masks[1] is None)
        if masks[0] is not None:
            np.testing.assert_array_equal(*map(to_numpy, masks))


@pytest.mark.parametrize("mask_zero", [False, True])
def test_masked_embedding_computes_the_keras_mask(mask_zero):
    layer = layers.Embedding(4, 3, mask_zero=mask_zero)
    layer.build((2, 2))
    kg.sparsify(layer)

    mask = layer.compute_mask(np.array([[1, 0], [2, 3]]), None)

    assert layer.supports_masking == mask_zero
    assert (mask is None) == (not mask_zero)
    if mask_zero:
        assert to_numpy(mask).tolist() == [[1.0, 0.0], [1.0, 1.0]]


@pytest.mark.one_backend
@pytest.mark.parametrize("make", [dense, conv_2d, bidirectional, attention])
def test_masked_layer_computes_its_output_shape(make):
    layer, inputs = with_masks(make), KNOWN[make][0]

    shape = layer.compute_output_shape(*[x.shape for x in inputs])

    symbols = [keras.Input(x.shape[1:], dtype=x.dtype) for x in inputs]
    assert tuple(shape) == tuple(called(layer, *inputs).shape)
    assert layer(*symbols).shape == (None, *shape[1:])


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
def test_masked_layer_sees_training(case):
    inputs = [SEQUENCE] * (2 if case == "attention" else 1)
    layer = DROPOUTS[case]()
    layer.build(*[x.shape for x in inputs])
    kg.sparsify(layer)
    plain = to_numpy(called(layer, *inputs))

    training = to_numpy(called(layer, *inputs, training=True))

    assert np.abs(training - plain).max() > 1e-3
    np.testing.assert_array_equal(
        to_numpy(called(layer, *inputs, training=False)), plain
    )


def test_masked_rnn_keeps_its_state():
    layer = layers.GRU(2, stateful=True)
    layer.build(SEQUENCE.shape)
    expected = [to_numpy(called(layer, SEQUENCE)) for _ in range(2)]
    layer.reset_state()
    kg.sparsify(layer)

    outputs = [to_numpy(called(layer, SEQUENCE)) for _ in range(2)]

    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3
    np.testing.assert_allclose(outputs, expected, atol=1e-6)


def test_masked_embedding_takes_numbers_of_words_as_they_are():
    """float16 has no 2049."""
    words = np.array([[2049.0]], "float32")
    with dtype_policy("mixed_float16"):
        layer = layers.Embedding(2050, 4)
        expected = to_numpy(layer(words))

    kg.sparsify(layer)

    np.testing.assert_array_equal(to_numpy(layer(words)), expected)


def test_masked_recurrent_and_attention_layers_train_compiled():
    inputs = keras.Input(SEQUENCE.shape[1:])
    hidden = layers.LSTM(4, return_sequences=True)(inputs)
    model = keras.Model(inputs, layers.MultiHeadAttention(1, 2)(hidden, hidden))
    kg.sparsify(model, LearnedMask(scores_initializer=HALF))
    jit = keras.config.backend() == "jax"
    model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=jit)
    before = values_of(model.trainable_variables)

    model.fit(SEQUENCE, SEQUENCE, epochs=2, verbose=0)

    assert len(before) == 3 + 8 + 2 + 4
    after = values_of(model.trainable_variables)
    for v, old, new in zip(
        model.trainable_variables, before, after, strict=True
    ):
        assert np.isfinite(new).all()
        # Attention does not change with the bias of the keys.
        assert (new != old).any() or v.path.endswith("key/bias")


def ones_kernel(mask=None, seed=0):
    """Returns a layer that hands out its mask for the identity."""
    layer = layers.Dense(3, kernel_initializer="ones", use_bias=False)
    layer.build((None, 3))
    return kg.sparsify(layer, mask or half(), seed=seed)


def half(**kwargs):
    return ConcreteMask(scores_initializer=HALF, **kwargs)


def sample(layer):
    return to_numpy(layer(np.eye(3, dtype="float32"), training=True))


def infer(layer):
    return to_numpy(layer(np.eye(3, dtype="float32"), training=False))


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_masked_layer_divides_by_temperature(temperature):
    reference = sample(ones_kernel(half(temperature=1.0)))

    drawn = sample(ones_kernel(half(temperature=temperature)))

    expected = special.expit(special.logit(reference) / temperature)
    np.testing.assert_allclose(drawn, expected, atol=1e-5)


def test_masked_layer_anneals_with_every_training_call():
    annealed = ones_kernel(half(temperature=LinearAnnealing(1.0, 0.5, steps=2)))
    constant = ones_kernel(half(temperature=1.0))

    for temperature in (1.0, 0.75, 0.5, 0.5):
        infer(annealed)
        drawn, warm = sample(annealed), sample(constant)

        expected = special.expit(special.logit(warm) / temperature)
        np.testing.assert_allclose(drawn, expected, atol=1e-5)


def test_masked_layer_rounds_a_hard_mask():
    relaxed, drawn = sample(ones_kernel()), sample(ones_kernel(half(hard=True)))

    assert set(np.unique(drawn)) == {0.0, 1.0}
    np.testing.assert_array_equal(drawn, relaxed > 0.5)


def test_masked_layer_draws_one_mask_for_the_batch():
    layer = ones_kernel()

    outputs = to_numpy(layer(np.ones((5, 3), "float32"), training=True))

    assert np.unique(outputs, axis=0).shape == (1, 3)


def test_masked_layer_draws_one_mask_for_all_time_steps():
    layer = layers.TimeDistributed(
        layers.Dense(3, kernel_initializer="ones", use_bias=False)
    )
    layer.build((1, 5, 3))
    kg.sparsify(layer, half(), seed=0)

    outputs = to_numpy(layer(np.ones((1, 5, 3), "float32"), training=True))

    assert np.unique(outputs[0], axis=0).shape == (1, 3)
    assert values_of(step_counters(layer)) == [1]


def test_masked_layer_that_is_called_twice_draws_once():
    first, second = keras.Input((3,)), keras.Input((3,))
    shared = layers.Dense(3, kernel_initializer="ones", use_bias=False)
    model = keras.Model([first, second], [shared(first), shared(second)])
    kg.sparsify(model, half(), seed=0)
    inputs = [np.ones((2, 3), "float32")] * 2

    one, other = (to_numpy(y) for y in model(inputs, training=True))

    np.testing.assert_array_equal(one, other)
    assert (one != 3 * 0.5).all()
    assert values_of(step_counters(model)) == [1]
    later, _ = (to_numpy(y) for y in model(inputs, training=True))
    assert (later != one).any()


def test_masked_layer_infers_mean_mode_or_sample():
    mean = infer(ones_kernel())
    mode = infer(ones_kernel(half(inference="mode")))
    drawn = infer(ones_kernel(half(inference="sample")))

    np.testing.assert_array_equal(mean, np.full((3, 3), 0.5))
    np.testing.assert_array_equal(mode, np.zeros((3, 3)))
    np.testing.assert_array_equal(drawn, sample(ones_kernel()))


def test_masked_layers_without_seed_differ():
    one, other = (sample(ones_kernel(seed=None)) for _ in range(2))

    assert (one != other).any()


def test_masks_of_one_layer_have_seeds_of_their_own():
    layer, again = (
        with_masks(separable_conv_1d, "concrete", seed=0) for _ in range(2)
    )

    one, other = (m.seed for m in masks_of(layer))

    assert one != other
    assert [m.seed for m in masks_of(again)] == [one, other]


@keras.saving.register_keras_serializable(package="tests")
class Cell(layers.Layer):
    state_size = 2

    def build(self, input_shape):
        self.mixer = self.add_weight(shape=(input_shape[-1], 2), name="mixer")

    def call(self, inputs, states):
        output = ops.matmul(inputs, self.mixer) + states[0]
        return output, [output]


def test_masked_layer_of_a_user_is_called_with_masked_weights():
    layer = layers.RNN(Cell())
    layer.build(SEQUENCE.shape)
    expected = to_numpy(called(layer, SEQUENCE))

    kg.sparsify(layer, LearnedMask(scores_initializer=HALF))

    outputs = to_numpy(called(layer, SEQUENCE))
    np.testing.assert_allclose(outputs, 0.5 * expected, rtol=1e-5)


class Writing(layers.Dense):
    """Assigns to its weight while it is called."""

    def call(self, inputs):
        self.kernel.assign(0.9 * self.kernel)
        return super().call(inputs)


def test_masked_layer_must_not_write_to_its_weight():
    layer = Writing(2)
    layer.build((None, 3))
    kg.sparsify(layer)

    with pytest.raises(ValueError, match=r"assigns to its weight.*`filters`"):
        layer(np.ones((1, 3), "float32"))


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: layers.SpectralNormalization(layers.Dense(2)), "writes to it"),
        (layers.LayerNormalization, "left out: nothing"),
        (layers.PReLU, "left out: nothing"),
        (layers.ReLU, "left out: nothing"),
        (ConcreteMask, "left out: nothing"),
    ],
)
def test_layer_without_weight_to_mask_is_rejected(make, reason):
    layer = make()
    layer.build(SEQUENCE.shape)

    with pytest.raises(ValueError, match=rf"no weight to mask.*{reason}"):
        kg.sparsify(layer)


@pytest.mark.one_backend
def test_masked_layer_is_masked_once():
    layer = with_masks(dense)

    with pytest.raises(ValueError, match="that has no mask yet"):
        kg.sparsify(layer)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "change", [lambda x: x.quantize("int8"), lambda x: x.enable_lora(1)]
)
def test_masked_layer_must_be_stripped_before_it_is_changed(change):
    layer = with_masks(dense)

    with pytest.raises(ValueError, match=r"`keras_gumbel.strip`"):
        change(layer)

    change(kg.strip(kg.harden(layer, density=1.0)))


@pytest.mark.one_backend
def test_masks_of_loaded_models_are_not_one_object():
    mask = ConcreteMask()

    with keras.src.saving.serialization_lib.ObjectSharingScope():
        own = [with_masks(lstm, mask) for _ in range(2)]

    found = [mask for layer in own for mask in masks_of(layer)]
    assert len({id(mask) for mask in found}) == 4
