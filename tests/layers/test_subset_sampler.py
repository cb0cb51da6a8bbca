import keras
import numpy as np
import pytest
from keras import ops

from keras_gumbel.layers._subset_sampler import SubsetSampler
from keras_gumbel.ops._subsets import gumbel_top_k
from keras_gumbel.ops._subsets import subset_marginals
from keras_gumbel.schedules import LinearAnnealing
from tests.contracts import check_config_round_trip
from tests.contracts import step_counters
from tests.contracts import values_of
from tests.gradients import gradient
from tests.gradients import to_numpy

LOGITS = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")

WEIGHTS = np.random.default_rng(1).normal(size=(4, 5)).astype("float32")

ESTIMATORS = ["simple", "relaxed_top_k"]


def sample(layer, inputs=LOGITS, **kwargs):
    return to_numpy(layer(inputs, training=True, **kwargs))


def infer(layer, inputs=LOGITS, **kwargs):
    return to_numpy(layer(inputs, training=False, **kwargs))


def slope(function):
    """Returns the gradient of a weighted sum of what a function returns."""

    def weighted(logits):
        return ops.sum(function(logits) * ops.convert_to_tensor(WEIGHTS))

    return gradient(weighted, LOGITS)[0]


def sample_slope(layer):
    return slope(lambda logits: layer(logits, training=True))


def largest(values, k, axis=-1):
    ranks = np.argsort(np.argsort(-values, axis=axis), axis=axis)
    return (ranks < k).astype("float64")


def require_k_hot(samples, k, axis=-1):
    assert set(np.unique(samples)) == {0.0, 1.0}
    assert (samples.sum(axis=axis) == k).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_subset_sampler_chooses_k_items(estimator):
    layer = SubsetSampler(2, estimator=estimator, seed=0)

    require_k_hot(sample(layer), 2)
    require_k_hot(infer(layer), 2)


@pytest.mark.one_backend
def test_subset_sampler_estimators_differ():
    one, other = (
        SubsetSampler(2, estimator=name, seed=0) for name in ESTIMATORS
    )

    assert (sample_slope(one) != sample_slope(other)).all()


def test_subset_sampler_simple_has_gradient_of_marginals():
    slopes = sample_slope(SubsetSampler(2, seed=0))

    expected = slope(lambda logits: subset_marginals(logits, 2))
    np.testing.assert_array_equal(slopes, expected)
    assert slopes.all()


@pytest.mark.one_backend
def test_subset_sampler_soft_samples_are_relaxed():
    soft = SubsetSampler(2, 0.01, "relaxed_top_k", hard=False, seed=0)
    hard = SubsetSampler(2, 0.01, "relaxed_top_k", seed=0)

    samples = sample(soft)

    np.testing.assert_allclose(samples.sum(axis=-1), 2.0, rtol=1e-5)
    assert not np.isin(samples, [0, 1]).all()
    np.testing.assert_array_equal(largest(samples, 2), sample(hard))
    np.testing.assert_array_equal(sample_slope(soft), sample_slope(hard))


@pytest.mark.one_backend
def test_subset_sampler_anneals_its_gradient():
    schedule = LinearAnnealing(0.5, 4.0, steps=1)
    annealed = SubsetSampler(2, schedule, "relaxed_top_k", seed=0)
    cold, hot = (
        SubsetSampler(2, t, "relaxed_top_k", seed=0) for t in (0.5, 4.0)
    )

    for constant in (cold, hot):
        slopes = sample_slope(annealed)
        sample(cold if constant is hot else hot)

        np.testing.assert_allclose(slopes, sample_slope(constant), atol=1e-6)
    assert values_of(step_counters(annealed)) == [2]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_subset_sampler_chooses_along_axis(estimator):
    inputs = np.moveaxis(LOGITS.reshape(2, 2, 5), -1, 1)
    layer = SubsetSampler(2, estimator=estimator, axis=1, seed=0)

    require_k_hot(sample(layer, inputs), 2, axis=1)
    np.testing.assert_array_equal(infer(layer, inputs), largest(inputs, 2, 1))


