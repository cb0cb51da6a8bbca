import functools
import itertools

import keras
import numpy as np
import pytest
from keras import ops
from scipy import special

from keras_gumbel.ops import gumbel_max
from keras_gumbel.ops import gumbel_softmax
from keras_gumbel.ops._subsets import gumbel_top_k
from keras_gumbel.ops._subsets import relaxed_top_k
from keras_gumbel.ops._subsets import sample_subset
from keras_gumbel.ops._subsets import subset_marginals
from tests.gradients import MODES
from tests.gradients import compiled
from tests.gradients import dtype_of
from tests.gradients import float64_allowed
from tests.gradients import gradient
from tests.gradients import to_numpy
from tests.statistics import require_frequencies

INF = np.inf
HALF = ["float16", "bfloat16"]
FLOATS = ["float32", *HALF]

# Few shapes: JAX compiles every operation anew for each.
MANY = 100_000
RNG = np.random.default_rng(0)
NOISE = RNG.gumbel(size=(36, 5)).astype("float32")
LOGISTIC = RNG.logistic(size=(36, 5)).astype("float32")
X = RNG.normal(size=(36, 5)).astype("float32")
ALL = np.ones((36, 5), "bool")
WEIGHTS = np.array([1.0, -2.0, 0.5, 3.0, -0.3], "float32")
SKEWED = np.array([0.0, 0.5, -0.7, 1.2, -1.0], "float32")

# Every kind of row at every temperature.
ROWS = [
    [0.3, -1.2, 2.0, 0.7, 0.1],
    [1e4, -1e4, 9999.0, 0.0, 1e4],
    [1e30, -1e30, 1e30, 0.0, 1e30],
    [0.3, -INF, 2.0, -INF, 1.0],
    [-INF, -INF, 1.0, -INF, -1e30],
    [-INF, -INF, -INF, -INF, -INF],
]
TEMPERATURES = [1e-10, 1e-6, 0.1, 1.0, 1e2, 1e30]
GRID = list(itertools.product(ROWS, TEMPERATURES))
HARSH_X = np.array([row for row, _ in GRID], "float32")
HARSH_T = np.array([[t] for _, t in GRID], "float32")
HARSH_COUNT = np.minimum(3, np.isfinite(HARSH_X).sum(-1))


def tensor(values, dtype="float32"):
    return ops.cast(ops.convert_to_tensor(np.asarray(values, "float32")), dtype)


@functools.cache
def _in_one_piece(function, static, names):
    def call(x, *arrays):
        given = dict(zip(names, arrays, strict=True))
        return function(x, **dict(static), **given)

    return compiled(call, keras.config.backend() == "jax")


def run(function, x, **kwargs):
    """Calls a function: on JAX compiled, once for all calls of a kind."""
    arrays = {n: v for n, v in kwargs.items() if isinstance(v, np.ndarray)}
    static = tuple((n, v) for n, v in kwargs.items() if n not in arrays)
    call = _in_one_piece(function, static, tuple(arrays))
    x = tensor(x) if isinstance(x, np.ndarray) else x
    return to_numpy(call(x, *map(ops.convert_to_tensor, arrays.values())))


def many(logits):
    return np.broadcast_to(logits, (MANY, len(logits)))


def indicators(items, k):
    """Returns the k-hot vectors of all subsets, one a row."""
    subsets = list(itertools.combinations(range(items), k))
    rows = np.zeros((len(subsets), items))
    for row, subset in zip(rows, subsets, strict=True):
        row[list(subset)] = 1
    return rows


def conditional_bernoulli(logits, k):
    """Returns the probabilities of all subsets, by enumeration."""
    logits = np.maximum(np.asarray(logits, "float64"), -1e300)
    return special.softmax(indicators(len(logits), k) @ logits)


def plackett_luce(logits, k):
    """The same, for draws without replacement."""
    weights = np.exp(np.asarray(logits, "float64"))
    probabilities = []
    for row in indicators(len(logits), k):
        total = 0.0
        for order in itertools.permutations(np.flatnonzero(row)):
            drawn = weights[list(order)]
            left = weights.sum() - np.cumsum(drawn) + drawn
            total += np.prod(drawn / left)
        probabilities.append(total)
    return np.array(probabilities)


