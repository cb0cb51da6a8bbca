import re

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gumbel as kg
from keras_gumbel._moments import Moments
from keras_gumbel._moments import moments_of
from keras_gumbel.sparsity._layer_inputs import input_axes
from keras_gumbel.sparsity._layer_inputs import input_rows
from tests.gradients import to_numpy

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 6)).astype("float32")
IMAGES = RNG.normal(size=(5, 9, 8, 3)).astype("float32")
SEQUENCES = RNG.normal(size=(5, 7, 6)).astype("float32")
VOLUMES = RNG.normal(size=(3, 5, 4, 4, 2)).astype("float32")


class OwnDense(layers.Dense):
    """A layer of the user's, known by its class."""


# Layers with what they are called on.
LAYERS = {
    "dense": (layers.Dense(4), X),
    "dense of sequences": (OwnDense(4), SEQUENCES),
    "einsum into two axes": (
        layers.EinsumDense("abc,cde->abde", (None, 2, 3)),
        SEQUENCES,
    ),
    "einsum over two axes": (
        layers.EinsumDense("abcd,cde->abe", (None, 4)),
        IMAGES,
    ),
    "einsum out of order": (
        layers.EinsumDense("abcd,edc->abe", (None, 4)),
        IMAGES,
    ),
    "einsum of sums": (layers.EinsumDense("abc,cd->ad", (4,)), SEQUENCES),
    "einsum with dots": (
        layers.EinsumDense("...x,xy->...y", (7, 4)),
        SEQUENCES,
    ),
    "conv1d": (layers.Conv1D(4, 3, strides=2, padding="same"), SEQUENCES),
    "causal": (
        layers.Conv1D(4, 3, padding="causal", dilation_rate=2),
        SEQUENCES,
    ),
    "conv2d": (layers.Conv2D(4, (2, 3)), IMAGES),
    "strided": (layers.Conv2D(4, 3, strides=(2, 3), padding="same"), IMAGES),
    "dilated": (layers.Conv2D(4, 3, dilation_rate=2, padding="same"), IMAGES),
    "channels first": (
        layers.Conv2D(4, (3, 2), data_format="channels_first"),
        IMAGES,
    ),
    "conv3d": (layers.Conv3D(4, (2, 1, 3), padding="same"), VOLUMES),
}


def fresh(name):
    """Returns a model of one layer, without bias, and what it is called on."""
    layer, x = LAYERS[name]
    if name == "channels first" and keras.config.backend() == "tensorflow":
        pytest.skip("TensorFlow convolves on CPUs with the channels last")
    config = {**layer.get_config(), "name": None}
    config |= {"bias_axes": None} if "equation" in config else {}
    config |= {} if "equation" in config else {"use_bias": False}
    return keras.Sequential(
        [keras.Input(x.shape[1:]), type(layer).from_config(config)]
    ), x


def moments(layer):
    return moments_of(layer.kernel)


def second_moment(rows):
    rows = rows.reshape(-1, rows.shape[-1]).astype("float64")
    return rows.T @ rows


def assert_moments(layer, rows):
    found = moments(layer)
    assert found.count == rows.reshape(-1, rows.shape[-1]).shape[0]
    np.testing.assert_allclose(
        found.blocks[0], second_moment(rows), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_are_rows_times_matrix(name):
    model, x = fresh(name)
    (layer,) = model.layers
    kg.calibrate(model, x, verbose=0)

    rows = to_numpy(input_rows(layer, ops.convert_to_tensor(x)))
    matrix = moments(layer).as_matrix(to_numpy(layer.kernel))

    outputs = to_numpy(model(x))
    if name == "channels first":
        outputs = np.moveaxis(outputs, 1, -1)
    np.testing.assert_allclose(
        (rows @ matrix).ravel(), outputs.ravel(), rtol=1e-4, atol=1e-5
    )
    assert_moments(layer, rows)


@pytest.mark.one_backend
@pytest.mark.parametrize("name", LAYERS)
def test_a_matrix_becomes_the_weight_again(name):
    model, x = fresh(name)
    kg.calibrate(model, x, verbose=0)
    kernel = to_numpy(model.layers[0].kernel)
    found = moments(model.layers[0])

    again = found.from_matrix(found.as_matrix(kernel), kernel.shape)

    np.testing.assert_array_equal(again, kernel)


@pytest.mark.parametrize("batch_size", [None, 1, 7])
def test_moments_are_those_of_all_examples(batch_size):
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(5, "tanh"), layers.Dense(2)]
    )

    kg.calibrate(model, X, batch_size=batch_size, verbose=0)

    assert_moments(model.layers[0], X)
    assert_moments(model.layers[1], to_numpy(model.layers[0](X)))


