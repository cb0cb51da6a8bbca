"""Functions of `ops` on unusual temperatures, no rows, one class, float64."""

import functools
import json
import warnings

import numpy as np
import pytest
from keras import ops
from scipy import optimize
from scipy import special
from scipy import stats

import keras_gumbel as kg
from keras_gumbel.ops._short_rows import project_short_rows
from tests import reference
from tests.gradients import MODES
from tests.gradients import compiled
from tests.gradients import dtype_of
from tests.gradients import float64_allowed
from tests.gradients import gradient
from tests.gradients import to_numpy
from tests.short_names import PATHWISE

# Eager JAX would compile every operation of a gradient.
HARSH_MODES = MODES[-1:]

RNG = np.random.default_rng(0)
BAD = [0.0, -0.0, -1.0, np.nan, np.inf, -np.inf, 1e-38, 3e38]
ROWS = 2 * len(BAD)
X = RNG.normal(size=(ROWS, 4)).astype("float32")
S = RNG.uniform(0.1, 0.9, size=(ROWS, 4)).astype("float32")
GUMBEL = RNG.gumbel(size=(ROWS, 4)).astype("float32")
LOGISTIC = RNG.logistic(size=(ROWS, 4)).astype("float32")
DRAWS = RNG.gumbel(size=(3, ROWS, 4)).astype("float32")
LOG_Y = X - np.log(np.exp(X).sum(-1, keepdims=True))
ONE_HOT = np.eye(4, dtype="float32")[(X + GUMBEL).argmax(-1)]
# Every other row has a good one.
T = np.full((ROWS, 1), 0.7, "float32")
T[::2, 0] = BAD
GOOD = np.full((ROWS, 1), 0.7, "float32")

LARGEST = np.sort(X + GUMBEL, axis=-1)[:, -2:-1]


def bound(function, *arrays, **options):
    """A function of logits or probabilities, and a temperature."""
    return functools.partial(_call, function, arrays, options)


def _call(function, arrays, options, x, temperature):
    return function(*arrays, x, temperature, **options)


def _backward(x, temperature):
    estimator = kg.estimators.StraightThroughGumbel()
    estimator.backward_temperature = temperature
    return kg.ops.gumbel_softmax(
        x, 0.7, hard=True, noise=GUMBEL, estimator=estimator
    )


def _on_sample(estimator):
    """An estimator, called on a sample."""
    return lambda x, temperature: estimator(ONE_HOT, x, temperature, seed=1)


# The function, its first argument, and its right value where it is discrete.
CATEGORICAL = {
    "gumbel_softmax": (bound(kg.ops.gumbel_softmax, noise=GUMBEL), None),
    "gumbel_softmax_hard": (
        bound(kg.ops.gumbel_softmax, noise=GUMBEL, hard=True),
        ONE_HOT,
    ),
    "backward_temperature": (_backward, ONE_HOT),
    "gumbel_log_softmax": (
        bound(kg.ops.gumbel_log_softmax, noise=GUMBEL),
        None,
    ),
    **{
        f"sample_one_hot_{name}": (
            bound(kg.ops.sample_one_hot, noise=GUMBEL, estimator=name, seed=1),
            ONE_HOT,
        )
        for name in PATHWISE
    },
    "reinmax": (_on_sample(kg.estimators.ReinMax(None)), ONE_HOT),
    "gumbel_rao": (_on_sample(kg.estimators.GumbelRao(3)), ONE_HOT),
    "gapped": (_on_sample(kg.estimators.Gapped()), ONE_HOT),
    "relaxed_top_k": (
        lambda x, t: kg.ops.relaxed_top_k(x, 2, t, noise=GUMBEL),
        None,
    ),
    "relaxed_top_k_hard": (
        lambda x, t: kg.ops.relaxed_top_k(x, 2, t, hard=True, noise=GUMBEL),
        X + GUMBEL >= LARGEST,
    ),
    "logit_relaxed_bernoulli": (
        bound(kg.ops.logit_relaxed_bernoulli, noise=LOGISTIC),
        None,
    ),
    "concrete_log_prob": (bound(kg.ops.concrete_log_prob, LOG_Y), None),
    "exp_concrete_log_prob": (
        bound(kg.ops.exp_concrete_log_prob, LOG_Y),
        None,
    ),
    "binary_concrete_log_prob": (
        bound(kg.ops.binary_concrete_log_prob, LOGISTIC),
        None,
    ),
    "logit_binary_concrete_log_prob": (
        bound(kg.ops.logit_binary_concrete_log_prob, LOGISTIC),
        None,
    ),
}
ONES = np.log(S / (1 - S)) + LOGISTIC > 0
BINARY = {
    "relaxed_bernoulli": (
        bound(kg.ops.relaxed_bernoulli, noise=LOGISTIC),
        None,
    ),
    "relaxed_bernoulli_hard": (
        bound(kg.ops.relaxed_bernoulli, noise=LOGISTIC, hard=True),
        ONES,
    ),
    **{
        f"sample_bernoulli_{name}": (
            bound(
                kg.ops.sample_bernoulli,
                noise=LOGISTIC,
                estimator=name,
                seed=1,
            ),
            ONES,
        )
        for name in PATHWISE
    },
    "hard_concrete": (bound(kg.ops.hard_concrete, noise=LOGISTIC), None),
}
CASES = {
    **{name: (X, *case) for name, case in CATEGORICAL.items()},
    **{name: (S, *case) for name, case in BINARY.items()},
}


