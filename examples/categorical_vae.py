"""
Title: An autoencoder with a code of digits
Author: The keras-gumbel authors
Date created: 2026/11/26
Last modified: 2026/11/26
Description: A variational autoencoder of MNIST with a categorical code.
Picture: Test images, their reconstructions, and images from the prior.
Accelerator: None
"""

"""
## Introduction

A variational autoencoder describes an image x by a code z, and is trained on a
lower bound of log p(x), the ELBO:

```
log p(x) >= E_q(z|x)[log p(x|z)] - KL(q(z|x) || p(z))
```

Here the code is 20 variables of 8 classes each, 60 bits. A sample of a class
has no gradient, so we train on relaxed samples (Eq. 15) or on exact ones with
the gradient of a relaxed one (Eq. 16).

There is a common mistake. The KL above is the KL of a *categorical* code, and
the inequality holds for exact, one-hot samples. With relaxed samples, the same
sum looks better, but it is not a bound. A point inside the simplex carries more
information than the KL counts. We print both numbers.

## Setup
"""

import os
import pathlib

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import layers
from keras import ops
from rich import box
from rich.console import Console
from rich.table import Table

import keras_gumbel as kg

VARIABLES, CLASSES = 20, 8
TRAIN, TEST = 10_000, 500
EPOCHS = 50
BATCH_SIZE = 100
FINAL_TEMPERATURE = 0.5
OUTPUT = pathlib.Path("categorical_vae")

OUTPUT.mkdir(exist_ok=True)

"""
## The data

10,000 images of MNIST, 28x28 pixels, black or white, and 500 others for the
test. The test images are not used in training or for any choice.
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


def black_and_white(images):
    return (images.reshape(-1, 784) >= 128).astype("float32")


(x_train, _), (x_test, _) = load()
x_train = black_and_white(x_train[:TRAIN])
x_test = black_and_white(x_test[:TEST])
steps = EPOCHS * int(np.ceil(len(x_train) / BATCH_SIZE))

"""
## The model

`CategoricalKL` sums over the variables of a code, so it is the KL of the whole
code, in nats. The sampling layer adds it to the loss. The other part of the
loss is a sum over the pixels. With a mean in one of the two, their weights
would differ, and the model might not use the code at all.
"""

kl = kg.regularizers.CategoricalKL(reduction="sum")


def surprise(x, logits):
    """-log p(x|z) of independent pixels, in nats per image."""
    return ops.sum(ops.softplus(logits) - ops.multiply(x, logits), axis=-1)


def encoder_and_decoder():
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential(
        [
            keras.Input((784,)),
            layers.Dense(256, activation="relu"),
            layers.Dense(VARIABLES * CLASSES),
            layers.Reshape((VARIABLES, CLASSES)),
        ]
    )
    decoder = keras.Sequential(
        [
            keras.Input((VARIABLES, CLASSES)),
            layers.Flatten(),
            layers.Dense(256, activation="relu"),
            layers.Dense(784),
        ]
    )
    return encoder, decoder


def autoencoder(encoder, sampler, decoder):
    x = keras.Input((784,))
    return keras.Model(x, decoder(sampler(encoder(x))))


"""
## Three ways to train it

The first uses relaxed samples with a falling temperature. The layer counts its
own steps. The other two always show the decoder exact one-hot codes.
"""

samplers = {
    "relaxed, annealed": kg.layers.GumbelSoftmax(
        temperature=kg.schedules.ExponentialAnnealing(1.0, FINAL_TEMPERATURE),
        logits_regularizer=kl,
        seed=0,
    ),
    "straight-through": kg.layers.StraightThroughArgmax(
        temperature=0.5, logits_regularizer=kl, seed=0
    ),
    "ReinMax": kg.layers.StraightThroughArgmax(
        estimator="reinmax", logits_regularizer=kl, seed=0
    ),
}

trained = {}
for name, sampler in samplers.items():
    encoder, decoder = encoder_and_decoder()
    model = autoencoder(encoder, sampler, decoder)
    model.compile(
        keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(3e-3, steps)
        ),
        loss=surprise,
    )
    history = model.fit(
        x_train, x_train, batch_size=BATCH_SIZE, epochs=EPOCHS, verbose=0
    )
    print(f"{name}: loss in training {history.history['loss'][-1]:.2f}")
    trained[name] = encoder, decoder

"""
## The test

With `inference="sample"`, a layer also samples in inference. We join the same
encoder and decoder by a layer of exact samples, or by a layer of relaxed
samples, and call `evaluate`. Ten samples of every image make the averages
stable.

The ELBO is below log p(x) by the KL between q(z|x) and the true posterior. An
average of M importance weights p(x, z) / q(z|x), before the logarithm, gives a
bound that never gets looser with M (Burda et al., 2015). With M = 100, it is
closer to log p(x).

