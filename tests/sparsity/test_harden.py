import warnings

import keras
import numpy as np
import pytest
from keras import ops

import keras_gumbel as kg
from keras_gumbel.optimizers import ProjectedOptimizer
from keras_gumbel.schedules import LinearAnnealing
from tests.newer_keras import multi_optimizer
from tests.sparsity.models import MODELS
from tests.sparsity.models import X
from tests.sparsity.models import assert_same_values
from tests.sparsity.models import build
from tests.sparsity.models import compiled
from tests.sparsity.models import finals_of
from tests.sparsity.models import flat
from tests.sparsity.models import kernels_of
from tests.sparsity.models import predictions
from tests.sparsity.models import scores_of
from tests.sparsity.models import sequential
from tests.sparsity.models import values
from tests.sparsity.models import with_scores

# Scores that nothing has trained are not decided.
UNTRAINED = "ignore:The final mask keeps.*undecided"


def learned(name="sequential"):
    """A model with masks whose scores all differ."""
    return with_scores(kg.sparsify(build(name)))


@pytest.mark.parametrize("budget", [1, 2, 7, 29, 41, 42, 2.9])
@pytest.mark.parametrize("name", ["sequential", "shared_model"])
def test_harden_keeps_the_largest_scores(name, budget):
    sparse = learned(name)
    scores = flat(scores_of(sparse))

    hard = kg.harden(sparse, budget=budget)

    final = flat(finals_of(hard))
    assert set(final) <= {0.0, 1.0}
    assert final.sum() == int(budget)
    assert set(np.flatnonzero(final)) == set(
        np.argsort(scores)[::-1][: int(budget)]
    )


@pytest.mark.parametrize("budget", [1, 10, 25])
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_harden_keeps_the_larger_of_weights_with_equal_scores(value, budget):
    model = build("sequential")
    for kernel in kernels_of(model):
        kernel.assign(kernel * np.random.default_rng(1).choice([-1, 1]))
    sparse = kg.sparsify(model)
    for scores in scores_of(sparse):
        scores.assign(np.full(scores.shape, value, "float32"))

    hard = kg.harden(sparse, budget=budget)

    magnitudes = np.abs(flat(kernels_of(hard)))
    kept = np.flatnonzero(flat(finals_of(hard)))
    assert set(kept) == set(np.argsort(magnitudes)[::-1][:budget])


def test_harden_keeps_exactly_k_of_equal_scores_on_equal_weights():
    model = sequential()
    for kernel in kernels_of(model):
        kernel.assign(ops.ones(kernel.shape))

    hard = kg.harden(kg.sparsify(model), budget=17)

    assert flat(finals_of(hard)).sum() == 17


@pytest.mark.parametrize(
    ("density", "kept"),
    [(0.3, 12), (1 / 3, 14), (0.5, 21), (0.99, 41), (1, 42)],
)
def test_harden_rounds_the_density_down_to_whole_weights(density, kept):
    hard = kg.harden(kg.sparsify(sequential()), density=density)

    assert flat(finals_of(hard)).sum() == kept


@pytest.mark.parametrize("density", [0.29, 0.57, 0.58])
def test_harden_loses_no_weight_to_rounding(density):
    assert density * 100 < round(density * 100)
    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(10)])

    hard = kg.harden(kg.sparsify(model), density=density)

    assert flat(finals_of(hard)).sum() == round(density * 100)


def in_multi_optimizer():
    projected = ProjectedOptimizer("sgd", density=0.3)
    return multi_optimizer(
        keras.optimizers.Adam(), {".*mask_scores": projected}
    )


COMPILED = {
    "density": (lambda: ProjectedOptimizer("sgd", density=0.3), 12),
    "third": (lambda: ProjectedOptimizer("sgd", density=1 / 3), 14),
    "budget": (lambda: ProjectedOptimizer("sgd", budget=7.9), 7),
    "loss_scale": (
        lambda: keras.optimizers.LossScaleOptimizer(
            ProjectedOptimizer("sgd", density=0.3)
        ),
        12,
    ),
    "multi_optimizer": (in_multi_optimizer, 12),
    "loss_scale_of_multi_optimizer": (
        lambda: keras.optimizers.LossScaleOptimizer(in_multi_optimizer()),
        12,
    ),
    "ended_schedule": (
        lambda: ProjectedOptimizer(
            "sgd", density=LinearAnnealing(0.3, 0.3, steps=4)
        ),
        12,
    ),
}


