"""The cases that other libraries publish for themselves, and their values.

None of the libraries is needed: the comments name the public file or the
paper that a case is from. Where it prints no values, they are closed forms or
an independent computation in float64.
"""

import numpy as np
import pytest
from keras import ops
from scipy import special

from keras_gumbel.estimators import ReinMax
from keras_gumbel.ops import binary_concrete_log_prob
from keras_gumbel.ops import concrete_log_prob
from keras_gumbel.ops import gumbel_softmax
from keras_gumbel.ops import project_capped_box
from keras_gumbel.ops import soft_top_k
from keras_gumbel.ops import top_k_mask
from keras_gumbel.ops._cardinality import top_of_rows
from keras_gumbel.schedules import CubicDensity
from tests import reference
from tests.gradients import gradient
from tests.gradients import to_numpy

# TensorFlow Probability compares versions with a class that is deprecated.
pytestmark = pytest.mark.filterwarnings(
    "ignore:distutils Version classes:DeprecationWarning"
)

RNG = np.random.default_rng(0)

# --- jaxopt 0.8, `projection_box_section`: tests/projection_test.py


def test_box_section_of_jaxopt():
    # x = (1.2, 3, 0.7), weights (1, 2, 3), a box up to 0.8, and the sum 1.
    x, weights = np.array([1.2, 3.0, 0.7], "f"), np.array([1.0, 2.0, 3.0], "f")

    p = 0.8 * to_numpy(
        project_capped_box(x / 0.8, 1.0, costs=0.8 * weights, equality=True)
    )

    # x - 1.25 weights = (-0.05, 0.5, -3.05), clipped: 2 * 0.5 = 1.
    np.testing.assert_allclose(p, [0.0, 0.5, 0.0], atol=2e-6)


def box_section(x, weights, total):
    """Bisection of the multiplier, in float64."""
    low, high = ((x - 1) / weights).min(), (x / weights).max()
    for _ in range(200):
        middle = 0.5 * (low + high)
        much = (weights * np.clip(x - middle * weights, 0, 1)).sum() > total
        low, high = (middle, high) if much else (low, middle)
    return np.clip(x - high * weights, 0, 1)


@pytest.mark.parametrize("size", [5, 17, 40])
def test_random_box_sections(size):
    for _ in range(5):
        x = RNG.normal(size=size).astype("float32")
        weights = RNG.uniform(0.1, 2.0, size=size).astype("float32")
        total = float(RNG.uniform(0.05, 0.95) * weights.sum())

        p = to_numpy(project_capped_box(x, total, costs=weights, equality=True))

        expected = box_section(x.astype("float64"), weights, total)
        np.testing.assert_allclose(p, expected, atol=1e-5)


def test_box_section_of_a_point_inside_is_itself():
    # tests/projection_test.py: what is feasible stays, here bit for bit.
    x = RNG.uniform(0.1, 0.9, size=20).astype("float32")

    np.testing.assert_array_equal(to_numpy(project_capped_box(x, 20)), x)


# --- optax 0.2, `projections.projection_simplex`


def simplex(x, total):
    """By the sorted sums (Duchi et al., 2008)."""
    falling = np.sort(x)[::-1]
    shifts = (np.cumsum(falling) - total) / np.arange(1, len(x) + 1)
    return np.maximum(x - shifts[np.count_nonzero(falling > shifts) - 1], 0)


def test_simplex_of_optax():
    # (3.2 + 2.5 - 1) / 2 = 2.35 is taken off.
    p = to_numpy(project_capped_box([0.5, 2.5, 3.2], 1, equality=True))

    np.testing.assert_allclose(p, [0.0, 0.15, 0.85], atol=2e-6)


@pytest.mark.parametrize("total", [0.3, 1.0])
def test_random_simplices(total):
    for size in (2, 10, 50):
        x = RNG.normal(size=size).astype("float32")

        p = to_numpy(project_capped_box(x, total, equality=True))

        np.testing.assert_allclose(p, simplex(x, total), atol=2e-6)


# --- entmax 1.3, `budget_bisect`: entmax/test_root_finding.py


