"""Random bad arguments get an error of this package, and change nothing.

Each case calls a public function with one argument that is wrong, drawn from
a fixed seed. The error must name the argument, what was expected and what was
received, and must be raised by this package, not in the depths of a backend.
"""

import functools
import pathlib
import random
import re
import traceback

import keras
import numpy as np
import pytest
from keras import ops

import keras_gumbel as kg

pytestmark = pytest.mark.one_backend

CASES = 200
PACKAGE = pathlib.Path(kg.__file__).parent
MESSAGE = re.compile(
    r"Argument `(\w+)` of `[\w.]+` must be .+\. Received: .+", re.DOTALL
)

X = np.linspace(-1, 1, 12, dtype="float32").reshape(3, 4)
S = np.linspace(0, 1, 12, dtype="float32").reshape(3, 4)
HOT = np.eye(4, dtype="float32")[[0, 1, 3]]
LOG_Y = X - np.log(np.exp(X).sum(-1, keepdims=True))
NAN, INF = float("nan"), float("inf")


class Thing:
    """Is no argument of anything."""

    def __repr__(self):
        return "Thing()"


# What is wrong for an argument of a kind.
OBJECTS = ["text", Thing(), {"a": 1}, 1j, b"bytes"]
BAD = {
    "tensor": [
        *OBJECTS,
        None,
        ["a", "b"],
        [[1.0], [1.0, 2.0]],
        [None, 1.0],
        np.array([1j, 2j]),
        np.array(["x"]),
        np.array([Thing()]),
        keras.layers.Dense(2),
    ],
    "tensors": [*OBJECTS, None, ["a", "b"], [None, 1.0], np.array([1j, 2j])],
    "like": [
        *OBJECTS,
        ["a", "b"],
        np.ones(5, "float32"),
        np.ones((4, 4), "float32"),
        np.ones((1, 1, 3, 4, 1), "float32"),
        np.array([1j, 2j, 1j, 2j]),
    ],
    "mask": [
        "text",
        Thing(),
        {"a": True},
        np.ones(5, bool),
        np.ones((4, 4), bool),
        np.ones((2, 3, 4), bool),
    ],
    "positive": [*OBJECTS, None, 0, 0.0, -1, -0.5, NAN, INF, -INF, [], True],
    "temperature": [
        *OBJECTS,
        0,
        -1.0,
        NAN,
        INF,
        [0.0, 1.0, 1.0, 1.0],
        [1.0, NAN, 1.0, 1.0],
        np.array([1.0, 1.0, -1.0, 1.0]),
        np.ones(5, "float32"),
        np.ones((2, 3, 4), "float32"),
        "0.5",
    ],
    "whole": [*OBJECTS, None, 0, -1, 1.5, NAN, INF, [2], True, "3"],
    "whole or none": [*OBJECTS, 0, -1, 1.5, NAN, [2], True],
    "shape": [np.ones(5), np.ones((4, 4)), np.ones((2, 3, 4))],
    "k": [*OBJECTS, None, 0, -1, 5, 1.5, NAN, "2", [1], True],
    "axis": [*OBJECTS, 7, -7, 0.5, NAN, "-1", [0]],
    "choice": [*OBJECTS, None, "", "straight", 3, ["a"], True, np.ones(2)],
    "seed": [*OBJECTS, -1, 2**32, 1.5, NAN, INF, [1, 2, 3], "7"],
    "float dtype": ["int32", "bool", "text", "complex64", 3, Thing()],
    "budget": [*OBJECTS, None, -1, -0.5, NAN, -INF, "3", [], np.ones((2, 7))],
    "costs": [*OBJECTS, 0.0, -1.0, NAN, INF, [1.0] * 5, "1"],
    "density": ["text", Thing(), 1j, 0, -0.1, 1.5, NAN, INF, "5%", [0.5], True],
    "whole budget": [
        "text",
        Thing(),
        1j,
        0,
        -1,
        10**6,
        NAN,
        INF,
        "3",
        [3],
        True,
    ],
    "filters": ["(", "[a", ["ok", "*"], 3, Thing(), 1j, [3], b"x", {"a": 1}],
    "model": [*OBJECTS, None, 3, np.ones(2), keras.layers.Dense],
    "regularized": [*OBJECTS, -1.0, NAN, INF, None, [1.0]],
    "prior": ["text", 3.0, [], [NAN, 0.0], [INF, 0.0], [[0.0]], Thing()],
    "low": [*OBJECTS, None, 0.0, 0.5, NAN, -INF],
    "high": [*OBJECTS, None, 1.0, 0.5, NAN, INF],
    "granularity": [
        *OBJECTS,
        None,
        3,
        "3:2",
        "0:4",
        (0, 2),
        (1,),
        (1.5, 2),
        ("a", 2),
    ],
    "mask name": [
        *OBJECTS,
        "soft",
        3,
        keras.layers.ReLU(),
        kg.masks.Mask,
    ],
    "optimizer": [None, Thing(), 3, 1j],
}


