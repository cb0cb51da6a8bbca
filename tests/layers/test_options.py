"""Options that the layers share."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

import keras_gumbel
from keras_gumbel.estimators import Gapped
from keras_gumbel.estimators import GumbelRao
from keras_gumbel.estimators import StraightThroughGumbel
from keras_gumbel.layers import GumbelSoftmax
from keras_gumbel.layers import StraightThroughArgmax
from keras_gumbel.schedules import LinearAnnealing
from tests.gradients import dtype_of
from tests.gradients import gradient
from tests.gradients import to_numpy

LOGITS = np.array(
    [[0.5, -1.0, 2.0], [0.0, 0.3, -0.2], [1.0, 1.0, 1.0]], "float32"
)
WEIGHTS = np.array([1.0, -2.0, 0.5], "float32")
CHOOSERS = [GumbelSoftmax, StraightThroughArgmax]


def numpy_noise(shape=LOGITS.shape, **kwargs):
    noise = keras_gumbel.random.gumbel(shape, **({"seed": 3} | kwargs))
    return to_numpy(noise).astype("float32")


def slopes(layer, **kwargs):
    """The gradient of a loss of the layer's samples in its logits."""

    def total(x):
        return ops.sum(ops.multiply(layer(x, training=True, **kwargs), WEIGHTS))

    return gradient(total, LOGITS)[0]


def test_noise_can_be_passed():
    noise = numpy_noise()

    y = GumbelSoftmax(0.5)(LOGITS, training=True, noise=noise)

    expected = keras_gumbel.ops.gumbel_softmax(LOGITS, 0.5, noise=noise)
    assert (to_numpy(y) == to_numpy(expected)).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_layer_draws_the_noise_of_float32(dtype):
    layer = GumbelSoftmax(0.5, seed=4, dtype=dtype)
    logits = ops.cast(LOGITS, dtype)

    y = layer(logits, training=True)

    noise = numpy_noise(seed=keras.random.SeedGenerator(4))
    expected = keras_gumbel.ops.gumbel_softmax(logits, 0.5, noise=noise)
    assert (to_numpy(y) == to_numpy(expected)).all()


@pytest.mark.parametrize("layer_class", CHOOSERS)
def test_chooser_draws_with_the_precision_asked_for(layer_class):
    shape = (4, 9)
    y = layer_class(seed=4, precision="high")(np.zeros(shape), training=True)

    noise = numpy_noise(
        shape, seed=keras.random.SeedGenerator(4), precision="high"
    )
    expected = layer_class()(np.zeros(shape), training=True, noise=noise)
    assert (to_numpy(y) == to_numpy(expected)).all()


def test_temperature_can_be_passed_for_every_example():
    noise = numpy_noise()
    temperature = np.array([[0.1], [1.0], [5.0]], "float32")

    y = GumbelSoftmax(2.0)(
        LOGITS, training=True, temperature=temperature, noise=noise
    )

    for row, t in enumerate(temperature[:, 0]):
        expected = keras_gumbel.ops.gumbel_softmax(
            LOGITS[row], float(t), noise=noise[row]
        )
        np.testing.assert_allclose(
            to_numpy(y)[row], to_numpy(expected), atol=1e-6
        )


def test_temperature_can_be_an_input_of_a_model():
    logits, temperature = keras.Input((3,)), keras.Input((1,))
    outputs = GumbelSoftmax(seed=0)(logits, temperature=temperature)
    model = keras.Model([logits, temperature], outputs)

    temperatures = np.array([[1e4], [1.0], [1e-4]], "float32")

    y = model([LOGITS, temperatures], training=True)

    spread = np.ptp(to_numpy(y), axis=-1)
    assert spread[0] < 1e-3
    assert spread[2] > 0.999


def fitted(layer):
    """Returns the layer after a step of training against its first class."""
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layer(inputs))
    model.compile(keras.optimizers.SGD(1.0), "mse", run_eagerly=True)
    x = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
    model.fit(x, np.tile([1.0, 0, 0], (32, 1)), 32, verbose=0)
    return layer


@pytest.mark.parametrize("layer_class", CHOOSERS)
def test_temperature_is_learned(layer_class):
    layer = layer_class(0.7, learn_temperature=True, seed=0)

    before = float(to_numpy(fitted(layer).current_temperature()))

    assert layer.trainable_variables == [layer.log_temperature]
    assert before > 0
    assert before != pytest.approx(0.7, abs=1e-5)


def test_learned_temperature_starts_where_asked_and_stays_positive():
    layer = GumbelSoftmax(0.7, learn_temperature=True)
    layer.build((None, 3))

    start = float(to_numpy(layer.current_temperature()))
    layer.log_temperature.assign(-50.0)

    assert start == pytest.approx(0.7)
    assert float(to_numpy(layer.current_temperature())) > 0


