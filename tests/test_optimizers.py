import itertools
import json
import pickle
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import ops
from keras.optimizers import Adam
from keras.optimizers import AdamW
from keras.optimizers import LossScaleOptimizer
from keras.optimizers.schedules import PolynomialDecay

import keras_gumbel
from keras_gumbel.layers import ConcreteMask
from keras_gumbel.ops import project_capped_box
from keras_gumbel.optimizers import ProjectedOptimizer
from keras_gumbel.schedules import CubicDensity
from keras_gumbel.schedules import LinearAnnealing
from tests.cases import compiled_for
from tests.newer_keras import multi_optimizer
from tests.newer_keras import require_keras

SGD = keras.optimizers.SGD

X = np.random.default_rng(0).normal(size=(24, 4)).astype("float32")
Y = np.random.default_rng(1).normal(size=(24, 3)).astype("float32")

# The kernels of `sparse_model`: 4 x 6 and 6 x 3.
COUNT = 42
STEPS_PER_EPOCH = 2


def wrapped(inner_optimizer, **kwargs):
    """Leaves everything but the projection to the inner optimizer."""
    return ProjectedOptimizer(
        inner_optimizer,
        **{"score_optimizer": None, "harden_step": None, **kwargs},
    )


def sparse_model(**kwargs):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, activation="relu"),
            keras.layers.Dense(3),
        ]
    )
    return keras_gumbel.sparsify(model, seed=0, **kwargs)


def fit(model, epochs=1, callbacks=()):
    return model.fit(
        X,
        Y,
        batch_size=len(X) // STEPS_PER_EPOCH,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    )


def by_path(variables, ending):
    return [v for v in variables if v.path.endswith(ending)]


def flat(variables):
    """Returns the values of variables in one float64 array."""
    arrays = [ops.convert_to_numpy(v).ravel() for v in variables]
    return np.concatenate(arrays).astype("float64")


def scores_of(model):
    return by_path(model.trainable_variables, "mask_scores")


def expected_budget(optimizer, step, count=COUNT):
    """K after `step` calls of `apply`, in float32 where it has a schedule."""
    limit = optimizer.density or optimizer.budget
    if callable(limit):
        limit = np.float32(ops.convert_to_numpy(limit(step)))
        count = np.float32(count)
    return float(limit * count if optimizer.density else limit)


def assert_feasible(variables, budget, slack=0.0):
    values = flat(variables)
    assert values.min() >= -slack
    assert values.max() <= 1.0 + slack
    assert values.sum() <= budget * (1.0 + slack)


class Recorder(keras.callbacks.Callback):
    """Records the scores, and their averages, at the end of each epoch."""

    def __init__(self, optimizer):
        super().__init__()
        self.projected = optimizer
        self.scores = []
        self.averages = []

    def on_epoch_end(self, epoch, logs=None):
        # `self.model` first: on JAX it brings the variables up to date.
        self.scores.append([flat(scores_of(self.model))])
        averages = by_path(self.projected.variables, "mask_scores_average")
        self.averages.append([flat(averages)] if averages else [])


def marked(values, name="mask_scores", **kwargs):
    array = np.asarray(values, "float32")
    variable = keras.Variable(array, name=name, **kwargs)
    return keras_gumbel.mark_scores(variable)


def kernel(values, name="kernel"):
    return keras.Variable(np.asarray(values, "float32"), name=name)


def apply(optimizer, variables, *steps):
    """Applies one list of gradients after the other."""
    for gradients in steps:
        tensors = [ops.convert_to_tensor(np.float32(g)) for g in gradients]
        optimizer.apply(tensors, variables)


def random_steps(variables, count, seed=0):
    rng = np.random.default_rng(seed)
    return [[rng.normal(size=v.shape) for v in variables] for _ in range(count)]


OPTIMIZERS = {
    "adam": lambda: wrapped(Adam(0.1), density=0.3),
    "momentum": lambda: wrapped(SGD(0.1, 0.9), density=0.3),
    "adamw": lambda: wrapped(AdamW(0.1), density=0.3),
    "multi_optimizer": lambda: wrapped(
        multi_optimizer(Adam(0.01), {".*mask_scores": SGD(0.5)}), density=0.3
    ),
    "score_optimizer": lambda: wrapped(
        SGD(0.1, 0.9), density=0.3, score_optimizer=Adam(0.1)
    ),
    "accumulation": lambda: wrapped(
        Adam(0.1, gradient_accumulation_steps=2), density=0.3
    ),
    "ema": lambda: wrapped(
        Adam(0.1, use_ema=True, ema_momentum=0.5), density=0.3
    ),
    "ema_overwrite": lambda: wrapped(
        Adam(0.1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2),
        density=0.3,
    ),
    "clipnorm": lambda: wrapped(SGD(1.0, clipnorm=0.5), density=0.3),
    "global_clipnorm": lambda: wrapped(
        SGD(1.0, global_clipnorm=1.0), density=0.3
    ),
    "cubic_density": lambda: wrapped(
        Adam(0.1), density=CubicDensity(0.1, steps=5)
    ),
    "keras_density": lambda: wrapped(
        Adam(0.1), density=PolynomialDecay(0.9, 5, 0.1)
    ),
    "budget": lambda: wrapped(Adam(0.1), budget=7.5),
    "budget_schedule": lambda: wrapped(
        Adam(0.1), budget=LinearAnnealing(30.0, 3.0, steps=5)
    ),
}


# What Keras does about these is the same on every backend.
IN_PYTHON = ("momentum", "adamw", "multi_optimizer", "clipnorm", "budget")


@pytest.mark.parametrize(
    "case", compiled_for(OPTIMIZERS.keys() - IN_PYTHON, OPTIMIZERS)
)
def test_fit_keeps_the_budget_after_every_epoch(case):
    model = sparse_model()
    optimizer = OPTIMIZERS[case]()
    model.compile(optimizer, loss="mse", jit_compile=False)
    recorder = Recorder(optimizer)

    fit(model, epochs=2, callbacks=[recorder])

    assert len(recorder.scores) == 2
    for epoch in range(2):
        budget = expected_budget(optimizer, STEPS_PER_EPOCH * (epoch + 1))
        assert_feasible(recorder.scores[epoch], budget)
        for averages in recorder.averages[epoch]:
            assert_feasible([averages], budget)
    assert_feasible(scores_of(model), budget)
    assert bool(recorder.averages[0]) == case.startswith("ema")
    assert np.ptp(recorder.scores[0][0]) > 0.01


# The test above compiles on JAX, and nothing does on torch.
@pytest.mark.backends("tensorflow")
@pytest.mark.parametrize("case", ["ema_overwrite", "accumulation"])
def test_fit_keeps_the_budget_when_compiled(case):
    model = sparse_model()
    optimizer = OPTIMIZERS[case]()
    model.compile(optimizer, loss="mse")
    recorder = Recorder(optimizer)

    fit(model, epochs=2, callbacks=[recorder])

    for scores in recorder.scores + recorder.averages:
        for values in scores:
            assert_feasible([values], 0.3 * COUNT)
    assert np.ptp(recorder.scores[1][0]) > 0.01


def test_fit_keeps_the_budget_when_run_eagerly():
    model = sparse_model()
    optimizer = OPTIMIZERS["cubic_density"]()
    model.compile(optimizer, loss="mse", run_eagerly=True)

    fit(model)

    assert_feasible(scores_of(model), expected_budget(optimizer, 2))
    assert np.ptp(flat(scores_of(model))) > 0.01


def test_fit_keeps_the_budget_in_mixed_float16():
    keras.config.set_dtype_policy("mixed_float16")
    model = sparse_model()
    optimizer = OPTIMIZERS["score_optimizer"]()
    model.compile(optimizer, loss="mse")
    recorder = Recorder(optimizer)

    fit(model, epochs=2, callbacks=[recorder])

    assert isinstance(model.optimizer, LossScaleOptimizer)
    assert model.optimizer.inner_optimizer is optimizer
    for scores in recorder.scores:
        assert_feasible(scores, 0.3 * COUNT)
    assert np.ptp(recorder.scores[1][0]) > 0.01
    assert {v.dtype for v in scores_of(model)} == {"float32"}


def test_skipped_steps_leave_feasible_scores():
    keras.config.set_dtype_policy("mixed_float16")
    model = sparse_model()
    optimizer = wrapped(Adam(0.1), density=0.3)
    overflowing = LossScaleOptimizer(optimizer, initial_scale=1e30)
    model.compile(overflowing, loss="mse")
    before = flat(by_path(model.trainable_variables, "kernel"))

    fit(model)

    after = flat(by_path(model.trainable_variables, "kernel"))
    np.testing.assert_array_equal(after, before)
    assert int(ops.convert_to_numpy(optimizer.iterations)) == 0
    assert_feasible(scores_of(model), 0.3 * COUNT)
    np.testing.assert_allclose(flat(scores_of(model)), 0.3, rtol=1e-5)


def test_fit_keeps_the_budget_inside_a_multi_optimizer():
    model = sparse_model()
    projected = wrapped(SGD(0.5), density=0.3)
    optimizer = multi_optimizer(Adam(0.05), {".*mask_scores": projected})
    model.compile(optimizer, loss="mse", jit_compile=False)
    before = flat(by_path(model.trainable_variables, "kernel"))
    recorder = Recorder(optimizer)

    fit(model, epochs=2, callbacks=[recorder])

    for scores in recorder.scores:
        assert_feasible(scores, 0.3 * COUNT)
    assert np.ptp(recorder.scores[1][0]) > 0.01
    after = flat(by_path(model.trainable_variables, "kernel"))
    assert np.abs(after - before).min() > 0.0


@pytest.mark.backends("jax", "tensorflow")
def test_steps_per_execution_counts_every_step():
    model = sparse_model()
    optimizer = OPTIMIZERS["cubic_density"]()
    model.compile(
        optimizer, loss="mse", steps_per_execution=2, jit_compile=False
    )

    fit(model)

    budget = expected_budget(optimizer, 2)
    assert_feasible(scores_of(model), budget)
    assert optimizer.current_budget() == pytest.approx(budget, rel=1e-6)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_swap_ema_weights_shows_feasible_averages(policy):
    if policy == "mixed_float16":
        require_keras("3.15", "`SwapEMAWeights` for optimizers in two others")
    keras.config.set_dtype_policy(policy)
    model = sparse_model()
    optimizer = OPTIMIZERS["ema"]()
    jit_compile = "auto" if policy == "mixed_float16" else False
    model.compile(optimizer, loss="mse", jit_compile=jit_compile)
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    recorder = Recorder(optimizer)

    fit(model, epochs=2, callbacks=[swap, recorder])

    for scores in recorder.scores:
        # TensorFlow swaps by sums and differences, which round.
        assert_feasible(scores, 0.3 * COUNT, slack=1e-6)
    assert not np.array_equal(recorder.scores[0], recorder.averages[0])
    assert_feasible(scores_of(model), 0.3 * COUNT)


def test_finalize_variable_values_projects_the_averages():
    scores = marked([0.5, 0.5])
    optimizer = wrapped(SGD(1.0, use_ema=True), budget=1)
    optimizer.build([scores])
    (average,) = by_path(optimizer.variables, "average")
    average.assign([0.9, 0.5])

    optimizer.finalize_variable_values([scores])

    np.testing.assert_allclose(flat([scores]), [0.7, 0.3], rtol=1e-5)
    assert_feasible([scores], 1.0)


def test_averages_are_those_of_the_inner_step_projected():
    ema = SGD(1.0, use_ema=True, ema_momentum=0.5)
    optimizer = wrapped(ema, budget=1)
    variables = [kernel([1.0]), marked([0.5, 0.5])]
    optimizer.build(variables)
    # The first step sets the average to the scores.
    apply(optimizer, variables, [[0.0], [0.0, 0.0]])
    (average,) = by_path(optimizer.variables, "mask_scores_average")

    apply(optimizer, variables, [[0.0], [-0.4, 0.0]])

    # The inner step reaches (0.9, 0.5), its average with (0.5, 0.5) is
    # (0.7, 0.5): each comes down by what it is above the budget of 1.
    np.testing.assert_allclose(flat([variables[1]]), [0.7, 0.3], rtol=1e-5)
    np.testing.assert_allclose(flat([average]), [0.6, 0.4], rtol=1e-5)


@pytest.mark.one_backend
def test_learning_rate_scheduler_reaches_the_inner_optimizer():
    model = sparse_model()
    optimizer = wrapped(SGD(0.1), density=0.3)
    model.compile(optimizer, loss="mse", jit_compile=False)
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch: 2.0**-epoch)

    history = fit(model, epochs=3, callbacks=[schedule])

    # Keras logs the rate of each optimizer from 3.15 on.
    rates = [v for k, v in history.history.items() if "learning_rate" in k]
    assert [1.0, 0.5, 0.25] in rates
    assert float(optimizer.inner_optimizer.learning_rate) == 0.25
    assert_feasible(scores_of(model), 0.3 * COUNT)


