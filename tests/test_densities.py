import functools
import itertools
import math

import keras
import numpy as np
import pytest
from keras import ops
from scipy import special
from scipy import stats

from keras_gumbel.ops import gumbel_softmax
from keras_gumbel.ops import relaxed_bernoulli
from keras_gumbel.ops._bernoulli import logit_relaxed_bernoulli
from keras_gumbel.ops._densities import binary_concrete_log_prob
from keras_gumbel.ops._densities import concrete_log_prob
from keras_gumbel.ops._densities import exp_concrete_log_prob
from keras_gumbel.ops._densities import logit_binary_concrete_log_prob
from keras_gumbel.ops._information import categorical_entropy
from keras_gumbel.ops._information import categorical_kl
from keras_gumbel.ops._sampling import gumbel_log_softmax
from tests import reference
from tests.gradients import MODES
from tests.gradients import compiled
from tests.gradients import dtype_of
from tests.gradients import float64_allowed
from tests.gradients import gradient
from tests.gradients import to_numpy
from tests.statistics import require_distribution

# TensorFlow Probability compares versions with a class that is deprecated.
pytestmark = pytest.mark.filterwarnings(
    "ignore:distutils Version classes:DeprecationWarning"
)

INF = np.inf
DTYPES = ["float32", "float16", "bfloat16"]
CONCRETE = [concrete_log_prob, exp_concrete_log_prob]
BINARY = [binary_concrete_log_prob, logit_binary_concrete_log_prob]
COLD = 0.01

# Eager JAX would compile every operation of a gradient.
HARSH_MODES = MODES[-1:]

# One shape for most: JAX compiles every operation anew for each.
RNG = np.random.default_rng(0)
X = RNG.normal(size=(36, 4)).astype("float32")
PRIOR = RNG.normal(size=(36, 4)).astype("float32")
NOISE = RNG.gumbel(size=(36, 4)).astype("float32")
EPS = RNG.logistic(size=(36, 4)).astype("float32")
WEIGHTS = RNG.normal(size=(36,)).astype("float32")
MASK = np.array([True, False, True, True])


def tensor(values, dtype="float32"):
    return ops.cast(ops.convert_to_tensor(np.asarray(values, "float32")), dtype)


def run(function, *arrays, **options):
    """Calls a function; for JAX as one, not operation by operation."""
    arrays = (ops.convert_to_tensor(array) for array in arrays)
    return _once(function, tuple(options.items()))(*arrays)


@functools.cache
def _once(function, options):
    return compiled(
        functools.partial(function, **dict(options)),
        jit=keras.config.backend() == "jax",
    )


def log_y_of(temperature, noise=NOISE):
    """Log samples in float64, of `X`."""
    scaled = (X.astype("float64") + noise) / temperature
    return special.log_softmax(scaled, axis=-1)


def right_concrete(log_y, logits, temperature, power):
    """The closed form, in float64; forbidden classes are cut out by hand."""
    log_y, logits = (np.asarray(v, "float64") for v in (log_y, logits))
    classes = logits.shape[-1]
    terms = special.log_softmax(logits - temperature * log_y, axis=-1)
    constant = math.lgamma(classes) + (classes - 1) * np.log(temperature)
    return constant + (terms - power * log_y).sum(-1)


def right_binary(logit, logits, temperature, power):
    logit, logits = (np.asarray(v, "float64") for v in (logit, logits))
    value = stats.logistic.logpdf(temperature * logit - logits)
    jacobian = special.log_expit(logit) + special.log_expit(-logit)
    return np.log(temperature) + value - power * jacobian


def power_of(log_prob):
    return float(log_prob in (concrete_log_prob, binary_concrete_log_prob))


def central_slopes(function, x, step=1e-5):
    """Slopes of a scalar NumPy function, by central differences."""
    slopes = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        shift = np.zeros_like(x)
        shift[index] = step
        slopes[index] = (function(x + shift) - function(x - shift)) / 2 / step
    return slopes


# --- the samplers


@pytest.mark.parametrize("temperature", [COLD, 1.0, 5.0])
def test_gumbel_log_softmax_is_the_log_softmax_of_the_sum(temperature):
    log_y = gumbel_log_softmax(tensor(X), temperature, noise=NOISE)

    expected = log_y_of(temperature)
    np.testing.assert_allclose(to_numpy(log_y), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1])
