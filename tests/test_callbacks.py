import keras
import numpy as np
import pytest

import keras_gumbel as kg


@pytest.fixture
def fitted():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    sparse = kg.sparsify(model, seed=0)
    sparse.compile(
        kg.optimizers.ProjectedOptimizer("sgd", density=0.25), loss="mse"
    )
    data = np.ones((8, 4)), np.ones((8, 5))
    history = sparse.fit(
        *data,
        epochs=2,
        validation_data=data,
        callbacks=[kg.callbacks.SparsityLogger()],
        verbose=0,
    )
    return sparse, history.history


def test_sparsity_logger_adds_its_keys_to_the_history(fitted):
    sparse, history = fitted
    report = kg.sparsity_report(sparse)

    assert history["density"] == [0.25, 0.25]
    assert len(history["undecided"]) == 2
    assert history["undecided"][-1] == report.undecided / report.weights
    assert "val_loss" in history


def test_sparsity_logger_sees_what_training_has_changed(fitted):
    _, history = fitted

    # All scores start undecided, at a quarter each.
    assert history["undecided"][0] == 1.0