@pytest.mark.one_backend
def test_reduce_lr_on_plateau_reaches_the_inner_optimizer():
    model = sparse_model()
    optimizer = wrapped(SGD(0.5), density=0.3)
    model.compile(optimizer, loss="mse", jit_compile=False)
    plateau = keras.callbacks.ReduceLROnPlateau(
        monitor="loss", factor=0.5, patience=1, min_delta=1e9
    )

    fit(model, epochs=3, callbacks=[plateau])

    assert float(optimizer.inner_optimizer.learning_rate) == 0.125
    assert_feasible(scores_of(model), 0.3 * COUNT)


INNER = {
    "sgd": lambda: SGD(0.3),
    "momentum": lambda: SGD(0.1, 0.9, nesterov=True),
    "adam": lambda: Adam(0.1),
    "clipnorm": lambda: SGD(1.0, clipnorm=0.5),
    "global_clipnorm": lambda: SGD(1.0, global_clipnorm=0.5),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.1),
}


@pytest.mark.parametrize("inner", INNER)
def test_apply_is_the_inner_step_then_one_projection(inner):
    rng = np.random.default_rng(0)
    start = [rng.uniform(size=s).astype("float32") for s in [(3,), (3, 4), 5]]
    variables = [kernel(start[0]), marked(start[1]), marked(start[2])]
    optimizer = wrapped(INNER[inner](), budget=6)
    optimizer.build(variables)
    oracle = [kernel(flat([v]).reshape(v.shape)) for v in variables]
    reference = INNER[inner]()
    reference.build(oracle)

    for step in random_steps(variables, 3):
        apply(optimizer, variables, step)
        apply(reference, oracle, step)
        projected = project_capped_box([v.value for v in oracle[1:]], 6.0)
        for variable, value in zip(oracle[1:], projected, strict=True):
            variable.assign(value)

        np.testing.assert_allclose(flat(variables), flat(oracle), atol=1e-6)
        assert_feasible(variables[1:], 6.0)


