"""Sizes and times of sparse LiteRT files, as ratios to dense ones.

    KERAS_BACKEND=tensorflow python benchmarks/sparse_litert.py

zeroes blocks of four inputs of a unit, or single weights, of a network of
three square Dense layers at random. TensorFlow converts it with and without
sparsity. LiteRT runs both files in turn on one thread, at batches of 1, 8 and
64. The last table compares the outputs of int8 files with those of the model.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import tempfile

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from timing import median_ratios
from timing import print_table
from timing import versions

SPARSITY = tf.lite.Optimize.EXPERIMENTAL_SPARSITY
INT8 = tf.lite.Optimize.DEFAULT  # of dynamic range
BATCHES = (1, 8, 64)


def network(width, zeros, block):
    generator = np.random.default_rng(0)
    hidden = [keras.layers.Dense(width, "relu") for _ in range(3)]
    model = keras.Sequential([keras.Input((width,)), *hidden])
    for layer in model.layers:
        kernel, bias = layer.get_weights()
        kept = generator.random((width // block, width)) >= zeros
        layer.set_weights([kernel * np.repeat(kept, block, axis=0), bias])
    return model


def convert(model, *optimizations):
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, format="tf_saved_model", verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = list(optimizations)
        return converter.convert()


def interpreter_of(file, x):
    interpreter = Interpreter(model_content=file, num_threads=1)
    index = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(index, x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(index, x)
    return interpreter


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


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    print(versions("tensorflow", "ai-edge-litert"))
    for width in (256, 1024):
        rows = [
            [f"{zeros:.0%}", name, *ratios(width, zeros, block, options.rounds)]
            for name, block in (("blocks of 4", 4), ("single", 1))
            for zeros in (0.7, 0.8, 0.85, 0.9, 0.95, 0.98)
        ]
        columns = ["zeros", "pattern", "file", *map("batch {}".format, BATCHES)]
        print_table(f"Three layers of {width} units:", columns, rows)
    model = network(1024, 0.95, 4)
    rows = [
        ["float32, sparse", correlation(model, SPARSITY)],
        ["int8", correlation(model, INT8)],
        ["int8, sparse", correlation(model, INT8, SPARSITY)],
    ]
    print_table("95% zeros in blocks of 4:", ["file", "correlation"], rows)


if __name__ == "__main__":
    main()