@pytest.mark.one_backend
def test_steps_are_those_of_predict():
    model, _ = fresh("dense")

    kg.calibrate(model, X, batch_size=4, steps=2, verbose=0)

    assert_moments(model.layers[0], X[:8])


@pytest.mark.one_backend
def test_a_generator_is_data():
    model, _ = fresh("dense")

    batches = ((X[i : i + 5],) for i in (0, 5))
    kg.calibrate(model, batches, steps=2, verbose=0)

    assert_moments(model.layers[0], X[:10])


def test_calls_of_a_layer_add_up():
    first, second = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    shared = layers.Dense(3)
    outputs = layers.Add()([shared(first), shared(second)])
    model = keras.Model({"a": first, "b": second}, outputs)

    kg.calibrate(model, {"a": X, "b": 2 * X}, verbose=0)

    assert_moments(shared, np.concatenate([X, 2 * X]))


def test_layers_that_share_a_kernel_add_up():
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(6), layers.Dense(6)]
    )
    vars(model.layers[1])["_kernel"] = model.layers[0]._kernel

    kg.calibrate(model, X, verbose=0)

    hidden = to_numpy(model.layers[0](X))
    assert_moments(model.layers[0], np.concatenate([X, hidden]))


class Encoder(keras.Model):
    """A subclassed model, with a layer that holds layers."""

    def __init__(self):
        super().__init__()
        self.attention = layers.MultiHeadAttention(2, 3)
        self.each = layers.TimeDistributed(layers.Dense(4))
        self.dropout = layers.Dropout(0.5)

    def call(self, inputs, training=None):
        x = self.attention(inputs, inputs, training=training)
        return self.each(self.dropout(x, training=training))


@pytest.mark.one_backend
def test_projections_inside_of_layers_are_observed():
    model = Encoder()
    model(SEQUENCES)

    kg.calibrate(model, SEQUENCES, verbose=0)

    attention = model.attention
    for name in ("query", "key", "value"):
        assert_moments(getattr(attention, f"_{name}_dense"), SEQUENCES)
    output = moments(attention._output_dense)
    assert (output.axes, output.count, len(output.blocks[0])) == ((0, 1), 35, 6)
    inside = attention(SEQUENCES, SEQUENCES)
    assert_moments(model.each.layer, to_numpy(inside))


@pytest.mark.one_backend
def test_what_is_not_a_product_with_one_matrix_has_no_moments():
    tokens = keras.Input((7,), dtype="int32")
    x = layers.Embedding(5, 6)(tokens)
    x = layers.Conv1D(6, 3, groups=2, padding="same")(x)
    x = layers.DepthwiseConv1D(3)(x)
    x = layers.EinsumDense("abc,bcd->abd", (5, 6))(x)
    x = layers.LSTM(4)(x)
    model = keras.Model(tokens, layers.Dense(2)(x))
    sparse = np.ones((3, 7), "int32")

    kg.calibrate(model, sparse, verbose=0)

    with_moments = [w.path for w in model.weights if moments_of(w)]
    assert with_moments == [model.layers[-1].kernel.path]
    with pytest.warns(UserWarning, match=r"embedding/embed.* \(not a layer"):
        kg.sparsify(model, "wanda")


