"""
Title: Search images by codes of 4 bytes
Author: The keras-gumbel authors
Date created: 2026/11/26
Last modified: 2026/11/26
Description: Learn binary codes whose Hamming distance finds similar images.
Picture: Ten queries, their codes, and the five nearest images.
Accelerator: None
"""

"""
## Introduction

Semantic hashing gives every image a code of a few bits. Similar images have
codes that differ in few bits. A database of codes takes a few bytes for each
image, and a search counts bits. A bit has no gradient, so codes are usually
found by rounding other numbers. Here every bit is 0 or 1 in training, as in the
search. Training uses no labels. They only evaluate the search.

## Setup
"""

import math
import os
import pathlib

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers
from sklearn.decomposition import PCA

import keras_gumbel as kg

BITS = (16, 32)
PIXELS = 784
DATABASE, QUERIES = 5000, 500
NEIGHBOURS = 20
EPOCHS = 4
BATCH_SIZE = 128
OUTPUT = pathlib.Path("hash_codes")

keras.utils.set_random_seed(0)
OUTPUT.mkdir(exist_ok=True)

"""
## The data

5,000 images of MNIST, 28x28 pixels each, are the database and the training
data. 500 of the test images are the queries.
"""


def load():
    """Downloads MNIST, or reads it from a folder if that is set."""
    folder = os.environ.get("KERAS_GUMBEL_DATA")
    if folder is None:
        return keras.datasets.mnist.load_data()
    with np.load(pathlib.Path(folder) / "mnist.npz") as file:
        return tuple(
            (file[f"x_{part}"], file[f"y_{part}"]) for part in ("train", "test")
        )


def flat(images):
    return images.reshape(-1, PIXELS).astype("float32") / 255


(database, digits), (queries, query_digits) = load()
database, digits = flat(database[:DATABASE]), digits[:DATABASE]
queries, query_digits = flat(queries[:QUERIES]), query_digits[:QUERIES]


def squared_distances(a, b):
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)
    return squares - 2 * a @ b.T


"""
## An autoencoder of neighbours

The logits of each bit go through `StraightThroughArgmax`, a choice of one of
two classes: exact samples in training, and the more likely class in inference.
A single dense layer turns the bits into pixels, so a bit has about the same
value in the code of any image. The bias of this layer starts at the mean image,
so that the code does not have to encode it. The target is not the image itself,
but each of its 20 nearest images in the database (including itself). The code
thus learns what similar images have in common.

`CategoricalKL` pulls each bit toward a fair coin, with a tenth of its weight in
the evidence bound. A bit that is always 1 carries no information.
"""

nearest = np.argsort(squared_distances(database, database), kind="stable")
inputs = np.repeat(database, NEIGHBOURS, axis=0)
targets = database[nearest[:, :NEIGHBOURS].ravel()]
steps = EPOCHS * math.ceil(len(inputs) / BATCH_SIZE)


def mean_image(shape, dtype=None):
    """Starts the decoder at the mean image, which the code need not tell."""
    mean = np.clip(database.mean(axis=0), 0.01, 0.99)
    return keras.ops.cast(np.log(mean / (1 - mean)), dtype)


def pixel_loss(y_true, y_pred):
    """Adds up the cross-entropies of an image."""
    return PIXELS * keras.losses.binary_crossentropy(y_true, y_pred)


def fit_encoder(bits, code_of):
    """Trains an autoencoder and returns its encoder."""
    image = keras.Input((PIXELS,))
    hidden = layers.Dense(256, activation="relu")(image)
    code = code_of(hidden)
    pixels = layers.Dense(
        PIXELS, activation="sigmoid", bias_initializer=mean_image
    )(layers.Flatten()(code))
    model = keras.Model(image, pixels)
    rate = keras.optimizers.schedules.CosineDecay(0.001, steps)
    model.compile(keras.optimizers.Adam(rate), loss=pixel_loss)
    model.fit(inputs, targets, batch_size=BATCH_SIZE, epochs=EPOCHS, verbose=0)
    return keras.Model(image, code)


def sampled(bits):
    """Returns the codes of an autoencoder with bits that are drawn."""

    def code_of(hidden):
        logits = layers.Reshape((bits, 2))(layers.Dense(2 * bits)(hidden))
        return kg.layers.StraightThroughArgmax(
            temperature=0.5,
            logits_regularizer=kg.regularizers.CategoricalKL(0.1 * bits),
            seed=0,
        )(logits)

    encoder = fit_encoder(bits, code_of)
    return lambda x: encoder.predict(x, verbose=0)[..., 1] == 1


"""
## What it has to beat

We compare with the same autoencoder with sigmoids instead of bits, rounded
after training. Other methods are the signs of random projections, the signs of
principal components, and iterative quantization (ITQ). ITQ rotates the
principal components so that rounding changes them least. All of them have the
same number of bits.
"""