@pytest.mark.one_backend
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_subset_sampler_infers_top_k_by_default(estimator):
    choices = infer(SubsetSampler(2, estimator=estimator))

    np.testing.assert_array_equal(choices, largest(LOGITS, 2))


@pytest.mark.one_backend
def test_subset_sampler_inference_can_be_marginals():
    probabilities = infer(SubsetSampler(2, inference="marginals"))

    expected = to_numpy(subset_marginals(LOGITS, 2))
    np.testing.assert_array_equal(probabilities, expected)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_subset_sampler_inference_can_sample(estimator):
    layer = SubsetSampler(2, estimator=estimator, inference="sample", seed=0)
    training = SubsetSampler(2, estimator=estimator, seed=0)

    for _ in range(2):
        np.testing.assert_array_equal(infer(layer), sample(training))
    assert values_of(step_counters(layer)) == [0]


@pytest.mark.one_backend
@pytest.mark.parametrize("inference", ["top_k", "marginals"])
def test_subset_sampler_inference_changes_no_state(inference):
    layer = SubsetSampler(2, inference=inference, seed=0)
    first = sample(layer)
    before = values_of(layer.variables)

    one, other = infer(layer), to_numpy(layer(LOGITS))

    np.testing.assert_array_equal(one, other)
    for old, new in zip(before, values_of(layer.variables), strict=True):
        np.testing.assert_array_equal(old, new)
    assert (sample(layer) != first).any()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_subset_sampler_draws_by_its_seed(estimator):
    one, same, other = (
        SubsetSampler(2, estimator=estimator, seed=seed) for seed in (1, 1, 2)
    )

    for _ in range(2):
        drawn = sample(one)
        np.testing.assert_array_equal(drawn, sample(same))
    assert (drawn != sample(other)).any()


@pytest.mark.parametrize("inference", ["top_k", "marginals", "sample"])
def test_subset_sampler_never_chooses_a_forbidden_item(inference):
    layer = SubsetSampler(2, inference=inference, seed=0)
    mask = np.array([[1, 1, 0, 1, 0], [0, 1, 0, 1, 0], [0] * 5, [1] * 5], bool)

    for run in (sample, infer):
        outputs = run(layer, mask=mask)

        assert (outputs[~mask] == 0.0).all()
        np.testing.assert_allclose(
            outputs.sum(axis=-1), [2.0, 2.0, 0.0, 2.0], atol=1e-6
        )


@pytest.mark.one_backend
def test_subset_sampler_takes_time_steps_for_no_items():
    inputs = np.random.default_rng(3).normal(size=(5, 5, 5)).astype("float32")
    inputs[:, 1] = 0.0
    layer = SubsetSampler(2)
    model = keras.Sequential(
        [keras.Input((5, 5)), keras.layers.Masking(), layer]
    )

    outputs = to_numpy(model(inputs))

    np.testing.assert_array_equal(
        outputs, to_numpy(gumbel_top_k(inputs, 2, noise=0.0))
    )
    assert (outputs.sum(axis=-1) == 2).all()


@pytest.mark.one_backend
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_subset_sampler_takes_noise_and_temperature_of_a_call(estimator):
    layer = SubsetSampler(2, 0.5, estimator, seed=0)
    noise = 5.0 * WEIGHTS

    one, other = sample(layer, noise=noise), sample(layer, noise=-noise)

    require_k_hot(one, 2)
    assert (one != other).any()
    np.testing.assert_array_equal(one, sample(layer, noise=noise))
    warm, cold = (
        slope(
            lambda x, t=t: layer(x, training=True, noise=noise, temperature=t)
        )
        for t in (1.0, 0.5)
    )
    assert (warm != cold).any() == (estimator == "relaxed_top_k")


