"""Runs of a Keras model in other runtimes, on one thread.

`onnx`, `openvino`, and what `litert` returns export a model from TensorFlow.
They return a function that runs it on the inputs, one that also returns the
outputs, and the size of the file in bytes.
"""

import contextlib
import pathlib
import sys
import tempfile


def convert(model, *optimizations):
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, format="tf_saved_model", verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = list(optimizations)
        return converter.convert()


def interpreter_of(file, x):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=file, num_threads=1)
    index = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(index, x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(index, x)
    return interpreter


def litert(*optimizations):
    def prepare(model, inputs):
        file = convert(model, *optimizations)
        interpreter = interpreter_of(file, inputs)
        index = interpreter.get_output_details()[0]["index"]

        def outputs():
            interpreter.invoke()
            return interpreter.get_tensor(index)

        return interpreter.invoke, outputs, len(file)

    return prepare


def onnx(model, inputs):
    import onnxruntime

    with exported(model, "onnx") as path:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        size = pathlib.Path(path).stat().st_size
    feed = {session.get_inputs()[0].name: inputs}

    def run():
        return session.run(None, feed)[0]

    return run, run, size


def openvino(model, inputs, **settings):
    # Without its report to the network.
    sys.modules.setdefault("openvino_telemetry", None)
    import openvino

    with exported(model, "openvino") as path:
        options = {
            "INFERENCE_NUM_THREADS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
            **settings,
        }
        compiled = openvino.Core().compile_model(path, "CPU", options)
        size = pathlib.Path(path).with_suffix(".bin").stat().st_size

    def run():
        return next(iter(compiled([inputs]).values()))

    return run, run, size


@contextlib.contextmanager
def exported(model, kind):
    suffix = {"onnx": "onnx", "openvino": "xml"}[kind]
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.{suffix}"
        model.export(path, format=kind, verbose=False)
        yield path