The perplexity of its codes is the number of classes that a variable uses. It is
8 if all classes are the most likely one equally often, and 1 if the variable
always has the same value.
"""


def negative_elbo(encoder, sampler, decoder):
    model = autoencoder(encoder, sampler, decoder)
    model.compile(loss=surprise)
    x = np.repeat(x_test, 10, axis=0)
    results = model.evaluate(x, x, batch_size=1024, verbose=0, return_dict=True)
    return results["loss"]  # beside the divergence, which is logged as well


def tighter_bound(encoder, decoder, count=100):
    logits = encoder(x_test)
    many = ops.broadcast_to(logits, (count, *logits.shape))
    z = kg.ops.sample_one_hot(many, seed=2)
    decoded = decoder(ops.reshape(z, (-1, VARIABLES, CLASSES)))
    decoded = ops.reshape(decoded, (count, *x_test.shape))
    log_q = ops.sum(z * ops.log_softmax(many, axis=-1), axis=(-2, -1))
    log_p = -surprise(ops.convert_to_tensor(x_test), decoded)
    log_p -= VARIABLES * np.log(CLASSES)  # of the code, under the prior
    bound = ops.logsumexp(log_p - log_q, axis=0) - np.log(count)
    return -float(ops.mean(bound))


def perplexities(encoder):
    codes = ops.argmax(encoder(x_test), axis=-1)
    metric = kg.metrics.CodePerplexity(CLASSES)
    found = []
    for variable in range(VARIABLES):
        metric.reset_state()
        metric.update_state(codes[:, variable])
        found.append(float(metric.result()))
    return found


"""
For comparison, there are two models with exact likelihoods and no code of
variables: the mean image, and a mixture of 50 such images, fitted by
expectation maximization.
"""


def mixture_surprise(components, iterations=100):
    rng = np.random.default_rng(0)
    means = rng.uniform(0.25, 0.75, (components, 784))
    shares = np.full(components, 1 / components)

    def log_joint(x):
        log_p = x @ np.log(means).T + (1 - x) @ np.log(1 - means).T
        return log_p + np.log(shares)

    for _ in range(iterations):
        joint = log_joint(x_train)
        total = np.logaddexp.reduce(joint, axis=1, keepdims=True)
        share = np.exp(joint - total)
        count = share.sum(axis=0)
        # Half a white and half a black image each: no pixel is impossible.
        means = (share.T @ x_train + 0.5) / (count[:, None] + 1)
        shares = (count + 1) / (count + 1).sum()
    return -np.logaddexp.reduce(log_joint(x_test), axis=1).mean()


table = Table(
    "model",
    "exact",
    "relaxed",
    "100 samples",
    "perplexity",
    title="Nats per test image; lower is better",
    box=box.SIMPLE_HEAD,
)
for column in table.columns[1:]:
    column.justify = "right"
table.add_row("mean image", "", "", f"{mixture_surprise(1):.2f} *", "")
mixture = mixture_surprise(50)
table.add_row("mixture of 50", "", "", f"{mixture:.2f} *", "")

exact = kg.layers.StraightThroughArgmax(
    inference="sample", logits_regularizer=kl, seed=1
)
relaxed = kg.layers.GumbelSoftmax(
    FINAL_TEMPERATURE, inference="sample", logits_regularizer=kl, seed=1
)
bounds = {}
for name, (encoder, decoder) in trained.items():
    used = perplexities(encoder)
    bounds[name] = tighter_bound(encoder, decoder)
    table.add_row(
        name,
        f"{negative_elbo(encoder, exact, decoder):.2f}",
        f"{negative_elbo(encoder, relaxed, decoder):.2f}",
        f"{bounds[name]:.2f}",
        f"{min(used):.1f} to {max(used):.1f}",
    )
Console(width=80).print(table)
print("exact: -ELBO of one-hot samples, not below -log p(x)")
print("relaxed: the same sum of relaxed samples, no bound")
print("100 samples: the tighter bound; *: -log p(x) itself")
print("perplexity: of the variables, from the least used to the most")

"""
In every row, the relaxed number is lower than the bound next to it. It claims
nats that the model does not have. The gap is widest for the decoder that was
trained on relaxed samples, because it has learned to read them.

Compare the mixture with the tighter bound. The ELBO also penalizes a model for
its encoder, and the mixture has none.

## The picture

Test images, each reconstructed from its most likely code, and images drawn from
the prior, with equally likely classes.
"""

encoder, decoder = trained["ReinMax"]
shown = x_test[:12]
codes = kg.ops.one_hot_argmax(encoder(shown))
drawn = kg.ops.sample_one_hot(ops.zeros((12, VARIABLES, CLASSES)), seed=3)
rows = {
    "test images": shown,
    "reconstructed": ops.sigmoid(decoder(codes)),
    "from the prior": ops.sigmoid(decoder(drawn)),
}
figure, axes = plt.subplots(3, 12, figsize=(10, 2.9), layout="constrained")
for row, (title, pictures) in zip(axes, rows.items(), strict=True):
    pictures = ops.convert_to_numpy(pictures)
    for ax, picture in zip(row, pictures, strict=True):
        ax.imshow(picture.reshape(28, 28), cmap="gray_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(title, rotation=0, ha="right", va="center")
figure.suptitle(
    f"60 bits an image: {bounds['ReinMax']:.1f} nats, and {mixture:.1f} by a "
    "mixture of 50 images",
    fontsize=10,
)
figure.savefig(OUTPUT / "categorical_vae.png", dpi=150)
print(f"picture: {OUTPUT / 'categorical_vae.png'}")
