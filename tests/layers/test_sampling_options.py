"""How noise is shared, what comes beside the sample, and what is mixed in."""

import functools

import keras
import numpy as np
import pytest
from keras import ops
from scipy import special

import keras_gumbel as kg
from keras_gumbel.layers import GumbelSoftmax
from keras_gumbel.layers import PermutationSampler
from keras_gumbel.layers import StraightThroughArgmax
from keras_gumbel.layers import SubsetSampler
from keras_gumbel.regularizers import CategoricalKL
from tests.contracts import MaskProbe
from tests.contracts import save_and_load
from tests.gradients import dtype_of
from tests.gradients import gradient
from tests.gradients import to_numpy
from tests.statistics import require_frequencies

LOGITS = np.random.default_rng(0).normal(size=(4, 3, 3)).astype("float32")
WEIGHTS = np.random.default_rng(1).normal(size=(4, 3, 3)).astype("float32")

hard_softmax = functools.partial(GumbelSoftmax, hard=True)
simple = functools.partial(SubsetSampler, 2)
top_k = functools.partial(SubsetSampler, 2, 0.5, "relaxed_top_k")

ONE_HOT = [hard_softmax, StraightThroughArgmax]
SAMPLERS = [*ONE_HOT, simple, top_k, PermutationSampler]


def sample(layer, inputs=LOGITS, **kwargs):
    outputs = layer(inputs, training=True, **kwargs)
    return keras.tree.map_structure(to_numpy, outputs)


def infer(layer, inputs=LOGITS):
    return keras.tree.map_structure(to_numpy, layer(inputs))


def slopes(function):
    def total(x):
        return ops.sum(ops.multiply(function(x), WEIGHTS))

    return gradient(total, LOGITS)[0]


# Noise that is shared


@pytest.mark.parametrize("make", SAMPLERS)
def test_equal_rows_share_a_sample(make):
    rows = np.zeros((200, 3, 3), "float32")
    free = sample(make(seed=1), rows)
    shared = sample(make(noise_shape=(1, None, None), seed=1), rows)

    assert (shared == shared[:1]).all()
    assert (free != free[:1]).any()


@pytest.mark.parametrize("make", ONE_HOT)
def test_noise_is_shared_along_an_axis(make):
    layer = make(0.5, noise_shape=(None, 1, None), seed=2)
    noise = make(seed=2).draw_noise((4, 1, 3))

    drawn = sample(layer)

    given = sample(make(0.5), noise=noise)
    np.testing.assert_array_equal(drawn, given)


@pytest.mark.parametrize("make", [StraightThroughArgmax, top_k])
def test_gradient_is_that_of_the_shared_noise(make):
    layer = make(seed=2)
    shared = make(noise_shape=(1, None, None), seed=2)
    noise = make(seed=2).draw_noise((1, 3, 3))

    found = slopes(lambda x: shared(x, training=True))

    expected = slopes(lambda x: layer(x, training=True, noise=noise))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found).max() > 1e-3


def test_shared_noise_draws_every_class_at_its_rate():
    rows = np.tile(np.log([0.2, 0.5, 0.3]), (20_000, 2, 1)).astype("float32")
    layer = StraightThroughArgmax(noise_shape=(None, 1, None), seed=3)

    drawn = sample(layer, rows)

    assert (drawn[:, 0] == drawn[:, 1]).all()
    require_frequencies(drawn[:, 0].sum(axis=0).astype(int), [0.2, 0.5, 0.3])


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_noise_is_not_shared_by_the_classes(axis):
    shape = [None, None, None]
    shape[axis] = 1
    layer = StraightThroughArgmax(axis=axis, noise_shape=shape)

    with pytest.raises(ValueError, match="`noise_shape`.*separate noise"):
        layer.build((4, 3, 3))


@pytest.mark.parametrize(
    "shape", [(1, None), (None, 1, None, None), (2, 1, None), (4, 1, 2)]
)
def test_noise_shape_must_fit_the_inputs(shape):
    layer = PermutationSampler(noise_shape=shape)

    with pytest.raises(ValueError, match="`noise_shape`.*of 3 entries"):
        layer.build((4, 3, 3))


@pytest.mark.parametrize("shape", ["11", 1, (), (0, 1), (1.5, None), [True]])
def test_noise_shape_is_a_tuple_of_lengths(shape):
    with pytest.raises(ValueError, match="`noise_shape`.*positive integers"):
        GumbelSoftmax(noise_shape=shape)


