"""Files of earlier versions load, and predict what they did.

`python -m tests.test_saved_files` adds those of the version that runs it.
"""

import pathlib

import keras
import numpy as np
import pytest
from keras import layers

import keras_gumbel as kg
from tests.gradients import to_numpy
from tests.newer_keras import require_keras

KERAS = "3.15"  # wrote the files
DATA = pathlib.Path(__file__).parent / "data"
X = np.linspace(-1, 1, 24, dtype="float32").reshape(4, 6)


# How many masks a report shows, by the name of the file.
ROWS = {"choices": 9, "ranked": 2, "channels": 3}


def choices():
    """Layers that sample, gates, and masks with learned scores."""
    inputs = keras.Input((6,))
    annealed = kg.schedules.LinearAnnealing(1.0, 0.5, steps=10)
    choice = kg.layers.GumbelSoftmax(annealed, seed=1)(layers.Dense(4)(inputs))
    hard = kg.layers.StraightThroughArgmax(seed=2)(layers.Dense(4)(inputs))
    subset = kg.layers.SubsetSampler(2, seed=3)(layers.Dense(4)(inputs))
    gates = map(kg.masks.get, ("concrete", "hard_concrete", "gaussian"))
    gated = [gate(inputs) for gate in (*gates, kg.masks.LearnedMask())]
    merged = layers.Concatenate()([choice, hard, subset, *gated])
    merged = layers.Dense(4, name="patterns")(merged)
    model = keras.Model(inputs, layers.Dense(3, name="out")(merged))
    kg.sparsify(model, filters=r"^dense(_\d)?/", granularity="1:2")
    patterns = kg.masks.PatternMask(seed=4)
    kg.sparsify(model, patterns, filters="^patterns/", granularity="2:4")
    kg.sparsify(model, "concrete", filters="^out/", granularity=(2, 1), seed=7)
    return model


def ranked():
    """Masks that are chosen by saliencies."""
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, "relu", name="magnitude"),
            layers.Dense(8, "relu", name="fan_in"),
            layers.Dense(3),
        ]
    )
    kg.sparsify(model, "magnitude", filters="^magnitude/")
    kg.sparsify(model, "random", filters="^fan_in/", granularity="fan_in")
    return model


def channels():
    """Coupled channels, whose importance is an average over steps."""
    model = keras.Sequential(
        [
            keras.Input((6, 1)),
            layers.Conv1D(8, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv1D(8, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    return kg.sparsify(model, granularity="channel")


def save_version():
    DATA.mkdir(exist_ok=True)
    for make in (choices, ranked, channels):
        keras.utils.set_random_seed(0)
        keras.utils.clear_session()
        model = make()
        model.compile(
            kg.optimizers.ProjectedOptimizer(
                "adam", density=kg.schedules.CubicDensity(0.5, steps=10)
            ),
            "mse",
        )
        x = inputs_of(model)
        model.fit(x, np.ones((4, 3), "float32"), epochs=3, verbose=0)
        path = DATA / f"version_{kg.__version__}_{make.__name__}.keras"
        model.save(path)
        np.save(path.with_suffix(".npy"), model.predict(x, verbose=0))


def inputs_of(model):
    return X.reshape(4, *model.input_shape[1:])


@pytest.mark.parametrize("path", sorted(DATA.glob("*.keras")), ids=str)
def test_file_of_an_earlier_version_predicts_what_it_did(path):
    require_keras(KERAS, "the layers that were saved")
    model = keras.saving.load_model(path)

    predictions = to_numpy(model(inputs_of(model)))

    np.testing.assert_allclose(
        predictions, np.load(path.with_suffix(".npy")), atol=1e-5
    )
    optimizer = model.optimizer
    assert isinstance(optimizer, kg.optimizers.ProjectedOptimizer)
    assert int(keras.ops.convert_to_numpy(optimizer.iterations)) == 3
    report = kg.sparsity_report(model)
    assert len(report.rows) == ROWS[path.stem.rpartition("_")[2]]
    assert 0 < report.kept < report.weights


def test_there_are_files_of_this_version():
    for name in ROWS:
        assert (DATA / f"version_{kg.__version__}_{name}.keras").exists()


if __name__ == "__main__":
    save_version()
