"""
Title: Ten pixels that tell the rest
Author: The keras-gumbel authors
Date created: 2026/11/26
Last modified: 2026/11/26
Description: Select features that reconstruct an image, none of them twice.
Picture: The pixels that are chosen, and images reconstructed from them.
Accelerator: None
"""

"""
## Introduction

Which 10 of the 64 pixels of a handwritten digit should we look at, to know the
other 54? A concrete autoencoder (Balin, Abid and Zou, 2019) learns the choice
and the decoder together, by gradient descent.

In its classic form, it has 10 selectors. Each selector is a softmax over all
pixels and a Gumbel-Softmax sample in training (Eq. 15). In the end, it picks
one pixel. The selectors are independent. Two of them can choose the same pixel,
and as the temperature falls, neither will leave it. A budget of 10 then selects
9 pixels, or fewer.

Here we give each *pixel* a score instead, the probability that it is kept. The
sum of the scores is at most 10 (Eq. 29). No pixel can be kept twice, and the
final mask has exactly 10 ones.

## Setup
"""

import pathlib

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers
from keras import ops
from rich import box
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import train_test_split

import keras_gumbel as kg

PIXELS, BUDGET = 64, 10
EPOCHS = 80
BATCH_SIZE = 64
OUTPUT = pathlib.Path("concrete_autoencoder")

OUTPUT.mkdir(exist_ok=True)

"""
## The data

There are 1,797 real images, and 360 of them are kept for the test. The pixels
are chosen and the decoders trained only on the others.
"""

images, labels = load_digits(return_X_y=True)
x_train, x_test = train_test_split(
    images.astype("float32") / 16,
    test_size=360,
    stratify=labels,
    random_state=0,
)


def decoder():
    return [layers.Dense(64, activation="relu"), layers.Dense(PIXELS)]


"""
## A mask of ten pixels

`ConcreteMask` multiplies the image by a mask of zeros and ones. A new mask is
drawn in every step, with the gradient of a relaxed mask (Eqs. 26 and 16). The
optimizer projects the scores onto the budget, which falls from all pixels to
ten. After 70% of the steps, it fixes the mask to the ten largest scores.
"""

keras.utils.set_random_seed(0)
masked = keras.Sequential(
    [
        keras.Input((PIXELS,)),
        kg.layers.ConcreteMask(hard=True, seed=0, name="pixels"),
        *decoder(),
    ]
)
masked.compile(
    kg.optimizers.ProjectedOptimizer(
        keras.optimizers.Adam(3e-3),
        density=kg.schedules.CubicDensity(BUDGET / PIXELS),
    ),
    loss="mse",
)
masked.fit(x_train, x_train, batch_size=BATCH_SIZE, epochs=EPOCHS, verbose=0)

kg.harden(masked, budget=BUDGET)
ours = masked.get_layer("pixels").get_support(indices=True)

"""
## The classic selectors

The same decoder follows ten selectors. Their logits are weights, not a function
of the image. Otherwise they use the usual sampling layer. The first run has the
learning rate and the temperatures of the paper, from 10 to 0.01, but far fewer
steps. The second run has ten times that learning rate and a higher final
temperature, which suit a run as short as ours. Long training makes duplicates
rare, but does not rule them out.
"""


class Selectors(layers.Layer):
    """Picks one pixel for each of its outputs."""

    def __init__(self, count, sampler, **kwargs):
        super().__init__(**kwargs)
        self.count = count
        self.sampler = sampler

    def build(self, input_shape):
        self.logits = self.add_weight(
            shape=(self.count, input_shape[-1]), name="logits"
        )

    def call(self, inputs, training=None):
        picks = self.sampler(self.logits, training=training)
        return inputs @ ops.transpose(picks)


def picked_by_selectors(learning_rate, final_temperature):
    keras.utils.set_random_seed(0)
    temperature = kg.schedules.ExponentialAnnealing(10.0, final_temperature)
    selectors = Selectors(BUDGET, kg.layers.GumbelSoftmax(temperature, seed=0))
    model = keras.Sequential([keras.Input((PIXELS,)), selectors, *decoder()])
    model.compile(keras.optimizers.Adam(learning_rate), loss="mse")
    model.fit(x_train, x_train, batch_size=BATCH_SIZE, epochs=EPOCHS, verbose=0)
    return ops.convert_to_numpy(ops.argmax(selectors.logits, axis=-1))


slow = picked_by_selectors(learning_rate=1e-3, final_temperature=0.01)
fast = picked_by_selectors(learning_rate=1e-2, final_temperature=0.1)

"""
## Judges

We evaluate every choice of pixels with two new decoders: a linear regression of
all pixels on the chosen pixels, and a new network.
"""


def linear_error(pixels):
    regression = LinearRegression().fit(x_train[:, pixels], x_train)
    return np.mean((regression.predict(x_test[:, pixels]) - x_test) ** 2)