@pytest.mark.parametrize("jit", HARSH_MODES)
@pytest.mark.parametrize("name", CASES)
def test_no_temperature_in_a_tensor_spoils_a_row(name, jit):
    # Before, a row of NaN, of hard samples too.
    x, function, right = CASES[name]
    run = compiled(function, jit)

    values, expected = (
        to_numpy(run(ops.convert_to_tensor(x), ops.convert_to_tensor(t)))
        for t in (T, GOOD)
    )

    assert np.isfinite(values).all()
    assert (values[1::2] == expected[1::2]).all()
    if right is not None:
        assert (values == right).all()


@pytest.mark.parametrize("jit", HARSH_MODES)
@pytest.mark.parametrize("name", CASES)
def test_no_temperature_in_a_tensor_spoils_a_gradient(name, jit):
    x, *_ = CASES[name]

    slopes = gradient(_losses()[name], x, T, jit=jit)

    assert all(np.isfinite(slope).all() for slope in slopes)


@functools.cache
def _losses():
    """Scalar functions, the same for every call: they are compiled once."""
    return {
        name: functools.partial(_loss, function)
        for name, (_, function, _) in CASES.items()
    }


def _loss(function, x, temperature):
    y = function(x, temperature)
    weights = ops.arange(1, 1 + y.shape[-1], dtype="float32")
    return ops.sum(y * weights)


@pytest.mark.parametrize("hard", [False, True])
def test_cold_tensor_is_the_limit(hard):
    y = kg.ops.gumbel_softmax(
        X, ops.convert_to_tensor(T), hard=hard, noise=GUMBEL
    )

    cold = [0, 2, 4, 6, 10, 12]  # 0, -0, -1, NaN, -inf, 1e-38
    warm = [8, 14]  # inf, 3e38
    expected = ONE_HOT[warm] if hard else np.full((2, 4), 0.25)
    assert (to_numpy(y)[cold] == ONE_HOT[cold]).all()
    assert (to_numpy(y)[warm] == expected).all()


def test_forbidden_class_stays_forbidden_at_every_temperature():
    mask = np.array([True, False, True, True])

    y = to_numpy(
        kg.ops.gumbel_softmax(
            X, ops.convert_to_tensor(T), mask=mask, noise=GUMBEL
        )
    )

    np.testing.assert_allclose(y.sum(-1), 1.0, rtol=1e-6)
    assert (y[:, 1] == 0).all()


