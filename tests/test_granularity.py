import warnings

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gumbel as kg
from keras_gumbel.layers import Sparsified
from keras_gumbel.layers._granularity import require_granularity
from tests.gradients import to_numpy

X = np.random.default_rng(0).normal(size=(12, 8)).astype("float32")
Y = np.random.default_rng(1).normal(size=(12, 4)).astype("float32")


def dense_model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(12, activation="relu", name="hidden"),
            layers.Dense(4, name="out"),
        ]
    )


def train(model, steps=3, **options):
    options = {"density": 0.5, **options}
    model.compile(
        kg.optimizers.ProjectedOptimizer(keras.optimizers.SGD(0.1), **options),
        "mse",
        run_eagerly=keras.config.backend() != "jax",
    )
    for _ in range(steps):
        model.train_on_batch(X, Y)
    return model


def kernels(model):
    return [to_numpy(layer.kernel) for layer in model.layers]


# What a kernel counts for, its axes of units and of inputs, and the shape of
# its scores.
CASES = {
    "weight": ("weight", (4, 6), (4, 6), 1),
    "unit": ("unit", (4, 6), (1, 6), 4),
    "unit of filters": ("unit", (3, 3, 2, 6), (1, 1, 1, 6), 18),
    "block": ((2, 3), (4, 6), (2, 1, 2, 1), 6),
    "block of filters": ((1, 2), (3, 2, 6), (3, 2, 1, 3, 1), 2),
    "two of four": ("2:4", (8, 6), (2, 4, 6), 1),
}


@pytest.mark.parametrize("case", CASES)
def test_layout_expands_and_gathers(case):
    value, shape, expected, weights = CASES[case]
    layout = require_granularity("test", value).layout(shape, (-1,), -2)
    scores = np.random.default_rng(0).uniform(size=expected).astype("float32")

    mask = layout.expand(ops.convert_to_tensor(scores))
    again = layout.saliency(mask)

    assert layout.scores == expected
    assert layout.weights == weights
    assert tuple(mask.shape) == shape
    np.testing.assert_allclose(to_numpy(again), scores, rtol=1e-6)


def test_layout_of_blocks_repeats_each_score_in_its_block():
    layout = require_granularity("test", (2, 3)).layout((4, 6), (-1,), -2)
    scores = np.arange(4, dtype="float32").reshape(2, 1, 2, 1)

    mask = to_numpy(layout.expand(ops.convert_to_tensor(scores)))

    expected = np.kron([[0.0, 1.0], [2.0, 3.0]], np.ones((2, 3)))
    np.testing.assert_array_equal(mask, expected)


def test_layout_of_rows_lies_along_the_inputs():
    layout = require_granularity("test", "2:4").layout((8, 3), (-1,), -2)
    mask = np.arange(24, dtype="float32").reshape(8, 3)

    split = to_numpy(layout.saliency(ops.convert_to_tensor(mask)))

    assert layout.rows == (2, 1)
    np.testing.assert_array_equal(split[1, :, 2], mask[4:8, 2])


def test_units_are_kept_and_dropped_as_a_whole():
    model = train(kg.sparsify(dense_model(), granularity="unit", seed=0))

    plain = kg.strip(model)

    kept = [np.count_nonzero(k, axis=0) for k in kernels(plain)]
    assert set(kept[0]) <= {0, 8}
    assert set(kept[1]) <= {0, 12}
    total = sum(k.sum() for k in kept)
    # As many of 8 and 12 as fit 72 of 144 weights.
    assert 72 - 12 < total <= 72
    assert kg.sparsity_report(model).kept == total
    assert kg.sparsity_report(model).weights == 144


