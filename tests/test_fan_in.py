"""Constant fan-in: every unit keeps the same number of inputs."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gumbel as kg
from keras_gumbel import granularities
from keras_gumbel._budgets import LOST
from keras_gumbel._budgets import budget_groups
from keras_gumbel.ops._long_rows import as_rows
from keras_gumbel.ops._long_rows import from_rows
from keras_gumbel.ops._long_rows import largest_of_rows
from keras_gumbel.sparsity._found import find_scores
from keras_gumbel.sparsity._masked_layer import attached_masks
from tests.gradients import to_numpy
from tests.reference import project_exactly

X = np.random.default_rng(0).normal(size=(12, 20)).astype("float32")
Y = np.random.default_rng(1).normal(size=(12, 3)).astype("float32")

# Every one of these would compile a training step on JAX.
eager_only = pytest.mark.backends("tensorflow", "torch")


def dense_model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((20,)),
            layers.Dense(13, activation="relu", name="hidden"),
            layers.Dense(3, name="out"),
        ]
    )


def train(model, steps=3, **options):
    options = {"density": 0.25, **options}
    model.compile(
        kg.optimizers.ProjectedOptimizer(keras.optimizers.SGD(0.1), **options),
        "mse",
        run_eagerly=True,
    )
    for _ in range(steps):
        model.train_on_batch(X, Y)
    return model


def fan_ins(model):
    """Returns the numbers of inputs that units keep, for each layer."""
    return [
        set(np.count_nonzero(to_numpy(layer.kernel), axis=0).ravel().tolist())
        for layer in model.layers
    ]


def group_of(model, **limit):
    scores = [mask.mask_scores for mask in attached_masks(model)]
    (group,) = budget_groups("test", scores, **limit)
    return group


def test_rows_on_several_axes_go_back_to_where_they_were():
    values = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    values = values.astype("float32")

    rows = as_rows(ops.convert_to_tensor(values), (0, 1, 3))
    back = from_rows(rows, (0, 1, 3), values.shape)

    assert tuple(rows.shape) == (4, 30)
    np.testing.assert_array_equal(
        to_numpy(rows)[1].reshape(2, 3, 5), values[:, :, 1, :]
    )
    np.testing.assert_array_equal(to_numpy(back), values)


@pytest.mark.parametrize("length", [6, 40])
def test_largest_of_rows_are_those_of_a_sort(length):
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 4, (30, length)).astype("float32")
    ties = rng.integers(0, 3, (30, length)).astype("float32")

    found = largest_of_rows(
        ops.convert_to_tensor(rows), 3, ops.convert_to_tensor(ties)
    )

    order = np.lexsort((np.tile(np.arange(length), (30, 1)), -ties, -rows))
    expected = np.zeros(rows.shape, bool)
    np.put_along_axis(expected, order[:, :3], True, axis=1)
    np.testing.assert_array_equal(to_numpy(found), expected)


# A layer, the shape of its inputs, and the axes of a row for each weight.
ROWS = {
    "dense": (lambda: layers.Dense(4), (6,), [(0,)]),
    "conv": (lambda: layers.Conv2D(4, 3), (8, 8, 2), [(0, 1, 2)]),
    "conv 1d": (lambda: layers.Conv1D(4, 3), (8, 2), [(0, 1)]),
    "grouped": (lambda: layers.Conv1D(4, 3, groups=2), (8, 4), [(0, 1)]),
    "transpose": (lambda: layers.Conv2DTranspose(4, 3), (8, 8, 2), [(0, 1, 3)]),
    "depthwise": (lambda: layers.DepthwiseConv2D(3), (8, 8, 4), [(0, 1)]),
    "separable": (
        lambda: layers.SeparableConv1D(5, 3),
        (8, 2),
        [(0,), (1,)],
    ),
    "einsum": (
        lambda: layers.EinsumDense("abcd,cde->abe", (None, 3)),
        (5, 4, 2),
        [(0, 1)],
    ),
    "lstm": (lambda: layers.LSTM(3), (5, 4), [(0,), (0,)]),
}


@pytest.mark.one_backend
@pytest.mark.parametrize("case", ROWS)
def test_inputs_of_every_layer_of_keras(case):
    make, shape, expected = ROWS[case]
    inputs = keras.Input(shape)
    model = keras.Model(inputs, make()(inputs))

    kg.sparsify(model, granularity="fan_in")

    found = find_scores("test", model)
    assert [s.mark.rows for s in found] == [(None, axes) for axes in expected]
    assert [s.variable.shape for s in found] == [s.weight.shape for s in found]


@pytest.mark.one_backend
def test_inputs_of_attention_are_those_of_its_projections():
    inputs = keras.Input((5, 6))
    outputs = layers.MultiHeadAttention(2, 4)(inputs, inputs)
    model = keras.Model(inputs, outputs)

    kg.sparsify(model, granularity="fan_in")

    rows = [s.mark.rows for s in find_scores("test", model)]
    assert rows == [(None, (0,))] * 3 + [(None, (0, 1))]


@pytest.mark.one_backend
def test_embeddings_have_no_inputs_to_count():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Embedding(7, 3), layers.Dense(2)]
    )

    with pytest.warns(kg.SparsityWarning, match=r"axes are inputs is not know"):
        kg.sparsify(model, granularity="fan_in")


@pytest.mark.one_backend
@pytest.mark.parametrize("mask", ["learned", "magnitude", "random"])
@pytest.mark.parametrize("density", [0.1, 0.25, 0.5, 0.99, 1.0])
def test_every_unit_keeps_the_density_of_its_inputs(mask, density):
    model = kg.sparsify(dense_model(), mask, granularity="fan_in", seed=0)

    kg.strip(kg.harden(model, density=density))

    counts = [max(1, int(density * length + 1e-6)) for length in (20, 13)]
    assert fan_ins(model) == [{counts[0]}, {counts[1]}]


def test_the_inputs_that_are_kept_are_the_largest():
    model = dense_model()
    weights = abs(to_numpy(model.layers[0].kernel))

    kg.harden(
        kg.sparsify(model, "magnitude", granularity="fan_in"), density=0.3
    )

    final = to_numpy(attached_masks(model)[0].final_mask).astype(bool)
    order = np.argsort(-weights, axis=0)
    assert final.sum() == 6 * 13
    assert np.take_along_axis(final, order, axis=0)[:6].all()


@pytest.mark.one_backend
def test_filters_keep_the_same_number_of_inputs():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(5, 3), layers.Conv2D(4, 3)]
    )

    kg.strip(kg.harden(kg.sparsify(model, granularity="fan_in"), density=0.2))

    kept = [
        np.count_nonzero(layer.kernel, axis=(0, 1, 2)) for layer in model.layers
    ]
    assert [k.tolist() for k in kept] == [[5] * 5, [9] * 4]


@pytest.mark.one_backend
def test_density_falls_where_single_inputs_cost_too_much():
    # Of 13 inputs .05 are less than one: 3 units have more than they pay for.
    model = kg.sparsify(dense_model(), granularity="fan_in")
    group = group_of(model, budget=16)
    rest = group_of(model, budget=28)
    two = group_of(model, budget=29)

    assert group.counts(16) == [1, 1]
    assert rest.counts(28) == [1, 1]
    assert two.counts(29) == [1, 1]
    assert two.counts(0.11 * 299) == [2, 1]
    assert two.counts(2 * 13 + 3 + 4.0) == [2, 1]


@pytest.mark.one_backend
def test_narrow_rows_are_paid_for_by_wide_ones():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(10), layers.Dense(26)]
    )
    group = group_of(kg.sparsify(model, granularity="fan_in"), density=0.2)

    # Of 4 inputs .8 are less than one: with it, 2 of 10 cost 62.
    assert group.counts(60) == [1, 1]
    assert group.counts(62) == [1, 2]


def test_projection_of_others_leaves_even_rows_their_share():
    grains = {"hidden": "fan_in", "out": "weight"}
    group = group_of(kg.sparsify(dense_model(), granularity=grains), budget=80)
    ones = [ops.ones(v.shape) for v in group.variables]

    found = [to_numpy(s) for s in group.project(ones, 0)]

    np.testing.assert_allclose(found[0].sum(axis=0), 5, rtol=1e-5)
    assert found[1].sum() == pytest.approx(80 - 5 * 13, rel=1e-5)


@pytest.mark.parametrize("budget", [16, 40.5, 100, 250, 299])
def test_numbers_in_a_graph_are_the_same(budget):
    group = group_of(
        kg.sparsify(dense_model(), granularity="fan_in"), budget=budget
    )

    tensor = ops.convert_to_tensor(budget, "float32")
    found = [float(n) for n in group.counts(tensor)]

    assert found == group.counts(budget)
    spent = sum(n * rows for n, rows in zip(found, (13, 3), strict=True))
    assert spent <= budget


@pytest.mark.one_backend
def test_budget_below_one_input_a_unit_raises():
    model = kg.sparsify(dense_model(), granularity="fan_in")

    with pytest.raises(ValueError, match="`budget` of `harden`.*at least 16"):
        kg.harden(model, budget=15)
    with pytest.raises(ValueError, match="`density` of `harden`.*every unit"):
        kg.harden(model, density=0.05)


def test_projection_of_rows_is_exact():
    model = kg.sparsify(dense_model(), granularity="fan_in")
    group = group_of(model, density=0.25)
    rng = np.random.default_rng(0)
    values = [
        rng.normal(0.3, 1.0, v.shape).astype("float32") for v in group.variables
    ]

    found = group.project([ops.convert_to_tensor(v) for v in values], 0)

    for s, z, count in zip(found, values, (5, 3), strict=True):
        for column, given in zip(to_numpy(s).T, z.T, strict=True):
            np.testing.assert_allclose(
                column, project_exactly(given, count)[0], atol=1e-5
            )


@eager_only
@pytest.mark.parametrize("mask", ["learned", "magnitude", "concrete"])
def test_units_keep_the_same_number_in_training(mask):
    density = kg.schedules.CubicDensity(0.25, steps=6, end=0.5)
    model = kg.sparsify(dense_model(), mask, granularity="fan_in", seed=0)
    train(model, steps=0, density=density, harden_step=5)

    for step in range(1, 7):
        model.train_on_batch(X, Y)
        for m, length in zip(attached_masks(model), (20, 13), strict=True):
            sums = to_numpy(m.mask_scores).sum(axis=0)
            most = int(length * float(density(step)) + 1e-3)
            assert (sums <= most * (1 + 1e-6)).all()
    kg.strip(model)

    assert fan_ins(model) == [{5}, {3}]


def test_jitted_fit_keeps_the_same_number():
    model = kg.sparsify(dense_model(), granularity="fan_in", seed=0)
    model.compile(
        kg.optimizers.ProjectedOptimizer(
            keras.optimizers.SGD(0.1),
            density=kg.schedules.CubicDensity(0.25, steps=6),
        ),
        "mse",
    )

    model.fit(X, Y, batch_size=4, epochs=2, verbose=0)

    assert model.optimizer.is_final()
    assert kg.sparsity_report(model).kept == 5 * 13 + 3 * 3
    assert fan_ins(kg.strip(model)) == [{5}, {3}]


@eager_only
def test_other_weights_share_the_rest():
    model = kg.sparsify(
        dense_model(), granularity={"hidden": "fan_in", "out": "weight"}, seed=0
    )
    train(model, harden_step=2)

    kept = [to_numpy(m.mask_scores) for m in attached_masks(model)]

    assert set(kept[0].sum(axis=0)) == {5}
    assert kept[1].sum() == int(0.25 * 299) - 5 * 13


@pytest.mark.one_backend
def test_floor_of_a_share_of_the_inputs():
    model = kg.sparsify(dense_model(), granularity="fan_in", minimum=0.2)
    group = group_of(model, budget=70)

    assert group.counts(4 * 13 + 3 * 3) == [4, 3]
    kg.strip(kg.harden(model, budget=70))

    assert fan_ins(model) == [{4}, {3}]


def test_floor_holds_in_training():
    model = kg.sparsify(dense_model(), granularity="fan_in", minimum=0.2)
    group = group_of(model, budget=70)
    low = [ops.full(v.shape, -0.5) for v in group.variables]

    found = [to_numpy(s) for s in group.project(low, 0)]

    for s, count in zip(found, (4, 3), strict=True):
        assert s.sum() >= 0.2 * s.size * (1 - 3e-6)
        assert (s.sum(axis=0) <= count * (1 + 1e-6)).all()


def test_lost_scores_stay_lost():
    model = kg.sparsify(dense_model(), granularity="fan_in")
    group = group_of(model, budget=70)
    values = [ops.ones(v.shape) for v in group.variables]
    values[0] = ops.concatenate([LOST * ops.ones((18, 13)), ops.ones((2, 13))])

    for masks in (group.final_masks(values, 70), group.project(values, 0)):
        found = to_numpy(masks[0])
        assert not found[:18].any()
        np.testing.assert_allclose(found[18:], 1.0, atol=1e-5)


def test_final_mask_with_uneven_rows_is_chosen_again():
    group = group_of(
        kg.sparsify(dense_model(), granularity="fan_in"), density=0.25
    )
    values = [ops.ones(v.shape) for v in group.variables]
    even = group.final_masks(values, 0.25 * 299)
    lump = np.zeros((20, 13), "float32")
    lump[:13, :5] = 1.0
    lumped = [ops.convert_to_tensor(lump), even[1]]

    assert group.fits(even, 0.25 * 299)
    assert not group.fits(lumped, 0.25 * 299)
    assert not group.allows(lumped, 0, final=False)
    again = group.remain(lumped, 0, True)
    assert set(to_numpy(again[0]).sum(axis=0)) == {5}


def test_nan_shows():
    group = group_of(
        kg.sparsify(dense_model(), granularity="fan_in"), density=0.25
    )
    values = [ops.ones(v.shape) for v in group.variables]
    values[0] = values[0] * float("nan")

    masks = group.final_masks(values, 0.25 * 299)

    assert all(np.isnan(to_numpy(mask)).all() for mask in masks)


@pytest.mark.one_backend
def test_fan_in_is_saved(tmp_path):
    model = kg.sparsify(dense_model(), granularity="fan_in", seed=0)
    model.save(tmp_path / "model.keras")

    loaded = keras.saving.load_model(tmp_path / "model.keras")
    grains = [m.parts[0].granularity for m in attached_masks(loaded)]
    kg.strip(kg.harden(loaded, density=0.25))

    assert all(isinstance(g, granularities.FanIn) for g in grains)
    assert fan_ins(loaded) == [{5}, {3}]


@pytest.mark.one_backend
def test_reconstruction_keeps_the_same_number():
    model = dense_model()
    kg.calibrate(model, X, verbose=0)
    kg.sparsify(model, "obs", granularity="fan_in")

    kg.strip(kg.harden(model, density=0.25, reconstruct=True))

    assert fan_ins(model) == [{5}, {3}]


@pytest.mark.one_backend
def test_pattern_mask_needs_a_number():
    with pytest.raises(ValueError, match="needs an N:M granularity"):
        kg.sparsify(dense_model(), kg.masks.PatternMask(), granularity="fan_in")
