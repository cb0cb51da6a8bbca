"""Times models with half of their units removed, and shrinks real networks.

    KERAS_BACKEND=jax python benchmarks/shrink.py

zeroes half of the columns of every hidden kernel of a Dense network and of a
small convnet, whose biases and statistics are not zero, and prints what
`keras_gumbel.shrink` makes of it: parameters, multiply-adds of one example,
the size of the saved file, and the CPU time of a batch as a multiple of that
of the model before. Both are compiled by XLA on JAX and TensorFlow and eager
on torch, and timed in turn.

    KERAS_BACKEND=torch python benchmarks/shrink.py --networks

finds the coupled channels of networks of `keras.applications` and of a
transformer, removes half of each group, drawn at random, and prints how many
parameters and multiply-adds are left, how many would be left if exactly those
channels were gone from every weight ("allowed"), the largest difference of
the outputs over the largest output, and the CPU seconds that it took. Names of
networks after `--networks` choose some of them. Multiply-adds are those of
kernels.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import math
import pathlib
import tempfile
import time
import warnings

import keras
import numpy as np
from keras import layers
from keras import ops
from timing import median_ratios
from timing import print_table
from timing import versions

import keras_gumbel as kg
from keras_gumbel.shrinking._coupling import coupled_channels

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


def transformer(size):
    """Builds a classifier of 16x16 patches, with normalization first."""
    inputs = keras.Input((size, size, 3))
    x = layers.Conv2D(192, 16, 16, name="patches")(inputs)
    x = layers.Reshape((-1, 192))(x)
    for i in range(6):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(8, 24, name=f"attention_{i}")(y, y)
        y = layers.LayerNormalization()(x)
        y = layers.Dense(768, "gelu", name=f"hidden_{i}")(y)
        x = x + layers.Dense(192, name=f"output_{i}")(y)
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(1000)(x), name="Transformer")


NETWORKS = (
    "ResNet50",
    "MobileNetV2",
    "EfficientNetV2B0",
    "DenseNet121",
    "ConvNeXtTiny",
    "Transformer",
)


def network(name, size):
    """Builds a network with random weights and statistics."""
    keras.utils.set_random_seed(0)
    if name == "Transformer":
        model = transformer(size)
    else:
        build = getattr(keras.applications, name)
        model = build(
            weights=None,
            input_shape=(size, size, 3),
            classifier_activation=None,
        )
    generator = np.random.default_rng(0)
    for variable in model.weights:
        if len(variable.shape) == 1:
            low = 0.5 if variable.name in ("gamma", "moving_variance") else -0.5
            values = generator.uniform(low, low + 1.0, variable.shape)
            variable.assign(values)
    return model


def halve(groups, seed):
    """Zeroes all that reads half of the sets of each group.

    Returns:
        A dictionary of the id of a weight to the entries of each axis that
        are left.
    """
    generator = np.random.default_rng(seed)
    left = {}
    for group in groups:
        removed = np.zeros(group.size, bool)
        removed[generator.permutation(group.size)[: group.size // 2]] = True
        for slot in group.slots:
            gone = (slot.index >= 0) & removed[slot.index]
            axes = [np.ones(length, bool) for length in slot.weight.shape]
            axes = left.setdefault(id(slot.weight), axes)
            axes[slot.axis] &= ~gone
            if slot.reads:
                values = ops.convert_to_numpy(slot.weight).copy()
                np.moveaxis(values, slot.axis, 0)[gone] = 0.0
                slot.weight.assign(values)
    return left


def counts(model, left):
    """Counts parameters and multiply-adds with what is left of each axis."""
    parameters = total = 0
    for layer in model.layers:
        positions = math.prod(layer.output.shape[1:-1])
        for weight in layer.weights:
            axes = left.get(id(weight), ())
            shape = [int(axis.sum()) for axis in axes] or weight.shape
            parameters += math.prod(shape)
            if "kernel" in weight.name:
                total += math.prod(shape) * positions
    return parameters, total


def shrink_network(name, size, seed):
    model = network(name, size)
    before = counts(model, {})
    start = time.process_time()
    groups = coupled_channels("benchmark", model)
    found = time.process_time() - start
    allowed = counts(model, halve(groups, seed))
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", kg.SparsityWarning)
        small = kg.shrink(model)
    seconds = time.process_time() - start
    inputs = np.random.default_rng(1).normal(size=(2, size, size, 3))
    inputs = ops.convert_to_tensor(128 + 64 * inputs.astype("float32"))
    outputs = [
        ops.convert_to_numpy(m(inputs, training=False)) for m in (model, small)
    ]
    error = np.abs(outputs[1] - outputs[0]).max() / np.abs(outputs[0]).max()
    after = counts(small, {})
    shares = [
        f"{b / 1e6:,.1f}M -> {a / 1e6:,.1f}M ({a / b:.3f}; {c / b:.3f})"
        for a, b, c in zip(after, before, allowed, strict=True)
    ]
    times = f"{found:.1f} + {seconds:.1f}"
    return [name, str(len(groups)), *shares, f"{error:.0e}", times]


def print_networks(names, size, seed):
    rows = [shrink_network(name, size, seed) for name in names]
    columns = ["network", "groups"]
    columns += ["parameters (left; allowed)", "multiply-adds (left; allowed)"]
    columns += ["difference", "CPU seconds: find + shrink"]
    title = f"Half of the channels of each group, inputs of {size}x{size}"
    print_table(title, columns, rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--networks", nargs="*", choices=NETWORKS)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if BACKEND == "torch":
        import torch

        torch.set_num_threads(1)
    print(versions(BACKEND))
    if options.networks is not None:
        names = options.networks or NETWORKS
        print_networks(names, options.size, options.seed)
        return
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