def test_gumbel_log_softmax_is_the_log_of_gumbel_softmax(axis):
    options = {"temperature": 0.7, "axis": axis, "mask": tuple(MASK), "seed": 3}

    log_y = run(gumbel_log_softmax, X, **options)
    y = run(gumbel_softmax, X, **options)

    np.testing.assert_allclose(np.exp(to_numpy(log_y)), to_numpy(y), rtol=2e-5)
    assert np.isneginf(to_numpy(log_y)[:, 1]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_gumbel_log_softmax_computes_in_float32(dtype):
    x = tensor(X, dtype)

    log_y = gumbel_log_softmax(x, COLD, noise=NOISE)

    wide = gumbel_log_softmax(ops.cast(x, "float32"), COLD, noise=NOISE)
    assert dtype_of(log_y) == dtype
    assert (to_numpy(log_y) == to_numpy(ops.cast(wide, dtype))).all()


# Every kind of row at every temperature.
ROWS = [
    [0.3, -1.2, 2.0, 0.7],
    [1e30, -1e30, 1e30, 0.0],
    [3e38, -3e38, -INF, 0.0],
    [-INF, -INF, 1.0, -INF],
    [-INF] * 4,
    [-1e30, -INF, -1e30, 1e30],
]
HARSH = list(itertools.product(ROWS, [1e-10, 1e-6, COLD, 1.0, 1e2, 1e30]))
HARSH_X = np.array([row for row, _ in HARSH], "float32")
HARSH_T = np.array([[t] for _, t in HARSH], "float32")


@pytest.mark.parametrize("jit", HARSH_MODES)
def test_gumbel_log_softmax_is_finite_under_harsh_conditions(jit):
    def sample(x, t):
        return gumbel_log_softmax(x, t, noise=NOISE)

    def loss(x, t):
        log_y = sample(x, t)
        return ops.sum(ops.where(log_y > -INF, log_y, 0.0) / 1e38)

    log_y = to_numpy(compiled(sample, jit)(tensor(HARSH_X), tensor(HARSH_T)))
    slopes = gradient(loss, HARSH_X, HARSH_T, jit=jit)

    allowed = HARSH_X > -INF
    assert np.isfinite(log_y[allowed]).all()
    assert np.isneginf(log_y[~allowed]).all()
    assert all(np.isfinite(slope).all() for slope in slopes)
    assert (slopes[0][~allowed] == 0).all()


def test_gumbel_log_softmax_has_the_gradient_of_its_formula():
    def loss(x, t):
        log_y = gumbel_log_softmax(x, t, noise=NOISE)
        return ops.sum(log_y * ops.convert_to_tensor(WEIGHTS[:4]))

    in_x, in_t = gradient(loss, X, np.float32(0.3), jit=MODES[-1])

    w = WEIGHTS[:4].astype("float64")
    right = (w - w.sum() * np.exp(log_y_of(0.3))) / 0.3
    np.testing.assert_allclose(in_x, right, rtol=1e-4, atol=1e-5)
    right = -(right * (X.astype("float64") + NOISE)).sum() / 0.3
    np.testing.assert_allclose(in_t, right, rtol=1e-5)


def test_logit_relaxed_bernoulli_is_the_logit_of_relaxed_bernoulli():
    probs = special.expit(X)

    logit = run(logit_relaxed_bernoulli, tensor(X), 0.7, seed=3)
    m = run(relaxed_bernoulli, tensor(probs), 0.7, seed=3)

    m_of_logit = special.expit(to_numpy(logit))
    np.testing.assert_allclose(m_of_logit, to_numpy(m), rtol=1e-5)


def test_logit_relaxed_bernoulli_has_its_distribution():
    logits = tensor(np.full((200_000,), -0.4))

    logit = run(logit_relaxed_bernoulli, logits, COLD, seed=1)

    require_distribution(
        to_numpy(logit), lambda v: reference.logistic_cdf(COLD * v + 0.4)
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_logit_relaxed_bernoulli_computes_in_float32(dtype):
    logit = logit_relaxed_bernoulli(tensor(X, dtype), COLD, noise=EPS)

    x = to_numpy(tensor(X, dtype)).astype("float32")
    expected = tensor((x + EPS) / np.float32(COLD))
    assert dtype_of(logit) == dtype
    np.testing.assert_allclose(
        to_numpy(logit), to_numpy(ops.cast(expected, dtype)), rtol=1e-6
    )


# --- the densities of one-hot samples


@pytest.mark.parametrize("log_prob", CONCRETE)
@pytest.mark.parametrize("temperature", [COLD, 0.4, 1.0, 3.0])
def test_concrete_is_the_closed_form(log_prob, temperature):
    log_y = log_y_of(temperature)

    ours = run(log_prob, tensor(log_y), tensor(X), temperature)

    right = right_concrete(log_y, X, temperature, power_of(log_prob))
    np.testing.assert_allclose(to_numpy(ours), right, rtol=1e-5, atol=1e-4)


def test_concrete_is_the_density_of_the_reference():
    log_y = log_y_of(0.7)

    ours = run(concrete_log_prob, tensor(log_y), tensor(X[0]), 0.7)

    right = reference.concrete_density(np.exp(log_y), X[0], 0.7)
    np.testing.assert_allclose(to_numpy(ours), np.log(right), rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_concrete_integrates_to_one(temperature):
    # y = expit(v): dy = y (1 - y) dv, which decays like exp(-t |v|).
    v = np.linspace(-100, 100, 40_001)
    log_y = np.stack([special.log_expit(v), special.log_expit(-v)], -1)

    log_p = run(
        concrete_log_prob,
        tensor(log_y),
        tensor([0.5, -0.3]),
        temperature,
    )

    mass = np.exp(to_numpy(log_p) + log_y.sum(-1)).sum() * (v[1] - v[0])
    assert mass == pytest.approx(1.0, abs=1e-4)


def test_exp_concrete_integrates_to_one_in_its_measure():
    # d(log y_1) / y_2 = dv with y_1 = expit(v).
    v = np.linspace(-3000, 3000, 40_001)
    log_y = np.stack([special.log_expit(v), special.log_expit(-v)], -1)

    log_p = run(
        exp_concrete_log_prob,
        tensor(log_y),
        tensor([0.5, -0.3]),
        temperature=COLD,
    )

    mass = np.exp(to_numpy(log_p)).sum() * (v[1] - v[0])
    assert mass == pytest.approx(1.0, abs=1e-4)


@pytest.mark.backends("tensorflow")
@pytest.mark.parametrize("log_prob", CONCRETE)
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_concrete_is_that_of_tensorflow_probability(log_prob, temperature):
    import tensorflow_probability as tfp

    log_y = log_y_of(temperature)
    logits = X.astype("float64")

    ours = log_prob(
        ops.convert_to_tensor(log_y), ops.convert_to_tensor(logits), temperature
    )

    if log_prob is concrete_log_prob:
        theirs = tfp.distributions.RelaxedOneHotCategorical(
            np.float64(temperature), logits
        ).log_prob(np.exp(log_y))
    else:
        theirs = tfp.distributions.ExpRelaxedOneHotCategorical(
            np.float64(temperature), logits
        ).log_prob(log_y)
    assert dtype_of(ours) == "float64"
    np.testing.assert_allclose(to_numpy(ours), theirs, rtol=1e-10)


@pytest.mark.backends("tensorflow")
def test_tensorflow_probability_has_no_density_of_a_cold_sample():
    import tensorflow_probability as tfp

    log_y = gumbel_log_softmax(tensor(X), COLD, noise=NOISE)
    y = ops.convert_to_tensor(to_numpy(ops.exp(log_y)).astype("float32"))

    theirs = tfp.distributions.RelaxedOneHotCategorical(COLD, X).log_prob(y)

    assert np.isnan(theirs).mean() > 0.5
    assert np.isfinite(to_numpy(concrete_log_prob(log_y, X, COLD))).all()


# TensorFlow Probability gives NaN for 93% of the samples of float32 unless
# it still has them in its cache, torch for 90% (99.7% in float16).
@pytest.mark.parametrize("log_prob", CONCRETE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_concrete_of_own_cold_samples_is_finite(log_prob, dtype):
    # NaN for 99.5% of TFP's own fresh samples and 92% of torch's in float32,
    # 99.98% of torch's in float16; the share depends on the logits.
    x = tensor(np.broadcast_to(X[:1], (20_000, 4)), dtype)
    log_y = run(gumbel_log_softmax, x, temperature=COLD, seed=1)

    log_p = to_numpy(run(log_prob, log_y, x, temperature=COLD))

    assert (np.exp(to_numpy(log_y)) == 0).any()
    assert np.isfinite(log_p).all()
    # What the density gives for the very numbers that were passed.
    right = right_concrete(
        to_numpy(log_y), to_numpy(x), COLD, power_of(log_prob)
    )
    np.testing.assert_allclose(log_p, right, rtol=1e-5, atol=1e-3)


def test_concrete_of_many_cold_classes_does_not_overflow_in_float16():
    x = tensor(np.zeros((4, 300)), "float16")
    log_y = run(gumbel_log_softmax, x, temperature=COLD, seed=1)

    log_p = to_numpy(run(concrete_log_prob, log_y, x, temperature=COLD))

    assert np.isfinite(log_p).all()
    assert log_p.max() > 65504


def exp_concrete_loss(log_y, x, t):
    return ops.sum(exp_concrete_log_prob(log_y, x, t) * tensor(WEIGHTS))


def concrete_loss(log_y, x, t):
    return ops.sum(concrete_log_prob(log_y, x, t) * tensor(WEIGHTS))


@pytest.mark.parametrize("jit", MODES[-1:])
@pytest.mark.parametrize("temperature", [COLD, 0.7])
@pytest.mark.parametrize("loss", [concrete_loss, exp_concrete_loss])
def test_concrete_has_the_gradient_of_its_formula(loss, temperature, jit):
    log_y = log_y_of(temperature)
    arrays = [np.float32(v) for v in (log_y, X, temperature)]

    slopes = gradient(loss, *arrays, jit=jit)

    power = float(loss is concrete_loss)
    w = WEIGHTS[:, None].astype("float64")
    in_x = w * (1 - 4 * special.softmax(X - temperature * log_y, axis=-1))
    right = [
        -temperature * in_x - power * w,
        in_x,
        (w[:, 0] * 3 / temperature - (in_x * log_y).sum(-1)).sum(),
    ]
    for slope, expected in zip(slopes, right, strict=True):
        np.testing.assert_allclose(slope, expected, rtol=1e-3, atol=1e-4)


def test_concrete_takes_batches_that_broadcast():
    # For temperatures of shape (3, 1) torch's `log_prob` has the shape (3, 3).
    log_y = np.stack([log_y_of(0.5), log_y_of(0.5, EPS)])[:, :, None]
    t = np.linspace(0.5, 2.0, 36)[:, None, None].astype("float32")
    x = X[:5]

    ours = run(concrete_log_prob, tensor(log_y), tensor(x), tensor(t))

    rows = [
        right_concrete(log_y[:, i], x, v.item(), 1) for i, v in enumerate(t)
    ]
    assert tuple(ours.shape) == (2, 36, 5)
    right = np.stack(rows, 1)
    np.testing.assert_allclose(to_numpy(ours), right, rtol=1e-5, atol=1e-4)


def test_concrete_looks_along_its_axis():
    log_y = log_y_of(0.5).T
    samples = np.stack([log_y, log_y[:, ::-1]])

    ours = run(
        exp_concrete_log_prob,
        tensor(samples),
        tensor(X.T),
        temperature=0.5,
        axis=0,
    )

    rows = [right_concrete(s.T, X, 0.5, 0) for s in samples]
    np.testing.assert_allclose(to_numpy(ours), rows, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("as_mask", [True, False])
@pytest.mark.parametrize("log_prob", CONCRETE)
def test_concrete_is_the_density_over_the_allowed_classes(log_prob, as_mask):
    x = X if as_mask else np.where(MASK, X, -INF)
    mask = MASK if as_mask else None
    log_y = gumbel_log_softmax(tensor(x), 0.3, mask=mask, noise=NOISE)

    ours = log_prob(log_y, tensor(x), 0.3, mask=mask)

    log_y = to_numpy(log_y)[:, MASK]
    right = right_concrete(log_y, X[:, MASK], 0.3, power_of(log_prob))
    np.testing.assert_allclose(to_numpy(ours), right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("jit", MODES[-1:])
@pytest.mark.parametrize("loss", [concrete_loss, exp_concrete_loss])
def test_concrete_gradient_stops_at_forbidden_classes(loss, jit):
    x = np.where(MASK, X, -INF).astype("float32")
    x[5] = -INF
    x[6] = [-INF, 1.0, -INF, -INF]
    t = np.full((36, 1), COLD, "float32")
    log_y = to_numpy(gumbel_log_softmax(x, t, noise=NOISE)).astype("float32")

    in_log_y, in_x, in_t = gradient(loss, log_y, x, t, jit=jit)

    assert all(np.isfinite(s).all() for s in (in_log_y, in_x, in_t))
    assert (in_x[np.isneginf(x)] == 0).all()
    assert (in_log_y[np.isneginf(x)] == 0).all()
    assert (in_x[7:, MASK] != 0).all()
    assert (in_t[[5, 6]] == 0).all()


@pytest.mark.parametrize("log_prob", CONCRETE)
def test_concrete_takes_large_logits(log_prob):
    x = 1e4 * X

    ours = run(log_prob, tensor(log_y_of(COLD)), x, COLD)

    right = right_concrete(log_y_of(COLD), x, COLD, power_of(log_prob))
    np.testing.assert_allclose(to_numpy(ours), right, rtol=1e-5)


@pytest.mark.backends("jax")
@pytest.mark.parametrize("loss", [concrete_loss, exp_concrete_loss])
def test_masked_rows_do_not_set_off_the_nan_debugger(loss):
    import jax

    x = np.where(MASK, X, -INF).astype("float32")
    x[5] = -INF

    def total(x):
        log_y = gumbel_log_softmax(x, COLD, noise=NOISE)
        return loss(log_y, x, COLD) + entropy_loss(x, x)

    with jax.debug_nans(True):
        (slope,) = gradient(total, x)

    assert (slope[5] == 0).all()


@pytest.mark.parametrize("log_prob", CONCRETE)
def test_concrete_of_one_class_or_none_is_zero(log_prob):
    x = tensor([[-INF] * 4, [-INF, 1.0, -INF, -INF]])

    log_p = run(lambda x: log_prob(gumbel_log_softmax(x, seed=0), x), x)

    assert to_numpy(log_p).tolist() == [0, 0]


# TensorFlow Probability and torch give NaN.
@pytest.mark.parametrize(
    ("temperature", "expected"), [(0.3, INF), (0.5, None), (1.0, -INF)]
)
def test_concrete_at_a_vertex_is_the_limit(temperature, expected):
    x = tensor([0.3, -0.5, 1.0])
    y = np.array([[0.5, 0.5, 1e-30], [0.5, 0.5, 0.0]])
    with np.errstate(divide="ignore"):
        log_y = tensor(np.log(y))

    near, at = to_numpy(run(concrete_log_prob, log_y, x, temperature))
    log_at = to_numpy(run(exp_concrete_log_prob, log_y, x, temperature))[1]

    assert at == (pytest.approx(near, 1e-4) if expected is None else expected)
    assert log_at == -INF


@pytest.mark.parametrize("log_prob", CONCRETE)
def test_concrete_keeps_the_digits_of_float64(log_prob):
    log_y = log_y_of(0.3)

    with float64_allowed():
        ours = run(log_prob, log_y, X.astype("float64"), temperature=0.3)

    assert dtype_of(ours) == "float64"
    right = right_concrete(log_y, X, 0.3, power_of(log_prob))
    np.testing.assert_allclose(to_numpy(ours), right, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("temperature", {"temperature": 0.0}),
        ("temperature", {"temperature": np.ones((36, 4), "float32")}),
        ("axis", {"axis": 2}),
        ("mask", {"mask": [True] * 3}),
        ("log_sample", {"log_sample": np.zeros((36, 1), "float32")}),
        ("log_sample", {"log_sample": np.zeros((), "float32")}),
    ],
)
@pytest.mark.parametrize("log_prob", CONCRETE)
def test_concrete_refuses_bad_arguments(log_prob, name, arguments):
    arguments = {"log_sample": X, "logits": X, **arguments}

    with pytest.raises(ValueError, match=f"`{name}` of `{log_prob.__name__}`"):
        log_prob(**arguments)


@pytest.mark.parametrize("bad", [0.0, -1, float("nan")])
@pytest.mark.parametrize(
    "sample", [gumbel_log_softmax, logit_relaxed_bernoulli]
)
def test_sample_refuses_a_bad_temperature(sample, bad):
    with pytest.raises(ValueError, match=f"of `{sample.__name__}`"):
        sample(X, bad)


# --- the densities of Bernoulli samples


@pytest.mark.parametrize("log_prob", BINARY)
@pytest.mark.parametrize("temperature", [COLD, 0.4, 1.0, 3.0])
def test_binary_concrete_is_the_closed_form(log_prob, temperature):
    logit = (X + EPS) / temperature

    ours = run(log_prob, tensor(logit), tensor(X), temperature)

    right = right_binary(logit, X, temperature, power_of(log_prob))
    np.testing.assert_allclose(to_numpy(ours), right, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("logits", [0.0, 3.0])
def test_binary_concrete_integrates_to_one(logits, temperature):
    v = np.linspace(-100, 100, 40_001)
    jacobian = special.log_expit(v) + special.log_expit(-v)

    of_m, of_logit = (
        to_numpy(run(log_prob, tensor(v), logits, temperature))
        for log_prob in BINARY
    )

    for log_p in (of_m + jacobian, of_logit):
        mass = np.exp(log_p).sum() * (v[1] - v[0])
        assert mass == pytest.approx(1.0, abs=1e-4)


@pytest.mark.backends("tensorflow")
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_binary_concrete_is_that_of_tensorflow_probability(temperature):
    import tensorflow_probability as tfp

    x = X.astype("float64")
    logit = np.clip((x + EPS) / temperature, -30, 30)
    theirs = tfp.distributions.RelaxedBernoulli(np.float64(temperature), x)
    of_logit = tfp.distributions.Logistic(x / temperature, 1 / temperature)
    logit, x = ops.convert_to_tensor(logit), ops.convert_to_tensor(x)

    ours = binary_concrete_log_prob(logit, x, temperature)
    ours_of_logit = logit_binary_concrete_log_prob(logit, x, temperature)

    # m = expit(logit) cannot tell a logit of 30 to more digits.
    m = special.expit(to_numpy(logit))
    np.testing.assert_allclose(
        to_numpy(ours), theirs.log_prob(m), rtol=2e-3, atol=2e-3
    )
    inner = np.abs(to_numpy(logit)) < 8
    assert inner.mean() > 0.5
    np.testing.assert_allclose(
        to_numpy(ours)[inner], theirs.log_prob(m).numpy()[inner], rtol=1e-9
    )
    np.testing.assert_allclose(
        to_numpy(ours_of_logit), of_logit.log_prob(logit), rtol=1e-10
    )


# TensorFlow Probability's RelaxedBernoulli gives inf for 78.5% of its own
# samples in float32, and for 94.1% in float16.
@pytest.mark.parametrize("log_prob", BINARY)
@pytest.mark.parametrize("dtype", DTYPES)
def test_binary_concrete_of_own_cold_samples_is_finite(log_prob, dtype):
    # inf for 77% at 0.01 and 21% at 0.1 in float32 (TFP, logit 0.3).
    x = tensor(np.full((20_000, 1), 0.3), dtype)
    logit = run(logit_relaxed_bernoulli, x, temperature=COLD, seed=1)

    log_p = to_numpy(run(log_prob, logit, x, temperature=COLD))

    m = to_numpy(ops.cast(ops.sigmoid(logit), dtype))
    assert np.isin(m, [0, 1]).mean() > 0.5
    assert np.isfinite(log_p).all()
    right = right_binary(to_numpy(logit), to_numpy(x), COLD, power_of(log_prob))
    np.testing.assert_allclose(log_p, right, rtol=1e-5, atol=1e-3)


def binary_loss(logit, x, t):
    return ops.sum(binary_concrete_log_prob(logit, x, t))


def logit_binary_loss(logit, x, t):
    return ops.sum(logit_binary_concrete_log_prob(logit, x, t))


@pytest.mark.parametrize("jit", MODES[-1:])
@pytest.mark.parametrize("temperature", [COLD, 0.7])
@pytest.mark.parametrize("loss", [binary_loss, logit_binary_loss])
def test_binary_concrete_has_the_gradient_of_its_formula(
    loss, temperature, jit
):
    logit = ((X + EPS) / temperature).astype("float32")
    logit[0] = 0.0

    slopes = gradient(loss, logit, X, np.float32(temperature), jit=jit)

    in_u = -np.tanh((temperature * logit.astype("float64") - X) / 2)
    jacobian = np.tanh(logit / 2) * (loss is binary_loss)
    in_t = X.size / temperature + (in_u * logit).sum()
    right = [temperature * in_u + jacobian, -in_u, in_t]
    if loss is binary_loss:
        assert (slopes[0][0] != 0).all()
    for slope, expected in zip(slopes, right, strict=True):
        np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [(0.1, [INF, INF]), (1.0, [-0.5, 0.5]), (2.0, [-INF, -INF])],
)
def test_binary_concrete_at_zero_and_one_is_the_limit(temperature, expected):
    # At m = 0 torch gives 75.8, -0.5, -inf at these temperatures, at m = 1
    # 11.97, 0.5, -14.75: it clamps m.
    logit = tensor([-INF, INF])

    of_m = binary_concrete_log_prob(logit, 0.5, temperature)
    of_logit = logit_binary_concrete_log_prob(logit, 0.5, temperature)

    assert to_numpy(of_m).tolist() == expected
    assert to_numpy(of_logit).tolist() == [-INF, -INF]


@pytest.mark.parametrize("log_prob", BINARY)
def test_binary_concrete_keeps_the_digits_of_float64(log_prob):
    logit = (X.astype("float64") + EPS) / 0.3

    with float64_allowed():
        ours = run(log_prob, logit, X.astype("float64"), temperature=0.3)

    assert dtype_of(ours) == "float64"
    right = right_binary(logit, X, 0.3, power_of(log_prob))
    np.testing.assert_allclose(to_numpy(ours), right, rtol=1e-12)


@pytest.mark.parametrize("log_prob", BINARY)
def test_binary_concrete_refuses_a_bad_temperature(log_prob):
    with pytest.raises(ValueError, match=f"of `{log_prob.__name__}`"):
        log_prob(X, X, -1.0)


# --- entropy and KL


def right_entropy(x):
    return stats.entropy(special.softmax(x.astype("float64"), -1), axis=-1)


def right_kl(x, prior):
    p, q = (special.softmax(v.astype("float64"), -1) for v in (x, prior))
    return stats.entropy(p, q, axis=-1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [0, -1])
def test_entropy_is_that_of_numpy(axis, dtype):
    x = tensor(np.moveaxis(X, -1, axis), dtype)

    entropy = run(categorical_entropy, x, axis=axis)

    right = right_entropy(np.moveaxis(to_numpy(x), axis, -1))
    rtol = 1e-5 if dtype == "float32" else 1e-2
    assert dtype_of(entropy) == dtype
    np.testing.assert_allclose(to_numpy(entropy), right, rtol=rtol)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [0, -1])
def test_kl_is_that_of_numpy(axis, dtype):
    x, prior = (tensor(np.moveaxis(v, -1, axis), dtype) for v in (X, PRIOR))

    kl = run(categorical_kl, x, prior, axis=axis)

    arrays = (np.moveaxis(to_numpy(v), axis, -1) for v in (x, prior))
    tolerance = 1e-5 if dtype == "float32" else 1e-2
    assert dtype_of(kl) == dtype
    np.testing.assert_allclose(
        to_numpy(kl), right_kl(*arrays), rtol=tolerance, atol=1e-6
    )


def test_kl_takes_one_prior_for_all():
    kl = categorical_kl(tensor(X), tensor(PRIOR[0]))

    right = right_kl(X, np.broadcast_to(PRIOR[0], X.shape))
    np.testing.assert_allclose(to_numpy(kl), right, rtol=1e-5)


@pytest.mark.parametrize("as_mask", [True, False])
def test_entropy_and_kl_leave_forbidden_classes_out(as_mask):
    x = X if as_mask else np.where(MASK, X, -INF)
    mask = MASK if as_mask else None

    entropy = to_numpy(categorical_entropy(tensor(x), mask=mask))
    kl = to_numpy(categorical_kl(tensor(x), mask=mask))
    masked_prior = np.where(MASK, PRIOR, -INF)
    to_prior = to_numpy(categorical_kl(tensor(x), masked_prior, mask=mask))
    to_wider = to_numpy(categorical_kl(tensor(x), PRIOR, mask=mask))

    right = right_entropy(X[:, MASK])
    np.testing.assert_allclose(entropy, right, rtol=1e-5)
    np.testing.assert_allclose(kl, np.log(3) - right, rtol=1e-4, atol=1e-6)
    right = right_kl(X[:, MASK], PRIOR[:, MASK])
    np.testing.assert_allclose(to_prior, right, rtol=1e-4, atol=1e-6)
    right -= np.log(special.softmax(PRIOR, -1)[:, MASK].sum(-1))
    np.testing.assert_allclose(to_wider, right, rtol=1e-4, atol=1e-6)


def entropy_loss(x, prior):
    return ops.sum(categorical_entropy(x) * tensor(WEIGHTS))


def uniform_kl_loss(x, prior):
    return ops.sum(categorical_kl(x) * tensor(WEIGHTS))


def kl_loss(x, prior):
    return ops.sum(categorical_kl(x, prior) * tensor(WEIGHTS))


@pytest.mark.parametrize("jit", MODES[-1:])
@pytest.mark.parametrize("loss", [entropy_loss, uniform_kl_loss, kl_loss])
def test_entropy_and_kl_have_the_gradient_of_numpy(loss, jit):
    x, prior = (np.where(MASK, v, -INF).astype("float32") for v in (X, PRIOR))
    x[5] = -INF

    slopes = gradient(loss, x, prior, jit=jit)

    def right(x, prior):
        value = {
            entropy_loss: lambda: right_entropy(x),
            uniform_kl_loss: lambda: -right_entropy(x),
            kl_loss: lambda: right_kl(x, prior),
        }[loss]()
        return (value * WEIGHTS * (np.arange(36) != 5)).sum()

    p, q = (v[:, MASK].astype("float64") for v in (X, PRIOR))
    expected = [
        central_slopes(lambda x: right(x, q), p),
        central_slopes(lambda q: right(p, q), q),
    ]
    for slope, numbers in zip(slopes, expected, strict=True):
        assert (slope[:, ~MASK] == 0).all()
        np.testing.assert_allclose(slope[:, MASK], numbers, atol=1e-5)


@pytest.mark.parametrize("jit", HARSH_MODES)
@pytest.mark.parametrize("loss", [entropy_loss, uniform_kl_loss, kl_loss])
def test_entropy_and_kl_are_finite_under_harsh_conditions(loss, jit):
    slopes = gradient(loss, HARSH_X, HARSH_X, jit=jit)

    assert all(np.isfinite(slope).all() for slope in slopes)
    assert np.isfinite(to_numpy(run(loss, HARSH_X, HARSH_X)))


def test_row_without_a_class_has_neither_entropy_nor_kl():
    x = tensor(np.where(np.arange(36)[:, None] == 5, -INF, X))

    for prior in (None, PRIOR, to_numpy(x)):
        assert to_numpy(categorical_kl(x, prior))[5] == 0
    assert to_numpy(categorical_entropy(x))[5] == 0
    assert (to_numpy(categorical_entropy(x))[6:] > 0).all()


def test_kl_is_infinite_where_the_prior_forbids_what_is_allowed():
    prior = PRIOR.copy()
    prior[3, 1] = -INF
    prior[4] = -INF

    kl = to_numpy(categorical_kl(tensor(X), prior))
    slopes = gradient(kl_loss, X, prior, jit=MODES[-1])

    assert np.isposinf(kl).nonzero()[0].tolist() == [3, 4]
    assert all((slope[[3, 4]] == 0).all() for slope in slopes)
    assert all(np.isfinite(slope).all() for slope in slopes)


@pytest.mark.parametrize("function", [categorical_entropy, categorical_kl])
def test_entropy_and_kl_keep_nan_in_its_row(function):
    x = X.copy()
    x[5, 2] = np.nan
    x[6, 1] = INF

    values = to_numpy(function(tensor(x)))

    assert np.isnan(values).nonzero()[0].tolist() == [5, 6]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("axis", {"axis": 2}),
        ("mask", {"mask": [True] * 3}),
        ("prior_logits", {"prior_logits": np.zeros(3)}),
        ("prior_logits", {"prior_logits": np.zeros((2, 36, 4))}),
    ],
)
def test_kl_refuses_bad_arguments(name, arguments):
    with pytest.raises(ValueError, match=f"`{name}` of `categorical_kl`"):
        categorical_kl(X, **arguments)