def padded_model(*after):
    """A model of tokens, in which 0 is padding."""
    tokens = keras.Input((7,), dtype="int32")
    x = layers.Embedding(5, 6, mask_zero=True)(tokens)
    for layer in after:
        x = layer(x)
    return keras.Model(tokens, x)


# Layers that drop the mask say so.
NO_MASKING = "ignore:.*does not support masking"
TOKENS = np.array([[1, 2, 3, 4, 0, 0, 0], [1, 1, 2, 3, 4, 4, 0]], "int32")


@pytest.mark.filterwarnings(NO_MASKING)
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_padded_steps_do_not_count(policy):
    keras.config.set_dtype_policy(policy)
    first, second = layers.Dense(6), layers.EinsumDense("abc,cd->abd", (7, 4))
    model = padded_model(first, layers.Dropout(0.5), second)

    kg.calibrate(model, TOKENS, verbose=0)

    embedded = to_numpy(ops.cast(model.layers[1](TOKENS), "float32"))
    assert moments(first).count == moments(second).count == 10
    np.testing.assert_allclose(
        moments(first).blocks[0],
        second_moment(embedded[TOKENS > 0]),
        rtol=1e-3,
    )


@pytest.mark.filterwarnings(NO_MASKING)
def test_windows_of_padding_alone_do_not_count():
    layer = layers.Conv1D(4, 3)
    model = padded_model(layer)

    kg.calibrate(model, TOKENS, verbose=0)

    embedded = to_numpy(model.layers[1](TOKENS))
    windows = np.stack([embedded[:, i : i + 3] for i in range(5)], axis=1)
    used = np.stack([[True] * 4 + [False], [True] * 5])
    assert_moments(layer, windows[used].reshape(9, 18))


class Twice(layers.Layer):
    """Passes the mask on as it is, although its outputs are longer."""

    def __init__(self):
        super().__init__()
        self.supports_masking = True

    def call(self, inputs):
        return ops.concatenate([inputs, inputs], axis=1)


@pytest.mark.one_backend
def test_masks_of_other_lengths_are_not_used():
    layer = layers.Dense(2)
    model = padded_model(Twice(), layer)

    kg.calibrate(model, TOKENS, verbose=0)

    assert moments(layer).count == 28


class OwnCell(layers.SimpleRNNCell):
    """A recurrent cell with a layer inside."""

    def build(self, input_shape):
        super().build(input_shape)
        self.inner = layers.Dense(6)
        self.inner.build(input_shape)

    def call(self, sequence, states, training=False):
        return super().call(self.inner(sequence), states, training)


class Unused(layers.Layer):
    """A layer with a layer that it does not call."""

    def build(self, input_shape):
        self.spare = layers.Dense(4, name="spare")
        self.spare.build(input_shape)

    def call(self, inputs):
        return inputs


@pytest.mark.one_backend
def test_what_calibrate_has_not_seen_is_said_to_be():
    model = keras.Sequential(
        [
            keras.Input((7, 6)),
            layers.RNN(OwnCell(6)),
            Unused(),
            layers.Dense(2, name="seen"),
        ]
    )
    with pytest.raises(ValueError, match="`keras_gumbel.calibrate` first"):
        kg.sparsify(model, "wanda")
    kg.calibrate(model, SEQUENCES, verbose=0)

    with pytest.warns(UserWarning, match="no mask on these") as caught:
        kg.sparsify(model, "wanda")

    messages = [str(w.message) for w in caught]
    message = next(m for m in messages if "no mask" in m)
    unseen = r"kernel \(no inputs seen by .* not called .* recurrent layer\)"
    assert len(re.findall(unseen, message.replace("), ", ")\n"))) == 2
    assert "first" not in message
    assert len(kg.sparsity_report(model).rows) == 1


@pytest.mark.one_backend
def test_large_kernels_have_blocks_on_the_diagonal(monkeypatch):
    monkeypatch.setattr(Moments, "LARGEST", 4)
    model, _ = fresh("dense")

    kg.calibrate(model, X, verbose=0)

    whole = second_moment(X)
    found = moments(model.layers[0])
    assert [len(block) for block in found.blocks] == [4, 2]
    for part, block in found.each():
        np.testing.assert_allclose(block, whole[part, part], rtol=1e-4)
    np.testing.assert_allclose(
        found.mean_squares(), np.diag(whole) / 20, rtol=1e-4
    )


