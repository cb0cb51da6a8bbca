"""Estimators that compare losses have no bias, shown by enumeration."""

import functools
import itertools

import keras
import numpy as np
import pytest
from keras import ops

import keras_gumbel as kg
from keras_gumbel.estimators import REBAR
from keras_gumbel.estimators import RLOO
from keras_gumbel.estimators import ScoreTape
from tests import enumeration
from tests import reference
from tests.cases import compiled_for
from tests.gradients import MODES
from tests.gradients import gradient
from tests.gradients import to_numpy
from tests.short_names import PATHWISE
from tests.short_names import UNBIASED
from tests.statistics import require_mean

QUICK = True  # compiled, where there is a compiler
X = np.array([0.8, -0.4, 0.1], "float32")
EFFECTS = np.array([1.0, -2.0, 0.5], "float32")
PAIRS = np.array([[0.9, -0.3], [-0.2, 0.6]], "float32")
FORBIDDEN = np.array([0.8, -np.inf, 0.1], "float32")
ANTITHETIC = ["disarm", "arm"]


def jagged(h):
    """A loss of every example that has no gradient, and no symmetry."""
    total = ops.sum(
        ops.multiply(h, EFFECTS[: h.shape[-1]]), axis=tuple(range(1, h.ndim))
    )
    return ops.cast(total > 0.3, "float32") + ops.floor(2.0 * total)


def numpy_jagged(h):
    total = float((np.asarray(h) * EFFECTS[: np.shape(h)[-1]]).sum())
    return float(total > 0.3) + np.floor(2.0 * total)


def given(index, count):
    """Noise with which an index is drawn, whatever the logits."""
    return 1e3 * np.eye(count, dtype="float32")[index]


@pytest.mark.parametrize("draws", [2, 3])
def test_rloo_is_exact_summed_over_all_draws(draws):
    choices = list(itertools.product(range(3), repeat=draws))
    p = reference.softmax(X)

    def surrogate(x):
        total = 0.0
        for chosen in choices:
            tape = ScoreTape()
            losses = []
            for k in chosen:
                with tape.draw():
                    h = kg.ops.sample_one_hot(
                        x, estimator="rloo", noise=given(k, 3)
                    )
                losses.append(jagged(h[None])[0])
            total = total + float(np.prod(p[list(chosen)])) * tape.loss(losses)
        return total

    (found,) = gradient(surrogate, X)

    expected = enumeration.exact_gradient(X, numpy_jagged)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(expected).max() > 0.1


@pytest.mark.parametrize("name", ANTITHETIC)
@pytest.mark.parametrize("logit", compiled_for([-0.4], [-3.0, -0.4, 0.0, 1.5]))
def test_antithetic_estimator_is_exact_summed_over_its_noise(name, logit):
    count = 5000
    u = (np.arange(count) + 0.5) / count
    noise = np.log(u / (1 - u)).astype("float32")
    s = np.full(count, 1 / (1 + np.exp(-logit)), "float32")

    def total(s):
        tape = ScoreTape()
        losses = []
        for _ in range(2):
            with tape.draw():
                m = kg.ops.sample_bernoulli(s, estimator=name, noise=noise)
            losses.append(ops.square(3.0 * m - 1.0) + ops.floor(m))
        return tape.loss(losses)

    (slopes,) = gradient(total, s, jit=QUICK)

    # E[loss] = s loss(1) + (1 - s) loss(0); the mean is over the rows.
    assert slopes.sum() == pytest.approx(5.0 - 1.0, rel=2e-3)


LOSSES = {
    "one": (lambda h: jagged(h), {"logits": X[:2]}),
    "three": (lambda h: jagged(h), {"logits": X}),
    "forbidden": (lambda h: jagged(h), {"logits": FORBIDDEN}),
    "several": (
        lambda h: jagged(h[:, 0]) * ops.exp(h[:, 1, 0]),
        {"logits": PAIRS},
    ),
    "masks": (lambda m: jagged(m), {"probs": [0.2, 0.5, 0.9]}),
}