def test_blocks_are_kept_and_dropped_as_a_whole():
    model = train(kg.sparsify(dense_model(), granularity=(4, 2), seed=0))

    for kernel in kernels(kg.strip(model)):
        rows, columns = kernel.shape
        blocks = (kernel != 0).reshape(rows // 4, 4, columns // 2, 2)
        assert set(np.unique(blocks.sum(axis=(1, 3)))) <= {0, 8}
    assert kg.sparsity_report(model).kept == 72


@pytest.mark.parametrize("method", ["learned", "magnitude"])
def test_two_of_four_are_kept_exactly(method):
    density = kg.schedules.CubicDensity(0.5, steps=6, end=0.5)
    sparse = kg.sparsify(dense_model(), method, granularity="2:4", seed=0)

    model = train(sparse, steps=6, density=density)

    for plain in (kg.strip(model), kg.strip(kg.harden(model))):
        for kernel in kernels(plain):
            rows = (kernel != 0).reshape(-1, 4, kernel.shape[1])
            np.testing.assert_array_equal(rows.sum(axis=1), 2)


def test_a_smaller_budget_chooses_among_rows():
    sparse = kg.sparsify(dense_model(), granularity="2:4", seed=0)

    model = train(sparse, density=0.25, harden_step=2)

    plain = kg.strip(model)
    rows = np.concatenate(
        [
            (k != 0).reshape(-1, 4, k.shape[1]).sum(axis=1).ravel()
            for k in kernels(plain)
        ]
    )
    assert rows.max() == 2
    assert len(set(rows)) > 1
    assert rows.sum() == 36


def test_rows_follow_the_density_down():
    density = kg.schedules.CubicDensity(0.5, steps=8, end=1.0)
    sparse = kg.sparsify(dense_model(), granularity="2:4", seed=0)
    model = train(sparse, steps=0, density=density, harden_step=None)
    for step in range(1, 5):
        model.train_on_batch(X, Y)
        most = max(
            to_numpy(m.mask_scores).sum(axis=1).max()
            for layer in model.layers
            for m in layer.masks
        )
        assert most <= 4 * float(density(step)) + 1e-5
        assert most > 2.0


def test_units_of_convolutions_transposes_and_heads():
    shapes = {
        layers.Conv2D(5, 3): ((None, 8, 8, 2), [(1, 1, 1, 5)]),
        layers.Conv2DTranspose(5, 3): ((None, 8, 8, 2), [(1, 1, 5, 1)]),
        layers.DepthwiseConv2D(3): ((None, 8, 8, 2), [(1, 1, 2, 1)]),
        layers.Embedding(7, 3): ((None, 4), [(1, 3)]),
        layers.EinsumDense("abc,cde->abde", (None, 2, 3)): (
            (None, 5, 4),
            [(1, 2, 3)],
        ),
        layers.LSTM(3): ((None, 5, 4), [(1, 12), (1, 12)]),
    }
    for layer, (shape, expected) in shapes.items():
        sparse = Sparsified(layer, granularity="unit")
        sparse.build(shape)
        found = [tuple(m.mask_scores.shape) for m in sparse.masks]
        assert found == expected, layer.name
    attention = Sparsified(layers.MultiHeadAttention(2, 4), granularity="unit")
    attention.build((None, 5, 6), (None, 5, 6))
    found = [tuple(m.mask_scores.shape) for m in attention.masks]
    assert found == [(1, 2, 1)] * 3 + [(2, 1, 1)]


def test_granularity_is_saved(tmp_path):
    model = train(kg.sparsify(dense_model(), granularity=(4, 2), seed=0))
    model.save(tmp_path / "model.keras")

    loaded = keras.saving.load_model(tmp_path / "model.keras")

    assert [x.granularity for x in loaded.layers] == [(4, 2)] * 2
    np.testing.assert_allclose(to_numpy(loaded(X)), to_numpy(model(X)))


def test_layers_that_do_not_divide_are_listed():
    with pytest.warns(UserWarning, match=r"out \(.*blocks of \(4, 3\)"):
        sparse = kg.sparsify(dense_model(), granularity=(4, 3))

    assert isinstance(sparse.layers[0], Sparsified)
    assert not isinstance(sparse.layers[1], Sparsified)


def test_no_warning_where_all_layers_divide():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        kg.sparsify(dense_model(), granularity="2:4")


@pytest.mark.parametrize(
    ("layer", "granularity"),
    [
        (layers.Dense(3), (2, 2)),
        (layers.Dense(3), "2:5"),
        (layers.Embedding(4, 4), "2:4"),
    ],
)
def test_sparsified_that_does_not_divide_raises(layer, granularity):
    sparse = Sparsified(layer, granularity=granularity)

    with pytest.raises(ValueError, match="`granularity` of.*Not possible"):
        sparse.build((None, 4))


@pytest.mark.parametrize(
    "granularity", ["row", "4:2", "2:2", "0:4", (2,), (0, 2), (2.0, 2), 3, None]
)
def test_granularity_of_another_value_raises(granularity):
    with pytest.raises(ValueError, match="`granularity` of `Sparsified`"):
        Sparsified(layers.Dense(2), granularity=granularity)


def normalized_model(activation=None, trainable=True, branch=False):
    inputs = keras.Input((4,))
    units = layers.Dense(3, activation, name="units")(inputs)
    normalization = layers.BatchNormalization(name="norm", trainable=trainable)
    x = normalization(units)
    if branch:
        x = layers.add([x, units])
    return keras.Model(inputs, layers.Dense(2, name="out")(x))


@pytest.mark.parametrize("nested", [False, True])
def test_sparsify_warns_of_units_whose_scale_is_undone(nested):
    model = normalized_model()
    if nested:
        inputs = keras.Input((4,))
        model = keras.Model(inputs, layers.ReLU()(model(inputs)))

    with pytest.warns(UserWarning, match=r"follows: units \(norm\)\.") as got:
        sparse = kg.sparsify(model, granularity="unit")

    (warning,) = (x for x in got if x.category is UserWarning)
    assert warning.filename == __file__
    assert {row.name for row in kg.sparsity_report(sparse).rows} == {
        "units/kernel", "out/kernel",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({}, {"granularity": "weight"}),
        ({}, {"method": "magnitude"}),
        ({}, {"filters": "out"}),
        ({"activation": "tanh"}, {}),
        ({"trainable": False}, {}),
        ({"branch": True}, {}),
    ],
)
def test_sparsify_does_not_warn_of_units_whose_scale_counts(options, settings):
    model = normalized_model(**options)

    sparse = kg.sparsify(model, **{"granularity": "unit", **settings})

    assert len(kg.sparsity_report(sparse).rows) == 2 - ("filters" in settings)


def test_sparsify_takes_units_of_a_model_that_leaves_an_output_unused():
    inputs = keras.Input((5, 4))
    _, state, _ = layers.LSTM(3, return_state=True, name="lstm")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="out")(state))

    sparse = kg.sparsify(model, granularity="unit")

    assert len(kg.sparsity_report(sparse).rows) == 3
