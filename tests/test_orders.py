import itertools

import numpy as np
import pytest
from keras import ops
from scipy import special

from keras_gumbel.ops import gumbel_top_k
from keras_gumbel.ops import plackett_luce_log_prob
from keras_gumbel.ops import sample_without_replacement
from tests.gradients import MODES
from tests.gradients import compiled
from tests.gradients import dtype_of
from tests.gradients import gradient
from tests.gradients import to_numpy
from tests.statistics import require_frequencies
from tests.statistics import require_mean

INF = np.inf
RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 5)).astype("float32")
NOISE = RNG.gumbel(size=(6, 5)).astype("float32")
SKEWED = np.array([0.0, 0.5, -0.7, 1.2], "float32")
MANY = np.broadcast_to(SKEWED, (60_000, 4))


def log_probs_of(order, logits):
    """Log-probability of each draw after those before it, in float64."""
    left, found = np.asarray(logits, "float64").copy(), []
    for i in order:
        found.append(left[i] - special.logsumexp(left))
        left[i] = -INF
    return found


def orders(n, k):
    return list(itertools.permutations(range(n), k))


@pytest.mark.parametrize("jit", MODES)
def test_orders_have_their_rates(jit):
    draw = compiled(lambda x: sample_without_replacement(x, 2, seed=1), jit)

    indices, _ = map(to_numpy, draw(ops.convert_to_tensor(MANY)))

    counts = [(indices == order).all(-1).sum() for order in orders(4, 2)]
    expected = [sum(log_probs_of(order, SKEWED)) for order in orders(4, 2)]
    require_frequencies(counts, np.exp(expected))


def test_rates_tell_draws_with_replacement_apart():
    shares = special.softmax(SKEWED.astype("float64"))
    wrong = [shares[i] * shares[j] for i, j in orders(4, 2)]
    indices, _ = sample_without_replacement(MANY, 2, seed=1)

    counts = [(to_numpy(indices) == o).all(-1).sum() for o in orders(4, 2)]

    with pytest.raises(AssertionError, match="chi-square"):
        require_frequencies(counts, np.array(wrong) / sum(wrong))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_indices_and_log_probs_are_those_of_the_perturbed_logits(k):
    indices, log_probs = sample_without_replacement(X, k, noise=NOISE)

    assert dtype_of(indices) == "int32"
    expected = np.argsort(-(X + NOISE), axis=-1)[:, :k]
    np.testing.assert_array_equal(to_numpy(indices), expected)
    expected = [log_probs_of(*row) for row in zip(expected, X, strict=True)]
    np.testing.assert_allclose(to_numpy(log_probs), expected, atol=1e-6)


def test_items_are_those_of_gumbel_top_k():
    indices, _ = sample_without_replacement(X, 3, noise=NOISE)

    k_hot = to_numpy(ops.sum(ops.one_hot(indices, 5), axis=1))
    np.testing.assert_array_equal(
        k_hot, to_numpy(gumbel_top_k(X, 3, noise=NOISE))
    )


@pytest.mark.parametrize("k", [1, 2, 4])
def test_log_probs_of_all_orders_sum_to_one(k):
    all_orders = np.array(orders(4, k), "int32")
    logits = np.broadcast_to(SKEWED, (len(all_orders), 4))

    log_p = to_numpy(plackett_luce_log_prob(all_orders, logits))

    expected = [sum(log_probs_of(order, SKEWED)) for order in all_orders]
    np.testing.assert_allclose(log_p, expected, atol=1e-6)
    np.testing.assert_allclose(np.exp(log_p).sum(), 1.0, rtol=1e-5)


def test_log_prob_is_the_sum_of_those_of_the_draws():
    logits = X.reshape(2, 3, 5).swapaxes(1, 2)
    indices, log_probs = sample_without_replacement(logits, 2, axis=1, seed=1)

    assert tuple(indices.shape) == tuple(log_probs.shape) == (2, 2, 3)
    log_p = plackett_luce_log_prob(indices, logits, axis=1)
    np.testing.assert_allclose(
        to_numpy(log_p), to_numpy(log_probs).sum(1), atol=1e-6
    )


@pytest.mark.parametrize("jit", MODES)
def test_log_prob_has_its_gradient(jit):
    indices = np.array([[2, 0, 4]] * 6, "int32")

    def loss(logits):
        return ops.sum(plackett_luce_log_prob(indices, logits))

    (slopes,) = gradient(loss, X, jit=jit)

    expected = np.zeros_like(slopes)
    for row, x in zip(expected, X.astype("float64"), strict=True):
        left = x.copy()
        for i in (2, 0, 4):
            row += np.eye(5)[i] - special.softmax(left)
            left[i] = -INF
    np.testing.assert_allclose(slopes, expected, atol=1e-6)


