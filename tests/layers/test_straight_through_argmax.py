import keras
import numpy as np
import pytest
from keras import ops
from scipy import special

from keras_gumbel.layers import GumbelSoftmax
from keras_gumbel.layers import StraightThroughArgmax
from keras_gumbel.schedules import LinearAnnealing
from tests.contracts import step_counters
from tests.contracts import values_of
from tests.gradients import gradient
from tests.gradients import to_numpy

LOGITS = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")

WEIGHTS = np.random.default_rng(1).normal(size=(4, 3)).astype("float32")


def sample(layer, inputs=LOGITS, **kwargs):
    return to_numpy(layer(inputs, training=True, **kwargs))


def infer(layer, inputs=LOGITS, **kwargs):
    return to_numpy(layer(inputs, training=False, **kwargs))


def slope(layer):
    """Returns the gradient of a weighted sum of the layer's sample."""

    def weighted(logits):
        weights = ops.convert_to_tensor(WEIGHTS)
        return ops.sum(layer(logits, training=True) * weights)

    return gradient(weighted, LOGITS)[0]


def require_one_hot(samples, axis=-1):
    assert set(np.unique(samples)) == {0.0, 1.0}
    assert (samples.sum(axis=axis) == 1.0).all()


@pytest.mark.parametrize("temperature", [0.01, 1.0, 100.0])
def test_straight_through_argmax_is_gumbel_max(temperature):
    samples = sample(StraightThroughArgmax(temperature, seed=0))

    # The same noise, divided by a temperature, has its maximum where it had.
    relaxed = sample(GumbelSoftmax(seed=0))
    require_one_hot(samples)
    np.testing.assert_array_equal(
        samples.argmax(axis=-1), relaxed.argmax(axis=-1)
    )


@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_straight_through_argmax_has_gradient_of_relaxed(temperature):
    relaxed = GumbelSoftmax(temperature, seed=0)

    slopes = slope(StraightThroughArgmax(temperature, seed=0))

    np.testing.assert_allclose(slopes, slope(relaxed), atol=1e-7)
    assert np.abs(slopes).max() > 1e-3


def test_straight_through_argmax_temperature_changes_gradient():
    cold = slope(StraightThroughArgmax(0.5, seed=0))
    hot = slope(StraightThroughArgmax(4.0, seed=0))

    assert (cold != hot).all()


def test_straight_through_argmax_anneals_its_gradient():
    schedule = LinearAnnealing(0.5, 4.0, steps=1)
    annealed = StraightThroughArgmax(schedule, seed=0)
    cold, hot = (StraightThroughArgmax(t, seed=0) for t in (0.5, 4.0))

    annealed.build(LOGITS.shape)
    annealed.step.assign(1)
    at_end = slope(annealed)
    annealed = StraightThroughArgmax(schedule, seed=0)
    at_start = slope(annealed)

    np.testing.assert_allclose(at_start, slope(cold), atol=1e-6)
    np.testing.assert_allclose(at_end, slope(hot), atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_straight_through_argmax_chooses_along_axis(axis):
    inputs = np.random.default_rng(2).normal(size=(3, 3, 3)).astype("float32")

    samples = sample(StraightThroughArgmax(axis=axis, seed=0), inputs)
    choices = infer(StraightThroughArgmax(axis=axis), inputs)

    require_one_hot(samples, axis)
    require_one_hot(choices, axis)
    np.testing.assert_array_equal(
        choices.argmax(axis=axis), inputs.argmax(axis=axis)
    )


def test_straight_through_argmax_infers_argmax_by_default():
    choices = infer(StraightThroughArgmax())

    expected = np.eye(3)[LOGITS.argmax(axis=-1)]
    np.testing.assert_array_equal(choices, expected)


def test_straight_through_argmax_inference_can_be_softmax():
    probabilities = infer(StraightThroughArgmax(9.0, inference="softmax"))

    expected = special.softmax(LOGITS, axis=-1)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)


def test_straight_through_argmax_inference_can_sample():
    layer = StraightThroughArgmax(inference="sample", seed=0)
    training = StraightThroughArgmax(seed=0)

    for _ in range(2):
        np.testing.assert_array_equal(infer(layer), sample(training))
    assert values_of(step_counters(layer)) == [0]


@pytest.mark.parametrize("inference", ["argmax", "softmax", "sample"])
def test_straight_through_argmax_never_chooses_a_forbidden_class(inference):
    layer = StraightThroughArgmax(inference=inference, seed=0)
    mask = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 1], [1, 1, 1]], bool)

    for run in (sample, infer):
        outputs = run(layer, mask=mask)

        assert (outputs[~mask] == 0.0).all()
        np.testing.assert_allclose(outputs.sum(axis=-1), 1.0, atol=1e-6)


def test_straight_through_argmax_rejects_mask_of_other_shape():
    layer = StraightThroughArgmax()

    with pytest.raises(ValueError, match=r"`mask`.*must be broadcastable"):
        layer(LOGITS, mask=np.ones((4, 2), bool))


def test_straight_through_argmax_takes_time_steps_for_no_classes():
    inputs = np.random.default_rng(3).normal(size=(3, 3, 3)).astype("float32")
    inputs[:, 1] = 0.0
    layer = StraightThroughArgmax(inference="softmax")
    model = keras.Sequential(
        [keras.Input((3, 3)), keras.layers.Masking(), layer]
    )

    outputs = to_numpy(model(inputs))

    expected = special.softmax(inputs, axis=-1)
    np.testing.assert_allclose(outputs, expected, atol=1e-6)


def test_straight_through_argmax_is_exactly_one_hot_in_predict():
    inputs = np.random.default_rng(4).normal(size=(64, 7)).astype("float32")
    policies = ["float32", "mixed_float16", "mixed_bfloat16"]
    entrance = keras.Input((7,))
    exits = [
        StraightThroughArgmax(0.3, inference="sample", seed=0, dtype=policy)(
            entrance
        )
        for policy in policies
    ]

    predicted = keras.Model(entrance, exits).predict_on_batch(inputs)

    assert len(predicted) == 3
    for samples in map(ops.convert_to_tensor, predicted):
        assert samples.shape == (64, 7)
        require_one_hot(to_numpy(samples))


def test_straight_through_argmax_has_no_argument_hard():
    with pytest.raises((TypeError, ValueError), match="hard"):
        StraightThroughArgmax(hard=False)


@pytest.mark.parametrize("temperature", [0, -1.0, "1", True])
def test_straight_through_argmax_rejects_temperature(temperature):
    with pytest.raises(ValueError, match=r"`StraightThroughArgmax` must be"):
        StraightThroughArgmax(temperature)


def test_straight_through_argmax_rejects_inference():
    with pytest.raises(ValueError, match=r"`inference`.*one of 'argmax'"):
        StraightThroughArgmax(inference="mean")


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, True])
def test_straight_through_argmax_rejects_seed(seed):
    with pytest.raises(ValueError, match=r"`seed`.*integer in"):
        StraightThroughArgmax(seed=seed)


def test_straight_through_argmax_rejects_axis_its_inputs_lack():
    with pytest.raises(ValueError, match=r"`axis`.*in \[-2, 2\)"):
        StraightThroughArgmax(axis=2)(LOGITS)
