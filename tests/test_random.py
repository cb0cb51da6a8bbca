import itertools

import keras
import numpy as np
import pytest
from keras import ops
from scipy import stats

import keras_gumbel
from tests import reference
from tests.gradients import dtype_of
from tests.gradients import float64_allowed
from tests.gradients import to_numpy
from tests.newer_keras import require_keras
from tests.statistics import require_distribution
from tests.statistics import require_frequencies
from tests.statistics import require_mean

SAMPLERS = [keras_gumbel.random.gumbel, keras_gumbel.random.logistic]
CDFS = [reference.gumbel_cdf, reference.logistic_cdf]
DTYPES = ["float16", "bfloat16", "float32", "float64"]
DRAWS = 1_000_000

# Half-way between two bfloat16 numbers each, where rounding moves no draw.
TAIL = np.array([-8.0, 5 - 2**-6, 8 - 2**-6, 99.0])

# What the backend can draw: the ends, the cells next to them, the middle.
GRID = 2.0**24 if keras.config.backend() == "torch" else 2.0**23
EDGES = np.array([0.0, 1.0, 2.0, 0.5 * GRID, GRID - 2, GRID - 1]) / GRID
CELLS = np.arange(1, 1000) / GRID
UNIFORMS = np.concatenate([EDGES, CELLS, 1 - CELLS, np.linspace(0.01, 0.99)])
UNIFORMS = np.floor(UNIFORMS * GRID) / GRID


@pytest.fixture
def forced_uniforms(monkeypatch):
    force(monkeypatch, UNIFORMS)


def force(monkeypatch, uniforms):
    """Has Keras draw these uniforms."""

    def uniform(shape, minval=0.0, maxval=1.0, dtype=None, seed=None):
        scaled = np.reshape(uniforms, shape) * (maxval - minval) + minval
        return ops.convert_to_tensor(scaled, dtype=dtype)

    def randint(shape, minval, maxval, dtype="int32", seed=None):
        scaled = np.reshape(uniforms, shape) * (maxval - minval) + minval
        return ops.convert_to_tensor(np.floor(scaled), dtype=dtype)

    monkeypatch.setattr(keras.random, "uniform", uniform)
    monkeypatch.setattr(keras.random, "randint", randint)


def midpoints(uniforms):
    cells = np.floor(uniforms * 2**23)
    return (cells + 0.5) / 2**23


def gumbel_quantile(u):
    return -np.log(-np.log(u))


