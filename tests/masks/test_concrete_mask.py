import keras
import numpy as np
import pytest
from keras import ops
from scipy import special

import keras_gumbel as kg
from keras_gumbel.constraints import CappedBox
from keras_gumbel.masks import ConcreteMask
from keras_gumbel.schedules import LinearAnnealing
from tests.contracts import save_and_load
from tests.contracts import step_counters
from tests.contracts import values_of
from tests.gradients import gradient
from tests.gradients import to_numpy
from tests.short_names import PATHWISE

ONES = np.ones((2, 3, 4), "float32")

INPUTS = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")


def constant(value):
    return keras.initializers.Constant(value)


def scores_of(layer):
    return to_numpy(ops.convert_to_tensor(layer.mask_scores))


def sample(layer, inputs=ONES):
    return to_numpy(layer(inputs, training=True))


def infer(layer, inputs=ONES):
    return to_numpy(layer(inputs, training=False))


def with_scores(scores, **kwargs):
    """Returns a layer over as many features, with these scores."""
    layer = ConcreteMask(**kwargs)
    layer.build((None, len(scores)))
    layer.mask_scores.assign(np.asarray(scores, "float32"))
    return layer


def total(y_true, y_pred):
    return ops.sum(y_pred)


def descent_on_total(layer, learning_rate):
    """Returns a model and ones to train it on, to lower the layer's outputs."""
    length = layer.mask_scores.shape[0]
    model = keras.Sequential([keras.Input((length,)), layer])
    model.compile(keras.optimizers.SGD(learning_rate), total)
    return model, np.ones((1, length))