def _fresh():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, name="first"),
            keras.layers.Dense(3, name="last"),
        ]
    )


def _sparse():
    return kg.sparsify(_fresh(), seed=0)


def _compiled():
    model = _sparse()
    model.compile(
        kg.optimizers.ProjectedOptimizer("sgd", density=0.5), loss="mse"
    )
    return model


def _verb(function, make):
    """A function of a model, that must leave it as it was."""
    return functools.partial(_applied, function=function, make=make)


def _applied(function, make, **options):
    return function(**{"model": make(), **options})


def _called(make, **options):
    return make()(X, training=True, **options)


# Functions, arguments that are right, and the kinds of those that can be wrong.
LOGITS = {"logits": X, "temperature": 0.5, "seed": 1}
OF_LOGITS = {
    "logits": "tensor",
    "temperature": "temperature",
    "axis": "axis",
    "mask": "mask",
    "noise": "like",
    "seed": "seed",
}
OF_PROBS = {
    "probs": "tensor",
    "temperature": "temperature",
    "noise": "like",
    "seed": "seed",
}


def _without(kinds, *names):
    return {name: kind for name, kind in kinds.items() if name not in names}


TARGETS = {
    "gumbel_softmax": (
        kg.ops.gumbel_softmax,
        LOGITS,
        {**OF_LOGITS, "estimator": "choice"},
    ),
    "gumbel_log_softmax": (kg.ops.gumbel_log_softmax, LOGITS, OF_LOGITS),
    "sample_one_hot": (
        kg.ops.sample_one_hot,
        LOGITS,
        {
            **OF_LOGITS,
            "estimator": "choice",
        },
    ),
    "gumbel_max": (
        kg.ops.gumbel_max,
        {"logits": X},
        _without(OF_LOGITS, "temperature"),
    ),
    "categorical": (
        kg.ops.categorical,
        {"logits": X},
        _without(OF_LOGITS, "temperature", "noise"),
    ),
    "one_hot_argmax": (
        kg.ops.one_hot_argmax,
        {"values": X},
        {"values": "tensor", "axis": "axis"},
    ),
    "straight_through": (
        kg.ops.straight_through,
        {"hard": X, "soft": X},
        {"hard": "tensor", "soft": "tensor"},
    ),
    "Estimator": (
        kg.estimators.StraightThrough,
        {},
        {"backward_temperature": "positive"},
    ),
    "GumbelRao": (kg.estimators.GumbelRao, {}, {"num_samples": "whole"}),
    "Gapped": (kg.estimators.Gapped, {}, {"gap": "positive"}),
    "estimator of a sample": (
        kg.estimators.GumbelRao(3),
        {"hard": HOT, "logits": X, "seed": 1},
        {
            "hard": "like",
            "logits": "tensor",
            "temperature": "temperature",
            "axis": "axis",
            "seed": "seed",
        },
    ),
    "relaxed_bernoulli": (
        kg.ops.relaxed_bernoulli,
        {"probs": S},
        {**OF_PROBS, "estimator": "choice"},
    ),
    "sample_bernoulli": (
        kg.ops.sample_bernoulli,
        {"probs": S},
        {**OF_PROBS, "estimator": "choice"},
    ),
    "hard_concrete": (
        kg.ops.hard_concrete,
        {"probs": S},
        {**OF_PROBS, "low": "low", "high": "high"},
    ),
    "stochastic_gate": (
        kg.ops.stochastic_gate,
        {"probs": S},
        {**_without(OF_PROBS, "temperature"), "sigma": "positive"},
    ),
    "logit_relaxed_bernoulli": (
        kg.ops.logit_relaxed_bernoulli,
        {"logits": X},
        _without(OF_LOGITS, "axis", "mask"),
    ),
    "gumbel_top_k": (
        kg.ops.gumbel_top_k,
        {"logits": X, "k": 2},
        {**_without(OF_LOGITS, "temperature"), "k": "k"},
    ),
    "relaxed_top_k": (
        kg.ops.relaxed_top_k,
        {"logits": X, "k": 2},
        {**OF_LOGITS, "k": "k"},
    ),
    "sample_subset": (
        kg.ops.sample_subset,
        {"logits": X, "k": 2},
        {**_without(OF_LOGITS, "temperature"), "k": "k"},
    ),
    "subset_marginals": (
        kg.ops.subset_marginals,
        {"logits": X, "k": 2},
        {"logits": "tensor", "axis": "axis", "mask": "mask", "k": "k"},
    ),
    **{
        name: (
            getattr(kg.ops, name),
            {"log_sample": LOG_Y, "logits": X},
            {
                "log_sample": "tensor",
                "logits": "tensor",
                "axis": "axis",
                "mask": "mask",
            },
        )
        for name in ("concrete_log_prob", "exp_concrete_log_prob")
    },
    **{
        name: (
            getattr(kg.ops, name),
            {"logit_sample": X, "logits": X},
            {"logit_sample": "tensor", "logits": "tensor"},
        )
        for name in (
            "binary_concrete_log_prob",
            "logit_binary_concrete_log_prob",
        )
    },
    "categorical_entropy": (
        kg.ops.categorical_entropy,
        {"logits": X},
        {"logits": "tensor", "axis": "axis", "mask": "mask"},
    ),
    "categorical_kl": (
        kg.ops.categorical_kl,
        {"logits": X},
        {
            "logits": "tensor",
            "prior_logits": "like",
            "axis": "axis",
            "mask": "mask",
        },
    ),
    "project_capped_box": (
        kg.ops.project_capped_box,
        {"values": X, "budget": 2},
        {
            "values": "tensors",
            "budget": "budget",
            "costs": "costs",
            "axis": "axis",
        },
    ),
    "top_k_mask": (
        kg.ops.top_k_mask,
        {"values": S, "budget": 2},
        {"values": "tensor", "budget": "budget", "ties": "like"},
    ),
    "random.gumbel": (
        kg.random.gumbel,
        {"shape": (2,)},
        {"dtype": "float dtype", "seed": "seed", "precision": "choice"},
    ),
    "random.logistic": (
        kg.random.logistic,
        {"shape": (2,)},
        {"dtype": "float dtype", "seed": "seed", "precision": "choice"},
    ),
    "GumbelSoftmax": (
        kg.layers.GumbelSoftmax,
        {},
        {
            "temperature": "positive",
            "inference": "choice",
            "precision": "choice",
            "seed": "seed",
        },
    ),
    "StraightThroughArgmax": (
        kg.layers.StraightThroughArgmax,
        {},
        {
            "temperature": "positive",
            "estimator": "choice",
            "output_mode": "choice",
        },
    ),
    "SubsetSampler": (
        kg.layers.SubsetSampler,
        {"k": 2},
        {"k": "whole", "estimator": "choice", "temperature": "positive"},
    ),
    "ConcreteMask": (
        kg.layers.ConcreteMask,
        {},
        {
            "temperature": "positive",
            "estimator": "choice",
            "inference": "choice",
            "seed": "seed",
        },
    ),
    "CodeUsage": (
        kg.metrics.CodeUsage,
        {"num_classes": 4},
        {"num_classes": "whole"},
    ),
    "update_state": (
        lambda codes: kg.metrics.CodePerplexity(4).update_state(codes),
        {"codes": X},
        {"codes": "tensor"},
    ),
    "CategoricalKL": (
        kg.regularizers.CategoricalKL,
        {},
        {"factor": "regularized", "prior_logits": "prior"},
    ),
    "CappedBox": (
        kg.constraints.CappedBox,
        {},
        {"budget": "budget"},
    ),
    "gradient_report": (
        lambda **options: kg.gradient_report(
            lambda h: h[:, 0], num_samples=2, **options
        ),
        {"logits": [0.0, 1.0]},
        {"logits": "tensor", "temperature": "positive", "seed": "seed"},
    ),
    "sparsify": (
        _verb(kg.sparsify, _fresh),
        {},
        {
            "model": "model",
            "mask": "mask name",
            "filters": "filters",
            "granularity": "granularity",
            "seed": "seed",
        },
    ),
    "harden": (
        _verb(kg.harden, _sparse),
        {},
        {"model": "model", "density": "density", "budget": "whole budget"},
    ),
    "strip": (_verb(kg.strip, _sparse), {}, {"model": "model"}),
    "soften": (_verb(kg.soften, _sparse), {}, {"model": "model"}),
    "shrink": (_verb(kg.shrink, _fresh), {}, {"model": "model"}),
    "shrink_report": (_verb(kg.shrink_report, _fresh), {}, {"model": "model"}),
    "sparsity_report": (
        _verb(kg.sparsity_report, _sparse),
        {},
        {"model": "model"},
    ),
    "sparsity_costs": (
        _verb(kg.sparsity_costs, _sparse),
        {},
        {"model": "model", "measure": "choice"},
    ),
    "layer_densities": (
        _verb(kg.layer_densities, _sparse),
        {"density": 0.5},
        {"model": "model", "density": "density", "method": "choice"},
    ),
    "calibrate": (
        _verb(kg.calibrate, _fresh),
        {"x": X},
        {"model": "model"},
    ),
    "harden_best": (
        _verb(kg.harden_best, _compiled),
        {"data": (X, X[:, :3]), "density": 0.5},
        {"model": "model", "density": "density", "num_samples": "whole"},
    ),
    "recalibrate": (
        _verb(kg.recalibrate_batch_normalization, _fresh),
        {"x": X},
        {"model": "model"},
    ),
    "MonteCarloModel": (
        _verb(kg.models.MonteCarloModel, _fresh),
        {},
        {"model": "model", "num_samples": "whole"},
    ),
    "SparsityLogger": (
        kg.callbacks.SparsityLogger,
        {},
        {"batch_size": "whole or none"},
    ),
    "NOfM": (kg.granularities.NOfM, {"n": 2, "m": 4}, {"n": "whole"}),
    "Block": (
        kg.granularities.Block,
        {"rows": 2, "columns": 2},
        {"rows": "whole", "columns": "whole"},
    ),
    **{
        f"call {layer}": (
            functools.partial(_called, make),
            {},
            {"noise": "like", "mask": "shape", "temperature": "shape"},
        )
        for layer, make in {
            "GumbelSoftmax": kg.layers.GumbelSoftmax,
            "StraightThroughArgmax": kg.layers.StraightThroughArgmax,
            "SubsetSampler": functools.partial(
                kg.layers.SubsetSampler, 2, estimator="relaxed_top_k"
            ),
        }.items()
    },
    "ProjectedOptimizer": (
        kg.optimizers.ProjectedOptimizer,
        {"inner_optimizer": "sgd", "density": 0.5},
        {"inner_optimizer": "optimizer", "density": "density"},
    ),
    "CubicDensity": (
        kg.schedules.CubicDensity,
        {"final": 0.1, "steps": 10},
        {"final": "density"},
    ),
    "LinearAnnealing": (
        kg.schedules.LinearAnnealing,
        {"initial": 1.0, "final": 0.5, "steps": 10},
        {"initial": "positive", "final": "positive"},
    ),
}