@pytest.mark.parametrize(
    "logarithm",
    [
        -1e4,
        pytest.param(-90.0, marks=pytest.mark.one_backend),
        pytest.param(90.0, marks=pytest.mark.one_backend),
        1e4,
    ],
)
@pytest.mark.parametrize("layer_class", CHOOSERS)
def test_learned_temperature_stays_where_samples_are_finite(
    layer_class, logarithm
):
    layer = layer_class(0.7, learn_temperature=True, seed=0)
    layer.build(LOGITS.shape)

    def total(x, logarithm):
        with keras.StatelessScope([(layer.log_temperature, logarithm)]):
            y = layer(x, training=True, noise=numpy_noise())
        return ops.sum(ops.multiply(y, WEIGHTS))

    value = total(
        ops.convert_to_tensor(LOGITS), ops.convert_to_tensor(logarithm)
    )
    slopes = gradient(total, LOGITS, np.float32(logarithm))

    assert np.isfinite(to_numpy(value))
    assert all(np.isfinite(slope).all() for slope in slopes)


def test_learned_temperature_comes_back_from_the_edge():
    layer = GumbelSoftmax(learn_temperature=True)
    layer.build(LOGITS.shape)

    def temperature(logarithm):
        with keras.StatelessScope([(layer.log_temperature, logarithm)]):
            return layer.current_temperature()

    (slope,) = gradient(temperature, np.float32(-50.0))

    assert slope == pytest.approx(1e-10, rel=1e-4)


def test_learned_temperature_refuses_a_schedule():
    schedule = LinearAnnealing(1.0, 0.5, steps=3)

    with pytest.raises(ValueError, match=r"`temperature`.*learn_temperature"):
        GumbelSoftmax(schedule, learn_temperature=True)


@pytest.mark.parametrize("layer_class", CHOOSERS)
def test_layer_refuses_precision(layer_class):
    with pytest.raises(ValueError, match=r"`precision`.*one of 'standard'"):
        layer_class(precision="double")


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("layer_class", CHOOSERS)
def test_logits_are_regularized(layer_class, training):
    layer = layer_class(logits_regularizer=keras.regularizers.L2(0.5))

    layer(LOGITS, training=training)

    (penalty,) = layer.losses
    expected = 0.5 * (LOGITS**2).sum()
    assert float(to_numpy(penalty)) == pytest.approx(expected, rel=1e-5)


def test_backward_temperature_may_be_a_schedule():
    schedule = LinearAnnealing(2.0, 1.0, steps=1)
    noise = numpy_noise()
    layer = GumbelSoftmax(0.5, estimator=StraightThroughGumbel(schedule))

    first = slopes(layer, noise=noise)
    layer(LOGITS, training=True)  # given noise, no step is counted
    second = slopes(layer, noise=noise)

    for found, temperature in ((first, 2.0), (second, 1.0)):
        expected = slopes(GumbelSoftmax(temperature), noise=noise)
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("bad", [0.0, -1.0, "warm"])
def test_backward_temperature_is_checked(bad):
    with pytest.raises(ValueError, match="`backward_temperature`.*positive"):
        StraightThroughGumbel(bad)


@pytest.mark.parametrize(
    "estimator",
    ["straight_through", "reinmax", GumbelRao(3), Gapped(0.7)],
    ids=repr,
)
@pytest.mark.parametrize(
    "layer_class",
    [
        StraightThroughArgmax,
        pytest.param(
            functools.partial(GumbelSoftmax, hard=True),
            marks=pytest.mark.one_backend,
        ),
    ],
)
def test_estimator_gives_the_gradient(layer_class, estimator):
    noise = numpy_noise()
    layer = layer_class(0.5, estimator=estimator, seed=4)

    def total(x):
        sample = keras_gumbel.ops.sample_one_hot(
            x,
            0.5,
            estimator,
            noise=noise,
            seed=keras.random.SeedGenerator(4),
        )
        return ops.sum(ops.multiply(sample, WEIGHTS))

    found = slopes(layer, noise=noise)

    np.testing.assert_allclose(found, gradient(total, LOGITS)[0], atol=1e-6)
    default = slopes(StraightThroughArgmax(0.5), noise=noise)
    assert abs(found - default).max() > 1e-2


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("training", [False, True])
def test_index_is_where_the_one_is(training, axis):
    inputs = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
    layers = [
        StraightThroughArgmax(output_mode=mode, axis=axis, seed=1)
        for mode in ("index", "one_hot")
    ]

    index, one_hot = (layer(inputs, training=training) for layer in layers)

    assert dtype_of(index) == "int32"
    assert (to_numpy(index) == to_numpy(one_hot).argmax(axis)).all()


def test_index_is_known_before_it_is_drawn():
    inputs = keras.Input((4, 3))

    outputs = StraightThroughArgmax(output_mode="index", axis=1)(inputs)

    assert outputs.shape == (None, 3)
    assert outputs.dtype == "int32"


def test_index_does_not_come_with_probabilities():
    with pytest.raises(ValueError, match="`inference`.*'argmax' or 'sample'"):
        StraightThroughArgmax(output_mode="index", inference="softmax")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"estimator": "unknown"}, "`estimator`.*one of"),
        (
            {"estimator": "reinmax", "learn_temperature": True},
            "`learn_temperature`.*no gradient",
        ),
        ({"output_mode": "int"}, "`output_mode`.*one of 'one_hot'"),
    ],
)
def test_straight_through_argmax_refuses(kwargs, message):
    with pytest.raises(ValueError, match=message):
        StraightThroughArgmax(**kwargs)
