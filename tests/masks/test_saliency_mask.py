import keras
import numpy as np
import pytest
from keras import layers

import keras_gumbel as kg
from keras_gumbel.masks import SaliencyMask
from tests.contracts import save_and_load
from tests.gradients import to_numpy

RNG = np.random.default_rng(0)
MIXED = RNG.normal(size=(6, 6)) * np.array([0.1, 0.3, 1, 1, 3, 6])
X = (RNG.normal(size=(50, 6)) @ MIXED).astype("float32")
IMAGES = (RNG.normal(size=(9, 6, 6, 3)) * [0.1, 1, 5]).astype("float32")
Y = RNG.normal(size=(50, 4)).astype("float32")


def model_with(mask, x=X, **kwargs):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(5, "tanh"), layers.Dense(4)]
    )
    kg.calibrate(model, x, verbose=0)
    return kg.sparsify(model, mask, **kwargs)


def hessian(x):
    moments = x.astype("float64").T @ x / len(x)
    return moments + 0.01 * np.mean(np.diag(moments)) * np.eye(len(moments))


def scale_of(saliency, x):
    if saliency == "wanda":
        return np.sqrt(np.mean(x.astype("float64") ** 2, axis=0))
    return 1 / np.sqrt(np.diag(np.linalg.inv(hessian(x))))


def saliency_of(layer):
    (mask,) = layer.weight_masks
    return to_numpy(mask.saliency(layer.kernel, mask.parts[0].layout))


def final_masks(model):
    return [to_numpy(x.weight_masks[0].final_mask) for x in model.layers]


@pytest.mark.parametrize("name", ["wanda", "obs"])
def test_saliency_is_the_magnitude_times_that_of_the_inputs(name):
    model = model_with(name)

    hidden, out = model.layers
    for layer, x in ((hidden, X), (out, to_numpy(hidden(X)))):
        expected = np.abs(to_numpy(layer.kernel)) * scale_of(name, x)[:, None]
        np.testing.assert_allclose(saliency_of(layer), expected, rtol=1e-3)


def test_obs_is_what_the_best_reconstruction_loses():
    """(w_ij)^2 / [H^-1]_ii is the least increase of tr(dW^T H dW)."""
    model = model_with("obs")
    layer = model.layers[0]
    w, h = to_numpy(layer.kernel)[:, 2], hessian(X)
    others = [0, 1, 2, 4, 5]

    change = np.zeros(6)
    change[3] = -w[3]
    pull = h[np.ix_(others, [3])] @ [w[3]]
    change[others] = np.linalg.solve(h[np.ix_(others, others)], pull)

    assert saliency_of(layer)[3, 2] ** 2 == pytest.approx(
        change @ h @ change, rel=1e-3
    )


@pytest.mark.parametrize("name", ["wanda", "obs"])
def test_the_largest_saliencies_are_kept(name):
    model = model_with(name)
    saliencies = np.concatenate(
        [saliency_of(layer).ravel() for layer in model.layers]
    )

    kg.harden(model, budget=11)

    kept = np.concatenate([m.ravel() for m in final_masks(model)])
    assert set(np.flatnonzero(kept)) == set(np.argsort(-saliencies)[:11])
    magnitudes = np.concatenate(
        [np.abs(to_numpy(x.kernel)).ravel() for x in model.layers]
    )
    assert set(np.flatnonzero(kept)) != set(np.argsort(-magnitudes)[:11])


def test_convolutions_have_a_number_for_each_input():
    model = keras.Sequential(
        [keras.Input((6, 6, 3)), layers.Conv2D(2, 2, strides=2)]
    )
    kg.calibrate(model, IMAGES, verbose=0)
    kg.sparsify(model, "wanda")
    (layer,) = model.layers

    scale = to_numpy(layer.weight_masks[0].input_scale)

    corners = IMAGES.reshape(9, 3, 2, 3, 2, 3)
    expected = np.sqrt(np.mean(corners**2, axis=(0, 1, 3)))
    np.testing.assert_allclose(scale, expected[..., None], rtol=1e-4)
    np.testing.assert_allclose(
        saliency_of(layer), np.abs(to_numpy(layer.kernel)) * scale, rtol=1e-5
    )


