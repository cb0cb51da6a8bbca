"""Feature selection: `FeatureSelector` against the selectors people use.

    python benchmarks/features.py

Six synthetic data sets with a known answer, and breast cancer. Every method
selects the same number of features from the same training data. Two judges
that had no part in the choice, scikit-learn's `MLPClassifier` and
`HistGradientBoostingClassifier`, are trained on the selected features, and
their mean area under the ROC curve on test data is the result.

Syn1 to Syn6 (https://arxiv.org/abs/1802.07814, with the constants of INVASE)
have 11 standard normal features. The label is drawn with the probability
sigmoid(z):

    z1 = x1 x2
    z2 = x3^2 + x4^2 + x5^2 + x6^2 - 4
    z3 = -10 sin(0.2 x7) + |x8| + x9 + exp(-x10) - 2.4

Syn1 to Syn3 have one of these. In Syn4, Syn5 and Syn6 the sign of x11 decides
between z1 and z2, z1 and z3, and z2 and z3. The selection is one for all
examples, so that the answer there is the union, with x11.

A method with a parameter is run with every value of its grid. Of the subsets,
the one is taken that has the best area under the curve of gradient boosting,
cross-validated in three folds on the training data. Ours has no parameter
here: `FeatureSelector(n_features_to_select=k)` is run once, as it is.

- univariate: `SelectKBest` with the F-test or the mutual information.
- L1 logistic: the largest coefficients where the path of the penalty, 30
  values, first has k that are not zero.
- RFE: `RFE` with a logistic regression (C of 0.01, 0.1, 1, 10) or a random
  forest of 50 trees (leaves of 1, 5, 20 examples or more).
- STG: stochastic gates (https://arxiv.org/abs/1810.04247) before the network
  that ours trains, in as many steps with the same batch size and learning
  rate, by Adam; sigma 0.5, the penalty in 0.03, 0.1, 0.3, 1, at learning rates
  of the gates of 0.001 and 0.01. The k gates with the largest means are
  selected.

Each cell becomes a line of `benchmarks/records/features.jsonl`. Cells that are
in the file are not run again.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import argparse
import functools
import itertools
import json
import pathlib
import time
import warnings

import jax
import numpy as np
from jax import numpy as jnp
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_selection import RFE
from sklearn.feature_selection import SelectKBest
from sklearn.feature_selection import f_classif
from sklearn.feature_selection import mutual_info_classif
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from timing import mean_and_error
from timing import print_table
from timing import versions

import keras_gumbel as kg

RECORDS = pathlib.Path(__file__).parent / "records" / "features.jsonl"
EPOCHS = 100
PENALTIES = (0.03, 0.1, 0.3, 1.0)
GATE_RATES = (1e-3, 1e-2)
HIDDEN = 64

TRUE = {
    "Syn1": (0, 1),
    "Syn2": (2, 3, 4, 5),
    "Syn3": (6, 7, 8, 9),
    "Syn4": (0, 1, 2, 3, 4, 5, 10),
    "Syn5": (0, 1, 6, 7, 8, 9, 10),
    "Syn6": (2, 3, 4, 5, 6, 7, 8, 9, 10),
}
PARTS = {"Syn4": (0, 1), "Syn5": (0, 2), "Syn6": (1, 2)}
COUNTS = {name: len(true) for name, true in TRUE.items()}
COUNTS |= {"breast cancer, 5": 5, "breast cancer, 10": 10}


def synthetic(name, examples, rng):
    """Returns features, labels, and the logits the labels are drawn with."""
    x = rng.normal(size=(examples, 11))
    z = [
        x[:, 0] * x[:, 1],
        np.square(x[:, 2:6]).sum(axis=1) - 4.0,
        -10.0 * np.sin(0.2 * x[:, 6])
        + np.abs(x[:, 7])
        + x[:, 8]
        + np.exp(-x[:, 9])
        - 2.4,
    ]
    if name in PARTS:
        first, second = PARTS[name]
        logits = np.where(x[:, 10] < 0, z[first], z[second])
    else:
        logits = z[int(name[-1]) - 1]
    y = rng.random(examples) < 1.0 / (1.0 + np.exp(-logits))
    return x, y.astype(int), logits


def data_of(name, seed, examples):
    """Returns training and test data."""
    if name in TRUE:
        rng = np.random.default_rng(seed)
        x, y, _ = synthetic(name, examples + 10_000, rng)
        return x[:examples], y[:examples], x[examples:], y[examples:]
    x, y = load_breast_cancer(return_X_y=True)
    x, x_test, y, y_test = train_test_split(
        x, y, test_size=0.5, stratify=y, random_state=seed
    )
    return x, y, x_test, y_test


def bayes_results(name, seed, examples):
    """Returns the AUC of the true probabilities on the test data, in %."""
    rng = np.random.default_rng(seed)
    _, y, logits = synthetic(name, examples + 10_000, rng)
    return 100 * roc_auc_score(y[examples:], logits[examples:])


def ours(x, y, k, seed):
    selector = kg.FeatureSelector(n_features_to_select=k, random_state=seed)
    yield selector.fit(x, y).get_support(indices=True)


def f_test(x, y, k, seed):
    yield SelectKBest(f_classif, k=k).fit(x, y).get_support(indices=True)


def mutual_information(x, y, k, seed):
    measure = functools.partial(mutual_info_classif, random_state=seed)
    yield SelectKBest(measure, k=k).fit(x, y).get_support(indices=True)


def l1_logistic(x, y, k, seed):
    x = StandardScaler().fit_transform(x)
    for c in np.geomspace(1e-4, 1e4, 30):
        regression = LogisticRegression(
            C=c, l1_ratio=1.0, solver="liblinear", random_state=seed
        )
        weights = np.abs(regression.fit(x, y).coef_[0])
        if np.count_nonzero(weights) >= k:
            break
    yield np.argsort(-weights, kind="stable")[:k]


def rfe_logistic(x, y, k, seed):
    x = StandardScaler().fit_transform(x)
    for c in (0.01, 0.1, 1.0, 10.0):
        regression = LogisticRegression(C=c, max_iter=1000)
        yield (
            RFE(regression, n_features_to_select=k)
            .fit(x, y)
            .get_support(indices=True)
        )


def rfe_forest(x, y, k, seed):
    for leaf in (1, 5, 20):
        forest = RandomForestClassifier(
            50, min_samples_leaf=leaf, random_state=seed
        )
        yield (
            RFE(forest, n_features_to_select=k)
            .fit(x, y)
            .get_support(indices=True)
        )


def stg(x, y, k, seed):
    """Every penalty and learning rate of the gates, side by side."""
    x = StandardScaler().fit_transform(x)
    # As `FeatureSelector` has them.
    batch = int(min(np.clip(len(x) // 20, 32, 512), len(x)))
    rng = np.random.default_rng(seed)
    order = np.concatenate(
        [
            rng.permutation(len(x))[: len(x) // batch * batch]
            for _ in range(EPOCHS)
        ]
    ).reshape(-1, batch)
    grid = jnp.array(list(itertools.product(PENALTIES, GATE_RATES)))
    means = train_stg(
        jnp.asarray(x, "float32"), jnp.asarray(y), order, grid, seed
    )
    for mean in np.asarray(means):
        yield np.argsort(-mean, kind="stable")[:k]


@jax.jit
def train_stg(x, y, order, grid, seed):
    """Trains one network for each row of the grid; returns means of gates."""
    features = x.shape[1]

    def start(key):
        sizes = (features, HIDDEN, HIDDEN, 2)
        layers = []
        for inputs, outputs in itertools.pairwise(sizes):
            key, own = jax.random.split(key)
            limit = jnp.sqrt(6.0 / (inputs + outputs))
            kernel = jax.random.uniform(
                own, (inputs, outputs), minval=-limit, maxval=limit
            )
            layers.append((kernel, jnp.zeros(outputs)))
        return layers, 0.01 * jax.random.normal(key, (features,))

    def loss(weights, x, y, noise, penalty):
        layers, mean = weights
        hidden = x * jnp.clip(mean + 0.5 * noise + 0.5, 0.0, 1.0)
        for kernel, bias in layers[:-1]:
            hidden = jax.nn.relu(hidden @ kernel + bias)
        kernel, bias = layers[-1]
        log_probs = jax.nn.log_softmax(hidden @ kernel + bias)
        # The probability that a gate is open.
        is_open = jax.scipy.special.ndtr((mean + 0.5) / 0.5)
        picked = jnp.take_along_axis(log_probs, y[:, None], axis=1)
        return penalty * is_open.mean() - picked.mean()

    def train(setting):
        penalty, gate_rate = setting
        first, later = jax.random.split(jax.random.key(seed))
        weights = start(first)
        rates = jax.tree.map(lambda _: 1e-3, weights[0]), gate_rate
        zeros = jax.tree.map(jnp.zeros_like, weights)

        def step(state, batch):
            weights, m, v, t, key = state
            key, own = jax.random.split(key)
            # One gate for all examples of a batch, as in the authors' code.
            noise = jax.random.normal(own, (features,))
            g = jax.grad(loss)(weights, x[batch], y[batch], noise, penalty)
            t = t + 1
            m = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, m, g)
            v = jax.tree.map(lambda a, b: 0.999 * a + 0.001 * b * b, v, g)
            scale = jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            weights = jax.tree.map(
                lambda w, a, b, r: w - r * scale * a / (jnp.sqrt(b) + 1e-7),
                weights,
                m,
                v,
                rates,
            )
            return (weights, m, v, t, key), None

        state = (weights, zeros, zeros, 0, later)
        state, _ = jax.lax.scan(step, state, order)
        return state[0][1]

    return jax.lax.map(train, grid)


METHODS = {
    "ours": ours,
    "STG": stg,
    "RFE, forest": rfe_forest,
    "RFE, logistic": rfe_logistic,
    "L1 logistic": l1_logistic,
    "mutual information": mutual_information,
    "F-test": f_test,
}


class Judge:
    """Scores subsets of features, each subset once."""

    def __init__(self, data, seed):
        self.x, self.y, self.x_test, self.y_test = data
        self.seed = seed
        self.tuned = functools.cache(self._tuned)
        self.tested = functools.cache(self._tested)

    def _tuned(self, subset):
        """Returns the cross-validated result on the training data."""
        trees = HistGradientBoostingClassifier(
            max_iter=50, random_state=self.seed
        )
        return cross_val_score(
            trees, self.x[:, list(subset)], self.y, cv=3, scoring="roc_auc"
        ).mean()

    def _tested(self, subset):
        """Returns the results of both judges on the test data."""
        judges = (
            make_pipeline(
                StandardScaler(),
                MLPClassifier(
                    (64, 64), alpha=1e-2, max_iter=60, random_state=self.seed
                ),
            ),
            HistGradientBoostingClassifier(random_state=self.seed),
        )
        columns = list(subset)
        results = []
        for judge in judges:
            judge.fit(self.x[:, columns], self.y)
            probs = judge.predict_proba(self.x_test[:, columns])[:, 1]
            results.append(roc_auc_score(self.y_test, probs))
        return results


def run_cell(name, seed, examples, known):
    """Yields one record for each method that is not known."""
    data = data_of(name, seed, examples)
    judge = Judge(data, seed)
    x, y = data[:2]
    subsets = {}
    for method, select in METHODS.items():
        if (name, seed, method) in known:
            continue
        start = time.process_time()
        found = [
            tuple(sorted(map(int, chosen)))
            for chosen in select(x, y, COUNTS[name], seed)
        ]
        best = found[0] if len(found) == 1 else max(found, key=judge.tuned)
        subsets[method] = best, time.process_time() - start
    if name in TRUE:
        subsets["the true features"] = TRUE[name], 0.0
    subsets["all features"] = tuple(range(x.shape[1])), 0.0
    for method, (subset, seconds) in subsets.items():
        if (name, seed, method) in known:
            continue
        network, trees = judge.tested(subset)
        yield {
            "data": name,
            "seed": seed,
            "method": method,
            "examples": examples,
            "features": subset,
            "network": network,
            "trees": trees,
            "seconds": seconds,
        }


def result(record):
    return 100 * (record["network"] + record["trees"]) / 2


def found_share(record):
    true = TRUE[record["data"]]
    return 100 * len(set(true) & set(record["features"])) / len(true)


def print_results(records, seeds, examples):
    for name, k in COUNTS.items():
        own = {
            (r["method"], r["seed"]): r
            for r in records
            if r["data"] == name and r["seed"] in seeds
        }
        rows = []
        for method in (*METHODS, "the true features", "all features"):
            if (method, seeds[0]) not in own:
                continue
            cells = [own[method, seed] for seed in seeds]
            ahead = [
                result(own["ours", seed]) - result(own[method, seed])
                for seed in seeds
            ]
            share = [found_share(r) for r in cells] if name in TRUE else []
            rows.append(
                [
                    method,
                    mean_and_error([result(r) for r in cells]),
                    "" if method == "ours" else mean_and_error(ahead, "+"),
                    f"{np.mean(share):.0f}" if share else "",
                    str(len({tuple(r["features"]) for r in cells})),
                ]
            )
        if name in TRUE:
            best = np.array([bayes_results(name, s, examples) for s in seeds])
            gaps = [
                result(own["ours", s]) - b
                for s, b in zip(seeds, best, strict=True)
            ]
            rows.append(
                [
                    "the true probabilities",
                    mean_and_error(best),
                    mean_and_error(gaps, "+"),
                    "",
                    "",
                ]
            )
        print_table(
            f"{name.split(',')[0]}, {k} features, test AUC in %:",
            ["method", "AUC", "ours less", "% found", "subsets"],
            rows,
        )


def print_losses(records, seeds):
    """Prints where ours is behind."""
    results = {(r["data"], r["method"], r["seed"]): result(r) for r in records}
    print("\nOurs is behind:\n")
    for name, method in itertools.product(COUNTS, METHODS):
        ahead = np.array(
            [
                results[name, "ours", seed] - results[name, method, seed]
                for seed in seeds
            ]
        )
        if ahead.mean() < 0:
            print(f"- {name}, {method}: {mean_and_error(ahead, '+')}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="*", default=list(COUNTS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--records", type=pathlib.Path, default=RECORDS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    seeds = range(options.seeds)
    lines = []
    if options.records.exists():
        lines = options.records.read_text().splitlines()
    records = [
        record
        for record in map(json.loads, lines)
        if record["examples"] == options.examples
    ]
    known = {(r["data"], r["seed"], r["method"]) for r in records}
    for seed, name in itertools.product(seeds, options.data):
        for record in run_cell(name, seed, options.examples, known):
            records.append(record)
            with options.records.open("a") as file:
                print(json.dumps(record), file=file)
        if not known.issuperset((name, seed, method) for method in METHODS):
            print(f"{name}, seed {seed}", flush=True)
    print_results(records, seeds, options.examples)
    print_losses(records, seeds)
    print("\n" + versions("jax", "scikit-learn"))


if __name__ == "__main__":
    main()
