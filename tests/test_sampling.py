import itertools

import numpy as np
import pytest
from keras import ops

from keras_gumbel.ops import gumbel_max
from keras_gumbel.ops import gumbel_softmax
from keras_gumbel.ops import one_hot_argmax
from keras_gumbel.ops import relaxed_bernoulli
from keras_gumbel.ops import straight_through
from tests import reference
from tests.gradients import MODES
from tests.gradients import compiled
from tests.gradients import dtype_of
from tests.gradients import float64_allowed
from tests.gradients import gradient
from tests.gradients import to_numpy
from tests.statistics import require_distribution
from tests.statistics import require_frequencies

HALF = ["float16", "bfloat16"]
FLOATS = ["float32", *HALF]
INF = np.inf

# Few shapes: JAX compiles every operation anew for each.
MANY = 200_000
RNG = np.random.default_rng(0)
NOISE = RNG.gumbel(size=(36, 4)).astype("float32")
X = RNG.normal(size=(36, 4)).astype("float32")
WEIGHTS = np.array([1.0, -2.0, 0.5, 3.0], "float32")

# Every kind of row at every temperature.
ROWS = [
    [0.3, -1.2, 2.0, 0.7],
    [1e4, -1e4, 9999.0, 0.0],
    [1e30, -1e30, 1e30, 0.0],
    [0.3, -INF, 2.0, -INF],
    [-INF, -INF, 1.0, -INF],
    [-1e30, -INF, -1e30, 1e30],
]
TEMPERATURES = [1e-10, 1e-6, 0.1, 1.0, 1e2, 1e30]
GRID = list(itertools.product(ROWS, TEMPERATURES))
HARSH_X = np.array([row for row, _ in GRID], "float32")
HARSH_T = np.array([[t] for _, t in GRID], "float32")


def tensor(values, dtype="float32"):
    return ops.cast(ops.convert_to_tensor(np.asarray(values, "float32")), dtype)


def weighted(y):
    return ops.sum(y * ops.convert_to_tensor(WEIGHTS))


def soft_sample(logits, temperature):
    return gumbel_softmax(logits, temperature, noise=NOISE)


def hard_sample(logits, temperature):
    return gumbel_softmax(logits, temperature, hard=True, noise=NOISE)


def soft_loss(logits, temperature):
    return weighted(soft_sample(logits, temperature))


def hard_loss(logits, temperature):
    return weighted(hard_sample(logits, temperature))


def one_hot(index, classes=4):
    return np.eye(classes)[index]


def counts_of(indices, classes):
    return np.bincount(to_numpy(indices).astype(int), minlength=classes)


# --- gumbel_max


@pytest.mark.parametrize("dtype", FLOATS)
def test_gumbel_max_draws_the_categorical_distribution(dtype):
    logits = tensor(np.log([0.6, 0.3, 0.099, 0.001]), dtype)

    drawn = gumbel_max(ops.broadcast_to(logits, (MANY, 4)), seed=1)

    probabilities = reference.softmax(to_numpy(logits))
    require_frequencies(counts_of(drawn, 4), probabilities)


def test_frequencies_catch_a_slightly_warmer_draw():
    logits = np.broadcast_to(np.log([0.5, 0.3, 0.15, 0.05]), (MANY, 4))

    drawn = gumbel_max(tensor(logits * 0.95), seed=1)

    with pytest.raises(AssertionError, match="chi-square"):
        require_frequencies(counts_of(drawn, 4), [0.5, 0.3, 0.15, 0.05])


def test_gumbel_max_is_the_argmax_of_the_sum():
    drawn = gumbel_max(tensor(X), noise=NOISE)

    assert dtype_of(drawn) == "int32"
    assert (to_numpy(drawn) == (X + NOISE).argmax(-1)).all()


def test_gumbel_max_looks_along_its_axis():
    drawn = gumbel_max(tensor(X), axis=0, noise=NOISE)

    assert (to_numpy(drawn) == (X + NOISE).argmax(0)).all()


