"""Trains, hardens, strips, saves and loads with the package as installed.

`make dist` runs it in environments of nothing but a backend, Keras and the
wheel, in a folder from which the source cannot be imported.
"""

import importlib.metadata
import importlib.util
import pathlib
import sys
import tempfile

import keras
import numpy as np
from keras import layers

import keras_gumbel as kg

BUDGET = 48
BATCHES = 8
EPOCHS = 2
CLASSES = 4

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
X = rng.normal(size=(8 * BATCHES, 20)).astype("float32")
Y = rng.integers(CLASSES, size=len(X))


def check_installation() -> None:
    package = pathlib.Path(kg.__file__).parent
    assert package.is_relative_to(sys.prefix), f"imported from {package}"
    assert (package / "py.typed").exists()
    assert importlib.metadata.version("keras-gumbel") == kg.__version__
    # Optional means that all of the above was imported without it.
    assert importlib.util.find_spec("matplotlib") is None


def predict(model: keras.Model) -> np.ndarray:
    return model.predict(X, verbose=0)


def fit(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    history = model.fit(X, Y, batch_size=8, epochs=EPOCHS, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def saved_and_loaded(model: keras.Model) -> keras.Model:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.keras"
        model.save(path)
        loaded = keras.saving.load_model(path)
    np.testing.assert_array_equal(predict(loaded), predict(model))
    return loaded


def check_sparsity() -> None:
    dense = keras.Sequential(
        [
            keras.Input((20,)),
            layers.Dense(16, activation="relu"),
            layers.Dense(CLASSES),
        ]
    )
    sparse = kg.sparsify(dense)
    assert sparse is dense
    weights = kg.sparsity_report(sparse).weights
    schedule = kg.schedules.CubicDensity(BUDGET / weights, EPOCHS * BATCHES)
    fit(sparse, kg.optimizers.ProjectedOptimizer("adam", density=schedule))
    print(kg.sparsity_report(saved_and_loaded(sparse)))

    hard = saved_and_loaded(kg.harden(sparse))
    assert kg.sparsity_report(hard).kept == BUDGET
    expected = predict(hard)
    plain = saved_and_loaded(kg.strip(hard))
    kernels = [w for w in plain.get_weights() if w.ndim > 1]
    assert sum(map(np.count_nonzero, kernels)) == BUDGET
    np.testing.assert_array_equal(predict(plain), expected)


def check_choice() -> None:
    model = keras.Sequential(
        [
            keras.Input((20,)),
            layers.Dense(5),
            kg.layers.GumbelSoftmax(temperature=0.5),
            layers.Dense(CLASSES),
        ]
    )
    fit(model, keras.optimizers.Adam())
    saved_and_loaded(model)


check_installation()
check_sparsity()
check_choice()
print(f"keras-gumbel {kg.__version__} works on {keras.config.backend()}")
