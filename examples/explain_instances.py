"""
Title: Which pixels made it a seven?
Author: The keras-gumbel authors
Date created: 2026/11/26
Last modified: 2026/11/26
Description: Explain an image by a few pixels, and test the explanation.
Picture: Five pixels of each digit, by three selectors.
Accelerator: None
"""

"""
## Introduction

We explain one example by a selection of its pixels. A *selector* network sees
the whole image and picks k pixels. A *predictor* sees only these pixels and
predicts the digit. If it succeeds, the pixels were a good choice. Both are
trained together (L2X; Chen et al., 2018). This needs samples of k *different*
pixels with a gradient (Xie and Ermon, 2019): `SubsetSampler`.

There is a pitfall. The selector has seen the whole image and may know the
digit. It can encode the digit in the *positions* of the pixels: the top left
corner for a three, the bottom right corner for a seven. Then the accuracy is
high, but the explanation is worthless (Jethani et al., 2021). We measure this
effect, and train a second selector that has no reason to do so.

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
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.model_selection import train_test_split

import keras_gumbel as kg

PIXELS, CLASSES, K = 64, 10, 5
EPOCHS = 60
BATCH_SIZE = 128
OUTPUT = pathlib.Path("explain_instances")

keras.utils.set_random_seed(0)
OUTPUT.mkdir(exist_ok=True)

"""
## The data

There are 1,797 real images, and 360 of them are kept for the test.
"""

images, labels = load_digits(return_X_y=True)
x_train, x_test, y_train, y_test = train_test_split(
    images.astype("float32") / 16,
    labels,
    test_size=360,
    stratify=labels,
    random_state=0,
)


def selector():
    """Logits of the pixels, from the whole image."""
    return keras.Sequential(
        [
            keras.Input((PIXELS,)),
            layers.Dense(128, activation="relu"),
            layers.Dense(PIXELS),
        ]
    )


def classifier(inputs):
    return keras.Sequential(
        [
            keras.Input((inputs,)),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(CLASSES),
        ]
    )


def train(model, epochs=EPOCHS):
    model.compile(
        keras.optimizers.Adam(3e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(x_train, y_train, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)


def accuracy(model, x):
    digits = ops.convert_to_numpy(ops.argmax(model(x), axis=-1))
    return np.mean(digits == y_test)


"""
The input of a predictor is the chosen pixels and the mask, 128 numbers. The
mask distinguishes a black pixel from a pixel that was not chosen.
"""


def explained(logits_of_pixels, predictor, sampler):
    """An image in, the logits of the digits by k of its pixels out."""
    image = keras.Input((PIXELS,))
    mask = sampler(logits_of_pixels(image))
    seen = layers.Concatenate()([image * mask, mask])
    return keras.Model(image, predictor(seen))


"""
## Selector and predictor together

`SubsetSampler` draws exactly k pixels of each image in training, and takes the
k most likely pixels in inference.
"""

joint_selector = selector()
joint = explained(
    joint_selector,
    classifier(2 * PIXELS),
    kg.layers.SubsetSampler(K, seed=0),
)
train(joint)

"""
## A judge that has seen random pixels

We want to know what k pixels say about the digit. To measure this, we train a
predictor, the judge, on k random pixels of every image. They are drawn again in
each step, from equal logits. The logits need no gradient, so the cheaper
estimator is enough. These masks are independent of the image, so the judge
cannot learn a code from them. Jethani et al. evaluate explanations with such a
model and call it EVAL-X.
"""


def masked(x, mask):
    return np.concatenate([x * mask, mask], axis=-1)


judge = classifier(2 * PIXELS)
random_sampler = kg.layers.SubsetSampler(
    K, estimator="relaxed_top_k", inference="sample", seed=1
)
train(explained(ops.zeros_like, judge, random_sampler), 3 * EPOCHS)

"""
## A selector in front of the judge

The predictor of the second selector is the judge, whose weights are frozen
(REAL-X). The two cannot agree on a code. The selector has to choose pixels that
the judge can read.
"""

judge.trainable = False
honest_selector = selector()
train(explained(honest_selector, judge, kg.layers.SubsetSampler(K, seed=2)))

"""
## The same k pixels for all

What do we gain from a choice for each image? For comparison, `ConcreteMask`
learns one mask for the whole data set. The optimizer keeps its scores within a
budget of k.
"""

shared = keras.Sequential(
    [
        keras.Input((PIXELS,)),
        kg.layers.ConcreteMask(hard=True, seed=3, name="pixels"),
        classifier(PIXELS),
    ]
)
shared.compile(
    kg.optimizers.ProjectedOptimizer(
        keras.optimizers.Adam(3e-3),
        density=kg.schedules.CubicDensity(
            K / PIXELS, 3 * EPOCHS * int(np.ceil(len(x_train) / BATCH_SIZE))
        ),
    ),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
shared.fit(
    x_train, y_train, batch_size=BATCH_SIZE, epochs=3 * EPOCHS, verbose=0
)
fixed = kg.harden(shared, budget=K).get_layer("pixels")
global_mask = fixed.get_support().astype("float32")

"""
## Three questions to every choice of pixels

