"""Block-sparse LiteRT files: right, small, and refused where they are slow."""

import importlib.util

import keras
import numpy as np
import pytest

import keras_gumbel as kg
from keras_gumbel.sparsity import _convert_litert
from keras_gumbel.sparsity import _export_litert

if importlib.util.find_spec("tensorflow") is None:
    pytest.skip("could not import 'tensorflow'", allow_module_level=True)
pytest.importorskip("ai_edge_litert")

# What converters warn of is between them and their dependencies.
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.one_backend,
    pytest.mark.slow,
]


def network(inputs=64):
    return keras.Sequential(
        [
            keras.Input((inputs,)),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(12),
        ]
    )


def pruned(model=None, density=0.1, granularity=(4, 1)):
    model = model or network()
    kg.sparsify(model, "magnitude", granularity=granularity)
    return kg.strip(kg.harden(model, density=density))


def batch(size=7, inputs=64):
    # Not the batch size that stands for an unknown one while tracing.
    return np.random.default_rng(0).normal(size=(size, inputs)).astype("f")


def run_file(path, x):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    (source,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(source["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(source["index"], x)
    interpreter.invoke()
    (output,) = interpreter.get_output_details()
    return interpreter.get_tensor(output["index"])


@pytest.mark.every_backend
def test_the_file_is_small_and_computes_the_same(tmp_path):
    model = pruned()
    x = batch()

    report = kg.export_litert(model, tmp_path / "small.tflite", x)

    found = run_file(tmp_path / "small.tflite", x)
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(found - expected).max() == report.max_difference
    assert report.size == (tmp_path / "small.tflite").stat().st_size
    assert report.size < 0.3 * report.dense_size
    assert report.dense_size > model.count_params() * 4
    assert report.seconds == report.dense_seconds == {}
    assert [file.name for file in tmp_path.iterdir()] == ["small.tflite"]


def test_times_are_those_of_the_sizes_asked_for(tmp_path):
    report = kg.export_litert(
        pruned(), tmp_path / "small.tflite", batch(), measure_time=True
    )

    assert list(report.seconds) == list(report.dense_seconds) == [1, 7]
    assert all(
        0 < s < 1 for s in [*report.seconds.values(), report.dense_seconds[1]]
    )
    lines = str(report).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"{report.size:,} bytes")
    assert lines[2].startswith("batch of 7: ")


def test_convolutions_go_along(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dense(64),
        ]
    )
    model = pruned(model)
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 4)).astype("f")

    report = kg.export_litert(model, tmp_path / "conv.tflite", x)

    np.testing.assert_allclose(
        run_file(tmp_path / "conv.tflite", x),
        model.predict(x, verbose=0),
        rtol=1e-4,
        atol=1e-5,
    )
    assert report.size < 0.5 * report.dense_size


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pruned(granularity="weight"), "not run single zeros faster"),
        (lambda: pruned(density=0.4), "the file is slower than a dense one"),
        (network, "the file is slower than a dense one"),
        (lambda: kg.sparsify(network()), r"`keras_gumbel\.strip`"),
    ],
)
def test_what_would_be_slow_is_refused_with_advice(make, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        kg.export_litert(make(), tmp_path / "slow.tflite", batch())

    assert list(tmp_path.iterdir()) == []


def test_zeros_in_blocks_that_no_block_divides_are_refused(tmp_path):
    model = network(inputs=66)
    first = model.layers[0]
    first.kernel.assign(np.zeros((66, 128)))

    with pytest.raises(ValueError, match="only 0% of its blocks"):
        kg.export_litert(model, tmp_path / "slow.tflite", batch(inputs=66))


def test_quantized_models_are_refused(tmp_path):
    model = pruned()
    model.quantize("int8")

    with pytest.raises(ValueError, match="quantized to int8"):
        kg.export_litert(model, tmp_path / "garbage.tflite", batch())


def test_other_dtypes_are_refused(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    model = pruned()

    with pytest.raises(ValueError, match="computes in float16"):
        kg.export_litert(model, tmp_path / "half.tflite", batch())


def test_several_inputs_are_refused(tmp_path):
    inputs = [keras.Input((64,)), keras.Input((64,))]
    outputs = keras.layers.Dense(12)(keras.layers.Add()(inputs))
    model = keras.Model(inputs, outputs)

    with pytest.raises(ValueError, match="one input and one output"):
        kg.export_litert(model, tmp_path / "two.tflite", batch())


def test_a_file_that_computes_something_else_is_not_written(
    tmp_path, monkeypatch
):
    path = tmp_path / "old.tflite"
    path.write_bytes(b"old")
    convert = _convert_litert.convert

    def convert_other(model, folder):
        other = keras.models.clone_model(model)
        weights = model.get_weights()
        weights[-1] = weights[-1] + 0.01
        other.set_weights(weights)
        convert(other, folder)

    monkeypatch.setattr(_export_litert, "convert", convert_other)
    with pytest.raises(ValueError, match=r"differ .* by up to 0\.01,"):
        kg.export_litert(pruned(), path, batch())

    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_a_kernel_stored_entry_by_entry_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(_export_litert, "_require_blocks", lambda model: None)

    with pytest.raises(ValueError, match="stored a kernel entry by entry"):
        kg.export_litert(
            pruned(granularity="weight"), tmp_path / "slow.tflite", batch()
        )


def test_a_class_that_tensorflow_does_not_know_gets_an_error(tmp_path):
    @keras.saving.register_keras_serializable(package="tests")
    class Doubled(keras.layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    model = keras.Sequential([*network().layers, Doubled()])
    model.build((None, 64))

    with pytest.raises(ValueError, match="functions are unknown"):
        kg.export_litert(pruned(model), tmp_path / "own.tflite", batch())


@pytest.mark.parametrize("package", ["tensorflow", "ai-edge-litert"])
def test_a_missing_package_is_named(package, tmp_path, monkeypatch):
    find = _export_litert.importlib.util.find_spec
    module = package.replace("-", "_")
    monkeypatch.setattr(
        _export_litert.importlib.util,
        "find_spec",
        lambda name: None if name == module else find(name),
    )

    with pytest.raises(ImportError, match=f"pip install {package}`"):
        kg.export_litert(pruned(), tmp_path / "small.tflite", batch())


def test_bad_arguments_get_an_error(tmp_path):
    with pytest.raises(TypeError, match="`model` of `export_litert`"):
        kg.export_litert(keras.layers.Dense(2), tmp_path / "a.tflite", batch())
    with pytest.raises(ValueError, match="`path` of `export_litert`"):
        kg.export_litert(pruned(), tmp_path / "a.keras", batch())
