import keras
import numpy as np
import pytest
from keras import layers

import keras_gumbel as kg
from keras_gumbel.masks import MagnitudeMask
from tests.gradients import to_numpy
from tests.masks.ranked import X
from tests.masks.ranked import Y
from tests.masks.ranked import kernels_of
from tests.masks.ranked import model_with
from tests.masks.ranked import scores_of
from tests.masks.ranked import train


@pytest.mark.parametrize("gradient", ["masked", "dense"])
def test_magnitude_mask_keeps_the_largest_weights_of_all_layers(gradient):
    model = train(model_with(MagnitudeMask(gradient=gradient)), steps=3)

    magnitudes = np.abs(kernels_of(model))
    kept = np.flatnonzero(scores_of(model))

    assert set(kept) == set(np.argsort(-magnitudes)[:10])
    assert set(np.unique(scores_of(model))) == {0.0, 1.0}


def test_magnitude_mask_follows_the_density():
    density = kg.schedules.CubicDensity(0.1, steps=4, end=0.75)
    model = train(model_with("magnitude"), density=density, steps=1)
    kept = [scores_of(model).sum()]
    for _ in range(3):
        model.train_on_batch(X, Y)
        kept.append(scores_of(model).sum())

    expected = [float(density(step)) * 42 + 1e-3 for step in (1, 2, 3, 4)]
    assert kept == [np.floor(k) for k in expected]


def test_magnitude_mask_compares_units_by_their_root_mean_square():
    layer = layers.Dense(3, use_bias=False)
    layer.build((None, 4))
    layer.kernel.assign(
        np.float32([[4, 0, 1], [0, 3, 2], [0, 3, 2], [0, 0, 2]])
    )
    kg.sparsify(layer, "magnitude", granularity="unit")

    kg.harden(layer, budget=4)

    final = to_numpy(layer.weight_masks[0].final_mask)
    assert final.tolist() == [[0.0, 1.0, 0.0]]


def gradient_of_the_weights(gradient):
    """Returns what one step at rate 1 takes off, where m = 0 and m = 1."""
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, use_bias=False)]
    )
    (layer,) = model.layers
    kg.sparsify(model, MagnitudeMask(gradient=gradient))
    mask = np.arange(12).reshape(4, 3) % 2
    layer.weight_masks[0].mask_scores.assign(mask.astype("float32"))
    before = to_numpy(layer.kernel)
    layer.weight_masks[0].trainable = False
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.train_on_batch(X, Y)
    moved = before - to_numpy(layer.kernel)
    expected = 2 * X.T @ (X @ (before * mask) - Y) / Y.size
    return moved, expected, mask


def test_masked_gradient_trains_what_is_kept():
    moved, expected, mask = gradient_of_the_weights("masked")

    np.testing.assert_allclose(moved, expected * mask, atol=1e-5)


def test_dense_gradient_trains_every_weight():
    moved, expected, mask = gradient_of_the_weights("dense")

    np.testing.assert_allclose(moved, expected, atol=1e-5)
    assert np.abs(moved[mask == 0]).min() > 0


def test_ranked_and_learned_scores_share_no_budget():
    model = model_with("magnitude", filters="^dense/")
    kg.sparsify(model, filters="^dense_1/")
    optimizer = kg.optimizers.ProjectedOptimizer("sgd", density=0.5)

    with pytest.raises(ValueError, match="all be learned.*separate budgets"):
        optimizer.build(model.trainable_variables)


def test_magnitude_mask_rejects_gradient():
    with pytest.raises(ValueError, match="`gradient` of `MagnitudeMask`"):
        MagnitudeMask(gradient="none")


def choices(frequency, steps, **limits):
    """Returns the mask, and the kept magnitudes, after every step."""
    mask = MagnitudeMask("dense", frequency)
    model = train(model_with(mask), steps=0, harden_step=None, **limits)
    model.optimizer.build(model.trainable_variables)
    masks = [scores_of(model)]
    for _ in range(steps):
        model.train_on_batch(X, Y)
        masks.append(scores_of(model))
        if len(masks) % frequency == 1 or frequency == 1:
            largest = np.argsort(-np.abs(kernels_of(model)))
            kept = np.flatnonzero(masks[-1])
            assert set(kept) == set(largest[: len(kept)])
    return np.stack(masks)


def test_a_mask_is_chosen_in_every_so_manieth_update():
    density = kg.schedules.CubicDensity(0.1, steps=12)

    often = choices(1, 8, density=density)
    seldom = choices(3, 8, density=density)

    kept = often.sum(axis=1)
    assert kept[0] > kept[3] > kept[6]
    assert (
        seldom.sum(axis=1).tolist()
        == kept[[0, 0, 0, 3, 3, 3, 6, 6, 6]].tolist()
    )
    for start in (0, 3, 6):
        assert (seldom[start : start + 3] == seldom[start]).all()


def test_weights_outside_a_mask_move_until_it_is_chosen_again():
    masks = choices(4, 8, density=0.3)

    assert (masks[4] != masks[0]).any()


def test_scores_written_from_outside_do_not_wait_for_the_next_choice():
    model = train(model_with(MagnitudeMask(frequency=50)), steps=2)
    for layer in model.layers:
        scores = layer.weight_masks[0].mask_scores
        scores.assign(np.ones(scores.shape))

    model.train_on_batch(X, Y)

    assert scores_of(model).sum() == 10


def test_evaluation_between_two_choices_leaves_the_mask():
    density = kg.schedules.CubicDensity(0.1, steps=6)
    model = train(
        model_with(MagnitudeMask(frequency=3)), steps=4, density=density
    )
    before = scores_of(model)

    model.evaluate(X, Y, verbose=0)
    kg.sparsity_report(model)

    assert (scores_of(model) == before).all()


def test_the_final_mask_does_not_wait_for_the_next_choice():
    density = kg.schedules.CubicDensity(0.1, steps=5)
    model = train(
        model_with(MagnitudeMask(frequency=4)),
        steps=5,
        density=density,
        harden_step=5,
    )

    assert scores_of(model).sum() == np.floor(0.1 * 42 + 1e-3)


def test_fit_in_a_graph_chooses_in_the_same_steps():
    density = kg.schedules.CubicDensity(0.1, steps=6)
    model = model_with(MagnitudeMask("dense", 3))
    model.compile(
        kg.optimizers.ProjectedOptimizer(
            keras.optimizers.SGD(0.1), density, harden_step=None
        ),
        "mse",
    )
    seen = []
    for _ in range(8):
        model.fit(X, Y, batch_size=len(X), verbose=0)
        seen.append(scores_of(model).sum())

    expected = choices(3, 8, density=density).sum(axis=1)[1:]
    assert seen == expected.tolist()


def test_masks_of_one_budget_have_one_frequency():
    model = model_with("magnitude", filters="^dense/")
    kg.sparsify(model, MagnitudeMask(frequency=2), filters="^dense_1/")
    optimizer = kg.optimizers.ProjectedOptimizer("sgd", density=0.5)

    with pytest.raises(ValueError, match="same `frequency`.*separate budgets"):
        optimizer.build(model.trainable_variables)


@pytest.mark.parametrize("bad", [0, -1, 1.5, None])
def test_magnitude_mask_rejects_frequency(bad):
    with pytest.raises(ValueError, match="`frequency` of `MagnitudeMask`"):
        MagnitudeMask(frequency=bad)
