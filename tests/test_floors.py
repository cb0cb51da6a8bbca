"""Floors: the share of each weight's scores that is kept at least."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gumbel as kg
from keras_gumbel._budgets import LOST
from keras_gumbel._budgets import BudgetGroup
from keras_gumbel._budgets import floor_of
from keras_gumbel.sparsity._masked_layer import attached_masks
from tests.gradients import to_numpy
from tests.reference import project_with_floors

X = np.random.default_rng(0).normal(size=(12, 8)).astype("float32")
Y = np.random.default_rng(1).normal(size=(12, 4)).astype("float32")

# Every one of these would compile a training step on JAX.
eager_only = pytest.mark.backends("tensorflow", "torch")


def scores_of(*shapes, minimum=0.0, **mark):
    return [
        kg.mark_scores(keras.Variable(ops.ones(s)), minimum=minimum, **mark)
        for s in shapes
    ]


def projected(group, values, step=0):
    tensors = [ops.convert_to_tensor(z, "float32") for z in values]
    return [to_numpy(s) for s in group.project(tensors, step)]


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
    options = {"density": 0.25, **options}
    model.compile(
        kg.optimizers.ProjectedOptimizer(keras.optimizers.SGD(0.1), **options),
        "mse",
        run_eagerly=True,
    )
    for _ in range(steps):
        model.train_on_batch(X, Y)
    return model


def kept(model):
    return [int(np.count_nonzero(layer.kernel)) for layer in model.layers]


def suppress(model, name="out"):
    """Makes the scores and weights of one layer matter less than others."""
    for mask in attached_masks(model):
        if mask.parts[0].layer.name == name:
            mask.mask_scores.assign(0.01 * ops.ones(mask.mask_scores.shape))
            mask.parts[0].weight.assign(1e-3 * mask.parts[0].weight)
    return model


# Offsets of the scores of three arrays, a budget, costs, and the share kept.
PROJECTIONS = {
    "no floor binds": ((0.5, 0.5, 0.5), 30, (1, 1, 1), 0.1),
    "one is on its floor": ((0.9, 0.9, -0.4), 30, (1, 1, 1), 0.25),
    "one pushes another down": ((1.2, 0.62, -2.0), 33, (1, 1, 1), 0.4),
    "all but one are": ((2.0, -0.3, -0.5), 26, (1, 1, 1), 0.3),
    "all are": ((0.4, 0.1, 0.2), 24, (1, 1, 1), 0.3),
    "raised, with room": ((-0.6, -1.0, -3.0), 80, (1, 1, 1), 0.3),
    "costs": ((0.8, 0.4, -0.4), 60, (1, 3, 0.5), 0.25),
}


@pytest.mark.parametrize("case", PROJECTIONS)
def test_projection_is_the_nearest_point(case):
    offsets, budget, costs, minimum = PROJECTIONS[case]
    shapes = [(5, 6), (20,), (3, 2, 5)]
    rng = np.random.default_rng(2)
    values = [
        rng.uniform(-0.5, 0.5, shape) + offset
        for shape, offset in zip(shapes, offsets, strict=True)
    ]
    variables = scores_of(*shapes, minimum=minimum)
    group = BudgetGroup(variables, list(map(float, costs)), budget=budget)

    found = projected(group, values)

    floors = [np.ceil(minimum * z.size - 1e-6) for z in values]
    expected = project_with_floors(values, budget, costs, floors)
    for s, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(s, e, atol=2e-5)
    spent = sum(c * s.sum() for c, s in zip(costs, found, strict=True))
    assert spent <= budget * (1 + 1e-7)


def test_projection_in_a_graph_is_the_same():
    variables = scores_of((5, 6), (20,), (30,), minimum=0.4)
    group = BudgetGroup(variables, [1.0, 2.0, 1.0], density=0.45)
    rng = np.random.default_rng(3)
    values = [
        (rng.uniform(-0.5, 0.5, v.shape) + offset).astype("float32")
        for v, offset in zip(variables, (1.2, 0.3, -2.0), strict=True)
    ]

    class Step(keras.Model):
        def call(self, inputs):
            return group.project(list(inputs), 0)

    model = Step()
    model.compile(jit_compile=keras.config.backend() == "jax")
    found = model.predict_on_batch([z[None] for z in values])

    expected = projected(group, [z[None] for z in values])
    for s, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(s, e, atol=2e-5)
    assert [s.sum() >= 0.4 * s.size * (1 - 3e-6) for s in found] == [True] * 3


def test_lost_scores_stay_lost():
    variables = scores_of((4,), (6,), minimum=0.5)
    group = BudgetGroup(variables, [1.0, 1.0], budget=8)
    values = [np.array([LOST, -3.0, -2.5, -3.5]), np.full(6, 0.7)]

    first, second = projected(group, values)

    np.testing.assert_allclose(first, [0.0, 0.75, 1.0, 0.25], atol=1e-5)
    np.testing.assert_allclose(second, values[1], atol=1e-5)


def test_lost_scores_stay_lost_where_too_few_are_left():
    (variable,) = scores_of((4,), minimum=0.5)
    group = BudgetGroup([variable], [1.0], budget=3)

    (found,) = projected(group, [np.array([LOST, LOST, 0.2, LOST])])

    np.testing.assert_allclose(found, [0.0, 0.0, 1.0, 0.0], atol=1e-5)


def test_rows_keep_what_they_may_where_they_are_raised():
    (variable,) = scores_of((5, 4), minimum=0.45, rows=(2, 1))
    group = BudgetGroup([variable], [1.0], density=0.5)
    values = np.random.default_rng(0).uniform(-1.5, -0.5, (5, 4))
    values[0] = [0.9, 0.8, 0.7, -0.1]

    (found,) = projected(group, [values])

    assert found.sum() == pytest.approx(9, rel=1e-5)
    assert (found.sum(axis=1) <= 2.0 + 1e-6).all()
    order = np.argsort(values[0])
    assert (np.diff(found[0][order]) >= 0).all()


@eager_only
@pytest.mark.parametrize("granularity", ["weight", "unit", (4, 2), "2:4"])
@pytest.mark.parametrize("mask", ["learned", "magnitude"])
def test_no_weight_falls_below_its_floor(mask, granularity):
    model = kg.sparsify(
        dense_model(), mask, granularity=granularity, minimum=0.1, seed=0
    )
    suppress(model)

    train(
        model,
        steps=2,
        density=0.3,
        harden_step=3,
        score_optimizer=keras.optimizers.SGD(1e-6),
    )
    mask_on_out = attached_masks(model)[1]
    during = to_numpy(mask_on_out.mask_scores)
    model.train_on_batch(X, Y)
    final = to_numpy(mask_on_out.mask_scores)
    total = sum(
        to_numpy(m.mask_scores).sum() * m.parts[0].layout.weights_per_score
        for m in attached_masks(model)
    )

    floor = np.ceil(0.1 * during.size)
    assert during.sum() >= floor * (1 - 3e-6)
    assert set(np.unique(final)) == {0.0, 1.0}
    assert final.sum() == floor
    assert total <= 0.3 * 144
    assert kept(kg.strip(model))[1] == 48 * floor / during.size


@pytest.mark.one_backend
def test_floor_of_one_score_at_least():
    tiny = scores_of((7,), minimum=1e-9)[0]
    none = scores_of((7,))[0]

    assert floor_of(tiny) == 1
    assert floor_of(none) == 0


@pytest.mark.parametrize("mask", ["learned", "magnitude", "concrete"])
def test_harden_keeps_the_floor(mask):
    model = kg.sparsify(dense_model(), mask, minimum=0.1, seed=0)
    suppress(model)

    kg.harden(model, density=0.2)

    rows = kg.sparsity_report(model).rows
    assert [row.kept for row in rows] == [28 - 5, 5]
    # The largest, as without a floor.
    mask_on_out = attached_masks(model)[1]
    weights = abs(to_numpy(mask_on_out.parts[0].weight))
    final = to_numpy(mask_on_out.final_mask).astype(bool)
    assert weights[final].min() > weights[~final].max()


@eager_only
def test_floor_that_does_not_bind_changes_nothing():
    finals = []
    for minimum in (0.0, 0.05):
        model = kg.sparsify(dense_model(), minimum=minimum, seed=0)
        kg.harden(train(model), density=0.25)
        finals.append([to_numpy(m.final_mask) for m in attached_masks(model)])

    assert min(final.sum() for final in finals[0]) > 5
    for without, with_floor in zip(*finals, strict=True):
        np.testing.assert_array_equal(without, with_floor)


@eager_only
def test_floor_holds_under_costs_and_several_budgets():
    model = kg.sparsify(dense_model(), minimum=0.1, seed=0)
    suppress(model)

    train(model, harden_step=1, costs={"out": 3.0}, density=0.25)

    scores = [to_numpy(m.mask_scores) for m in attached_masks(model)]
    assert scores[1].sum() == 5
    assert scores[0].sum() == int(0.25 * (96 + 3 * 48)) - 3 * 5
    model = kg.sparsify(dense_model(), minimum=0.1, seed=0)
    train(model, harden_step=1, density={"hidden": 0.5, "out": 0.25})
    assert [to_numpy(m.mask_scores).sum() for m in attached_masks(model)] == [
        48,
        12,
    ]


@pytest.mark.one_backend
def test_floor_holds_in_reconstruction():
    model = dense_model()
    kg.calibrate(model, X, verbose=0)
    kg.sparsify(model, "obs", minimum=0.25)
    attached_masks(model)[1].parts[0].weight.assign(
        1e-6 * model.layers[1].kernel
    )

    kg.harden(model, density=0.3, reconstruct=True)

    assert [row.kept for row in kg.sparsity_report(model).rows] == [31, 12]


@eager_only
def test_schedule_passes_through():
    density = kg.schedules.CubicDensity(0.15, steps=8, end=1.0)
    model = suppress(kg.sparsify(dense_model(), minimum=0.1, seed=0))
    train(
        model,
        steps=0,
        density=density,
        harden_step=None,
        score_optimizer=keras.optimizers.SGD(1e-6),
    )
    out = attached_masks(model)[1].mask_scores

    sums = []
    for _ in range(9):
        model.train_on_batch(X, Y)
        total = sum(
            to_numpy(m.mask_scores).sum() for m in attached_masks(model)
        )
        assert total <= 144 * float(density(len(sums) + 1)) * (1 + 1e-6)
        sums.append(to_numpy(out).sum())

    assert min(sums) >= 5 * (1 - 3e-6)
    assert sums[-1] == pytest.approx(5, rel=1e-5)


@eager_only
def test_lost_weights_do_not_come_back_for_a_floor():
    model = kg.sparsify(dense_model(), minimum=0.1, seed=0)
    train(model, steps=0, density=0.2, regrow=False, harden_step=6)
    lost = [np.zeros(m.mask_scores.shape, bool) for m in attached_masks(model)]

    for _ in range(8):
        model.train_on_batch(X, Y)
        scores = [to_numpy(m.mask_scores) for m in attached_masks(model)]
        for s, before in zip(scores, lost, strict=True):
            assert not s[before].any()
        lost = [s == 0 for s in scores]

    assert [s.sum() >= floor for s, floor in zip(scores, (10, 5), strict=True)]
    assert sum(s.sum() for s in scores) <= 28


def test_jitted_fit_keeps_the_floor():
    model = suppress(kg.sparsify(dense_model(), minimum=0.1, seed=0))
    model.compile(
        kg.optimizers.ProjectedOptimizer(
            keras.optimizers.SGD(0.1),
            density=kg.schedules.CubicDensity(0.15, steps=6),
            harden_step=5,
            score_optimizer=keras.optimizers.SGD(1e-6),
        ),
        "mse",
    )
    model.fit(X, Y, batch_size=4, epochs=1, verbose=0)
    during = to_numpy(attached_masks(model)[1].mask_scores).sum()

    model.fit(X, Y, batch_size=4, epochs=1, verbose=0)

    assert during >= 5 * (1 - 3e-6)
    assert kept(kg.strip(model)) == [21 - 5, 5]


@eager_only
def test_restored_scores_are_brought_back_to_the_floor():
    model = train(kg.sparsify(dense_model(), minimum=0.1, seed=0))
    scores = [m.mask_scores for m in attached_masks(model)]
    weights = model.get_weights()
    below = [np.zeros_like(w) if w.shape == (12, 4) else w for w in weights]

    with pytest.warns(kg.SparsityWarning, match="another step"):
        model.set_weights(below)

    assert to_numpy(scores[1]).sum() == pytest.approx(5, rel=1e-5)


def test_final_mask_below_its_floor_is_chosen_again():
    variables = scores_of((6,), (6,), minimum=0.3)
    group = BudgetGroup(variables, [1.0, 1.0], budget=6)
    ones = [ops.ones((6,)), ops.zeros((6,))]

    assert not group.fits(ones, 6)
    masks = [to_numpy(m) for m in group.remain(ones, 0, True)]

    assert [m.sum() for m in masks] == [4, 2]


@eager_only
def test_moving_averages_keep_the_floor():
    model = suppress(kg.sparsify(dense_model(), minimum=0.1, seed=0))
    optimizer = keras.optimizers.SGD(
        0.1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=None
    )
    model.compile(
        kg.optimizers.ProjectedOptimizer(
            optimizer, density=0.15, score_optimizer=None
        ),
        "mse",
        run_eagerly=True,
    )
    for _ in range(3):
        model.train_on_batch(X, Y)

    model.optimizer.finalize_variable_values(model.trainable_variables)

    scores = [to_numpy(m.mask_scores) for m in attached_masks(model)]
    assert scores[1].sum() >= 5 * (1 - 3e-6)
    assert sum(s.sum() for s in scores) <= 0.15 * 144 * (1 + 1e-6)


@pytest.mark.one_backend
def test_minimum_is_saved(tmp_path):
    model = kg.sparsify(dense_model(), minimum=0.1, seed=0)
    model.save(tmp_path / "model.keras")

    loaded = suppress(keras.saving.load_model(tmp_path / "model.keras"))
    kg.harden(loaded, density=0.2)

    assert [row.kept for row in kg.sparsity_report(loaded).rows] == [23, 5]


@pytest.mark.one_backend
def test_layer_densities_keep_the_floor():
    model = kg.sparsify(dense_model(), minimum=0.3)

    densities = kg.layer_densities(model, 0.35, "uniform")
    erk = kg.layer_densities(model, 0.35)

    assert densities["out/kernel"] >= 15 / 48
    assert min(erk.values()) >= 0.3
    assert erk["hidden/kernel"] * 96 + erk["out/kernel"] * 48 == 50
    kg.harden(model, density=erk)
    with pytest.raises(ValueError, match="44 scores"):
        kg.layer_densities(model, 0.3)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "options",
    [
        {"density": 0.2},
        {"budget": 30},
        {"density": kg.schedules.CubicDensity(0.2, steps=5)},
        {"density": kg.schedules.CubicDensity(0.2)},
        {"density": {"hidden": 0.5, "out": 0.1}},
    ],
)
def test_floor_that_the_budget_does_not_pay_raises(options):
    model = kg.sparsify(dense_model(), minimum=0.3)
    optimizer = kg.optimizers.ProjectedOptimizer(
        "adam", harden_step=None, score_optimizer=None, **options
    )
    name = next(iter(options))
    match = rf"`{name}` of `ProjectedOptimizer` must be .*, for the minimums"

    with pytest.raises(ValueError, match=match) as error:
        optimizer.groups([m.mask_scores for m in attached_masks(model)])

    assert "out/kernel (15 of 48 scores)" in str(error.value)
    assert "`minimum`" in str(error.value)


@pytest.mark.one_backend
def test_floor_that_harden_cannot_pay_raises():
    model = kg.sparsify(dense_model(), minimum=0.3)

    with pytest.raises(ValueError, match="`density` of `harden`.* 0.305556,"):
        kg.harden(model, density=0.2)


@pytest.mark.one_backend
@pytest.mark.parametrize("minimum", [-0.1, 1, 1.0, "0.1", True, np.nan])
def test_minimum_out_of_range_raises(minimum):
    with pytest.raises(ValueError, match="`minimum` of `sparsify` must be a"):
        kg.sparsify(dense_model(), minimum=minimum)
    with pytest.raises(ValueError, match="`minimum` of `mark_scores` must be"):
        kg.mark_scores(keras.Variable([1.0]), minimum=minimum)


@pytest.mark.one_backend
def test_minimum_above_what_rows_allow_raises():
    with pytest.raises(ValueError, match="must be at most 2/4"):
        kg.sparsify(dense_model(), granularity="2:4", minimum=0.6)


@pytest.mark.one_backend
def test_minimum_and_keep_zeros_exclude_each_other():
    with pytest.raises(ValueError, match=r"`minimum` .*`keep_zeros`"):
        kg.sparsify(dense_model(), keep_zeros=True, minimum=0.1)

    kg.sparsify(dense_model(), "magnitude", keep_zeros=True, minimum=0.1)
