"""Whole models with layers of every kind, from dense to stripped."""

import copy

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gumbel as kg
from keras_gumbel.optimizers import ProjectedOptimizer
from tests.contracts import save_and_load
from tests.gradients import to_numpy

pytestmark = pytest.mark.one_backend

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
        [
            layers.Dense(3, activation="relu", name="dense"),
            layers.Dense(2, name="top"),
        ],
        name="head_model",
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
    dense = copy.deepcopy(model)
    kg.sparsify(model, seed=0)
    masked = copy.deepcopy(model)
    for variable in model.variables:
        if variable.path.endswith("mask_scores"):
            variable.assign(RNG.uniform(size=variable.shape))
    hard = copy.deepcopy(kg.harden(model, budget=100))
    return dense, masked, hard, kg.strip(model)


def predictions(model):
    tensors = [ops.convert_to_tensor(x) for x in (LEFT, RIGHT)]
    return to_numpy(model(tensors, training=False))


def test_sparsify_masks_every_kernel(translators):
    dense, masked, _, _ = translators

    report = kg.sparsity_report(masked)

    np.testing.assert_array_equal(predictions(masked), predictions(dense))
    assert report.skipped == {}
    sizes = dict.fromkeys(SIZES, 0)
    for row in report.rows:
        sizes[row.name.split("/")[0]] += row.weights
    assert sizes == SIZES
    names = [row.name for row in report.rows]
    assert len(set(names)) == len(names)
    assert {
        "embed/kernel",
        "decoder/gru_cell/recurrent_kernel",
        "attend/query/kernel",
        "both/forward_simple_rnn/simple_rnn_cell/kernel",
        "head/head_model/dense/kernel",
    } <= set(names)


def test_strip_folds_every_mask(translators):
    dense, _, hard, stripped = translators
    kernels = [v for v in stripped.weights if v.path.endswith(KERNELS)]

    kept = sum(np.count_nonzero(to_numpy(v.value)) for v in kernels)

    assert kept == 100
    assert sum(np.prod(v.shape) for v in kernels) == sum(SIZES.values())
    np.testing.assert_allclose(
        predictions(stripped), predictions(hard), rtol=1e-5, atol=1e-6
    )
    assert [type(x) for x in stripped.layers] == [type(x) for x in dense.layers]
    assert len(stripped.variables) == len(dense.variables)
    assert "keras_gumbel" not in stripped.to_json()


def test_models_are_saved_and_loaded(translators):
    _, masked, hard, stripped = translators

    for model in (masked, hard, stripped):
        np.testing.assert_array_equal(
            predictions(save_and_load(model)), predictions(model)
        )


def small_applications():
    images = {"weights": None, "input_shape": (32, 32, 3), "classes": 2}
    yield keras.applications.MobileNetV3Small(**images), None
    # Three of its five stages, to spare the sorting of 23 million scores.
    yield keras.applications.ResNet50(**images), ["conv[123]_", "predictions"]


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_applications_become_sparse(index):
    model, filters = list(small_applications())[index]
    images = RNG.uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    kg.sparsify(model, filters=filters, seed=0)
    optimizer = ProjectedOptimizer("sgd", density=0.1)
    model.compile(optimizer, "sparse_categorical_crossentropy")

    model.fit(images, np.array([0, 1]), verbose=0)
    report = kg.sparsity_report(kg.harden(model, density=0.1))
    hard = model.predict(images, verbose=0)
    kg.strip(model)

    assert report.kept == report.weights // 10
    assert set(report.skipped.values()) <= {"left out"}
    assert len(report.rows) > 15
    np.testing.assert_allclose(
        model.predict(images, verbose=0), hard, atol=1e-6
    )
    assert "keras_gumbel" not in model.to_json()