@pytest.mark.parametrize("as_mask", [True, False])
def test_gumbel_max_never_draws_a_forbidden_class(as_mask):
    allowed = np.array([True, False, True, True])
    logits = np.broadcast_to(np.log([0.2, 0.5, 0.2, 0.1]), (MANY, 4))
    masked = np.where(allowed, logits, -INF)

    drawn = (
        gumbel_max(tensor(logits), mask=allowed, seed=1)
        if as_mask
        else gumbel_max(tensor(masked), seed=1)
    )

    require_frequencies(counts_of(drawn, 4), [0.4, 0.0, 0.4, 0.2])


def test_gumbel_max_of_nothing_allowed_is_zero():
    mask = np.array([[False] * 4, [True] * 4])

    drawn = gumbel_max(tensor(X[:2]), mask=mask, noise=NOISE[:2])

    assert to_numpy(drawn).tolist() == [0, (X + NOISE)[1].argmax()]


@pytest.mark.parametrize(
    ("argument", "value"),
    [("axis", 0), ("mask", [True, False] * 2), ("noise", -NOISE), ("seed", 2)],
)
def test_gumbel_max_depends_on_every_argument(argument, value):
    one = gumbel_max(tensor(X), seed=1)
    other = gumbel_max(tensor(X), **{"seed": 1, argument: value})

    assert not np.array_equal(to_numpy(one), to_numpy(other))


@pytest.mark.parametrize("axis", [2, -3, 0.0, None])
@pytest.mark.parametrize("sample", [gumbel_max, gumbel_softmax])
def test_categorical_sample_refuses_a_bad_axis(sample, axis):
    with pytest.raises(ValueError, match=f"`axis` of `{sample.__name__}`"):
        sample(tensor(X), axis=axis)


@pytest.mark.parametrize("shape", [(3,), (2, 36, 4), (4, 1)])
@pytest.mark.parametrize("sample", [gumbel_max, gumbel_softmax])
def test_categorical_sample_refuses_a_mask_that_does_not_fit(sample, shape):
    with pytest.raises(ValueError, match=f"`mask` of `{sample.__name__}`"):
        sample(tensor(X), mask=np.ones(shape, "bool"))


# --- gumbel_softmax


@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
def test_gumbel_softmax_is_the_softmax_of_the_sum(temperature):
    y = gumbel_softmax(tensor(X), temperature, noise=NOISE)

    expected = reference.softmax((X.astype("float64") + NOISE) / temperature)
    np.testing.assert_allclose(to_numpy(y), expected, rtol=1e-5, atol=1e-7)


def test_gumbel_softmax_looks_along_its_axis():
    y = gumbel_softmax(tensor(X), 0.5, axis=0, noise=NOISE)

    expected = reference.softmax((X.astype("float64") + NOISE) / 0.5, axis=0)
    np.testing.assert_allclose(to_numpy(y), expected, rtol=1e-5, atol=1e-7)


def test_hard_sample_looks_along_its_axis():
    y = gumbel_softmax(tensor(X), 0.5, hard=True, axis=0, noise=NOISE)

    assert (to_numpy(y) == one_hot((X + NOISE).argmax(0), 36).T).all()


def test_gumbel_softmax_takes_a_temperature_for_every_row():
    y = gumbel_softmax(tensor(HARSH_X), tensor(HARSH_T), noise=NOISE)

    one = gumbel_softmax(tensor(HARSH_X), 0.1, noise=NOISE)
    rows = HARSH_T[:, 0] == np.float32(0.1)
    np.testing.assert_allclose(
        to_numpy(y)[rows], to_numpy(one)[rows], rtol=1e-6
    )


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("dtype", HALF)
def test_gumbel_softmax_computes_half_precision_in_float32(dtype, hard):
    # TFP 0.25 raises in bfloat16: "not inexact".
    x = tensor(X, dtype)

    y = gumbel_softmax(x, 0.1, hard=hard, noise=NOISE)

    wide = gumbel_softmax(ops.cast(x, "float32"), 0.1, hard, noise=NOISE)
    assert dtype_of(y) == dtype
    assert (to_numpy(y) == to_numpy(ops.cast(wide, dtype))).all()


