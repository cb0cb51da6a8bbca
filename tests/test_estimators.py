import functools
import json

import keras
import numpy as np
import pytest
from keras import ops

import keras_gumbel
from keras_gumbel import estimators
from tests import enumeration
from tests import reference
from tests.gradients import MODES
from tests.gradients import compiled
from tests.gradients import dtype_of
from tests.gradients import gradient
from tests.gradients import to_numpy
from tests.short_names import PATHWISE
from tests.statistics import require_frequencies
from tests.statistics import require_mean

DRAWS = 40_000
QUICK = True  # compiled, where there is a compiler
X = np.array([0.8, -0.4, 0.1], "float32")
LINEAR = np.array([1.0, -2.0, 0.5], "float32")
BILINEAR = np.array(
    [[0.3, -1.0, 0.7], [0.2, 1.5, -0.6], [-0.9, 0.4, 0.8]], "float32"
)
WEIGHTS = np.array([[0.5, -1.0, 0.3], [-0.2, 0.8, 1.1]], "float32")
COUPLING = np.array([[1.2, -0.7, 0.1], [-0.5, 0.9, -1.3]], "float32")

ANNEALING = keras_gumbel.schedules.LinearAnnealing(1.0, 0.5, steps=4)
ESTIMATORS = PATHWISE


def rao():
    """Few draws: the mean is the same, and soon found."""
    return estimators.GumbelRao(num_samples=4)


def estimator_of(name):
    return rao() if name == "gumbel_rao" else estimators.get(name)


def rows(x, count=DRAWS):
    return np.tile(x, (count, 1))


def loss(h):
    """A loss of every row that is neither linear nor quadratic."""
    value = ops.matmul(h, LINEAR) + ops.sum(h * ops.matmul(h, BILINEAR), -1)
    return ops.tanh(value)


def numpy_loss(h):
    return np.tanh(LINEAR @ h + h @ BILINEAR @ h)


def slope(h):
    symmetric = (BILINEAR + BILINEAR.T) @ h
    return (1 - numpy_loss(h) ** 2) * (LINEAR + symmetric)


def per_row(function, x):
    """The gradient of every row of a sum of losses of rows."""
    (slopes,) = gradient(lambda x: ops.sum(function(x)), x, jit=QUICK)
    return slopes


def require_means(samples, means):
    for column, mean in zip(samples.T, means, strict=True):
        require_mean(column, mean)


@pytest.mark.parametrize("temperature", [0.4, 2.0])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimator_has_its_exact_expectation(name, temperature):
    def total(x):
        return loss(
            keras_gumbel.ops.sample_one_hot(
                x, temperature, estimator_of(name), seed=1
            )
        )

    slopes = per_row(total, rows(X))

    expected = enumeration.one_layer(name, X, slope, temperature)
    require_means(slopes, expected)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_expectations_of_estimators_differ(name):
    expected = {
        other: enumeration.one_layer(other, X, slope, 0.4)
        for other in ESTIMATORS
    }

    own = expected.pop(name)

    alike = {o for o, e in expected.items() if abs(e - own).max() < 0.01}
    pair = {"gumbel_rao", "straight_through_gumbel"}
    assert alike == (pair - {name} if name in pair else set())


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimator_has_its_exact_expectation_through_two_layers(name):
    def total(x):
        estimator = estimator_of(name)
        h = keras_gumbel.ops.sample_one_hot(x, 0.7, estimator, seed=1)
        inner = ops.matmul(h, WEIGHTS.T)
        g = keras_gumbel.ops.sample_one_hot(inner, 0.7, estimator, seed=2)
        return ops.tanh(ops.sum(g * ops.matmul(h, COUPLING.T), axis=-1))

    def slopes_of(h, g):
        outer = 1 - np.tanh(g @ COUPLING @ h) ** 2
        return outer * (COUPLING.T @ g), outer * (COUPLING @ h)

    slopes = per_row(total, rows(X))

    expected = enumeration.two_layers(name, X, WEIGHTS, slopes_of, 0.7)
    require_means(slopes, expected)


def test_reinmax_has_no_bias_where_the_loss_is_quadratic():
    def quadratic(h):
        return LINEAR @ h + h @ BILINEAR @ h

    def its_slope(h):
        return LINEAR + (BILINEAR + BILINEAR.T) @ h

    exact = enumeration.exact_gradient(X, quadratic)

    means = {
        name: enumeration.one_layer(name, X, its_slope, 1.0)
        for name in ESTIMATORS
    }
    np.testing.assert_allclose(means.pop("reinmax"), exact, atol=1e-7)
    assert all(abs(mean - exact).max() > 0.05 for mean in means.values())