def test_concrete_mask_multiplies_its_inputs():
    one, other = (
        ConcreteMask((1, 2), scores_initializer=constant(0.5), seed=0)
        for _ in range(2)
    )

    outputs, mask = sample(one, INPUTS), sample(other)

    np.testing.assert_allclose(outputs, INPUTS * mask, rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_concrete_mask_divides_by_temperature(temperature):
    scores = [0.2, 0.5, 0.7, 0.9]
    inputs = np.ones((1, 4), "float32")

    reference = sample(with_scores(scores, temperature=1.0, seed=0), inputs)
    mask = sample(with_scores(scores, temperature=temperature, seed=0), inputs)

    expected = special.expit(special.logit(reference) / temperature)
    np.testing.assert_allclose(mask, expected, atol=1e-5)


def test_concrete_mask_defaults_to_temperature_two_thirds():
    one = ConcreteMask(scores_initializer=constant(0.5), seed=0)
    other = ConcreteMask(
        temperature=2 / 3, scores_initializer=constant(0.5), seed=0
    )

    np.testing.assert_array_equal(sample(one), sample(other))


def test_concrete_mask_scores_shift_the_logit():
    inputs = np.ones((1, 3), "float32")
    reference = sample(with_scores([0.5] * 3, temperature=1.0, seed=0), inputs)

    mask = sample(with_scores([0.1, 0.5, 0.8], temperature=1.0, seed=0), inputs)

    shift = special.logit([0.1, 0.5, 0.8])
    expected = special.expit(special.logit(reference) + shift)
    np.testing.assert_allclose(mask, expected, atol=1e-5)


def test_concrete_mask_hard_rounds_the_soft():
    soft, hard = (
        ConcreteMask(None, hard=h, scores_initializer=constant(0.5), seed=0)
        for h in (False, True)
    )

    relaxed, mask = sample(soft), sample(hard)

    assert set(np.unique(mask)) == {0.0, 1.0}
    np.testing.assert_array_equal(mask, relaxed > 0.5)


POLICIES = ["float32", "mixed_float16", "mixed_bfloat16"]


def test_concrete_mask_hard_is_exactly_binary_in_predict():
    entrance = keras.Input((256,))
    options = {"scores_initializer": constant(0.5), "inference": "sample"}
    exits = [
        ConcreteMask(hard=True, seed=0, dtype=policy, **options)(entrance)
        for policy in POLICIES
    ]

    predicted = keras.Model(entrance, exits).predict_on_batch(np.ones((1, 256)))

    assert len(predicted) == 3
    for mask in map(ops.convert_to_tensor, predicted):
        assert set(np.unique(to_numpy(mask))) == {0.0, 1.0}


@pytest.mark.parametrize("policy", [*POLICIES, "float16"])
def test_concrete_mask_scores_are_float32(policy):
    layer = ConcreteMask(inference="mode", dtype=policy)
    layer.build((None, 3))

    # One third of the way from 0.5 to the next float16, and to none.
    layer.mask_scores.assign([0.5 - 1e-4, 0.5, 0.5 + 1e-4])
    mask = infer(layer, np.ones((1, 3)))

    assert layer.mask_scores.dtype == "float32"
    assert mask.tolist() == [[0.0, 0.0, 1.0]]


def test_concrete_mask_infers_the_mean():
    layer = with_scores([0.0, 0.25, 1.0, -0.5, 1.5])

    mask = infer(layer, np.ones((1, 5), "float32"))

    assert mask.tolist() == [[0.0, 0.25, 1.0, 0.0, 1.0]]


def test_concrete_mask_infers_the_mode():
    layer = with_scores([0.0, 0.25, 0.5, 0.75, 1.0], inference="mode")

    mask = infer(layer, np.ones((1, 5), "float32"))

    assert mask.tolist() == [[0.0, 0.0, 0.0, 1.0, 1.0]]


def test_concrete_mask_inference_can_sample():
    layer, training = (
        ConcreteMask(
            None, inference=i, scores_initializer=constant(0.5), seed=0
        )
        for i in ("sample", "mean")
    )

    for _ in range(2):
        np.testing.assert_array_equal(infer(layer), sample(training))
    assert values_of(step_counters(layer)) == [0]


def test_concrete_mask_without_seed_differs_from_layer_to_layer():
    one, other = (
        ConcreteMask(None, scores_initializer=constant(0.5)) for _ in range(2)
    )

    assert (sample(one) != sample(other)).any()


def test_concrete_mask_anneals_with_every_training_call():
    inputs = np.ones((1, 3), "float32")
    schedule = LinearAnnealing(1.0, 0.5, steps=2)
    annealed = with_scores([0.5] * 3, temperature=schedule, seed=0)
    constant_one = with_scores([0.5] * 3, temperature=1.0, seed=0)

    for temperature in (1.0, 0.75, 0.5, 0.5):
        infer(annealed, inputs)
        mask = sample(annealed, inputs)
        warm = sample(constant_one, inputs)

        expected = special.expit(special.logit(warm) / temperature)
        np.testing.assert_allclose(mask, expected, atol=1e-5)


def test_concrete_mask_resumes_its_schedule():
    schedule = LinearAnnealing(1.0, 0.5, steps=4)
    model = keras.Sequential([ConcreteMask(temperature=schedule, seed=0)])
    for _ in range(3):
        model(ONES, training=True)

    layer = save_and_load(model).layers[0]

    assert float(layer.current_temperature()) == 0.625
    np.testing.assert_array_equal(sample(layer), sample(model.layers[0]))


@pytest.mark.parametrize("hard", [False, True])
def test_concrete_mask_gradient_reaches_every_score(hard):
    start = np.array([0.0] * 64 + [0.5] * 64 + [1.0] * 64)
    layer = with_scores(start, hard=hard, seed=0)
    model, inputs = descent_on_total(layer, learning_rate=100.0)

    model.train_on_batch(inputs, inputs)

    # The outputs grow with each score, so descent lowers them all.
    lowered = scores_of(layer) < start
    shares = {score: lowered[start == score].mean() for score in (0, 0.5, 1)}
    assert shares == {0: 1.0, 0.5: 1.0, 1: 1.0}
    assert np.isfinite(scores_of(layer)).all()


@pytest.mark.parametrize("learning_rate", [-0.5, 0.5])
def test_concrete_mask_constraint_holds_in_fit(learning_rate):
    layer = ConcreteMask(
        scores_initializer=constant(0.4),
        scores_constraint=CappedBox(2.0),
        seed=0,
    )
    layer.build((None, 5))
    model, inputs = descent_on_total(layer, learning_rate)

    for _ in range(3):
        model.train_on_batch(inputs, inputs)
        scores = scores_of(layer)

        assert scores.sum() <= 2.0
        assert scores.min() >= 0.0
        assert scores.max() <= 1.0
        assert (scores != 0.4).any()


@pytest.mark.parametrize("training", [False, True])
def test_concrete_mask_draw_is_what_a_call_applies(training):
    one, other = (
        ConcreteMask((1, 2), scores_initializer=constant(0.5), seed=0)
        for _ in range(2)
    )
    one.build(ONES.shape)

    drawn = one.draw(training)
    applied = to_numpy(other(ONES, training=training))

    assert tuple(drawn.shape) == (3, 4)
    assert tuple(one.broadcast(drawn).shape) == (1, 3, 4)
    np.testing.assert_array_equal(
        np.broadcast_to(to_numpy(drawn), ONES.shape), applied
    )
    assert values_of(step_counters(one)) == values_of(step_counters(other))


@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, "1", True])
def test_concrete_mask_rejects_temperature(temperature):
    with pytest.raises(ValueError, match=r"`temperature`.*positive finite"):
        ConcreteMask(temperature=temperature)