def rounded(bits):
    """Returns the codes of an autoencoder that knows no bits in training."""
    encoder = fit_encoder(bits, layers.Dense(bits, activation="sigmoid"))
    return lambda x: encoder.predict(x, verbose=0) > 0.5


def random_projections(bits):
    directions = np.random.default_rng(0).normal(size=(PIXELS, bits))
    return lambda x: (x - database.mean(axis=0)) @ directions > 0


def principal_components(bits):
    pca = PCA(bits).fit(database)
    return lambda x: pca.transform(x) > 0


def iterative_quantization(bits):
    pca = PCA(bits).fit(database)
    projected = pca.transform(database)
    noise = np.random.default_rng(0).normal(size=(bits, bits))
    rotation = np.linalg.qr(noise)[0]
    for _ in range(50):
        signs = np.sign(projected @ rotation)
        left, _, right = np.linalg.svd(projected.T @ signs)
        rotation = left @ right
    return lambda x: pca.transform(x) @ rotation > 0


"""
## The search

A search needs only the packed codes. The distance of two codes is the number of
ones in their exclusive or. Precision@10 is the fraction of the 10 nearest
images that show the digit of the query. Mean average precision (mAP) evaluates
the ranking of the whole database. Images at the same distance keep the order of
the database, which is random.
"""


def hamming_distances(a, b):
    return np.unpackbits(a[:, None] ^ b[None], axis=-1).sum(axis=-1)


def judge(distances):
    order = np.argsort(distances, axis=1, kind="stable")
    found = digits[order] == query_digits[:, None]
    precision = np.cumsum(found, axis=1) / np.arange(1, len(database) + 1)
    average = (precision * found).sum(axis=1) / found.sum(axis=1)
    return found[:, :10].mean(), average.mean()


"""
`CodePerplexity` is the effective number of the 256 values of a byte that are in
use. Codes with more values distinguish more images.
"""


def values_in_use(packed):
    perplexity = []
    for byte in packed.T:
        metric = kg.metrics.CodePerplexity(256)
        metric.update_state(byte)
        perplexity.append(float(metric.result()))
    return np.mean(perplexity)


methods = {
    "random projections": random_projections,
    "principal components": principal_components,
    "ITQ": iterative_quantization,
    "autoencoder, rounded": rounded,
    "autoencoder, drawn bits": sampled,
}
columns = ["code", "bits", "database", "precision@10", "mAP", "values a byte"]
print("| " + " | ".join(columns) + " |")
print("|---" + "|--:" * (len(columns) - 1) + "|")
for bits in BITS:
    for name, method in methods.items():
        code = method(bits)
        packed = np.packbits(code(database), axis=1)
        distances = hamming_distances(
            np.packbits(code(queries), axis=1), packed
        )
        precision, average = judge(distances)
        print(
            f"| {name} | {bits} | {packed.nbytes:,} bytes | {precision:.3f} "
            f"| {average:.3f} | {values_in_use(packed):.0f} |"
        )
exact = squared_distances(queries, database)
precision, average = judge(exact)
print(
    f"| all pixels | {8 * queries[0].nbytes:,} | {database.nbytes:,} bytes "
    f"| {precision:.3f} | {average:.3f} | |"
)

"""
## The picture

The first query of every digit, its 32 bits by the last method, and the five
nearest images, with their Hamming distance above.
"""

SHOWN = 5


def frame(ax, color, width):
    ax.axis("on")
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(color=color, linewidth=width)


figure, axes = plt.subplots(
    5, 2 * (SHOWN + 2) + 1, figsize=(10, 4.4), layout="constrained"
)
for ax in axes.flat:
    ax.axis("off")
wrong = 0
for digit in range(10):
    query = np.flatnonzero(query_digits == digit)[0]
    row = axes[digit % 5, (SHOWN + 3) * (digit // 5) :]
    row[0].imshow(queries[query].reshape(28, 28), cmap="gray_r")
    row[1].imshow(
        code(queries[query : query + 1]).reshape(-1, 8),
        cmap="gray_r",
        vmin=0,
        vmax=1,
    )
    frame(row[1], "#999999", 1)
    closest = np.argsort(distances[query], kind="stable")[:SHOWN]
    for ax, found in zip(row[2:], closest, strict=False):
        ax.imshow(database[found].reshape(28, 28), cmap="gray_r")
        ax.set_title(distances[query, found], fontsize=8, pad=2)
        if digits[found] != digit:
            frame(ax, "#D55E00", 2.5)
            wrong += 1
for row in (axes[0], axes[0, SHOWN + 3 :]):
    row[0].set_title("query", fontsize=8, pad=2)
    row[1].set_title("code", fontsize=8, pad=2)
figure.suptitle(
    f"five nearest images by their 32 bits, and how many bits differ: "
    f"{10 * SHOWN - wrong} of {10 * SHOWN} show the digit of the query",
    fontsize=10,
)
figure.savefig(OUTPUT / "hash_codes.png", dpi=120)
print(f"picture: {OUTPUT / 'hash_codes.png'}")