@pytest.mark.one_backend
@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize("kind", [np.array, list])
@pytest.mark.parametrize("name", CASES)
def test_array_without_positive_temperatures_is_refused(name, kind, bad):
    x, function, _ = CASES[name]
    temperature = kind([1.0, 1.0, bad, 1.0])
    if "concrete_log_prob" in name and "binary" not in name:
        temperature = kind([1.0] * (ROWS - 1) + [bad])
        temperature = kind([[t] for t in temperature])

    with pytest.raises(ValueError, match="temperature` of `.*positive finite"):
        function(x, temperature)


# --- no rows


def _shaped(function, *arguments, **options):
    return functools.partial(_seeded, function, arguments, options)


def _seeded(function, arguments, options, x, t):
    return function(x, *arguments, **options, seed=1)


EMPTY = {
    **{
        name: (_shaped(getattr(kg.ops, name)), (0, 4))
        for name in (
            "gumbel_softmax",
            "gumbel_log_softmax",
            "relaxed_bernoulli",
            "sample_bernoulli",
            "hard_concrete",
            "stochastic_gate",
        )
    },
    "gumbel_softmax_hard": (_shaped(kg.ops.gumbel_softmax, hard=True), (0, 4)),
    **{
        f"sample_one_hot_{name}": (
            _shaped(kg.ops.sample_one_hot, estimator=name),
            (0, 4),
        )
        for name in PATHWISE
    },
    "gumbel_max": (_shaped(kg.ops.gumbel_max), (0,)),
    "categorical": (
        lambda x, t: kg.ops.categorical(ops.tile(x, (1, 100)), seed=1),
        (0,),
    ),
    "one_hot_argmax": (lambda x, t: kg.ops.one_hot_argmax(x), (0, 4)),
    "gumbel_top_k": (_shaped(kg.ops.gumbel_top_k, 2), (0, 4)),
    "relaxed_top_k": (_shaped(kg.ops.relaxed_top_k, 2), (0, 4)),
    "subset_marginals": (lambda x, t: kg.ops.subset_marginals(x, 2), (0, 4)),
    "sample_subset": (_shaped(kg.ops.sample_subset, 2), (0, 4)),
    "concrete_log_prob": (
        lambda x, t: kg.ops.concrete_log_prob(x, x, t),
        (0,),
    ),
    "binary_concrete_log_prob": (
        lambda x, t: kg.ops.binary_concrete_log_prob(x, x, t),
        (0, 4),
    ),
    "categorical_entropy": (lambda x, t: kg.ops.categorical_entropy(x), (0,)),
    "categorical_kl": (lambda x, t: kg.ops.categorical_kl(x), (0,)),
    "project_rows": (
        lambda x, t: kg.ops.project_capped_box(x, 2, axis=-1),
        (0, 4),
    ),
    "project": (lambda x, t: kg.ops.project_capped_box(x, 2), (0, 4)),
    "project_beside_some": (
        lambda x, t: kg.ops.project_capped_box([ops.ones(3), x], 2)[1],
        (0, 4),
    ),
    "top_k_mask": (lambda x, t: kg.ops.top_k_mask(x, 2), (0, 4)),
    "top_k_mask_of_two": (
        lambda x, t: kg.ops.top_k_mask([x, x + 1], 2)[1],
        (0, 4),
    ),
    "top_k_mask_beside_some": (
        lambda x, t: kg.ops.top_k_mask([x, ops.ones(3)], 2)[0],
        (0, 4),
    ),
}


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("name", EMPTY)
def test_no_rows_give_no_rows(name, jit):
    # Eager TensorFlow: "Cannot compute the max of an empty tensor."
    function, shape = EMPTY[name]

    y = compiled(function, jit)(ops.zeros((0, 4)), ops.ones((0, 1)))

    assert tuple(y.shape) == shape