def marginals(logits, k):
    """Returns the enumerated inclusion probabilities of every row."""
    shares = [conditional_bernoulli(row, k) for row in logits]
    return np.array(shares) @ indicators(logits.shape[-1], k)


def subset_counts(drawn, k):
    rows = indicators(drawn.shape[-1], k)
    codes = 2 ** np.arange(drawn.shape[-1])
    counts = np.bincount((drawn @ codes).astype(int), minlength=2 ** len(codes))
    assert counts.sum() == counts[(rows @ codes).astype(int)].sum()
    return counts[(rows @ codes).astype(int)]


def k_largest(values, k, axis=-1):
    ranks = np.argsort(np.argsort(-values, axis=axis), axis=axis)
    return (ranks < k).astype("float64")


def relaxed_reference(scores, k, temperature):
    scores, soft = np.asarray(scores, "float64"), 0.0
    own = np.where(np.eye(scores.shape[-1]), -INF, 0.0)
    for _ in range(k):
        logits = scores / temperature
        total = special.logsumexp(logits, axis=-1, keepdims=True)
        soft = soft + np.exp(logits - total)
        others = special.logsumexp(logits[..., None, :] + own, axis=-1)
        scores = scores + others - total  # log(1 - a)
    return soft


def weighted(y):
    return ops.sum(y * ops.convert_to_tensor(WEIGHTS))


def top_sample(logits):
    return gumbel_top_k(logits, 3, noise=NOISE)


def relaxed_sample(logits, temperature):
    return relaxed_top_k(logits, 3, temperature, noise=NOISE)


def hard_relaxed_sample(logits, temperature):
    return relaxed_top_k(logits, 3, temperature, hard=True, noise=NOISE)


def marginals_of_3(logits):
    return subset_marginals(logits, 3)


def subset_sample(logits):
    return sample_subset(logits, 3, noise=LOGISTIC)


def relaxed_loss(logits, temperature):
    return weighted(relaxed_sample(logits, temperature))


def hard_relaxed_loss(logits, temperature):
    return weighted(hard_relaxed_sample(logits, temperature))


def marginals_loss(logits):
    return weighted(marginals_of_3(logits))


def subset_loss(logits):
    return weighted(subset_sample(logits))


# --- the distributions


def test_gumbel_top_k_draws_without_replacement():
    drawn = run(gumbel_top_k, many(SKEWED), k=3, seed=1)

    require_frequencies(subset_counts(drawn, 3), plackett_luce(SKEWED, 3))


@pytest.mark.parametrize("k", [1, 3])
def test_sample_subset_draws_the_conditional_bernoulli_distribution(k):
    drawn = run(sample_subset, many(SKEWED), k=k, seed=1)

    expected = conditional_bernoulli(SKEWED, k)
    require_frequencies(subset_counts(drawn, k), expected)


@pytest.mark.parametrize(
    ("sample", "probabilities"),
    [
        (gumbel_top_k, conditional_bernoulli),
        (sample_subset, plackett_luce),
    ],
)
def test_frequencies_tell_the_two_distributions_apart(sample, probabilities):
    drawn = run(sample, many(SKEWED), k=3, seed=1)

    with pytest.raises(AssertionError, match="chi-square"):
        require_frequencies(subset_counts(drawn, 3), probabilities(SKEWED, 3))


@pytest.mark.parametrize(
    ("sample", "probabilities"),
    [
        (gumbel_top_k, plackett_luce),
        (sample_subset, conditional_bernoulli),
    ],
)
def test_frequencies_catch_a_slightly_warmer_draw(sample, probabilities):
    drawn = run(sample, many(0.95 * SKEWED), k=3, seed=1)

    with pytest.raises(AssertionError, match="chi-square"):
        require_frequencies(subset_counts(drawn, 3), probabilities(SKEWED, 3))


