"""Every function of `ops` on temperatures that are none, and on no rows."""

import functools

import numpy as np
import pytest
from keras import ops

import keras_gumbel as kg
from tests.gradients import MODES
from tests.gradients import compiled
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
