import keras
import numpy as np
import pytest
from keras import ops

from keras_gumbel.layers import PermutationSampler
from keras_gumbel.ops import matching
from keras_gumbel.ops import sinkhorn
from keras_gumbel.schedules import LinearAnnealing
from tests.contracts import step_counters
from tests.contracts import values_of
from tests.gradients import gradient
from tests.gradients import to_numpy

X = np.random.default_rng(0).normal(size=(4, 3, 3)).astype("float32")
WEIGHTS = np.random.default_rng(1).normal(size=(3, 3)).astype("float32")


def sample(layer, inputs=X, **options):
    return to_numpy(layer(inputs, training=True, **options))


def sample_slope(layer):
    def weighted(x):
        y = layer(x, training=True)
        return ops.sum(y * ops.convert_to_tensor(WEIGHTS))

    return gradient(weighted, X)[0]


def require_sums(samples):
    for axis in (-1, -2):
        np.testing.assert_allclose(samples.sum(axis), 1.0, rtol=0, atol=1e-6)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "float16"])
def test_samples_are_permutations_or_their_mixtures(policy):
    hard = sample(PermutationSampler(seed=0, dtype=policy))
    soft = sample(PermutationSampler(hard=False, seed=0, dtype=policy))

    assert set(np.unique(hard)) == {0.0, 1.0}
    assert ((soft > 0) & (soft < 1)).all()
    for samples in (hard, soft):
        require_sums(samples)


def test_hard_samples_have_the_gradient_of_soft_ones():
    hard, soft = (PermutationSampler(0.5, h, seed=0) for h in (True, False))

    slopes = sample_slope(hard)

    assert slopes.all()
    np.testing.assert_array_equal(slopes, sample_slope(soft))


def test_temperature_follows_its_schedule():
    annealed = PermutationSampler(LinearAnnealing(2.0, 0.5, 1), False, seed=0)
    constant = [PermutationSampler(t, False, seed=0) for t in (2.0, 0.5)]

    for step, layer in enumerate(constant):
        for _ in range(step):
            sample(layer)
        np.testing.assert_allclose(sample(annealed), sample(layer), atol=1e-6)
    assert values_of(step_counters(annealed)) == [2]


def test_num_iterations_are_those_of_sinkhorn():
    for count in (1, 5):
        layer = PermutationSampler(0.1, False, num_iterations=count)

        samples = sample(layer, noise=np.zeros_like(X))

        np.testing.assert_allclose(
            samples, to_numpy(sinkhorn(X, 0.1, count)), atol=1e-6
        )


@pytest.mark.parametrize("training", [False, True])
def test_missing_items_stay_where_they_are(training):
    mask = np.array([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0]], bool)
    layer = PermutationSampler(seed=0)

    samples = to_numpy(layer(5.0 - X, mask=mask, training=training))

    require_sums(samples)
    for one, items in zip(samples, mask, strict=True):
        assert (np.diag(one)[~items] == 1).all()


def test_mask_of_time_steps_is_one_of_items():
    inputs = X.copy()
    inputs[:, 1] = 0.0
    model = keras.Sequential(
        [
            keras.Input((3, 3)),
            keras.layers.Masking(),
            PermutationSampler(inference="sample", seed=0),
        ]
    )

    samples = to_numpy(model(inputs))

    assert (samples[:, 1, 1] == 1).all()


def test_inference_is_a_choice():
    best, soft, drawn = (
        to_numpy(PermutationSampler(0.5, inference=name, seed=0)(X))
        for name in PermutationSampler.INFERENCE
    )

    np.testing.assert_array_equal(best, to_numpy(matching(X)))
    np.testing.assert_allclose(soft, to_numpy(sinkhorn(X, 0.5)), atol=1e-6)
    np.testing.assert_array_equal(
        drawn, sample(PermutationSampler(0.5, seed=0))
    )


def test_sampler_learns_to_sort():
    rng = np.random.default_rng(0)
    numbers = rng.uniform(size=(256, 5)).astype("float32")
    entrance = keras.Input((5,))
    each = keras.layers.Reshape((5, 1))(entrance)
    hidden = keras.layers.Dense(16, "relu")(each)
    order = PermutationSampler(0.3, seed=0)(keras.layers.Dense(5)(hidden))
    moved = keras.layers.Dot((1, 1))([order, each])
    model = keras.Model(entrance, keras.layers.Flatten()(moved))
    model.compile(keras.optimizers.Adam(0.03), "mse")
    before = model.evaluate(numbers, np.sort(numbers), verbose=0)

    model.fit(numbers, np.sort(numbers), epochs=15, verbose=0)

    after = model.evaluate(numbers, np.sort(numbers), verbose=0)
    assert after < 0.2 * before


@pytest.mark.parametrize("shape", [(2, 3), (3,), (None, 3, 2)])
def test_inputs_must_be_square_matrices(shape):
    with pytest.raises(ValueError, match="`inputs` of `PermutationSampler`"):
        PermutationSampler().build(shape)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("temperature", 0.0),
        ("num_iterations", 0),
        ("inference", "argmax"),
        ("precision", "double"),
        ("seed", -1),
    ],
)
def test_bad_arguments_are_refused(argument, value):
    with pytest.raises(
        ValueError, match=f"`{argument}` of `PermutationSampler`"
    ):
        PermutationSampler(**{argument: value})