def test_score_of_samples_is_zero_on_average():
    def loss(logits):
        _, log_probs = sample_without_replacement(logits, 2, seed=1)
        return ops.sum(log_probs)

    (slopes,) = gradient(loss, MANY)

    for item in range(4):
        require_mean(slopes[:, item], 0.0)


def test_log_probs_lose_no_digits():
    # The first draw takes all but 1e-13 of the probability.
    logits = np.array([30.0, 0.0, -1.0, 1.0], "float32")

    log_p = plackett_luce_log_prob(np.array([0, 3, 1], "int32"), logits)

    expected = sum(log_probs_of([0, 3, 1], logits))
    np.testing.assert_allclose(float(log_p), expected, rtol=1e-6)


@pytest.mark.parametrize("jit", MODES[-1:])
def test_forbidden_items_come_last_without_a_gradient(jit):
    rows = [
        [0.3, -INF, 2.0, -INF, 1.0],
        [-INF] * 5,
        [1e30, -1e30, 0.0, 3e38, -INF],
        [-1e30, -1e38, -INF, -INF, 0.0],
    ]
    logits = np.array(rows, "float32")

    def draw(x):
        return sample_without_replacement(x, 4, seed=1)

    def loss(x):
        log_probs = draw(x)[1]
        return ops.sum(ops.where(log_probs > -INF, log_probs, 0.0))

    indices, log_probs = map(
        to_numpy, compiled(draw, jit)(ops.convert_to_tensor(logits))
    )
    (slopes,) = gradient(loss, logits, jit=jit)

    np.testing.assert_array_equal((log_probs > -INF).sum(-1), [3, 0, 4, 3])
    assert not np.isnan(log_probs).any()
    assert (log_probs <= 0).all()
    assert set(indices[0, :3]) == {0, 2, 4}
    assert all(len(set(row)) == 4 for row in indices)
    assert np.isfinite(slopes).all()
    assert not slopes[np.isinf(logits)].any()


def test_mask_forbids_items():
    mask = np.array([True, False, True, False, True])

    indices, _ = sample_without_replacement(X, 3, mask=mask, seed=1)
    log_p = plackett_luce_log_prob([[0, 1]] * 6, X, mask=mask)

    assert (np.sort(to_numpy(indices)) == [0, 2, 4]).all()
    assert (to_numpy(log_p) == -INF).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_log_probs_have_the_dtype_of_the_logits(dtype):
    logits = ops.cast(X, dtype)

    indices, log_probs = sample_without_replacement(logits, 2, seed=1)

    assert dtype_of(log_probs) == dtype
    assert dtype_of(plackett_luce_log_prob(indices, logits)) == dtype


@pytest.mark.parametrize("jit", MODES)
def test_no_rows_give_no_orders(jit):
    def draw(x):
        return sample_without_replacement(x, 2, seed=1)

    indices, log_probs = compiled(draw, jit)(ops.zeros((0, 4)))

    assert tuple(indices.shape) == tuple(log_probs.shape) == (0, 2)


@pytest.mark.parametrize("k", [0, 6, 1.5, True])
def test_number_of_draws_must_fit(k):
    with pytest.raises(ValueError, match="`k` of `sample_without_replacement`"):
        sample_without_replacement(X, k)


def test_indices_must_be_integers():
    with pytest.raises(
        TypeError, match="`indices` of `plackett_luce_log_prob`"
    ):
        plackett_luce_log_prob(np.zeros((6, 2), "float32"), X)


@pytest.mark.parametrize("shape", [(2,), (5, 2), (6, 1, 2)])
def test_indices_must_have_the_shape_of_the_logits(shape):
    with pytest.raises(
        ValueError, match="`indices` of `plackett_luce_log_prob`"
    ):
        plackett_luce_log_prob(np.zeros(shape, "int32"), X)


def test_no_items_have_the_probability_one():
    none = np.zeros((6, 0), "int32")

    log_p = plackett_luce_log_prob(none, X)
    (slopes,) = gradient(lambda x: ops.sum(plackett_luce_log_prob(none, x)), X)

    np.testing.assert_array_equal(to_numpy(log_p), np.zeros(6))
    np.testing.assert_array_equal(slopes, np.zeros_like(X))