def test_apply_lets_the_budget_move_between_layers():
    first, second = marked([0.5, 0.5], "first"), marked([0.5, 0.5], "second")
    optimizer = wrapped(SGD(1.0), budget=2)
    optimizer.build([first, second])

    apply(optimizer, [first, second], [[-0.4, -0.4], [0.1, 0.1]])

    # (0.9, 0.9, 0.4, 0.4) is 0.6 above the budget, 0.15 for each.
    np.testing.assert_allclose(flat([first]), [0.75, 0.75], rtol=1e-5)
    np.testing.assert_allclose(flat([second]), [0.25, 0.25], rtol=1e-5)


def test_apply_projects_the_point_that_is_not_clipped():
    scores = marked([0.5, 0.5])
    optimizer = wrapped(SGD(1.0), budget=1)
    optimizer.build([scores])

    apply(optimizer, [scores], [[-1.0, -0.3]])

    # Clipping (1.5, 0.8) first would lead to (0.6, 0.4).
    np.testing.assert_allclose(flat([scores]), [0.85, 0.15], rtol=1e-5)


def test_apply_leaves_scores_under_the_budget_as_they_are():
    scores = marked([0.25, 0.5, 0.125])
    optimizer = wrapped(SGD(0.5), budget=2)
    optimizer.build([scores])

    apply(optimizer, [scores], [[0.0, 0.25, -0.25]])

    np.testing.assert_array_equal(flat([scores]), [0.25, 0.375, 0.25])


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_build_makes_the_scores_feasible(case):
    variables = [marked(np.ones(30), "a"), marked(np.ones((3, 4)), "b")]
    optimizer = OPTIMIZERS[case]()

    optimizer.build([kernel([1.0, 2.0]), *variables])

    budget = expected_budget(optimizer, 0)
    assert_feasible(variables, budget)
    assert flat(variables).sum() == pytest.approx(budget, rel=1e-5)


def test_build_does_not_round_the_budget_up():
    # The nearest float32 to 0.1 is above it.
    scores = marked([0.1, 0.0])

    wrapped("sgd", budget=0.1).build([scores])

    assert 0.099999 < flat([scores]).sum() <= 0.1


def test_build_projects_what_is_not_feasible_only():
    scores = marked([0.5, 0.125, 0.25])
    variable = kernel([5.0, -5.0])

    wrapped("sgd", budget=2).build([variable, scores])

    np.testing.assert_array_equal(flat([scores]), [0.5, 0.125, 0.25])
    np.testing.assert_array_equal(flat([variable]), [5.0, -5.0])


def traced(function):
    """Makes a graph of a function where a backend may build in one."""
    if keras.config.backend() != "tensorflow":
        return function
    import tensorflow as tf

    return tf.function(function)


@pytest.mark.parametrize("use_ema", [False, True])
def test_first_step_starts_from_feasible_scores(use_ema):
    scores = marked(np.ones(4))
    optimizer = wrapped(SGD(1.0, use_ema=use_ema), budget=2)

    @traced
    def step():
        optimizer.apply([ops.full((4,), 0.2)], [scores])

    step()

    # From (1, 1, 1, 1) it would lead to (0.5, 0.5, 0.5, 0.5).
    np.testing.assert_allclose(flat([scores]), np.full(4, 0.3), rtol=1e-5)


@pytest.mark.parametrize("case", ["inner", "score"])
def test_accumulation_moves_scores_on_update_steps_only(case):
    def inner():
        return SGD(0.5, gradient_accumulation_steps=3)

    score = inner() if case == "score" else None
    optimizer = wrapped(inner(), density=0.4, score_optimizer=score)
    variables = [kernel(np.ones(3)), marked(np.linspace(0, 1, 7))]
    optimizer.build(variables)
    seen = [flat(variables[1:])]

    for step in random_steps(variables, 4):
        apply(optimizer, variables, step)
        seen.append(flat(variables[1:]))

    for index in range(4):
        same = np.array_equal(seen[index], seen[index + 1])
        assert same == (index != 2)
        assert seen[index + 1].sum() <= 0.4 * 7


@pytest.mark.parametrize("case", ["plain", "multi", "user", "shared"])
def test_weight_decay_spares_scores(case):
    inner = AdamW(0.1, weight_decay=1.0)
    variables = [kernel([1.0, 2.0]), kernel([3.0], "bias"), marked([0.5, 0.25])]
    if case == "user":
        inner.exclude_from_weight_decay(var_list=variables[1:2])
    optimizer = wrapped(
        multi_optimizer(inner, {}) if case == "multi" else inner,
        density=0.5,
        score_optimizer=SGD(0.1) if case == "shared" else None,
    )
    zeros = [np.zeros(v.shape) for v in variables]

    apply(optimizer, variables, zeros, zeros)

    bias = 3.0 if case == "user" else 3.0 * 0.9**2
    np.testing.assert_allclose(flat(variables[:1]), [0.81, 1.62], rtol=1e-5)
    np.testing.assert_allclose(flat(variables[1:2]), [bias], rtol=1e-5)
    np.testing.assert_array_equal(flat(variables[2:]), [0.5, 0.25])


@pytest.mark.parametrize("outside", [False, True])
def test_weight_decay_spares_scores_in_a_leaf_of_their_own(outside):
    decaying = AdamW(0.1, weight_decay=1.0)
    if outside:
        projected = wrapped(decaying, density=0.5)
        optimizer = multi_optimizer(SGD(0.1), {".*mask_scores": projected})
    else:
        optimizer = wrapped(
            multi_optimizer(SGD(0.1), {".*mask_scores": decaying}),
            density=0.5,
        )
    variables = [kernel([1.0]), marked([0.5, 0.25])]

    apply(optimizer, variables, [[0.0], [0.0, 0.0]])

    np.testing.assert_array_equal(flat(variables), [1.0, 0.5, 0.25])


@pytest.mark.parametrize("case", ["inner", "score"])
def test_loss_scale_factor_divides_every_gradient(case):
    optimizer = wrapped(
        SGD(0.5, loss_scale_factor=16.0),
        density=1.0,
        score_optimizer=SGD(0.5) if case == "score" else None,
    )
    variables = [kernel([1.0]), marked([0.5, 0.25])]
    optimizer.build(variables)
    scale = float(optimizer.scale_loss(ops.ones(())))

    apply(optimizer, variables, [[scale * 0.5], [scale * 0.25, 0.0]])

    assert scale == 16.0
    np.testing.assert_allclose(flat(variables), [0.75, 0.375, 0.25])


def test_score_optimizer_steps_the_scores_alone():
    optimizer = wrapped(SGD(1.0), density=1.0, score_optimizer=SGD(0.5))
    variables = [kernel([1.0]), marked([0.5, 0.25])]

    apply(optimizer, variables, [[0.25], [0.25, -0.5]])

    np.testing.assert_allclose(flat(variables), [0.75, 0.375, 0.5])
    assert by_path(optimizer.inner_optimizer.variables, "scores_momentum") == []


@pytest.mark.one_backend
@pytest.mark.parametrize("case", OPTIMIZERS)
def test_variables_hold_no_model_variable_and_none_twice(case):
    variables = [kernel(np.ones(5)), marked(np.ones(42))]
    optimizer = OPTIMIZERS[case]()

    optimizer.build(variables)

    own = [id(v) for v in optimizer.variables]
    assert len(set(own)) == len(own)
    assert not set(own) & {id(v) for v in variables}
    for part in optimizer.optimizers:
        assert {id(v) for v in part.variables} <= set(own)


