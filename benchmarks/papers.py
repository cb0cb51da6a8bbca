"""Tables of papers on discrete choices, printed again.

    python benchmarks/papers.py --table structured

Every table trains the models of a paper with layers of this package, and
prints our figures beside those of the paper. MNIST has a fixed binarization,
one draw from the gray levels with seed 0, and 50,000 images for training.

- structured: Table 1 of Jang et al. (https://arxiv.org/abs/1611.01144), the
  lower half of a digit from its upper half by a stochastic network.
- vae: the autoencoders of the same table.
- concrete-autoencoder: Table 1 of Abid et al.
  (https://arxiv.org/abs/1901.09346), 10 or 50 pixels to reconstruct images.
- unbiased: the order of unbiased and biased estimators for an autoencoder
  with binary codes, as in https://arxiv.org/abs/2006.10680.
- reinmax: the order of estimators for small categorical codes, as in
  https://arxiv.org/abs/2304.08612.

Each cell becomes a line of `benchmarks/records/papers-NAME.jsonl`. Cells that
are in the file are not run again. `--quick` trains all cells for a few steps
and writes no records. `KERAS_GUMBEL_DATA` is a folder with `mnist.npz` and
`fashion_mnist.npz`, for machines without internet access.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import argparse
import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Callable

import jax
import keras
import numpy as np
from keras import layers
from keras import ops
from timing import mean_and_error
from timing import print_table
from timing import versions

import keras_gumbel as kg

RECORDS = pathlib.Path(__file__).parent / "records"
BATCH_SIZE = 100


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much is trained and measured.

    Args:
        images: Number of training images.
        epochs: Number of epochs.
        samples: Number of samples in a bound.
        tested: Number of test images, spread evenly over all of them.
    """

    images: int = 50_000
    epochs: int = 15
    samples: int = 1000
    tested: int = 1000

    def quick(self):
        return Budget(1000, 1, 10, 100)


@functools.cache
def load(name):
    """Returns all images of a data set, gray levels in [0, 1]."""
    folder = os.environ.get("KERAS_GUMBEL_DATA")
    if folder is None:
        (x, _), (x_test, _) = getattr(keras.datasets, name).load_data()
    else:
        with np.load(pathlib.Path(folder) / f"{name}.npz") as file:
            x, x_test = file["x_train"], file["x_test"]
    return [
        images.reshape(-1, 784).astype("float32") / 255
        for images in (x, x_test)
    ]