@pytest.mark.parametrize(
    ("sample", "probabilities"),
    [
        (gumbel_top_k, plackett_luce),
        (sample_subset, conditional_bernoulli),
    ],
)
def test_subset_never_has_a_forbidden_item(sample, probabilities):
    allowed = np.array([True, True, True, False, True])
    expected = probabilities(np.where(allowed, SKEWED, -INF), 3)

    masked = run(sample, many(SKEWED), k=3, mask=allowed, seed=1)
    infinite = run(sample, many(np.where(allowed, SKEWED, -INF)), k=3, seed=1)

    require_frequencies(subset_counts(masked, 3), expected)
    assert (masked == infinite).all()


def test_subset_of_one_item_is_the_categorical_sample():
    drawn = run(gumbel_top_k, X, k=1, noise=NOISE)

    chosen = gumbel_max(tensor(X), noise=NOISE)
    assert (drawn.argmax(-1) == to_numpy(chosen)).all()


# --- k-hot values


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_hard_subset_is_exactly_k_hot(dtype, jit):
    # Fewer levels, because JAX compiles every operation of eager calls.
    x = tensor(np.resize(X, (MANY, 5)) if jit else X[:, :3], dtype)

    def samples(x):
        return [
            gumbel_top_k(x, 2, seed=1),
            relaxed_top_k(x, 2, 0.3, hard=True, seed=1),
            sample_subset(x, 2, seed=1),
        ]

    for y in compiled(samples, jit)(x):
        assert dtype_of(y) == dtype
        y = to_numpy(y)
        assert np.isin(y, [0, 1]).all()
        assert not np.signbit(y).any()
        assert (y.sum(-1) == 2).all()


@pytest.mark.parametrize("k", [1, 4, 5])
def test_gumbel_top_k_has_the_k_largest_sums(k):
    y = run(gumbel_top_k, X, k=k, noise=NOISE)

    assert (y == k_largest(X + NOISE, k)).all()


@pytest.mark.parametrize("temperature", [1e-6, 1.0, 1e30])
def test_hard_relaxed_top_k_is_gumbel_top_k(temperature):
    t = np.full((36, 1), temperature, "float32")

    y = run(hard_relaxed_sample, X, temperature=t)

    assert (y == run(top_sample, X)).all()


@pytest.mark.parametrize("jit", MODES)
def test_first_of_several_equals_is_drawn(jit):
    rows = [[0.0] * 5, [1, 2, 1, 1, 1], [-INF, 1, 0, 0, 0], [3, 2, 2, 2, 4]]
    expected = [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [1] * 2]
    expected[-1] = [1, 1, 0, 0, 1]
    sample = compiled(lambda x: gumbel_top_k(x, 3, noise=0.0), jit)

    y = to_numpy(sample(tensor(np.resize(rows, (36, 5)))))

    assert (y == np.resize(expected, (36, 5))).all()


def test_sample_subset_with_extreme_noise_fills_from_one_end():
    low = run(sample_subset, X, k=3, noise=np.full_like(X, -50))
    high = run(sample_subset, X, k=3, noise=np.full_like(X, 50))

    assert (low == (np.arange(5) >= 2)).all()
    assert (high == (np.arange(5) < 3)).all()


def test_sample_subset_follows_its_noise():
    noise = LOGISTIC.copy()
    noise[:, 0] = 50.0  # the only noise that no node needs

    other = run(sample_subset, X, k=3, noise=noise)

    assert (other == run(sample_subset, X, k=3, noise=LOGISTIC)).all()
    flipped = run(sample_subset, X, k=3, noise=-LOGISTIC)
    assert (other != flipped).any()


# --- marginals


@pytest.mark.parametrize("k", [2, 4])
def test_subset_marginals_are_the_enumerated_ones(k):
    p = run(subset_marginals, 3 * X, k=k)

    expected = marginals(3 * X, k)
    np.testing.assert_allclose(p, expected, rtol=2e-6)


def test_subset_marginals_for_one_item_are_the_softmax():
    p = run(subset_marginals, X, k=1)

    expected = special.softmax(X.astype("float64"), axis=-1)
    np.testing.assert_allclose(p, expected, rtol=1e-6)


def test_subset_marginals_of_many_items_lose_no_digits():
    p = run(subset_marginals, np.zeros((1, 200), "float32"), k=20)

    np.testing.assert_allclose(p, 0.1, rtol=2e-6)