@pytest.mark.parametrize("draws", compiled_for([2], [2, 4]))
@pytest.mark.parametrize(
    "loss", compiled_for(["one", "three", "forbidden", "masks"], LOSSES)
)
def test_report_shows_no_bias(loss, draws):
    function, point = LOSSES[loss]
    report = kg.gradient_report(
        function,
        estimators=[
            name
            for name in UNBIASED
            if loss in ("one", "several", "masks") or name not in ANTITHETIC
        ],
        num_samples=20_000,
        num_draws=draws,
        seed=1,
        **point,
    )

    print(report)
    assert report.rows
    for row in report.rows:
        # Each of some 50 rows on three backends exceeds it once in 1e4 times.
        assert row.bias < 3 * row.bias_error, row
        assert row.variance > 0.1


@pytest.mark.one_backend
def test_report_sees_a_bias():
    class Louder(RLOO):
        def score(self, hard, logits, noise):
            return 1.2 * super().score(hard, logits, noise)

    smooth = {
        "logits": X,
        "function": lambda h: ops.tanh(
            ops.sum(ops.multiply(h, EFFECTS), axis=-1)
        ),
    }
    report = kg.gradient_report(
        estimators=[*PATHWISE, Louder()], num_samples=20_000, seed=1, **smooth
    )

    for row in report.rows:
        assert row.bias > 4 * row.bias_error, row


# REBAR


def smooth(h):
    total = ops.sum(
        ops.multiply(h, EFFECTS[: h.shape[-1]]), axis=tuple(range(1, h.ndim))
    )
    return ops.tanh(total) + ops.square(total - 0.3)


SMOOTH = {
    "two": {"logits": X[:2]},
    "three": {"logits": X},
    "forbidden": {"logits": FORBIDDEN},
    "several": {"logits": PAIRS},
    "masks": {"probs": [0.2, 0.5, 0.9]},
}


@pytest.mark.parametrize("temperature", compiled_for([0.5], [0.5, 2.0]))
@pytest.mark.parametrize(
    "point", compiled_for(["two", "three", "forbidden", "masks"], SMOOTH)
)
def test_rebar_has_no_bias(point, temperature):
    report = kg.gradient_report(
        smooth,
        estimators=["rloo", "rebar", REBAR(eta=0.5)],
        temperature=temperature,
        num_samples=20_000,
        num_draws=3,
        seed=2,
        **SMOOTH[point],
    )

    print(report)
    for row in report.rows:
        # Each of some 50 rows on three backends exceeds it once in 1e4 times.
        assert row.bias < 3 * row.bias_error, row
        assert row.bias_error < 0.1


@pytest.mark.one_backend
def test_rebar_has_a_bias_if_the_loss_jumps():
    report = kg.gradient_report(
        jagged, X, estimators=["rebar"], num_samples=20_000, seed=1
    )

    assert report.rows[0].bias > 4 * report.rows[0].bias_error


def rebar_loss(sample, loss):
    """The tape's loss of three draws, and the losses of the draws."""
    tape = ScoreTape()
    losses = []
    for seed in range(3):
        with tape.draw():
            h = sample(seed)
        losses.append(loss(h))
    return tape.loss(losses), losses


@pytest.mark.parametrize("eta", [0.7, 1.0])
@pytest.mark.parametrize("logit", [-3.0, -0.4, 0.0, 1.5])
def test_rebar_is_exact_summed_over_its_noise(logit, eta):
    count = 20_000
    u = (np.arange(count) + 0.5) / count
    noise = np.log(u / (1 - u)).astype("float32")
    s = np.full(count, 1 / (1 + np.exp(-logit)), "float32")

    def total(s):
        def sample(seed):
            return kg.ops.sample_bernoulli(
                s, temperature=0.5, estimator=REBAR(eta), noise=noise
            )

        return rebar_loss(sample, lambda m: ops.square(3.0 * m - 1.0))[0]

    (slopes,) = gradient(total, s, jit=QUICK)

    # E[loss] = s loss(1) + (1 - s) loss(0); the mean is over the rows.
    assert slopes.sum() == pytest.approx(4.0 - 1.0, rel=2e-3)


