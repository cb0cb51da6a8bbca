import numpy as np
import pytest
from keras import ops
from scipy import stats

from keras_gumbel.ops import gumbel_top_k
from keras_gumbel.ops import soft_rank
from keras_gumbel.ops import soft_top_k
from tests import reference
from tests.cases import compiled_for
from tests.gradients import MODES
from tests.gradients import compiled
from tests.gradients import dtype_of
from tests.gradients import gradient
from tests.gradients import to_numpy

INF = np.inf
RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 7)).astype("float32")
WEIGHTS = RNG.normal(size=7).astype("float32")


def weighted(y):
    return ops.sum(y * ops.convert_to_tensor(WEIGHTS))


def ranks_of(values, temperature):
    """All pairs, in float64."""
    values = np.asarray(values, "float64")
    distance = (values[..., :, None] - values[..., None, :]) / temperature
    return 0.5 + stats.laplace.cdf(distance).sum(-1)


def slopes_of(function, x, step=1e-6):
    """Slopes of the weighted sum, by differences in float64."""
    x = np.asarray(x, "float64")
    slopes = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        change = np.zeros_like(x)
        change[index] = step
        difference = function(x + change) - function(x - change)
        slopes[index] = (difference * WEIGHTS).sum() / (2 * step)
    return slopes


# --- ranks


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("temperature", [0.01, 0.5, 10.0])
def test_soft_rank_is_the_sum_over_all_pairs(temperature, jit):
    run = compiled(lambda x: soft_rank(x, temperature), jit)

    ranks = to_numpy(run(ops.convert_to_tensor(X)))

    np.testing.assert_allclose(ranks, ranks_of(X, temperature), atol=2e-5)
    np.testing.assert_allclose(ranks.sum(-1), 28.0, rtol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 1000])
def test_soft_rank_of_every_length(n):
    values = np.random.default_rng(n).normal(size=(2, n)).astype("float32")

    ranks = to_numpy(soft_rank(values, 0.1))

    np.testing.assert_allclose(ranks, ranks_of(values, 0.1), rtol=1e-5)


def test_cold_ranks_are_those_of_scipy():
    values = RNG.integers(0, 4, size=(5, 7)).astype("float32")

    ranks = to_numpy(soft_rank(values, 1e-3))

    expected = stats.rankdata(values, axis=-1)  # ties share their mean
    np.testing.assert_array_equal(ranks, expected)


@pytest.mark.parametrize("jit", MODES[-1:])
def test_soft_rank_has_its_gradient(jit):
    temperature = np.full((6, 1), 0.7, "float32")

    def loss(x, t):
        return weighted(soft_rank(x, t))

    slopes, warmer = gradient(loss, X, temperature, jit=jit)

    expected = slopes_of(lambda x: ranks_of(x, 0.7), X)
    np.testing.assert_allclose(slopes, expected, rtol=1e-3, atol=1e-4)
    change = ranks_of(X, 0.7001) - ranks_of(X, 0.6999)
    np.testing.assert_allclose(
        warmer[:, 0], (change * WEIGHTS).sum(-1) / 2e-4, rtol=1e-2, atol=1e-3
    )


def test_ranks_of_equal_values_have_a_gradient():
    (slopes,) = gradient(lambda x: ops.sum(soft_rank(x)[:2]), np.zeros(4, "f"))

    # The density of Laplace at 0 is a half.
    np.testing.assert_allclose(slopes, [1.0, 1.0, -1.0, -1.0], atol=1e-6)


def test_soft_rank_ranks_along_an_axis():
    values = X.reshape(2, 3, 7)

    ranks = to_numpy(soft_rank(values.swapaxes(1, 2), 0.3, axis=1))

    np.testing.assert_allclose(
        ranks.swapaxes(1, 2), ranks_of(values, 0.3), atol=2e-5
    )


@pytest.mark.parametrize("temperature", [1e-15, 1.0, 1e30])
def test_soft_rank_of_harsh_values_is_finite(temperature):
    values = np.array([[INF, 1e30, -1e30, 0.0, INF, -INF, 0.0]], "float32")

    ranks = to_numpy(soft_rank(values, temperature))
    slopes = gradient(
        lambda x, t: weighted(soft_rank(x, t)),
        values,
        np.full((1, 1), temperature, "float32"),
        jit=True,
    )

    assert np.isfinite(ranks).all()
    assert all(np.isfinite(slope).all() for slope in slopes)
    if temperature < 1e30:
        expected = [[6.5, 5.0, 2.0, 3.5, 6.5, 1.0, 3.5]]
        np.testing.assert_allclose(ranks, expected, atol=1e-5)


def test_nan_stays_in_its_row():
    values = X.copy()
    values[1, 2] = np.nan

    for function in (soft_rank, lambda x: soft_top_k(x, 2)):
        found = to_numpy(function(values))

        assert np.isnan(found[1]).all()
        assert np.isfinite(found[[0, 2, 3, 4, 5]]).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_ranks_have_the_dtype_of_the_values(dtype):
    values = ops.cast(X, dtype)

    for found in (soft_rank(values), soft_top_k(values, 2)):
        assert dtype_of(found) == dtype
        assert np.isfinite(to_numpy(found)).all()


# --- the k largest


