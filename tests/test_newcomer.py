"""The four jobs that newcomers come with, done by the documented API alone."""

import keras
import numpy as np
import pytest
from keras import layers
from sklearn.datasets import load_breast_cancer
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import keras_gumbel as kg


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return train_test_split((x / 16).astype("float32"), y, random_state=0)


def accuracy(model, x, y):
    return (model.predict(x, verbose=0).argmax(-1) == y).mean()


def non_zeros(model):
    return sum(np.count_nonzero(w) for w in model.get_weights() if w.ndim > 1)


@pytest.mark.backends("tensorflow", "torch")
@pytest.mark.slow
def test_a_convnet_keeps_a_twentieth_and_is_deployed(digits, tmp_path):
    x_train, x_test, y_train, y_test = digits
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Reshape((8, 8, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(128, "relu"),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    kg.sparsify(model)
    model.compile(
        kg.optimizers.ProjectedOptimizer(
            keras.optimizers.Adam(0.003),
            density=kg.schedules.CubicDensity(0.05),
        ),
        loss,
    )
    model.fit(x_train, y_train, epochs=15, verbose=0)
    plain = kg.strip(model)
    plain.compile()
    plain.save(tmp_path / "plain.keras")
    kg.save_compressed(plain, tmp_path / "small.keras")

    weights = sum(w.size for w in plain.get_weights() if w.ndim > 1)
    assert non_zeros(plain) == int(0.05 * weights)
    assert accuracy(plain, x_test, y_test) > 0.9
    small, full = (tmp_path / f"{name}.keras" for name in ("small", "plain"))
    assert small.stat().st_size < full.stat().st_size / 4
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        plain.export(
            tmp_path / "served", format="tf_saved_model", verbose=False
        )
        served = tf.saved_model.load(str(tmp_path / "served"))
        np.testing.assert_allclose(
            served.serve(x_test[:8]).numpy(),
            plain.predict(x_test[:8], verbose=0),
            rtol=1e-4,
            atol=1e-5,
        )


@pytest.mark.backends("torch")
@pytest.mark.slow
def test_the_code_of_a_categorical_vae_is_used(digits):
    x = (digits[0] >= 0.5).astype("float32")
    pixels = keras.Input((64,))
    hidden = layers.Dense(128, activation="relu")(pixels)
    logits = layers.Reshape((10, 8))(layers.Dense(80)(hidden))
    code = kg.layers.GumbelSoftmax(
        temperature=kg.schedules.ExponentialAnnealing(1.0, 0.5),
        logits_regularizer=kg.regularizers.CategoricalKL(
            1 / 64, reduction="sum"
        ),
        seed=0,
    )(logits)
    hidden = layers.Dense(128, activation="relu")(layers.Flatten()(code))
    vae = keras.Model(pixels, layers.Dense(64, "sigmoid")(hidden))
    vae.compile(keras.optimizers.Adam(0.003), loss="binary_crossentropy")
    history = vae.fit(x, x, batch_size=64, epochs=15, verbose=0).history
    codes = keras.Model(pixels, logits).predict(x, verbose=0).argmax(-1)
    usage = kg.metrics.CodeUsage(num_classes=8, num_groups=10)
    usage.update_state(codes)

    mean = np.clip(x.mean(axis=0), 1e-3, 1 - 1e-3)
    of_mean = -np.mean(x * np.log(mean) + (1 - x) * np.log(1 - mean))
    assert history["kl"][-1] > 2  # nats: the code says something
    assert history["loss"][-1] < of_mean  # more than the mean image does
    assert usage.result() > 0.5


@pytest.mark.backends("torch")
def test_ten_of_thirty_features_are_enough():
    data = load_breast_cancer()
    x_train, x_test, y_train, y_test = train_test_split(
        data.data, data.target, random_state=0
    )
    selector = kg.FeatureSelector(n_features_to_select=10, random_state=0)
    pipeline = make_pipeline(selector, StandardScaler(), LogisticRegression())
    pipeline.fit(x_train, y_train)

    assert len(selector.get_feature_names_out(data.feature_names)) == 10
    assert pipeline.score(x_test, y_test) > 0.93


@pytest.mark.backends("jax")
def test_a_dense_network_is_pruned_with_the_usual_callbacks(digits, tmp_path):
    x_train, x_test, y_train, y_test = digits
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(128, "relu"),
            layers.Dense(10, "softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x_train, y_train, epochs=10, verbose=0)
    model.save(tmp_path / "dense.keras")

    model = keras.saving.load_model(tmp_path / "dense.keras")
    dense = accuracy(model, x_test, y_test)
    kg.sparsify(model)
    model.compile(
        kg.optimizers.ProjectedOptimizer(
            "adam", density=kg.schedules.CubicDensity(0.1)
        ),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    best = tmp_path / "best.keras"
    history = model.fit(
        x_train,
        y_train,
        validation_split=0.1,
        epochs=20,
        verbose=0,
        callbacks=[
            kg.callbacks.OnceFinal(
                keras.callbacks.EarlyStopping(
                    patience=3, restore_best_weights=True
                )
            ),
            kg.callbacks.OnceFinal(
                keras.callbacks.ModelCheckpoint(best, save_best_only=True)
            ),
            keras.callbacks.ReduceLROnPlateau(patience=2),
            keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        ],
    ).history
    reloaded = keras.saving.load_model(best)

    assert len(history["loss"]) >= 14  # not before the mask was final
    kept = int(0.1 * (64 * 128 + 128 * 10))
    for pruned in (kg.strip(model), kg.strip(reloaded)):
        assert non_zeros(pruned) == kept
        assert accuracy(pruned, x_test, y_test) > dense - 0.03