@pytest.mark.one_backend
def test_optimizers_lists_those_of_the_weights():
    default, mapped, score = Adam(), SGD(), Adam()
    inner = multi_optimizer(default, {".*bias": mapped})

    optimizer = wrapped(inner, density=0.5, score_optimizer=score)

    assert len(optimizer.optimizers) == 2
    assert {id(o) for o in optimizer.optimizers} == {id(default), id(mapped)}


@pytest.mark.parametrize(
    "case", ["adam", "ema", "multi_optimizer", "score_optimizer"]
)
def test_set_weights_carries_the_whole_state(case):
    start = np.linspace(0, 1, 7)
    first = [kernel(np.ones(3)), marked(start)]
    optimizer = OPTIMIZERS[case]()
    apply(optimizer, first, *random_steps(first, 4))
    second = [kernel(flat(first[:1])), marked(flat(first[1:]))]
    restored = OPTIMIZERS[case]()
    restored.build(second)

    restored.set_weights([ops.convert_to_numpy(v) for v in optimizer.variables])

    assert int(ops.convert_to_numpy(restored.iterations)) == 4
    np.testing.assert_array_equal(
        flat(restored.variables), flat(optimizer.variables)
    )
    step = random_steps(first, 1, seed=1)
    apply(optimizer, first, *step)
    apply(restored, second, *step)
    np.testing.assert_array_equal(flat(second), flat(first))


@pytest.mark.one_backend
@pytest.mark.parametrize("case", ["adam", "score_optimizer", "ema"])
def test_saved_file_holds_each_state_once(case, tmp_path):
    model = sparse_model()
    model.compile(OPTIMIZERS[case](), loss="mse")
    model.optimizer.build(model.trainable_variables)
    path = tmp_path / "model.keras"
    stored = []

    model.save(path)

    with zipfile.ZipFile(path) as archive:
        archive.extract("model.weights.h5", tmp_path)
    with h5py.File(tmp_path / "model.weights.h5") as file:
        file["optimizer"].visititems(
            lambda name, node: (
                stored.append((name, node))
                if isinstance(node, h5py.Dataset)
                else None
            )
        )
        names = [name for name, node in stored]
    assert len(names) == len(model.optimizer.variables)


class Interrupted(Exception):
    pass


class Interruption(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise Interrupted


def annealed_model():
    model = sparse_model(
        mask=ConcreteMask(temperature=LinearAnnealing(1.0, 0.5, steps=7))
    )
    optimizer = wrapped(
        Adam(0.05),
        density=CubicDensity(0.2, steps=8),
        score_optimizer=SGD(0.2, momentum=0.5),
    )
    model.compile(optimizer, loss="mse")
    return model


def test_interrupted_training_resumes_bit_for_bit(tmp_path):
    straight, interrupted, resumed = (annealed_model() for _ in range(3))
    interrupted.set_weights(straight.get_weights())
    fit(straight, epochs=3)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")

    with pytest.raises(Interrupted):
        fit(interrupted, epochs=3, callbacks=[backup, Interruption()])
    fit(resumed, epochs=3, callbacks=[backup])

    assert int(ops.convert_to_numpy(resumed.optimizer.iterations)) == 6
    for mine, other in (
        (resumed.variables, straight.variables),
        (resumed.optimizer.variables, straight.optimizer.variables),
    ):
        for a, b in zip(mine, other, strict=True):
            np.testing.assert_array_equal(flat([a]), flat([b]), err_msg=a.path)


@pytest.mark.one_backend
@pytest.mark.parametrize("case", OPTIMIZERS)
def test_serialization_keeps_the_config(case):
    optimizer = OPTIMIZERS[case]()

    config = keras.optimizers.serialize(optimizer)
    restored = keras.optimizers.deserialize(json.loads(json.dumps(config)))

    assert isinstance(restored, ProjectedOptimizer)
    assert restored.get_config() == optimizer.get_config()
    assert restored.inner_optimizer is not optimizer.inner_optimizer
    assert type(restored.density) is type(optimizer.density)
    assert expected_budget(restored, 5) == expected_budget(optimizer, 5)


@pytest.mark.one_backend
def test_from_config_leaves_the_config_as_it_was():
    config = OPTIMIZERS["score_optimizer"]().get_config()
    before = json.dumps(config)

    restored = ProjectedOptimizer.from_config(config)

    assert json.dumps(config) == before
    assert isinstance(restored.score_optimizer, Adam)
    assert float(restored.learning_rate) == pytest.approx(0.1)


@pytest.mark.one_backend
def test_pickle_keeps_the_config():
    optimizer = OPTIMIZERS["cubic_density"]()

    restored = pickle.loads(pickle.dumps(optimizer))

    assert restored.get_config() == optimizer.get_config()


@pytest.mark.one_backend
def test_clone_model_compiles_with_an_optimizer_of_its_own():
    model = sparse_model()
    model.compile(OPTIMIZERS["adam"](), loss="mse", jit_compile=False)

    clone = keras.models.clone_model(model)
    fit(clone)

    assert clone.optimizer is not model.optimizer
    assert clone.optimizer.get_config() == model.optimizer.get_config()
    assert_feasible(scores_of(clone), 0.3 * COUNT)
    np.testing.assert_array_equal(flat(scores_of(model)), np.ones(COUNT))


@pytest.mark.one_backend
@pytest.mark.parametrize("inner", ["adam", {"class_name": "adam"}])
def test_inner_optimizer_may_be_a_name_or_a_config(inner):
    if isinstance(inner, dict):
        inner = keras.optimizers.serialize(Adam(0.25))

    optimizer = wrapped(inner, density=0.5, score_optimizer=inner)

    assert isinstance(optimizer.inner_optimizer, Adam)
    assert isinstance(optimizer.score_optimizer, Adam)
    assert optimizer.inner_optimizer is not optimizer.score_optimizer


def test_iterations_are_the_updates_of_the_inner_optimizer():
    optimizer = wrapped(SGD(0.1), density=0.5)
    variables = [marked(np.ones(4))]

    apply(optimizer, variables, *random_steps(variables, 5))

    assert int(ops.convert_to_numpy(optimizer.iterations)) == 5
    assert optimizer.iterations is optimizer.inner_optimizer.iterations


def test_learning_rate_is_that_of_the_inner_optimizer():
    optimizer = wrapped(SGD(0.5), density=1.0, score_optimizer=SGD(0.125))
    variables = [kernel([1.0]), marked([0.5])]
    before = float(optimizer.learning_rate)

    optimizer.learning_rate = 0.25
    apply(optimizer, variables, [[1.0], [1.0]])

    assert before == 0.5
    assert float(optimizer.inner_optimizer.learning_rate) == 0.25
    np.testing.assert_allclose(flat(variables), [0.75, 0.375])


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ({"density": 0.25}, [10.0, 10.0, 10.0]),
        ({"budget": 7.5}, [7.5, 7.5, 7.5]),
        ({"density": LinearAnnealing(1.0, 0.5, 2)}, [40.0, 30.0, 20.0]),
        ({"density": PolynomialDecay(1.0, 2, 0.5)}, [40.0, 30.0, 20.0]),
        ({"budget": LinearAnnealing(9.0, 3.0, 2)}, [9.0, 6.0, 3.0]),
    ],
)
def test_current_budget_follows_the_steps(limit, expected):
    optimizer = wrapped(SGD(0.1), **limit)
    variables = [marked(np.ones((5, 4)), "a"), marked(np.ones(20), "b")]
    optimizer.build(variables)
    seen = [optimizer.current_budget()]

    for step in random_steps(variables, 2):
        apply(optimizer, variables, step)
        seen.append(optimizer.current_budget())
        assert flat(variables).sum() <= seen[-1]

    assert seen == pytest.approx(expected, rel=1e-6)
    assert isinstance(seen[0], float)


