"""The divergence that layers add to the loss, and log."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy import special

from keras_gumbel.layers import GumbelSoftmax
from keras_gumbel.layers import StraightThroughArgmax
from keras_gumbel.metrics import CodePerplexity
from keras_gumbel.metrics import CodeUsage
from keras_gumbel.regularizers import CategoricalKL
from keras_gumbel.schedules import LinearAnnealing
from tests.contracts import save_and_load
from tests.gradients import to_numpy

X = np.random.default_rng(0).normal(size=(8, 4, 3)).astype("float32")


def kl_of(x):
    p = special.softmax(x.astype("float64"), -1)
    return (p * np.log(3 * p)).sum(-1)


@keras.saving.register_keras_serializable(package="tests")
class Shift(keras.layers.Layer):
    """Adds a weight, which Keras wants to train, and which stays at 0."""

    def build(self, input_shape):
        self.shift = self.add_weight(shape=(), initializer="zeros")

    def call(self, inputs):
        return inputs + self.shift


def model_of(*layers):
    return keras.Sequential([keras.Input((4, 3)), Shift(), *layers])


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_reduction_is_over_the_variables_of_an_example(reduction):
    loss = CategoricalKL(0.5, reduction=reduction)(X)

    variables = 4 if reduction == "sum" else 1
    np.testing.assert_allclose(
        float(loss), 0.5 * variables * kl_of(X).mean(), rtol=1e-5
    )


def test_sum_is_the_same_along_every_axis():
    expected = float(CategoricalKL(reduction="sum")(X))

    moved = CategoricalKL(axis=1, reduction="sum")(X.swapaxes(1, 2))
    one = CategoricalKL(axis=0, reduction="sum")(X[0].T)

    assert float(moved) == pytest.approx(expected, rel=1e-6)
    assert float(one) == pytest.approx(kl_of(X[0]).sum(), rel=1e-5)


def test_factor_follows_the_steps_of_training():
    schedule = LinearAnnealing(0.5, 2.0, steps=2)
    layer = GumbelSoftmax(logits_regularizer=CategoricalKL(schedule), seed=0)

    losses = []
    for training in (False, True, True, True, False):
        layer(X, training=training)
        losses.append(float(sum(layer.losses)))

    expected = kl_of(X).mean() * np.array([0.5, 0.5, 1.25, 2.0, 2.0])
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_schedule_is_as_long_as_fit():
    factor = LinearAnnealing(1e-3, 1.0)
    layer = StraightThroughArgmax(logits_regularizer=CategoricalKL(factor))
    model = model_of(layer)
    model.compile("sgd", "mse")

    model.fit(X, X, batch_size=4, epochs=3, verbose=0)

    assert layer.logits_regularizer.factor.steps == 6
    layer(X)
    assert float(sum(layer.losses)) == pytest.approx(kl_of(X).mean(), rel=1e-5)


def test_schedule_needs_a_layer_that_counts():
    schedule = LinearAnnealing(0.5, 2.0, steps=2)

    with pytest.raises(ValueError, match="`factor` of `CategoricalKL`.*step"):
        CategoricalKL(schedule)(X)


# Shifted by a constant, logits have the same divergence.
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_kl_is_logged_in_training_and_validation(policy):
    regularizer = CategoricalKL(0.1, reduction="sum")
    layer = GumbelSoftmax(logits_regularizer=regularizer, seed=0, dtype=policy)
    model = model_of(layer)
    model.compile("sgd", "mse")
    x = np.repeat(X, 100, axis=0)  # more batches than bfloat16 can count

    history = model.fit(
        x, x, batch_size=2, validation_data=(X[:4], X[:4]), verbose=0
    )

    tolerance = {"float32": 1e-4, "mixed_bfloat16": 0.02}[policy]
    for name, data in (("kl", X), ("val_kl", X[:4])):
        expected = kl_of(data).sum(-1).mean()
        assert history.history[name] == [pytest.approx(expected, rel=tolerance)]
    logged = model.evaluate(X, X, verbose=0, return_dict=True)["kl"]
    assert logged == pytest.approx(kl_of(X).sum(-1).mean(), rel=tolerance)


def test_layers_log_under_names_of_their_own():
    first, second = (
        GumbelSoftmax(logits_regularizer=CategoricalKL(name=name), seed=0)
        for name in ("kl_first", "kl_second")
    )
    model = model_of(first, second)
    model.compile("sgd", "mse")

    history = model.fit(X, X, verbose=0).history

    assert {"kl_first", "kl_second"} < set(history)
    assert history["kl_first"] != history["kl_second"]


def test_inference_logs_nothing():
    layer = GumbelSoftmax(logits_regularizer=CategoricalKL(), seed=0)
    model = model_of(layer)
    model.compile("sgd", "mse")

    layer(X)
    model.predict(X, verbose=0)

    assert float(layer.kl.result()) == 0
    layer(X, training=True)
    assert float(layer.kl.result()) == pytest.approx(kl_of(X).mean(), rel=1e-5)


def test_other_regularizers_log_nothing():
    layer = GumbelSoftmax(logits_regularizer="l2")

    assert layer.kl is None
    assert layer.metrics == []


def test_schedule_is_saved():
    schedule = LinearAnnealing(0.5, 2.0, steps=2)
    layer = GumbelSoftmax(
        logits_regularizer=CategoricalKL(schedule, reduction="sum", name="d")
    )

    loaded = save_and_load(model_of(layer)).layers[1].logits_regularizer

    assert loaded.get_config() == layer.logits_regularizer.get_config()
    assert isinstance(loaded.factor, LinearAnnealing)


@pytest.mark.parametrize(
    ("argument", "value"), [("reduction", "none"), ("factor", "linear")]
)
def test_bad_arguments_are_refused(argument, value):
    with pytest.raises(ValueError, match=f"`{argument}` of `CategoricalKL`"):
        CategoricalKL(**{argument: value})


def test_sum_next_to_a_summed_loss_does_not_collapse():
    """A factor for a sum over the pixels, and for their mean, train alike."""
    rng = np.random.default_rng(0)
    patterns = rng.uniform(size=(8, 64)) < 0.5
    x = patterns[rng.integers(8, size=512)].astype("float32")

    def nats(factor, reduction):
        keras.utils.set_random_seed(0)
        kl = CategoricalKL(factor, reduction=reduction)
        model = keras.Sequential(
            [
                keras.Input((64,)),
                keras.layers.Dense(32, "relu"),
                keras.layers.Dense(12),
                keras.layers.Reshape((4, 3)),
                GumbelSoftmax(0.7, logits_regularizer=kl, seed=0),
                keras.layers.Flatten(),
                keras.layers.Dense(64, "sigmoid"),
            ]
        )
        # The mean over the pixels.
        model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy")
        return model.fit(x, x, epochs=12, verbose=0).history["kl"][-1]

    assert nats(1.0, "sum") < 0.1
    assert nats(1 / 64, "sum") > 1.0


# --- codes by groups

CODES = np.array([[0, 0], [1, 0], [2, 0], [0, 0]], "int32")  # 3 classes of 4


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (CodeUsage, [0.75, 0.25]),
        (CodePerplexity, [np.exp(1.5 * np.log(2)), 1.0]),
    ],
)
@pytest.mark.parametrize("form", ["indices", "one_hot", "channels_first"])
def test_groups_are_counted_apart(metric, expected, form):
    one_hot = np.eye(4, dtype="float32")[CODES]
    codes = {
        "indices": CODES,
        "one_hot": one_hot,
        "channels_first": one_hot.swapaxes(1, 2),
    }[form]
    axis = 1 if form == "channels_first" else -1
    apart, together = (
        metric(4, axis=axis, num_groups=groups) for groups in (2, None)
    )

    for counted in (apart, together):
        for half in (codes[:2], codes[2:]):
            counted.update_state(ops.convert_to_tensor(half))

    np.testing.assert_allclose(to_numpy(apart.by_group()), expected, rtol=1e-6)
    assert float(apart.result()) == pytest.approx(np.mean(expected))
    assert float(together.result()) != pytest.approx(np.mean(expected))
    again = metric.from_config(apart.get_config())
    assert again.num_groups == 2


def test_groups_take_weights():
    metric = CodeUsage(4, num_groups=2)

    metric.update_state(CODES, sample_weight=np.array([1.0, 0.0, 0.0, 1.0]))

    assert to_numpy(metric.by_group()).tolist() == [0.25, 0.25]


def test_groups_are_logged():
    model = model_of(StraightThroughArgmax(seed=0))
    model.compile("sgd", "mse", metrics=[CodeUsage(3, num_groups=4)])

    history = model.fit(X, X, verbose=0).history

    assert 0 < history["code_usage"][0] <= 1


@pytest.mark.parametrize("shape", [(4,), (4, 3)])
def test_codes_of_other_groups_are_refused(shape):
    with pytest.raises(ValueError, match="`codes` of `CodeUsage`.*2 groups"):
        CodeUsage(4, num_groups=2).update_state(np.zeros(shape, "int32"))


@pytest.mark.parametrize("count", [0, 1.5, True])
def test_number_of_groups_must_be_a_positive_integer(count):
    with pytest.raises(ValueError, match="`num_groups` of `CodePerplexity`"):
        CodePerplexity(4, num_groups=count)