def test_noise_shape_may_name_lengths_and_come_from_json():
    layer = GumbelSoftmax(noise_shape=[4, 1, 3], seed=1)
    same = GumbelSoftmax(noise_shape=(None, 1, None), seed=1)

    assert layer.noise_shape == (4, 1, 3)
    np.testing.assert_array_equal(sample(layer), sample(same))


@pytest.mark.parametrize("option", ["noise_shape", "return_soft"])
@pytest.mark.parametrize("make", [*ONE_HOT, simple])
def test_samples_that_are_compared_are_independent(make, option):
    value = {"noise_shape": (1, None), "return_soft": True}[option]

    with pytest.raises(ValueError, match=f"`{option}`.*RLOO"):
        make(estimator="rloo", **{option: value})


# A soft sample beside the hard one


@pytest.mark.parametrize("make", SAMPLERS)
def test_sample_is_the_same_with_a_soft_one_beside_it(make):
    for run in (sample, infer):
        hard, soft = run(make(return_soft=True, seed=4))

        np.testing.assert_array_equal(hard, run(make(seed=4)))
        assert set(np.unique(hard)) <= {0.0, 1.0}
        np.testing.assert_allclose(
            soft.sum(axis=-1), hard.sum(axis=-1), rtol=1e-3
        )
        assert not np.isin(soft, [0.0, 1.0]).any()


SOFT = {
    "default": (
        lambda **k: StraightThroughArgmax(0.5, **k),
        lambda x, z: kg.ops.gumbel_softmax(x, 0.5, noise=z),
        lambda x: ops.softmax(x, axis=-1),
    ),
    "reinmax": (
        lambda **k: hard_softmax(0.5, estimator="reinmax", **k),
        lambda x, z: kg.ops.gumbel_softmax(x, 0.5, noise=z),
        lambda x: ops.softmax(x, axis=-1),
    ),
    "simple": (
        simple,
        lambda x, z: kg.ops.subset_marginals(x, 2),
        lambda x: kg.ops.subset_marginals(x, 2),
    ),
    "top_k": (
        top_k,
        lambda x, z: kg.ops.relaxed_top_k(x, 2, 0.5, noise=z),
        lambda x: kg.ops.relaxed_top_k(x, 2, 0.5, noise=0.0),
    ),
    "order": (
        lambda **k: PermutationSampler(0.5, **k),
        lambda x, z: kg.ops.gumbel_sinkhorn(x, 0.5, False, noise=z),
        lambda x: kg.ops.sinkhorn(x, 0.5),
    ),
}


@pytest.mark.parametrize("kind", SOFT)
def test_soft_sample_is_that_of_the_same_noise(kind):
    make, drawn, inferred = SOFT[kind]
    noise = kg.random.gumbel(LOGITS.shape, seed=5)
    layer = make(return_soft=True)

    for given, expected in (
        ({"training": True, "noise": noise}, lambda x: drawn(x, noise)),
        ({}, inferred),
    ):
        _, soft = layer(LOGITS, **given)
        np.testing.assert_allclose(
            to_numpy(soft), to_numpy(expected(LOGITS)), atol=1e-6
        )
        found = slopes(lambda x, given=given: layer(x, **given)[1])
        np.testing.assert_allclose(found, slopes(expected), atol=1e-5)
        assert np.abs(found).max() > 1e-3


@pytest.mark.parametrize("make", SAMPLERS)
def test_hard_sample_keeps_its_gradient(make):
    pair, alone = make(return_soft=True, seed=6), make(seed=6)

    found = slopes(lambda x: pair(x, training=True)[0])

    expected = slopes(lambda x: alone(x, training=True))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize("make", SAMPLERS)
def test_pair_is_known_before_it_is_drawn(make, policy):
    entrance = keras.Input((3, 3))
    symbols = make(return_soft=True, dtype=policy)(entrance)
    values = make(return_soft=True, dtype=policy)(LOGITS, training=True)

    for symbol, value in zip(symbols, values, strict=True):
        assert symbol.shape == (None, *value.shape[1:])
        assert symbol.dtype == dtype_of(value)


def test_index_has_a_soft_sample_beside_it():
    layer = StraightThroughArgmax(
        0.3, output_mode="index", return_soft=True, axis=1, seed=7
    )
    symbols = layer(keras.Input((3, 3)))

    for run in (sample, infer):
        index, soft = run(layer)
        np.testing.assert_array_equal(index, soft.argmax(axis=1))
    assert [s.dtype for s in symbols] == ["int32", "float32"]
    assert [s.shape for s in symbols] == [(None, 3), (None, 3, 3)]