@pytest.mark.parametrize("sample", [gumbel_softmax, relaxed_bernoulli])
def test_relaxed_sample_of_integers_is_a_float(sample):
    x = (X > 0).astype("int32")

    y = sample(ops.convert_to_tensor(x), noise=NOISE)

    assert dtype_of(y) == "float32"
    expected = sample(tensor(x), noise=NOISE)
    assert (to_numpy(y) == to_numpy(expected)).all()


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_hard_sample_is_exactly_one_hot(dtype, jit):
    x = tensor(np.resize(X, (MANY, 4)), dtype)
    noise = RNG.gumbel(size=(MANY, 4)).astype("float32")
    sample = compiled(
        lambda x, noise: gumbel_softmax(x, 0.7, hard=True, noise=noise), jit
    )

    y = to_numpy(sample(x, tensor(noise)))

    perturbed = to_numpy(x).astype("float32") + noise
    assert (y == one_hot(perturbed.argmax(-1))).all()
    assert not np.signbit(y).any()


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_hard_sample_is_the_same_at_every_temperature(temperature):
    y = gumbel_softmax(tensor(X), temperature, hard=True, noise=NOISE)

    assert (to_numpy(y) == one_hot((X + NOISE).argmax(-1))).all()


def test_hard_sample_keeps_its_distribution_at_a_high_temperature():
    # torch 2.13.0's `gumbel_softmax(hard=True)` draws class 0 always at
    # temperature 1e30: it takes the argmax of the relaxed vector.
    logits = np.broadcast_to(np.log([0.5, 0.3, 0.15, 0.05]), (MANY, 4))

    y = gumbel_softmax(tensor(logits, "bfloat16"), 1e30, hard=True, seed=1)

    probabilities = reference.softmax(to_numpy(tensor(logits[0], "bfloat16")))
    require_frequencies(to_numpy(y).sum(0), probabilities)


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_hard_sample_picks_one_of_several_equals(dtype, jit):
    rows = [[1.0, 2.0, 3.0, 3.0], [0.0] * 4, [-INF, 1.0, 1.0, 1.0]]
    noise = tensor(np.resize([2.0, 1.0, 0.0, 0.0], (36, 4)))
    x = ops.cast(tensor(np.resize(rows, (36, 4))) - noise, dtype)
    sample = compiled(
        lambda x, noise: gumbel_softmax(x, 0.5, hard=True, noise=noise), jit
    )

    y = to_numpy(sample(x, noise))

    assert (y == one_hot(np.resize([2, 0, 1], 36))).all()


@pytest.mark.parametrize("jit", MODES)
def test_soft_sample_is_right_under_harsh_conditions(jit):
    y = compiled(soft_sample, jit)(tensor(HARSH_X), tensor(HARSH_T))

    perturbed = (HARSH_X + NOISE).astype("float64")
    top = perturbed.max(-1, keepdims=True)
    expected = reference.softmax((perturbed - top) / HARSH_T)
    # The exponent, down to -104, is a float32: 104 * 6e-8 in the result.
    np.testing.assert_allclose(to_numpy(y), expected, rtol=2e-5, atol=1e-30)
    assert (to_numpy(y)[np.isneginf(HARSH_X)] == 0).all()