@pytest.mark.parametrize("inference", ["argmax", "", None])
def test_concrete_mask_rejects_inference(inference):
    with pytest.raises(ValueError, match=r"`inference`.*one of 'mean'"):
        ConcreteMask(inference=inference)


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, True])
def test_concrete_mask_rejects_seed(seed):
    with pytest.raises(ValueError, match=r"`seed`.*integer in"):
        ConcreteMask(seed=seed)


def test_concrete_mask_rejects_precision():
    with pytest.raises(ValueError, match=r"`precision`.*one of 'standard'"):
        ConcreteMask(precision="double")


def test_concrete_mask_draws_with_the_precision_asked_for():
    layer = ConcreteMask(
        scores_initializer=constant(0.5), precision="high", seed=4
    )

    drawn = sample(layer, np.ones((1, 9), "float32"))

    noise = kg.random.logistic(
        (9,), seed=keras.random.SeedGenerator(4), precision="high"
    )
    expected = kg.ops.relaxed_bernoulli(ops.full((9,), 0.5), 2 / 3, noise=noise)
    np.testing.assert_array_equal(drawn[0], to_numpy(expected))


@pytest.mark.parametrize("estimator", PATHWISE)
def test_concrete_mask_has_the_gradient_of_its_estimator(estimator):
    layer = ConcreteMask(
        temperature=0.5, hard=True, estimator=estimator, seed=4
    )
    layer.build((None, 3))
    scores = np.array([0.2, 0.5, 0.8], "float32")
    weights = np.array([1.0, -2.0, 0.5], "float32")

    def total(s):
        drawn = kg.ops.sample_bernoulli(
            s, 0.5, estimator, seed=keras.random.SeedGenerator(4)
        )
        return ops.sum(ops.multiply(drawn, weights))

    def of_layer(s):
        with keras.StatelessScope([(layer.mask_scores, s)]):
            mask = layer.draw(training=True)
        return ops.sum(ops.multiply(mask, weights))

    found, expected = (gradient(f, scores)[0] for f in (of_layer, total))

    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"estimator": "unknown", "hard": True}, "`estimator`.*one of"),
        ({"estimator": "identity"}, "`estimator`.*hard=True"),
        (
            {"estimator": "identity", "hard": True, "learn_temperature": True},
            "`learn_temperature`.*False",
        ),
    ],
)
def test_concrete_mask_rejects_estimator(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ConcreteMask(**kwargs)


def test_concrete_mask_learns_its_temperature():
    layer = ConcreteMask(
        temperature=0.7,
        learn_temperature=True,
        scores_initializer=constant(0.5),
        seed=0,
    )
    layer.build((None, 64))
    model, inputs = descent_on_total(layer, learning_rate=0.01)

    start = float(to_numpy(layer.current_temperature()))
    model.train_on_batch(inputs, inputs)

    assert start == pytest.approx(0.7)
    assert float(to_numpy(layer.current_temperature())) != start


def test_concrete_mask_is_a_layer_too():
    assert kg.layers.ConcreteMask is ConcreteMask
