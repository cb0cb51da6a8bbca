import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gumbel as kg
from keras_gumbel.layers import SaliencyMask
from keras_gumbel.layers import Sparsified
from tests.gradients import to_numpy

X = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
Y = np.random.default_rng(1).normal(size=(12, 3)).astype("float32")


def model_with(mask, seed=0):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(6), layers.Dense(3)]
    )
    return kg.sparsify(model, mask, seed=seed)


def train(model, steps=1, **limits):
    limits = limits or {"budget": 10}
    model.compile(
        kg.optimizers.ProjectedOptimizer(keras.optimizers.SGD(0.1), **limits),
        "mse",
        run_eagerly=keras.config.backend() != "jax",
    )
    for _ in range(steps):
        model.train_on_batch(X, Y)
    return model


def flat(variables):
    return np.concatenate([to_numpy(v).ravel() for v in variables])


def scores(model):
    return flat(m.mask_scores for x in model.layers for m in x.masks)


def kernels(model):
    return flat(k for x in model.layers for k in x.kernels)


@pytest.mark.parametrize("gradient", ["masked", "dense"])
def test_saliency_mask_keeps_the_largest_weights_of_all_layers(gradient):
    model = train(model_with(SaliencyMask(gradient=gradient)), steps=3)

    magnitudes = np.abs(kernels(model))
    kept = np.flatnonzero(scores(model))

    assert set(kept) == set(np.argsort(-magnitudes)[:10])
    assert set(np.unique(scores(model))) == {0.0, 1.0}


def test_saliency_mask_follows_the_density():
    density = kg.schedules.CubicDensity(0.1, steps=4, end=0.75)
    model = train(model_with("magnitude"), density=density, steps=1)
    kept = [scores(model).sum()]
    for _ in range(3):
        model.train_on_batch(X, Y)
        kept.append(scores(model).sum())

    expected = [float(density(step)) * 42 + 1e-3 for step in (1, 2, 3, 4)]
    assert kept == [np.floor(k) for k in expected]


def gradient_of_the_weights(gradient):
    """Returns what one step at rate 1 takes off, where m = 0 and m = 1."""
    plain = layers.Dense(3, use_bias=False)
    layer = Sparsified(plain, SaliencyMask(gradient=gradient))
    model = keras.Sequential([keras.Input((4,)), layer])
    model.build()
    mask = np.arange(12).reshape(4, 3) % 2
    layer.masks[0].mask_scores.assign(mask.astype("float32"))
    before = to_numpy(plain.kernel)
    layer.masks[0].trainable = False
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.train_on_batch(X, Y)
    moved = before - to_numpy(plain.kernel)
    expected = 2 * X.T @ (X @ (before * mask) - Y) / Y.size
    return moved, expected, mask


def test_masked_gradient_trains_what_is_kept():
    moved, expected, mask = gradient_of_the_weights("masked")

    np.testing.assert_allclose(moved, expected * mask, atol=1e-5)


def test_dense_gradient_trains_every_weight():
    moved, expected, mask = gradient_of_the_weights("dense")

    np.testing.assert_allclose(moved, expected, atol=1e-5)
    assert np.abs(moved[mask == 0]).min() > 0


def test_random_saliency_is_drawn_once_and_by_seed():
    first, again = (
        train(model_with("random", seed=4), steps=s) for s in (1, 3)
    )
    other = train(model_with("random", seed=5))

    np.testing.assert_array_equal(scores(first), scores(again))
    assert scores(first).sum() == 10
    assert (scores(first) != scores(other)).any()
    magnitudes = np.abs(kernels(first))
    assert set(np.flatnonzero(scores(first))) != set(
        np.argsort(-magnitudes)[:10]
    )


@pytest.mark.parametrize("method", ["magnitude", "random"])
def test_saliency_mask_hardens_in_one_shot(method):
    sparse = model_with(method, seed=3)

    hard = kg.harden(sparse, budget=7)

    trained = train(model_with(method, seed=3), budget=7, steps=0)
    trained.optimizer.build(trained.trainable_variables)
    np.testing.assert_array_equal(scores(hard), scores(trained))
    assert kg.sparsity_report(hard).kept == 7


@pytest.mark.parametrize("method", ["magnitude", "random"])
def test_saliency_mask_is_saved_hardened_and_stripped(method, tmp_path):
    model = train(model_with(method))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")

    plain = kg.strip(loaded)

    assert sum(np.count_nonzero(x.kernel) for x in plain.layers) == 10
    for other in (loaded, plain):
        np.testing.assert_allclose(
            to_numpy(other(X)), to_numpy(model(X)), atol=1e-6
        )
    loaded.train_on_batch(X, Y)
    model.train_on_batch(X, Y)
    np.testing.assert_array_equal(scores(loaded), scores(model))


def test_saliencies_and_learned_scores_share_no_budget():
    inputs = keras.Input((4,))
    hidden = Sparsified(layers.Dense(6), SaliencyMask())(inputs)
    model = keras.Model(inputs, Sparsified(layers.Dense(3))(hidden))
    optimizer = kg.optimizers.ProjectedOptimizer("sgd", density=0.5)

    with pytest.raises(ValueError, match="all be learned.*budgets of their"):
        optimizer.build(model.trainable_variables)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"saliency": "taylor"}, "saliency"),
        ({"gradient": "none"}, "gradient"),
        ({"seed": -1}, "seed"),
    ],
)
def test_saliency_mask_rejects(arguments, name):
    with pytest.raises(ValueError, match=rf"`{name}` of `SaliencyMask`"):
        SaliencyMask(**arguments)


def test_saliency_mask_is_a_layer_of_its_own():
    mask = SaliencyMask()
    inputs = ops.ones((2, 3))

    np.testing.assert_array_equal(to_numpy(mask(inputs)), np.ones((2, 3)))
