"""One group of tests per equation of the note (see README).

Eqs. (17), (20)-(21) and (28) are checked where layers, optimizer and models
are: `docs/note.md` names the tests.
"""

import math

import numpy as np
import pytest
from keras import ops
from scipy import integrate
from scipy import special
from scipy import stats

from keras_gumbel import random
from keras_gumbel.layers import ConcreteMask
from keras_gumbel.ops import gumbel_max
from keras_gumbel.ops import gumbel_softmax
from keras_gumbel.ops import project_capped_box
from keras_gumbel.ops import relaxed_bernoulli
from tests import reference
from tests.gradients import gradient
from tests.gradients import to_numpy
from tests.statistics import require_distribution
from tests.statistics import require_frequencies
from tests.statistics import require_mean

# TensorFlow Probability compares versions with a class that is deprecated.
pytestmark = pytest.mark.filterwarnings(
    "ignore:distutils Version classes:DeprecationWarning"
)

DRAWS = 200_000
LOGITS = np.array([0.3, -0.5, 1.0], "float32")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 3)).astype("float32")
Z = RNG.gumbel(size=(50, 3)).astype("float32")


def tensor(values):
    return ops.convert_to_tensor(np.asarray(values, "float32"))


def many(row):
    return tensor(np.broadcast_to(row, (DRAWS, np.size(row))))


def counts_of(indices, classes):
    return np.bincount(to_numpy(indices).astype(int), minlength=classes)


def test_eq_01_gradient_of_an_expectation():
    difference, temperature = 0.8, 0.7
    z = to_numpy(random.gumbel((DRAWS, 2), seed=14)).astype("float32")

    def loss(x):
        y = gumbel_softmax(x, temperature, noise=tensor(z))
        return ops.sum((y[:, 1] - 0.2) ** 3)

    (slopes,) = gradient(loss, many([0.0, difference]))

    # With two classes y_1 is the sigmoid of a logistic variable (Eq. 24).
    def expectation(difference):
        return integrate.quad(
            lambda e: (
                (special.expit((difference + e) / temperature) - 0.2) ** 3
                * stats.logistic.pdf(e)
            ),
            -40,
            40,
            epsabs=1e-12,
        )[0]

    step = 1e-4
    rise = expectation(difference + step) - expectation(difference - step)
    require_mean(slopes[:, 1], rise / (2 * step))
    require_mean(slopes[:, 0], -rise / (2 * step))


@pytest.mark.parametrize(("mode", "scale"), [(0.0, 1.0), (-1.5, 2.0)])
def test_eq_02_03_gumbel_distribution(mode, scale):
    z = to_numpy(random.gumbel((DRAWS,), seed=1))

    x = mode + scale * z

    def cdf(x):
        return reference.gumbel_cdf(x, mode, scale)

    require_distribution(x, cdf)
    require_distribution(x, stats.gumbel_r(mode, scale).cdf)
    points = np.linspace(-3, 8)
    slope = (cdf(points + 1e-6) - cdf(points - 1e-6)) / 2e-6
    density = stats.gumbel_r(mode, scale).pdf(points)
    np.testing.assert_allclose(slope, density, atol=1e-9)


@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_eq_04_14_categorical_probabilities(shift):
    expected = special.softmax(LOGITS.astype("float64"))

    drawn = gumbel_max(many(LOGITS + shift), seed=2)

    np.testing.assert_allclose(reference.softmax(LOGITS), expected)
    require_frequencies(counts_of(drawn, 3), expected)


def test_eq_05_argmax_of_the_perturbed_logits():
    y = gumbel_max(tensor(X), noise=tensor(Z))

    assert (to_numpy(y) == np.argmax(X + Z, axis=-1)).all()


def _chances(k):
    """Perturbed logits, and P(k wins | r_k) of Eq. (6) for each."""
    r = LOGITS + to_numpy(random.gumbel((DRAWS, 3), seed=15))
    others = np.delete(LOGITS, k)
    return r, reference.gumbel_cdf(r[:, [k]] - others).prod(-1)


@pytest.mark.parametrize("k", [0, 1, 2])
def test_eq_06_chance_to_win_given_the_perturbed_logit(k):
    r, chances = _chances(k)

    wins = to_numpy(gumbel_max(tensor(r), noise=0.0 * tensor(r))) == k
    for low, high in [(-np.inf, 0), (0, 1), (1, 2), (2, np.inf)]:
        here = (low < r[:, k]) & (r[:, k] <= high)
        require_mean((wins - chances)[here], 0)


