"""
Title: Sample a masked diffusion model without losing rare letters
Author: The keras-gumbel authors
Date created: 2026/11/30
Last modified: 2026/11/30
Description: Float32 noise lowers the entropy of samples from masked diffusion.
Picture: Entropy by number of steps, and how often each letter is drawn.
Accelerator: None
"""

"""
## Introduction

A masked diffusion model writes a text in any order. It starts with masks only.
In each of many small steps, every mask is replaced by a letter with a small
probability. Almost always, the mask stays. Such rare events need exact noise.

The textbook draws `-log(-log(u))` with `u` in float32. The noise then has no
values above 16.6, so an event with a probability far below 1e-7 never happens.
Rare letters lose most, and the samples have less entropy, as at a lower
temperature ([Zheng et al., 2024](https://arxiv.org/abs/2409.02908)). Here we
compute this effect for a single letter, and compare samples of a trained model.
With `precision="high"`, `keras_gumbel.random.gumbel` does not have it.

## Setup
"""

import pathlib
from pydoc_data.topics import topics

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers

import keras_gumbel as kg

LETTERS = " abcdefghijklmnopqrstuvwxyz"
MASK = len(LETTERS)
LENGTH, TEXTS = 32, 16
SHORT = keras.config.max_epochs() is not None  # in tests
STEPS = 2_000 if SHORT else 100_000
BATCHES, BATCH_SIZE = 800, 64
OUTPUT = pathlib.Path("masked_diffusion")

keras.utils.set_random_seed(0)
OUTPUT.mkdir(exist_ok=True)

"""
## The data

The help pages that come with Python, in 26 letters and spaces.
"""

text = " ".join(topics[name] for name in sorted(topics)).lower()
text = "".join(x if x in LETTERS else " " for x in text)
text = " ".join(text.split())
tokens = np.searchsorted(list(LETTERS), list(text))
frequencies = np.bincount(tokens, minlength=MASK) / len(tokens)
print(f"{len(tokens):,} letters")

"""
## One letter, exactly

At step k, counted down from the number of steps to 1, a mask becomes letter v
with probability p_v / k. This is a draw from 28 classes: 27 letters, and the
class "stays". With exact noise, the final letter has the distribution p for any
number of steps.

A float32 `u` in [0, 1) is a multiple of 2^-24. An event that should have the
probability q therefore has the probability `2^-24 / (exp(2^-24 / q) - 1)`. This
is the average over the noise of the class "stays". If q is large, it is q. If q
is far below 2^-24, it is almost 0. With these probabilities, the distribution
of the final letter is a sum over the steps.
"""

CELL = 2.0**-24


def float32_rate(p, k):
    """Returns the probability that a mask becomes a letter at step k > 1."""
    ratio = CELL * (k - 1) / np.maximum(p, 1e-300)
    return (k - 1) / k * CELL / np.expm1(np.minimum(ratio, 700))


def with_float32_noise(p, steps):
    """Returns the distribution of a letter that is drawn in many steps."""
    leaves = float32_rate(p[:, None], np.arange(steps, 1, -1.0))
    masked = np.cumprod(1 - leaves.sum(axis=0))
    return leaves @ np.append(1, masked[:-1]) + masked[-1] * p


def entropy(p):
    return -(p * np.log(np.maximum(p, 1e-300))).sum(axis=-1)


exact = entropy(frequencies)
counts = np.array([1_000, 10_000, 100_000, 1_000_000])
drawn = [with_float32_noise(frequencies, steps) for steps in counts]
rarest = np.argsort(frequencies)[:5]
print("| steps | entropy, nats | exact | five rarest letters | exact |")
print("|--:|--:|--:|--:|--:|")
for steps, found in zip(counts, drawn, strict=True):
    print(
        f"| {steps:,} | {entropy(found):.4f} | {exact:.4f} "
        f"| {found[rarest].sum():.5f} | {frequencies[rarest].sum():.5f} |"
    )

"""
## A masked diffusion model

The model is a small convolutional network. In training, each text has a masking
rate t, uniform in [0, 1]. The loss is the cross-entropy at the masks, divided
by t. This is a bound of the likelihood.
"""

rng = np.random.default_rng(0)
starts = rng.integers(len(tokens) - LENGTH, size=BATCHES * BATCH_SIZE)
targets = tokens[starts[:, None] + np.arange(LENGTH)]
rates = rng.uniform(1 / LENGTH, 1, size=(len(targets), 1))
masked = rng.uniform(size=targets.shape) < rates

inputs = keras.Input((LENGTH,), dtype="int32")
x = layers.Embedding(MASK + 1, 96)(inputs)
for _ in range(2):
    y = layers.Conv1D(96, 5, padding="same", activation="relu")(x)
    x = layers.LayerNormalization()(x + y)
