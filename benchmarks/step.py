"""Cost of a training step with masks, against the same step without.

    python benchmarks/step.py

prints ratios of `fit` on the same batches, interleaved in one process: the
dense network is the unit, then comes what a mask adds, one piece after the
other. It ends with the memory that scores and their optimizer take. `--jit`
compiles with XLA, which on TensorFlow Keras does only on request.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import functools
import warnings

import keras
import numpy as np
from keras import layers
from keras import ops
from timing import median_ratios
from timing import print_table
from timing import versions

import keras_gumbel as kg

BACKEND = keras.config.backend()
BATCH = 64
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def lenet():
    return keras.Sequential(
        [
            keras.Input((784,)),
            layers.Dense(300, activation="relu"),
            layers.Dense(100, activation="relu"),
            layers.Dense(10),
        ]
    )


def convnet():
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 3, strides=2, activation="relu"),
            layers.Conv2D(32, 3, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )


def sgd():
    return keras.optimizers.SGD(0.1, momentum=0.9)


class Floor(keras.optimizers.SGD):
    """SGD, and what no projection with three sums can do without.

    It reads the scores three times, for sums that depend on each other, and
    clips them. It finds no root and keeps no budget.
    """

    def apply(self, grads, trainable_variables=None):
        super().apply(grads, trainable_variables)
        scores = [
            v for v in self._trainable_variables if v.name == "mask_scores"
        ]
        shift = 0.0
        for _ in range(3):
            total = sum(ops.sum(ops.clip(v - shift, 0, 1)) for v in scores)
            shift = 1e-12 * total
        for v in scores:
            v.assign(ops.clip(v - shift, 0, 1))


def project(steps, **options):
    density = kg.schedules.CubicDensity(0.05, steps)
    return kg.optimizers.ProjectedOptimizer(sgd(), density=density, **options)


# The default, learned, with two of every four inputs kept in the end.
PATTERN = "2:4"

# The mask, and the optimizer for a number of steps. Each row adds to the one
# above it, but the projection takes the place of the three sums.
ROWS = {
    "dense": (None, lambda steps: sgd()),
    "scores times kernels": ("learned", lambda steps: sgd()),
    "+ three sums and a clip": (
        "learned",
        lambda steps: Floor(0.1, momentum=0.9),
    ),
    "+ projection": (
        "learned",
        functools.partial(project, score_optimizer=None, harden_step=None),
    ),
    "+ ScoreSGD: the default, learned": (
        "learned",
        functools.partial(project, harden_step=None),
    ),
    "the default, mask final": (
        "learned",
        functools.partial(project, harden_step=1),
    ),
    "sampled masks (Eq. 26)": (
        kg.layers.ConcreteMask(),
        functools.partial(project, harden_step=None),
    ),
    "magnitude": ("magnitude", functools.partial(project, harden_step=None)),
    "magnitude, every 100 steps": (
        kg.masks.MagnitudeMask("dense", frequency=100),
        functools.partial(project, harden_step=None),
    ),
    PATTERN: ("learned", functools.partial(project, harden_step=None)),
}


def make_run(network, row, steps, rounds, jit):
    """Returns a function that trains for a number of steps."""
    mask, optimizer = ROWS[row]
    keras.utils.set_random_seed(0)
    model = network()
    if mask is not None:
        granularity = row if row == PATTERN else "weight"
        with warnings.catch_warnings():
            # Of the convolution of one channel, which does not divide by 4.
            warnings.simplefilter("ignore", UserWarning)
            kg.sparsify(model, mask, granularity=granularity)
    # As long a schedule as there are steps in all, with those that compile:
    # the budget is active, and the masks stay undecided.
    model.compile(optimizer((rounds + 2) * steps), LOSS, jit_compile=jit)
    generator = np.random.default_rng(0)
    count = steps * BATCH
    x = generator.uniform(size=(count, *model.input_shape[1:]))
    x = x.astype("float32")
    y = generator.integers(10, size=count).astype("int32")
    fit = functools.partial(
        model.fit, x, y, batch_size=BATCH, shuffle=False, verbose=0
    )
    return model, fit


def size_of(variables):
    """Returns the bytes of float32 variables."""
    return 4 * sum(int(np.prod(v.shape)) for v in variables)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument(
        "--jit", action="store_const", const=True, default="auto"
    )
    options = parser.parse_args()
    print(versions(BACKEND))
    for name, network in {"LeNet-300-100": lenet, "convnet": convnet}.items():
        made = {
            row: make_run(
                network, row, options.steps, options.rounds, options.jit
            )
            for row in ROWS
        }
        ratios, unit = median_ratios(
            {row: fit for row, (_, fit) in made.items()}, options.rounds
        )
        weights = size_of(made["dense"][0].trainable_variables)
        cells = []
        for row, (model, _) in made.items():
            state = size_of(model.variables) + size_of(
                model.optimizer.variables
            )
            cells.append([row, f"{ratios[row]:.2f}", f"{state / weights:.1f}"])
        print_table(
            f"{name}, {unit / options.steps * 1e3:.2f} ms a dense step:",
            ["step", "x dense", "memory x weights"],
            cells,
        )


if __name__ == "__main__":
    main()
