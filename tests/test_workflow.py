import io
import os
import subprocess
import sys
import zipfile

import h5py
import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

import keras_gumbel as kg

BUDGET = 60
EPOCHS = 4
STEPS = EPOCHS * 8

# Loads a model and predicts where the package cannot be imported.
ELSEWHERE = """
import sys
sys.modules["keras_gumbel"] = None
import keras
import numpy as np
model = keras.saving.load_model(sys.argv[1])
x = np.load(sys.argv[2])
np.save(sys.argv[3], model.predict(x, verbose=0))
"""


@pytest.fixture
def digits():
    images, labels = load_digits(return_X_y=True)
    return images[:256].astype("float32") / 16, labels[:256]


def _dense():
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(12, activation="relu", name="hidden"),
            keras.layers.Dense(10, name="logits"),
        ]
    )


def _compiled(model):
    model.compile(
        kg.optimizers.ProjectedOptimizer(
            keras.optimizers.SGD(0.1, momentum=0.9),
            density=kg.schedules.CubicDensity(BUDGET / 888, STEPS),
            score_optimizer=keras.optimizers.Adam(0.05),
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


class _Feasible(keras.callbacks.Callback):
    """Checks the budget at the end of every epoch."""

    def __init__(self):
        super().__init__()
        self.slack = []

    def on_epoch_end(self, epoch, logs=None):
        model = self.model
        inner = getattr(model.optimizer, "inner_optimizer", None)
        projected = (
            inner
            if isinstance(inner, kg.optimizers.ProjectedOptimizer)
            else model.optimizer
        )
        expected = kg.sparsity_report(model).expected
        self.slack.append(projected.current_budget() - expected)


def _fit(model, data, epochs):
    feasible = _Feasible()
    model.fit(
        *data,
        batch_size=32,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[feasible],
    )
    assert len(feasible.slack) == epochs
    # A schedule in float32 may mean a K a little below the whole number.
    assert min(feasible.slack) >= -1e-5


def _saved_kernels(path):
    """Lists the matrices in a file, without those of the optimizer."""
    with zipfile.ZipFile(path) as archive:
        weights = io.BytesIO(archive.read("model.weights.h5"))
    kernels = []
    with h5py.File(weights) as file:
        file.visititems(
            lambda name, item: (
                kernels.append(item[()])
                if isinstance(item, h5py.Dataset)
                and item.ndim == 2
                and not name.startswith("optimizer/")
                else None
            )
        )
    return kernels


def _predict_elsewhere(path, x, folder):
    np.save(folder / "x.npy", x)
    names = [path, folder / "x.npy", folder / "y.npy"]
    subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *map(str, names)],
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        check=True,
        capture_output=True,
    )
    return np.load(folder / "y.npy")


@pytest.mark.parametrize(
    "policy",
    ["float32", pytest.param("mixed_float16", marks=pytest.mark.slow)],
)
def test_workflow_ends_in_a_plain_model_of_exactly_k_weights(
    policy, digits, tmp_path
):
    keras.config.set_dtype_policy(policy)
    model = _compiled(kg.sparsify(_dense(), seed=1))

    _fit(model, digits, EPOCHS // 2)
    model.save(tmp_path / "checkpoint.keras")
    model = keras.saving.load_model(tmp_path / "checkpoint.keras")
    _fit(model, digits, EPOCHS - EPOCHS // 2)
    hard = kg.harden(model)
    hard.fit(*digits, epochs=1, verbose=0)
    kept = kg.sparsity_report(hard).kept
    here = hard.predict(digits[0], verbose=0)
    path = tmp_path / "small.keras"
    kg.strip(hard).save(path)

    assert kept == BUDGET
    kernels = _saved_kernels(path)
    assert sum(np.count_nonzero(k) for k in kernels) == BUDGET
    assert sum(k.size for k in kernels) == 888
    elsewhere = _predict_elsewhere(path, digits[0], tmp_path)
    np.testing.assert_allclose(elsewhere, here, atol=1e-6)


def test_workflow_resumes_bit_for_bit(digits, tmp_path):
    straight = _compiled(kg.sparsify(_dense(), seed=1))
    _fit(straight, digits, 1)
    straight.save(tmp_path / "checkpoint.keras")

    resumed = keras.saving.load_model(tmp_path / "checkpoint.keras")
    _fit(straight, digits, 1)
    _fit(resumed, digits, 1)

    for one, other in zip(
        straight.get_weights(), resumed.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(
        straight.optimizer.variables, resumed.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other)
        )
