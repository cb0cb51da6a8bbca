import itertools

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gumbel as kg
from tests.gradients import to_numpy
from tests.sparsity.test_any_model import masks_of


def masked(granularity="2:4", **options):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), layers.Dense(3, name="out")])
    mask = kg.masks.PatternMask(seed=0, **options)
    kg.sparsify(model, mask, granularity=granularity, freeze_weights=True)
    return model, masks_of(model)[0]


def set_scores(mask, seed=0):
    values = np.random.default_rng(seed).uniform(size=mask.mask_scores.shape)
    mask.mask_scores.assign(values.astype("float32"))
    return values


def probabilities(scores, scale, count):
    """Those of all patterns of one group, by enumeration."""
    kept = list(itertools.combinations(range(len(scores)), count))
    weights = np.exp([scale * scores[list(k)].sum() for k in kept])
    return kept, weights / weights.sum()


@pytest.mark.parametrize(("ratio", "count"), [("1:4", 1), ("2:4", 2)])
def test_the_expectation_is_that_of_all_patterns(ratio, count):
    _, mask = masked(ratio, inference="mean", scale=3.0)
    scores = set_scores(mask)  # (2, 4, 3)

    found = to_numpy(mask.draw())

    for group, unit in itertools.product(range(2), range(3)):
        kept, probs = probabilities(scores[group, :, unit], 3.0, count)
        expected = np.zeros(4)
        for places, p in zip(kept, probs, strict=True):
            expected[list(places)] += p
        np.testing.assert_allclose(found[group, :, unit], expected, atol=1e-5)


def test_samples_follow_the_probabilities_of_patterns():
    _, mask = masked(scale=2.0, temperature=0.01)
    scores = set_scores(mask)

    draws = np.stack([to_numpy(mask.draw(True)) for _ in range(2000)])

    kept, probs = probabilities(scores[1, :, 2], 2.0, 2)
    found = [(draws[:, 1, list(k), 2] > 0.5).all(-1).mean() for k in kept]
    # Six standard errors of a share.
    assert np.abs(found - probs).max() < 6 * 0.5 / np.sqrt(2000)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("inference", ["mode", "mean"])
def test_two_of_four_are_kept_in_sum(training, inference):
    _, mask = masked(inference=inference)
    set_scores(mask)

    np.testing.assert_allclose(
        to_numpy(mask.draw(training)).sum(1), 2.0, atol=1e-5
    )


def test_the_mode_is_what_hardening_keeps():
    model, mask = masked()
    set_scores(mask)
    mode = to_numpy(mask.draw())

    kg.harden(model, density=0.5)

    np.testing.assert_array_equal(to_numpy(mask.final_mask), mode)


def test_scores_start_from_the_magnitudes_of_weights():
    model, mask = masked(prior=0.5)
    kernel = np.abs(to_numpy(model.layers[0].kernel)).reshape(2, 4, 3)

    scores = to_numpy(mask.mask_scores)

    ranks = np.argsort(np.argsort(-kernel, axis=1), axis=1)
    np.testing.assert_array_equal(scores, np.where(ranks < 2, 1.0, 0.5))


def test_a_choice_among_patterns_is_learned_and_loaded(tmp_path):
    model, _ = masked()
    generator = np.random.default_rng(1)
    kernel = generator.uniform(0.5, 1.0, size=(8, 3)).astype("float32")
    model.layers[0].kernel.assign(kernel)
    wanted = np.zeros((8, 3), "float32")
    wanted[[0, 3, 5, 6]] = kernel[[0, 3, 5, 6]]
    x = np.random.default_rng(0).normal(size=(256, 8)).astype("float32")
    model.compile(
        kg.optimizers.ProjectedOptimizer(
            "adam",
            density=kg.schedules.CubicDensity(0.5, steps=80),
            score_optimizer=keras.optimizers.Adam(0.05),
        ),
        "mse",
    )
    model.fit(x, x @ wanted, batch_size=32, epochs=10, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")

    np.testing.assert_allclose(
        to_numpy(loaded(x)), to_numpy(model(x)), atol=1e-6
    )
    kg.strip(model)
    np.testing.assert_array_equal(to_numpy(model.layers[0].kernel), wanted)


def test_other_granularities_are_left_out_with_the_reason():
    with pytest.raises(ValueError, match="needs an N:M granularity"):
        masked("weight")


@pytest.mark.parametrize("argument", [{"scale": 0}, {"prior": 2}])
def test_arguments_out_of_range_raise(argument):
    (name,) = argument
    with pytest.raises(ValueError, match=f"`{name}` of `PatternMask`"):
        kg.masks.PatternMask(**argument)


def test_gradients_are_finite_for_scores_of_zero_and_one():
    _, mask = masked()
    mask.mask_scores.assign(ops.round(mask.mask_scores))

    drawn = to_numpy(mask.draw(True))

    assert np.isfinite(drawn).all()


def test_it_cannot_stand_between_layers():
    with pytest.raises(ValueError, match="cannot be used between layers"):
        kg.masks.PatternMask()(ops.ones((2, 4)))
