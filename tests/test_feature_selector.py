import pickle
import random
import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pytest
from keras import layers
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator

import keras_gumbel as kg
from tests.cases import compiled_for

# Where a model is compiled for every case, torch alone is quick.
torch_only = pytest.mark.backends("torch")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(640, 8))
# Neither feature tells anything about this without the other.
BOTH = X[:, 2] * X[:, 5] > 0
SEPARATE = X[:, [1, 6]] > 0


def network(X, y, optimizer="adam"):
    """Two layers, with one output for each column of the target."""
    outputs = y.shape[1] if y.ndim > 1 else 1
    model = keras.Sequential(
        [
            keras.Input((X.shape[1],)),
            layers.Dense(16, activation="relu"),
            layers.Dense(outputs),
        ]
    )
    # Nothing to compile: `check_estimator` fits some 80 models.
    model.compile(optimizer, loss="mse", run_eagerly=True)
    return model


def selector(**kwargs):
    options = {"epochs": 12, "batch_size": 32, "random_state": 0, **kwargs}
    return kg.FeatureSelector(**options)


def selected(y, **kwargs):
    return selector(**kwargs).fit(X, y).get_support(indices=True).tolist()


def checks_of_scikit_learn():
    """Lists what `parametrize_with_checks` does, with ids without addresses."""
    selector = kg.FeatureSelector(network, epochs=1)
    return [
        pytest.param(estimator, check, id=f"{i}_{check.func.__name__}")
        for i, (estimator, check) in enumerate(
            estimator_checks_generator(selector)
        )
    ]


@pytest.mark.one_backend
@pytest.mark.slow
@pytest.mark.parametrize(("estimator", "check"), checks_of_scikit_learn())
def test_selector_passes_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


@torch_only
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bool", "int64", "str"])
def test_selector_finds_features_that_tell_classes_together(dtype):
    y = BOTH.astype(dtype)

    assert selected(y, n_features_to_select=2, epochs=30) == [2, 5]


@torch_only
def test_selector_finds_features_of_a_regression():
    y = 1e4 * (X[:, 1] + X[:, 6]) + 1e5

    assert selected(y, n_features_to_select=2) == [1, 6]
    assert selected(np.stack([y, -y], 1), n_features_to_select=2) == [1, 6]


@torch_only
def test_selector_finds_features_of_several_labels():
    assert selected(SEPARATE, n_features_to_select=2) == [1, 6]
    assert selected(SEPARATE.astype(int), n_features_to_select=2) == [1, 6]


@torch_only
def test_selector_without_a_target_finds_features_that_tell_the_others():
    hidden = RNG.normal(size=(640, 2))
    copies = hidden[:, [0, 0, 0, 1, 1, 1]]
    noisy = copies + 0.1 * RNG.normal(size=copies.shape)

    chosen = selector(n_features_to_select=2).fit(noisy)

    first, second = chosen.get_support(indices=True)
    assert first < 3 <= second


@torch_only
@pytest.mark.parametrize(
    ("wanted", "count"),
    [(None, 4), (1, 1), (3, 3), (8, 8), (0.25, 2), (0.01, 1), (1.0, 8)],
)
def test_selector_selects_exactly_as_many(wanted, count):
    fitted = selector(n_features_to_select=wanted, epochs=1).fit(X, BOTH)

    assert fitted.n_features_ == fitted.support_.sum() == count
    assert fitted.transform(X).shape == (640, count)
    assert np.array_equal(fitted.transform(X), X[:, fitted.support_])


@torch_only
def test_share_of_the_features_is_rounded_down_after_float_rounding():
    x = RNG.normal(size=(64, 100))

    for wanted, count in [(0.29, 29), (0.295, 29), (0.57, 57), (0.999, 99)]:
        chosen = selector(n_features_to_select=wanted, epochs=1, model=network)
        assert chosen.fit(x, x[:, 0]).support_.sum() == count


@torch_only
def test_selector_ranks_the_features_that_it_drops():
    fitted = selector(n_features_to_select=3).fit(X, BOTH)

    assert (fitted.ranking_[fitted.support_] == 1).all()
    dropped = ~fitted.support_
    assert sorted(fitted.ranking_[dropped]) == [2, 3, 4, 5, 6]
    falling = np.argsort(fitted.ranking_[dropped])
    assert (np.diff(fitted.scores_[dropped][falling]) <= 0).all()
    assert fitted.scores_[dropped].max() < fitted.scores_[~dropped].min()
    assert len(fitted.history_["loss"]) == 12


