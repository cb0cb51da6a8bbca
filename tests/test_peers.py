"""What other samplers get wrong, each on the very input where they do.

The comments say what others give there, as measured: torch 2.13.0,
TensorFlow 2.21.0 with TensorFlow Probability (TFP) 0.25.0, JAX 0.10.2 and
Keras 3.15.1, on a CPU. The textbook formula is
`softmax((x - log(-log(u))) / temperature)` in the dtype of the logits.
"""

import itertools

import keras
import numpy as np
import pytest
from keras import ops
from scipy import stats

from keras_gumbel import sparsify
from keras_gumbel.layers import ConcreteMask
from keras_gumbel.layers import GumbelSoftmax
from keras_gumbel.layers import StraightThroughArgmax
from keras_gumbel.layers import SubsetSampler
from keras_gumbel.ops import binary_concrete_log_prob
from keras_gumbel.ops import categorical
from keras_gumbel.ops import gumbel_max
from keras_gumbel.ops import gumbel_softmax
from keras_gumbel.ops import relaxed_bernoulli
from keras_gumbel.ops import sample_bernoulli
from keras_gumbel.ops import straight_through
from tests import reference
from tests.gradients import MODES
from tests.gradients import compiled
from tests.gradients import gradient
from tests.gradients import to_numpy
from tests.short_names import PATHWISE
from tests.statistics import FALSE_ALARM_RATE
from tests.statistics import require_frequencies

HALF = ["float16", "bfloat16"]
INF = np.inf
RNG = np.random.default_rng(0)


def tensor(values, dtype="float32"):
    return ops.cast(ops.convert_to_tensor(np.asarray(values, "float32")), dtype)


def textbook_noise(shape, dtype, epsilon=1e-20):
    u = keras.random.uniform(shape, dtype=dtype, seed=1)
    return -ops.log(-ops.log(u + epsilon) + epsilon)


# --- the distribution

DRAWS = 10_000


def require_uniform(samples):
    """Checks one-hot samples of a thousand equal logits, a hundred a cell.

    The false-alarm rate is that of `require_frequencies`, 1e-9.
    """
    counts = to_numpy(ops.sum(ops.cast(samples, "float32"), axis=0))
    assert counts.sum() == DRAWS
    require_frequencies(counts.reshape(10, 100).sum(1), np.full(10, 0.1))


# Share of the first hundred of a thousand equal classes, 0.1 being right:
# at temperature 1e30 torch's `gumbel_softmax(hard=True)` draws 1.0, class 0
# alone; in bfloat16 at temperature 100 it draws 0.137.
# `keras.random.categorical` draws 0.544 in bfloat16 and 0.149 in float16 on
# JAX, where class 127 and 417 are the mean, not 499.5.
@pytest.mark.parametrize(
    ("dtype", "temperature"),
    [("float32", 1e30), ("bfloat16", 100.0), ("bfloat16", 1), ("float16", 1)],
)
def test_hard_sample_of_many_equal_classes_is_uniform(dtype, temperature):
    logits = ops.zeros((DRAWS, 1000), dtype)

    y = gumbel_softmax(logits, temperature, hard=True, seed=1)

    require_uniform(y)


def argmax_of_relaxed(dtype, temperature):
    noise = textbook_noise((DRAWS, 1000), "float32")
    y = ops.softmax(ops.cast(noise, dtype) / temperature)
    return ops.argmax(y, axis=-1)


def argmax_of_textbook(dtype):
    return ops.argmax(textbook_noise((DRAWS, 1000), dtype), axis=-1)


@pytest.mark.parametrize(
    ("sampler", "arguments"),
    [
        (argmax_of_relaxed, ("float32", 1e30)),
        (argmax_of_relaxed, ("bfloat16", 100.0)),
        (argmax_of_textbook, ("bfloat16",)),
        (argmax_of_textbook, ("float16",)),
    ],
)
def test_uniformity_catches_the_samplers_of_others(sampler, arguments):
    samples = ops.one_hot(sampler(*arguments), 1000)

    with pytest.raises(AssertionError, match="chi-square"):
        require_uniform(samples)


RARE = np.array([0.0, -13.8125])  # the second of probability 1.0e-6
RARE_DRAWS = 1_000_000


def require_rare(drawn):
    """Checks the number of draws of the second class, a Poisson variable."""
    expected = RARE_DRAWS * reference.softmax(RARE)[1]
    most = stats.poisson.isf(FALSE_ALARM_RATE, expected)
    assert (count := to_numpy(drawn).sum()) <= most, f"rare, but {count} drawn"