@pytest.mark.one_backend
def test_subset_sampler_config_round_trip():
    def make():
        return SubsetSampler(
            np.int64(2),
            LinearAnnealing(1.0, 0.5, steps=4),
            estimator="relaxed_top_k",
            hard=False,
            axis=1,
            inference="sample",
            seed=3,
        )

    check_config_round_trip(make, LOGITS)
    registered = "keras_gumbel>SubsetSampler"
    assert keras.saving.get_registered_name(SubsetSampler) == registered


@pytest.mark.parametrize(
    ("estimator", "policy"),
    [("simple", "mixed_bfloat16"), ("relaxed_top_k", "float32")],
)
def test_subset_sampler_trains_what_is_before_it(estimator, policy):
    layer = SubsetSampler(2, 0.5, estimator, seed=0, dtype=policy)
    front = keras.layers.Dense(5, kernel_initializer="identity")
    model = keras.Sequential([keras.Input((5,)), front, layer])
    model.compile(keras.optimizers.SGD(1.0), "mse")

    model.fit(LOGITS, np.eye(4, 5), batch_size=4, verbose=0)

    (kernel,) = values_of([front.kernel])
    assert np.isfinite(kernel).all()
    assert (kernel != np.eye(5)).all()
    assert values_of(step_counters(layer)) == [1]


def test_subset_sampler_is_exactly_k_hot_in_predict():
    inputs = np.random.default_rng(4).normal(size=(64, 5)).astype("float32")
    entrance = keras.Input((5,))
    exits = [
        SubsetSampler(2, 0.3, name, inference="sample", seed=0, dtype=policy)(
            entrance
        )
        for name in ESTIMATORS
        for policy in ("float32", "mixed_float16", "mixed_bfloat16")
    ]

    predicted = keras.Model(entrance, exits).predict_on_batch(inputs)

    assert len(predicted) == 6
    for samples in map(ops.convert_to_tensor, predicted):
        assert samples.shape == (64, 5)
        require_k_hot(to_numpy(samples), 2)


@pytest.mark.parametrize("k", [0, -1, 1.5, "2", None, True])
def test_subset_sampler_rejects_k(k):
    with pytest.raises(ValueError, match=r"`k` of `SubsetSampler`.*positive"):
        SubsetSampler(k)


def test_subset_sampler_rejects_more_items_than_there_are():
    with pytest.raises(ValueError, match=r"`k` of `SubsetSampler`.*1 to 5"):
        SubsetSampler(6)(LOGITS)


@pytest.mark.parametrize("estimator", ["SIMPLE", "", None])
def test_subset_sampler_rejects_estimator(estimator):
    with pytest.raises(ValueError, match=r"`estimator`.*one of 'simple'"):
        SubsetSampler(2, estimator=estimator)


def test_subset_sampler_rejects_soft_samples_of_simple():
    with pytest.raises(ValueError, match=r"`hard`.*estimator='simple'"):
        SubsetSampler(2, hard=False)


def test_subset_sampler_rejects_marginals_of_relaxed_top_k():
    with pytest.raises(ValueError, match=r"`inference`.*'top_k' or 'sample'"):
        SubsetSampler(2, estimator="relaxed_top_k", inference="marginals")


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("temperature", 0.0),
        ("inference", "argmax"),
        ("axis", 1.0),
        ("seed", -1),
    ],
)
def test_subset_sampler_rejects_other_arguments(argument, value):
    with pytest.raises(ValueError, match=f"`{argument}` of `SubsetSampler`"):
        SubsetSampler(2, **{argument: value})


@pytest.mark.parametrize("axis", [2, -3])
def test_subset_sampler_rejects_axis_its_inputs_lack(axis):
    with pytest.raises(ValueError, match=r"`axis`.*in \[-2, 2\)"):
        SubsetSampler(2, axis=axis)(LOGITS)