def _global_states():
    return random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002


def test_selector_is_as_its_seed_and_leaves_others_alone():
    states = _global_states()
    first, again, other = (
        selector(random_state=seed, epochs=2).fit(X, BOTH) for seed in (3, 3, 4)
    )

    assert states == _global_states()
    assert first.scores_.tolist() == again.scores_.tolist()
    assert first.history_ == again.history_
    assert first.history_ != other.history_


@torch_only
def test_units_of_features_do_not_matter():
    scale = 10.0 ** np.arange(-4, 4)

    plain = selector(epochs=3).fit(X, BOTH)
    scaled = selector(epochs=3).fit(X * scale + 5 * scale, BOTH)

    np.testing.assert_allclose(plain.scores_, scaled.scores_, atol=1e-3)


UNITS = {
    "tiny": lambda v: v * 1e-9,
    "tinier": lambda v: v * 1e-12,
    "huge": lambda v: v * 1e20,
    "beyond float32": lambda v: v * 1e200,
    "below float32": lambda v: v * 1e-200,
    "subnormal": lambda v: v * 1e-310,
    "offset": lambda v: v + 1e8,
    "tiny with an offset": lambda v: v * 1e-9 + 1.0,
}


@torch_only
@pytest.mark.parametrize("unit", UNITS)
def test_features_of_extreme_units_are_selected(unit):
    x = np.random.default_rng(0).normal(size=(400, 6))
    y = x[:, 0] + x[:, 1] > 0
    x[:, :2] = UNITS[unit](x[:, :2])

    fitted = kg.FeatureSelector(
        n_features_to_select=2, epochs=15, random_state=0
    ).fit(x, y)

    assert fitted.get_support(indices=True).tolist() == [0, 1]


def test_fitted_model_takes_the_units_of_the_features(tmp_path):
    x = X * 10.0 ** np.array([-30, -12, -9, 0, 3, 9, 20, 30])
    plain, scaled = (
        selector(n_features_to_select=7, epochs=1).fit(v, BOTH) for v in (X, x)
    )

    expected = plain.model_.predict(X, verbose=0)

    assert scaled.support_.tolist() == plain.support_.tolist()
    np.testing.assert_allclose(
        scaled.model_.predict(x, verbose=0), expected, atol=1e-4
    )
    scaled.model_.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), expected, atol=1e-4
    )


@torch_only
def test_constant_features_are_no_trouble():
    x = np.concatenate([X, np.full((640, 2), 0.1)], axis=1)

    fitted = selector(n_features_to_select=2, epochs=30).fit(x, BOTH)

    assert fitted.get_support(indices=True).tolist() == [2, 5]
    assert np.isfinite(fitted.history_["loss"]).all()


def test_fitted_model_reads_the_selected_features_alone():
    fitted = selector(n_features_to_select=3).fit(X, BOTH)
    changed = np.where(fitted.support_, X, 7.0)

    expected = fitted.model_.predict(X, verbose=0)

    np.testing.assert_array_equal(
        fitted.model_.predict(changed, verbose=0), expected
    )
    accuracy = np.mean(np.argmax(expected, axis=1) == BOTH)
    assert accuracy > 0.6


@torch_only
def test_selector_in_a_pipeline_and_a_search():
    pipeline = make_pipeline(selector(epochs=4), LogisticRegression())
    grid = {"featureselector__n_features_to_select": [1, 2]}
    y = (X[:, 1] + X[:, 6] > 0).astype(int)

    search = GridSearchCV(pipeline, grid, cv=2).fit(X, y)

    assert list(search.best_params_.values()) == [2]
    best = search.best_estimator_[0]
    names = [f"feature {i}" for i in range(8)]
    assert list(best.get_feature_names_out(names)) == ["feature 1", "feature 6"]
    assert search.score(X, y) > 0.9
    restored = best.inverse_transform(best.transform(X))
    assert np.array_equal(restored != 0, np.tile(best.support_, (640, 1)))


@torch_only
def test_columns_of_a_data_frame_keep_their_names():
    frame = pd.DataFrame(X, columns=list("abcdefgh"))
    fitted = selector(n_features_to_select=2).fit(frame, pd.Series(BOTH))
    assert list(fitted.get_feature_names_out()) == ["c", "f"]
    fitted.set_output(transform="pandas")
    pd.testing.assert_frame_equal(fitted.transform(frame), frame[["c", "f"]])