model = keras.Model(inputs, layers.Dense(MASK)(x))
model.compile(
    keras.optimizers.Adam(
        keras.optimizers.schedules.CosineDecay(0.003, BATCHES)
    ),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
history = model.fit(
    np.where(masked, MASK, targets),
    targets,
    sample_weight=masked / rates,
    batch_size=BATCH_SIZE,
    shuffle=False,
    verbose=0,
)
print(f"bound: {history.history['loss'][-1]:.3f} nats a letter")

"""
## Two kinds of noise
"""


def textbook():
    generator = np.random.default_rng(1)

    def draw(shape):
        u = generator.random(shape, dtype="float32")  # in [0, 1)
        with np.errstate(divide="ignore"):
            return -np.log(-np.log(u))

    return draw


def high():
    seed = keras.random.SeedGenerator(1)

    def draw(shape):
        noise = kg.random.gumbel(shape, seed=seed, precision="high")
        return keras.ops.convert_to_numpy(noise)

    return draw


"""
## Sampling

In every step, each mask draws one of 28 classes by the largest of log
probability plus noise. The noise of 64 steps is drawn at once. The network is
only called after a letter has changed, because its output is the same until
then.

For each letter, we keep its probability, the 27 probabilities that it was drawn
from, and the step. If the sampler is exact, the mean of -log p(letter) is the
mean entropy of these probabilities. Letters with a probability below 1% are
then drawn as often as their probabilities add up to. The last column is what
the formula above predicts for float32 noise.

512 letters are few. A count of 18 has a standard deviation of 4, so the table
agrees with the formula, but cannot tell its prediction from the exact count.
The loss of entropy is smaller than the standard error. The exact sums above
show it.
"""

CHUNK, ROWS = 64, 64


def log_probabilities(texts):
    logits = model.predict_on_batch(texts).astype("float64")
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


def sample(draw):
    """Returns texts, and for each letter: itself, log p of all, and step."""
    texts = np.full((TEXTS, LENGTH), MASK)
    log_p = log_probabilities(texts)
    found, step = [], STEPS
    while (places := np.argwhere(texts == MASK)).size:
        count = len(places)
        rows = -(-count // ROWS) * ROWS  # few different shapes
        noise = draw((CHUNK, rows, MASK + 1))[:, :count]
        scores = log_p[tuple(places.T)] + noise[..., :MASK]
        k = np.arange(step, max(step - CHUNK, 0), -1.0)
        with np.errstate(divide="ignore"):
            stays = noise[: len(k), :, MASK] + np.log(k - 1)[:, None]
        leaves = scores[: len(k)].max(axis=-1) > stays
        if not leaves.any():
            step -= CHUNK
            continue
        first = leaves.any(axis=1).argmax()
        for i in np.flatnonzero(leaves[first]):
            place = tuple(places[i])
            letter = scores[first, i].argmax()
            texts[place] = letter
            found.append((letter, log_p[place], k[first]))
        step -= first + 1
        log_p = log_probabilities(texts)
    return texts, [np.array(column) for column in zip(*found, strict=True)]


results = {"textbook, float32": textbook, "precision='high'": high}
results = {name: sample(make()) for name, make in results.items()}
columns = ["mean of -log p", "entropy, exact", "letters below 1%"]
columns += ["exact", "float32"]
print(f"| noise | {' | '.join(columns)} |")
print("|---" + "|--:" * len(columns) + "|")
for name, (_, (letter, log_p, k)) in results.items():
    p = np.exp(log_p)
    own = np.take_along_axis(log_p, letter[:, None], axis=1)
    error = own.std() / len(own) ** 0.5
    rare = p < 0.01
    chosen = np.take_along_axis(rare, letter[:, None], axis=1)
    rates = float32_rate(p, np.maximum(k, 2)[:, None])
    rates /= rates.sum(axis=1, keepdims=True)
    print(
        f"| {name} | {-own.mean():.3f} ± {error:.3f} "
        f"| {entropy(p).mean():.3f} | {chosen.sum()} of {len(own)} "
        f"| {p[rare].sum():.1f} | {rates[rare].sum():.1f} |"
    )
for name, (texts, _) in results.items():
    print(f"{name}: {''.join(LETTERS[i] for i in texts[0])!r}")

"""
## The picture
"""

figure, (left, right) = plt.subplots(
    1, 2, figsize=(10, 4.2), layout="constrained"
)
left.axhline(exact, color="#0072B2", label="exact")
left.plot(
    counts,
    [entropy(found) for found in drawn],
    "o-",
    color="#D55E00",
    label="float32 noise",
)
left.set(xscale="log", xlabel="steps", ylabel="nats a letter")
left.set_title("entropy of one letter")
left.legend()
order = np.argsort(-frequencies)
for found, steps, color in zip(
    drawn, counts, ("#BBBBBB", "#E69F00", "#D55E00", "#000000"), strict=True
):
    right.plot(
        (found / frequencies)[order],
        "o-",
        color=color,
        label=f"{steps:,} steps",
    )
right.axhline(1, color="#0072B2")
right.set_xticks(range(MASK), [LETTERS[i].replace(" ", "_") for i in order])
right.set(xlabel="letter, by its frequency", ylim=(0, None))
right.set_title("letters drawn with float32 noise, relative to exact")
right.legend()
figure.savefig(OUTPUT / "masked_diffusion.png", dpi=120)
print(f"picture: {OUTPUT / 'masked_diffusion.png'}")