def is_refused(check, *args):
    try:
        check(*args)
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_noise_has_the_dtype_and_shape_asked_for(sampler, dtype):
    with float64_allowed():
        noise = sampler((2, 3, 4), dtype=dtype, seed=0)

    assert dtype_of(noise) == dtype
    assert tuple(noise.shape) == (2, 3, 4)
    assert np.unique(to_numpy(noise)).size > 12


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_noise_of_no_shape_is_a_scalar(sampler):
    noise = sampler((), seed=0)

    assert tuple(noise.shape) == ()
    assert np.isfinite(to_numpy(noise))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_noise_has_the_default_float_dtype(sampler, monkeypatch):
    monkeypatch.setattr(keras.config, "floatx", lambda: "float16")

    noise = sampler((50,), seed=0)

    assert dtype_of(noise) == "float16"
    assert (to_numpy(noise) == to_numpy(sampler((50,), "float16", 0))).all()


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64", "no_dtype"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_noise_refuses_other_dtypes(sampler, dtype):
    with pytest.raises(ValueError, match=dtype):
        sampler((3,), dtype=dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_half_precision_noise_is_float32_noise_rounded(sampler, dtype):
    wide = sampler((50,), dtype="float32", seed=7)

    narrow = sampler((50,), dtype=dtype, seed=7)

    assert (to_numpy(narrow) == to_numpy(ops.cast(wide, dtype))).all()


@pytest.mark.parametrize(
    ("sampler", "quantile"),
    [
        (keras_gumbel.random.gumbel, gumbel_quantile),
        (keras_gumbel.random.logistic, reference.logit),
    ],
)
def test_noise_is_the_quantile_of_the_midpoint(
    sampler, quantile, forced_uniforms
):
    # `-log(-log(u + 1e-7))`, as in keras-hub's speculative sampler, is inf at
    # the largest uniform on every backend.
    noise = to_numpy(sampler(UNIFORMS.shape, dtype="float32"))

    # float32 rounds log(u) to 6e-8 near u = 1/2, where the quantile is small.
    expected = quantile(midpoints(UNIFORMS))
    np.testing.assert_allclose(noise, expected, rtol=5e-7, atol=2e-7)


@pytest.mark.parametrize(
    ("dtype", "error"), [("float16", 1e-3), ("bfloat16", 4e-3)]
)
@pytest.mark.parametrize(
    ("sampler", "low", "high"),
    [
        (keras_gumbel.random.gumbel, -2.81154, 16.63553),
        (keras_gumbel.random.logistic, -16.63553, 16.63553),
    ],
)
def test_noise_has_the_same_range_in_half_precision(
    sampler, low, high, dtype, error, forced_uniforms
):
    # The textbook's noise with 1e-20 added is infinite in float16 in 1e-3 of
    # draws (JAX, TensorFlow; 2.3e-4 torch). Without it, in bfloat16, in 7.7e-3
    # (JAX), 7.9e-3 (TensorFlow), 1.9e-3 (torch). torch's `gumbel_softmax` in
    # float16 gave a NaN row in 1 of 60,000 of 1000 classes.
    noise = to_numpy(sampler(UNIFORMS.shape, dtype=dtype))

    assert np.isfinite(noise).all()
    assert noise[0] == noise.min() == pytest.approx(low, error)
    assert noise[5] == noise.max() == pytest.approx(high, error)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize(
    ("sampler", "cdf"),
    [
        (keras_gumbel.random.gumbel, reference.gumbel_cdf),
        (keras_gumbel.random.logistic, reference.logistic_cdf),
    ],
)
def test_noise_has_its_distribution(sampler, cdf, dtype):
    noise = to_numpy(sampler((DRAWS,), dtype=dtype, seed=1))

    require_distribution(noise, cdf)


@pytest.mark.parametrize(
    ("sampler", "mean", "variance"),
    [
        (keras_gumbel.random.gumbel, np.euler_gamma, np.pi**2 / 6),
        (keras_gumbel.random.logistic, 0.0, np.pi**2 / 3),
    ],
)
def test_noise_has_its_mean_and_variance(sampler, mean, variance):
    noise = to_numpy(sampler((DRAWS,), seed=2))

    require_mean(noise, mean)
    require_mean((noise - mean) ** 2, variance)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_gumbel_keeps_the_rate_of_rare_events(dtype):
    noise = to_numpy(keras_gumbel.random.gumbel((DRAWS,), dtype, seed=3))

    counts, _ = np.histogram(noise, TAIL)
    require_frequencies(counts, np.diff(reference.gumbel_cdf(TAIL)))


def all_uniforms():
    """Every uniform that JAX and TensorFlow attain; torch has them halved."""
    return np.arange(2**23) * 2.0**-23


def rate_of_rare_class(noise, p):
    """P(z_1 + log(p) > z_0) for independent z_0, z_1 of these values."""
    noise = np.sort(noise)
    beaten = np.searchsorted(noise, noise[-2_000_000:] + np.log(p))
    return beaten.sum() / noise.size**2


# Both exact: no sampling. `jax.random.gumbel` and the textbook formula draw
# an event of probability 1e-6 at 0.942 of its rate, TFP at 0.942, torch's
# RelaxedOneHotCategorical at 0.967.
@pytest.mark.parametrize("p", [1e-4, 1e-5, 1e-6])
def test_gumbel_draws_a_rare_class_at_its_rate(p, monkeypatch):
    force(monkeypatch, all_uniforms())

    noise = to_numpy(keras_gumbel.random.gumbel((2**23,)))

    assert rate_of_rare_class(noise, p) == pytest.approx(p, rel=0.01)


def test_rate_of_rare_class_catches_the_textbook_formula():
    noise = gumbel_quantile(np.maximum(all_uniforms(), 1e-20))

    assert rate_of_rare_class(noise, 1e-6) == pytest.approx(0.942e-6, 1e-3)


@pytest.mark.parametrize("p", [1e-6, 1e-5])
def test_logistic_exceeds_a_threshold_at_its_rate(p, monkeypatch):
    force(monkeypatch, all_uniforms())

    noise = to_numpy(keras_gumbel.random.logistic((2**23,)))

    threshold = -reference.logit(p)
    for side in (noise, -noise):
        assert (side > threshold).mean() == pytest.approx(p, rel=0.06)
    # A threshold falls between two draws that are one cell apart.
    assert abs((noise > threshold).sum() - p * 2**23) <= 0.5 + 1e-6


@pytest.fixture(scope="module")
def tails():
    """Returns the noise of the cells that hold every event below 1e-7."""
    draws = {}
    for sampler, cell in itertools.product(SAMPLERS, [0, 1]):
        uniforms = np.broadcast_to(all_uniforms(), (2, 2**23)).copy()
        uniforms[0] = cell * 2.0**-23
        with pytest.MonkeyPatch.context() as patch:
            force(patch, uniforms)
            noise = sampler((2**23,), seed=0, precision="high")
        draws[sampler, cell] = to_numpy(noise)
    return draws


@pytest.mark.slow
@pytest.mark.parametrize("p", [1e-8, 1e-9, 1e-10, 1e-11, 1e-12])
@pytest.mark.parametrize(
    ("sampler", "sign"),
    [
        (keras_gumbel.random.gumbel, 1),
        (keras_gumbel.random.logistic, 1),
        (keras_gumbel.random.logistic, -1),
    ],
)
def test_high_precision_keeps_the_rate_of_the_rarest_events(
    sampler, sign, p, tails
):
    # 1 - F(-log(p)) is p in both families, up to p**2.
    count = sum(
        (sign * tails[sampler, cell] > -np.log(p)).sum() for cell in (0, 1)
    )

    assert count * 2.0**-46 == pytest.approx(p, rel=0.01)


@pytest.mark.parametrize(
    ("sampler", "cdf"), list(zip(SAMPLERS, CDFS, strict=True))
)
def test_high_precision_noise_has_its_distribution(sampler, cdf):
    noise = to_numpy(sampler((DRAWS,), seed=1, precision="high"))

    require_distribution(noise, cdf)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_high_precision_noise_is_finite_at_the_edges(sampler, monkeypatch):
    # `jax.random.gumbel(mode="high")` in bfloat16 reaches 87.5: a class of
    # logit -60 is drawn at 6.2e-5.
    cells, parts = np.meshgrid(EDGES, EDGES)
    force(monkeypatch, np.stack([cells.ravel(), parts.ravel()]))

    noise = to_numpy(sampler((cells.size,), precision="high"))

    assert np.isfinite(noise).all()
    assert noise.max() == pytest.approx(47 * np.log(2), 1e-6)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_noise_refuses_precision(sampler):
    with pytest.raises(ValueError, match=r"`precision`.*one of 'standard'"):
        sampler((3,), precision="higher")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_noise_is_independent_across_entries(sampler):
    noise = to_numpy(sampler((DRAWS,), seed=4))

    above = noise.reshape(-1, 2) > np.median(noise)
    counts = np.histogram(above @ [1, 2], np.arange(5))[0]
    require_frequencies(counts, np.full(4, 0.25))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_checks_catch_uniforms_of_half_precision(dtype):
    u = keras.random.uniform((DRAWS,), dtype=dtype, seed=5)
    u = np.maximum(to_numpy(u), 1e-7)
    noise = gumbel_quantile(u)

    counts, _ = np.histogram(noise, TAIL)

    probabilities = np.diff(reference.gumbel_cdf(TAIL))
    assert is_refused(require_frequencies, counts, probabilities)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda u: -gumbel_quantile(u),
        lambda u: gumbel_quantile(np.floor(u * 128 + 1) / 129),
        lambda u: 1.01 * gumbel_quantile(u),
        lambda u: gumbel_quantile(u) + 0.01,
        lambda u: stats.norm.ppf(u, np.euler_gamma, np.pi / np.sqrt(6)),
    ],
    ids=["sign", "coarse", "scale", "mode", "normal"],
)
def test_checks_catch_wrong_gumbel_noise(wrong):
    noise = wrong(midpoints(np.random.default_rng(0).random(DRAWS)))

    caught = is_refused(require_distribution, noise, reference.gumbel_cdf)

    assert caught