@pytest.mark.parametrize("k", [0, 1, 2])
def test_eq_07_13_chances_average_to_the_softmax(k):
    _, chances = _chances(k)

    require_mean(chances, special.softmax(LOGITS.astype("float64"))[k])


@pytest.mark.parametrize("temperature", [0.05, 2 / 3, 10.0])
def test_eq_05_14_relaxed_samples_keep_the_argmax(temperature):
    y = gumbel_softmax(many(LOGITS), temperature, seed=3)

    counts = counts_of(ops.argmax(y, axis=-1), 3)
    require_frequencies(counts, special.softmax(LOGITS.astype("float64")))


@pytest.mark.parametrize("temperature", [0.1, 2 / 3, 4.0])
def test_eq_15_value(temperature):
    y = gumbel_softmax(tensor(X), temperature, noise=tensor(Z))

    expected = special.softmax((X.astype("float64") + Z) / temperature, -1)
    np.testing.assert_allclose(to_numpy(y), expected, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(to_numpy(y).sum(-1), 1, rtol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_eq_15_density(temperature):
    edges = [0.0, 0.1, 0.3, 0.6, 1.0]
    expected = reference.concrete_bins(edges, LOGITS, temperature)

    y = to_numpy(gumbel_softmax(many(LOGITS), temperature, seed=4))

    first, second = y[:, 0], y[:, 1] / (y[:, 1] + y[:, 2])
    counts, _, _ = np.histogram2d(first, second, bins=[edges, edges])
    assert expected.sum() == pytest.approx(1, abs=1e-4)
    require_frequencies(counts, expected / expected.sum())


@pytest.mark.parametrize("wrong", [0.95, 1.05])
def test_eq_15_density_catches_a_wrong_temperature(wrong):
    edges = [0.0, 0.1, 0.3, 0.6, 1.0]
    expected = reference.concrete_bins(edges, LOGITS, 1.0)

    y = to_numpy(gumbel_softmax(many(LOGITS), wrong, seed=4))

    first, second = y[:, 0], y[:, 1] / (y[:, 1] + y[:, 2])
    counts, _, _ = np.histogram2d(first, second, bins=[edges, edges])
    with pytest.raises(AssertionError, match="chi-square"):
        require_frequencies(counts, expected / expected.sum())


def test_eq_15_becomes_the_categorical_as_the_temperature_falls():
    y = to_numpy(gumbel_softmax(tensor(X), 1e-4, noise=tensor(Z)))

    expected = np.eye(3)[np.argmax(X + Z, axis=-1)]
    np.testing.assert_allclose(y, expected, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.1, 2 / 3, 4.0])
def test_eq_16_value_of_the_argmax(temperature):
    y = gumbel_softmax(tensor(X), temperature, hard=True, noise=tensor(Z))

    assert (to_numpy(y) == np.eye(3)[np.argmax(X + Z, axis=-1)]).all()


@pytest.mark.parametrize("temperature", [0.1, 2 / 3, 4.0])
def test_eq_16_gradient_of_the_relaxation(temperature):
    weights = RNG.normal(size=(50, 3)).astype("float32")

    def loss(x, t, hard):
        y = gumbel_softmax(x, t, hard=hard, noise=tensor(Z))
        return ops.sum(y * tensor(weights))

    t = np.full((50, 1), temperature, "float32")
    hard = gradient(lambda x, t: loss(x, t, True), X, t)
    soft = gradient(lambda x, t: loss(x, t, False), X, t)

    perturbed = X.astype("float64") + Z
    analytic = reference.softmax_slopes(perturbed, t, weights)
    for one, other, right in zip(hard, soft, analytic, strict=True):
        assert (one == other).all()
        np.testing.assert_allclose(one, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("s", [0.02, 0.5, 0.9])
def test_eq_18_hard_masks_are_bernoulli(s):
    m = relaxed_bernoulli(tensor(np.full(DRAWS, s)), hard=True, seed=5)

    kept = to_numpy(m).sum()
    require_frequencies([kept, DRAWS - kept], [s, 1 - s])


def test_eq_18_19_masks_are_independent_and_keep_sum_s():
    s = np.tile([0.05, 0.3, 0.6, 0.95], 10).astype("float32")
    gate = ConcreteMask(axis=(0, 1), hard=True, seed=6)
    gate.build((5000, 40))
    gate.mask_scores.assign(np.broadcast_to(s, (5000, 40)))

    masks = to_numpy(gate.draw(training=True))

    assert np.isin(masks, [0, 1]).all()
    kept = masks.sum(1)
    require_mean(kept, s.sum())
    require_mean((kept - s.sum()) ** 2, (s * (1 - s)).sum())


def test_eq_22_24_two_classes_are_a_sigmoid():
    y = gumbel_softmax(tensor(X[:, :2]), 0.7, noise=tensor(Z[:, :2]))

    x, z = X[:, :2].astype("float64"), Z[:, :2]
    expected = special.expit((np.diff(x) + np.diff(z)) / 0.7)
    np.testing.assert_allclose(to_numpy(y)[:, 1:], expected, rtol=1e-5)


@pytest.mark.parametrize("hard", [False, True])
def test_eq_22_25_26_the_mask_is_the_second_of_two_classes(hard):
    s = RNG.uniform(0.01, 0.99, size=50).astype("float32")
    logits = np.log(np.stack([1 - s, s], axis=-1))
    z = Z[:, :2]

    y = gumbel_softmax(tensor(logits), 0.7, hard, noise=tensor(z))
    m = relaxed_bernoulli(tensor(s), 0.7, hard, noise=tensor(z[:, 1] - z[:, 0]))

    right = special.expit((special.logit(s) + z[:, 1] - z[:, 0]) / 0.7)
    right = right > 0.5 if hard else right
    np.testing.assert_allclose(to_numpy(m), to_numpy(y)[:, 1], rtol=1e-5)
    np.testing.assert_allclose(to_numpy(m), right, rtol=1e-5)


def test_eq_25_26_the_difference_of_two_gumbels_is_logistic():
    z = to_numpy(random.gumbel((DRAWS, 3), seed=7))
    e = to_numpy(random.logistic((DRAWS,), seed=8))

    for sample in (z[:, 1] - z[:, 0], e):
        require_distribution(sample, reference.logistic_cdf)
        require_distribution(sample, stats.logistic.cdf)


@pytest.mark.parametrize(
    ("s", "temperature"), [(0.05, 0.3), (0.5, 2 / 3), (0.8, 1.0), (0.8, 3.0)]
)
def test_eq_26_distribution(s, temperature):
    m = relaxed_bernoulli(tensor(np.full(DRAWS, s)), temperature, seed=9)

    # The few samples that round to 0 or 1 have left the open interval.
    m = np.clip(to_numpy(m), 1e-30, 1 - 2**-25)
    require_distribution(
        m, lambda m: reference.binary_concrete_cdf(m, s, temperature)
    )


def test_eq_26_layer_applies_the_mask():
    gate = ConcreteMask(temperature=0.7, seed=10)
    gate.build((None, DRAWS))
    gate.mask_scores.assign(np.full(DRAWS, 0.3))

    y = to_numpy(gate(2 * ops.ones((2, DRAWS)), training=True))

    assert (y[0] == y[1]).all()
    m = np.clip(y[0] / 2, 1e-30, 1 - 2**-25)
    require_distribution(
        m, lambda m: reference.binary_concrete_cdf(m, 0.3, 0.7)
    )


def test_eq_27_gradient_in_weights_and_scores():
    w, s = X[:, 0], RNG.uniform(0.1, 0.9, size=50).astype("float32")
    noise = RNG.logistic(size=50).astype("float32")

    def loss(w, s):
        m = relaxed_bernoulli(s, 0.7, noise=tensor(noise))
        return ops.sum((w * m - 1.0) ** 2)

    in_w, in_s = gradient(loss, w, s)

    m = special.expit((special.logit(s.astype("float64")) + noise) / 0.7)
    slope = 2 * (w * m - 1)
    np.testing.assert_allclose(in_w, slope * m, rtol=1e-4, atol=1e-5)
    dm_ds = m * (1 - m) / (0.7 * s * (1 - s))
    np.testing.assert_allclose(in_s, slope * w * dm_ds, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("budget", [0, 1, 2.5, 10, 30, 50, 60])
def test_eq_29_projection_is_in_the_set(budget):
    s = to_numpy(project_capped_box(tensor(2 * X[:, 0] + 0.5), budget))

    assert s.min() >= 0
    assert s.max() <= 1
    assert math.fsum(s) <= budget


@pytest.mark.parametrize("budget", [1, 2.5, 10, 60])
def test_eq_30_projection_is_the_nearest_point_of_the_set(budget):
    z = 2 * X[:, 0].astype("float64") + 0.5

    s = to_numpy(project_capped_box(tensor(z), budget))

    # Nearest on a convex set: no other point lies at an acute angle.
    others = RNG.random((1000, 50)) ** RNG.uniform(0.2, 5, (1000, 1))
    others *= np.minimum(1, budget / others.sum(-1, keepdims=True))
    assert ((others - s) @ (z - s) <= 1e-4).all()
    exact, _ = reference.project_exactly(np.float32(z), budget)
    np.testing.assert_allclose(s, exact, atol=1e-5)


@pytest.mark.parametrize("budget", [0.1, 1, 2.5, 10, 20, 60])
def test_eq_31_33_kkt_conditions(budget):
    z = 2 * X[:, 0] + np.float32(0.5)

    s = to_numpy(project_capped_box(tensor(z), budget))

    inside = (s > 0) & (s < 1)
    shift = (z - s)[inside].mean()
    shift = 0.0 if np.clip(z, 0, 1).sum() <= budget else shift
    alpha = np.where(s == 0, s - z + shift, 0.0)
    beta = np.where(s == 1, z - s - shift, 0.0)
    # Eq. (32), with multipliers that are not negative.
    np.testing.assert_allclose(s, z - shift + alpha - beta, atol=1e-6)
    assert shift >= 0
    assert alpha.min() >= -1e-6
    assert beta.min() >= -1e-6
    # Eq. (33): complementary slackness.
    assert (alpha * s == 0).all()
    assert (beta * (s - 1) == 0).all()
    assert abs(shift * (s.sum() - budget)) <= 2e-6 * budget * (1 + shift)


@pytest.mark.backends("tensorflow")
def test_eq_02_gumbel_is_the_one_of_tensorflow_probability():
    import tensorflow_probability as tfp

    z = to_numpy(random.gumbel((DRAWS,), seed=11))

    theirs = tfp.distributions.Gumbel(np.float64(0), np.float64(1))
    require_distribution(z, lambda z: theirs.cdf(z).numpy())


@pytest.mark.backends("tensorflow")
def test_eq_26_logistic_is_the_one_of_tensorflow_probability():
    import tensorflow_probability as tfp

    e = to_numpy(random.logistic((DRAWS,), seed=12))

    theirs = tfp.distributions.Logistic(np.float64(0), np.float64(1))
    require_distribution(e, lambda e: theirs.cdf(e).numpy())


@pytest.mark.backends("tensorflow")
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_eq_15_value_is_the_one_of_tensorflow_probability(
    temperature, monkeypatch
):
    import tensorflow_probability as tfp
    from tensorflow_probability.python.internal import samplers

    u = RNG.random((50, 3)).astype("float32")
    monkeypatch.setattr(samplers, "uniform", lambda *_, **__: tensor(u[None]))

    theirs = tfp.distributions.RelaxedOneHotCategorical(temperature, X).sample()
    ours = gumbel_softmax(
        tensor(X), temperature, noise=tensor(-np.log(-np.log(u)))
    )

    np.testing.assert_allclose(to_numpy(ours), theirs, rtol=2e-5, atol=1e-7)


@pytest.mark.backends("tensorflow")
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_eq_15_density_is_the_one_of_tensorflow_probability(temperature):
    import tensorflow_probability as tfp

    y = to_numpy(gumbel_softmax(tensor(X), temperature, noise=tensor(Z)))
    y = (y + 1e-3) / (y + 1e-3).sum(-1, keepdims=True)

    theirs = tfp.distributions.RelaxedOneHotCategorical(
        np.float64(temperature), LOGITS.astype("float64")
    ).prob(y)

    ours = reference.concrete_density(y, LOGITS, temperature)
    np.testing.assert_allclose(ours, theirs, rtol=1e-8)


@pytest.mark.backends("tensorflow")
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_eq_26_value_is_the_one_of_tensorflow_probability(
    temperature, monkeypatch
):
    import tensorflow_probability as tfp
    from tensorflow_probability.python.internal import samplers

    s = RNG.uniform(0.01, 0.99, size=50).astype("float32")
    u = RNG.random(50).astype("float32")
    monkeypatch.setattr(samplers, "uniform", lambda *_, **__: tensor(u[None]))

    theirs = tfp.distributions.RelaxedBernoulli(temperature, probs=s).sample()
    ours = relaxed_bernoulli(
        tensor(s), temperature, noise=tensor(np.log(u) - np.log1p(-u))
    )

    np.testing.assert_allclose(to_numpy(ours), theirs, rtol=2e-5, atol=1e-7)


@pytest.mark.backends("tensorflow")
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_eq_26_distribution_is_the_one_of_tensorflow_probability(temperature):
    import tensorflow_probability as tfp

    m = relaxed_bernoulli(tensor(np.full(DRAWS, 0.3)), temperature, seed=13)

    theirs = tfp.distributions.RelaxedBernoulli(
        np.float64(temperature), probs=np.float64(0.3)
    )
    m = np.clip(to_numpy(m), 1e-30, 1 - 2**-25)
    require_distribution(m, lambda m: theirs.cdf(m).numpy())
