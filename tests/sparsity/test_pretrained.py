"""What `sparsify` takes for a pretrained network, and what it does with it."""

import math

import keras
import numpy as np
import pytest
from keras import layers

import keras_gumbel as kg
from keras_gumbel._scores import mark_of
from tests.sparsity import zoo
from tests.sparsity.test_any_model import masks_of

pytestmark = pytest.mark.one_backend


def taken_for_pretrained(model, **options):
    kg.sparsify(model, **options)
    (found,) = {mark_of(m.mask_scores).pretrained for m in masks_of(model)}
    return found


def move(variables):
    generator = np.random.default_rng(0)
    for v in variables:
        v.assign(v + 0.1 * generator.normal(size=v.shape).astype("float32"))


def classifier():
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu"),
            layers.BatchNormalization(),
            layers.Dense(3),
        ]
    )


@pytest.mark.parametrize("build", zoo.MODELS)
def test_a_network_of_any_kind_is_new_until_it_is_trained(build):
    fresh, _ = build()
    trained, _ = build()
    move(trained.trainable_variables)

    assert not taken_for_pretrained(fresh)
    assert taken_for_pretrained(trained)


@pytest.mark.every_backend
def test_frozen_networks_are_told_apart_as_well():
    fresh, trained = classifier(), classifier()
    move(trained.trainable_variables)

    assert not taken_for_pretrained(fresh, freeze_weights=True)
    assert taken_for_pretrained(trained, freeze_weights=True)


def test_one_bias_that_starts_elsewhere_makes_no_pretrained_network():
    model = classifier()
    model.layers[-1].bias.assign([0.1, 0.2, 0.3])

    assert not taken_for_pretrained(model)


def test_a_new_head_does_not_make_a_pretrained_network_new():
    model = classifier()
    move(model.layers[0].trainable_variables)
    move(model.layers[1].trainable_variables)

    assert taken_for_pretrained(model)


def test_a_head_on_a_frozen_network_is_judged_alone():
    model = classifier()
    move(model.trainable_variables)
    model.layers[-1].bias.assign(np.zeros(3))
    for layer in model.layers[:-1]:
        layer.trainable = False

    assert not taken_for_pretrained(model)


@pytest.mark.parametrize("pretrained", [False, True])
def test_the_argument_counts_more_than_the_guess(pretrained):
    model = classifier()
    move(model.trainable_variables if not pretrained else [])

    assert taken_for_pretrained(model, pretrained=pretrained) == pretrained


def test_networks_that_show_nothing_count_as_pretrained():
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(3, use_bias=False)]
    )

    assert taken_for_pretrained(model)


@pytest.mark.every_backend
@pytest.mark.parametrize("pretrained", [False, True])
def test_files_keep_what_the_network_was(pretrained, tmp_path):
    model = kg.sparsify(classifier(), pretrained=pretrained)
    model.save(tmp_path / "model.keras")

    loaded = keras.saving.load_model(tmp_path / "model.keras")

    marks = {mark_of(m.mask_scores).pretrained for m in masks_of(loaded)}
    assert marks == {pretrained}


def one_kernel():
    return keras.Sequential([keras.Input((6,)), layers.Dense(8)])


def built(model, density, **options):
    """Puts masks on a model, and returns its optimizer, which is built."""
    kg.sparsify(model, seed=0, **options)
    optimizer = kg.optimizers.ProjectedOptimizer("sgd", density)
    optimizer.build(model.trainable_variables)
    return optimizer


def scores_before_training(pretrained=True, kernel=None, final=0.5, **options):
    """Those of one kernel, once their optimizer is built."""
    model = one_kernel()
    if kernel is not None:
        model.layers[0].kernel.assign(kernel)
    density = kg.schedules.CubicDensity(final, 100, initial=1.0)
    built(model, density, pretrained=pretrained, **options)
    (mask,) = masks_of(model)
    return np.asarray(mask.mask_scores), np.asarray(model.layers[0].kernel)


@pytest.mark.every_backend
def test_scores_of_a_pretrained_network_start_from_magnitudes():
    scores, kernel = scores_before_training()

    scale = math.sqrt(2 * np.square(kernel).mean())
    expected = [0.5 + 0.5 * math.erf(w / scale) for w in abs(kernel).ravel()]
    np.testing.assert_allclose(scores.ravel(), expected, atol=1e-6)


def test_scores_of_units_start_from_their_root_mean_squares():
    scores, kernel = scores_before_training(granularity="unit")

    magnitudes = np.sqrt(np.square(kernel).mean(axis=0))
    order = np.argsort(magnitudes)
    np.testing.assert_array_equal(np.argsort(scores.ravel()), order)


def test_scores_of_zeros_start_equal():
    scores, _ = scores_before_training(kernel=np.zeros((6, 8)))

    np.testing.assert_array_equal(scores, np.full((6, 8), 0.5))


@pytest.mark.parametrize(
    "options",
    [
        {"pretrained": False},
        {
            "mask": kg.masks.LearnedMask(
                scores_initializer=keras.initializers.Constant(0.9)
            )
        },
        {"mask": "magnitude"},
        {"final": 1.0},
    ],
    ids=["new", "own start", "ranked", "all are kept"],
)
def test_other_scores_start_as_they_are(options):
    scores, _ = scores_before_training(**options)

    assert np.unique(scores).size == 1
    assert scores.min() > 0.89


