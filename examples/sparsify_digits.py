"""
Title: Keep 5% of a network's weights
Author: The keras-gumbel authors
Date created: 2026/11/23
Last modified: 2026/11/23
Description: Sparsify a dense network on handwritten digits to an exact budget.
Picture: The kept share of each layer, and test accuracy over training.
Accelerator: None
"""

"""
## Introduction

A network of 50,200 kernel weights reads 8x8 images of handwritten digits. We
give every weight a score, its keep-probability, and train weights and scores
together. The budget for the sum of the scores falls to 5%. The saved model is a
plain Keras model with exactly 2,510 nonzero weights.

## Setup
"""

import copy
import io
import pathlib
import zipfile

import h5py
import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_gumbel as kg

DENSITY = 0.05
EPOCHS = 60
BATCH_SIZE = 64
OUTPUT = pathlib.Path("sparsify_digits")

keras.utils.set_random_seed(0)
OUTPUT.mkdir(exist_ok=True)

"""
## The data

There are 1,797 real images, and 360 of them are kept for the test. The picture
at the end shows the test accuracy, but it does not affect training.
"""

images, labels = load_digits(return_X_y=True)
x_train, x_test, y_train, y_test = train_test_split(
    images.astype("float32") / 16,
    labels,
    test_size=360,
    stratify=labels,
    random_state=0,
)
steps_per_epoch = int(np.ceil(len(x_train) / BATCH_SIZE))
steps = EPOCHS * steps_per_epoch

"""
## The dense network
"""

loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network():
    return keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(300, activation="relu", name="hidden_1"),
            layers.Dense(100, activation="relu", name="hidden_2"),
            layers.Dense(10, name="logits"),
        ]
    )


dense = network()
dense.compile("adam", loss=loss, metrics=["accuracy"])
dense.fit(x_train, y_train, batch_size=BATCH_SIZE, epochs=EPOCHS, verbose=0)

"""
## The sparse network

`sparsify` multiplies every kernel of the network with scores. It works in
place, so it gets a copy of the dense network. The density is a function of the
training step that the optimizer evaluates. It falls during the first 60% of the
steps. After 70%, the largest scores become the final mask, and the rest of the
training fine-tunes the kept weights.
"""

sparse = kg.sparsify(copy.deepcopy(dense))
sparse.compile(
    optimizer=kg.optimizers.ProjectedOptimizer(
        keras.optimizers.SGD(
            keras.optimizers.schedules.CosineDecay(0.1, steps), momentum=0.9
        ),
        density=kg.schedules.CubicDensity(DENSITY),
    ),
    loss=loss,
    metrics=["accuracy"],
)
history = sparse.fit(
    x_train,
    y_train,
    batch_size=BATCH_SIZE,
    epochs=EPOCHS,
    validation_data=(x_test, y_test),
    callbacks=[kg.callbacks.SparsityLogger()],
    verbose=0,
)

"""
## What is kept

The report counts the mask. It keeps the largest scores of the whole network,
exactly as many as the budget. `strip` folds it into the kernels.
"""

report = kg.sparsity_report(sparse)
print(report)

small = kg.strip(sparse)
small.compile(loss=loss, metrics=["accuracy"])
dense_accuracy = dense.evaluate(x_test, y_test, verbose=0)[1]
sparse_accuracy = small.evaluate(x_test, y_test, verbose=0)[1]
print(f"test accuracy, dense:  {dense_accuracy:.2%}")
print(f"test accuracy, sparse: {sparse_accuracy:.2%}")

"""
## On the disk

Zeros take almost no space in a compressed file. We count the nonzero weights in
the file itself.
"""


def nonzero_weights(path):
    """Counts the non-zero entries of all matrices in a `.keras` file."""
    with zipfile.ZipFile(path) as archive:
        weights = io.BytesIO(archive.read("model.weights.h5"))
    counts = []
    with h5py.File(weights) as file:
        file.visititems(
            lambda _, item: (
                counts.append(np.count_nonzero(item[()]))
                if isinstance(item, h5py.Dataset) and item.ndim > 1
                else None
            )
        )
    return sum(counts)


plain = network()
plain.set_weights(dense.get_weights())
for name, model in {"dense": plain, "sparse": small}.items():
    path = OUTPUT / f"{name}.keras"
    kg.save_compressed(model, path)
    nonzero = nonzero_weights(path)
    size = path.stat().st_size
    print(f"{path}: {nonzero:,} non-zero weights, {size:,} bytes")

"""
## The picture
"""

figure, (left, right) = plt.subplots(
    1, 2, figsize=(10, 3.2), layout="constrained"
)
kg.visualization.plot_sparsity(report, ax=left)
left.set_title(f"{report.density:.0%} of all weights are kept, by layer")
for line in left.lines:
    line.set_zorder(0)  # behind the labels
kg.visualization.plot_history(
    history.history, ["val_accuracy", "density"], ax=right
)
right.axhline(
    dense_accuracy, color="gray", linestyle=":", label="accuracy, dense"
)
right.legend()
right.set_title(
    f"test accuracy: {dense_accuracy:.1%} dense, {sparse_accuracy:.1%} sparse"
)
figure.savefig(OUTPUT / "sparsify_digits.png", dpi=150)
print(f"picture: {OUTPUT / 'sparsify_digits.png'}")
