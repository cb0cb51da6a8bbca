"""
Title: Prune the channels of a convnet
Author: The keras-gumbel authors
Date created: 2026/11/26
Last modified: 2026/11/26
Description: Remove whole filters under a budget of multiply-adds.
Picture: The channels and the multiply-adds that are left of each layer.
Accelerator: None
"""

"""
## Introduction

Zeros among the weights make a compressed file smaller, but the model no faster.
A model without whole channels is smaller and faster everywhere. Here every
filter of a small convnet, and every neuron of its hidden layer, gets one score.
The cost of the scores, in multiply-adds, has a budget. The result is an
ordinary Keras model with fewer channels.

## Setup
"""

import copy
import math
import os
import pathlib
import statistics
import time

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers

import keras_gumbel as kg

DENSITY = 0.13
EPOCHS = 10
TRAIN = 10_000
BATCH_SIZE = 64
ROUNDS = 15
OUTPUT = pathlib.Path("prune_channels")

keras.utils.set_random_seed(0)
OUTPUT.mkdir(exist_ok=True)

"""
## The data

10,000 images of clothes from Fashion-MNIST, 28x28 pixels each, and the 10,000
images of its test set.
"""


def load():
    """Downloads Fashion-MNIST, or reads it from a folder if that is set."""
    folder = os.environ.get("KERAS_GUMBEL_DATA")
    if folder is None:
        return keras.datasets.fashion_mnist.load_data()
    with np.load(pathlib.Path(folder) / "fashion_mnist.npz") as file:
        return tuple(
            (file[f"x_{part}"], file[f"y_{part}"]) for part in ("train", "test")
        )


(x_train, y_train), (x_test, y_test) = load()
x_train, y_train = x_train[:TRAIN, ..., None] / 255, y_train[:TRAIN]
x_test = x_test[..., None] / 255
steps_per_epoch = math.ceil(len(x_train) / BATCH_SIZE)

"""
## The dense convnet

Three convolutions and two dense layers. Batch normalization, padding and
residual connections are supported, too. `sparsify` follows the graph of the
model, and gives coupled channels one score.
"""

LAYERS = ("conv_1", "conv_2", "conv_3", "hidden")


def network(widths):
    def convolution(name, strides=1):
        return layers.Conv2D(
            widths[name], 3, strides, activation="relu", name=name
        )

    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            convolution("conv_1", 2),
            convolution("conv_2", 2),
            convolution("conv_3"),
            layers.Flatten(),
            layers.Dense(widths["hidden"], activation="relu", name="hidden"),
            layers.Dense(10, activation="softmax", name="class"),
        ]
    )


