"""Models with every layer, exported and run by what others run them with.

The converters and runtimes are the dependency group `export`. Where one of
them is missing its tests are skipped.
"""

import importlib.util
import os
import pathlib
import subprocess
import sys
import traceback

import keras
import numpy as np
import pytest

import keras_gumbel as kg
from tests.newer_keras import require_keras
from tests.statistics import require_frequencies

# What converters warn of is between them and their dependencies.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

ROOT = pathlib.Path(__file__).parents[1]
UNEVEN = keras.initializers.RandomUniform(0.0, 1.0, seed=1)

# Exports from JAX, which takes TensorFlow into the same process.
ELSEWHERE = """
import sys
from tests import test_export
test_export.export_every_layer(sys.argv[1])
"""


def _logits(features):
    return keras.layers.Dense(5)(features)


def _masked(layer, inputs, budget=None):
    layer.build(inputs.shape)
    kg.sparsify(layer, kg.masks.ConcreteMask(scores_initializer=UNEVEN))
    if budget is not None:
        kg.harden(layer, budget=budget)
    return layer(inputs)


# Functions of symbolic features. A converter that fails at the first one has
# a fault of its own.
MODELS = {
    "Dense": _logits,
    "GumbelSoftmax": lambda x: kg.layers.GumbelSoftmax()(_logits(x)),
    "GumbelSoftmax_softmax": lambda x: kg.layers.GumbelSoftmax(
        inference="softmax"
    )(_logits(x)),
    "GumbelSoftmax_masked": lambda x: kg.layers.GumbelSoftmax()(
        _logits(x), mask=x[:, :5] > 0.0
    ),
    "StraightThroughArgmax": lambda x: kg.layers.StraightThroughArgmax()(
        _logits(x)
    ),
    "StraightThroughArgmax_index": lambda x: kg.layers.StraightThroughArgmax(
        output_mode="index"
    )(_logits(x)),
    "ConcreteMask": lambda x: kg.layers.ConcreteMask(scores_initializer=UNEVEN)(
        _logits(x)
    ),
    "ConcreteMask_mode": lambda x: kg.layers.ConcreteMask(
        scores_initializer=UNEVEN, inference="mode"
    )(_logits(x)),
    "masked_Dense": lambda x: _masked(keras.layers.Dense(5), x),
    "masked_Conv2D": lambda x: _masked(
        keras.layers.Conv2D(4, 2), keras.layers.Reshape((3, 2, 1))(x)
    ),
    "hardened_Dense": lambda x: _masked(keras.layers.Dense(5), x, budget=12),
    "SubsetSampler": lambda x: kg.layers.SubsetSampler(k=2)(_logits(x)),
    "SubsetSampler_marginals": lambda x: kg.layers.SubsetSampler(
        k=2, inference="marginals"
    )(_logits(x)),
    "PermutationSampler_sinkhorn": lambda x: kg.layers.PermutationSampler(
        inference="sinkhorn", num_iterations=3
    )(keras.layers.Reshape((3, 3))(keras.layers.Dense(9)(x))),
    # Samples of noise that is an input too.
    "GumbelSoftmax_noise": lambda x: kg.layers.GumbelSoftmax(
        hard=True, inference="sample"
    )(_logits(x), noise=x[:, 1:]),
    "StraightThroughArgmax_noise": lambda x: kg.layers.StraightThroughArgmax(
        inference="sample"
    )(_logits(x), noise=x[:, 1:]),
    "SubsetSampler_noise": lambda x: kg.layers.SubsetSampler(
        k=2, inference="sample"
    )(_logits(x), noise=x[:, 1:]),
}

# Their outputs are zeros and ones or indices, to the last bit.
CHOICES = {
    "GumbelSoftmax",
    "GumbelSoftmax_masked",
    "StraightThroughArgmax",
    "StraightThroughArgmax_index",
    "SubsetSampler",
    "GumbelSoftmax_noise",
    "StraightThroughArgmax_noise",
    "SubsetSampler_noise",
}