def budget(x, k):
    return box_section(x.astype("float64"), np.ones_like(x), k)


@pytest.mark.parametrize("function", [project_capped_box, soft_top_k])
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_budget_of_entmax(k, function):
    x = RNG.normal(size=(4, 7)).astype("float32")
    options = {"equality": True} if function is project_capped_box else {}

    p = to_numpy(function(x, k, axis=-1, **options))

    np.testing.assert_allclose(p, [budget(row, k) for row in x], atol=1e-5)
    np.testing.assert_allclose(p.sum(-1), k, rtol=2e-6)


def test_budgets_of_rows_and_another_dimension():
    x = RNG.normal(size=(7, 4)).astype("float32")
    budgets = np.array([[1.0, 2.0, 3.0, 5.0]], "float32")

    p = to_numpy(project_capped_box(x, budgets, equality=True, axis=0))

    expected = [budget(x[:, i], budgets[0, i]) for i in range(4)]
    np.testing.assert_allclose(p, np.transpose(expected), atol=1e-5)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_budget_has_the_gradient_of_entmax(k):
    # diag(s) - s s^T / |s|, where s marks the entries inside the box.
    x = RNG.normal(size=7).astype("float32")
    weights = RNG.normal(size=7)

    def loss(x):
        p = project_capped_box(x, k, equality=True)
        return ops.sum(p * ops.convert_to_tensor(weights.astype("float32")))

    (slopes,) = gradient(loss, x)

    p = budget(x, k)
    inside = (p > 1e-6) & (p < 1 - 1e-6)
    expected = inside * (weights - (inside * weights).sum() / inside.sum())
    np.testing.assert_allclose(slopes, expected, atol=1e-6)


# --- microsoft/ReinMax 0.1, the backward pass of reinmax/reinmax.py


@pytest.mark.parametrize("temperature", [1.0, 1.3, 2.0])
def test_backward_pass_of_reinmax(temperature):
    x = RNG.normal(size=(5, 6)).astype("float32")
    hard = np.eye(6, dtype="float32")[RNG.integers(6, size=5)]
    weights = RNG.normal(size=(5, 6))

    def loss(x):
        sample = ReinMax(temperature)(hard, logits=x)
        return ops.sum(sample * ops.convert_to_tensor(weights.astype("f")))

    (slopes,) = gradient(loss, x)

    def through_softmax(p, slope):
        return p * (slope - (p * slope).sum(-1, keepdims=True))

    p, q = special.softmax(x, -1), special.softmax(x / temperature, -1)
    expected = through_softmax(0.5 * (q + hard), 2.0 * weights)
    expected += through_softmax(p, -0.5 * weights)
    np.testing.assert_allclose(slopes, expected, atol=1e-6)


# --- torch.distributions, and TensorFlow Probability


@pytest.mark.backends("torch")
@pytest.mark.parametrize("temperature", [0.3, 0.7, 2.0])
def test_density_of_torch_distributions(temperature):
    import torch

    logits = RNG.normal(size=(50, 5))
    sample = gumbel_softmax(logits, temperature, seed=1)
    theirs = torch.distributions.RelaxedOneHotCategorical(
        torch.tensor(temperature, dtype=torch.float64),
        logits=torch.from_numpy(logits),
    )

    ours = concrete_log_prob(torch.log(sample), logits, temperature)

    np.testing.assert_allclose(
        to_numpy(ours), to_numpy(theirs.log_prob(sample)), atol=2e-5
    )


@pytest.mark.backends("torch")
@pytest.mark.parametrize("temperature", [0.5, 1.5])
def test_binary_density_of_torch_distributions(temperature):
    import torch

    logits = RNG.normal(size=50)
    theirs = torch.distributions.RelaxedBernoulli(
        torch.tensor(temperature, dtype=torch.float64),
        logits=torch.from_numpy(logits),
    )
    sample = theirs.sample()

    ours = binary_concrete_log_prob(torch.logit(sample), logits, temperature)

    np.testing.assert_allclose(
        to_numpy(ours), to_numpy(theirs.log_prob(sample)), atol=2e-5
    )