def test_rebar_differentiates_the_sample_less_the_conditional_sample():
    """Against finite differences of z and of z~ with its noise held fixed."""
    rng = np.random.default_rng(0)
    x, noise, effects = rng.normal(size=4), rng.gumbel(size=4), [1, -2, 3, 0.5]
    z = x + noise
    top = z.argmax()
    # The exponential variables with which z~ is z.
    own = np.exp(x).sum() * np.exp(-z[top])
    others = (np.exp(-z) - np.exp(-z[top])) * np.exp(x)

    def difference(x):
        first = np.log(np.exp(x).sum() / own)
        given = -np.log(np.exp(-first) + others * np.exp(-x))
        free, given = (
            reference.softmax(points / 0.5) for points in (x + noise, given)
        )
        return effects @ (free - given)

    expected = [
        (difference(x + step) - difference(x - step)) / 2e-5
        for step in 1e-5 * np.eye(4)
    ]

    def second_draw(x):
        tape = ScoreTape()
        for _ in range(2):
            with tape.draw():
                y = kg.ops.sample_one_hot(
                    x, 0.5, "rebar", noise=noise.astype("float32")
                )
        return ops.sum(ops.multiply(y, np.float32(effects)))

    (found,) = gradient(second_draw, x.astype("float32"))

    assert difference(x) == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(expected).max() > 0.01


def test_rebar_trains_other_weights_on_the_hard_sample():
    weights = np.float32([0.5, -1.0, 0.3])
    rows = np.tile(X, (6, 1))

    def sample(seed):
        return kg.ops.sample_one_hot(rows, 0.5, "rebar", seed=seed)

    def loss(w, h):
        return ops.square(ops.sum(ops.multiply(h, w), axis=-1) - 0.4)

    (found,) = gradient(
        lambda w: rebar_loss(sample, functools.partial(loss, w))[0], weights
    )
    value, losses = rebar_loss(sample, functools.partial(loss, weights))

    hard = to_numpy(kg.ops.sample_one_hot(rows, seed=0))
    (expected,) = gradient(lambda w: ops.mean(loss(w, hard)), weights)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert float(value) == pytest.approx(float(ops.mean(losses[0])), rel=1e-6)
    assert not np.allclose(to_numpy(losses[0]), to_numpy(losses[1]))


@pytest.mark.parametrize("jit", MODES)
def test_rebar_is_finite_under_harsh_conditions(jit):
    harsh = np.float32(
        [[1e30, -1e30], [-np.inf, 0.5], [-np.inf, -np.inf], [0.0, 0.0]]
    )
    s = np.float32([0.0, 1e-30, 2**-20, 0.5, 1 - 2**-24, 1.0])

    def of_logits(x):
        def sample(seed):
            return kg.ops.sample_one_hot(x, 0.1, "rebar", seed=seed)

        return rebar_loss(sample, lambda h: ops.square(h[:, 0]))[0]

    def of_probs(s):
        def sample(seed):
            return kg.ops.sample_bernoulli(s, 0.1, "rebar", seed=seed)

        return rebar_loss(sample, ops.square)[0]

    (in_logits,) = gradient(of_logits, harsh, jit=jit)
    (in_probs,) = gradient(of_probs, s, jit=jit)

    assert np.isfinite(in_logits).all()
    assert (in_logits[harsh == -np.inf] == 0).all()
    assert np.isfinite(in_probs).all()


def test_rebar_draws_a_hard_sample_and_a_relaxed_one_twice():
    layer = kg.layers.StraightThroughArgmax(0.5, estimator="rebar", seed=0)
    tape = ScoreTape()
    drawn = []
    for _ in range(6):
        with tape.draw():
            drawn.append(to_numpy(layer(np.tile(X, (500, 1)), training=True)))

    for hard, relaxed, again in (drawn[:3], drawn[3:]):
        assert set(np.unique(hard)) == {0.0, 1.0}
        assert (hard.argmax(-1) == relaxed.argmax(-1)).all()
        assert (relaxed == again).all()
        assert relaxed.max(axis=-1).min() < 0.9
    assert 0.2 < (drawn[0] == drawn[3]).mean() < 0.8


