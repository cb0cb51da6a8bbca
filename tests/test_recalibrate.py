import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gumbel as kg
from keras_gumbel import recalibrate_batch_normalization as recalibrate
from tests.newer_keras import require_keras

RNG = np.random.default_rng(0)
X = RNG.normal(2.0, 3.0, size=(40, 6)).astype("float32")
IMAGES = RNG.normal(1.0, 2.0, size=(40, 5, 5, 3)).astype("float32")


def as_numpy(variable):
    return np.copy(ops.convert_to_numpy(variable))


def statistics(layer):
    return as_numpy(layer.moving_mean), as_numpy(layer.moving_variance)


def assert_statistics(layer, values, axes=0, tolerance=1e-4):
    values = np.asarray(values, "float64")
    mean, variance = statistics(layer)
    np.testing.assert_allclose(
        mean, values.mean(axis=axes), rtol=tolerance, atol=tolerance
    )
    np.testing.assert_allclose(
        variance, values.var(axis=axes), rtol=tolerance, atol=tolerance
    )


def normalizations(model):
    return [
        layer
        for layer in kg._keras_private.flatten_layers(model)
        if isinstance(layer, layers.BatchNormalization)
    ]


def wide_and_deep():
    """Two layers in a row, the second one in a model inside."""
    inputs = keras.Input((6,))
    x = layers.BatchNormalization(momentum=0.9, name="first")(inputs)
    x = layers.Dropout(0.5)(x)
    inner = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(4, activation="tanh"),
            layers.BatchNormalization(name="second"),
        ]
    )
    return keras.Model(inputs, layers.Dense(2)(inner(x)))


@pytest.mark.parametrize("batch_size", [None, 7, 40])
def test_statistics_are_those_of_all_data_whatever_the_batches(batch_size):
    model = wide_and_deep()

    recalibrate(model, X, batch_size=batch_size)

    assert_statistics(model.get_layer("first"), X)


def test_statistics_of_a_later_layer_are_those_it_sees_at_inference():
    model = wide_and_deep()

    recalibrate(model, X, batch_size=len(X))

    first, second = normalizations(model)
    dense = model.layers[-2].layers[0]
    before = dense(first(X, training=False))
    assert_statistics(second, ops.convert_to_numpy(before))
    after = second(before, training=False)
    np.testing.assert_allclose(
        ops.convert_to_numpy(after).mean(axis=0), 0.0, atol=1e-5
    )


def test_nothing_else_changes():
    model = kg.sparsify(wide_and_deep(), kg.masks.ConcreteMask(), seed=0)
    model.trainable = False
    before = {v.path: as_numpy(v) for v in model.variables}

    recalibrate(model, X)

    changed = {
        v.path
        for v in model.variables
        if not np.array_equal(before[v.path], as_numpy(v))
    }
    assert {path.split("/")[-1] for path in changed} == {
        "moving_mean",
        "moving_variance",
    }
    assert len(changed) == 4
    assert all("call" not in vars(layer) for layer in normalizations(model))


def test_it_runs_the_masked_kernels():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(3, use_bias=False),
            layers.BatchNormalization(),
        ]
    )
    hard = kg.harden(kg.sparsify(model), budget=5)
    kernel = as_numpy(model.layers[0].kernel)
    mask = as_numpy(hard.layers[0].weight_masks[0].final_mask)

    recalibrate(hard, X)

    assert_statistics(hard.layers[1], X @ (kernel * mask))


@pytest.mark.parametrize("axis", [-1, 1])
def test_every_axis_of_channels(axis):
    model = keras.Sequential(
        [keras.Input((5, 5, 3)), layers.BatchNormalization(axis=axis)]
    )

    recalibrate(model, IMAGES, batch_size=16)

    rest = tuple(a for a in range(4) if a != axis % 4)
    assert_statistics(model.layers[0], IMAGES, rest)


def test_a_shared_layer_counts_every_call():
    first, second = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    shared = layers.BatchNormalization()
    outputs = layers.Add()([shared(first), shared(second)])
    model = keras.Model([first, second], outputs)

    recalibrate(model, {"a": X, "b": 2 * X + 5}, batch_size=16)

    assert_statistics(shared, np.concatenate([X, 2 * X + 5]))


def test_masked_steps_do_not_count():
    sequences = RNG.normal(3.0, 1.0, size=(20, 4, 2)).astype("float32")
    sequences[::2, 2:] = 0.0
    model = keras.Sequential(
        [
            keras.Input((4, 2)),
            layers.Masking(0.0),
            layers.BatchNormalization(),
        ]
    )

    recalibrate(model, sequences, batch_size=6)

    assert_statistics(model.layers[1], sequences[sequences.any(axis=-1)])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.norm = layers.BatchNormalization(scale=False)

    def call(self, inputs):
        return self.norm(inputs)


def test_a_subclassed_model_on_batches_of_a_generator():
    model = Subclassed()
    model(X)

    def batches():
        while True:
            yield from ((X[i : i + 10],) for i in range(0, 40, 10))

    recalibrate(model, batches(), steps=2)

    assert_statistics(model.norm, X[:20])


def test_training_goes_on_as_usual():
    model = wide_and_deep()
    model.compile("sgd", "mse")
    recalibrate(model, X)
    before = statistics(model.get_layer("first"))[0]

    model.train_on_batch(X, np.zeros((len(X), 2)))

    after = statistics(model.get_layer("first"))[0]
    np.testing.assert_allclose(
        after, 0.9 * before + 0.1 * X.mean(axis=0), rtol=1e-4
    )


def test_mixed_precision_keeps_float32_statistics():
    keras.config.set_dtype_policy("mixed_float16")
    model = wide_and_deep()

    recalibrate(model, X)

    assert_statistics(model.get_layer("first"), X, tolerance=5e-3)


def test_a_model_without_the_layer_raises():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(2)])

    with pytest.raises(ValueError, match="`BatchNormalization` layer"):
        recalibrate(model, X)


def test_batch_renormalization_raises():
    require_keras("3.14", "batch renormalization")
    model = keras.Sequential(
        [keras.Input((6,)), layers.BatchNormalization(renorm=True)]
    )

    with pytest.raises(ValueError, match="renorm=True"):
        recalibrate(model, X)