def test_checks_catch_a_wrong_mean():
    noise = gumbel_quantile(np.random.default_rng(0).random(DRAWS))

    require_mean(noise, np.euler_gamma)

    assert is_refused(require_mean, noise, np.euler_gamma + 0.01)


@pytest.mark.parametrize("counts", [[5400, 4600], [5000, 4999, 1]])
def test_checks_catch_wrong_frequencies(counts):
    probabilities = [0.5, 0.5, 0.0][: len(counts)]

    require_frequencies([5050, 4950, 0][: len(counts)], probabilities)

    assert is_refused(require_frequencies, counts, probabilities)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_noise_repeats_with_its_seed(sampler):
    first, again, other = (sampler((50,), seed=s) for s in (1, 1, 2))

    assert (to_numpy(first) == to_numpy(again)).all()
    assert (to_numpy(first) != to_numpy(other)).any()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_noise_goes_on_with_a_seed_generator(sampler):
    one, two = (keras.random.SeedGenerator(3) for _ in range(2))

    first, second = (to_numpy(sampler((50,), seed=one)) for _ in range(2))

    assert (first != second).any()
    assert (first == to_numpy(sampler((50,), seed=two))).all()
    assert (second == to_numpy(sampler((50,), seed=two))).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_noise_without_a_seed_follows_the_global_one(sampler):
    require_keras("3.13", "a global seed that can be set again")
    keras.utils.set_random_seed(11)
    first, second = (to_numpy(sampler((50,))) for _ in range(2))

    keras.utils.set_random_seed(11)
    again = to_numpy(sampler((50,)))

    assert (first != second).any()
    assert (first == again).all()