def test_gumbel_rao_has_less_variance():
    def slopes(name):
        return per_row(
            lambda x: loss(
                keras_gumbel.ops.sample_one_hot(x, 0.5, name, seed=1)
            ),
            rows(X),
        )

    many, one = slopes("gumbel_rao"), slopes("straight_through_gumbel")

    assert (many.var(axis=0) < 0.6 * one.var(axis=0)).all()


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_sample_is_exactly_one_hot(name, dtype, jit):
    noise = keras_gumbel.random.gumbel((500, 7), seed=3)
    logits = ops.cast(ops.linspace(-3.0, 3.0, 7), dtype)
    logits = ops.broadcast_to(logits, (500, 7))
    draw = compiled(
        lambda x, z: keras_gumbel.ops.sample_one_hot(
            x, 0.3, name, noise=z, seed=0
        ),
        jit,
    )

    sample = draw(logits, noise)

    assert dtype_of(sample) == dtype
    values = to_numpy(sample)
    assert set(np.unique(values)) == {0.0, 1.0}
    assert not np.signbit(values).any()
    perturbed = to_numpy(logits) + to_numpy(noise)
    assert (values.argmax(-1) == perturbed.argmax(-1)).mean() > 0.999


@pytest.mark.parametrize("name", ESTIMATORS)
def test_sample_has_the_categorical_distribution(name):
    sample = keras_gumbel.ops.sample_one_hot(rows(X), 1e30, name, seed=5)

    counts = to_numpy(sample).sum(axis=0)
    require_frequencies(counts, reference.softmax(X))


HARSH = np.array(
    [
        [1e30, -1e30, 0.0, 1.0],
        [-1e9, 0.5, -1e9, 0.2],
        [-np.inf, 0.5, -np.inf, 0.2],
        [-np.inf, -np.inf, 3.0, -np.inf],
        [-np.inf, -np.inf, -np.inf, -np.inf],
        [0.0, 0.0, 0.0, 0.0],
    ],
    "float32",
)
COLUMN = np.array([1.0, -2.0, 3.0, 0.5], "float32")


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimator_is_finite_under_harsh_conditions(name, jit):
    noise = to_numpy(keras_gumbel.random.gumbel(HARSH.shape, seed=3))

    def total(x, t):
        sample = keras_gumbel.ops.sample_one_hot(
            x, t, name, noise=noise.astype("float32"), seed=0
        )
        return ops.sum(ops.multiply(sample, COLUMN))

    for temperature in np.float32([1e-10, 1e-3, 1.0, 1e30]):
        in_logits, in_temperature = gradient(total, HARSH, temperature, jit=jit)

        assert np.isfinite(in_logits).all()
        assert np.isfinite(in_temperature)
        assert (in_logits[HARSH == -np.inf] == 0).all()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_nan_and_infinity_stay_in_their_rows(name):
    logits = np.zeros((4, 3), "float32")
    logits[1, 0], logits[2, 1] = np.nan, np.inf

    def total(x):
        sample = keras_gumbel.ops.sample_one_hot(x, 0.5, name, seed=0)
        return ops.sum(ops.multiply(sample, LINEAR))

    sample = keras_gumbel.ops.sample_one_hot(logits, 0.5, name, seed=0)
    (slopes,) = gradient(total, logits, jit=QUICK)

    for values in (to_numpy(sample), slopes):
        assert np.isfinite(values[[0, 3]]).all()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimator_works_along_its_axis(name):
    noise = to_numpy(keras_gumbel.random.gumbel((5, 3), seed=3))
    noise = noise.astype("float32")
    weights = np.arange(15, dtype="float32").reshape(5, 3)

    def total(x, axis, noise, weights):
        # Rao's own noise is laid out by axis: only its mean is comparable.
        estimator = name
        if name == "gumbel_rao":
            estimator = estimators.GumbelRao(num_samples=1000)
        sample = keras_gumbel.ops.sample_one_hot(
            x, 0.5, estimator, axis=axis, noise=noise, seed=0
        )
        return ops.sum(ops.multiply(sample, weights))

    last = per_row(lambda x: total(x, -1, noise, weights), rows(X, 5))
    first = per_row(
        lambda x: total(x, 0, noise.T.copy(), weights.T.copy()),
        rows(X, 5).T.copy(),
    )

    tolerance = 0.3 if name == "gumbel_rao" else 1e-5
    np.testing.assert_allclose(first.T, last, atol=tolerance)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (estimators.ReinMax(), estimators.ReinMax(0.3)),
        (estimators.Gapped(), estimators.Gapped(0.1)),
        (
            estimators.Gapped(),
            estimators.Gapped(backward_temperature=0.3),
        ),
        (estimators.GumbelRao(), estimators.GumbelRao(3)),
        (estimators.GumbelRao(), estimators.GumbelRao(10, 0.3)),
        (estimators.StraightThrough(), estimators.StraightThrough(0.3)),
        (
            estimators.StraightThroughGumbel(),
            estimators.StraightThroughGumbel(0.3),
        ),
    ],
    ids=repr,
)
def test_gradient_depends_on_every_option(one, other):
    def slopes(estimator):
        return per_row(
            lambda x: loss(
                keras_gumbel.ops.sample_one_hot(x, 1.0, estimator, seed=0)
            ),
            rows(X, 9),
        )

    assert abs(slopes(one) - slopes(other)).max() > 1e-3


