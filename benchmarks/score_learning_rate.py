"""Measures how far scores must be able to go to be decided.

    KERAS_BACKEND=jax python benchmarks/score_learning_rate.py

trains masks on handwritten digits to 5% of the weights, with learning rates
of the scores from far too small to large enough, for few and for many steps,
and leaves the masks live to the end. For each it prints

- reach: the sum of the learning rates of all steps, for `ScoreSGD` over
  1 - momentum: how far a score can get that is always pushed the same way,
- undecided / K: the scores between 0.05 and 0.95 for each weight kept,
- the test accuracy of the model as it stands, and with its final mask.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import warnings

import keras
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from timing import print_table
from timing import versions

import keras_gumbel as kg

DENSITY = 0.05
BATCH_SIZE = 64
LEARNING_RATES = [0.001, 0.004, 0.015, 0.06]
MOMENTUM = 0.8
MAKE = {
    "Adam": keras.optimizers.Adam,
    "ScoreSGD": lambda rate: kg.optimizers.ScoreSGD(
        rate, momentum=MOMENTUM, batch_size=BATCH_SIZE
    ),
}


def network():
    return keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(300, activation="relu"),
            layers.Dense(100, activation="relu"),
            layers.Dense(10),
        ]
    )


def measure(data, name, learning_rate, epochs):
    """Trains once, and returns a row of the table."""
    x_train, x_test, y_train, y_test = data
    steps = epochs * -(-len(x_train) // BATCH_SIZE)
    cosine = keras.optimizers.schedules.CosineDecay
    keras.utils.set_random_seed(0)
    model = kg.sparsify(network(), seed=0)
    model.compile(
        kg.optimizers.ProjectedOptimizer(
            keras.optimizers.SGD(cosine(0.1, steps), momentum=0.9),
            density=kg.schedules.CubicDensity(DENSITY, steps),
            score_optimizer=MAKE[name](cosine(learning_rate, steps)),
            harden_step=None,
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(x_train, y_train, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)
    report = kg.sparsity_report(model)
    soft = model.evaluate(x_test, y_test, verbose=0)[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        kg.harden(model)
    hard = model.evaluate(x_test, y_test, verbose=0)[1]
    # The mean of a cosine that falls to 0 is one half.
    reach = learning_rate * steps / 2
    if name == "ScoreSGD":
        reach /= 1 - MOMENTUM
    return [
        name,
        f"{steps:,}",
        f"{learning_rate:g}",
        f"{reach:.2f}",
        f"{report.undecided / report.kept:.2f}",
        f"{soft:.1%}",
        f"{hard:.1%}",
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, nargs="+", default=[12, 40])
    arguments = parser.parse_args()
    images, labels = load_digits(return_X_y=True)
    data = train_test_split(
        images.astype("float32") / 16,
        labels,
        test_size=360,
        stratify=labels,
        random_state=0,
    )
    rows = [
        measure(data, name, learning_rate, epochs)
        for epochs in arguments.epochs
        for name in MAKE
        for learning_rate in LEARNING_RATES
    ]
    print(versions("scikit-learn"))
    print_table(
        f"Digits, {DENSITY:.0%} of the weights",
        [
            "optimizer",
            "steps",
            "learning rate",
            "reach",
            "undecided / K",
            "as it stands",
            "final mask",
        ],
        sorted(rows, key=lambda row: (row[0], float(row[3]))),
    )


if __name__ == "__main__":
    main()
