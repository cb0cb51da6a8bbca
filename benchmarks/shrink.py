"""Times models with half of their units removed.

    KERAS_BACKEND=jax python benchmarks/shrink.py

zeroes half of the columns of every hidden kernel of a Dense network and of a
small convnet, whose biases and statistics are not zero, and prints what
`keras_gumbel.shrink` makes of it: parameters, multiply-adds of one example,
the size of the saved file, and the CPU time of a batch as a multiple of that
of the model before. Both are compiled by XLA on JAX and TensorFlow and eager
on torch, and timed in turn.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import math
import pathlib
import tempfile

import keras
import numpy as np
from keras import layers
from keras import ops
from timing import median_ratios
from timing import print_table
from timing import versions

import keras_gumbel as kg

BACKEND = keras.config.backend()
KINDS = (layers.Dense, layers.Conv2D)


def dense():
    hidden = [layers.Dense(1024, "relu") for _ in range(3)]
    return [keras.Input((784,)), *hidden, layers.Dense(10)]


def convnet(*filters):
    stack = [keras.Input((28, 28, 1))]
    for count in filters:
        stack += [
            layers.Conv2D(count, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
        ]
    hidden = layers.Dense(128, "relu")
    return [*stack, layers.Flatten(), hidden, layers.Dense(10)]


def half_dead(stack):
    """Builds a model half of whose hidden units are constant."""
    generator = np.random.default_rng(0)
    model = keras.Sequential(stack)
    for variable in model.weights:
        if len(variable.shape) == 1:
            variable.assign(generator.uniform(0.1, 1.0, variable.shape))
    for layer in model.layers[:-1]:
        if isinstance(layer, KINDS):
            kernel, *biases = layer.get_weights()
            units = kernel.shape[-1]
            kernel[..., generator.permutation(units)[: units // 2]] = 0.0
            layer.set_weights([kernel, *biases])
    return model


def multiply_adds(model):
    """Counts those of one example, in kernels."""
    return sum(
        layer.kernel.shape[-1]
        * math.prod(layer.kernel.shape[:-1])
        * math.prod(layer.output.shape[1:-1])
        for layer in model.layers
        if isinstance(layer, KINDS)
    )


def file_size(model):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.keras"
        model.save(path)
        return path.stat().st_size


def runner(model, inputs):
    """Compiles the inference of a batch."""
    inputs = ops.convert_to_tensor(inputs)
    if BACKEND == "jax":
        import jax

        state = [
            [v.value for v in variables]
            for variables in (
                model.trainable_variables,
                model.non_trainable_variables,
            )
        ]
        run = jax.jit(lambda state, x: model.stateless_call(*state, x)[0])
        return lambda: jax.block_until_ready(run(state, inputs))
    if BACKEND == "tensorflow":
        import tensorflow as tf

        run = tf.function(lambda x: model(x, training=False), jit_compile=True)
        return lambda: run(inputs).numpy()
    import torch

    @torch.inference_mode()
    def infer():
        return model(inputs, training=False)

    return infer


def measure(stack, batch, rounds):
    model = half_dead(stack)
    small = kg.shrink(model)
    shape = (batch, *model.input_shape[1:])
    inputs = np.random.default_rng(1).normal(size=shape).astype("float32")
    outputs = [
        ops.convert_to_numpy(m(ops.convert_to_tensor(inputs), training=False))
        for m in (model, small)
    ]
    error = np.abs(outputs[1] - outputs[0]).max() / np.abs(outputs[0]).max()
    ratios, unit = median_ratios(
        {"before": runner(model, inputs), "shrunk": runner(small, inputs)},
        rounds,
    )
    times = f"{1e3 * unit:.1f} ms", f"{ratios['shrunk']:.2f}"
    return [
        [
            title,
            f"{part.count_params():,}",
            f"{multiply_adds(part):,}",
            f"{file_size(part) / 1e6:.2f} MB",
            *measured,
        ]
        for title, part, *measured in (
            ("before", model, times[0], ""),
            ("shrunk", small, times[1], f"{error:.0e}"),
        )
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    if BACKEND == "torch":
        import torch

        torch.set_num_threads(1)
    print(versions(BACKEND))
    for title, stack in (
        ("Dense 784-1024-1024-1024-10", dense()),
        ("Convolutions 32-64, Dense 128-10", convnet(32, 64)),
        ("Convolutions 64-128, Dense 128-10", convnet(64, 128)),
    ):
        rows = measure(stack, options.batch, options.rounds)
        columns = ["model", "parameters", "multiply-adds", "file"]
        columns += [f"batch of {options.batch}", "difference"]
        print_table(title, columns, rows)


if __name__ == "__main__":
    main()
