"""Compares ways to keep some of the filters of a convnet.

    KERAS_BACKEND=jax python benchmarks/units.py

trains a convnet of three convolutions of 64 filters on handwritten digits, with
and without batch normalization, and keeps a share of the weights of the
convolutions, filter by filter: by magnitude, at random, by learned scores of
the filters, and by learned scores of masks that follow the normalization. The
budget is one for all layers, or one for each.

Every row has the same learning rate, number of steps and seeds. It prints the
test accuracy with the final mask and recalibrated statistics, mean and
standard error, and the filters of each layer that the first run kept.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import warnings

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from timing import mean_and_error
from timing import print_table
from timing import versions

import keras_gumbel as kg

BATCH_SIZE = 64
EPOCHS = 30
FILTERS = 64
CONVOLUTIONS = ("conv_1", "conv_2", "conv_3")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(normalized=True, gated=False):
    stack = [keras.Input((8, 8, 1))]
    for name in CONVOLUTIONS:
        stack.append(
            layers.Conv2D(FILTERS, 3, use_bias=not normalized, name=name)
        )
        if normalized:
            stack.append(layers.BatchNormalization())
        if gated:
            stack.append(kg.masks.LearnedMask(axis=-1, name=f"{name}_mask"))
        stack.append(layers.ReLU())
    return keras.Sequential(
        [*stack, layers.GlobalAveragePooling2D(), layers.Dense(10)]
    )


def masked(mask, **options):
    return kg.sparsify(
        network(**options), mask, filters=CONVOLUTIONS, granularity="unit"
    )


# How to make the model, and whether each layer has a budget of its own.
ROWS = {
    "magnitude": (lambda: masked("magnitude"), False),
    "magnitude, per layer": (lambda: masked("magnitude"), True),
    "random, per layer": (lambda: masked("random"), True),
    "learned": (lambda: masked("learned"), False),
    "learned, per layer": (lambda: masked("learned"), True),
    "after the normalization": (lambda: network(gated=True), False),
    "after the normalization, per layer": (lambda: network(gated=True), True),
    "no normalization: magnitude": (
        lambda: masked("magnitude", normalized=False),
        False,
    ),
    "no normalization: learned": (
        lambda: masked("learned", normalized=False),
        False,
    ),
}


def schedules(model, density, steps, per_layer):
    """Returns a schedule of the density, one for each layer if asked."""
    ends = {"": density}
    if per_layer:
        ends = kg.layer_densities(model, density, "uniform")
    return {
        name: kg.schedules.CubicDensity(end, steps)
        for name, end in ends.items()
    }


def train(row, density, data, seed):
    """Returns the test accuracy, and how many filters each layer keeps."""
    make, per_layer = ROWS[row]
    x_train, x_test, y_train, y_test = data
    steps = EPOCHS * -(-len(x_train) // BATCH_SIZE)
    keras.utils.set_random_seed(seed)
    model = make()
    optimizer = kg.optimizers.ProjectedOptimizer(
        keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(0.003, steps)
        ),
        density=schedules(model, density, steps, per_layer),
        score_optimizer=kg.optimizers.ScoreSGD(batch_size=BATCH_SIZE),
    )
    model.compile(optimizer, LOSS)
    model.fit(x_train, y_train, BATCH_SIZE, EPOCHS, verbose=0)
    kg.harden(model)
    if any(isinstance(x, layers.BatchNormalization) for x in model.layers):
        kg.recalibrate_batch_normalization(model, x_train)
    predicted = model.predict(x_test, verbose=0).argmax(axis=-1)
    kept = [
        row.kept * FILTERS // row.weights
        for row in kg.sparsity_report(model).rows
    ]
    return 100 * np.mean(predicted == y_test), kept


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--densities", type=float, nargs="+", default=[0.3, 0.2, 0.1]
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    images, labels = load_digits(return_X_y=True)
    data = train_test_split(
        images.reshape(-1, 8, 8, 1).astype("float32") / 16,
        labels,
        test_size=360,
        stratify=labels,
        random_state=0,
    )
    print(versions("scikit-learn"))
    table = []
    for row in arguments.rows:
        cells = [row]
        for density in arguments.densities:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # which is the point
                runs = [
                    train(row, density, data, seed)
                    for seed in range(arguments.seeds)
                ]
            accuracy = [percent for percent, _ in runs]
            cells.append(mean_and_error(accuracy, digits=1))
            cells.append(" ".join(map(str, runs[0][1])))
        table.append(cells)
    columns = [f"{d:.0%}" for d in arguments.densities]
    print_table(
        f"Digits, test accuracy in %, {FILTERS} filters in each layer",
        ["scores", *(x for c in columns for x in (c, "kept"))],
        table,
    )


if __name__ == "__main__":
    main()
