"""`shrink` and operations of `keras.ops` in the graph of a model."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gumbel
from tests.random_models import predictions
from tests.test_shrink_random import check

pytestmark = pytest.mark.one_backend

ARRAY = np.array([0.5, -1.0, 2.0, 0.25], "float32")

ELEMENTWISE = {
    "abs": abs,
    "activation": keras.activations.relu,
    "add a number": lambda x: x + 1.0,
    "add an array": lambda x: x + ARRAY,
    "add arrays of images": lambda x: x + np.ones((5, 5, 1), "float32") * ARRAY,
    "add itself": lambda x: x + x,
    "cast": lambda x: ops.cast(x, "float32"),
    "clip": lambda x: ops.clip(x, -1.0, 0.1),
    "divide": lambda x: 1.0 / (x * x + 1.0),
    "exp": ops.exp,
    "gelu": ops.gelu,
    "leaky relu": lambda x: ops.leaky_relu(x, 0.3),
    "maximum": lambda x: ops.maximum(x, -ARRAY),
    "multiply": lambda x: ops.multiply(ARRAY, x),
    "negative": lambda x: -x,
    "power": lambda x: x**2,
    "relu": ops.relu,
    "sigmoid": ops.sigmoid,
    "subtract from": lambda x: 1.0 - x,
    "softplus": ops.softplus,
    "stop gradient": ops.stop_gradient,
    "swish": lambda x: x * ops.sigmoid(x),
    "tanh": ops.tanh,
    "where": lambda x: ops.where(x > 0, x, 0.1 * x),
    "gate": lambda x: x * ops.mean(x, axis=(1, 2), keepdims=True),
    "gate of vectors": lambda x: x * ops.mean(x, axis=(1, 2))[:, None, None],
}
MOVES = {
    "average pool": lambda x: ops.average_pool(x, 2, padding="same"),
    "concatenate": lambda x: ops.concatenate([x, ops.relu(x)], axis=-1),
    "concatenate rows": lambda x: ops.concatenate([x, ops.flip(x, 2)], axis=1),
    "expand": lambda x: ops.squeeze(ops.expand_dims(x, 1), 1),
    "flatten": lambda x: ops.reshape(x, (-1, 100)),
    "flatten rows": lambda x: ops.reshape(x, (-1, 5, 20)),
    "flip": lambda x: ops.flip(x, axis=-1),
    "max": lambda x: ops.max(x, axis=1),
    "max pool": lambda x: ops.max_pool(x, 2),
    "mean": lambda x: ops.mean(x, axis=(1, 2)),
    "pad": lambda x: ops.pad(ops.relu(x), ((0, 0), (1, 1), (1, 1), (0, 0))),
    "part": lambda x: ops.concatenate([x[..., 1:], x[:, :, :, :2]], -1),
    "part without rows": lambda x: ops.flip(x, -1)[:, 0, None, 1:, :10],
    "repeat": lambda x: ops.repeat(x, 2, axis=-1),
    "sequence": lambda x: ops.reshape(x, (-1, 25, 4)),
    "slice": lambda x: x[:, 1:4, ::2],
    "split": lambda x: ops.concatenate(ops.split(x, 2, -1)[::-1], -1),
    "split apart": lambda x: ops.concatenate(ops.split(x, [3], -1), -1),
    "split rows": lambda x: ops.add(*ops.split(x[:, 1:], 2, axis=1)),
    "stack": lambda x: ops.stack([x, ops.flip(x, 2)], axis=1),
    "sum": lambda x: ops.sum(x, axis=(1, 2), keepdims=True),
    "tile": lambda x: ops.tile(x, (1, 1, 1, 2)),
    "transpose": lambda x: ops.transpose(x, (0, 2, 1, 3)),
    "back and forth": lambda x: ops.moveaxis(ops.swapaxes(x, 1, 3), 1, 3),
}
OPERATIONS = ELEMENTWISE | MOVES


def model_with(operation, seed=0):
    """Builds a model with an operation and two dead filters of four."""
    inputs = keras.Input((6, 6, 2))
    x = operation(layers.Conv2D(4, 2, name="conv")(inputs))
    x = layers.Dense(3, name="next")(x)
    if len(x.shape) > 2:
        x = layers.Flatten()(x)
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(rng.uniform(-1.0, 1.0, weight.shape))
    kernel, bias = model.get_layer("conv").get_weights()
    kernel[..., [1, 2]] = 0.0
    bias[:] = [0.1, -0.5, -0.6, 0.2]
    model.get_layer("conv").set_weights([kernel, bias])
    return model


def kept(model):
    report = keras_gumbel.shrink_report(model)
    return {row.name: row.kept for row in report.rows}


def reasons(model):
    rows = keras_gumbel.shrink_report(model).rows
    return {row.name: row.reasons for row in rows if row.reasons}


@pytest.mark.parametrize("kind", OPERATIONS)
def test_shrink_follows_channels_through(kind):
    model = model_with(OPERATIONS[kind])

    check(model)

    assert kept(model)["conv"] == 2
    assert set(reasons(model)) == {"out"} or reasons(model) == {}


@pytest.mark.parametrize(
    "kind", ["add an array", "flatten", "part", "relu", "where"]
)
def test_shrunk_operations_are_saved(kind, tmp_path):
    small = keras_gumbel.shrink(model_with(OPERATIONS[kind]))

    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")

    np.testing.assert_array_equal(predictions(loaded)[0], predictions(small)[0])


BARRIERS = {
    "clip": lambda x: ops.clip(x, -1.0, abs(ARRAY)),
    "matmul": lambda x: ops.matmul(x, np.ones((4, 3), "float32")),
    "mean": lambda x: ops.mean(x, axis=-1, keepdims=True),
    "one channel": lambda x: x[..., 1],
    "pad": lambda x: ops.pad(x, ((0, 0), (0, 0), (0, 0), (1, 1))),
    "pad with zeros": lambda x: ops.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0))),
    "reshape": lambda x: ops.reshape(x, (-1, 5, 2, 10)),
    "roll": lambda x: ops.roll(x, 1, axis=-1),
    "softmax": ops.softmax,
    "split batch": lambda x: ops.split(x, 1, axis=0)[0],
    "stride": lambda x: x[..., ::2],
    "with a row": lambda x: ops.concatenate([x, np.ones((3, 5, 5, 1))], -1),
}
WHY = {
    "clip": "(Clip) gets an array as its `x_max`",
    "matmul": "(Matmul) is not known to keep channels apart",
    "mean": "(Mean) computes one number from many channels",
    "one channel": "(GetItem) picks one channel",
    "pad": "(Pad) adds channels",
    "pad with zeros": "(Pad) does not leave it constant",
    "reshape": "(Reshape) mixes channels and positions",
    "roll": "(Roll) is not known to keep channels apart",
    "softmax": "(Softmax) is not known to keep channels apart",
    "split batch": "(Split) splits the batch",
    "stride": "(GetItem) does not pick neighbors",
    "with a row": "(Concatenate) joins channels and an array",
}


@pytest.mark.parametrize("kind", BARRIERS)
def test_shrink_says_which_operation_keeps_a_dead_unit(kind):
    model = model_with(BARRIERS[kind])

    check(model)

    assert kept(model)["conv"] == 4
    ((why, count),) = reasons(model)["conv"].items()
    assert count == 2
    assert why.endswith(WHY[kind])


class Add(keras.Operation):
    """Has the name of an operation of Keras, and mixes channels."""

    def call(self, x):
        return x + ops.sum(x, axis=-1, keepdims=True)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


def test_operations_of_others_are_not_taken_for_those_of_keras():
    model = model_with(Add())

    check(model)

    assert kept(model)["conv"] == 4


def test_operations_of_a_nested_model_shrink():
    inputs = keras.Input((4,))
    x = ops.relu(layers.Dense(4, name="hidden")(inputs))[:, 1:] * ARRAY[1:]
    inner = keras.Model(inputs, layers.Dense(3)(x), name="inner")
    kernel, bias = inner.get_layer("hidden").get_weights()
    kernel[:, 2] = 0.0
    inner.get_layer("hidden").set_weights([kernel, bias + 0.5])
    inputs = keras.Input((4,))
    model = keras.Model(inputs, inner(inner(inputs)[:, :1] + inputs))

    check(model)

    assert kept(model)["inner/hidden"] == 2


def test_zero_times_anything_is_constant():
    inputs = keras.Input((4,))
    x = layers.Dense(4, name="hidden")(inputs)
    x = ops.multiply(x, np.array([1.0, 0.0, 2.0, 0.0], "float32"))
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))

    check(model)

    assert kept(model)["hidden"] == 2


def test_what_may_be_infinite_is_not_constant():
    inputs = keras.Input((4,))
    x = 1.0 / layers.Dense(4, name="hidden")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    kernel, bias = model.get_layer("hidden").get_weights()
    kernel[:, 2] = 0.0
    model.get_layer("hidden").set_weights([kernel, bias])

    assert kept(model)["hidden"] == 4
