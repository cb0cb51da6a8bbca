import functools
import itertools

import keras
import numpy as np
import pytest
from keras import ops
from scipy import optimize

from keras_gumbel.ops import gumbel_sinkhorn
from keras_gumbel.ops import matching
from keras_gumbel.ops import sinkhorn
from tests.cases import compiled_for
from tests.gradients import MODES
from tests.gradients import compiled
from tests.gradients import dtype_of
from tests.gradients import float64_allowed
from tests.gradients import gradient
from tests.gradients import to_numpy
from tests.statistics import require_frequencies

INF = np.inf
RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 4, 4)).astype("float32")
NOISE = RNG.gumbel(size=(6, 4, 4)).astype("float32")
WEIGHTS = RNG.normal(size=(4, 4)).astype("float32")
ITEMS = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 1, 1], [0] * 4], bool)
DTYPES = ["float32", "float16", "bfloat16"]

# Compiled, once for all calls of a kind.
run_matching = compiled(matching)


@functools.cache
def _in_one_piece(function, static, names):
    def call(x, *arrays):
        given = dict(zip(names, arrays, strict=True))
        return function(x, **dict(static), **given)

    return compiled(call)


def run(function, x, **options):
    arrays = {n: v for n, v in options.items() if isinstance(v, np.ndarray)}
    static = tuple((n, v) for n, v in options.items() if n not in arrays)
    call = _in_one_piece(function, static, tuple(arrays))
    return call(*map(ops.convert_to_tensor, (x, *arrays.values())))


def permutations(n):
    """All permutations of n items, as matrices."""
    return np.array(
        [np.eye(n)[list(p)] for p in itertools.permutations(range(n))]
    )


def require_permutations(found):
    assert set(np.unique(found)) <= {0.0, 1.0}
    assert (found.sum(-1) == 1).all()
    assert (found.sum(-2) == 1).all()


def require_doubly_stochastic(found, tolerance=1e-6):
    assert found.min() >= 0
    for axis in (-1, -2):
        np.testing.assert_allclose(found.sum(axis), 1.0, rtol=0, atol=tolerance)


def weighted(y):
    return ops.sum(y * ops.convert_to_tensor(WEIGHTS, y.dtype))


# --- the matching


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("n", range(1, 8))
def test_matching_is_the_best_of_all_permutations(n, jit):
    # Few values: most matrices have several best permutations.
    logits = np.random.default_rng(n).integers(-3, 4, size=(20, n, n))
    logits = logits.astype("float32")

    found = to_numpy(compiled(matching, jit)(ops.convert_to_tensor(logits)))

    require_permutations(found)
    best = np.einsum("pij,bij->bp", permutations(n), logits).max(-1)
    np.testing.assert_array_equal((found * logits).sum((-1, -2)), best)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_matching_of_many_items_is_that_of_scipy(scale):
    logits = np.random.default_rng(1).gumbel(size=(4, 64, 64)).astype("float32")

    found = to_numpy(run_matching(ops.convert_to_tensor(scale * logits)))

    for one, x in zip(found, logits, strict=True):
        rows, columns = optimize.linear_sum_assignment(x, maximize=True)
        np.testing.assert_array_equal(one[rows, columns], 1.0)
        assert one.sum() == 64


def test_matching_of_rows_is_not_enough():
    # What each row likes best, and what one row after another takes.
    logits = np.array([[3.0, 2.0, 0.0], [3.0, 0.0, 0.0], [2.0, 2.5, 0.0]])

    found = to_numpy(run(matching, logits))

    np.testing.assert_array_equal(found, np.eye(3)[[2, 0, 1]])


def test_matching_has_batch_axes():
    logits = X.reshape(2, 3, 4, 4)

    found = to_numpy(run_matching(ops.convert_to_tensor(logits)))

    expected = to_numpy(run_matching(ops.convert_to_tensor(X)))
    np.testing.assert_array_equal(found.reshape(6, 4, 4), expected)


def test_matching_avoids_forbidden_entries():
    logits = np.full((3, 3, 3), 5.0, "float32")
    logits[0, 0] = [-INF, 1.0, -INF]
    logits[1, :, 0] = [-INF, -INF, -1e30]
    logits[2] = -INF  # nothing else to take

    found = to_numpy(run(matching, logits))

    require_permutations(found)
    assert found[0, 0, 1] == found[1, 2, 0] == 1