def test_subset_marginals_in_float64_are_exact_to_float64():
    x = X.astype("float64")

    with float64_allowed():
        marginals_of_3 = _in_one_piece(subset_marginals, (("k", 3),), ())
        p = marginals_of_3(ops.convert_to_tensor(x))

    assert dtype_of(p) == "float64"
    np.testing.assert_allclose(to_numpy(p), marginals(x, 3), rtol=1e-13)


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("loss", [marginals_loss, subset_loss])
def test_gradient_of_marginals_is_the_covariance(loss, jit):
    (slopes,) = gradient(loss, X, jit=jit)

    rows = indicators(5, 3)
    shares = np.array([conditional_bernoulli(x, 3) for x in X])
    both = np.einsum("bs,si,sj->bij", shares, rows, rows)
    p = shares @ rows
    covariance = both - p[:, :, None] * p[:, None, :]
    np.testing.assert_allclose(slopes, covariance @ WEIGHTS, atol=2e-6)


@pytest.mark.parametrize("jit", MODES)
def test_marginals_are_right_under_harsh_conditions(jit):
    p = to_numpy(compiled(marginals_of_3, jit)(tensor(HARSH_X)))

    third = 2 / 3
    expected = [
        marginals(np.array(ROWS[:1]), 3)[0],
        [1, 0, 1, 0, 1],
        [1, 0, 1, 0, 1],
        [1, 0, 1, 0, 1],
        [0, 0, 1, 0, 1],
        [0, 0, 0, 0, 0],
    ]
    expected = np.repeat(expected, len(TEMPERATURES), axis=0)
    np.testing.assert_allclose(p, expected, rtol=1e-6, atol=1e-30)
    assert (p[np.isneginf(HARSH_X)] == 0).all()
    ties = run(subset_marginals, HARSH_X, k=2)[12]
    np.testing.assert_allclose(ties, [third, 0, third, 0, third], rtol=1e-6)


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("loss", [marginals_loss, subset_loss])
def test_marginals_gradient_is_finite_under_harsh_conditions(loss, jit):
    (slopes,) = gradient(loss, HARSH_X, jit=jit)

    assert np.isfinite(slopes).all()
    assert slopes[0].all()
    assert (slopes[np.isneginf(HARSH_X)] == 0).all()
    np.testing.assert_allclose(slopes[6:], 0, atol=1e-12)


# --- relaxed_top_k


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 5.0])
def test_relaxed_top_k_is_its_formula(temperature):
    t = np.full((36, 1), temperature, "float32")

    y = run(relaxed_sample, X, temperature=t)

    expected = relaxed_reference(X.astype("float64") + NOISE, 3, temperature)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-6)


def test_relaxed_top_1_is_gumbel_softmax():
    y = run(relaxed_top_k, X, k=1, temperature=0.5, noise=NOISE)

    expected = run(gumbel_softmax, X, temperature=0.5, noise=NOISE)
    np.testing.assert_allclose(y, expected, rtol=1e-6)


def test_relaxed_top_k_tends_to_gumbel_top_k():
    t = np.full((36, 1), 1e-6, "float32")

    y = run(relaxed_sample, X, temperature=t)

    np.testing.assert_allclose(y, run(top_sample, X), atol=1e-6)


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [(0.5, [1, 1, 0, 0, 0]), (1.0, [1.5, 0.5, 0, 0, 0])],
)
def test_relaxed_top_k_takes_away_what_is_far_ahead(temperature, expected):
    x = np.resize([1e3, 0.0, -500.0, -500.0, -500.0], (36, 5))

    t = np.full((36, 1), temperature, "float32")

    y = run(relaxed_top_k, x, k=2, temperature=t, noise=0.0)

    np.testing.assert_allclose(y[0], expected, atol=1e-6)


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("loss", [relaxed_loss, hard_relaxed_loss])
def test_relaxed_top_k_has_the_gradient_of_its_formula(loss, jit):
    t = np.full((36, 1), 0.7, "float32")

    in_logits, in_temperature = gradient(loss, X, t, jit=jit)

    def value(shift, t):
        return relaxed_reference(X + shift + NOISE, 3, t) @ WEIGHTS

    x_steps, t_step = 1e-5 * np.eye(5), 1e-5
    right = [value(h, 0.7) - value(-h, 0.7) for h in x_steps]
    np.testing.assert_allclose(in_logits.T, np.array(right) / 2e-5, atol=1e-4)
    right = value(0, 0.7 + t_step) - value(0, 0.7 - t_step)
    np.testing.assert_allclose(in_temperature[:, 0], right / 2e-5, atol=1e-4)