# In float16 the textbook formula with 1e-20 for safety, which is 0 there,
# draws the class of probability 1e-6 in 3790 of four million draws on JAX. In
# bfloat16 `jax.random.categorical(mode="high")` draws a class of logit -60 in
# 248 of four million.
@pytest.mark.parametrize("dtype", HALF)
def test_rare_class_is_rare_in_half_precision(dtype):
    logits = ops.broadcast_to(tensor(RARE, dtype), (RARE_DRAWS, 2))

    require_rare(gumbel_max(logits, seed=1))


def test_rarity_catches_the_textbook_in_float16():
    noise = textbook_noise((RARE_DRAWS, 2), "float16")

    drawn = ops.argmax(tensor(RARE, "float16") + noise, axis=-1)

    with pytest.raises(AssertionError, match="rare, but"):
        require_rare(drawn)


# --- exactness


def others_grouping(hard, soft):
    return hard + soft - ops.stop_gradient(soft)


# `hard + soft - sg(soft)`, as in vector-quantize-pytorch and TorchRL, is
# 0.99999994 at the one in 19% of the rows, in float32, eager, on all
# backends. Compiled by JAX for bfloat16, `hard - sg(soft) +
# soft`, as in torch, is inexact in all rows.
@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("dtype", ["float32", *HALF])
def test_straight_through_of_many_classes_is_exact(dtype, jit):
    y, hard = straight_through_of_softmax(straight_through, dtype, jit)

    assert (y == hard).all()


def test_exactness_catches_another_grouping():
    y, hard = straight_through_of_softmax(others_grouping, "float32", False)

    assert 0.1 < (y != hard).any(-1).mean() < 0.3
    np.testing.assert_allclose(y, hard, atol=2e-7)


def straight_through_of_softmax(grouping, dtype, jit):
    z = np.random.default_rng(1).gumbel(size=(2000, 32)).astype("float32")
    hard = np.eye(32, dtype="float32")[z.argmax(-1)]

    def sample(z, hard):
        soft = ops.softmax(ops.cast(z, dtype) / 0.7)
        return grouping(ops.cast(hard, dtype), soft)

    y = compiled(sample, jit)(tensor(z), tensor(hard))
    return to_numpy(y), hard


# --- infinities

# Logits far apart, masked in two ways, equal, and with no class allowed.
FAR = np.array(
    [
        [0.3, -1.2, 2.0, 0.7],
        [1e3, -1e3, 0.0, 999.0],
        [6e4, -6e4, 6e4, 0.0],
        [0.3, -INF, 2.0, -INF],
        [-INF, -INF, 1.0, -INF],
        [0.3, -1e9, 2.0, -1e9],
        [-INF, -INF, -INF, -INF],
    ],
    "float32",
)
COLD = np.array([1e-6, 0.01, 0.1, 1.0, 1e30], "float32")
PAIRS = list(itertools.product(FAR, COLD))
FAR_X = np.array([row for row, _ in PAIRS], "float32")
FAR_T = np.array([[t] for _, t in PAIRS], "float32")
FAR_NOISE = RNG.gumbel(size=FAR_X.shape).astype("float32")
FAR_WEIGHTS = np.array([1.0, -2.0, 0.5, 3.0], "float32")


# In float16 torch, TFP and the textbook give NaN for value and gradients at
# temperature 1e-6, for logits of 1e3 at 0.01 and of 6e4 at 0.1. In every
# dtype their gradient in the temperature is NaN as soon as one class is
# masked, and all is NaN where all are.
@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_gradient_is_finite(dtype):
    def total(x, t, hard_x, hard_t):
        samples = (
            gumbel_softmax(x, t, noise=FAR_NOISE),
            gumbel_softmax(hard_x, hard_t, hard=True, noise=FAR_NOISE),
        )
        return sum(ops.sum(y * tensor(FAR_WEIGHTS, dtype)) for y in samples)

    x = tensor(FAR_X, dtype)
    *soft, hard_x, hard_t = gradient(total, x, FAR_T, x, FAR_T, jit=True)

    for in_x, in_t in (soft, (hard_x, hard_t)):
        assert np.isfinite(in_x).all()
        assert np.isfinite(in_t).all()
        assert (in_x[np.isneginf(to_numpy(x))] == 0).all()
        assert in_x[3].all()
        assert in_t[3].all()


# For [inf, 0, 1, 2] `keras.random.categorical` on TensorFlow never draws
# class 0, but the others, 9067, 24688 and 66245 times of 100000; where no
# class is allowed it draws the index 4 of 4. On torch it raises.
@pytest.mark.parametrize("draw", [gumbel_max, categorical])
def test_index_of_infinite_logits_is_defined(draw):
    rows = [[INF, 0, 1, 2], [-5, 0, INF, INF], [-INF] * 4, [-INF, 1, -INF, 1]]
    logits = np.repeat(rows, 300, axis=0)

    index = to_numpy(draw(tensor(logits), seed=1)).reshape(4, 300)

    assert [set(row) for row in index] == [{0}, {2}, {0}, {1, 3}]