@pytest.mark.parametrize("seed", [0, keras.random.SeedGenerator(0)])
def test_gumbel_rao_draws_noise_beside_that_of_the_sample(seed):
    class Recording(estimators.GumbelRao):
        def surrogate(self, hard, logits, noise, temperature, seed=None):
            self.noises = [noise, self.draw(logits, seed)[0]]
            return ops.softmax(logits)

    recording = Recording(1)
    keras_gumbel.ops.sample_one_hot(rows(X), estimator=recording, seed=seed)

    own, other = (to_numpy(noise).ravel() for noise in recording.noises)
    assert abs(np.corrcoef(own, other)[0, 1]) < 6.1 / own.size**0.5


@pytest.mark.parametrize("name", ["reinmax", "gapped", "gumbel_rao"])
def test_estimator_is_called_on_a_sample(name):
    hard = np.eye(3, dtype="float32")[np.arange(DRAWS) % 3]

    def sample(x):
        return estimator_of(name)(hard, x, 0.5, seed=0)

    slopes = per_row(lambda x: loss(sample(x)), rows(X))

    assert (to_numpy(sample(rows(X))) == hard).all()
    for k, h in enumerate(np.eye(3)):
        expected = enumeration.MATRICES[name](X, h, 0.5) @ slope(h)
        if name == "gumbel_rao":
            require_means(slopes[k::3], expected)
        else:
            np.testing.assert_allclose(
                slopes[k::3], rows(expected, len(slopes[k::3])), atol=1e-5
            )


def test_estimator_is_called_along_an_axis():
    hard = np.eye(3, dtype="float32")

    def slopes(axis):
        return per_row(
            lambda x: ops.sum(
                ops.multiply(estimators.ReinMax()(hard, x, axis=axis), LINEAR)
            ),
            rows(X, 3),
        )

    assert abs(slopes(0) - slopes(-1)).max() > 1e-2
    np.testing.assert_allclose(
        slopes(0),
        per_row(
            lambda x: ops.sum(
                ops.multiply(
                    estimators.ReinMax()(hard, ops.transpose(x)),
                    LINEAR[:, None],
                )
            ),
            rows(X, 3),
        ),
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"estimator": "unknown"}, "`estimator`.*one of 'straight_through_gum"),
        ({"estimator": None}, "`estimator`.*one of 'straight_through_gum"),
        ({"estimator": int}, "`estimator`.*one of 'straight_through_gum"),
        ({"temperature": 0.0}, "`temperature`.*positive finite"),
        (
            {"estimator": estimators.Gapped(backward_temperature=ANNEALING)},
            "`estimator`.*not a schedule",
        ),
        ({"axis": 1}, "`axis`.*integer in"),
    ],
)
def test_sample_one_hot_refuses_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        keras_gumbel.ops.sample_one_hot(X, **kwargs)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: estimators.GumbelRao(0), "`num_samples`.*positive integer"),
        (lambda: estimators.GumbelRao(1.5), "`num_samples`.*positive integer"),
        (lambda: estimators.Gapped(-1.0), "`gap`.*positive finite"),
        (
            lambda: estimators.StraightThrough(0.0),
            "`backward_temperature`.*positive finite",
        ),
        (
            lambda: estimators.ReinMax()(X, X, temperature=-1.0),
            "`temperature`.*positive finite",
        ),
        (
            lambda: estimators.StraightThroughGumbel()(X, X),
            "`noise`.*that of the sample",
        ),
        (lambda: estimators.get("unknown"), "`identifier`.*one of 'straight"),
    ],
)
def test_estimators_refuse_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_relaxed_sample_has_no_other_estimator():
    with pytest.raises(ValueError, match="`estimator`.*hard=True"):
        keras_gumbel.ops.gumbel_softmax(X, estimator="reinmax")
    with pytest.raises(ValueError, match="`estimator`.*hard=True"):
        keras_gumbel.ops.relaxed_bernoulli(X, estimator="reinmax")