def test_current_budget_counts_updates():
    optimizer = wrapped(
        SGD(0.1, gradient_accumulation_steps=2),
        density=LinearAnnealing(1.0, 0.5, steps=4),
    )
    variables = [marked(np.ones(40))]

    apply(optimizer, variables, *random_steps(variables, 2))

    assert int(ops.convert_to_numpy(optimizer.iterations)) == 1
    assert optimizer.current_budget() == pytest.approx(35.0, rel=1e-6)
    assert flat(variables).sum() == pytest.approx(35.0, rel=1e-5)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ({"density": 0.25}, 10.0),
        ({"budget": 7.5}, 7.5),
        ({"density": CubicDensity(0.5, 1000)}, 20.0),
        ({"budget": PolynomialDecay(9.0, 10**6, 3.0)}, 3.0),
    ],
)
def test_final_budget_is_the_end_of_the_schedule(limit, expected):
    optimizer = wrapped(SGD(0.1), **limit)
    optimizer.build([marked(np.ones(40))])

    assert optimizer.final_budget() == pytest.approx(expected, rel=1e-6)


def test_a_variable_the_user_marks_is_projected():
    marks = keras_gumbel.mark_scores(keras.Variable(np.ones(4, "float32")))
    variables = [kernel([5.0]), marks]

    apply(wrapped(SGD(1.0), budget=2), variables, [[1.0], [0] * 4])

    np.testing.assert_allclose(flat([marks]), np.full(4, 0.5), rtol=1e-5)
    np.testing.assert_array_equal(flat(variables[:1]), [4.0])


def test_apply_without_gradients_does_nothing():
    optimizer = wrapped(SGD(1.0), budget=1)
    optimizer.build([marked([0.5, 0.5])])

    optimizer.apply([])

    assert optimizer.current_budget() == 1.0
    assert int(ops.convert_to_numpy(optimizer.iterations)) == 0


@pytest.mark.parametrize("score_optimizer", [None, "sgd"])
def test_apply_takes_gradients_of_some_variables(score_optimizer):
    optimizer = wrapped(SGD(0.5), budget=1, score_optimizer=score_optimizer)
    variables = [kernel([1.0]), marked([0.5, 0.5])]
    optimizer.build(variables)

    apply(optimizer, variables[:1], [[1.0]])

    np.testing.assert_allclose(flat(variables), [0.5, 0.5, 0.5], rtol=1e-5)


def test_apply_gradients_takes_pairs():
    optimizer = wrapped(SGD(1.0), budget=1)
    scores = marked([0.5, 0.5])

    optimizer.apply_gradients([(ops.array([-0.4, 0.0]), scores)])

    np.testing.assert_allclose(flat([scores]), [0.7, 0.3], rtol=1e-5)


def custom_step_jax(model, optimizer):
    import jax

    optimizer.build(model.trainable_variables)

    def loss(trainable, others):
        outputs, others = model.stateless_call(
            trainable, others, X, training=True
        )
        return ops.mean((outputs - Y) ** 2), others

    @jax.jit
    def step(trainable, others, slots):
        gradients, others = jax.grad(loss, has_aux=True)(trainable, others)
        trainable, slots = optimizer.stateless_apply(
            slots, gradients, trainable
        )
        return trainable, others, slots

    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        optimizer.variables,
    )

    def run():
        state = step(*([v.value for v in group] for group in groups))
        for group, values in zip(groups, state, strict=True):
            for variable, value in zip(group, values, strict=True):
                variable.assign(value)

    return run


def custom_step_tensorflow(model, optimizer):
    import tensorflow as tf

    @tf.function
    def run():
        with tf.GradientTape() as tape:
            loss = ops.mean((model(X, training=True) - Y) ** 2)
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)

    return run


def custom_step_torch(model, optimizer):
    import torch

    targets = ops.convert_to_tensor(Y)

    def run():
        model.zero_grad()
        ops.mean((model(X, training=True) - targets) ** 2).backward()
        variables = model.trainable_variables
        with torch.no_grad():
            optimizer.apply([v.value.grad for v in variables], variables)

    return run


def test_custom_loop_keeps_the_budget_at_every_step():
    model = sparse_model()
    optimizer = wrapped(
        Adam(0.1, use_ema=True), density=CubicDensity(0.1, steps=5)
    )
    make_step = {
        "jax": custom_step_jax,
        "tensorflow": custom_step_tensorflow,
        "torch": custom_step_torch,
    }[keras.config.backend()]
    run = make_step(model, optimizer)

    for step in range(1, 5):
        run()

        budget = expected_budget(optimizer, step)
        assert_feasible(scores_of(model), budget)
        averages = by_path(optimizer.variables, "mask_scores_average")
        assert_feasible(averages, budget)
    assert int(ops.convert_to_numpy(optimizer.iterations)) == 4
    assert np.ptp(flat(scores_of(model))) > 0.01


@pytest.mark.one_backend
@pytest.mark.parametrize("limits", [{}, {"density": 0.5, "budget": 3}])
def test_density_and_budget_exclude_each_other(limits):
    with pytest.raises(ValueError, match="Pass either `density` or `budget`"):
        wrapped("adam", **limits)


@pytest.mark.one_backend
@pytest.mark.parametrize("density", [0, -0.5, 1.5, float("nan"), "x", True])
def test_density_out_of_range_raises(density):
    with pytest.raises(ValueError, match=r"`density` .* \(0, 1\]") as error:
        wrapped("adam", density=density)

    assert f"density={density!r}" in str(error.value)


@pytest.mark.one_backend
@pytest.mark.parametrize("budget", [0, -1, float("inf"), "x", True])
def test_budget_out_of_range_raises(budget):
    with pytest.raises(ValueError, match="`budget` .* positive") as error:
        wrapped("adam", budget=budget)

    assert f"budget={budget!r}" in str(error.value)


@pytest.mark.one_backend
def test_budget_above_the_number_of_scores_raises_at_build():
    optimizer = wrapped("adam", budget=43)

    with pytest.raises(ValueError, match="at most 42.*budget=43"):
        optimizer.build(sparse_model().trainable_variables)

    wrapped("adam", budget=42).build(sparse_model().trainable_variables)


@pytest.mark.one_backend
def test_build_without_scores_raises():
    with pytest.raises(ValueError, match="found no scores.*sparsify"):
        wrapped("adam", density=0.5).build([kernel([1.0])])


@pytest.mark.one_backend
def test_build_with_a_constraint_on_scores_raises():
    gate = keras_gumbel.layers.ConcreteMask(
        scores_constraint=keras_gumbel.constraints.CappedBox(2)
    )
    gate.build((None, 4))

    with pytest.raises(ValueError, match="no constraint.*mask_scores"):
        wrapped("adam", density=0.5).build(gate.trainable_variables)


@pytest.mark.one_backend
@pytest.mark.parametrize("argument", ["inner_optimizer", "score_optimizer"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: LossScaleOptimizer(Adam()),
        lambda: wrapped("adam", density=0.5),
        lambda: 0.001,
        lambda: Adam,
        lambda: keras.layers.Dense(1),
    ],
)
def test_what_is_no_plain_optimizer_raises(argument, make):
    arguments = {"inner_optimizer": "adam", argument: make()}

    with pytest.raises(TypeError, match=f"`{argument}`.*For loss scaling"):
        wrapped(**arguments, density=0.5)