@pytest.mark.parametrize(
    "make",
    [
        kg.layers.GumbelSoftmax,
        kg.layers.StraightThroughArgmax,
        lambda: kg.layers.SubsetSampler(2),
        kg.layers.ConcreteMask,
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_layer_of_no_rows_gives_no_rows(make, training):
    y = make()(ops.zeros((0, 4)), training=training)

    assert tuple(y.shape) == (0, 4)


@pytest.mark.parametrize(
    "metric", [kg.metrics.CodeUsage, kg.metrics.CodePerplexity]
)
def test_metric_of_no_codes_counts_none(metric):
    counted = metric(4)

    counted.update_state(ops.zeros((0, 4)))

    assert float(counted.result()) == 0


# --- no probability, and a sure one


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 1e30])
@pytest.mark.parametrize(
    "draw",
    [kg.ops.relaxed_bernoulli, kg.ops.sample_bernoulli, kg.ops.hard_concrete],
)
def test_mask_of_no_probability_is_exactly_zero(draw, temperature, jit):
    # By the clip of s alone, 9e-12 at temperature 0.5.
    noise = np.array([[-17.0, 0.0, 17.0]] * 3, "float32")
    s = np.array([[0.0], [1.0], [0.5]], "float32") + np.zeros((1, 3), "float32")
    run = compiled(lambda s: draw(s, temperature, noise=noise), jit)

    m = to_numpy(run(ops.convert_to_tensor(s)))

    assert (m[0] == 0).all()
    assert (m[1] == 1).all()
    assert m[2, 2] > m[2, 0] or temperature == 1e30


@pytest.mark.parametrize("edge", [0.0, 1.0])
def test_stochastic_gate_of_no_probability_is_exactly_zero(edge):
    noise = np.array([-9.0, 0.0, 9.0], "float32")

    m = kg.ops.stochastic_gate(ops.full((3,), edge), noise=noise)

    assert (to_numpy(m) == edge).all()


@pytest.mark.parametrize("edge", [0.0, 1.0])
@pytest.mark.parametrize(
    "draw", [kg.ops.relaxed_bernoulli, kg.ops.stochastic_gate]
)
def test_mask_at_the_edge_can_come_back(draw, edge):
    far = np.full((3,), 9.0 if edge == 0 else -9.0, "float32")

    (slope,) = gradient(
        lambda s: ops.sum(draw(s, noise=far)), np.full((3,), edge, "float32")
    )

    assert np.isfinite(slope).all()
    if draw is kg.ops.relaxed_bernoulli:
        assert (slope > 0).all()


# --- a sample where its logarithm belongs

LOG_DENSITIES = [kg.ops.concrete_log_prob, kg.ops.exp_concrete_log_prob]


@pytest.mark.one_backend
@pytest.mark.parametrize("log_prob", LOG_DENSITIES)
@pytest.mark.parametrize("classes", [2, 3, 1000])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
def test_density_refuses_a_sample_for_its_logarithm(
    log_prob, classes, temperature
):
    x = np.random.default_rng(1).normal(size=(3, classes)).astype("float32")
    y = kg.ops.gumbel_softmax(x, temperature, seed=1)

    with pytest.raises(ValueError, match="`log_sample` of .* logarithm"):
        log_prob(y, x, temperature)
    assert np.isfinite(to_numpy(log_prob(ops.log(y + 1e-30), x, 1.0))).all()