@pytest.mark.parametrize("jit", MODES)
def test_relaxed_top_k_is_right_under_harsh_conditions(jit):
    x, t = tensor(HARSH_X), tensor(HARSH_T)
    soft = to_numpy(compiled(relaxed_sample, jit)(x, t))
    hard = to_numpy(compiled(hard_relaxed_sample, jit)(x, t))

    for y in (soft, hard):
        assert (y >= 0).all()
        assert (y[np.isneginf(HARSH_X)] == 0).all()
        np.testing.assert_allclose(y.sum(-1), HARSH_COUNT, rtol=1e-5)
    # Equals stay equals, and three of them take a whole each.
    cold = HARSH_T[:, 0] < 1e-3
    np.testing.assert_allclose(soft[cold], hard[cold], atol=1e-5)
    hot = (HARSH_T[:, 0] == HARSH_T.max()) & (np.abs(HARSH_X).max(-1) < 1e5)
    np.testing.assert_allclose(soft[hot], 0.6, rtol=1e-5)


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("loss", [relaxed_loss, hard_relaxed_loss])
def test_relaxed_gradient_is_finite_under_harsh_conditions(loss, jit):
    # At an exact tie of k the slope is of the order of 1 / t**k.
    t = np.maximum(HARSH_T, 1e-6)

    slopes = gradient(loss, HARSH_X, t, jit=jit)

    assert all(np.isfinite(slope).all() for slope in slopes)
    assert (slopes[0][np.isneginf(HARSH_X)] == 0).all()
    assert slopes[0][2:4].all()
    assert slopes[1][2:4].all()


def test_relaxed_top_k_takes_a_temperature_for_every_row():
    y = run(relaxed_sample, HARSH_X, temperature=HARSH_T)

    one = run(relaxed_sample, HARSH_X, temperature=0.1)
    rows = HARSH_T[:, 0] == np.float32(0.1)
    np.testing.assert_allclose(y[rows], one[rows])


# --- all of them


@pytest.mark.parametrize("jit", MODES)
def test_hard_gradient_is_the_soft_gradient_bit_for_bit(jit):
    t = np.full((36, 1), 0.7, "float32")
    pairs = [
        gradient(loss, X, t, jit=jit)
        for loss in (relaxed_loss, hard_relaxed_loss)
    ]
    pairs += [
        gradient(loss, X, jit=jit) for loss in (marginals_loss, subset_loss)
    ]

    for one, other in zip(pairs[0], pairs[1], strict=True):
        assert (one == other).all()
    assert (pairs[2][0] == pairs[3][0]).all()
    assert pairs[2][0].any()


def test_gumbel_top_k_has_no_gradient():
    (slopes,) = gradient(lambda x: weighted(top_sample(x) + 0 * x), X)

    assert (slopes == 0).all()


SAMPLES = {
    "top": lambda x, **kwargs: gumbel_top_k(x, 3, **kwargs),
    "soft": lambda x, **kwargs: relaxed_top_k(x, 3, 0.5, **kwargs),
    "hard": lambda x, **kwargs: relaxed_top_k(x, 3, 0.5, True, **kwargs),
    "subset": lambda x, **kwargs: sample_subset(x, 3, **kwargs),
    "marginals": lambda x, noise=None, **kw: subset_marginals(x, 3, **kw),
}