def compiled(outputs, loss, activation=None):
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(16, activation="relu"),
            layers.Dense(outputs, activation=activation),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), loss)
    return model


LOSSES = {
    "sparse by name": (2, "sparse_categorical_crossentropy", "softmax"),
    "sparse": (
        2,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        None,
    ),
    "sparse function": (
        2,
        keras.losses.sparse_categorical_crossentropy,
        "softmax",
    ),
    "one output": (1, "binary_crossentropy", "sigmoid"),
    "one-hot": (2, "categorical_crossentropy", "softmax"),
}


@pytest.mark.parametrize("case", compiled_for(["sparse"], LOSSES))
def test_model_is_given_classes_as_its_loss_takes_them(case):
    model = compiled(*LOSSES[case])
    before = model.get_weights()
    fitted = selector(model=model, n_features_to_select=2, epochs=20)

    fitted.fit(X, np.where(X[:, 1] + X[:, 6] > 0, "yes", "no"))

    assert fitted.get_support(indices=True).tolist() == [1, 6]
    assert fitted.history_["loss"][-1] < 0.3
    assert all(map(np.array_equal, before, model.get_weights()))
    rate = float(fitted.model_.optimizer.learning_rate)
    assert rate == pytest.approx(0.01)


def test_function_that_builds_a_model_is_given_data_as_by_keras():
    given = []

    def build(X, y):
        given.extend([X, y])
        return network(X, y)

    selector(model=build, epochs=1).fit(3.0 * X + 1.0, BOTH)

    x, y = given
    np.testing.assert_allclose(x.mean(axis=0), 0.0, atol=1e-9)
    np.testing.assert_allclose(x.std(axis=0), 1.0)
    assert np.array_equal(y, np.stack([~BOTH, BOTH], axis=1))


def test_selector_with_a_model_is_cloned():
    own = selector(model=compiled(*LOSSES["one output"]), epochs=2)
    own.set_output(transform="default").fit(X, BOTH)

    twin = clone(own)

    assert twin.get_params() == own.get_params()
    assert not hasattr(twin, "model_")
    assert vars(twin)["_sklearn_output_config"] == {"transform": "default"}
    assert twin.fit(X, BOTH).scores_.tolist() == own.scores_.tolist()


def test_selector_is_pickled_with_its_trained_model():
    fitted = selector(model=network, epochs=2).fit(X, BOTH)

    loaded = pickle.loads(pickle.dumps(fitted))

    assert loaded.support_.tolist() == fitted.support_.tolist()
    np.testing.assert_array_equal(
        loaded.model_.predict(X, verbose=0),
        fitted.model_.predict(X, verbose=0),
    )


def uncompiled(X, y):
    return keras.Sequential([keras.Input((8,)), layers.Dense(1)])


BAD = {
    "no features": ({"n_features_to_select": 0}, BOTH, "n_features_to_select"),
    "too many": ({"n_features_to_select": 9}, BOTH, "n_features_to_select"),
    "a share above one": ({"n_features_to_select": 1.5}, BOTH, "a float in"),
    "no number": ({"n_features_to_select": "half"}, BOTH, "n_features_to"),
    "no epochs": ({"epochs": 0}, BOTH, "`epochs`"),
    "no batch": ({"batch_size": 0}, BOTH, "`batch_size`"),
    "no model": ({"model": "mlp"}, BOTH, "`model` of `FeatureSelector`"),
    "no loss": ({"model": uncompiled}, BOTH, "not compiled with a loss"),
    "one class": ({}, np.ones(640, int), "one class"),
    "several classes": ({}, RNG.integers(3, size=(640, 2)), "`y` of"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    options, y, message = BAD[case]

    with pytest.raises(ValueError, match=message):
        selector(**options).fit(X, y)


def _without_scikit_learn(statement):
    code = f"import sys; sys.modules['sklearn'] = None; {statement}"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    return run.stdout + run.stderr.strip().splitlines()[-1]


@torch_only
@pytest.mark.slow
def test_package_works_without_scikit_learn_and_says_what_is_missing():
    use = "import keras_gumbel as kg; help(kg); kg.FeatureSelector"

    printed = _without_scikit_learn(use)

    assert 'pip install "keras-gumbel[sklearn]"' in printed
    assert "sparsify(model" in printed
    assert "class FeatureSelector" not in printed
    assert "FeatureSelector" in dir(kg)
    with pytest.raises(AttributeError, match="no attribute 'Selector'"):
        _ = kg.Selector