def _drawn(case):
    """Draws a function, its arguments, and the one of them that is wrong."""
    rng = random.Random(case)
    name = rng.choice(sorted(TARGETS))
    function, right, kinds = TARGETS[name]
    argument = rng.choice(sorted(kinds))
    value = rng.choice(BAD[kinds[argument]])
    return name, function, {**right, argument: value}, argument


def _require_own_error(error, argument):
    found = MESSAGE.search(str(error))
    assert found, f"not a message of this package: {error}"
    # The parts of a granularity are arguments of their own.
    assert argument in (found[1], "granularity")
    assert isinstance(error, ValueError | TypeError)
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    assert PACKAGE in pathlib.Path(raised_in).parents


@pytest.mark.parametrize("case", range(CASES))
def test_bad_argument_gets_an_error_of_ours(case):
    _, function, arguments, argument = _drawn(case)

    with pytest.raises(Exception) as caught:  # noqa: PT011
        function(**arguments)

    _require_own_error(caught.value, argument)


def _state(model):
    return (
        type(model),
        model.get_config(),
        [ops.convert_to_numpy(v).tolist() for v in model.variables],
        [v.trainable for v in model.variables],
    )


VERBS = [
    name
    for name, (_, _, kinds) in TARGETS.items()
    if "model" in kinds and len(kinds) > 1
]


@pytest.mark.parametrize("name", VERBS)
def test_bad_argument_changes_no_model(name):
    function, right, kinds = TARGETS[name]
    made = []
    rng = random.Random(1)
    for argument in set(kinds) - {"model"}:
        for value in rng.sample(BAD[kinds[argument]], 3):
            model = function.keywords["make"]()
            before = _state(model)

            with pytest.raises((ValueError, TypeError)):
                function(**right, **{"model": model, argument: value})

            assert _state(model) == before
            made.append(model)
    assert made


def test_check_sees_an_error_of_the_backend():
    with pytest.raises(Exception) as caught:  # noqa: PT011
        ops.convert_to_tensor([Thing()])

    with pytest.raises(AssertionError, match="not a message"):
        _require_own_error(caught.value, "value")


# --- files that are cut short or are of another model


def _file(tmp_path):
    path = tmp_path / "sparse.weights.h5"
    _sparse().save_weights(path)
    return path


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_file_cut_short_changes_no_model(kept, tmp_path):
    path = _file(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    model = _sparse()
    before = _state(model)

    with pytest.raises(OSError, match="open file"):
        model.load_weights(path)

    assert _state(model) == before
