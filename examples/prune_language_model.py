"""
Title: Prune a language model of KerasHub
Author: The keras-gumbel authors
Date created: 2026/11/29
Last modified: 2026/11/30
Description: Train a small GPT-2, prune it to 20%, save it, and write text.
Picture: Test loss of each model, and the weights kept of each matrix.
Accelerator: None
"""

"""
## Introduction

A GPT-2 of KerasHub with two layers learns to write the help pages that come
with Python, character by character. Then we prune it to exactly 20% of the
weights in its layers: in one shot, by magnitude or with calibration data, and
by fine-tuning, under masks that follow magnitudes or are learned. The pruned
models are ordinary KerasHub models. We save one, load it, and let it write.

## Setup
"""

import copy
import gzip
import pathlib
from pydoc_data.topics import topics

import keras
import keras_hub
import matplotlib.pyplot as plt
import numpy as np

import keras_gumbel as kg

LENGTH = 64
DENSITY = 0.2
STEPS, FINE_TUNING = 1000, 200
BATCH_SIZE = 32
OUTPUT = pathlib.Path("prune_language_model")

keras.utils.set_random_seed(0)
OUTPUT.mkdir(exist_ok=True)

"""
## The data

Tokens are characters. Every tenth page of the text is kept for the test.
"""

text = "\n".join(topics[name] for name in sorted(topics))
letters = sorted(set(text))
tokens = np.searchsorted(letters, list(text))
pages = np.array_split(tokens, 200)
train = np.concatenate([p for i, p in enumerate(pages) if i % 10])
test = np.concatenate(pages[::10])


def windows(tokens, starts):
    """Returns tokens from each start on, and the ones that follow them."""
    rows = tokens[np.add.outer(starts, np.arange(LENGTH + 1))]
    mask = np.ones((len(rows), LENGTH), "int32")
    return {"token_ids": rows[:, :-1], "padding_mask": mask}, rows[:, 1:]


def examples(steps):
    count = steps * BATCH_SIZE
    starts = np.random.default_rng(0).integers(len(train) - LENGTH, size=count)
    return windows(train, starts)


test_data = windows(test, np.arange(0, len(test) - LENGTH, LENGTH))

"""
## The dense model
"""

loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def decaying(rate, steps):
    return keras.optimizers.Adam(
        keras.optimizers.schedules.CosineDecay(rate, steps)
    )


dense = keras_hub.models.GPT2CausalLM(
    backbone=keras_hub.models.GPT2Backbone(
        vocabulary_size=len(letters),
        num_layers=2,
        num_heads=4,
        hidden_dim=64,
        intermediate_dim=256,
        max_sequence_length=LENGTH,
        dropout=0.0,
    ),
    preprocessor=None,
)
dense.compile(decaying(0.003, STEPS), loss=loss, weighted_metrics=[])
dense.fit(*examples(STEPS), batch_size=BATCH_SIZE, shuffle=False, verbose=2)

"""
## Prune in one shot

Magnitude pruning keeps the largest weights. The other model uses 64 windows of
text, without labels. `calibrate` observes the inputs that each weight is
multiplied with. `harden(reconstruct=True)` then adjusts the kept weights, so
that the outputs of each layer change least.
"""

LAYERS = "transformer_layer"
magnitude = kg.sparsify(copy.deepcopy(dense), "magnitude", filters=LAYERS)
kg.harden(magnitude, density=DENSITY)

reconstructed = copy.deepcopy(dense)
kg.calibrate(reconstructed, examples(2)[0], verbose=0)
kg.sparsify(reconstructed, "obs", filters=LAYERS)
densities = kg.layer_densities(reconstructed, DENSITY, "uniform")
kg.harden(reconstructed, density=densities, reconstruct=True)

"""
## Prune and fine-tune

In 200 steps, the density falls to 20% while the weights are trained. The masks
keep the largest weights, or are learned with the weights.
"""