def test_matching_of_huge_logits_is_a_permutation():
    logits = RNG.choice([1e30, -1e30, 3e38, -INF, 0.0], size=(20, 5, 5))

    require_permutations(to_numpy(run(matching, logits.astype("float32"))))


@pytest.mark.parametrize("bad", [np.nan, INF])
@pytest.mark.parametrize("function", [matching, sinkhorn])
def test_nan_stays_in_its_matrix(function, bad):
    logits = X.copy()
    logits[1, 2, 3] = bad

    found = to_numpy(run(function, logits))

    assert np.isnan(found[1]).all()
    assert np.isfinite(found[[0, 2, 3, 4, 5]]).all()


def test_matching_leaves_missing_items_where_they_are():
    found = to_numpy(run(matching, X[:4], mask=ITEMS))

    require_permutations(found)
    off = ~(ITEMS[:, None, :] & ITEMS[:, :, None])
    own = np.broadcast_to(np.eye(4), (4, 4, 4))
    np.testing.assert_array_equal(found[off], own[off])
    inner = X[1][np.ix_([0, 2, 3], [0, 2, 3])]
    np.testing.assert_array_equal(
        found[1][np.ix_([0, 2, 3], [0, 2, 3])], to_numpy(run(matching, inner))
    )


def test_matching_has_no_gradient():
    (slopes,) = gradient(lambda x: weighted(matching(x)), X)

    assert not slopes.any()


# --- the relaxation


def balanced_reference(logits, temperature, iterations=5000):
    """Sinkhorn's iterations in float64, to the end."""
    p = np.exp((logits - logits.max()).astype("float64") / temperature)
    for _ in range(iterations):
        p /= p.sum(-1, keepdims=True)
        p /= p.sum(-2, keepdims=True)
    return p


@pytest.mark.parametrize("temperature", [0.7, 1.0, 10.0])
def test_sinkhorn_converges_to_the_balanced_matrix(temperature):
    options = {"temperature": temperature, "num_iterations": 60}
    found = to_numpy(run(sinkhorn, X, **options))

    expected = np.array([balanced_reference(x, temperature) for x in X])
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_sinkhorn_of_two_items_is_a_sigmoid():
    logits = np.array([[0.3, -1.0], [0.5, 0.2]], "float32")

    found = to_numpy(sinkhorn(logits, 0.5))

    share = 1 / (1 + np.exp(-(0.3 + 0.2 + 1.0 - 0.5) / 1.0))
    expected = [[share, 1 - share], [1 - share, share]]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_iterations", [1, 20])
@pytest.mark.parametrize(
    "n",
    [
        1,
        pytest.param(2, marks=pytest.mark.one_backend),
        pytest.param(10, marks=pytest.mark.one_backend),
        100,
    ],
)
def test_sinkhorn_is_doubly_stochastic(n, num_iterations, dtype):
    logits = 3 * np.random.default_rng(n).gumbel(size=(4, n, n))
    logits = ops.cast(logits.astype("float32"), dtype)
    temperatures = np.array([1e-10, 0.05, 1.0, 1e10], "float32")

    found = run(
        sinkhorn,
        logits,
        temperature=temperatures.reshape(4, 1, 1),
        num_iterations=num_iterations,
    )

    assert dtype_of(found) == dtype
    require_doubly_stochastic(to_numpy(found))