@pytest.mark.filterwarnings(UNTRAINED)
@pytest.mark.parametrize("case", COMPILED)
def test_harden_takes_the_budget_of_the_optimizer(case):
    make, kept = COMPILED[case]
    sparse = compiled(kg.sparsify(sequential()), make())
    soft = kg.sparsity_report(sparse)

    hard = kg.harden(sparse)

    assert flat(finals_of(hard)).sum() == kept
    assert kg.sparsity_report(hard).budget == kept
    assert soft.budget == kept
    assert hard.compiled


@pytest.mark.one_backend
def test_harden_before_the_schedule_has_ended_warns():
    schedule = LinearAnnealing(1.0, 0.1, steps=4)
    sparse = compiled(kg.sparsify(sequential()), density=schedule)

    with pytest.warns(
        kg.SparsityWarning,
        match="keeps 4 weights.* ends at 4 weights.*earlier, at 42",
    ) as got:
        hard = kg.harden(sparse)

    assert [x.filename for x in got if x.category is kg.SparsityWarning] == [
        __file__
    ]
    assert flat(finals_of(hard)).sum() == 4
    assert flat(finals_of(kg.harden(sparse, budget=42))).sum() == 42


def test_harden_keeps_the_budget_of_every_layer():
    sparse = learned()
    sparse = compiled(sparse, budget={"hidden/kernel": 7, "out/kernel": 5})
    report = kg.sparsity_report(sparse)

    hard = kg.harden(sparse)

    assert [flat([mask]).sum() for mask in finals_of(hard)] == [7, 5]
    assert [row.kept for row in report.rows] == [7, 5]
    assert report.budget == 12


LAYER_LIMITS = {
    "names": ({"budget": {"hidden/kernel": 7, "out/kernel": 5}}, [7, 5]),
    "regexes": ({"budget": {"^hid": 7, "t/k": 5}}, [7, 5]),
    "density": ({"density": {"hidden": 0.25, "out": 0.5}}, [6, 9]),
}


@pytest.mark.one_backend
@pytest.mark.parametrize("case", LAYER_LIMITS)
def test_harden_takes_a_limit_for_each_layer(case):
    limits, kept = LAYER_LIMITS[case]
    sparse = learned()
    scores = [flat([s]) for s in scores_of(sparse)]

    kg.harden(sparse, **limits)

    for own, final, count in zip(scores, finals_of(sparse), kept, strict=True):
        expected = own >= np.sort(own)[-count]
        np.testing.assert_array_equal(flat([final]), expected)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"hidden": 7}, "No key matches out/kernel"),
        ({"hidden": 7, "out": 5, "top": 1}, "hidden/kernel, out/kernel.*'top'"),
        ({"hidden": 7, "out": 19}, "at most 18.*out/kernel"),
    ],
)
def test_harden_with_limits_that_do_not_fit_raises(budget, message):
    sparse = kg.sparsify(sequential())

    with pytest.raises(ValueError, match=message):
        kg.harden(sparse, budget=budget)

    assert not finals_of(sparse)


def test_harden_keeps_what_can_be_paid_for():
    costs = {"hidden/kernel": 3.0, "out/kernel": 2.0}
    optimizer = ProjectedOptimizer("sgd", budget=40, costs=costs)
    sparse = compiled(with_scores(kg.sparsify(sequential())), optimizer)
    scores = flat(scores_of(sparse))

    hard = kg.harden(sparse)

    hidden, out = (flat([mask]) for mask in finals_of(hard))
    assert 37 < 3 * hidden.sum() + 2 * out.sum() <= 40
    kept = np.concatenate([hidden, out]) == 1
    assert scores[kept].min() >= scores[~kept].max()


@pytest.mark.one_backend
@pytest.mark.parametrize("name", MODELS)
def test_harden_changes_the_same_model(name):
    sparse = learned(name)
    before = values(sparse.variables)

    hard = kg.harden(sparse, density=0.5)

    assert hard is sparse
    after = values(hard.variables)
    assert_same_values({path: after[path] for path in before}, before)
    assert set(after) - set(before) == {v.path for v in finals_of(hard)}
    assert not any("mask" in v.path for v in hard.trainable_variables)
    assert len(hard.trainable_variables) > 0