def test_half_precision_is_summed_in_float32():
    keras.config.set_dtype_policy("mixed_float16")
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4)])

    kg.calibrate(model, 100 * X, verbose=0)

    half = (100 * X).astype("float16").astype("float32")
    assert moments(model.layers[0]).blocks[0].max() > 7e4
    np.testing.assert_allclose(
        moments(model.layers[0]).blocks[0], second_moment(half), rtol=1e-3
    )


@pytest.mark.parametrize("masked", [False, True])
def test_the_model_stays_as_it_is(masked):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(6),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(3),
        ]
    )
    model.layers[0].trainable = False
    if masked:
        kg.sparsify(model)
    model.compile("adam", "mse")
    model.fit(X, np.ones((20, 3)), verbose=0)
    kinds = [type(layer) for layer in model.layers]
    before = [np.copy(to_numpy(v)) for v in model.variables]
    steps, trained = to_numpy(model.optimizer.iterations), model.trainable

    kg.calibrate(model, X, verbose=0)

    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(to_numpy(variable), value)
    assert [type(layer) for layer in model.layers] == kinds
    assert to_numpy(model.optimizer.iterations) == steps
    assert model.trainable == trained
    assert not model.layers[0].trainable
    assert all("call" not in vars(layer) for layer in model.layers)
    model.fit(X, np.ones((20, 3)), verbose=0)


def test_rematerialized_layers_are_observed_once():
    with keras.RematScope(mode="full"):
        model, _ = fresh("dense")

    kg.calibrate(model, X, verbose=0)

    assert_moments(model.layers[0], X)
    assert model.layers[0]._remat_mode is not None


def test_masks_are_in_force_meanwhile():
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(6), layers.Dense(3)]
    )
    kg.harden(kg.sparsify(model, "magnitude"), density=0.3)

    kg.calibrate(model, X, verbose=0)

    hidden = to_numpy(model.layers[0](X))
    assert_moments(model.layers[1], hidden)
    dense = X @ to_numpy(model.layers[0].kernel)
    assert np.abs(dense - hidden).max() > 0.1


@pytest.mark.one_backend
def test_a_second_call_replaces_the_first():
    model, _ = fresh("dense")
    kg.calibrate(model, X, verbose=0)

    kg.calibrate(model, X[:4] + 1, verbose=0)

    assert_moments(model.layers[0], X[:4] + 1)


@pytest.mark.one_backend
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_values_that_are_no_numbers_are_named(value):
    model, _ = fresh("dense")
    kg.calibrate(model, X, verbose=0)
    bad = X.copy()
    bad[3, 2] = value

    with pytest.raises(ValueError, match="inputs of dense.*/kernel that are"):
        kg.calibrate(model, bad, verbose=0)

    assert_moments(model.layers[0], X)


@pytest.mark.one_backend
@pytest.mark.parametrize("x", [None, X[:0], [X[:0]], []], ids=repr)
def test_calibrate_needs_examples(x):
    model, _ = fresh("dense")

    with pytest.raises(ValueError, match="`x` of `calibrate` .* one example"):
        kg.calibrate(model, x, verbose=0)


@pytest.mark.one_backend
def test_calibrate_needs_a_model_that_is_built():
    with pytest.raises(TypeError, match="`model` of `calibrate`"):
        kg.calibrate(layers.Dense(3), X)
    with pytest.raises(ValueError, match="not built"):
        kg.calibrate(keras.Sequential([layers.Dense(3)]), X)


@pytest.mark.one_backend
def test_axes_are_those_of_the_kernel_alone():
    model, _ = fresh("dense")
    (layer,) = model.layers
    other = keras.Variable(np.ones((6, 4), "float32"))

    assert input_axes(layer, layer.kernel) == (0,)
    assert input_axes(layer, other) is None