def test_backward_temperature_is_of_the_gradient_alone():
    noise = to_numpy(keras_gumbel.random.gumbel((6, 3), seed=1))
    noise = noise.astype("float32")

    def sample(x, forward, backward=None, hard=False):
        return keras_gumbel.ops.gumbel_softmax(
            x,
            forward,
            hard,
            noise=noise,
            estimator=estimators.StraightThroughGumbel(backward),
        )

    def slopes(*args, **kwargs):
        return per_row(
            lambda x: ops.matmul(sample(x, *args, **kwargs), LINEAR),
            rows(X, 6),
        )

    value = to_numpy(sample(rows(X, 6), 0.5, 2.0))
    assert (value == to_numpy(sample(rows(X, 6), 0.5))).all()
    assert (slopes(0.5, 2.0) == slopes(2.0)).all()
    assert (slopes(0.5, 2.0, hard=True) == slopes(2.0, hard=True)).all()
    assert abs(slopes(0.5, 2.0) - slopes(0.5)).max() > 1e-2


def test_backward_temperature_of_masks_is_of_the_gradient_alone():
    s = np.float32([0.0, 0.3, 0.8, 1.0])
    noise = np.float32([0.2, 0.5, -1.0, 0.1])

    def sample(s, forward, backward=None):
        return keras_gumbel.ops.relaxed_bernoulli(
            s,
            forward,
            noise=noise,
            estimator=estimators.StraightThroughGumbel(backward),
        )

    def slopes(*args):
        return per_row(lambda s: sample(s, *args), s)

    value = to_numpy(sample(s, 0.5, 2.0))
    assert (value == to_numpy(sample(s, 0.5))).all()
    assert (slopes(0.5, 2.0) == slopes(2.0)).all()
    assert abs(slopes(0.5, 2.0) - slopes(0.5))[1:3].max() > 1e-2


@keras.saving.register_keras_serializable(package="tests")
class Shifted(estimators.Estimator):
    """An estimator of a user's: the softmax of shifted logits."""

    def __init__(self, shift=0.5, **kwargs):
        super().__init__(**kwargs)
        self.shift = shift

    def surrogate(self, hard, logits, noise, temperature, seed=None):
        return ops.softmax((logits + self.shift * hard) / temperature)

    def get_config(self):
        return {**super().get_config(), "shift": self.shift}


@keras.saving.register_keras_serializable(package="tests")
def shifted(hard, logits, noise, temperature):
    """The same as a function."""
    return Shifted().surrogate(hard, logits, noise, temperature)


def shifted_matrix(x, h, temperature):
    return enumeration.straight_through(x + 0.5 * h, h, temperature)


@pytest.mark.parametrize("estimator", [Shifted, Shifted(), shifted])
def test_estimator_of_a_user_has_its_expectation(estimator, monkeypatch):
    monkeypatch.setitem(enumeration.MATRICES, "shifted", shifted_matrix)
    s = np.full((DRAWS,), 0.3, "float32")

    def total(x):
        return loss(keras_gumbel.ops.sample_one_hot(x, 0.5, estimator, seed=1))

    def mask_total(s):
        m = keras_gumbel.ops.sample_bernoulli(s, 0.6, estimator, seed=1)
        return ops.tanh(2.0 * m - 0.5)

    expected = enumeration.one_layer("shifted", X, slope, 0.5)
    require_means(per_row(total, rows(X)), expected)
    expected = enumeration.bernoulli("shifted", 0.3, mask_slope, 0.6)
    require_mean(per_row(mask_total, s), expected)


@pytest.mark.parametrize("estimator", [Shifted(0.2), shifted])
@pytest.mark.parametrize(
    "make",
    [
        keras_gumbel.layers.StraightThroughArgmax,
        lambda **options: keras_gumbel.layers.GumbelSoftmax(
            hard=True, **options
        ),
        lambda **options: keras_gumbel.layers.ConcreteMask(
            hard=True, scores_initializer="random_uniform", **options
        ),
    ],
)
def test_estimator_of_a_user_is_saved_with_its_layer(make, estimator):
    layer = make(estimator=estimator, seed=0)
    again = type(layer).from_config(layer.get_config())

    assert again.get_config() == layer.get_config()
    assert type(again.estimator) is type(layer.estimator)
    assert vars(again.estimator) == vars(layer.estimator)


