"""Times shrunk networks in the runtimes that they are deployed with.

    KERAS_BACKEND=jax python benchmarks/latency.py
    KERAS_BACKEND=tensorflow python benchmarks/latency.py
    KERAS_BACKEND=torch python benchmarks/latency.py

drops half of each group of coupled channels of networks of
`keras.applications`, drawn at random, shrinks them, and runs the network and
the shrunk one in turn on one thread: compiled by XLA on JAX and TensorFlow,
eager on torch. On TensorFlow both are also exported to LiteRT, with float32
and with int8 weights, to ONNX Runtime and to OpenVINO. Printed are the size
of the shrunk file, the largest difference of the outputs of both networks over
the largest output, and the CPU time as a ratio to the network before. A file
with int8 weights is compared with the float32 one before.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import argparse
import warnings

import keras
import numpy as np
from keras import ops
from runtimes import litert
from runtimes import onnx
from runtimes import openvino
from shrink import halve
from shrink import network
from shrink import runner
from timing import median_ratios
from timing import print_table
from timing import versions

import keras_gumbel as kg
from keras_gumbel.shrinking._coupling import coupled_channels

BACKEND = keras.config.backend()
COMPILED = {"jax": "jax.jit", "tensorflow": "XLA", "torch": "eager"}


def shrunk(model):
    """Drops half of each group and returns both models."""
    halve(coupled_channels("benchmark", model), seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", kg.SparsityWarning)
        return kg.shrink(model)


def in_keras(model, inputs):
    run = runner(model, inputs)
    return run, lambda: ops.convert_to_numpy(run())


def routes():
    """Lists runtime, how it runs a model, and which route is its unit."""
    found = {COMPILED[BACKEND]: (in_keras, None)}
    if BACKEND == "tensorflow":
        import tensorflow as tf

        int8 = tf.lite.Optimize.DEFAULT
        found |= {
            "LiteRT": (litert(), None),
            "LiteRT, int8": (litert(int8), "LiteRT"),
            "ONNX Runtime": (onnx, None),
            "OpenVINO": (openvino, None),
        }
    return found


def measure(name, size, batch, rounds):
    before = network(name, size)
    after = shrunk(before)
    shape = (batch, size, size, 3)
    inputs = np.random.default_rng(1).normal(size=shape).astype("float32")
    inputs = 128 + 64 * inputs
    rows = []
    units = {}
    for title, (prepare, unit) in routes().items():
        run, outputs, *dense_size = prepare(before, inputs)
        small_run, small_outputs, *small_size = prepare(after, inputs)
        units[title] = run
        expected, found = outputs(), small_outputs()
        error = np.abs(found - expected).max() / np.abs(expected).max()
        contenders = {"unit": units[unit or title], "shrunk": small_run}
        if unit is not None:
            contenders["before"] = run
        ratios, seconds = median_ratios(contenders, rounds)
        sizes = [f"{s / 1e6:.1f} MB" for s in (*dense_size, *small_size)]
        rows.append(
            [
                title,
                f"{1e3 * seconds * ratios.get('before', 1):.1f} ms",
                f"{ratios.get('before', 1.0):.2f}",
                f"{ratios['shrunk']:.2f}",
                " to ".join(sizes),
                f"{error:.0e}",
            ]
        )
    columns = ["runtime", "before", "ratio", "shrunk", "file", "difference"]
    print_table(f"{name}, batch of {batch}, {size}x{size}", columns, rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    networks = ["ResNet50", "MobileNetV2"]
    parser.add_argument("--networks", nargs="+", default=networks)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    packages = [BACKEND]
    if BACKEND == "torch":
        import torch

        torch.set_num_threads(1)
    if BACKEND == "tensorflow":
        packages += ["ai-edge-litert", "onnxruntime", "openvino"]
    print(versions(*packages))
    for name in options.networks:
        for batch in options.batches:
            measure(name, options.size, batch, options.rounds)


if __name__ == "__main__":
    main()