def top_of(values, k, temperature):
    """The projection with the sum k, found by bisection in float64."""
    z = np.asarray(values, "float64") / temperature
    low = z.min(-1, keepdims=True) - 1
    high = z.max(-1, keepdims=True)
    for _ in range(100):
        middle = 0.5 * (low + high)
        much = np.clip(z - middle, 0, 1).sum(-1, keepdims=True) > k
        low, high = np.where(much, middle, low), np.where(much, high, middle)
    return np.clip(z - high, 0, 1)


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("k", compiled_for([3], [1, 3, 7]))
@pytest.mark.parametrize(
    "temperature", compiled_for([0.01, 10.0], [0.01, 1.0, 10.0])
)
def test_soft_top_k_is_the_projection(temperature, k, jit):
    run = compiled(lambda x: soft_top_k(x, k, temperature), jit)

    p = to_numpy(run(ops.convert_to_tensor(X)))

    np.testing.assert_allclose(p, top_of(X, k, temperature), atol=1e-5)
    np.testing.assert_allclose(p.sum(-1), k, rtol=2e-6)


def test_soft_top_k_of_one_is_sparsemax():
    # The projection onto the simplex is that onto sum 1, s >= 0.
    p = to_numpy(soft_top_k(X, 1))

    expected = [reference.project_exactly(row + 10.0, 1)[0] for row in X]
    np.testing.assert_allclose(p, expected, atol=1e-6)


@pytest.mark.parametrize("jit", MODES[-1:])
def test_soft_top_k_has_its_gradient(jit):
    temperature = np.full((6, 1), 1.5, "float32")

    def loss(x, t):
        return weighted(soft_top_k(x, 3, t))

    slopes, warmer = gradient(loss, X, temperature, jit=jit)

    expected = slopes_of(lambda x: top_of(x, 3, 1.5), X)
    np.testing.assert_allclose(slopes, expected, atol=1e-5)
    change = top_of(X, 3, 1.50001) - top_of(X, 3, 1.49999)
    np.testing.assert_allclose(
        warmer[:, 0], (change * WEIGHTS).sum(-1) / 2e-5, atol=1e-4
    )


def test_hard_top_k_has_the_gradient_of_the_soft_one():
    value = to_numpy(soft_top_k(X, 3, 2.0, hard=True))
    (hard,), (soft,) = (
        gradient(lambda x, h=h: weighted(soft_top_k(x, 3, 2.0, hard=h)), X)
        for h in (True, False)
    )

    np.testing.assert_array_equal(
        value, to_numpy(gumbel_top_k(X, 3, noise=0.0))
    )
    np.testing.assert_array_equal(hard, soft)
    assert soft.any()


@pytest.mark.parametrize("hard", [False, True])
def test_forbidden_items_are_never_chosen(hard):
    rows = [[1.0, 2.0, 0.5, -INF], [-INF, 3.0, -INF, -INF], [-INF] * 4]
    mask = np.array([True, True, False, True])

    p = to_numpy(soft_top_k(np.array(rows, "f"), 2, 0.1, hard))
    masked = to_numpy(soft_top_k(np.array(rows, "f"), 2, 0.1, hard, mask=mask))

    expected = [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    for found in (p, masked):
        np.testing.assert_allclose(found, expected, atol=3e-6)
        assert (found[..., 2:] == 0).all()


@pytest.mark.parametrize("temperature", [1e-15, 1.0, 1e30])
def test_soft_top_k_of_harsh_values_is_finite(temperature):
    values = np.array([[INF, 1e30, -1e30, 0.0, 1e30, -INF, 0.0]], "float32")

    p = to_numpy(soft_top_k(values, 3, temperature))
    slopes = gradient(
        lambda x, t: weighted(soft_top_k(x, 3, t)),
        values,
        np.full((1, 1), temperature, "float32"),
        jit=True,
    )

    np.testing.assert_allclose(p.sum(), 3.0, rtol=1e-5)
    assert all(np.isfinite(slope).all() for slope in slopes)
    if temperature < 1e30:
        expected = [[1, 1, 0, 0, 1, 0, 0]]
        np.testing.assert_allclose(p, expected, atol=1e-6)


def test_soft_top_k_chooses_along_an_axis():
    values = X.reshape(2, 3, 7)
    temperature = np.array([[[0.5]], [[2.0]]], "float32")

    p = to_numpy(soft_top_k(values.swapaxes(1, 2), 2, temperature, axis=1))

    expected = [top_of(v, 2, t) for v, t in zip(values, (0.5, 2), strict=True)]
    np.testing.assert_allclose(p.swapaxes(1, 2), expected, atol=1e-5)


@pytest.mark.parametrize("jit", MODES)
def test_no_rows_give_no_ranks(jit):
    for function in (soft_rank, lambda x: soft_top_k(x, 2)):
        assert tuple(compiled(function, jit)(ops.zeros((0, 4))).shape) == (0, 4)


@pytest.mark.parametrize("k", [0, 8, 1.5, True])
def test_number_of_items_must_fit(k):
    with pytest.raises(ValueError, match="`k` of `soft_top_k`"):
        soft_top_k(X, k)


@pytest.mark.parametrize(
    "temperature", [0.0, -1.0, np.nan, np.ones(7), np.ones((5, 1))]
)
@pytest.mark.parametrize(
    "function", [soft_rank, lambda x, t: soft_top_k(x, 2, t)]
)
def test_temperature_must_be_one_a_row(function, temperature):
    with pytest.raises(ValueError, match="`temperature` of `soft_"):
        function(X, temperature)