def train(model, epochs, **projection):
    """Trains a model, under a budget if one is given."""
    optimizer = keras.optimizers.Adam(
        keras.optimizers.schedules.CosineDecay(0.002, epochs * steps_per_epoch)
    )
    if projection:
        optimizer = kg.optimizers.ProjectedOptimizer(optimizer, **projection)
    model.compile(
        optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    model.fit(x_train, y_train, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)


dense = network(dict.fromkeys(LAYERS, 64))
train(dense, EPOCHS)

"""
## Scores for channels, a budget of multiply-adds

`granularity="channel"` gives one score to each filter and each neuron, with all
weights that belong to it. The ten outputs have to stay, so the last layer gets
no scores. `sparsify` works in place. The dense model is needed again below, so
a copy gets the masks.

A weight of `conv_2` is used at 36 positions of an image, and a weight of
`hidden` once. With `costs`, the density is the largest fraction of all
multiply-adds to keep. It counts the kept inputs and the kept outputs of each
layer.

The density reaches its final value after 60% of the steps. After 70%, the mask
is final, and the rest of the training fine-tunes the kept channels.
"""


def falling(density):
    return kg.schedules.CubicDensity(density)


masked = copy.deepcopy(dense)
kg.sparsify(masked, granularity="channel")
costs = kg.sparsity_costs(masked, "multiply_adds")
train(masked, EPOCHS, density=falling(DENSITY), costs=costs)

"""
## From masked to smaller

`harden` gives the model its final mask, but the model still has all of its
channels. `strip` multiplies the mask into the kernels. `shrink` makes a new
model without the dead channels and without the weights of the next layer that
read them.
"""

predicted = kg.harden(masked).predict(x_test, verbose=0)
stripped = kg.strip(masked)
small = kg.shrink(stripped)
print(kg.shrink_report(stripped))

difference = np.abs(small.predict(x_test, verbose=0) - predicted).max()
print(f"largest difference of the predictions: {difference:.1e}")

"""
## How many multiply-adds are left

`sparsity_costs` returns how often a weight of each layer is used for one image.
"""


def multiply_adds(model):
    """Counts those of one image, layer by layer."""
    weights = kg.sparsify(copy.deepcopy(model))
    uses = kg.sparsity_costs(weights, "multiply_adds").values()
    rows = kg.sparsity_report(weights).rows
    return [int(row.weights * n) for row, n in zip(rows, uses, strict=True)]


left = sum(multiply_adds(small)) / sum(multiply_adds(dense))
print(f"multiply-adds: {left:.1%} are left")

"""
## Two rivals of the same size

The classical method removes the smallest filters, the same fraction of each
layer. With the square root of the density above, this leaves about the same
number of multiply-adds. The second rival is a convnet with the widths of the
small one. It is trained from scratch, for as many epochs as the dense and the
masked one together.
"""

magnitude = copy.deepcopy(dense)
kg.sparsify(magnitude, "magnitude", filters=LAYERS, granularity="unit")
shares = dict.fromkeys(LAYERS, falling(math.sqrt(left)))
train(magnitude, EPOCHS, density=shares)

scratch = network({n: small.get_layer(n).kernel.shape[-1] for n in LAYERS})
train(scratch, 2 * EPOCHS)

"""
## What it is worth

All models predict the same large batch in turn. Times are relative to the dense
model in the same round, and the output is the median over the rounds.
"""

models = {
    "dense": dense,
    "learned scores": small,
    "smallest filters": kg.shrink(kg.strip(magnitude)),
    "from scratch": scratch,
}
batch = x_test[:1000]


def seconds(model):
    start = time.perf_counter()
    model.predict_on_batch(batch)
    return time.perf_counter() - start


def row(name, model, ratio):
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    accuracy = model.evaluate(x_test, y_test, verbose=0)[1]
    path = OUTPUT / f"{name.replace(' ', '_')}.keras"
    plain = network({n: model.get_layer(n).kernel.shape[-1] for n in LAYERS})
    plain.set_weights(model.get_weights())  # without an optimizer
    plain.save(path)
    return [
        name,
        f"{accuracy:.2%}",
        f"{model.count_params():,}",
        f"{sum(multiply_adds(model)):,}",
        f"{path.stat().st_size:,}",
        f"{ratio:.2f}",
    ]


for model in models.values():
    seconds(model)  # compiles
rounds = [list(map(seconds, models.values())) for _ in range(ROUNDS)]
ratios = [
    statistics.median(times[i] / times[0] for times in rounds)
    for i in range(len(models))
]
columns = ["model", "accuracy", "parameters", "multiply-adds", "bytes", "time"]
print("| " + " | ".join(columns) + " |")
print("|---" + "|--:" * (len(columns) - 1) + "|")
accuracies = {}
for (name, model), ratio in zip(models.items(), ratios, strict=True):
    cells = row(name, model, ratio)
    accuracies[name] = cells[1]
    print("| " + " | ".join(cells) + " |")

"""
A test accuracy has a standard error of 0.3 points, so none of the differences
between the three small networks is two standard errors. In a single run, the
learned scores have found widths with which a network also trains well from
scratch.

## The picture
"""


def draw_bars(ax, all_of, kept_of, title):
    """Draws what is left of each layer before what there was."""
    ax.barh(LAYERS, all_of, color="#CCCCCC", label="dense")
    bars = ax.barh(LAYERS, kept_of, color="#0072B2", label="left")
    texts = [
        f"{kept:,} of {count:,}"
        for kept, count in zip(kept_of, all_of, strict=True)
    ]
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    ax.bar_label(bars, texts, padding=6, bbox=box)
    ax.invert_yaxis()
    ax.margins(x=0.2)
    ax.set_xticks([])
    ax.spines[["top", "right", "bottom"]].set_visible(False)
    ax.set_title(title)


figure, (left_axes, right_axes) = plt.subplots(
    1, 2, figsize=(10, 3), layout="constrained"
)
draw_bars(
    left_axes,
    [dense.get_layer(name).kernel.shape[-1] for name in LAYERS],
    [small.get_layer(name).kernel.shape[-1] for name in LAYERS],
    "channels",
)
# Those of the last layer, which comes last, are few.
draw_bars(
    right_axes,
    multiply_adds(dense)[:-1],
    multiply_adds(small)[:-1],
    "multiply-adds of an image",
)
right_axes.legend(loc="lower right")
figure.suptitle(
    f"{left:.0%} of the multiply-adds left. Test accuracy: "
    + ", ".join(f"{name} {value}" for name, value in accuracies.items()),
    fontsize=10,
)
figure.savefig(OUTPUT / "prune_channels.png", dpi=120)
print(f"picture: {OUTPUT / 'prune_channels.png'}")
