"""Converts a model to LiteRT, which only TensorFlow can do.

The conversion runs in a separate process with the TensorFlow backend.
"""

import importlib
import os
import pathlib
import subprocess
import sys
import tempfile

import keras

DENSE = "dense.tflite"
SPARSE = "sparse.tflite"

_CONVERT_FILE = f"""
import sys
from {__name__} import convert_file
convert_file(sys.argv[1])
"""


def convert(model: keras.Model, folder: pathlib.Path) -> None:
    """Writes `DENSE` and `SPARSE` into a folder."""
    path = folder / "model.keras"
    keras.saving.save_model(model, path)
    run = subprocess.run(
        [sys.executable, "-c", _CONVERT_FILE, str(path)],
        env={
            **os.environ,
            "KERAS_BACKEND": "tensorflow",
            "CUDA_VISIBLE_DEVICES": "-1",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
        capture_output=True,
        text=True,
    )
    if run.returncode:
        raise ValueError(
            f"TensorFlow could not convert the model {model.name!r}. It loads "
            "the model in a separate process, in which your own classes and "
            "functions are unknown. Replace them with Keras layers.\n\n"
            f"{run.stderr[-2000:]}"
        )


def convert_file(path: str) -> None:
    """Converts a `.keras` file into the folder it is in."""
    model = keras.saving.load_model(path, compile=False)
    lite = importlib.import_module("tensorflow").lite
    with tempfile.TemporaryDirectory() as saved:
        model.export(saved, format="tf_saved_model", verbose=False)
        for name, optimizations in [
            (DENSE, []),
            (SPARSE, [lite.Optimize.EXPERIMENTAL_SPARSITY]),
        ]:
            converter = lite.TFLiteConverter.from_saved_model(saved)
            converter.optimizations = optimizations
            (pathlib.Path(path).parent / name).write_bytes(converter.convert())