@pytest.mark.parametrize("dtype", DTYPES)
def test_sinkhorn_in_half_precision_is_near_that_in_float32(dtype):
    logits = ops.cast(NOISE, dtype)

    found = to_numpy(run(sinkhorn, logits, temperature=0.5))

    wide = ops.cast(logits, "float32")
    expected = to_numpy(run(sinkhorn, wide, temperature=0.5))
    unit = {"float32": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    assert np.abs(found - expected).max() <= unit + 1e-6


def test_rounding_one_by_one_is_not_doubly_stochastic():
    found = ops.cast(run(sinkhorn, NOISE, temperature=0.5), "bfloat16")

    with pytest.raises(AssertionError):
        require_doubly_stochastic(to_numpy(found))


def test_sinkhorn_in_float64_is_exact():
    with float64_allowed():
        found = sinkhorn(ops.convert_to_tensor(X.astype("float64")), 9.0, 60)

        assert dtype_of(found) == "float64"
        expected = [balanced_reference(x, 9.0) for x in X]
        np.testing.assert_allclose(to_numpy(found), expected, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sinkhorn_leaves_missing_items_where_they_are(dtype):
    logits = ops.cast(3 * NOISE[:4], dtype)

    found = to_numpy(run(sinkhorn, logits, num_iterations=3, mask=ITEMS))

    require_doubly_stochastic(found)
    off = ~(ITEMS[:, None, :] & ITEMS[:, :, None])
    own = np.broadcast_to(np.eye(4), (4, 4, 4))
    np.testing.assert_array_equal(found[off], own[off])


def test_sinkhorn_tends_to_the_matching():
    best = np.eye(4)[[2, 0, 3, 1]]
    logits = (X + 5 * best).astype("float32")
    warm, cool = (
        to_numpy(run(sinkhorn, logits, temperature=t)) for t in (1.0, 0.1)
    )

    np.testing.assert_array_equal(to_numpy(run_matching(logits)), [best] * 6)
    assert np.abs(cool - best).max() < 0.02 < np.abs(warm - best).max()


def test_sinkhorn_iterations_matter():
    few, many = (
        to_numpy(run(sinkhorn, X, temperature=0.3, num_iterations=count))
        for count in (2, 30)
    )

    exact = np.array([balanced_reference(x, 0.3) for x in X])
    assert np.abs(many - exact).max() < 0.5 * np.abs(few - exact).max()


@pytest.mark.parametrize("jit", MODES[-1:])
def test_sinkhorn_has_the_gradient_of_its_limit(jit):
    def loss(x, t):
        return weighted(sinkhorn(x, t, num_iterations=30))

    temperature = np.full((1, 1, 1), 1.5, "float32")
    slopes, warmer = gradient(loss, X, temperature, jit=jit)

    def exact(x, t):
        return sum((WEIGHTS * balanced_reference(m, t, 300)).sum() for m in x)

    step, place = 1e-5, np.zeros_like(X, dtype="float64")
    for index in [(0, 0, 0), (1, 2, 3), (5, 3, 1)]:
        place[index] = step
        change = exact(X + place, 1.5) - exact(X - place, 1.5)
        np.testing.assert_allclose(
            slopes[index], change / (2 * step), rtol=2e-4, atol=1e-5
        )
        place[index] = 0.0
    change = exact(X, 1.5 + step) - exact(X, 1.5 - step)
    np.testing.assert_allclose(warmer.sum(), change / (2 * step), rtol=1e-3)


@pytest.mark.parametrize(
    "temperature", compiled_for([1e-15, 1e30], [1e-15, 1e-6, 1.0, 1e30])
)
def test_sinkhorn_of_harsh_logits_is_finite(temperature):
    rows = [[1e30, -1e30, 0.0], [1e4, -1e4, 1.0], [-INF, 0.0, 1e30]]
    logits = np.array([rows, np.full((3, 3), -INF), np.eye(3)], "float32")

    def loss(x, t):
        return ops.sum(sinkhorn(x, t) * ops.convert_to_tensor(WEIGHTS[:3, :3]))

    found = to_numpy(run(sinkhorn, logits, temperature=temperature))
    slopes = gradient(
        loss, logits, np.full((3, 1, 1), temperature, "float32"), jit=True
    )

    require_doubly_stochastic(found)
    assert all(np.isfinite(slope).all() for slope in slopes)


# --- samples


def test_hard_samples_of_equal_logits_are_uniform():
    drawn = to_numpy(
        compiled(lambda x: gumbel_sinkhorn(x, hard=True, seed=1))(
            ops.zeros((20_000, 3, 3))
        )
    )

    require_permutations(drawn)
    counts = [(drawn == p).all((-1, -2)).sum() for p in permutations(3)]
    require_frequencies(counts, np.full(6, 1 / 6))


def sample_two(logits):
    logits = np.broadcast_to(np.float32(logits), (50_000, 2, 2))
    draw = compiled(lambda x: gumbel_sinkhorn(x, hard=True, seed=1))
    kept = to_numpy(draw(ops.convert_to_tensor(logits)))[:, 0, 0].sum()
    return kept, len(logits) - kept


def sum_of_two_logistics_cdf(t):
    return np.exp(t) * (np.exp(t) - 1 - t) / (np.exp(t) - 1) ** 2


def test_hard_samples_of_two_items_have_their_rates():
    # Kept if the sum of two logistic variables is at least -t.
    logits = [[0.4, 0.1], [-0.3, 0.8]]
    t = 0.4 + 0.8 - 0.1 + 0.3

    counts = sample_two(logits)

    kept = sum_of_two_logistics_cdf(t)
    require_frequencies(counts, [kept, 1 - kept])
    kept = 1 / (1 + np.exp(-t))  # one logistic variable
    with pytest.raises(AssertionError, match="chi-square"):
        require_frequencies(counts, [kept, 1 - kept])


@pytest.mark.parametrize("dtype", DTYPES)
def test_hard_sample_has_the_gradient_of_the_soft_one(dtype):
    logits = ops.cast(X, dtype)

    def loss(hard):
        return lambda x: weighted(
            ops.cast(gumbel_sinkhorn(x, 0.5, hard, 10, noise=NOISE), "float32")
        )

    (soft,), (hard,) = (gradient(loss(h), logits) for h in (False, True))

    np.testing.assert_array_equal(hard, soft)
    assert soft.any()
    value = to_numpy(gumbel_sinkhorn(logits, 0.5, True, 10, noise=NOISE))
    require_permutations(value)
    perturbed = to_numpy(logits).astype("float32") + NOISE
    np.testing.assert_array_equal(value, to_numpy(run_matching(perturbed)))


def test_soft_sample_is_sinkhorn_of_perturbed_logits():
    found = to_numpy(run(gumbel_sinkhorn, X, temperature=0.5, noise=NOISE))

    expected = to_numpy(run(sinkhorn, X + NOISE, temperature=0.5))
    np.testing.assert_array_equal(found, expected)


def test_seeds_make_samples():
    one, same, other = (
        to_numpy(run(gumbel_sinkhorn, X, seed=seed)) for seed in (1, 1, 2)
    )

    np.testing.assert_array_equal(one, same)
    assert (one != other).all()


def seeded(x):
    return gumbel_sinkhorn(x, seed=1)


@pytest.mark.parametrize("jit", MODES)
def test_no_matrices_give_no_matrices(jit):
    for function in (matching, sinkhorn, seeded):
        y = compiled(function, jit)(ops.zeros((0, 3, 3)))

        assert tuple(y.shape) == (0, 3, 3)


@pytest.mark.backends("jax")
def test_vectorized_matching_is_that_of_each():
    import jax

    found = jax.vmap(matching)(X)

    np.testing.assert_array_equal(found, matching(X))


@pytest.mark.backends("tensorflow")
def test_matching_of_a_batch_of_unknown_size():
    import tensorflow as tf

    traced = tf.function(
        lambda x: gumbel_sinkhorn(x, 0.5, True, noise=0.0),
        input_signature=[tf.TensorSpec((None, 4, 4))],
    )

    np.testing.assert_array_equal(traced(X), matching(X))


@pytest.mark.parametrize("function", [matching, sinkhorn, gumbel_sinkhorn])
@pytest.mark.parametrize("shape", [(3,), (2, 3), (0, 0), (3, 2, 4)])
def test_logits_must_be_square_matrices(function, shape):
    with pytest.raises(ValueError, match="`logits` of .*square matrices"):
        function(np.zeros(shape, "float32"))


@pytest.mark.parametrize("function", [matching, sinkhorn, gumbel_sinkhorn])
def test_mask_must_be_one_of_items(function):
    with pytest.raises(ValueError, match="`mask` of .*broadcastable to the it"):
        function(X, mask=np.ones((6, 4, 4), bool))


@pytest.mark.parametrize("function", [sinkhorn, gumbel_sinkhorn])
@pytest.mark.parametrize("count", [0, -1, 1.5, None, True])
def test_iterations_must_be_a_positive_integer(function, count):
    with pytest.raises(ValueError, match="`num_iterations` of .*positive int"):
        function(X, num_iterations=count)


@pytest.mark.parametrize("function", [sinkhorn, gumbel_sinkhorn])
@pytest.mark.parametrize("temperature", [0.0, -1.0, np.ones((4, 4))])
def test_temperature_must_be_one_a_matrix(function, temperature):
    with pytest.raises(ValueError, match="`temperature` of"):
        function(X, temperature)


def test_functions_of_symbols_have_their_shape():
    for function in (matching, sinkhorn, seeded):
        symbol = keras.layers.Lambda(function)(keras.Input((4, 4)))

        assert symbol.shape == (None, 4, 4)