@pytest.mark.one_backend
def test_inner_optimizer_none_raises():
    with pytest.raises(TypeError, match="`inner_optimizer` .* None"):
        wrapped(None, density=0.5)


@pytest.mark.one_backend
def test_score_optimizer_with_weight_decay_raises():
    with pytest.raises(ValueError, match="without weight decay"):
        wrapped("adam", density=0.5, score_optimizer="adamw")


@pytest.mark.one_backend
@pytest.mark.parametrize("inner", [None, 8.0])
def test_score_optimizer_of_another_loss_scale_raises(inner):
    with pytest.raises(ValueError, match=f"inner one, {inner}, or none.*=16.0"):
        wrapped(
            SGD(loss_scale_factor=inner),
            density=0.5,
            score_optimizer=SGD(loss_scale_factor=16.0),
        )


@pytest.mark.one_backend
@pytest.mark.parametrize(("inner", "score"), [(None, 2), (2, None), (2, 3)])
def test_score_optimizer_of_other_accumulation_raises(inner, score):
    with pytest.raises(ValueError, match=f"the inner one, {inner}.*={score} "):
        wrapped(
            SGD(gradient_accumulation_steps=inner),
            density=0.5,
            score_optimizer=SGD(gradient_accumulation_steps=score),
        )


@pytest.mark.one_backend
def test_score_optimizer_with_moving_averages_raises():
    multi = multi_optimizer(SGD(use_ema=True), {".*never": SGD()})
    for score in (SGD(use_ema=True), multi):
        with pytest.raises(ValueError, match=r"averages \(`use_ema`\)"):
            wrapped("sgd", density=0.5, score_optimizer=score)


@pytest.mark.one_backend
def test_apply_of_gradients_alone_before_build_raises():
    optimizer = wrapped("adam", density=0.5)

    with pytest.raises(ValueError, match="must be built before `apply`"):
        optimizer.apply([ops.ones(3)])


@pytest.mark.one_backend
def test_set_weights_before_build_raises():
    optimizer = wrapped("adam", density=0.5)

    with pytest.raises(ValueError, match="must be built before `set_weights`"):
        optimizer.set_weights([np.ones(3)])


@pytest.mark.one_backend
@pytest.mark.parametrize("argument", ["clipnorm", "use_ema", "weight_decay"])
def test_arguments_of_the_inner_optimizer_are_not_taken(argument):
    with pytest.raises(TypeError, match=argument):
        wrapped("adam", density=0.5, **{argument: 1})


# Costs, and budgets of their own.

FLOPS = {"first": 9.0, "second": 2.0}


def two_scores():
    rng = np.random.default_rng(0)
    return [
        marked(rng.random(30), "first"),
        marked(rng.random((4, 5)), "second"),
    ]


def test_scores_spend_their_costs():
    scores = two_scores()
    start = [ops.convert_to_numpy(s) for s in scores]
    optimizer = wrapped(SGD(0.0), budget=100.0, costs=FLOPS)

    optimizer.build(scores)
    apply(optimizer, scores, [np.zeros(30), np.zeros((4, 5))])

    expected = project_capped_box(start, 100.0, costs=[9.0, 2.0])
    spent = 9 * flat(scores[:1]).sum() + 2 * flat(scores[1:]).sum()
    assert 100 * (1 - 2e-6) <= spent <= 100
    np.testing.assert_allclose(flat(scores), flat(expected), atol=1e-5)


def test_scores_without_a_cost_cost_one():
    scores = two_scores()
    optimizer = wrapped(SGD(0.0), budget=50, costs={"first": 3.0})

    optimizer.build(scores)

    spent = 3 * flat(scores[:1]).sum() + flat(scores[1:]).sum()
    assert spent == pytest.approx(50, rel=2e-6)


def test_density_is_a_share_of_the_costs():
    optimizer = wrapped(SGD(0.1), density=0.1, costs=FLOPS)

    optimizer.build(two_scores())

    assert optimizer.current_budget() == pytest.approx(0.1 * (270 + 40))


@pytest.mark.parametrize("use_ema", [False, True])
def test_scores_keep_to_budgets_of_their_own(use_ema):
    scores = two_scores()
    optimizer = wrapped(
        SGD(1.0, use_ema=use_ema),
        budget={"first": 4.0, "": LinearAnnealing(8.0, 2.0, steps=2)},
    )
    optimizer.build(scores)

    for step, most in enumerate([8.0, 5.0, 2.0]):
        assert flat(scores[:1]).sum() == pytest.approx(4, rel=2e-6)
        assert flat(scores[1:]).sum() == pytest.approx(most, rel=2e-6)
        assert optimizer.current_budget() == pytest.approx(4 + most)
        averages = by_path(optimizer.variables, "second_average")
        assert all(flat([a]).sum() <= most for a in averages), step
        apply(optimizer, scores, [np.full(30, -0.1), np.full((4, 5), -0.1)])

    assert len(averages) == use_ema
    assert optimizer.final_budget() == pytest.approx(6)


def test_fit_keeps_costs_and_budgets_when_compiled():
    optimizer = wrapped(
        Adam(0.01), density={"dense/": 0.5, "dense_1": 0.2}, costs={"": 2.5}
    )
    model = sparse_model()
    model.compile(optimizer, loss="mse")

    fit(model, epochs=2)

    first, second = (flat([s]).sum() for s in scores_of(model))
    assert 0.2 * 24 < first <= 12
    assert 2 < second <= 0.2 * 18


@pytest.mark.one_backend
def test_serialization_keeps_costs_and_budgets():
    optimizer = wrapped(
        "sgd",
        density={"first": 0.5, "": CubicDensity(0.1, steps=9)},
        costs=FLOPS,
    )

    restored = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(optimizer)
    )

    assert restored.costs == FLOPS
    assert list(restored.density) == ["first", ""]
    assert restored.density["first"] == 0.5
    assert isinstance(restored.density[""], CubicDensity)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("costs", {"budget": 5, "costs": {"third": 1.0}}),
        ("budget", {"budget": {"first": 5, "second": 5, "third": 5}}),
        ("budget", {"budget": {"first": 5}}),
        ("budget", {"budget": {"first": 31, "second": 5}}),
        ("budget", {"budget": 311, "costs": FLOPS}),
        ("density", {"density": {"third": 0.5, "": 0.5}}),
    ],
)
def test_limits_that_fit_no_score_raise_at_build(name, limits):
    optimizer = wrapped("sgd", **limits)

    with pytest.raises(ValueError, match=f"`{name}` of `ProjectedOptimizer`"):
        optimizer.build(two_scores())


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("costs", {"budget": 5, "costs": {"first": 0.0}}),
        ("budget", {"budget": {"first": -1.0}}),
        ("density", {"density": {"first": 2.0}}),
    ],
)
def test_limits_out_of_range_raise(name, limits):
    with pytest.raises(ValueError, match=f"`{name}` of `ProjectedOptimizer`"):
        wrapped("sgd", **limits)


# --- the final mask


def harden_after(harden_step, **limits):
    """Returns the scores after each of six steps, and the optimizer."""
    variables = [kernel(np.ones(3)), marked(np.linspace(0.1, 0.9, 8))]
    optimizer = ProjectedOptimizer(
        SGD(0.2),
        score_optimizer=SGD(0.2),
        harden_step=harden_step,
        **(limits or {"budget": 3}),
    )
    after = []
    for step in random_steps(variables, 6):
        apply(optimizer, variables, step)
        after.append(flat(variables[1:]))
    return after, optimizer