def test_rebar_with_other_logits_is_no_silent_bias():
    shifts = np.float32([[0.0, 0.0], [0.0, 0.5], [0.0, 0.0]])

    def total(x):
        def sample(seed):
            shifted = x + ops.convert_to_tensor(shifts[seed])
            return kg.ops.sample_one_hot(shifted, 0.5, "rebar", seed=1)

        return rebar_loss(sample, lambda h: h[:, 0])[0]

    assert np.isnan(gradient(total, PAIRS)[0]).any()


@pytest.mark.parametrize("other", ["rloo", "disarm", REBAR(eta=0.5)])
def test_rebar_refuses_other_estimators_in_the_same_model(other):
    tape = ScoreTape()
    losses = []
    for _ in range(6):
        with tape.draw():
            kg.ops.sample_one_hot(PAIRS, estimator="rebar", seed=1)
            h = kg.ops.sample_one_hot(PAIRS, estimator=other, seed=2)
        losses.append(h[:, 0])

    with pytest.raises(ValueError, match="draw alike.*REBAR"):
        tape.loss(losses)


def test_index_of_rebar_has_no_gradient():
    """The index of a relaxed sample would be that of the hard one."""
    layer = kg.layers.StraightThroughArgmax(
        estimator="rebar", output_mode="index", seed=3
    )
    tape = ScoreTape()
    with tape.draw():
        index = layer(np.tile(X, (5, 1)), training=True)

    assert "int" in keras.backend.standardize_dtype(index.dtype)
    assert not tape.has_records()