def test_units_are_compared_by_their_root_mean_square():
    model = model_with("wanda", granularity="unit")
    layer = model.layers[0]

    expected = np.abs(to_numpy(layer.kernel)) * scale_of("wanda", X)[:, None]

    np.testing.assert_allclose(
        saliency_of(layer),
        np.sqrt(np.mean(expected**2, axis=0, keepdims=True)),
        rtol=1e-4,
    )


def test_inputs_that_are_always_zero_do_not_matter():
    dead = X.copy()
    dead[:, 2] = 0
    for name in ("wanda", "obs"):
        layer = model_with(name, dead).layers[0]
        assert (saliency_of(layer)[2] == 0).all()
        assert (saliency_of(layer)[[0, 1, 3, 4, 5]] > 0).all()


@pytest.mark.parametrize("name", ["wanda", "obs"])
def test_training_ranks_by_saliency(name):
    model = model_with(name)
    optimizer = kg.optimizers.ProjectedOptimizer("sgd", budget=11)
    model.compile(optimizer, "mse")

    model.fit(X, Y, epochs=2, batch_size=25, verbose=0)

    saliencies = np.concatenate(
        [saliency_of(layer).ravel() for layer in model.layers]
    )
    scores = np.concatenate(
        [to_numpy(x.weight_masks[0].mask_scores).ravel() for x in model.layers]
    )
    assert set(np.flatnonzero(scores)) == set(np.argsort(-saliencies)[:11])


def test_saved_models_are_trained_on_without_calibration():
    model = model_with(SaliencyMask("obs", gradient="dense"))
    model.compile(kg.optimizers.ProjectedOptimizer("sgd", budget=11), "mse")

    loaded = save_and_load(model)

    for layer, again in zip(model.layers, loaded.layers, strict=True):
        np.testing.assert_array_equal(saliency_of(layer), saliency_of(again))
    for resumed in (model, loaded):
        resumed.fit(X, Y, batch_size=50, verbose=0)
        kg.harden(resumed, budget=11)
    for one, other in zip(final_masks(model), final_masks(loaded), strict=True):
        np.testing.assert_array_equal(one, other)


def test_saved_models_are_hardened_again_without_calibration():
    model = model_with("wanda")
    kg.harden(model, budget=20)

    loaded = save_and_load(model)

    for one, other in zip(final_masks(model), final_masks(loaded), strict=True):
        np.testing.assert_array_equal(one, other)
    for again in (model, loaded):
        kg.harden(again, budget=11)
    for one, other in zip(final_masks(model), final_masks(loaded), strict=True):
        np.testing.assert_array_equal(one, other)


def test_weights_without_calibration_data_are_left_out():
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(6), layers.Dense(4)]
    )
    first = keras.Sequential([keras.Input((6,)), model.layers[0]])
    kg.calibrate(first, X, verbose=0)

    with pytest.warns(UserWarning, match=r"kernel \(no calibration data: call"):
        kg.sparsify(model, "wanda")

    masked = [hasattr(layer, "weight_masks") for layer in model.layers]
    assert masked == [True, False]


def test_sparsify_says_when_nothing_is_calibrated():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4)])

    with pytest.raises(ValueError, match="`keras_gumbel.calibrate` first"):
        kg.sparsify(model, "obs")


def test_saliency_mask_rejects():
    with pytest.raises(ValueError, match="`method` of `SaliencyMask`"):
        SaliencyMask("magnitude")
    with pytest.raises(ValueError, match="`gradient` of `SaliencyMask`"):
        SaliencyMask(gradient="none")