def test_zeros_that_are_kept_stay_zero():
    kernel = np.random.default_rng(0).normal(size=(6, 8))
    kernel[2:5] = 0.0

    scores, _ = scores_before_training(
        kernel=kernel, final=0.25, keep_zeros=True
    )

    np.testing.assert_array_equal(scores == 0, kernel == 0)
    kept = kernel != 0
    order = np.argsort(abs(kernel)[kept])
    np.testing.assert_array_equal(np.argsort(scores[kept]), order)


def test_scores_that_were_trained_start_as_they_are():
    model = one_kernel()
    kg.sparsify(model, pretrained=True)
    (mask,) = masks_of(model)
    found = []
    for _ in range(2):
        optimizer = kg.optimizers.ProjectedOptimizer("sgd", density=0.5)
        optimizer.build(model.trainable_variables)
        found.append(np.asarray(mask.mask_scores))

    np.testing.assert_allclose(*found, atol=1e-6)


@pytest.mark.every_backend
def test_too_few_steps_to_decide_leave_the_largest_magnitudes():
    model = one_kernel()
    kernel = np.asarray(model.layers[0].kernel)
    kg.sparsify(model, pretrained=True)
    inner = keras.optimizers.SGD(0.0)
    density = kg.schedules.CubicDensity(0.25)
    model.compile(
        kg.optimizers.ProjectedOptimizer(
            inner,
            density,
            score_optimizer=kg.optimizers.ScoreSGD(1e-6),
        ),
        loss="mse",
    )
    x = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
    model.fit(x, np.ones((32, 8)), batch_size=8, verbose=0)
    kg.strip(model)

    kept = np.asarray(model.layers[0].kernel) != 0
    assert kept.sum() == 12
    assert abs(kernel)[kept].min() > abs(kernel)[~kept].max()


@pytest.mark.parametrize(
    ("mask", "granularity"),
    [
        pytest.param("learned", "weight", marks=pytest.mark.every_backend),
        ("learned", "unit"),
        ("magnitude", "weight"),
        pytest.param("magnitude", "unit", marks=pytest.mark.every_backend),
        ("concrete", "weight"),
        ("concrete", "unit"),
    ],
)
def test_a_sparse_checkpoint_keeps_its_zeros(mask, granularity):
    model = classifier()
    kernel = model.layers[0].kernel
    zeros = np.zeros(kernel.shape, bool)
    zeros[:, 2:5] = True
    if granularity == "weight":
        zeros[1] = True
    kernel.assign(np.where(zeros, 0.0, np.asarray(kernel)))

    kg.sparsify(model, mask, granularity=granularity, keep_zeros=True, seed=0)
    model.compile(
        kg.optimizers.ProjectedOptimizer("adam", density=0.5), loss="mse"
    )
    x = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
    model.fit(x, x[:, :3], batch_size=8, epochs=2, verbose=0)
    kg.strip(model)

    assert (np.asarray(model.layers[0].kernel)[zeros] == 0).all()
    assert np.count_nonzero(model.layers[0].kernel) > 0


@pytest.mark.parametrize(
    ("mask", "pretrained", "arguments", "expected"),
    [
        ("learned", True, {}, (0.25**0.4, 30)),
        ("learned", True, {"initial": 0.5}, (0.5, 30)),
        ("learned", True, {"end": 0.8}, (0.25**0.4, 80)),
        ("learned", True, {"begin": 0.2}, (0.25**0.4, 40)),
        ("learned", False, {}, (1.0, 60)),
        ("hard_concrete", True, {}, (1.0, 60)),
        ("magnitude", True, {}, (1.0, 60)),
    ],
)
def test_the_density_of_a_pretrained_network_falls_early(
    mask, pretrained, arguments, expected
):
    density = kg.schedules.CubicDensity(0.25, 100, **arguments)
    optimizer = built(one_kernel(), density, mask=mask, pretrained=pretrained)

    initial, end = expected
    assert optimizer.current_budget() == pytest.approx(48 * initial)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    for schedule in (optimizer.density, again.density):
        assert float(schedule(0)) == pytest.approx(initial)
        assert float(schedule(end - 1)) > 0.25
        assert float(schedule(end)) == pytest.approx(0.25)


def test_a_schedule_is_open_until_the_network_is_known():
    density = kg.schedules.CubicDensity(0.25, 100)

    again = kg.schedules.CubicDensity.from_config(density.get_config())
    again.prune_early()

    assert float(density(0)) == 1.0
    assert float(again(0)) == pytest.approx(0.25**0.4)


@pytest.mark.parametrize(
    ("mask", "pretrained", "expected"),
    [
        ("learned", True, 0.05),
        ("learned", False, 0.2),
        ("hard_concrete", True, 0.2),
    ],
)
def test_scores_that_start_in_order_need_no_higher_rate_in_a_short_run(
    mask, pretrained, expected
):
    density = kg.schedules.CubicDensity(0.25, 20)
    optimizer = built(one_kernel(), density, mask=mask, pretrained=pretrained)

    rate = float(optimizer.score_optimizer.learning_rate)

    assert rate == pytest.approx(expected)