@pytest.mark.parametrize("name", ["top", "soft", "subset"])
def test_subset_looks_along_its_axis(name):
    x = np.moveaxis(X.reshape(2, 18, 5), -1, 1)
    noise = np.moveaxis(NOISE.reshape(2, 18, 5), -1, 1)

    y = run(SAMPLES[name], x, axis=-2, noise=noise)

    plain = run(SAMPLES[name], X, mask=ALL, noise=NOISE)
    plain = plain.reshape(2, 18, 5)
    np.testing.assert_allclose(np.moveaxis(y, 1, -1), plain, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "name"), [("bfloat16", "soft"), ("float16", "marginals")]
)
def test_subset_computes_half_precision_in_float32(dtype, name):
    x = tensor(X, dtype)

    y = run(SAMPLES[name], x, mask=ALL, noise=NOISE)

    wide = run(SAMPLES[name], to_numpy(x), mask=ALL, noise=NOISE)
    np.testing.assert_allclose(y, to_numpy(tensor(wide, dtype)), rtol=0.01)
    digits = 2.0 ** (8 if dtype == "bfloat16" else 11)
    assert (digits * y / 2 ** np.floor(np.log2(y)) % 1 == 0).all()


@pytest.mark.parametrize("name", SAMPLES)
def test_fewer_allowed_items_than_asked_for_are_all_drawn(name):
    allowed = np.resize([[1, 0, 0, 1, 0], [0] * 5, [0, 1, 1, 0, 1]], (36, 5))

    y = run(SAMPLES[name], X, mask=allowed == 1, noise=NOISE)

    np.testing.assert_allclose(y.sum(-1), allowed.sum(-1), rtol=1e-6)
    assert (y[allowed == 0] == 0).all()
    if name != "soft":
        assert (y == allowed).all()


@pytest.mark.parametrize("name", SAMPLES)
def test_all_items_are_drawn_where_k_is_their_number(name):
    allowed = np.resize([True, True, False, True, False], (36, 5))

    y = run(SAMPLES[name], 1e4 * X, mask=allowed, noise=0 * NOISE)

    np.testing.assert_allclose(y.sum(-1), 3, rtol=1e-6)
    assert (y == allowed).all() or name == "soft"


def test_all_of_one_item_is_drawn():
    seeds = {gumbel_top_k: {"seed": 1}, sample_subset: {"seed": 1}}

    for function in (gumbel_top_k, sample_subset, subset_marginals):
        y = run(function, np.array([2.0]), k=1, **seeds.get(function, {}))
        assert y.tolist() == [1.0]


@pytest.mark.parametrize("name", ["top", "subset"])
def test_subset_depends_on_its_noise_and_seed(name):
    one, other = (run(SAMPLES[name], X, seed=seed) for seed in (1, 2))
    given = run(SAMPLES[name], X, mask=ALL, noise=NOISE)

    assert (one != other).any()
    assert (one != given).any()


@pytest.mark.parametrize("k", [0, 6, -1, 2.0, True, None, "2"])
@pytest.mark.parametrize(
    "function", [gumbel_top_k, relaxed_top_k, subset_marginals, sample_subset]
)
def test_subset_refuses_a_bad_k(function, k):
    message = f"`k` of `{function.__name__}` must be an integer from 1 to 5"
    with pytest.raises(ValueError, match=message):
        function(tensor(X), k)


@pytest.mark.parametrize(
    "function", [gumbel_top_k, relaxed_top_k, subset_marginals, sample_subset]
)
def test_subset_refuses_a_bad_axis_and_mask(function):
    with pytest.raises(ValueError, match=f"`axis` of `{function.__name__}`"):
        function(tensor(X), 2, axis=2)
    with pytest.raises(ValueError, match=f"`mask` of `{function.__name__}`"):
        function(tensor(X), 2, mask=np.ones((36, 4), "bool"))


@pytest.mark.parametrize("temperature", [0.0, -1.0, INF])
def test_relaxed_top_k_refuses_a_bad_temperature(temperature):
    with pytest.raises(ValueError, match="`temperature` of `relaxed_top_k`"):
        relaxed_top_k(tensor(X), 2, temperature)


@pytest.mark.parametrize(
    "function", [gumbel_top_k, relaxed_top_k, sample_subset, subset_marginals]
)
def test_a_logit_of_nan_spoils_its_row_alone(function):
    x = np.zeros((2, 4), "float32")
    x[0, 1] = np.nan

    y = to_numpy(function(tensor(x), 2))

    assert np.isnan(y[0]).all()
    assert y[1].sum() == pytest.approx(2, abs=1e-5)