def new_decoder(pixels):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((len(pixels),)), *decoder()])
    model.compile(keras.optimizers.Adam(3e-3), loss="mse")
    model.fit(
        x_train[:, pixels],
        x_train,
        batch_size=BATCH_SIZE,
        epochs=40,
        verbose=0,
    )
    return lambda x: ops.convert_to_numpy(model(x[:, pixels]))


def network_error(reconstruct):
    return np.mean((reconstruct(x_test) - x_test) ** 2)


"""
## Rivals

Random pixels show the value of any ten pixels. Greedy forward selection adds
the pixel that helps the linear regression most, ten times. With 64 candidates
this is cheap, and it optimizes the first decoder directly. Ten principal
components are mixtures of all 64 pixels. No linear decoder can do better on the
images that they were fitted to.
"""


def greedy_selection():
    chosen = []
    for _ in range(BUDGET):
        errors = {}
        for pixel in set(range(PIXELS)) - set(chosen):
            pixels = [*chosen, pixel]
            regression = LinearRegression().fit(x_train[:, pixels], x_train)
            fitted = regression.predict(x_train[:, pixels])
            errors[pixel] = np.mean((fitted - x_train) ** 2)
        chosen.append(min(errors, key=errors.get))
    return np.array(chosen)


greedy = greedy_selection()
rng = np.random.default_rng(0)
draws = [rng.choice(PIXELS, BUDGET, replace=False) for _ in range(20)]

pca = PCA(BUDGET).fit(x_train)
components = pca.inverse_transform(pca.transform(x_test))

table = Table(
    "pixels",
    "distinct",
    "linear",
    "network",
    title="Mean squared error on the test images, by decoder",
    box=box.SIMPLE_HEAD,
)
for column in table.columns[1:]:
    column.justify = "right"

choices = {
    "mask of ten": ours,
    "ten selectors, slow": slow,
    "ten selectors, fast": fast,
    "greedy": greedy,
}
networks = {name: new_decoder(pixels) for name, pixels in choices.items()}
errors = {
    name: (linear_error(pixels), network_error(networks[name]))
    for name, pixels in choices.items()
}
for name, (linear, network) in errors.items():
    distinct = len(np.unique(choices[name]))
    table.add_row(name, str(distinct), f"{linear:.4f}", f"{network:.4f}")
table.add_row(
    "random, mean of 20 and 3",
    str(BUDGET),
    f"{np.mean([linear_error(draw) for draw in draws]):.4f}",
    f"{np.mean([network_error(new_decoder(d)) for d in draws[:3]]):.4f}",
)
table.add_row(
    "ten principal components",
    "",
    f"{np.mean((components - x_test) ** 2):.4f}",
    "",
)
Console(width=80).print(table)

"""
Greedy selection needs no training and is hard to beat, especially with a linear
decoder. The learned mask was trained with a network, and can choose pixels
jointly. Another seed changes the error of a learned choice by about a tenth, so
smaller differences say little. If greedy wins, the sign below is a plus.
"""

for judge, title in enumerate(["linear", "network"]):
    ahead = errors["mask of ten"][judge] / errors["greedy"][judge] - 1
    print(f"mask against greedy, {title} decoder: error {ahead:+.1%}")
print(f"pixels of the mask: {ours.tolist()}")

"""
## The picture

The pixels of the mask and of the greedy selection over the mean image, and test
images: the original, the input of the decoder, and the reconstruction.
"""

shown = x_test[:8]
reconstructed = networks["mask of ten"](shown)
seen = np.full_like(shown, np.nan)
seen[:, ours] = shown[:, ours]

figure = plt.figure(figsize=(10, 3.6), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=[1, 1.6])
ax = left.subplots()
ax.imshow(x_train.mean(axis=0).reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
for name, pixels, style in [
    ("mask", ours, {"marker": "o", "s": 170, "edgecolors": "#D55E00"}),
    ("greedy", greedy, {"marker": "s", "s": 50, "edgecolors": "#0072B2"}),
]:
    height, width = np.divmod(pixels, 8)
    ax.scatter(
        width, height, label=name, facecolors="none", linewidths=2.5, **style
    )
ax.set(xticks=[], yticks=[], title="chosen pixels over the mean image")
ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, frameon=False)

axes = right.subplots(3, len(shown))
gray = plt.get_cmap("gray_r").with_extremes(bad="#56B4E9")
for row, (title, pictures) in zip(
    axes,
    {
        "test images": shown,
        "ten pixels": seen,
        "reconstructed": reconstructed,
    }.items(),
    strict=True,
):
    for ax, picture in zip(row, pictures, strict=True):
        ax.imshow(picture.reshape(8, 8), cmap=gray, vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(title, rotation=0, ha="right", va="center")
figure.savefig(OUTPUT / "concrete_autoencoder.png", dpi=150)
print(f"picture: {OUTPUT / 'concrete_autoencoder.png'}")