def test_mask_is_final_from_the_step_on():
    after, _ = harden_after(3)

    learned, _ = harden_after(None)
    np.testing.assert_array_equal(after[:2], learned[:2])
    largest = np.sort(np.argsort(-learned[2])[:3])
    for scores in after[2:]:
        np.testing.assert_array_equal(np.flatnonzero(scores), largest)
        assert set(np.unique(scores)) == {0.0, 1.0}


def test_weights_train_on_under_a_final_mask():
    variables = [kernel(np.ones(3)), marked(np.linspace(0.1, 0.9, 8))]
    optimizer = ProjectedOptimizer(SGD(0.2), budget=3, harden_step=1)
    steps = random_steps(variables, 3)
    apply(optimizer, variables, steps[0])
    before = flat(variables[:1])

    apply(optimizer, variables, steps[1])

    np.testing.assert_allclose(
        flat(variables[:1]), before - 0.2 * np.ravel(steps[1][0]), rtol=1e-6
    )


def test_final_mask_before_the_end_of_the_schedule_fits_its_end():
    density = CubicDensity(0.25, steps=10, end=1.0)

    after, optimizer = harden_after(3, density=density)

    assert [scores.sum() for scores in after[2:]] == [2.0] * 4
    assert optimizer.final_budget() == 2


def test_averages_of_a_final_mask_are_the_mask():
    variables = [kernel(np.ones(3)), marked(np.linspace(0.1, 0.9, 8))]
    optimizer = ProjectedOptimizer(
        SGD(0.2, use_ema=True, ema_momentum=0.9), budget=3, harden_step=2
    )
    apply(optimizer, variables, *random_steps(variables, 4))
    scores = flat(variables[1:])

    optimizer.finalize_variable_values(variables)

    assert scores.sum() == 3
    np.testing.assert_array_equal(flat(variables[1:]), scores)


@pytest.mark.one_backend
@pytest.mark.parametrize("harden_step", [0, -1, 2.5, True])
def test_harden_step_of_another_value_raises(harden_step):
    with pytest.raises(ValueError, match="`harden_step` of"):
        ProjectedOptimizer("sgd", budget=1, harden_step=harden_step)


# --- one norm of all gradients


@pytest.mark.parametrize("norm", [0.5, 100.0])
def test_gradients_are_clipped_together(norm):
    variables = [kernel(np.zeros(2)), marked([0.5, 0.5])]
    optimizer = ProjectedOptimizer(
        SGD(1.0),
        budget=2,
        score_optimizer=SGD(0.1),
        global_clipnorm=norm,
    )
    gradients = [np.float32([3.0, 0.0]), np.float32([0.0, 4.0])]

    apply(optimizer, variables, gradients)

    scale = min(1.0, norm / 5.0)
    np.testing.assert_allclose(
        flat(variables), [-3 * scale, 0, 0.5, max(0, 0.5 - 0.4 * scale)]
    )


@pytest.mark.one_backend
@pytest.mark.parametrize("norm", [0, -1.0, "1"])
def test_norm_of_another_value_raises(norm):
    with pytest.raises(ValueError, match="`global_clipnorm` of"):
        ProjectedOptimizer("sgd", budget=1, global_clipnorm=norm)


# Frozen scores.


def frozen_and_trained(**kwargs):
    """Builds an optimizer on two score variables, then freezes the first."""
    scores = [marked([0.5, 0.75], "first"), marked([0.25, 0.5], "second")]
    arguments = {"density": 0.5, "score_optimizer": None, **kwargs}
    optimizer = wrapped(SGD(1.0), **arguments)
    optimizer.build(scores)
    before = flat(scores[:1])
    scores[0].trainable = False
    return optimizer, scores, before


@pytest.mark.parametrize(
    "given",
    [
        "trained",
        "all",
        pytest.param("stateless", marks=pytest.mark.backends("jax")),
    ],
)
@pytest.mark.parametrize("case", ["inner", "score"])
def test_frozen_scores_stay_and_count_in_no_budget(given, case):
    optimizer, scores, before = frozen_and_trained(
        score_optimizer=None if case == "inner" else SGD(1.0)
    )
    start = flat(scores[1:])
    gradients = [np.full(2, -1.0, "float32"), np.full(2, -0.5, "float32")]

    if given == "stateless":
        values, _ = optimizer.stateless_apply(
            [v.value for v in optimizer.variables],
            [ops.convert_to_tensor(g) for g in gradients],
            [v.value for v in scores],
        )
    else:
        first = 1 if given == "trained" else 0
        apply(optimizer, scores[first:], gradients[first:])
        values = scores

    expected = project_capped_box(start + 0.5, 1.0)
    np.testing.assert_array_equal(flat(values[:1]), before)
    np.testing.assert_allclose(flat(values[1:]), flat([expected]), rtol=1e-5)
    assert optimizer.current_budget() == optimizer.final_budget() == 1.0


def test_frozen_scores_stay_where_the_mask_becomes_final():
    optimizer, scores, before = frozen_and_trained(harden_step=1)

    apply(optimizer, scores[1:], [[0.0, 0.0]], [[0.0, 0.0]])

    np.testing.assert_array_equal(flat(scores[:1]), before)
    np.testing.assert_array_equal(flat(scores[1:]), [0.0, 1.0])


def test_scores_that_thaw_share_the_budget_again():
    optimizer, scores, _ = frozen_and_trained(budget=1.5, density=None)
    apply(optimizer, scores[1:], [[-1.0, -1.0]])
    full = flat(scores[1:]).sum()
    scores[0].trainable = True

    apply(optimizer, scores, [[0.0, 0.0], [0.0, 0.0]])

    assert full == pytest.approx(1.5, rel=2e-6)
    assert flat(scores).sum() == pytest.approx(1.5, rel=2e-6)
    assert_feasible(scores, 1.5)


def test_optimizer_of_frozen_scores_alone_trains_the_rest():
    variables = [kernel([1.0]), marked([0.9, 0.9])]
    optimizer = ProjectedOptimizer(SGD(0.5, use_ema=True), budget=1.8)
    optimizer.build(variables)
    variables[1].trainable = False

    apply(optimizer, variables[:1], [[1.0]])
    optimizer.finalize_variable_values(variables[:1])

    np.testing.assert_allclose(flat(variables), [0.5, 0.9, 0.9], rtol=1e-6)
    assert optimizer.current_budget() == 0.0


@pytest.mark.parametrize("frozen", compiled_for(["mask"], ["layer", "mask"]))
@pytest.mark.parametrize("when", ["before_compile", "after_fit"])
def test_fit_leaves_frozen_masks_as_they_are(frozen, when):
    model = sparse_model()
    first, second = model.layers
    (mask,) = first.weight_masks

    def compile_and_fit():
        optimizer = wrapped(Adam(0.1), budget=6)
        model.compile(optimizer, loss="mse", jit_compile=False)
        fit(model)

    if when == "after_fit":
        compile_and_fit()
    mask.mask_scores.assign(np.eye(4, 6))
    (first if frozen == "layer" else mask).trainable = False
    compile_and_fit()

    assert len(scores_of(model)) == 1
    np.testing.assert_array_equal(
        flat([mask.mask_scores]), np.eye(4, 6).ravel()
    )
    assert_feasible([second.weight_masks[0].mask_scores], 6)
    assert np.ptp(flat([second.weight_masks[0].mask_scores])) > 0.01
    report = keras_gumbel.sparsity_report(model)
    assert [row.kept for row in report.rows] == [6]
    assert list(report.skipped.values()) == ["frozen"]
    keras_gumbel.harden(model)
    np.testing.assert_array_equal(mask.final_mask, np.eye(4, 6))