@pytest.mark.parametrize("name", MODELS)
def test_harden_masks_the_kernels(name):
    hard = kg.harden(learned(name), density=0.5)
    outputs = predictions(hard)
    masks = [ops.convert_to_numpy(mask) for mask in finals_of(hard)]

    kg.soften(hard)
    for kernel, mask in zip(kernels_of(hard), masks, strict=True):
        kernel.assign(kernel * mask.astype("float32"))
    for scores in scores_of(hard):
        scores.assign(ops.ones(scores.shape))

    np.testing.assert_array_equal(outputs, predictions(hard))


@pytest.mark.one_backend
def test_harden_again_keeps_the_mask():
    hard = kg.harden(learned(), budget=11)
    before = values(hard.variables)

    again = kg.harden(hard)

    assert_same_values(values(again.variables), before)


@pytest.mark.parametrize("budget", [5, 30])
def test_harden_again_chooses_anew_from_the_scores(budget):
    sparse = learned()
    scores = flat(scores_of(sparse))
    kg.harden(sparse, budget=11)

    kg.harden(sparse, budget=budget)

    largest = scores >= np.sort(scores)[-budget]
    np.testing.assert_array_equal(flat(finals_of(sparse)), largest)
    assert len(finals_of(sparse)) == 2
    assert kg.sparsity_report(sparse).kept == budget


def test_soften_gives_the_scores_and_the_predictions_back():
    sparse = learned("functional")
    before, outputs = values(sparse.variables), predictions(sparse)
    trainable = [v.path for v in sparse.trainable_variables]
    kg.harden(sparse, density=0.3)
    assert np.abs(predictions(sparse) - outputs).max() > 0.01

    soft = kg.soften(sparse)

    assert soft is sparse
    after = values(soft.variables)
    assert_same_values({path: after[path] for path in before}, before)
    np.testing.assert_array_equal(predictions(soft), outputs)
    assert [v.path for v in soft.trainable_variables] == trainable


SOFTENED = {
    "projected": lambda: ProjectedOptimizer("sgd", density=0.5),
    "loss_scale": lambda: keras.optimizers.LossScaleOptimizer(
        ProjectedOptimizer("sgd", density=0.5)
    ),
    "plain": lambda: keras.optimizers.SGD(),
}


@pytest.mark.parametrize("case", SOFTENED)
def test_soften_gives_the_optimizer_back(case):
    sparse = compiled(learned(), SOFTENED[case]())
    optimizer = sparse.optimizer
    optimizer.iterations.assign(3)

    kg.harden(sparse, density=0.5)
    kg.harden(sparse, density=0.2)
    fresh = sparse.optimizer
    kg.soften(sparse)

    assert fresh is not optimizer
    assert sparse.optimizer is optimizer
    assert int(optimizer.iterations) == 3


@pytest.mark.one_backend
def test_soften_gives_the_budget_back():
    sparse = compiled(learned(), density=0.5)
    kg.harden(sparse, density=0.2)
    hard = kg.sparsity_report(sparse)

    kg.soften(sparse)

    assert hard.budget == 8
    assert kg.sparsity_report(sparse).budget == 21


@pytest.mark.one_backend
def test_soften_of_a_model_that_is_not_hardened_changes_nothing():
    sparse = compiled(learned(), density=0.5)
    optimizer, before = sparse.optimizer, values(sparse.variables)

    kg.soften(sparse)

    assert sparse.optimizer is optimizer
    assert_same_values(values(sparse.variables), before)


@pytest.mark.filterwarnings(UNTRAINED)
def test_training_goes_on_after_soften():
    mask = kg.masks.ConcreteMask(temperature=LinearAnnealing(1.0, 0.5, 10))
    sparse = compiled(kg.sparsify(sequential(), mask), density=0.5)
    steps = [layer.weight_masks[0].step for layer in sparse.layers]
    sparse.fit(X, X[:, :3], verbose=0)
    before = flat(scores_of(sparse))

    kg.harden(sparse).fit(X, X[:, :3], verbose=0)
    hardened, counted = flat(scores_of(sparse)), [int(step) for step in steps]
    kg.soften(sparse).fit(X, X[:, :3], verbose=0)

    np.testing.assert_array_equal(hardened, before)
    assert counted == [1, 1]
    assert [int(step) for step in steps] == [2, 2]
    assert int(sparse.optimizer.iterations) == 2
    assert (flat(scores_of(sparse)) != before).any()