@pytest.mark.parametrize("log_prob", LOG_DENSITIES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_density_takes_logarithms_in_half_precision(log_prob, dtype):
    x = ops.zeros((4, 2000), dtype)
    log_y = kg.ops.gumbel_log_softmax(x, 5.0, seed=1)

    assert np.isfinite(to_numpy(log_prob(log_y, x, 5.0))).all()


@pytest.mark.parametrize("log_prob", LOG_DENSITIES)
def test_density_refuses_logits_for_logarithms(log_prob):
    with pytest.raises(ValueError, match="`log_sample` of .* sum to 1"):
        log_prob(X - 5.0, X)


# --- float64

WIDE = np.random.default_rng(3)
WIDE_X = WIDE.normal(size=(3, 4))
WIDE_S = WIDE.uniform(0.1, 0.9, size=(3, 4))
WIDE_GUMBEL = WIDE.gumbel(size=(3, 4))
WIDE_LOGISTIC = WIDE.logistic(size=(3, 4))
WIDE_LOG_Y = special.log_softmax(WIDE.normal(size=(3, 4)), -1)
WIDE_MATRIX = WIDE.normal(size=(2, 3, 3))
PRIOR = WIDE.normal(size=(3, 4))
ORDER = np.array([[2, 0], [1, 3], [3, 2]], "int32")
SUBSETS = np.array([h for h in np.ndindex(2, 2, 2, 2) if sum(h) == 2])


def _one_hot(values):
    return np.eye(values.shape[-1])[values.argmax(-1)]


def _relaxed_top_two(x, t):
    """Rows of shares of the first item, and of the second."""
    scores = x + WIDE_GUMBEL
    first = special.softmax(scores / t, -1)
    rest = np.stack([np.delete(first, i, -1).sum(-1) for i in range(4)], -1)
    return first + special.softmax((scores + np.log(rest)) / t, -1)


def _order_log_prob(x):
    first, second = np.take_along_axis(x, ORDER, -1).T
    left = x.copy()
    np.put_along_axis(left, ORDER[:, :1], -np.inf, -1)
    return np.stack(
        [
            first - special.logsumexp(x, -1),
            second - special.logsumexp(left, -1),
        ],
        -1,
    )


def _marginals(x):
    weights = special.softmax(x @ SUBSETS.T, -1)
    return weights @ SUBSETS


def _sinkhorn(x, t, noise=0.0):
    log_p = (x + noise) / t
    for _ in range(400):
        log_p = special.log_softmax(special.log_softmax(log_p, -1), -2)
    return np.exp(log_p)


def _matching(x):
    found = np.zeros_like(x)
    for row, values in zip(found, x, strict=True):
        row[optimize.linear_sum_assignment(-values)] = 1.0
    return found


def _kl(x, prior):
    log_p = special.log_softmax(x, -1)
    terms = log_p - special.log_softmax(prior, -1)
    return (np.exp(log_p) * terms).sum(-1)


def _concrete(y, x, t):
    return np.array(
        [
            np.log(reference.concrete_density(a, b, t))
            for a, b in zip(y, x, strict=True)
        ]
    )


def _logistic(x, t):
    return stats.logistic.logpdf(WIDE_LOGISTIC, loc=x / t, scale=1 / t)


def _hard_concrete(s, t, low=-0.1, high=1.1):
    logit = (special.logit(s) + WIDE_LOGISTIC) / t + np.log(-low / high)
    return np.clip(special.expit(logit) * (high - low) + low, 0, 1)


def _ranks(x, t):
    distance = (x[:, :, None] - x[:, None, :]) / t
    return 0.5 + stats.laplace.cdf(distance).sum(-1)


# The function, its argument, and the same in NumPy.
IN_FLOAT64 = {
    "gumbel_softmax": (
        lambda x, t: kg.ops.gumbel_softmax(x, t, noise=WIDE_GUMBEL),
        WIDE_X,
        lambda x, t: special.softmax((x + WIDE_GUMBEL) / t, -1),
    ),
    "gumbel_log_softmax": (
        lambda x, t: kg.ops.gumbel_log_softmax(x, t, noise=WIDE_GUMBEL),
        WIDE_X,
        lambda x, t: special.log_softmax((x + WIDE_GUMBEL) / t, -1),
    ),
    **{
        f"sample_one_hot_{name}": (
            lambda x, t, name=name: kg.ops.sample_one_hot(
                x, t, name, noise=WIDE_GUMBEL
            ),
            WIDE_X,
            lambda x, t: _one_hot(x + WIDE_GUMBEL),
        )
        for name in PATHWISE
    },
    "one_hot_argmax": (
        lambda x, t: kg.ops.one_hot_argmax(x),
        WIDE_X,
        lambda x, t: _one_hot(x),
    ),
    "relaxed_top_k": (
        lambda x, t: kg.ops.relaxed_top_k(x, 2, t, noise=WIDE_GUMBEL),
        WIDE_X,
        _relaxed_top_two,
    ),
    "gumbel_top_k": (
        lambda x, t: kg.ops.gumbel_top_k(x, 4, noise=WIDE_GUMBEL),
        WIDE_X,
        lambda x, t: np.ones_like(x),
    ),
    "sample_subset": (
        lambda x, t: kg.ops.sample_subset(x, 4, seed=1),
        WIDE_X,
        lambda x, t: np.ones_like(x),
    ),
    "subset_marginals": (
        lambda x, t: kg.ops.subset_marginals(x, 2),
        WIDE_X,
        lambda x, t: _marginals(x),
    ),
    "sample_without_replacement": (
        lambda x, t: kg.ops.sample_without_replacement(
            x, 2, noise=_noise_of_order(x)
        )[1],
        WIDE_X,
        lambda x, t: _order_log_prob(x),
    ),
    "plackett_luce_log_prob": (
        lambda x, t: kg.ops.plackett_luce_log_prob(ORDER, x),
        WIDE_X,
        lambda x, t: _order_log_prob(x).sum(-1),
    ),
    "soft_rank": (
        lambda x, t: kg.ops.soft_rank(x, t),
        WIDE_X,
        _ranks,
    ),
    "sinkhorn": (
        lambda x, t: kg.ops.sinkhorn(x, t, 200),
        WIDE_MATRIX,
        _sinkhorn,
    ),
    "gumbel_sinkhorn": (
        lambda x, t: kg.ops.gumbel_sinkhorn(
            x, t, num_iterations=200, noise=0.1 * WIDE_MATRIX
        ),
        WIDE_MATRIX,
        lambda x, t: _sinkhorn(x, t, 0.1 * WIDE_MATRIX),
    ),
    "matching": (
        lambda x, t: kg.ops.matching(x),
        1e9 + 1e-3 * WIDE_MATRIX,  # alike in float32
        lambda x, t: _matching(x),
    ),
    "categorical_entropy": (
        lambda x, t: kg.ops.categorical_entropy(x),
        WIDE_X,
        lambda x, t: stats.entropy(special.softmax(x, -1), axis=-1),
    ),
    "categorical_kl": (
        lambda x, t: kg.ops.categorical_kl(x, PRIOR),
        WIDE_X,
        lambda x, t: _kl(x, PRIOR),
    ),
    "mix_uniform": (
        lambda x, t: kg.ops.mix_uniform(x, 0.1),
        WIDE_X,
        lambda x, t: np.log(0.9 * special.softmax(x, -1) + 0.025),
    ),
    "concrete_log_prob": (
        lambda x, t: kg.ops.concrete_log_prob(WIDE_LOG_Y, x, t),
        WIDE_X,
        lambda x, t: _concrete(np.exp(WIDE_LOG_Y), x, t),
    ),
    "exp_concrete_log_prob": (
        lambda x, t: kg.ops.exp_concrete_log_prob(WIDE_LOG_Y, x, t),
        WIDE_X,
        lambda x, t: _concrete(np.exp(WIDE_LOG_Y), x, t) + WIDE_LOG_Y.sum(-1),
    ),
    "logit_binary_concrete_log_prob": (
        lambda x, t: kg.ops.logit_binary_concrete_log_prob(WIDE_LOGISTIC, x, t),
        WIDE_X,
        lambda x, t: _logistic(x, t),
    ),
    "binary_concrete_log_prob": (
        lambda x, t: kg.ops.binary_concrete_log_prob(WIDE_LOGISTIC, x, t),
        WIDE_X,
        lambda x, t: _logistic(x, t) - stats.logistic.logpdf(WIDE_LOGISTIC),
    ),
    "logit_relaxed_bernoulli": (
        lambda x, t: kg.ops.logit_relaxed_bernoulli(x, t, noise=WIDE_LOGISTIC),
        WIDE_X,
        lambda x, t: (x + WIDE_LOGISTIC) / t,
    ),
    "relaxed_bernoulli": (
        lambda s, t: kg.ops.relaxed_bernoulli(s, t, noise=WIDE_LOGISTIC),
        WIDE_S,
        lambda s, t: special.expit((special.logit(s) + WIDE_LOGISTIC) / t),
    ),
    **{
        f"sample_bernoulli_{name}": (
            lambda s, t, name=name: kg.ops.sample_bernoulli(
                s, t, name, noise=WIDE_LOGISTIC
            ),
            WIDE_S,
            lambda s, t: (special.logit(s) + WIDE_LOGISTIC > 0) * 1.0,
        )
        for name in PATHWISE
    },
    "hard_concrete": (
        lambda s, t: kg.ops.hard_concrete(s, t, noise=WIDE_LOGISTIC),
        WIDE_S,
        _hard_concrete,
    ),
    "stochastic_gate": (
        lambda s, t: kg.ops.stochastic_gate(s, noise=WIDE_LOGISTIC),
        WIDE_S,
        lambda s, t: np.clip(0.5 * (stats.norm.ppf(s) + WIDE_LOGISTIC), 0, 1),
    ),
}


def _noise_of_order(x):
    """Noise with which the items of `ORDER` are drawn."""
    noise = np.zeros((3, 4))
    np.put_along_axis(noise, ORDER, [[200.0, 100.0]] * 3, -1)
    return noise


@pytest.mark.parametrize("kind", ["number", "tensor"])
@pytest.mark.parametrize("name", IN_FLOAT64)
def test_float64_is_exact_to_float64(name, kind):
    function, x, expected = IN_FLOAT64[name]
    with float64_allowed():
        t = ops.cast(np.array(0.7), "float64") if kind == "tensor" else 0.7

        y = function(ops.convert_to_tensor(x), t)

        assert dtype_of(y) == "float64"
        np.testing.assert_allclose(
            to_numpy(y), expected(x, 0.7), rtol=1e-12, atol=1e-13
        )


@pytest.mark.parametrize(
    "project",
    [
        lambda x: kg.ops.project_capped_box(x, 2.0),
        lambda x: kg.ops.project_capped_box(x, 2.0, axis=-1),
        lambda x: kg.ops.soft_top_k(x, 2),
        lambda x: project_short_rows(x, 2.0, -1),
        lambda x: kg.ops.top_k_mask(x, 2),
    ],
)
def test_projection_of_float64_is_float64(project):
    with float64_allowed():
        assert dtype_of(project(ops.convert_to_tensor(WIDE_X))) == "float64"


@pytest.mark.parametrize("kind", ["number", "tensor"])
def test_large_logits_keep_the_digits_of_float64(kind):
    x = np.array([1e12 + 3e4, 0.0, -1e12])
    with float64_allowed():
        logits = ops.convert_to_tensor(x)
        t = ops.cast(np.array(1.0), "float64") if kind == "tensor" else 1.0
        none = ops.zeros_like(logits)

        soft = kg.ops.gumbel_softmax(logits, t, noise=none)
        log_soft = kg.ops.gumbel_log_softmax(logits, t, noise=none)
        two = kg.ops.relaxed_top_k(logits, 2, 0.5 * t, noise=none)
        mixed = kg.ops.mix_uniform(logits)

        np.testing.assert_array_equal(to_numpy(soft), [1.0, 0.0, 0.0])
        np.testing.assert_array_equal(to_numpy(log_soft), x - x[0])
        assert float(kg.ops.categorical_entropy(logits)) == 0.0
        np.testing.assert_allclose(to_numpy(two), [1.0, 1.0, 0.0], rtol=1e-15)
        np.testing.assert_allclose(
            to_numpy(mixed), np.log([0.99 + 0.01 / 3, 0.01 / 3, 0.01 / 3])
        )


@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    "function",
    [
        lambda x: kg.ops.plackett_luce_log_prob(ORDER, x),
        lambda x: kg.ops.relaxed_top_k(x, 2, 0.7, noise=WIDE_GUMBEL),
        lambda x: kg.ops.gumbel_softmax(x, 0.7, noise=WIDE_GUMBEL),
        lambda x: kg.ops.mix_uniform(x, 0.1),
        lambda x: kg.ops.categorical_kl(x, PRIOR),
        lambda x: kg.ops.soft_rank(x, 0.7),
        lambda x: kg.ops.sinkhorn(x[:, :3], 0.7, 400),
    ],
)
def test_gradient_of_float64_is_that_of_torch(function):
    import torch

    x = torch.tensor(WIDE_X, requires_grad=True)

    assert torch.autograd.gradcheck(function, x)