def test_rebar_trains_in_fit():
    """The gradient in the mean of many rows is the exact one."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((1,))
    logits = keras.layers.Dense(
        3, use_bias=False, kernel_initializer=lambda shape, dtype: X[None]
    )
    choose = kg.layers.StraightThroughArgmax(0.5, estimator="rebar", seed=0)
    model = kg.models.MonteCarloModel(
        keras.Model(inputs, choose(logits(inputs))), num_samples=3
    )
    model.compile(keras.optimizers.SGD(1.0), loss=lambda _, h: smooth(h))
    ones = np.ones((20_000, 1), "float32")
    model.train_on_batch(ones, ones)

    def numpy_smooth(h):
        total = float(h @ EFFECTS)
        return np.tanh(total) + (total - 0.3) ** 2

    found = X - logits.get_weights()[0][0]
    expected = enumeration.exact_gradient(X, numpy_smooth)
    np.testing.assert_allclose(found, expected, atol=0.06)
    assert np.abs(expected).max() > 0.4


@pytest.mark.one_backend
def test_more_draws_leave_less_variance():
    function, point = LOSSES["three"]
    variances = [
        kg.gradient_report(
            function, estimators=["rloo"], num_draws=draws, seed=2, **point
        )
        .rows[0]
        .variance
        for draws in (2, 8)
    ]

    assert variances[1] < 0.25 * variances[0]


@pytest.mark.one_backend
def test_disarm_has_less_variance_than_arm():
    function, point = LOSSES["masks"]
    report = kg.gradient_report(
        function, estimators=ANTITHETIC, seed=3, **point
    )

    disarm, arm = (row.variance for row in report.rows)
    assert disarm < arm


@pytest.mark.parametrize(
    "make",
    [
        lambda **options: kg.layers.StraightThroughArgmax(
            estimator="rloo", **options
        ),
        lambda **options: kg.layers.GumbelSoftmax(
            hard=True, estimator="rloo", **options
        ),
    ],
)
@pytest.mark.parametrize("axis", [1, -1])
def test_stacked_layers_have_the_exact_gradient(make, axis):
    """A second choice whose logits depend on the first."""
    count = 20_000
    weights = np.array([[0.5, -1.0, 0.3], [-0.2, 0.8, 1.1]], "float32")
    first, second = make(seed=1, axis=axis), make(seed=2)
    rows = np.tile(X, (count, 1))
    if axis == 1:
        rows = np.repeat(rows[:, :, None], 1, axis=2)

    def loss(h, g):
        return ops.floor(3 * ops.sum(g * ops.matmul(h, weights.T), axis=-1))

    def total(x):
        tape = ScoreTape()
        losses = []
        for _ in range(2):
            with tape.draw():
                h = first(x, training=True)
                h = h[:, :, 0] if axis == 1 else h
                g = second(ops.matmul(h, weights.T), training=True)
            losses.append(loss(h, g))
        return count * tape.loss(losses)

    first.build(rows.shape)
    second.build((count, 2))
    (slopes,) = gradient(total, rows)
    slopes = slopes.reshape(count, 3)

    def mean(h):
        q = reference.softmax(weights @ h)
        return sum(q[j] * np.floor(3 * (weights @ h)[j]) for j in range(2))

    expected = enumeration.exact_gradient(X, mean)
    for column, value in zip(slopes.T, expected, strict=True):
        require_mean(column, value)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_subsets_have_the_exact_gradient(k):
    """One item is forbidden, and there are three to choose from."""
    count = 20_000
    x = np.float32([0.8, -0.4, -np.inf, 0.1])
    effects = np.float32([1.0, -2.0, 9.0, 0.5])
    layer = kg.layers.SubsetSampler(k, estimator="rloo", seed=4)
    layer.build((count, 4))

    def loss(h):
        return ops.floor(2.0 * ops.sum(ops.multiply(h, effects), axis=-1))

    def total(rows):
        tape = ScoreTape()
        losses = []
        for _ in range(2):
            with tape.draw():
                h = layer(rows, training=True)
            losses.append(loss(h))
        return count * tape.loss(losses)

    (slopes,) = gradient(total, np.tile(x, (count, 1)))

    subsets = [s for s in itertools.combinations(range(4), k) if 2 not in s]
    h = np.array([[i in s for i in range(4)] for s in subsets], float)
    p = np.exp(np.where(h > 0, x, 0.0).sum(axis=1).astype("float64"))
    p /= p.sum()
    values = np.floor(2.0 * h @ effects)
    expected = (p * values) @ (h - p @ h)
    for column, value in zip(slopes.T, expected, strict=True):
        require_mean(column, value)
    assert (slopes[:, 2] == 0).all()
    assert k == 3 or np.abs(expected).max() > 0.1


def test_subsets_are_trained_on_a_loss_without_a_gradient():
    """Which two of six inputs are shown to a fixed rule."""
    keras.utils.set_random_seed(0)
    bias = keras.layers.Dense(6, kernel_initializer="zeros")
    choose = kg.layers.SubsetSampler(2, estimator="rloo", seed=5)
    inputs = keras.Input((1,))
    model = kg.models.MonteCarloModel(
        keras.Model(inputs, choose(bias(inputs))), num_samples=4
    )

    def missed(y_true, chosen):
        return 2.0 - ops.floor(chosen[:, 1] + chosen[:, 4])

    model.compile(keras.optimizers.Adam(0.1), loss=missed)
    model.fit(np.zeros((64, 1)), np.zeros((64, 1)), epochs=60, verbose=0)

    chosen = to_numpy(ops.convert_to_tensor(model.predict(np.zeros((1, 1)))))
    assert np.flatnonzero(chosen[0]).tolist() == [1, 4]


def test_index_has_the_same_scores_as_the_vector():
    def slopes(mode):
        layer = kg.layers.StraightThroughArgmax(
            estimator="rloo", output_mode=mode, seed=3
        )
        layer.build((5, 3))

        def total(x):
            tape = ScoreTape()
            losses = []
            for _ in range(2):
                with tape.draw():
                    y = layer(x, training=True)
                if mode == "one_hot":
                    y = ops.argmax(y, axis=-1)
                losses.append(ops.cast(y, "float32") ** 2)
            return tape.loss(losses)

        return gradient(total, np.tile(X, (5, 1)))[0]

    np.testing.assert_allclose(slopes("index"), slopes("one_hot"), atol=1e-6)
    assert np.abs(slopes("index")).max() > 1e-3


def test_losses_of_batches_have_no_bias_either():
    """Scalar losses compare whole batches: more variance, the same mean."""
    noise = np.random.default_rng(1).gumbel(size=(300, 2, 4, 3))
    noise = noise.astype("float32")

    def total(per_example, x, *noises):
        tape = ScoreTape()
        losses = []
        for z in noises:
            with tape.draw():
                h = kg.ops.sample_one_hot(x, estimator="rloo", noise=z)
            loss = jagged(h)
            losses.append(loss if per_example else ops.mean(loss))
        return tape.loss(losses)

    def sampled(per_example):
        function = functools.partial(total, per_example)
        rows = np.tile(X, (4, 1))
        return np.stack(
            [
                gradient(function, rows, *pair, jit=QUICK)[0].sum(axis=0)
                for pair in noise
            ]
        )

    found = {kind: sampled(kind) for kind in (True, False)}

    expected = enumeration.exact_gradient(X, numpy_jagged)
    for slopes in found.values():
        for column, value in zip(slopes.T, expected, strict=True):
            require_mean(column, value)
    assert found[True].var() < 0.7 * found[False].var()


@pytest.mark.parametrize("name", UNBIASED)
def test_sample_passes_no_gradient_of_its_own(name):
    def total(x):
        tape = ScoreTape()
        with tape.draw():
            return ops.sum(
                ops.multiply(
                    kg.ops.sample_one_hot(x, estimator=name, seed=1),
                    EFFECTS[:2],
                )
            )

    assert not gradient(total, PAIRS)[0].any()


@pytest.mark.parametrize("name", UNBIASED)
@pytest.mark.parametrize("jit", MODES)
def test_scores_are_finite_under_harsh_conditions(name, jit):
    harsh = np.float32(
        [[1e30, -1e30], [-np.inf, 0.5], [-np.inf, -np.inf], [0.0, 0.0]]
    )
    s = np.float32([0.0, 1e-30, 2**-20, 0.5, 1 - 2**-24, 1.0])

    def of_losses(draw):
        tape = ScoreTape()
        losses = []
        for seed in range(2):
            with tape.draw():
                sample = draw(seed)
            losses.append(ops.cast(seed + 1, "float32") * sample)
        return tape.loss(losses)

    def of_logits(x):
        return of_losses(
            lambda seed: kg.ops.sample_one_hot(x, estimator=name, seed=seed)[
                :, 0
            ]
        )

    def of_probs(s):
        return of_losses(
            lambda seed: kg.ops.sample_bernoulli(s, estimator=name, seed=seed)
        )

    (in_logits,) = gradient(of_logits, harsh, jit=jit)
    (in_probs,) = gradient(of_probs, s, jit=jit)

    assert np.isfinite(in_logits).all()
    assert (in_logits[harsh == -np.inf] == 0).all()
    assert np.isfinite(in_probs).all()


@pytest.mark.parametrize("name", ANTITHETIC)
def test_pair_has_opposite_noise(name):
    layer = kg.layers.StraightThroughArgmax(estimator=name, seed=0)
    tape = ScoreTape()
    drawn = []
    for _ in range(4):
        with tape.draw():
            drawn.append(
                to_numpy(layer(np.zeros((500, 2), "float32"), training=True))
            )

    # At equal odds the opposite noise is the other class.
    assert (drawn[0] == 1 - drawn[1]).all()
    assert (drawn[2] == 1 - drawn[3]).all()
    assert 0.4 < (drawn[0] == drawn[2]).mean() < 0.6


def test_pair_with_other_logits_is_no_silent_bias():
    def total(x):
        tape = ScoreTape()
        losses = []
        for shift in (0.0, 0.5):
            with tape.draw():
                h = kg.ops.sample_one_hot(
                    x + ops.convert_to_tensor([0.0, shift]),
                    estimator="disarm",
                    seed=1,
                )
            losses.append(h[:, 0])
        return tape.loss(losses)

    assert np.isnan(gradient(total, PAIRS)[0]).any()


@pytest.mark.parametrize(
    ("name", "draws", "message"),
    [
        ("rloo", 1, "at least two draws with each other. Received: 1"),
        ("disarm", 3, "2 draws with each other. Received: 3"),
        ("rebar", 2, "3 draws with each other. Received: 2"),
    ],
)
def test_tape_refuses_too_few_draws(name, draws, message):
    tape = ScoreTape()
    losses = []
    for _ in range(draws):
        with tape.draw():
            h = kg.ops.sample_one_hot(PAIRS, estimator=name, seed=1)
        losses.append(h[:, 0])

    with pytest.raises(ValueError, match=message):
        tape.loss(losses)


def test_tape_wants_a_loss_for_every_draw():
    tape = ScoreTape()
    with tape.draw():
        kg.ops.sample_one_hot(PAIRS, estimator="rloo", seed=1)

    with pytest.raises(ValueError, match="`losses`.*each of the 1 draws"):
        tape.loss([])


def test_antithetic_estimators_are_for_two_classes():
    tape = ScoreTape()

    with tape.draw(), pytest.raises(ValueError, match="of two classes"):
        kg.ops.sample_one_hot(X, estimator="disarm", seed=1)


@pytest.mark.parametrize(
    "layer",
    [
        kg.layers.StraightThroughArgmax(estimator="rloo"),
        kg.layers.ConcreteMask(hard=True, estimator="rloo"),
        kg.layers.SubsetSampler(1, estimator="rloo"),
    ],
)
def test_training_without_a_tape_warns(layer):
    with pytest.warns(kg.SparsityWarning, match="no gradient.*MonteCarlo"):
        layer(PAIRS, training=True)

    layer(PAIRS)  # inference does not
    with ScoreTape().draw():
        layer(PAIRS, training=True)


def test_unbiased_estimator_has_no_temperature_to_learn():
    with pytest.raises(ValueError, match="`learn_temperature`"):
        kg.layers.StraightThroughArgmax(
            estimator="rloo", learn_temperature=True
        )


def test_examples_must_stay_on_the_first_axis():
    tape = ScoreTape()
    losses = []
    for _ in range(2):
        with tape.draw():
            h = kg.ops.sample_one_hot(np.zeros((6, 2)), estimator="rloo")
        losses.append(ops.sum(ops.reshape(h, (3, 4)), axis=-1))

    with pytest.raises(ValueError, match="3 examples, but samples of 6"):
        tape.loss(losses)


def test_choices_of_an_example_lie_on_the_axes_after_it():
    """The gradient of several choices is that of each with the loss of all."""
    logits = np.stack([PAIRS, -PAIRS])  # 2 examples, 2 choices, 2 classes
    report = kg.gradient_report(
        lambda h: (
            ops.floor(2.0 * h[:, 0, 0] + 1.5 * h[:, 1, 1]) * h[:, 0, 1]
            + h[:, 1, 0]
        ),
        logits=logits[0],
        estimators=["rloo", "disarm"],
        num_samples=20_000,
        seed=5,
    )

    for row in report.rows:
        assert row.bias < 3 * row.bias_error


@pytest.mark.backends("jax")
def test_tape_works_in_a_jitted_step_of_jax():
    import jax

    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    choice = kg.layers.StraightThroughArgmax(estimator="rloo", seed=0)
    model = keras.Model(inputs, choice(keras.layers.Dense(3)(inputs)))
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")

    def loss(trainable, state, x):
        tape = ScoreTape()
        losses = []
        for _ in range(4):
            with tape.draw():
                h, state = model.stateless_call(
                    trainable, state, x, training=True
                )
            losses.append(jagged(h))
        return tape.loss(losses), (state, losses)

    step = jax.jit(jax.grad(loss, has_aux=True))
    trainable = [v.value for v in model.trainable_variables]
    state = [v.value for v in model.non_trainable_variables]
    slopes, (state, losses) = step(trainable, state, x)
    again, _ = step(trainable, state, x)

    assert len({np.asarray(one).tobytes() for one in losses}) == 4
    assert np.abs(slopes[0]).max() > 1e-3
    assert np.abs(slopes[0] - again[0]).max() > 1e-3
