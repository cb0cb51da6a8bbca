"""Measures gradient estimators against exact gradients.

    KERAS_BACKEND=torch python benchmarks/estimators.py

draws functions of one categorical variable and of eight binary masks, takes
the exact gradient of their expectation by enumeration, and prints for each
estimator the medians over the functions of

- bias: the distance of its mean to the exact gradient,
- variance: the mean squared distance of a sample to that mean,
- cosine: of the angle between that mean and the exact gradient,
- error of 100: the root mean square error of a mean of 100 samples, from
  which variance is averaged away and bias is not,

in units of the exact gradient. Those without bias evaluate the function twice
for one gradient (REBAR three times), all others once. The functions are tanh of
a random linear plus a random quadratic form. An estimator that does not depend
on the temperature is printed once.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import statistics

import numpy as np
from keras import ops
from timing import print_table
from timing import versions

import keras_gumbel as kg
from keras_gumbel.estimators._lookup import SHORT_NAMES

SIZE = 8  # classes, or masks
TEMPERATURES = [0.1, 0.25, 0.5, 1.0, 2.0]
LOGIT_SCALES = [0.5, 2.0]
AVERAGED = 100


def random_function(generator):
    """A smooth function of rows of SIZE numbers."""
    linear = generator.normal(size=SIZE).astype("float32")
    quadratic = generator.normal(size=(SIZE, SIZE)).astype("float32")
    linear, quadratic = map(ops.convert_to_tensor, (linear, quadratic))

    def function(samples):
        square = ops.sum(samples * ops.matmul(samples, quadratic), axis=-1)
        return ops.tanh(ops.sum(samples * linear, axis=-1) + square)

    return function


def names_for(classes):
    """Names of what can be compared for so many classes."""
    found = [
        name
        for name in SHORT_NAMES
        if kg.estimators.get(name).num_classes in (None, classes)
    ]
    return ["relaxed", *found]


def measure(functions, points, num_samples):
    """Measures every estimator at every temperature.

    Args:
        functions: List of functions.
        points: List of as many dictionaries, `logits` or `probs`.
        num_samples: Integer.

    Returns:
        A dictionary of estimator to a dictionary of temperature to the
        medians of bias, variance, cosine and error.
    """
    found = {}
    names = names_for(2 if "probs" in points[0] else SIZE)
    for temperature in TEMPERATURES:
        # ReinMax has a temperature of its own, unless it is told otherwise.
        of_name = {"reinmax": kg.estimators.ReinMax(temperature)}
        for seed, (function, point) in enumerate(
            zip(functions, points, strict=True)
        ):
            report = kg.gradient_report(
                function,
                estimators=[of_name.get(name, name) for name in names],
                temperature=temperature,
                num_samples=num_samples,
                seed=seed,
                **point,
            )
            for name, row in zip(names, report.rows, strict=True):
                error = (row.bias**2 + row.variance / AVERAGED) ** 0.5
                rows = found.setdefault(name, {})
                rows.setdefault(temperature, []).append(
                    (row.bias, row.variance, row.cosine, error)
                )
    return {
        estimator: {
            temperature: [statistics.median(c) for c in zip(*rows, strict=True)]
            for temperature, rows in by_temperature.items()
        }
        for estimator, by_temperature in found.items()
    }


def print_medians(title, medians):
    """Prints what `measure` returns."""
    columns = ["estimator", "temperature", "bias", "variance", "cosine"]
    columns.append(f"error of {AVERAGED}")
    cells = []
    for estimator, by_temperature in medians.items():
        one = len({tuple(row) for row in by_temperature.values()}) == 1
        for temperature, row in by_temperature.items():
            name = "any" if one else f"{temperature:g}"
            cells.append([estimator, name, *(f"{cell:.3g}" for cell in row)])
            if one:
                break
    print_table(title, columns, cells)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--functions", type=int, default=20)
    parser.add_argument("--samples", type=int, default=10_000)
    options = parser.parse_args()
    print(versions())
    generator = np.random.default_rng(0)
    functions = [random_function(generator) for _ in range(options.functions)]
    normal = generator.normal(size=(options.functions, SIZE))
    uniform = generator.uniform(0.1, 0.9, (options.functions, SIZE))
    for scale in LOGIT_SCALES:
        points = [{"logits": scale * x} for x in normal]
        print_medians(
            f"One of {SIZE} classes, logits of standard deviation {scale:g}",
            measure(functions, points, options.samples),
        )
    points = [{"probs": s} for s in uniform]
    print_medians(
        f"{SIZE} binary masks, probabilities in [0.1, 0.9]",
        measure(functions, points, options.samples),
    )


if __name__ == "__main__":
    main()