@pytest.mark.parametrize("hard", [False, True])
def test_infinite_logit_makes_its_row_nan_and_no_other(hard):
    x = FAR_X.copy()
    x[4, 2] = INF

    y, plain = (
        to_numpy(gumbel_softmax(tensor(v), 0.5, hard, noise=FAR_NOISE))
        for v in (x, FAR_X)
    )

    others = np.arange(len(x)) != 4
    assert np.isnan(y[4]).all()
    assert (y[others] == plain[others]).all()


# At s = 1 and s = 0 torch's RelaxedBernoulli gives 0.99902 and 6.1e-5 in
# float16, 0.9921875 and 8.4e-6 in bfloat16, with a gradient of 0 in `probs`
# and of NaN through `logits=logit(s)`. TFP's gives 1 and 0 with NaN.
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("s", [0.0, 1.0])
def test_mask_is_whole_and_alive_at_the_edge_in_half_precision(s, dtype):
    probs = tensor(np.full(8, s), dtype)
    noise = RNG.logistic(size=8).astype("float32")

    relaxed = to_numpy(relaxed_bernoulli(probs, 0.5, noise=noise))
    np.testing.assert_allclose(relaxed, s, atol=1e-6)
    for estimator in PATHWISE:

        def total(s, name=estimator):
            return ops.sum(sample_bernoulli(s, 1.0, name, noise=noise, seed=0))

        value = to_numpy(sample_bernoulli(probs, 1.0, estimator, noise=noise))
        (slope,) = gradient(total, probs, jit=True)
        assert (value == s).all()
        assert (0 < slope).all()
        assert np.isfinite(slope).all()


# Densities at m = 1e-30, 1 - 2**-24 and 1 - 2**-60, where the logit of s is
# 1/2. torch gives 59.366, -inf, 11.968, -14.749, 11.968 and -14.749: exp
# overflows, and it clamps m to 1 - 2**-23. TFP gives inf and -inf for the
# last two, and inf for 21% of its own samples at temperature 0.1.
@pytest.mark.parametrize(
    ("logit", "temperature", "expected"),
    [
        (-69.07755279, 0.1, 59.36600),
        (-69.07755279, 2.0, -68.88441),
        (16.63553227, 0.1, 12.62572),
        (16.63553227, 2.0, -15.44238),
        (41.58883083, 0.1, 35.57649),
        (41.58883083, 2.0, -40.39568),
    ],
)
def test_binary_concrete_is_right_near_the_edges(logit, temperature, expected):
    log_p = binary_concrete_log_prob(tensor(logit), 0.5, temperature)

    assert float(log_p) == pytest.approx(expected, rel=1e-6)


# --- seeds and sizes


def mask_layer(**kwargs):
    half = keras.initializers.Constant(0.5)
    return ConcreteMask(scores_initializer=half, **kwargs)


def masked_layer(**kwargs):
    half = keras.initializers.Constant(0.5)
    dense = keras.layers.Dense(3, kernel_initializer="ones")
    dense.build((None, 60))
    return sparsify(dense, ConcreteMask(scores_initializer=half), **kwargs)


def subset_layer(**kwargs):
    return SubsetSampler(2, estimator="relaxed_top_k", **kwargs)


# On torch the second call of `keras.layers.GaussianNoise(1.0, seed=3)` adds
# what the first of one with `seed=4` does.
@pytest.mark.parametrize(
    "make",
    [
        GumbelSoftmax,
        StraightThroughArgmax,
        subset_layer,
        mask_layer,
        masked_layer,
    ],
)
def test_layers_of_neighbouring_seeds_share_no_sample(make):
    inputs = np.ones((16, 60), "float32")
    layers = [make(seed=seed) for seed in (3, 4, 5)]

    samples = [
        to_numpy(layer(inputs, training=True))
        for layer in layers
        for _ in range(3)
    ]

    assert len(np.unique(samples, axis=0)) == 9


# `torch.multinomial`, and so `keras.random.categorical` on torch, raises:
# "number of categories cannot exceed 2^24". float32 does not hold the index.
def test_categorical_draws_beyond_what_torch_and_float32_hold():
    classes = 2**24 + 2
    logits = np.zeros((1, classes), "float32")
    logits[0, -1] = 1e3

    index = categorical(ops.convert_to_tensor(logits), seed=1)

    assert int(index[0]) == classes - 1