1. *A new classifier*, 100 randomized trees, learns from the chosen pixels of
  the training images. How much do pixels and mask together say?
2. *The mask alone*: how accurate is a new classifier that sees only the
  positions of the pixels, not their values? A mask that follows the strokes of
  a digit also says something about it. But the closer this accuracy is to the
  first one, the less the pixels matter.
3. *The judge* can read pixels, but knows no code. How accurate is it?
"""


def accuracy_of_trees(inputs_train, inputs_test):
    trees = ExtraTreesClassifier(100, random_state=0)
    return trees.fit(inputs_train, y_train).score(inputs_test, y_test)


def chosen_by(network):
    def choose(x):
        return ops.convert_to_numpy(
            kg.ops.gumbel_top_k(network(x), K, noise=0.0)
        )

    return choose


def the_same_for_all(x):
    return np.broadcast_to(global_mask, x.shape)


def at_random(x):
    drawn = kg.ops.gumbel_top_k(ops.zeros_like(x), K, seed=4)
    return ops.convert_to_numpy(drawn)


choices = {
    "trained together": chosen_by(joint_selector),
    "in front of the judge": chosen_by(honest_selector),
    "the same for all": the_same_for_all,
    "random": at_random,
}

table = Table(
    "choice of pixels",
    "new classifier",
    "mask alone",
    "judge",
    title=f"Test accuracy with {K} of {PIXELS} pixels",
    box=box.SIMPLE_HEAD,
)
for column in table.columns[1:]:
    column.justify = "right"

read = {}
for name, choose in choices.items():
    mask_train, mask_test = choose(x_train), choose(x_test)
    seen_train, seen_test = (
        masked(x_train, mask_train),
        masked(x_test, mask_test),
    )
    read[name] = accuracy(judge, seen_test)
    table.add_row(
        name,
        f"{accuracy_of_trees(seen_train, seen_test):.1%}",
        f"{accuracy_of_trees(mask_train, mask_test):.1%}",
        f"{read[name]:.1%}",
    )
    counts = mask_test.sum(axis=-1)
    print(f"{name}: {counts.min():.0f} to {counts.max():.0f} pixels an image")
table.add_row("all pixels", f"{accuracy_of_trees(x_train, x_test):.1%}", "", "")
Console(width=80).print(table)
print(f"selector with its own predictor: {accuracy(joint, x_test):.1%}")

"""
Read the first row from left to right. Trained together, selector and predictor
are nearly as good as a classifier of the whole image. But a classifier that
sees only the mask is, too, and the judge is far behind with the same pixels.
Much of the accuracy therefore comes from a code in the positions. The selector
that was trained with the judge loses little, and the judge can read its pixels.
Its masks alone also say much, because they follow the strokes, but the judge
has never learned to read masks.

This selector has still seen the whole image, and picks pixels in favor of the
digit that it sees. It is therefore much better than the same pixels for all
images. Its accuracy is not that of a classifier that can look at only k pixels.

## The picture

One test image of each digit, with the chosen pixels. The selector is on the
left. Some pixels of the first row are in the empty margin, where no digit has
any ink.
"""

shown = x_test[[np.flatnonzero(y_test == digit)[0] for digit in range(10)]]
labels = {
    "trained together": "by a selector trained\nwith its own reader",
    "in front of the judge": "by a selector trained\nfor this reader",
    "the same for all": "the same pixels\nfor every image",
}
figure, axes = plt.subplots(3, 10, figsize=(10, 3.5), layout="constrained")
figure.suptitle(
    "Five pixels of each digit, and the share of the digits that a reader, "
    "trained on random pixels, recognizes",
    fontsize=10,
)
for row, (name, choose) in zip(axes, choices.items(), strict=False):
    masks = choose(shown)
    for ax, image, mask in zip(row, shown, masks, strict=True):
        ax.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1.3)
        height, width = np.divmod(np.flatnonzero(mask), 8)
        ax.scatter(
            width,
            height,
            marker="s",
            s=34,
            facecolors="none",
            edgecolors="#D55E00",
            linewidths=2,
        )
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(
        f"{labels[name]}\n{read[name]:.0%}", rotation=0, ha="right", va="center"
    )
figure.savefig(OUTPUT / "explain_instances.png", dpi=150)
print(f"picture: {OUTPUT / 'explain_instances.png'}")
