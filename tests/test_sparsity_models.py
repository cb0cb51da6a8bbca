"""Whole models with layers of every kind, from dense to stripped."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gumbel
from keras_gumbel.layers import Sparsified
from keras_gumbel.optimizers import ProjectedOptimizer
from tests.contracts import save_and_load
from tests.gradients import to_numpy

RNG = np.random.default_rng(0)
LEFT = RNG.normal(size=(3, 4, 3)).astype("float32")
RIGHT = RNG.normal(size=(3, 3, 3)).astype("float32")


def translator():
    """Has arguments by name, states, operations and a shared layer."""
    source, target = (
        keras.Input((4, 3), name="a"),
        keras.Input((3, 3), name="b"),
    )
    embed = layers.Dense(4, name="embed")
    memory, *state = layers.GRU(
        4, return_sequences=True, return_state=True, name="encoder"
    )(embed(source))
    decoded = layers.GRU(4, return_sequences=True, name="decoder")(
        embed(target), initial_state=state
    )
    attended, _ = layers.MultiHeadAttention(2, 2, name="attend")(
        query=decoded, value=memory, return_attention_scores=True
    )
    hidden = decoded + 0.5 * attended
    hidden = layers.GroupQueryAttention(2, 2, 1, name="grouped")(
        hidden, hidden, use_causal_mask=True
    )
    hidden = layers.Bidirectional(
        layers.SimpleRNN(3, return_sequences=True), name="both"
    )(hidden)
    head = keras.Sequential(
        [layers.Dense(3, activation="relu"), layers.Dense(2)]
    )
    outputs = layers.TimeDistributed(head, name="head")(hidden)
    return keras.Model([source, target], outputs)


# Where plain Keras has the kernels of `translator`, and how many they are.
KERNELS = ("/kernel", "/recurrent_kernel")
SIZES = {"embed": 12, "encoder": 96, "decoder": 96, "attend": 64}
SIZES = {**SIZES, "grouped": 48, "both": 42, "head": 24}


@pytest.fixture(scope="module")
def translators():
    """The dense, the masked, the hardened and the stripped model."""
    model = translator()
    for variable in model.weights:
        variable.assign(RNG.uniform(-1, 1, variable.shape))
    sparse = keras_gumbel.sparsify(model, seed=0)
    outputs = predictions(sparse)
    for variable in sparse.variables:
        if variable.path.endswith("mask_scores"):
            variable.assign(RNG.uniform(size=variable.shape))
    hard = keras_gumbel.harden(sparse, budget=100)
    return model, outputs, sparse, hard, keras_gumbel.strip(hard)


def predictions(model):
    tensors = [ops.convert_to_tensor(x) for x in (LEFT, RIGHT)]
    return to_numpy(model(tensors, training=False))


def test_sparsify_masks_every_kernel(translators):
    model, outputs, sparse, _, _ = translators

    report = keras_gumbel.sparsity_report(sparse)

    np.testing.assert_array_equal(outputs, predictions(model))
    assert report.skipped == {}
    sizes = dict.fromkeys(SIZES, 0)
    for row in report.rows:
        sizes[row.name.split("/")[0]] += row.weights
    assert sizes == SIZES
    names = [row.name for row in report.rows]
    assert len(set(names)) == len(names)
    assert {"decoder/recurrent_kernel", "attend/query/kernel"} <= set(names)


def test_strip_folds_every_mask(translators):
    model, _, _, hard, stripped = translators
    kernels = [v for v in stripped.weights if v.path.endswith(KERNELS)]

    kept = sum(np.count_nonzero(to_numpy(v.value)) for v in kernels)

    assert kept == 100
    assert sum(np.prod(v.shape) for v in kernels) == sum(SIZES.values())
    np.testing.assert_allclose(
        predictions(stripped), predictions(hard), rtol=1e-5, atol=1e-6
    )
    assert [x.name for x in stripped.layers] == [x.name for x in model.layers]
    assert not any(isinstance(x, Sparsified) for x in stripped.layers)
    assert "keras_gumbel" not in stripped.to_json()


def test_models_are_saved_and_loaded(translators):
    _, _, sparse, hard, stripped = translators

    for model in (sparse, hard, stripped):
        np.testing.assert_array_equal(
            predictions(save_and_load(model)), predictions(model)
        )


def small_applications():
    images = {"weights": None, "input_shape": (32, 32, 3), "classes": 2}
    yield keras.applications.MobileNetV3Small(**images), None
    # Three of its five stages, to spare the sorting of 23 million scores.
    yield keras.applications.ResNet50(**images), ["conv[123]_", "predictions"]


@pytest.mark.backends("torch")
@pytest.mark.parametrize("index", [0, 1])
def test_applications_become_sparse(index):
    model, filters = list(small_applications())[index]
    images = RNG.uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    sparse = keras_gumbel.sparsify(model, filters=filters, seed=0)
    optimizer = ProjectedOptimizer("sgd", density=0.1)
    sparse.compile(optimizer, "sparse_categorical_crossentropy")

    sparse.fit(images, np.array([0, 1]), verbose=0)
    hard = keras_gumbel.harden(sparse, density=0.1)
    stripped = keras_gumbel.strip(hard)

    report = keras_gumbel.sparsity_report(hard)
    assert report.kept == report.weights // 10
    assert set(report.skipped.values()) <= {"left out"}
    assert len(report.rows) > 15
    np.testing.assert_allclose(
        stripped.predict(images, verbose=0),
        hard.predict(images, verbose=0),
        atol=1e-6,
    )
    assert "keras_gumbel" not in stripped.to_json()


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)


def test_sparsify_of_a_subclassed_model_shows_what_to_write():
    with pytest.raises(TypeError) as error:
        keras_gumbel.sparsify(Subclassed())

    recipe = str(error.value).split(":\n")[1].strip().splitlines()
    assert [line.strip() for line in recipe] == [
        "self.hidden = keras_gumbel.layers.Sparsified(keras.layers.Dense(10))",
        "optimizer = keras_gumbel.optimizers.ProjectedOptimizer("
        '"adam", density=0.1)',
    ]


@pytest.mark.parametrize("action", ["harden", "strip"])
def test_masks_inside_of_other_layers_raise(action):
    inside = layers.TimeDistributed(Sparsified(layers.Dense(2), name="inside"))
    model = keras.Sequential([keras.Input((3, 4)), inside])
    options = {"density": 0.5} if action == "harden" else {}

    with pytest.raises(ValueError, match="inside of other.*with inside inside"):
        getattr(keras_gumbel, action)(model, **options)