@pytest.mark.parametrize("jit", MODES)
def test_hard_sample_is_right_under_harsh_conditions(jit):
    y = compiled(hard_sample, jit)(tensor(HARSH_X), tensor(HARSH_T))

    expected = one_hot((HARSH_X + NOISE).argmax(-1))
    assert (to_numpy(y) == expected).all()


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("loss", [soft_loss, hard_loss])
def test_gradient_is_right_under_harsh_conditions(loss, jit):
    # As soon as one class is masked, the slope in the temperature is NaN in
    # torch and TFP. For logits of 1e30 at 1e-10 value and slopes are.
    slopes = gradient(loss, HARSH_X, HARSH_T, jit=jit)

    perturbed = (HARSH_X + NOISE).astype("float64")
    t = HARSH_T.astype("float64")
    expected = reference.softmax_slopes(perturbed, t, WEIGHTS)
    # 1 / t**2 may flush to 0: the slope in t is only finite at t = 1e30.
    expected[1][t == t.max()] = slopes[1][t == t.max()]
    for slope, right in zip(slopes, expected, strict=True):
        assert np.isfinite(slope).all()
        np.testing.assert_allclose(slope * t, right * t, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_sample_is_finite_under_harsh_conditions(dtype):
    # In float16 torch gives NaN at temperature 1e-6, for 1e3 at 0.01 and 6e4 at
    # 0.1; TFP at 1e-6 and for 6e4 at 0.1.
    x = np.maximum(HARSH_X, -INF if dtype == "bfloat16" else -6e4)
    x = tensor(np.minimum(x, 1e30 if dtype == "bfloat16" else 6e4), dtype)

    soft = gumbel_softmax(x, tensor(HARSH_T), noise=NOISE)
    hard = gumbel_softmax(x, tensor(HARSH_T), hard=True, noise=NOISE)

    np.testing.assert_allclose(to_numpy(soft).sum(-1), 1.0, rtol=0.01)
    assert (to_numpy(hard).sum(-1) == 1).all()


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("sample", [soft_sample, hard_sample])
def test_row_without_a_class_is_zero_and_touches_no_other(sample, jit):
    # `gumbel_softmax` of torch and TFP's RelaxedOneHotCategorical give NaN.
    x = X.copy()
    x[5] = -INF
    run = compiled(sample, jit)

    y, plain = (to_numpy(run(tensor(v), tensor(0.5))) for v in (x, X))

    others = np.arange(36) != 5
    assert (y[5] == 0).all()
    assert (y[others] == plain[others]).all()


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("loss", [soft_loss, hard_loss])
def test_row_without_a_class_has_no_gradient(loss, jit):
    x = X.copy()
    x[5] = -INF
    t = np.full((36, 1), 0.5, "float32")

    masked, plain = (gradient(loss, v, t, jit=jit) for v in (x, X))

    others = np.arange(36) != 5
    for slope, right in zip(masked, plain, strict=True):
        assert (slope[5] == 0).all()
        assert (slope[others] == right[others]).all()
        assert right[others].any()


@pytest.mark.parametrize("sample", [soft_sample, hard_sample])
def test_nan_stays_in_its_row(sample):
    x = X.copy()
    x[5, 2] = np.nan

    y, plain = (to_numpy(sample(tensor(v), 0.5)) for v in (x, X))

    others = np.arange(36) != 5
    assert np.isnan(y[5]).any()
    assert (y[others] == plain[others]).all()


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("shape", [(36, 4), (4,), (36, 1)])
def test_mask_is_minus_infinity(shape, hard):
    mask = np.random.default_rng(1).random(shape) < 0.6

    y = to_numpy(gumbel_softmax(X, 0.5, hard, mask=mask, noise=NOISE))

    masked = tensor(np.where(mask, X, -INF))
    expected = gumbel_softmax(masked, 0.5, hard, noise=NOISE)
    assert (y == to_numpy(expected)).all()
    assert (y[~np.broadcast_to(mask, (36, 4))] == 0).all()


def test_masked_classes_have_no_gradient():
    mask = np.array([True, False, True, False])

    def loss(x):
        return weighted(gumbel_softmax(x, 0.5, mask=mask, noise=NOISE))

    (slope,) = gradient(loss, X)

    assert (slope[:, ~mask] == 0).all()
    assert (slope[:, mask] != 0).any()


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("temperature", 2.0),
        ("hard", True),
        ("axis", 0),
        ("mask", [True, True, True, False]),
        ("noise", NOISE),
        ("seed", 2),
    ],
)
def test_gumbel_softmax_depends_on_every_argument(argument, value):
    one = gumbel_softmax(tensor(X), seed=1)
    other = gumbel_softmax(tensor(X), **{"seed": 1, argument: value})

    assert (to_numpy(one) != to_numpy(other)).any()