@functools.cache
def binarized(budget):
    """Returns black and white images of MNIST to train and to test on."""
    rng = np.random.default_rng(0)
    x, x_test = (
        (rng.random(gray.shape) < gray).astype("float32")
        for gray in load("mnist")
    )
    return x[: budget.images], x_test[:: len(x_test) // budget.tested]


def surprise(x, logits):
    """-log p(x) of independent pixels, in nats per image."""
    return ops.sum(ops.softplus(logits) - x * logits, axis=-1)


def variables_of(x, count, classes):
    """Returns the logits of variables; class 0 of two has the logit 0."""
    if classes > 2:
        return layers.Reshape((count, classes))(
            layers.Dense(count * classes)(x)
        )
    logits = layers.Dense(count)(x)
    return ops.stack([ops.zeros_like(logits), logits], axis=-1)


def features_of(z):
    """Returns the input of the next layer: one number for two classes."""
    return z[..., 1] if z.shape[-1] == 2 else layers.Flatten()(z)


class Prior(layers.Layer):
    """Adds the divergence from a prior to the loss.

    Without training, the prior is uniform.
    """

    def build(self, input_shape):
        self.logits = self.add_weight(
            shape=input_shape[1:],
            initializer="zeros",
            trainable=self.trainable,
            name="logits",
        )

    def call(self, inputs):
        kl = kg.ops.categorical_kl(inputs, self.logits)
        self.add_loss(ops.mean(ops.sum(kl, axis=-1)))
        return inputs


def exact(seed):
    """Draws one-hot samples, in inference as well."""
    return kg.layers.StraightThroughArgmax(inference="sample", seed=seed)


def fit(model, x, y, method, budget, learning_rate):
    """Trains with Adam, and returns the seconds that it took."""
    if method.draws > 1:
        model = kg.models.MonteCarloModel(model, num_samples=method.draws)
    epochs = method.longer * budget.epochs
    steps = epochs * len(x) // BATCH_SIZE
    schedule = keras.optimizers.schedules.CosineDecay(
        method.slower * learning_rate, steps
    )
    model.compile(keras.optimizers.Adam(schedule), loss=surprise)
    start = time.process_time()
    model.fit(x, y, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)
    return time.process_time() - start


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to train through samples.

    Args:
        name: The name in the tables.
        sampler: Function from a temperature and a seed to a layer.
        draws: Number of draws in a training step.
        longer: How many times as many epochs it is trained.
        slower: The part of the learning rate of the table that it has.
    """

    name: str
    sampler: Callable
    draws: int = 1
    longer: int = 1
    slower: float = 1.0


def estimated(name, estimator, draws=1, temperature=None):
    """A method with exact samples and the gradient of an estimator."""

    def sampler(annealed, seed):
        return kg.layers.StraightThroughArgmax(
            annealed if temperature is None else temperature,
            estimator=estimator,
            seed=seed,
        )

    return Method(name, sampler, draws)


GUMBEL_SOFTMAX = Method(
    "Gumbel-Softmax", lambda t, seed: kg.layers.GumbelSoftmax(t, seed=seed)
)
LONGER = dataclasses.replace(
    GUMBEL_SOFTMAX, name="Gumbel-Softmax, 45 epochs", longer=3
)
ST_GUMBEL = estimated("ST Gumbel-Softmax", "straight_through_gumbel")
ST = estimated("straight-through", "identity")
RLOO = estimated("RLOO, 2 draws", "rloo", 2)
RLOO_SLOWER = dataclasses.replace(
    RLOO, name="RLOO, 2 draws, rate 0.003", slower=0.3
)
DISARM = estimated("DisARM, 2 draws", "disarm", 2)
ARM = estimated("ARM, 2 draws", "arm", 2)
REINMAX = estimated("ReinMax, 1.3", "reinmax", temperature=1.3)
ST_GUMBEL_COLD = estimated(
    "ST Gumbel-Softmax, 0.5", "straight_through_gumbel", temperature=0.5
)
GAPPED_COLD = estimated("gapped ST, 0.5", "gapped", temperature=0.5)
RAO_COLD = estimated(
    "Gumbel-Rao, 0.5", kg.estimators.GumbelRao(10), temperature=0.5
)


# -- Structured prediction ----------------------------------------------------


def stochastic_network(kind, samplers, own=None):
    """Two layers of samples between the halves of an image.

    Args:
        kind: Pair of the number of variables in a layer and of their classes.
        samplers: The layers that draw the samples.
        own: The network to share the weights with.
    """
    x = keras.Input((392,))
    hidden = x
    for sampler in samplers:
        hidden = features_of(sampler(variables_of(hidden, *kind)))
    model = keras.Model(x, layers.Dense(392)(hidden))
    if own is not None:
        model.set_weights(own.get_weights())
    return model


def conditional_bound(model, x, y, samples):
    """Returns the bound on -log p(y | x) of every image."""

    @jax.jit
    def bound(trainable, state, x, y):
        def add(carry, _):
            state, total = carry
            logits, state = model.stateless_call(
                trainable, state, x, training=False
            )
            return (state, ops.logaddexp(total, -surprise(y, logits))), None

        total = ops.full((x.shape[0],), -np.inf)
        (_, total), _ = jax.lax.scan(add, (state, total), length=samples)
        return np.log(samples) - total

    return np.asarray(bound(*values_of(model), x, y))


def mean_of(nats):
    """Returns the mean over images, and its standard error."""
    error = nats.std() / np.sqrt(len(nats))
    return {"nats": float(nats.mean()), "error_of_images": float(error)}


def values_of(model):
    return [
        [v.value for v in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
        )
    ]


def run_structured(kind, method, budget, seed):
    keras.utils.set_random_seed(seed)
    x, x_test = binarized(budget)
    model = stochastic_network(
        KINDS[kind], [method.sampler(1.0, seed + i) for i in range(2)]
    )
    seconds = fit(model, x[:, :392], x[:, 392:], method, budget, 1e-2)
    tested = stochastic_network(
        KINDS[kind], [exact(seed + i) for i in range(2)], model
    )
    nats = conditional_bound(
        tested, x_test[:, :392], x_test[:, 392:], budget.samples
    )
    return {**mean_of(nats), "seconds": seconds}


# -- Autoencoders -------------------------------------------------------------


@dataclasses.dataclass
class Autoencoder:
    """A variational autoencoder with a discrete code.

    Args:
        kind: Pair of the number of variables and of their classes.
        hidden: Sizes of the hidden layers of the encoder; those of the decoder
            are in reverse order.
        prior_trained: Whether the prior is trained, or uniform.
    """

    kind: tuple[int, int]
    hidden: tuple[int, ...] = ()
    prior_trained: bool = True

    def build(self):
        x = keras.Input((784,))
        h = x
        for size in self.hidden:
            h = layers.Dense(size, "relu")(h)
        self.prior = Prior(trainable=self.prior_trained)
        self.encoder = keras.Model(x, self.prior(variables_of(h, *self.kind)))
        z = keras.Input(self.kind)
        h = features_of(z)
        for size in reversed(self.hidden):
            h = layers.Dense(size, "relu")(h)
        self.decoder = keras.Model(z, layers.Dense(784)(h))
        return self

    def train(self, method, temperature, budget, learning_rate, seed):
        """Trains it on images of MNIST, and returns the results."""
        keras.utils.set_random_seed(seed)
        x, x_test = binarized(budget)
        self.build()
        inputs = keras.Input((784,))
        z = method.sampler(temperature, seed)(self.encoder(inputs))
        model = keras.Model(inputs, self.decoder(z))
        seconds = fit(model, x, x, method, budget, learning_rate)
        return {
            "train": -float(self.weights(x[::25], 1, seed)[0].mean()),
            "elbo": -float(self.weights(x_test, 10, seed)[0].mean()),
            **mean_of(-self.weights(x_test, budget.samples, seed)[1]),
            "seconds": seconds,
        }

    def weights(self, x, samples, seed):
        """Returns the ELBO, and the bound of several samples, of images."""
        logits = keras.Input(self.kind)
        z = exact(seed)(logits)
        model = keras.Model(logits, [z, self.decoder(z)])
        logits = self.encoder.predict(x, batch_size=1000, verbose=0)
        log_prior = ops.log_softmax(self.prior.logits)

        @jax.jit
        def bounds(trainable, state, x, logits):
            log_ratio = log_prior - ops.log_softmax(logits)

            def add(carry, _):
                state, total, most = carry
                (z, decoded), state = model.stateless_call(
                    trainable, state, logits, training=False
                )
                weight = ops.sum(z * log_ratio, (1, 2)) - surprise(x, decoded)
                return (
                    state,
                    total + weight,
                    ops.logaddexp(most, weight),
                ), None

            start = state, ops.zeros(len(x)), ops.full((len(x),), -np.inf)
            (_, total, most), _ = jax.lax.scan(add, start, length=samples)
            return total / samples, most - np.log(samples)

        return [np.asarray(b) for b in bounds(*values_of(model), x, logits)]


def annealed():
    """exp(-1e-4 t), but not below 0.5, at the step t."""
    return kg.schedules.ExponentialAnnealing(1.0, 0.5, int(1e4 * np.log(2)))


def run_vae(kind, method, budget, seed):
    return Autoencoder(KINDS[kind]).train(
        method, annealed(), budget, 1e-2, seed
    )


def run_unbiased(kind, method, budget, seed):
    hidden = {"linear": (), "200 tanh": (200,)}[kind]
    return Autoencoder(KINDS["Bernoulli"], hidden).train(
        method, 1.0, budget, 1e-3, seed
    )


def run_reinmax(kind, method, budget, seed):
    classes, count = map(int, kind.split("x"))
    return Autoencoder((count, classes), (512, 256), False).train(
        method, 1.0, budget, 5e-4, seed
    )


# -- Concrete autoencoders ----------------------------------------------------


@functools.cache
def pixels_of(data, seed):
    """Returns 4,000 and 6,000 of the test images, as the authors' code does."""
    _, x = load(data)
    order = np.random.default_rng(seed).permutation(len(x))
    return x[order[:4000]], x[order[4000:]]


def linear_error(x, x_test, features):
    """Returns the error of a linear regression of all pixels on features."""

    def design(z):
        return np.column_stack([z, np.ones(len(z))])

    train, test = (features(z).astype("float64") for z in (x, x_test))
    weights = np.linalg.lstsq(design(train), x, rcond=None)[0]
    return float(np.mean((design(test) @ weights - x_test) ** 2))


def first_components(x, k):
    mean = x.mean(axis=0)
    axes = np.linalg.svd(x - mean, full_matrices=False)[2][:k]
    return lambda z: (z - mean) @ axes.T


def greedy_pixels(x, k):
    """Adds the pixel that lowers the error of the regression most."""
    centered = (x - x.mean(axis=0)).astype("float64")
    covariance = centered.T @ centered
    floor = 1e-9 * covariance.trace()
    chosen = []
    for _ in range(k):
        own = np.diag(covariance)
        gains = np.square(covariance).sum(axis=0) / np.maximum(own, floor)
        best = int(np.argmax(np.where(own > floor, gains, 0.0)))
        chosen.append(best)
        column = covariance[:, best]
        covariance = covariance - np.outer(column, column) / column[best]
    return chosen


class Selectors(layers.Layer):
    """Picks one pixel for each of its outputs."""

    def __init__(self, count, sampler, **kwargs):
        super().__init__(**kwargs)
        self.count = count
        self.sampler = sampler

    def build(self, input_shape):
        self.logits = self.add_weight(
            shape=(self.count, input_shape[-1]),
            initializer="glorot_normal",
            name="logits",
        )

    def call(self, inputs, training=None):
        picks = self.sampler(self.logits, training=training)
        return inputs @ ops.transpose(picks)


def decoder(k):
    return [
        layers.Dense(3 * k // 2),
        layers.LeakyReLU(negative_slope=0.2),
        layers.Dropout(0.1),
        layers.Dense(784),
    ]


def fit_pixels(model, optimizer, x, epochs):
    model.compile(optimizer, loss="mse")
    model.fit(x, x, batch_size=64, epochs=epochs, verbose=0)


def selected_by_selectors(x, k, seed, epochs):
    selectors = Selectors(
        k,
        kg.layers.GumbelSoftmax(
            kg.schedules.ExponentialAnnealing(10.0, 0.01), seed=seed
        ),
    )
    model = keras.Sequential([keras.Input((784,)), selectors, *decoder(k)])
    fit_pixels(model, keras.optimizers.Adam(1e-3), x, epochs)
    return np.asarray(ops.argmax(selectors.logits, axis=-1)).tolist()


def selected_by_mask(x, k, seed, epochs):
    mask = kg.layers.ConcreteMask(hard=True, seed=seed)
    model = keras.Sequential([keras.Input((784,)), mask, *decoder(k)])
    optimizer = kg.optimizers.ProjectedOptimizer(
        keras.optimizers.Adam(1e-3),
        density=kg.schedules.CubicDensity(k / 784),
    )
    fit_pixels(model, optimizer, x, epochs)
    kg.harden(model, budget=k)
    return mask.get_support(indices=True).tolist()


def selected_greedily(x, k, seed, epochs):
    return greedy_pixels(x, k)


@dataclasses.dataclass(frozen=True)
class Selection:
    """A way to reduce images to k numbers.

    Args:
        name: The name in the tables.
        select: Function of images, k, a seed and a number of epochs to pixels.
        longer: How many times as many epochs it is trained.
    """

    name: str
    select: Callable | None = None
    longer: int = 1


MASK = Selection("mask", selected_by_mask)
CONCRETE = Selection("concrete autoencoder", selected_by_selectors)
GREEDY = Selection("greedy", selected_greedily)
RANDOM = Selection("random pixels")
COMPONENTS = Selection("principal components")


def run_pixels(kind, method, budget, seed):
    data, k = kind.split(", ")
    k = int(k.split()[0])
    x, x_test = pixels_of(data, seed)
    keras.utils.set_random_seed(seed)
    start = time.process_time()
    if method is COMPONENTS:
        results = {"mse": linear_error(x, x_test, first_components(x, k))}
    elif method is RANDOM:
        rng = np.random.default_rng(seed)
        draws = [rng.choice(784, k, replace=False) for _ in range(20)]
        errors = [
            linear_error(x, x_test, lambda z, d=d: z[:, d]) for d in draws
        ]
        results = {"mse": float(np.mean(errors))}
    else:
        epochs = method.longer * budget.epochs
        chosen = sorted(set(method.select(x, k, seed, epochs)))
        results = {
            "mse": linear_error(x, x_test, lambda z: z[:, chosen]),
            "distinct": len(chosen),
        }
    return {**results, "seconds": time.process_time() - start}


# -- Tables -------------------------------------------------------------------

KINDS = {"Bernoulli": (200, 2), "categorical": (20, 10)}


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a paper.

    Args:
        run: Function of a kind, a method, a budget and a seed to results.
        kinds: The parts of the table.
        methods: The methods, or selections.
        budget: How much is trained and measured.
        columns: Names of results, and the heads of their columns.
        paper: The first result of a kind and a method in the paper, if known.
        digits: Number of decimals.
    """

    run: Callable
    kinds: tuple[str, ...]
    methods: tuple
    budget: Budget
    columns: dict[str, str]
    paper: dict[tuple[str, str], float] = dataclasses.field(
        default_factory=dict
    )
    digits: int = 2


def jang(bernoulli, categorical):
    """The figures of Table 1 of Jang et al., in the order of the methods."""
    names = [m.name for m in (RLOO, ST, GUMBEL_SOFTMAX, ST_GUMBEL)]
    paper = {}
    for kind, row in zip(KINDS, (bernoulli, categorical), strict=True):
        paper |= {(kind, n): nats for n, nats in zip(names, row, strict=True)}
        paper[kind, LONGER.name] = paper[kind, GUMBEL_SOFTMAX.name]
        paper[kind, RLOO_SLOWER.name] = paper[kind, RLOO.name]
    return paper


TABLES = {
    "structured": Table(
        run_structured,
        tuple(KINDS),
        (GUMBEL_SOFTMAX, ST_GUMBEL, ST, RLOO, RLOO_SLOWER),
        Budget(),
        {"nats": "-log p"},
        jang((72.0, 58.9, 58.5, 59.3), (73.1, 61.8, 59.0, 59.7)),
    ),
    "vae": Table(
        run_vae,
        tuple(KINDS),
        (GUMBEL_SOFTMAX, LONGER, ST_GUMBEL, ST, RLOO),
        Budget(),
        {"nats": "-log p", "elbo": "-ELBO"},
        jang((112.2, 116.0, 105.0, 111.5), (110.6, 110.9, 101.5, 107.8)),
    ),
    "concrete-autoencoder": Table(
        run_pixels,
        tuple(
            f"{data}, {k} pixels"
            for data in ("mnist", "fashion_mnist")
            for k in (10, 50)
        ),
        (MASK, CONCRETE, GREEDY, RANDOM, COMPONENTS),
        Budget(images=4000, epochs=200, tested=6000),
        {"mse": "error", "distinct": "distinct"},
        {
            ("mnist, 50 pixels", CONCRETE.name): 0.026,
            ("mnist, 50 pixels", COMPONENTS.name): 0.012,
            ("fashion_mnist, 50 pixels", CONCRETE.name): 0.041,
            ("fashion_mnist, 50 pixels", COMPONENTS.name): 0.012,
        },
        4,
    ),
    "unbiased": Table(
        run_unbiased,
        ("linear",),
        (DISARM, RLOO, ARM, ST),
        Budget(epochs=200, samples=100),
        {"train": "-ELBO, training", "elbo": "-ELBO", "nats": "-log p"},
    ),
    "reinmax": Table(
        run_reinmax,
        ("8x4", "4x24"),
        (
            REINMAX,
            ST,
            GAPPED_COLD,
            RAO_COLD,
            ST_GUMBEL_COLD,
            ST_GUMBEL,
        ),
        Budget(epochs=40, samples=100),
        {"train": "-ELBO, training", "elbo": "-ELBO", "nats": "-log p"},
    ),
}


def shown(values, digits):
    """Writes a mean, with its standard error if there are several values."""
    if None in values:
        return ""
    if len(values) > 1 and digits:
        return mean_and_error(values, digits=digits)
    return f"{np.mean(values):.{digits}f}"


def print_results(table, records):
    for kind in table.kinds:
        rows = []
        for method in (m.name for m in table.methods):
            cells = [
                r for r in records if (r["kind"], r["method"]) == (kind, method)
            ]
            if not cells:
                continue
            first, *others = (
                shown(
                    [r.get(key) for r in cells],
                    0 if key == "distinct" else table.digits,
                )
                for key in table.columns
            )
            known = table.paper.get((kind, method), "")
            minutes = np.mean([r["seconds"] for r in cells]) / 60
            row = [method, first, *([str(known)] if table.paper else [])]
            rows.append([*row, *others, str(len(cells)), f"{minutes:.1f}"])
        if not rows:
            continue
        first, *others = table.columns.values()
        heads = ["method", first, *(["paper"] if table.paper else [])]
        print_table(f"{kind}:", [*heads, *others, "seeds", "CPU minutes"], rows)


def run_cells(name, options):
    """Runs the cells of a table that are not known, and prints the table."""
    table = TABLES[name]
    budget = table.budget.quick() if options.quick else table.budget
    path = RECORDS / f"papers-{name}.jsonl"
    records = []
    if path.exists() and not options.quick:
        records = [json.loads(x) for x in path.read_text().splitlines()]
    known = {(r["kind"], r["method"], r["seed"]) for r in records}
    cells = [
        (kind, method, seed)
        for seed in range(options.seeds)
        for method in table.methods
        for kind in options.kinds or table.kinds
        if not options.methods or method.name in options.methods
    ]
    for kind, method, seed in cells:
        if (kind, method.name, seed) in known:
            continue
        record = {
            "kind": kind,
            "method": method.name,
            "seed": seed,
            "epochs": budget.epochs * method.longer,
            "paper": table.paper.get((kind, method.name)),
            **table.run(kind, method, budget, seed),
        }
        records.append(record)
        print(json.dumps(record), flush=True)
        if not options.quick:
            with path.open("a") as file:
                print(json.dumps(record), file=file)
    print_results(table, records)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", nargs="+", choices=TABLES, required=True)
    parser.add_argument("--kinds", nargs="*")
    parser.add_argument("--methods", nargs="*")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    for name in options.table:
        run_cells(name, options)
    print("\n" + versions("jax", "numpy"))


if __name__ == "__main__":
    main()