@pytest.mark.backends("tensorflow")
@pytest.mark.parametrize("temperature", [0.5, 1.5])
def test_samples_of_tensorflow_probability_have_our_distribution(temperature):
    import tensorflow_probability as tfp

    logits = np.array([0.5, -0.3, 0.2])
    theirs = tfp.distributions.RelaxedOneHotCategorical(
        np.float32(temperature), logits=logits.astype("float32")
    )
    edges = np.array([0.0, 0.25, 0.5, 0.75, 1.0])

    def cells(samples):
        first, second, _ = np.moveaxis(to_numpy(samples), -1, 0)
        rest = second / np.maximum(1 - first, 1e-30)
        counts, _, _ = np.histogram2d(first, rest, [edges, edges])
        return counts.ravel() / len(first)

    many = np.broadcast_to(logits.astype("float32"), (40_000, 3))
    ours = cells(gumbel_softmax(many, temperature, seed=1))
    peers = cells(theirs.sample(40_000, seed=(1, 2)))

    # 6 standard errors of a difference of two frequencies.
    error = 6 * np.sqrt(2 * peers * (1 - peers) / 40_000) + 1e-3
    exact = reference.concrete_bins(edges, logits, temperature).ravel()
    assert (np.abs(ours - peers) <= error).all()
    assert (np.abs(ours - exact) <= error).all()


# --- jaxpruner: jaxpruner/mask_calculator_test.py

SCORES = [
    [
        [0.69, 0.37, 0.96, 0.81],
        [0.79, 0.55, 0.88, 0.53],
        [0.66, 0.88, 0.40, 0.83],
        [0.13, 0.80, 0.91, 0.96],
    ],
    [
        [0.34, 0.17, 0.07, 0.74],
        [0.13, 0.13, 0.83, 0.76],
        [0.13, 0.92, 0.25, 0.75],
        [0.37, 0.42, 0.65, 0.46],
    ],
]
TIED = [1, 0.5, 0.3, 0.2, 1, 1.5, 1.8, 2.0, 1, 1]


@pytest.mark.parametrize(
    ("scores", "sparsity", "kept"),
    [
        (SCORES, 0.8, [2, 6, 9, 14, 15, 25]),
        ([1] * 8, 0.5, [0, 1, 2, 3]),
        (TIED, 0.5, [0, 4, 5, 6, 7]),
        ([TIED, TIED], 0.5, [0, 4, 5, 6, 7, 8, 9, 15, 16, 17]),
    ],
)
def test_top_k_of_jaxpruner(scores, sparsity, kept):
    scores = np.array(scores, "float32")

    mask = to_numpy(top_k_mask(scores, (1 - sparsity) * scores.size))

    np.testing.assert_array_equal(np.flatnonzero(mask), kept)


@pytest.mark.parametrize(
    ("axis", "kept"),
    [
        (2, "0011 1010 0101 0011 1001 0011 0101 0011"),
        (1, "1010 1000 0101 0111 1000 0011 0101 1110"),
    ],
)
def test_two_of_four_of_jaxpruner(axis, kept):
    mask = top_of_rows(ops.convert_to_tensor(np.array(SCORES, "f")), 2, axis)

    expected = [int(bit) for bit in kept.replace(" ", "")]
    np.testing.assert_array_equal(to_numpy(mask).ravel(), expected)


# --- TFMOT 0.8, `PolynomialDecay`: pruning_schedule_test.py


def test_polynomial_decay_of_tfmot():
    # Sparsity 0.2 to 0.8 from step 100 to step 110, with the power 3.
    schedule = CubicDensity(0.2, steps=110, initial=0.8, begin=100 / 110, end=1)

    sparsity = [1 - float(schedule(step)) for step in (0, 100, 102, 105, 110)]

    expected = [0.2, 0.2, 0.8 - 0.6 * 0.8**3, 0.8 - 0.6 * 0.5**3, 0.8]
    np.testing.assert_allclose(sparsity, expected, atol=1e-5)