@pytest.mark.one_backend
def test_build_on_frozen_masks_alone_raises():
    model = sparse_model()
    for layer in model.layers:
        layer.weight_masks[0].trainable = False

    optimizer = wrapped(Adam(0.1), density=0.5)
    with pytest.raises(ValueError, match="found no scores"):
        optimizer.build(model.trainable_variables)


@pytest.mark.parametrize("regrow", [True, False])
def test_scores_at_zero_rise_again_only_if_they_may(regrow):
    score = marked([0.9, 0.6, 0.3, 0.05])
    optimizer = wrapped(SGD(1.0), budget=1.5, regrow=regrow)
    optimizer.build([score])
    assert (flat([score]) > 0).tolist() == [True, True, True, False]

    apply(optimizer, [score], [[0.0, 0.0, 0.0, -2.0]])

    assert_feasible([score], 1.5)
    assert (flat([score])[3] > 0) == regrow


def saliency_model(regrow):
    model = keras_gumbel.sparsify(
        keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(1, use_bias=False)]
        ),
        mask=keras_gumbel.masks.MagnitudeMask(gradient="dense"),
    )
    model.layers[0].kernel.assign(np.array([[4.0], [3.0], [2.0], [1.0]]))
    model.compile(
        wrapped(SGD(1.0), budget=2, regrow=regrow), "mse", jit_compile=False
    )
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.mark.parametrize("regrow", [True, False])
def test_pruned_weights_come_back_only_if_they_may(regrow):
    model = saliency_model(regrow)
    assert flat(scores_of(model)).tolist() == [1, 1, 0, 0]

    # The last weight grows to be the largest of all.
    kernel = model.layers[0].kernel
    step = {id(kernel): np.array([[0.0], [0.0], [0.0], [-9.0]])}
    variables = model.trainable_variables
    gradients = [step.get(id(v), np.zeros(v.shape)) for v in variables]
    apply(model.optimizer, variables, gradients)

    found = flat(scores_of(model)).tolist()
    assert found == ([1, 0, 0, 1] if regrow else [1, 1, 0, 0])


def test_final_mask_has_no_score_that_was_lost():
    score = marked([0.9, 0.6, 0.3, 0.05])
    optimizer = ProjectedOptimizer(
        SGD(1.0),
        budget=1.5,
        score_optimizer=None,
        harden_step=1,
        regrow=False,
    )
    optimizer.build([score])

    apply(optimizer, [score], [[0.0, 0.0, 0.0, -2.0]])

    assert flat([score]).tolist() == [1, 0, 0, 0]


def test_training_without_regrowth_only_ever_loses_weights():
    model = sparse_model()
    optimizer = ProjectedOptimizer(
        SGD(0.1), density=CubicDensity(0.2, 8), regrow=False
    )
    recorder = Recorder(optimizer)
    model.compile(optimizer, "mse")

    fit(model, epochs=5, callbacks=[recorder])

    alive = [scores > 0 for (scores,) in recorder.scores]
    for before, after in itertools.pairwise(alive):
        assert not (after & ~before).any()
    assert alive[-1].sum() == int(0.2 * COUNT)


@pytest.mark.parametrize("harden_step", [1, 3])
@pytest.mark.parametrize("regrow", [True, False])
@pytest.mark.parametrize(
    "kwargs",
    [{}, {"granularity": "1:2"}, {"mask": "magnitude"}],
    ids=["learned", "one of two", "magnitude"],
)
def test_training_that_diverges_has_no_final_mask(kwargs, regrow, harden_step):
    model = sparse_model(**kwargs)
    optimizer = ProjectedOptimizer(
        SGD(0.1),
        density=0.5,
        score_optimizer=None,
        harden_step=harden_step,
        regrow=regrow,
    )
    variables = model.trainable_variables
    optimizer.build(variables)
    gradients = [np.zeros(v.shape, "float32") for v in variables]
    for gradient in gradients:
        gradient.flat[0] = np.nan

    for _ in range(3):
        apply(optimizer, variables, gradients)
        assert np.isnan(flat(scores_of(model))).all()


def gated():
    """A network with two gates, the name of one of which begins the other."""
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, activation="relu"),
            keras_gumbel.masks.LearnedMask(name="gate_1"),
            keras.layers.Dense(8, activation="relu"),
            keras_gumbel.masks.LearnedMask(name="gate_10"),
            keras.layers.Dense(3),
        ]
    )


@pytest.mark.one_backend
@pytest.mark.parametrize("reported", [False, True])
def test_name_of_a_gate_stands_for_it_alone(reported, tmp_path):
    model = gated()
    if reported:
        keras_gumbel.sparsity_report(model)
    density = {"gate_1": 0.5, "gate_10": 0.25}
    model.compile(ProjectedOptimizer("sgd", density=density), "mse")
    fit(model)
    model.save(tmp_path / "gated.keras")
    loaded = keras.saving.load_model(tmp_path / "gated.keras")

    for found in (model, loaded):
        rows = keras_gumbel.sparsity_report(found).rows
        assert [(row.name, row.kept) for row in rows] == [
            ("gate_1", 3),
            ("gate_10", 2),
        ]


def fitted_before_sparsify(path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd", "mse")
    fit(model)
    return keras_gumbel.sparsify(model)


def sparsified_again(path):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, name="first"),
            keras.layers.Dense(3, name="second"),
        ]
    )
    keras_gumbel.sparsify(model, filters="first")
    optimizer = ProjectedOptimizer("sgd", density=0.5, harden_step=1)
    model.compile(optimizer, "mse")
    fit(model)
    return keras_gumbel.sparsify(model, filters="second")


def softened_after_loading(path):
    model = sparse_model()
    model.compile(ProjectedOptimizer("sgd", density=0.5), "mse")
    fit(model)
    keras_gumbel.harden(model).save(path)
    return keras_gumbel.soften(keras.saving.load_model(path))


UNKNOWN = [fitted_before_sparsify, sparsified_again, softened_after_loading]


@pytest.mark.one_backend
@pytest.mark.parametrize("make", UNKNOWN)
def test_fit_of_scores_that_the_optimizer_does_not_know_raises(make, tmp_path):
    model = make(tmp_path / "model.keras")

    with pytest.raises(ValueError, match="Call `compile` again"):
        fit(model)

    model.compile(ProjectedOptimizer("sgd", density=0.5), "mse")
    fit(model)


@pytest.mark.one_backend
@pytest.mark.filterwarnings("ignore:Skipping variable loading")
def test_weights_for_an_optimizer_that_is_not_built_say_so(tmp_path):
    models = [sparse_model(), sparse_model()]
    for model in models:
        model.compile(ProjectedOptimizer("sgd", density=0.5), "mse")
    fit(models[0])
    models[0].save_weights(tmp_path / "model.weights.h5")

    with pytest.warns(keras_gumbel.SparsityWarning, match="is not built"):
        models[1].load_weights(tmp_path / "model.weights.h5")


@pytest.mark.one_backend
def test_costs_of_another_kind_raise():
    with pytest.raises(ValueError, match="must be a dictionary"):
        ProjectedOptimizer("sgd", density=0.5, costs=[2.0])