def fine_tuned(mask):
    model = kg.sparsify(copy.deepcopy(dense), mask, filters=LAYERS)
    model.compile(
        kg.optimizers.ProjectedOptimizer(
            decaying(0.003, FINE_TUNING),
            density=kg.schedules.CubicDensity(DENSITY, FINE_TUNING),
        ),
        loss=loss,
        weighted_metrics=[],
    )
    data = examples(FINE_TUNING)
    model.fit(*data, batch_size=BATCH_SIZE, shuffle=False, verbose=2)
    return kg.harden(model)


sparse = {
    "magnitude, one shot": magnitude,
    "reconstructed, one shot": reconstructed,
    "magnitude, fine-tuned": fine_tuned("magnitude"),
    "learned, fine-tuned": fine_tuned("learned"),
}

"""
## What they have lost

`strip` folds the masks into the weights. Zeros take almost no space in a
compressed file.
"""

reports = {name: kg.sparsity_report(model) for name, model in sparse.items()}
learned = sparse["learned, fine-tuned"]
kept = {name: report.kept for name, report in reports.items()}
kept["dense"] = reports["magnitude, one shot"].weights

losses = {}
print("| model | weights kept | test loss | bytes |")
print("|---|--:|--:|--:|")
for name, model in {"dense": dense, **sparse}.items():
    if name != "dense":
        kg.strip(model)
    model.compile(loss=loss, weighted_metrics=[])
    nats = model.evaluate(*test_data, batch_size=256, verbose=0)
    losses[name] = nats
    path = OUTPUT / "model.weights.h5"
    model.save_weights(path)
    size = len(gzip.compress(path.read_bytes()))
    print(f"| {name} | {kept[name]:,} | {nats:.3f} | {size:,} |")

"""
## A preset, and what it writes

The stripped model is saved like any KerasHub model. You can load the preset
without keras-gumbel.
"""

learned.save_to_preset(OUTPUT / "preset")
loaded = keras_hub.models.GPT2CausalLM.from_preset(str(OUTPUT / "preset"))


def written(model, prompt="The statement "):
    """Returns what a model makes of the beginning of a text."""
    model.compile(sampler=keras_hub.samplers.TopKSampler(k=3, seed=1))
    start = np.searchsorted(letters, list(prompt))
    ids = np.pad(start, (0, LENGTH - len(start)))
    mask = (np.arange(LENGTH) < len(start)).astype("int32")
    inputs = {"token_ids": ids[None], "padding_mask": mask[None]}
    found = model.generate(inputs, stop_token_ids=None)["token_ids"]
    return "".join(letters[i] for i in keras.ops.convert_to_numpy(found)[0])


for name, model in {"dense": dense, "learned": learned}.items():
    print(f"{name}: {written(model)!r}")
print(f"loaded: {written(loaded)!r}")

"""
## The picture
"""

figure, (left, right) = plt.subplots(
    1, 2, figsize=(10, 4.2), layout="constrained"
)
colors = dict.fromkeys(losses, "#BBBBBB") | {
    "magnitude, fine-tuned": "#D55E00",
    "learned, fine-tuned": "#0072B2",
}
bars = left.barh(list(losses), list(losses.values()), color=colors.values())
left.bar_label(bars, fmt="%.2f", padding=4)
left.invert_yaxis()
left.margins(x=0.15)
left.set_title(f"test loss, {DENSITY:.0%} kept, nats a character")
left.spines[["top", "right"]].set_visible(False)
for i, name in enumerate(["magnitude, fine-tuned", "learned, fine-tuned"]):
    rows = reports[name].rows
    places = np.arange(len(rows)) + 0.4 * i
    shares = [row.density for row in rows]
    right.barh(places, shares, 0.4, label=name, color=colors[name])
names = [row.name.partition(f"{LAYERS}_")[2] for row in rows]
for part in ("/kernel", "self_attention/", "_dense"):
    names = [name.replace(part, "") for name in names]
right.set_yticks(np.arange(len(rows)) + 0.2, names)
right.invert_yaxis()
right.axvline(DENSITY, color="gray", linestyle="--", label="all layers")
right.xaxis.set_major_formatter("{x:.0%}")
right.set_title("weights kept of each matrix")
figure.legend(loc="outside lower right", ncols=3, frameon=False)
figure.savefig(OUTPUT / "prune_language_model.png", dpi=150)
print(f"picture: {OUTPUT / 'prune_language_model.png'}")