BAD_LIMITS = {
    "density_zero": {"density": 0.0},
    "density_above_one": {"density": 1.5},
    "density_text": {"density": "x"},
    "density_true": {"density": True},
    "budget_zero": {"budget": 0},
    "budget_negative": {"budget": -1},
    "budget_too_large": {"budget": 43},
    "budget_text": {"budget": "x"},
    "budget_true": {"budget": True},
    "budget_nan": {"budget": float("nan")},
    "density_schedule": {"density": LinearAnnealing(1.0, 0.5, steps=5)},
    "budget_schedule": {"budget": LinearAnnealing(9, 5, steps=5)},
}


@pytest.mark.one_backend
@pytest.mark.parametrize("case", BAD_LIMITS)
def test_harden_with_a_bad_limit_raises(case):
    sparse = kg.sparsify(sequential())
    limits = BAD_LIMITS[case]
    name = next(iter(limits))

    with pytest.raises(ValueError, match=f"`{name}` of `harden`") as error:
        kg.harden(sparse, **limits)

    assert f"{name}={limits[name]!r}" in str(error.value)
    assert not finals_of(sparse)


@pytest.mark.one_backend
def test_harden_with_two_limits_raises():
    sparse = kg.sparsify(sequential())

    with pytest.raises(ValueError, match="`density` or `budget` to `harden`"):
        kg.harden(sparse, density=0.5, budget=3)

    assert not finals_of(sparse)


@pytest.mark.one_backend
@pytest.mark.parametrize("optimizer", [None, "sgd"])
def test_harden_without_a_budget_raises(optimizer):
    sparse = kg.sparsify(sequential())
    if optimizer:
        sparse.compile(optimizer, loss="mse")

    with pytest.raises(ValueError, match="the number of scores to keep"):
        kg.harden(sparse)


DIVERGED = {
    "harden": kg.harden,
    "strip": kg.strip,
    "sparsity_report": kg.sparsity_report,
}


@pytest.mark.parametrize("action", DIVERGED)
def test_scores_of_a_model_that_diverged_raise(action):
    sparse = compiled(kg.sparsify(build("sequential")), density=0.5)
    scores = scores_of(sparse)[1]
    scores.assign(np.full(scores.shape, np.nan))

    with pytest.raises(ValueError, match="diverged") as error:
        DIVERGED[action](sparse)

    assert "scores of out/kernel are NaN" in str(error.value)
    assert "hidden" not in str(error.value)


def decayed():
    inner = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer = ProjectedOptimizer(inner, density=0.3)
    optimizer.learning_rate = 0.05
    return optimizer


FRESH = {
    "projected": decayed,
    "loss_scale": lambda: keras.optimizers.LossScaleOptimizer(decayed()),
    "score_optimizer": lambda: ProjectedOptimizer(
        keras.optimizers.SGD(0.05, momentum=0.9),
        density=0.3,
        score_optimizer="adam",
    ),
}


@pytest.mark.one_backend
@pytest.mark.filterwarnings(UNTRAINED)
@pytest.mark.parametrize("case", FRESH)
def test_harden_compiles_with_a_fresh_inner_optimizer(case):
    sparse = kg.sparsify(build("sequential"))
    sparse.compile(
        FRESH[case](), loss="mae", metrics=["mse"], jit_compile=False
    )
    sparse.fit(X, np.zeros((6, 3)), verbose=0)

    hard = kg.harden(sparse)

    inner = hard.optimizer
    if case == "loss_scale":
        assert isinstance(inner, keras.optimizers.LossScaleOptimizer)
        inner = inner.inner_optimizer
    assert isinstance(inner, keras.optimizers.SGD)
    assert inner.momentum == 0.9
    assert float(inner.learning_rate) == pytest.approx(0.05)
    assert int(ops.convert_to_numpy(inner.iterations)) == 0
    assert hard.loss == "mae"
    logs = hard.evaluate(X, X[:, :3], verbose=0, return_dict=True)
    assert set(logs) == {"loss", "mse"}


