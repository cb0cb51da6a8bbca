import keras
import numpy as np
import pytest
from keras import layers

import keras_gumbel as kg
from tests.gradients import to_numpy

pytestmark = pytest.mark.one_backend

RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 40)).astype("float32")


def sparse_model():
    """Three layers, the second one with outliers."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((40,)),
            layers.Dense(30, "tanh"),
            layers.Dense(30, "tanh"),
            layers.Dense(20),
        ]
    )
    kernel = model.layers[1].kernel
    values = to_numpy(kernel).copy()
    values[::5, ::5] *= 30
    kernel.assign(values)
    kg.calibrate(model, X, verbose=0)
    return kg.sparsify(model, "wanda")


def inputs_of(model):
    rows = [X]
    for layer in model.layers[:-1]:
        rows.append(to_numpy(layer(rows[-1])))
    return [x.astype("float64") for x in rows]


def sizes_of(model):
    return np.array(
        [layer.kernel.shape[0] * layer.units for layer in model.layers]
    )


def densities_of(model, density, method):
    found = kg.layer_densities(model, density, method)
    assert list(found) == [s.name for s in kg.sparsity_report(model).rows]
    return np.array(list(found.values()))


@pytest.mark.parametrize("density", [0.3, 0.05, 0.97])
def test_owl_follows_the_shares_of_outliers(density):
    model = sparse_model()
    sizes, shares = sizes_of(model), []
    for layer, x in zip(model.layers, inputs_of(model), strict=True):
        scale = np.sqrt(np.mean(x**2, axis=0))
        saliency = np.abs(to_numpy(layer.kernel)) * scale[:, None]
        shares.append(np.mean(saliency > 5 * saliency.mean()))
    above = np.array(shares) - np.average(shares, weights=sizes)
    reach = min(0.08, density, 1 - density)

    found = densities_of(model, density, "owl")

    expected = density + reach * above / np.abs(above).max()
    np.testing.assert_allclose(found, expected, atol=2 / sizes.min())
    assert found[1] == found.max()
    assert (sizes * found).sum() == pytest.approx(density * sizes.sum(), abs=1)


def test_obs_shares_out_the_largest_removal_costs():
    model = sparse_model()
    sizes, costs = sizes_of(model), []
    for layer, x in zip(model.layers, inputs_of(model), strict=True):
        w, h = to_numpy(layer.kernel), x.T @ x / len(x)
        mean = 0.01 * np.mean(np.diag(h))
        inverse = np.linalg.inv(h + mean * np.eye(len(h)))
        energy = np.trace(w.T @ h @ w)
        costs.append((w**2 / np.diag(inverse)[:, None] / energy).ravel())
    least = np.sort(np.concatenate(costs))[-int(0.3 * sizes.sum())]

    found = densities_of(model, 0.3, "obs")

    expected = [np.mean(cost >= least) for cost in costs]
    np.testing.assert_allclose(found, expected, atol=3 / sizes.min())
    assert (sizes * found).sum() == pytest.approx(0.3 * sizes.sum(), abs=1)
    assert found.max() - found.min() > 0.05


@pytest.mark.every_backend
@pytest.mark.parametrize("method", ["owl", "obs"])
def test_densities_are_what_harden_takes(method):
    model = sparse_model()
    densities = kg.layer_densities(model, 0.2, method)

    kg.harden(model, densities)

    for row in kg.sparsity_report(model).rows:
        assert row.kept / row.weights == pytest.approx(densities[row.name])


@pytest.mark.parametrize("method", ["owl", "obs"])
def test_layers_without_calibration_data_are_named(method):
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(4, name="known"), layers.Dense(3)]
    )
    kg.calibrate(
        keras.Sequential([keras.Input((6,)), model.layers[0]]),
        X[:, :6],
        verbose=0,
    )
    kg.sparsify(model)

    with pytest.raises(ValueError, match="data for dense.*/kernel") as error:
        kg.layer_densities(model, 0.5, method)

    assert "known" not in str(error.value)
