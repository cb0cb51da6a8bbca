"""Sizes and times of sparse LiteRT files, as ratios to dense ones.

    KERAS_BACKEND=tensorflow python benchmarks/sparse_litert.py

zeroes blocks of four inputs of a unit, or single weights, of a network of
three square Dense layers at random. TensorFlow converts it with and without
sparsity. LiteRT runs both files in turn on one thread, at batches of 1, 8 and
64.

    KERAS_BACKEND=tensorflow python benchmarks/sparse_litert.py --others

prints what else there is: int8, other runtimes, and convolutions, and compares
the outputs of int8 files with those of the model.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from runtimes import convert
from runtimes import interpreter_of
from runtimes import onnx
from runtimes import openvino
from timing import median_ratios
from timing import print_table
from timing import versions

SPARSITY = tf.lite.Optimize.EXPERIMENTAL_SPARSITY
INT8 = tf.lite.Optimize.DEFAULT  # of dynamic range
BATCHES = (1, 8, 64)


def network(width, zeros, block):
    generator = np.random.default_rng(0)
    hidden = [layers.Dense(width, "relu") for _ in range(3)]
    model = keras.Sequential([keras.Input((width,)), *hidden])
    for layer in model.layers:
        kernel, bias = layer.get_weights()
        kept = generator.random((width // block, width)) >= zeros
        layer.set_weights([kernel * np.repeat(kept, block, axis=0), bias])
    return model


def inputs(batch, width):
    return np.random.default_rng(1).normal(size=(batch, width)).astype("f")


def runner(file, x):
    interpreter = interpreter_of(file, x)
    calls = max(1, 32 // len(x))

    def run():
        for _ in range(calls):
            interpreter.invoke()

    return run


def ratios(width, zeros, block, rounds):
    model = network(width, zeros, block)
    dense, sparse = convert(model), convert(model, SPARSITY)
    found = [f"{len(sparse) / len(dense):.3f}"]
    for batch in BATCHES:
        x = inputs(batch, width)
        times = {"dense": runner(dense, x), "sparse": runner(sparse, x)}
        medians, _ = median_ratios(times, rounds)
        found.append(f"{medians['sparse']:.2f}")
    return found


def correlation(model, *optimizations):
    """Of the outputs of a file with those of the model."""
    x = inputs(64, model.input_shape[1])
    interpreter = interpreter_of(convert(model, *optimizations), x)
    interpreter.invoke()
    output = interpreter.get_output_details()[0]["index"]
    found = interpreter.get_tensor(output)
    expected = model.predict(x, verbose=0)
    return f"{np.corrcoef(found.ravel(), expected.ravel())[0, 1]:.4f}"


def convolutions(zeros):
    """Builds what XNNPACK asks of a network with sparse convolutions.

    It begins with a convolution of 3x3, strides of 2 and padding on all sides,
    goes on with 1x1, and ends with a mean over the positions.
    """
    generator = np.random.default_rng(0)
    model = keras.Sequential(
        [
            keras.Input((112, 112, 3)),
            layers.ZeroPadding2D(1),
            layers.Conv2D(32, 3, 2, activation="relu6"),
            *(layers.Conv2D(128, 1, activation="relu6") for _ in range(8)),
            layers.GlobalAveragePooling2D(keepdims=True),
        ]
    )
    for layer in model.layers[2:-1]:
        kernel, bias = layer.get_weights()
        kept = generator.random(kernel.shape) >= zeros
        layer.set_weights([kernel * kept, bias])
    return model


def convolution_row(zeros, rounds):
    model = convolutions(zeros)
    dense, sparse = convert(model), convert(model, SPARSITY)
    x = np.random.default_rng(1).normal(size=(1, 112, 112, 3)).astype("f")
    times = {"dense": runner(dense, x), "sparse": runner(sparse, x)}
    medians, _ = median_ratios(times, rounds)
    size = f"{len(sparse) / len(dense):.3f}"
    return [f"{zeros:.0%}", size, f"{medians['sparse']:.2f}"]


def other_runtimes(rounds):
    """Compares a network that has zeros with one that has none."""
    dense, sparse = network(1024, 0.0, 4), network(1024, 0.95, 4)
    decompression = {"CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": 0.5}
    files = convert(dense), convert(sparse, SPARSITY), convert(sparse, INT8)
    rows = {
        name: [name]
        for name in (
            "LiteRT, sparse",
            "LiteRT, int8",
            "ONNX Runtime",
            "OpenVINO",
            "OpenVINO, sparse decompression",
        )
    }
    for batch in BATCHES:
        x = inputs(batch, 1024)
        names = "dense", "LiteRT, sparse", "LiteRT, int8"
        runs = dict(zip(names, (runner(f, x) for f in files), strict=True))
        tables = [
            runs,
            {"dense": onnx(dense, x)[0], "ONNX Runtime": onnx(sparse, x)[0]},
            {
                "dense": openvino(dense, x)[0],
                "OpenVINO": openvino(sparse, x)[0],
                "OpenVINO, sparse decompression": openvino(
                    sparse, x, **decompression
                )[0],
            },
        ]
        for contenders in tables:
            medians, _ = median_ratios(contenders, rounds)
            for name in list(medians)[1:]:
                rows[name].append(f"{medians[name]:.2f}")
    return list(rows.values())


def print_others(rounds):
    columns = ["runtime", *map("batch {}".format, BATCHES)]
    title = (
        "Three layers of 1,024 units, 95% zeros in blocks of 4, to no zeros:"
    )
    print_table(title, columns, other_runtimes(rounds))
    rows = [convolution_row(zeros, rounds) for zeros in (0.7, 0.9, 0.95)]
    print_table("1x1 convolutions:", ["zeros", "file", "batch 1"], rows)
    model = network(1024, 0.95, 4)
    rows = [
        ["float32, sparse", correlation(model, SPARSITY)],
        ["int8", correlation(model, INT8)],
        ["int8, sparse", correlation(model, INT8, SPARSITY)],
    ]
    print_table("95% zeros in blocks of 4:", ["file", "correlation"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--others", action="store_true")
    options = parser.parse_args()
    packages = ["onnxruntime", "openvino"] if options.others else []
    print(versions("tensorflow", "ai-edge-litert", *packages))
    if options.others:
        print_others(options.rounds)
        return
    for width in (256, 1024):
        rows = [
            [f"{zeros:.0%}", name, *ratios(width, zeros, block, options.rounds)]
            for name, block in (("blocks of 4", 4), ("single", 1))
            for zeros in (0.7, 0.8, 0.85, 0.9, 0.95, 0.98)
        ]
        columns = ["zeros", "pattern", "file", *map("batch {}".format, BATCHES)]
        print_table(f"Three layers of {width:,} units:", columns, rows)


if __name__ == "__main__":
    main()