@pytest.mark.parametrize(
    "estimator",
    [
        *map(estimators.get, ESTIMATORS),
        estimators.GumbelRao(3, backward_temperature=ANNEALING),
        estimators.Gapped(0.3, 2.0),
        estimators.ReinMax(None),
    ],
)
def test_estimator_comes_back_from_its_config(estimator):
    config = keras.saving.serialize_keras_object(estimator)

    again = estimators.get(json.loads(json.dumps(config)))

    assert type(again) is type(estimator)
    assert again.get_config() == estimator.get_config()


def mask_slope(m):
    return 2 - 2 * np.tanh(2 * m - 0.5) ** 2


@pytest.mark.parametrize("s", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_bernoulli_estimator_has_its_exact_expectation(name, s):
    def total(probs):
        estimator = estimator_of(name)
        m = keras_gumbel.ops.sample_bernoulli(probs, 0.6, estimator, seed=1)
        return ops.tanh(2.0 * m - 0.5)

    slopes = per_row(total, np.full((DRAWS,), s, "float32"))

    expected = enumeration.bernoulli(name, s, mask_slope, 0.6)
    require_mean(slopes, expected)


@pytest.mark.parametrize(
    ("name", "loss", "slope"),
    [
        ("identity", lambda m: 3 * m, lambda m: 3.0),
        ("reinmax", lambda m: 3 * m - 5 * m**2, lambda m: 3 - 10 * m),
    ],
)
def test_bernoulli_estimator_has_no_bias_in_its_class(name, loss, slope):
    # E[loss(m)] = s loss(1) + (1 - s) loss(0), linear in s.
    mean = enumeration.bernoulli(name, 0.3, slope, 0.6)

    assert mean == pytest.approx(loss(1.0) - loss(0.0))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_bernoulli_sample_is_exactly_zero_or_one(name, dtype):
    probs = ops.cast(ops.repeat(ops.array([0.0, 0.25, 1.0]), DRAWS), dtype)

    sample = keras_gumbel.ops.sample_bernoulli(probs, 0.5, name, seed=1)

    assert dtype_of(sample) == dtype
    zeros, some, ones = np.split(to_numpy(sample), 3)
    assert not zeros.any()
    assert ones.all()
    require_frequencies(np.bincount(some.astype(int)), [0.75, 0.25])


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_bernoulli_estimator_is_finite_at_the_edges(name, jit):
    s = np.array([0.0, 1e-30, 1e-6, 0.5, 1 - 2**-24, 1.0], "float32")

    def total(s, t):
        return ops.sum(
            keras_gumbel.ops.sample_bernoulli(s, t, name, noise=0.3 * s, seed=0)
        )

    for temperature in np.float32([1e-10, 1.0, 1e30]):
        slopes = gradient(total, s, temperature, jit=jit)

        assert all(np.isfinite(slope).all() for slope in slopes)


def test_sample_bernoulli_refuses_an_unknown_estimator():
    with pytest.raises(ValueError, match=r"`estimator`.*one of 'straight_thr"):
        keras_gumbel.ops.sample_bernoulli([0.5], estimator="unknown")


@pytest.mark.parametrize("temperature", [0.4, 1.0])
@pytest.mark.parametrize(
    "kind",
    [
        estimators.StraightThroughGumbel,
        estimators.StraightThrough,
        estimators.ReinMax,
    ],
)
def test_binary_formula_is_that_of_two_classes(kind, temperature):
    s = np.float32([0.0, 2**-20, 0.01, 0.3, 0.5, 0.9, 1 - 2**-20, 1.0])
    noise = np.linspace(-3, 3, 8, dtype="float32")
    short = kind(temperature)
    reduced = kind(temperature)
    reduced.binary_surrogate = functools.partial(
        estimators.Estimator.binary_surrogate, reduced
    )

    one, other = (
        per_row(
            lambda s, e=e: keras_gumbel.ops.sample_bernoulli(
                s, estimator=e, noise=noise
            ),
            s,
        )
        for e in (short, reduced)
    )

    np.testing.assert_allclose(one, other, rtol=1e-4)
    assert temperature != 1.0 or (one > 0).all()