@pytest.mark.one_backend
@pytest.mark.filterwarnings(UNTRAINED)
def test_harden_of_a_multi_optimizer_keeps_its_other_parts():
    sparse = compiled(kg.sparsify(sequential()), in_multi_optimizer())
    optimizer = sparse.optimizer

    hard = kg.harden(sparse)
    before = flat(kernels_of(hard))
    hard.fit(X, X[:, :3], epochs=2, verbose=0)

    assert isinstance(hard.optimizer, keras.optimizers.MultiOptimizer)
    assert hard.optimizer is not optimizer
    assert np.abs(flat(kernels_of(hard)) - before).max() > 0.0
    assert flat(finals_of(hard)).sum() == 12


@pytest.mark.one_backend
def test_harden_takes_a_loss_that_keras_cannot_serialize():
    sparse = kg.sparsify(sequential())
    sparse.compile(
        ProjectedOptimizer("sgd", density=0.5),
        loss=lambda y, p: ops.mean(ops.abs(y - p), axis=-1),
        jit_compile=False,
    )
    sparse.optimizer.build(sparse.trainable_variables)

    hard = kg.harden(sparse)

    assert hard.evaluate(X, X[:, :3], verbose=0) == pytest.approx(
        np.abs(X[:, :3] - predictions(hard)).mean(), rel=1e-5
    )


def scramble_pruned(model):
    """Changes every weight that the final mask drops."""
    for kernel, mask in zip(kernels_of(model), finals_of(model), strict=True):
        keep = ops.convert_to_numpy(mask)
        kernel.assign(np.where(keep, ops.convert_to_numpy(kernel), 1e3))


def test_fit_of_a_hardened_model_keeps_the_mask(tmp_path):
    hard = kg.harden(learned(), budget=11)
    masks, kernels = flat(finals_of(hard)), flat(kernels_of(hard))
    hard.save(tmp_path / "hard.keras")

    loaded = keras.saving.load_model(tmp_path / "hard.keras")
    loaded.trainable = False
    loaded.trainable = True
    loaded.compile("adam", loss="mse")
    loaded.fit(X, X[:, :3], epochs=3, verbose=0)

    np.testing.assert_array_equal(flat(finals_of(loaded)), masks)
    moved = flat(kernels_of(loaded)) != kernels
    assert not moved[masks == 0].any()
    assert moved[masks == 1].sum() > 5
    outputs = predictions(loaded)
    scramble_pruned(loaded)
    np.testing.assert_array_equal(predictions(loaded), outputs)
    assert len(loaded.trainable_variables) == 4


def test_hardened_model_draws_no_noise_in_training():
    mask = kg.masks.ConcreteMask()
    sparse = with_scores(kg.sparsify(build("sequential"), mask, seed=0))
    first, second = (
        ops.convert_to_numpy(sparse(X, training=True)) for _ in range(2)
    )

    hard = kg.harden(sparse, budget=11)

    training = ops.convert_to_numpy(hard(X, training=True))
    np.testing.assert_array_equal(training, predictions(hard))
    assert np.abs(first - second).max() > 0.0


@pytest.mark.one_backend
def test_harden_warns_of_undecided_scores():
    sparse = compiled(kg.sparsify(sequential()), budget=10)

    with pytest.warns(
        UserWarning, match="10 weights, but 42 scores are"
    ) as got:
        kg.harden(sparse)

    (warning,) = (x for x in got if x.category is kg.SparsityWarning)
    assert warning.filename == __file__
    assert "`score_optimizer`" in str(warning.message)


@pytest.mark.one_backend
def test_harden_is_silent_where_scores_are_decided_or_the_budget_is_given():
    undecided = compiled(kg.sparsify(sequential()), budget=10)
    decided = compiled(kg.sparsify(sequential()), budget=20)

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        kg.harden(undecided, budget=10)
        kg.harden(decided)  # 42 for 20, less than 3 for each

    assert kg.sparsity_report(decided).kept == 20


@pytest.mark.one_backend
def test_soften_gives_a_model_of_gates_its_optimizer_back():
    model = keras.Sequential(
        [keras.Input((4,)), kg.layers.ConcreteMask(), keras.layers.Dense(2)]
    )
    model.compile(ProjectedOptimizer("sgd", density=0.5), loss="mse")
    optimizer = model.optimizer

    kg.harden(model, density=0.5)
    assert model.optimizer is not optimizer
    kg.soften(model)

    assert model.optimizer is optimizer