def _saved_model(model, inputs, folder):
    import tensorflow as tf

    path = str(folder / "model")
    model.export(path, format="tf_saved_model", verbose=False)
    # Its functions do not outlive what was loaded.
    loaded = tf.saved_model.load(path)
    return loaded.serve(inputs).numpy()


def _onnx(model, inputs, folder):
    runtime = pytest.importorskip("onnxruntime")
    if keras.config.backend() == "tensorflow":
        pytest.importorskip("tf2onnx")
    path = str(folder / "model.onnx")
    model.export(path, format="onnx", verbose=False)
    session = runtime.InferenceSession(path)
    (entrance,) = session.get_inputs()
    (outputs,) = session.run(None, {entrance.name: inputs})
    return outputs


def _litert(model, inputs, folder):
    # Not the interpreter within TensorFlow, which runs TensorFlow's own
    # operations too: devices do not.
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    path = str(folder / "model.tflite")
    model.export(path, format="litert", verbose=False)
    run = interpreter.Interpreter(path).get_signature_runner()
    (name,) = run.get_input_details()
    (outputs,) = run(**{name: inputs}).values()
    return outputs


def _openvino(model, inputs, folder):
    # It would report every import and conversion to its makers.
    sys.modules.setdefault("openvino_telemetry", None)
    openvino = pytest.importorskip("openvino")
    path = str(folder / "model.xml")
    model.export(path, format="openvino", verbose=False)
    # Where the processor can, it would compute in bfloat16.
    precision = {"INFERENCE_PRECISION_HINT": "f32"}
    run = openvino.Core().compile_model(path, "CPU", precision)
    # What nothing reads is an output too, after those of the model.
    outputs, *_ = run(inputs).values()
    return outputs


def _torch(model, inputs, folder):
    import torch

    require_keras("3.15", "an export to torch")
    path = str(folder / "model.pt2")
    batch = [{0: torch.export.Dim.AUTO}]
    model.export(path, format="torch", verbose=False, dynamic_shapes=batch)
    return torch.export.load(path).module()(torch.tensor(inputs)).numpy()


FORMATS = {
    "tf_saved_model": (_saved_model, ["tensorflow"]),
    "onnx": (_onnx, ["tensorflow", "torch"]),
    "litert": (_litert, ["tensorflow"]),
    "openvino": (_openvino, ["tensorflow", "torch"]),
    "torch": (_torch, ["torch"]),
}


def _predictions(layer, export, folder):
    """Returns what a model predicts before and after it is exported."""
    features = keras.Input((6,))
    model = keras.Model(features, MODELS[layer](features))
    # Not the batch size that stands for an unknown one while tracing.
    inputs = np.random.default_rng(0).normal(size=(7, 6)).astype("float32")
    return model.predict(inputs, verbose=0), export(model, inputs, folder)


def _check_same(layer, expected, found):
    assert (expected != expected[0]).any()
    assert found.dtype == expected.dtype
    tolerance = 0.0 if layer in CHOICES else 1e-5
    np.testing.assert_allclose(
        found, expected, rtol=tolerance, atol=tolerance / 10
    )


@pytest.mark.parametrize("layer", MODELS)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.backends(*backends))
        for name, (_, backends) in FORMATS.items()
    ],
)
def test_exported_model_predicts_the_same(name, layer, tmp_path):
    export, _ = FORMATS[name]

    expected, found = _predictions(layer, export, tmp_path)

    _check_same(layer, expected, found)


SAMPLERS = {
    "GumbelSoftmax": lambda: kg.layers.GumbelSoftmax(
        hard=True, inference="sample", seed=1
    ),
    "StraightThroughArgmax": lambda: kg.layers.StraightThroughArgmax(
        inference="sample", seed=1
    ),
    "SubsetSampler": lambda: kg.layers.SubsetSampler(
        k=1, inference="sample", seed=1
    ),
    "relaxed_SubsetSampler": lambda: kg.layers.SubsetSampler(
        k=1,
        estimator="relaxed_top_k",
        hard=True,
        inference="sample",
        seed=1,
    ),
}
SAMPLED = [
    pytest.param(name, marks=pytest.mark.backends(backend))
    for name, backend in [
        ("tf_saved_model", "tensorflow"),
        ("onnx", "torch"),
        ("torch", "torch"),
    ]
]