def test_gumbel_softmax_has_temperature_one_by_default():
    one = gumbel_softmax(tensor(X), seed=1)
    other = gumbel_softmax(tensor(X), 1.0, seed=1)

    assert (to_numpy(one) == to_numpy(other)).all()


@pytest.mark.parametrize("bad", [0, 0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("sample", [gumbel_softmax, relaxed_bernoulli])
def test_relaxed_sample_refuses_a_bad_temperature(sample, bad):
    # torch and TFP give NaN at 0. At -1 they avoid the likeliest class: for [0,
    # 20, 0] torch draws 520, 0, 480 of 1000, TFP 488, 0, 512.
    with pytest.raises(
        ValueError, match=f"`temperature` of `{sample.__name__}"
    ):
        sample(tensor([[0.5, 0.5]]), bad)


# --- one_hot_argmax


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_one_hot_argmax_marks_the_first_of_the_largest(dtype, jit):
    rows = [
        [0.5, 2.0, 2.0, 1.0],
        [-3.0, -INF, -3.0, -3.0],
        [-INF, -INF, -INF, -6e4],
        [0.0, -0.0, 0.0, 0.0],
        [-1.0, -2.0, INF, INF],
    ]

    y = compiled(one_hot_argmax, jit)(tensor(rows, dtype))

    assert dtype_of(y) == dtype
    assert (to_numpy(y) == one_hot([1, 0, 3, 0, 2])).all()
    assert not np.signbit(to_numpy(y)).any()


@pytest.mark.parametrize("jit", MODES)
def test_one_hot_argmax_of_minus_infinity_is_zero(jit):
    values = np.where(np.arange(36)[:, None] == 5, -INF, X)

    y = to_numpy(compiled(one_hot_argmax, jit)(tensor(values)))

    assert (y[5] == 0).all()
    assert (y.sum(-1) == (np.arange(36) != 5)).all()


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_one_hot_argmax_looks_along_its_axis(axis):
    values = np.random.default_rng(2).normal(size=(3, 4, 5))

    y = to_numpy(one_hot_argmax(tensor(values), axis))

    assert (y.argmax(axis) == values.argmax(axis)).all()
    assert (y.sum(axis) == 1).all()


def test_one_hot_argmax_has_no_gradient():
    (slope,) = gradient(lambda x: ops.sum(one_hot_argmax(x) * x), X)

    assert (slope == one_hot(X.argmax(-1))).all()


@pytest.mark.parametrize("axis", [1, -2, None])
def test_one_hot_argmax_refuses_a_bad_axis(axis):
    with pytest.raises(ValueError, match="`axis` of `one_hot_argmax`"):
        one_hot_argmax(tensor([1.0, 2.0]), axis)


# --- straight_through


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_straight_through_has_the_value_of_hard(dtype, jit):
    soft = tensor(np.random.default_rng(3).random((36, 4)), dtype)
    run = compiled(lambda x: straight_through(x > 0.5, x * 0.7 + 0.1), jit)

    y = run(soft)

    assert dtype_of(y) == dtype
    assert (to_numpy(y) == (to_numpy(soft) > 0.5)).all()


@pytest.mark.parametrize("jit", MODES)
def test_straight_through_has_the_gradient_of_soft(jit):
    def loss(hard, soft):
        return weighted(straight_through(hard, soft**2))

    in_hard, in_soft = gradient(loss, NOISE, X, jit=jit)

    assert (in_hard == 0).all()
    np.testing.assert_allclose(in_soft, 2 * X * WEIGHTS, rtol=1e-6)


# --- relaxed_bernoulli

EPS = RNG.logistic(size=(36, 4)).astype("float32")
S = np.broadcast_to(np.array([0.001, 0.2, 0.7, 0.99], "float32"), (36, 4))
T = np.full((36, 1), 0.7, "float32")

# Every edge at every temperature.
EDGES = [[0.0, 1e-30, 0.5, 1.0], [1.0, 1 - 2**-24, 2**-20, 0.0]]
EDGE_S = np.resize(EDGES, (36, 4)).astype("float32")
EDGE_T = np.repeat(TEMPERATURES, 6)[:, None].astype("float32")


def soft_mask(probs, temperature):
    return relaxed_bernoulli(probs, temperature, noise=EPS)


def hard_mask(probs, temperature):
    return relaxed_bernoulli(probs, temperature, hard=True, noise=EPS)


def soft_mask_loss(probs, temperature):
    return ops.sum(soft_mask(probs, temperature))


def hard_mask_loss(probs, temperature):
    return ops.sum(hard_mask(probs, temperature))


@pytest.mark.parametrize("temperature", [0.1, 2 / 3, 5.0])
def test_relaxed_bernoulli_is_the_sigmoid_of_the_sum(temperature):
    m = relaxed_bernoulli(tensor(S), temperature, noise=EPS)

    x = (reference.logit(S) + EPS) / temperature
    expected = 1 / (1 + np.exp(-x))
    np.testing.assert_allclose(to_numpy(m), expected, rtol=2e-5, atol=1e-30)


@pytest.mark.parametrize("temperature", [0.5, 0.3])
def test_relaxed_bernoulli_in_float64_is_exact_to_float64(temperature):
    s, noise = np.array([0.1, 0.6]), np.array([1 / 3, -1 / 7])

    with float64_allowed():
        s = ops.convert_to_tensor(s)
        m = relaxed_bernoulli(s, temperature, noise=noise)

    assert dtype_of(m) == "float64"
    x = (reference.logit(to_numpy(s)) + noise) / temperature
    np.testing.assert_allclose(to_numpy(m), 1 / (1 + np.exp(-x)), rtol=1e-13)


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_relaxed_bernoulli_has_its_distribution(temperature):
    s = tensor(np.full((MANY, 4), 0.3))

    m = relaxed_bernoulli(s, temperature, seed=1)

    # The samples that round to 1 have left the open interval.
    m = np.clip(to_numpy(m), 1e-30, 1 - 2**-25)
    require_distribution(
        m, lambda m: reference.binary_concrete_cdf(m, 0.3, temperature)
    )


@pytest.mark.parametrize("dtype", FLOATS)
def test_hard_relaxed_bernoulli_is_one_as_often_as_said(dtype):
    s = tensor([0.3, 0.001, 1.0, 0.0], dtype)

    m = relaxed_bernoulli(ops.broadcast_to(s, (MANY, 4)), hard=True, seed=1)

    ones = to_numpy(m).sum(0)
    for count, p in zip(ones[:2], to_numpy(s)[:2], strict=True):
        require_frequencies([count, MANY - count], [p, 1 - p])
    # 2**-20 stands for 0 and expects 0.2 draws: P(N > 8) < 1e-9.
    assert ones[2] >= MANY - 8
    assert ones[3] <= 8


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_hard_relaxed_bernoulli_is_exactly_zero_or_one(dtype, jit):
    s = tensor(RNG.random((MANY, 4)), dtype)
    noise = RNG.logistic(size=(MANY, 4)).astype("float32")
    sample = compiled(
        lambda s, noise: relaxed_bernoulli(s, 0.7, hard=True, noise=noise), jit
    )

    m = to_numpy(sample(s, tensor(noise)))

    x = reference.logit(np.clip(to_numpy(s), 1e-6, 1 - 1e-6)) + noise
    clear = np.abs(x) > 1e-5
    assert np.isin(m, [0, 1]).all()
    assert not np.signbit(m).any()
    assert (m == (x > 0))[clear].all()


@pytest.mark.parametrize("dtype", HALF)
def test_relaxed_bernoulli_computes_half_precision_in_float32(dtype):
    s = tensor(EDGE_S, dtype)

    m = relaxed_bernoulli(s, 0.7, noise=EPS)

    wide = relaxed_bernoulli(ops.cast(s, "float32"), 0.7, noise=EPS)
    assert dtype_of(m) == dtype
    assert (to_numpy(m) == to_numpy(ops.cast(wide, dtype))).all()


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("loss", [soft_mask_loss, hard_mask_loss])
def test_relaxed_bernoulli_has_the_gradient_of_its_formula(loss, jit):
    in_probs, in_temperature = gradient(loss, S, T, jit=jit)

    x = (reference.logit(S) + EPS) / T
    slope = 1 / (4 * np.cosh(x / 2) ** 2) / T
    np.testing.assert_allclose(in_probs, slope / (S * (1 - S)), rtol=2e-5)
    right = -(slope * x).sum(-1, keepdims=True)
    np.testing.assert_allclose(in_temperature, right, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("jit", MODES)
def test_relaxed_bernoulli_is_finite_under_harsh_conditions(jit):
    # At s = 0 and 1 the textbook, TFP and torch through `logits=logit(s)` have
    # a gradient of NaN; torch through `probs` has 0.
    soft = compiled(soft_mask, jit)(tensor(EDGE_S), tensor(EDGE_T))
    hard = compiled(hard_mask, jit)(tensor(EDGE_S), tensor(EDGE_T))

    x = reference.logit(np.clip(EDGE_S, 2**-20, 1 - 2**-20)) + EPS
    expected = 1 / (1 + np.exp(np.clip(-x / EDGE_T, -500, 500)))
    expected[EDGE_S == 0], expected[EDGE_S == 1] = 0, 1
    np.testing.assert_allclose(to_numpy(soft), expected, rtol=1e-4, atol=1e-30)
    assert (to_numpy(hard) == (x > 0)).all()


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("loss", [soft_mask_loss, hard_mask_loss])
def test_relaxed_bernoulli_gradient_is_finite_under_harsh_conditions(loss, jit):
    slopes = gradient(loss, EDGE_S, EDGE_T, jit=jit)

    assert all(np.isfinite(slope).all() for slope in slopes)
    assert (slopes[0] >= 0).all()
    assert slopes[0].any()


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("edge", [0.0, 1.0])
def test_relaxed_bernoulli_gradient_is_alive_at_the_edge(edge, jit):
    s = np.full((36, 4), edge, "float32")

    slopes, _ = gradient(hard_mask_loss, s, np.ones_like(T), jit=jit)

    # At temperature 1 a slope is exp(+-e) for all but extreme noise e: its
    # median is 1, and its mean over n draws near log(n).
    assert np.isfinite(slopes).all()
    assert (slopes > 0).all()
    assert 1 < slopes.mean() < 30


@pytest.mark.parametrize(
    ("argument", "value"),
    [("temperature", 2.0), ("hard", True), ("noise", EPS), ("seed", 2)],
)
def test_relaxed_bernoulli_depends_on_every_argument(argument, value):
    one = relaxed_bernoulli(tensor(S), seed=1)
    other = relaxed_bernoulli(tensor(S), **{"seed": 1, argument: value})

    assert (to_numpy(one) != to_numpy(other)).any()


def test_relaxed_bernoulli_has_temperature_one_by_default():
    one = relaxed_bernoulli(tensor(S), seed=1)
    other = relaxed_bernoulli(tensor(S), 1.0, seed=1)

    assert (to_numpy(one) == to_numpy(other)).all()