@pytest.mark.parametrize("name", PATHWISE)
def test_estimator_has_a_gradient_in_float64(name):
    def loss(x):
        y = kg.ops.sample_one_hot(x, 0.7, name, noise=WIDE_GUMBEL, seed=1)
        return ops.sum(y * ops.convert_to_tensor(WIDE_X))

    with float64_allowed():
        (slopes,) = gradient(loss, WIDE_X)

    # Exactly zero but for the rounding of float64.
    np.testing.assert_allclose(slopes.sum(-1), 0.0, atol=1e-15)
    assert np.abs(slopes).max() > 0.01


# --- an axis of NumPy


def _of_two(function, x, axis):
    return function(x, 2, axis=axis)


AXIS = {
    **{
        name: getattr(kg.ops, name)
        for name in (
            "gumbel_softmax",
            "gumbel_log_softmax",
            "sample_one_hot",
            "gumbel_max",
            "categorical",
            "soft_rank",
            "one_hot_argmax",
            "categorical_entropy",
            "categorical_kl",
            "mix_uniform",
        )
    },
    **{
        name: functools.partial(_of_two, getattr(kg.ops, name))
        for name in (
            "relaxed_top_k",
            "gumbel_top_k",
            "sample_subset",
            "subset_marginals",
            "soft_top_k",
            "project_capped_box",
        )
    },
    "order": lambda x, axis: kg.ops.sample_without_replacement(x, 2, axis=axis)[
        1
    ],
    "concrete_log_prob": lambda x, axis: kg.ops.concrete_log_prob(
        LOG_Y, x, axis=axis
    ),
    "reinmax": lambda x, axis: kg.estimators.ReinMax()(ONE_HOT, x, axis=axis),
    "CategoricalKL": lambda x, axis: kg.regularizers.CategoricalKL(axis=axis)(
        x
    ),
    "GumbelSoftmax": lambda x, axis: kg.layers.GumbelSoftmax(axis=axis)(
        x, training=True
    ),
    "StraightThroughArgmax": lambda x, axis: kg.layers.StraightThroughArgmax(
        axis=axis
    )(x, training=True),
    "SubsetSampler": lambda x, axis: kg.layers.SubsetSampler(2, axis=axis)(
        x, training=True
    ),
}


@pytest.mark.parametrize("axis", [np.int64(-1), np.int32(1)])
@pytest.mark.parametrize("name", AXIS)
def test_axis_can_be_an_integer_of_numpy(name, axis):
    y = AXIS[name](ops.convert_to_tensor(X), axis=axis)

    assert tuple(y.shape) == tuple(AXIS[name](X, axis=int(axis)).shape)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "make",
    [
        kg.layers.GumbelSoftmax,
        kg.layers.StraightThroughArgmax,
        functools.partial(kg.layers.SubsetSampler, 2),
        kg.regularizers.CategoricalKL,
        functools.partial(kg.metrics.CodeUsage, 4),
    ],
)
def test_axis_of_numpy_can_be_saved(make):
    config = make(axis=np.int64(1)).get_config()

    assert json.loads(json.dumps(config))["axis"] == 1


# --- one class


@pytest.mark.parametrize("hard", [False, True])
def test_only_class_is_sure(hard):
    x = np.array([[0.0], [-np.inf], [3.0]], "float32")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = kg.ops.gumbel_softmax(x, 0.5, hard=hard, seed=1)

    np.testing.assert_array_equal(to_numpy(y), [[1.0], [0.0], [1.0]])