@pytest.mark.parametrize("layer", SAMPLERS)
@pytest.mark.parametrize("name", SAMPLED)
def test_exported_model_draws_samples(name, layer, tmp_path):
    p = [0.5, 0.3, 0.2]
    features = keras.Input((3,))
    model = keras.Model(features, SAMPLERS[layer]()(features))
    inputs = np.tile(np.log(p), (2000, 1)).astype("float32")
    model.predict(inputs, verbose=0)
    export, _ = FORMATS[name]

    drawn = export(model, inputs, tmp_path)

    assert (drawn.max(axis=-1) == 1).all()
    require_frequencies(drawn.sum(axis=0), p)


@pytest.mark.parametrize("name", SAMPLED)
def test_exported_mask_draws_samples(name, tmp_path):
    features = keras.Input((2000,))
    mask = kg.layers.ConcreteMask(
        hard=True,
        scores_initializer=keras.initializers.Constant(0.3),
        inference="sample",
        seed=1,
    )
    model = keras.Model(features, mask(features))
    inputs = np.ones((2, 2000), "float32")
    model.predict(inputs, verbose=0)
    export, _ = FORMATS[name]

    drawn = export(model, inputs, tmp_path)

    kept = drawn[0].sum()
    require_frequencies([kept, 2000 - kept], [0.3, 0.7])


@pytest.mark.backends("tensorflow")
def test_saved_model_draws_anew_in_every_call(tmp_path):
    import tensorflow as tf

    features = keras.Input((3,))
    layer = SAMPLERS["GumbelSoftmax"]()
    model = keras.Model(features, layer(features))
    model.export(str(tmp_path), format="tf_saved_model", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path))

    one, other = (loaded.serve(np.zeros((99, 3), "float32")) for _ in "ab")

    assert (one.numpy() != other.numpy()).any()


@pytest.mark.backends("torch")
def test_exported_program_draws_anew_in_every_call(tmp_path):
    import torch

    require_keras("3.15", "an export to torch")
    features = keras.Input((3,))
    layer = SAMPLERS["GumbelSoftmax"]()
    model = keras.Model(features, layer(features))
    path = str(tmp_path / "model.pt2")
    model.export(path, format="torch", verbose=False)
    program = torch.export.load(path).module()
    (size, _) = program.graph.find_nodes(op="placeholder")[0].meta["val"].shape
    inputs = torch.zeros((int(size), 3))

    drawn = [program(inputs) for _ in range(200)]

    assert len({tuple(y[0].tolist()) for y in drawn}) == 3


def export_every_layer(folder):
    """Writes the predictions of every model, or why there are none."""
    for layer in MODELS:
        path = pathlib.Path(folder) / layer
        path.mkdir()
        keras.utils.set_random_seed(0)
        try:
            expected, found = _predictions(layer, _saved_model, path)
            np.savez(path / "outputs", expected=expected, found=found)
        except Exception:
            (path / "error").write_text(traceback.format_exc())


@pytest.fixture(scope="module")
def exported_from_jax(tmp_path_factory):
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("could not import 'tensorflow'")
    folder = tmp_path_factory.mktemp("exported")
    subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        check=True,
        capture_output=True,
    )
    return folder


@pytest.mark.backends("jax")
@pytest.mark.parametrize("layer", MODELS)
def test_model_exported_from_jax_predicts_the_same(layer, exported_from_jax):
    path = exported_from_jax / layer
    error = path / "error"
    assert not error.exists(), error.read_text()

    outputs = np.load(path / "outputs.npz")

    _check_same(layer, outputs["expected"], outputs["found"])