def test_pair_passes_the_mask_of_time_steps_on():
    steps = np.array(LOGITS)
    steps[:, 1] = 0.0
    layer = GumbelSoftmax(hard=True, return_soft=True)

    for output in layer(keras.layers.Masking()(steps)):
        found = MaskProbe()(output)
        np.testing.assert_array_equal(to_numpy(found), steps.any(axis=-1))


@pytest.mark.parametrize("make", [StraightThroughArgmax, top_k])
def test_pair_is_trained_and_saved(make):
    entrance = keras.Input((3, 3))
    front = keras.layers.Dense(3, kernel_initializer="identity")
    layer = make(return_soft=True, noise_shape=(None, 1, None), seed=8)
    model = keras.Model(entrance, layer(front(entrance)))
    model.compile(keras.optimizers.SGD(0.1), ["mse", "mse"])
    model.fit(LOGITS, [WEIGHTS, WEIGHTS], verbose=0)

    loaded = save_and_load(model)

    for training in (False, True):
        for one, other in zip(
            model(LOGITS, training=training),
            loaded(LOGITS, training=training),
            strict=True,
        ):
            np.testing.assert_array_equal(to_numpy(one), to_numpy(other))
    assert (to_numpy(ops.convert_to_tensor(front.kernel)) != np.eye(3)).any()


@pytest.mark.parametrize(
    "make",
    [
        GumbelSoftmax,
        functools.partial(PermutationSampler, hard=False),
        functools.partial(top_k, hard=False),
    ],
)
def test_soft_sample_has_no_soft_one_beside_it(make):
    with pytest.raises(ValueError, match="`return_soft`.*soft itself"):
        make(return_soft=True)


# A uniform mix


@pytest.mark.parametrize("make", [GumbelSoftmax, *ONE_HOT])
def test_mix_is_that_of_the_logits(make):
    noise = kg.random.gumbel(LOGITS.shape, seed=9)
    mixed = make(0.5, uniform_mix=0.3)
    plain = make(0.5)

    def by_hand(x):
        x = kg.ops.mix_uniform(x, 0.3)
        return plain(x, training=True, noise=noise)

    found = sample(mixed, noise=noise)

    np.testing.assert_allclose(found, to_numpy(by_hand(LOGITS)), atol=1e-6)
    np.testing.assert_allclose(
        slopes(lambda x: mixed(x, training=True, noise=noise)),
        slopes(by_hand),
        atol=1e-5,
    )
    assert np.abs(slopes(by_hand)).max() > 1e-3


@pytest.mark.parametrize("make", ONE_HOT)
def test_mix_lets_no_class_die(make):
    rows = np.tile(np.float32([60.0, 0.0]), (20_000, 1))

    drawn = sample(make(uniform_mix=0.1, seed=10), rows)

    require_frequencies(drawn.sum(axis=0).astype(int), [0.95, 0.05])


@pytest.mark.parametrize("make", ONE_HOT)
def test_mix_is_in_inference_too(make):
    allowed = np.array([[True, True, False]])
    layer = make(uniform_mix=0.4, inference="softmax")

    found = to_numpy(layer(LOGITS[0], mask=allowed))

    p = special.softmax(LOGITS[0, :, :2].astype("float64"), axis=-1)
    np.testing.assert_allclose(found[:, :2], 0.6 * p + 0.2, atol=1e-6)
    assert (found[:, 2] == 0).all()
    best = infer(make(uniform_mix=0.4))
    np.testing.assert_array_equal(best, infer(make()))


def test_mix_bounds_the_divergence():
    kl = CategoricalKL(reduction="sum")
    layer = StraightThroughArgmax(uniform_mix=0.1, logits_regularizer=kl)

    layer(np.float32([[1e4, 0.0]]))

    (penalty,) = layer.losses
    expected = np.log(2) + 0.95 * np.log(0.95) + 0.05 * np.log(0.05)
    assert float(to_numpy(penalty)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rare_classes_keep_their_share_in_half_precision(dtype):
    rows = ops.cast(np.float32([[0.0, -20.0, -30.0]]), dtype)
    layer = GumbelSoftmax(uniform_mix=0.0018, inference="softmax", dtype=dtype)

    (found,) = to_numpy(layer(rows))

    assert dtype_of(layer(rows)) == dtype
    assert dtype_of(layer(rows, training=True)) == dtype
    np.testing.assert_allclose(found[1:], 0.0006, rtol=5e-3)


@pytest.mark.parametrize("share", [-0.1, 1.1, None, "1", True])
def test_mix_must_be_a_share(share):
    with pytest.raises(ValueError, match="`uniform_mix` of `GumbelSoftmax`"):
        GumbelSoftmax(uniform_mix=share)
