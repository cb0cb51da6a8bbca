"""The callbacks of Keras, and what restores weights, keep the budget."""

import ast
import itertools
import math
import pathlib
import warnings

import keras
import numpy as np
import pytest
from keras import callbacks
from keras import ops

import keras_gumbel as kg
from keras_gumbel.callbacks import OnceFinal
from keras_gumbel.callbacks import SparsityLogger
from keras_gumbel.optimizers import ProjectedOptimizer
from keras_gumbel.schedules import CubicDensity
from tests.newer_keras import require_keras

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 16)).astype("float32")
Y = RNG.integers(0, 4, 64)
COUNT = 16 * 32 + 32 * 4
BUDGET = 64  # a tenth of them
STEPS = 40  # ten epochs of four batches; the mask is final after 28


def dense():
    return keras.Sequential(
        [
            keras.Input((16,)),
            keras.layers.Dense(32, activation="relu", name="hidden"),
            keras.layers.Dense(4, activation="softmax", name="out"),
        ]
    )


def compiled(model, inner="adam", density=None, jit_compile=False, **kwargs):
    density = density or CubicDensity(0.1, steps=STEPS)
    model.compile(
        ProjectedOptimizer(inner, density=density, **kwargs),
        loss="sparse_categorical_crossentropy",
        jit_compile=jit_compile,
    )
    return model


def sparse(mask="learned", **kwargs):
    return compiled(kg.sparsify(dense(), mask), **kwargs)


def fit(model, *used, epochs=10, **kwargs):
    return model.fit(
        X,
        Y,
        batch_size=16,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=list(used),
        **kwargs,
    )


def non_zeros(model):
    return sum(np.count_nonzero(w) for w in model.get_weights() if w.ndim == 2)


def scores_of(model):
    found = [v for v in model.variables if v.name == "mask_scores"]
    values = [ops.convert_to_numpy(v).ravel() for v in found]
    return np.concatenate(values).astype("float64")


def caught(function, *args, **kwargs):
    """Returns a result, and the messages of our warnings."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", kg.SparsityWarning)
        result = function(*args, **kwargs)
    return result, [str(w.message) for w in found]


class Worse(callbacks.Callback):
    """Logs a loss that is best in the first epoch it sees."""

    def on_epoch_end(self, epoch, logs=None):
        logs["worse"] = float(epoch)


def restoring(patience=20):
    return callbacks.EarlyStopping(
        "worse", mode="min", patience=patience, restore_best_weights=True
    )


# Learning rates.


RATES = {
    "LearningRateScheduler": lambda: callbacks.LearningRateScheduler(
        lambda epoch: 2.0**-epoch
    ),
    "ReduceLROnPlateau": lambda: callbacks.ReduceLROnPlateau(
        "loss", factor=0.5, patience=1, min_delta=1e9
    ),
}


@pytest.mark.parametrize(
    ("callback", "constant"),
    [
        ("LearningRateScheduler", False),
        ("ReduceLROnPlateau", True),
        pytest.param(
            "LearningRateScheduler", True, marks=pytest.mark.one_backend
        ),
        pytest.param("ReduceLROnPlateau", False, marks=pytest.mark.one_backend),
    ],
)
def test_learning_rates_of_callbacks_are_those_of_the_weights(
    callback, constant
):
    model = sparse(inner=keras.optimizers.Adam(0.5))
    if constant:
        compiled(model, keras.optimizers.Adam(0.5), density=0.1)
    optimizer = model.optimizer
    expected = {"LearningRateScheduler": 0.25, "ReduceLROnPlateau": 0.125}

    history = fit(model, RATES[callback](), epochs=3).history

    rate = float(ops.convert_to_numpy(optimizer.learning_rate))
    assert rate == expected[callback]
    (logged,) = [k for k in history if k.startswith("learning_rate")]
    assert history[logged][-1] in (rate, 2 * rate)  # before or after it
    # Ten steps of ScoreSGD decide a score, over half a cosine wave.
    first = 10 * (1 - 0.8) / (0.5 * STEPS)
    decayed = first * 0.5 * (1 + math.cos(math.pi * 12 / STEPS))
    scores = float(
        ops.convert_to_numpy(optimizer.score_optimizer.learning_rate)
    )
    assert scores == pytest.approx(0.05 if constant else decayed, rel=1e-5)


# Weights that are restored without the optimizer.


@pytest.mark.parametrize(
    "mask",
    [
        "learned",
        pytest.param("magnitude", marks=pytest.mark.one_backend),
        pytest.param("random", marks=pytest.mark.one_backend),
        "concrete",
    ],
)
def test_early_stopping_restores_weights_within_the_budget(mask):
    model = sparse(mask, jit_compile="auto" if mask == "learned" else False)

    _, messages = caught(fit, model, Worse(), restoring())

    assert len(messages) == 1
    assert (
        "step 40 of its optimizer. Their scores were outside of a final mask"
        in messages[0]
    )
    scores = scores_of(model)
    assert set(scores) == {0.0, 1.0}
    assert scores.sum() == BUDGET
    with warnings.catch_warnings():
        warnings.simplefilter("error", kg.SparsityWarning)
        fit(model, epochs=1)
        assert non_zeros(kg.strip(model)) == BUDGET


WAYS = [
    "set_weights",
    "load_weights",
    "assign",
    pytest.param("set_state_tree", marks=pytest.mark.one_backend),
    pytest.param("layer", marks=pytest.mark.one_backend),
]


@pytest.mark.parametrize(
    "mask",
    ["learned", pytest.param("magnitude", marks=pytest.mark.one_backend)],
)
@pytest.mark.parametrize("way", WAYS)
def test_weights_of_an_earlier_step_come_under_the_budget(way, mask, tmp_path):
    model = sparse(mask)
    path = tmp_path / "early.weights.h5"
    # Of a model that is not compiled, and so without an optimizer.
    early = kg.sparsify(dense(), mask)
    early.save_weights(path)
    names = ("trainable_variables", "non_trainable_variables")
    tree = model.get_state_tree(value_format="numpy_array")
    fit(model)
    assert scores_of(early).sum() == COUNT

    def restore():
        if way == "set_weights":
            model.set_weights(early.get_weights())
        elif way == "load_weights":
            model.load_weights(path)
        elif way == "set_state_tree":
            model.set_state_tree({name: tree[name] for name in names})
        elif way == "assign":
            for new, old in zip(model.variables, early.variables, strict=False):
                new.assign(old)
        else:
            for new, old in zip(model.layers, early.layers, strict=True):
                new.set_weights(old.get_weights())

    _, messages = caught(restore)

    seen = way not in ("assign", "layer")
    assert any("were outside of" in message for message in messages) == seen
    assert scores_of(model).sum() == (BUDGET if seen else COUNT)
    fit(model, epochs=1)
    assert set(scores_of(model)) == {0.0, 1.0}
    assert scores_of(model).sum() == BUDGET
    assert non_zeros(kg.strip(model)) == BUDGET


@pytest.mark.parametrize(
    "mask",
    ["learned", pytest.param("magnitude", marks=pytest.mark.one_backend)],
)
def test_strip_of_scores_of_an_earlier_step_keeps_k(mask):
    model = sparse(mask)
    fit(model)
    for variable in model.variables:
        if variable.name == "mask_scores":
            variable.assign(ops.ones(variable.shape))

    stripped, _ = caught(kg.strip, model)

    assert non_zeros(stripped) == BUDGET


def test_restored_scores_are_projected_while_they_are_learned():
    model = sparse()
    early = model.get_weights()
    fit(model, epochs=3)
    # Eq. (30): 640 equal scores share K equally.
    step = 12
    density = 0.1 + 0.9 * (1 - step / (0.6 * STEPS)) ** 3

    with pytest.warns(
        kg.SparsityWarning, match="step 12 .* outside of the budget"
    ):
        model.set_weights(early)

    np.testing.assert_allclose(scores_of(model), density, rtol=1e-5)


def test_restoring_the_optimizer_too_changes_nothing(tmp_path):
    path = tmp_path / "all.weights.h5"
    model = sparse()
    fit(model, epochs=3)
    model.save_weights(path)
    saved = [ops.convert_to_numpy(v).copy() for v in model.variables]
    fit(model, epochs=7)

    with warnings.catch_warnings():
        warnings.simplefilter("error", kg.SparsityWarning)
        model.load_weights(path)

    assert model.optimizer.steps == 12
    for variable, value in zip(model.variables, saved, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)


def test_restored_nan_stays_for_all_to_see():
    model = sparse()
    fit(model, epochs=1)
    weights = [np.full_like(w, np.nan) for w in model.get_weights()]

    model.set_weights(weights)

    assert np.isnan(scores_of(model)).all()
    with pytest.raises(ValueError, match="Training diverged"):
        kg.strip(model)


# Checkpoints.


@pytest.mark.parametrize(
    ("ending", "epochs"),
    [
        (".keras", 3),
        (".weights.h5", 10),
        pytest.param(".keras", 10, marks=pytest.mark.one_backend),
        pytest.param(".weights.h5", 3, marks=pytest.mark.one_backend),
        pytest.param(".h5", 3, marks=pytest.mark.one_backend),
        pytest.param(".h5", 10, marks=pytest.mark.one_backend),
    ],
)
def test_checkpoint_strips_to_k(ending, epochs, tmp_path):
    path = tmp_path / f"checkpoint{ending}"
    weights_only = ending == ".weights.h5"
    saving = callbacks.ModelCheckpoint(path, save_weights_only=weights_only)
    fit(sparse(), saving, epochs=epochs)

    if weights_only:
        loaded = sparse()
        loaded.optimizer.build(loaded.trainable_variables)
        loaded.load_weights(path)
    else:
        loaded = keras.saving.load_model(path)
    stripped, messages = caught(kg.strip, loaded)

    assert non_zeros(stripped) == BUDGET
    # A legacy file has no state of the optimizer that Keras can load.
    early = epochs == 3 and ending != ".h5"
    assert ["stopped earlier" in message for message in messages] == [
        True
    ] * early


def test_backup_resumes_a_random_mask_bit_for_bit(tmp_path):
    class Killed(callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 4:
                raise KeyboardInterrupt

    def make(seed):
        keras.utils.set_random_seed(seed)
        model = kg.sparsify(dense(), "random")
        keras.utils.set_random_seed(3)
        return compiled(model, keras.optimizers.SGD(0.1))

    whole = make(1)
    start = whole.get_weights()
    fit(whole)
    backup = callbacks.BackupAndRestore(tmp_path)
    first = make(1)
    first.set_weights(start)
    with pytest.raises(KeyboardInterrupt):
        fit(first, backup, Killed())

    again = make(2)
    fit(again, callbacks.BackupAndRestore(tmp_path))

    for one, two in zip(whole.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert non_zeros(kg.strip(again)) == BUDGET


# Moving averages.


@pytest.mark.parametrize(
    ("swap_on_epoch", "epochs"),
    [
        (True, 3),
        (False, 10),
        pytest.param(True, 10, marks=pytest.mark.one_backend),
        pytest.param(False, 3, marks=pytest.mark.one_backend),
    ],
)
def test_swapped_averages_strip_to_k(swap_on_epoch, epochs):
    require_keras("3.15", "`SwapEMAWeights` for optimizers around another one")
    inner = keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9)
    model = sparse(inner=inner)
    seen = []

    class Seen(callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            limit = self.model.optimizer.current_budget()
            seen.append(scores_of(self.model).sum() <= limit * (1 + 1e-6))

    swap = callbacks.SwapEMAWeights(swap_on_epoch=swap_on_epoch)
    fit(model, swap, Seen(), epochs=epochs, validation_data=(X, Y))
    stripped, _ = caught(kg.strip, model)

    assert all(seen)
    assert non_zeros(stripped) == BUDGET


# All of them, in any order.


@pytest.mark.parametrize(
    "order",
    [
        0,
        pytest.param(7, marks=pytest.mark.one_backend),
        pytest.param(23, marks=pytest.mark.one_backend),
    ],
)
def test_callbacks_keep_the_budget_in_any_order(order, tmp_path):
    used = [
        callbacks.ReduceLROnPlateau("loss", patience=1),
        callbacks.ModelCheckpoint(tmp_path / "best.keras", "loss"),
        restoring(patience=8),
        SparsityLogger(),
    ]
    used = list(itertools.permutations(used))[order]
    model = sparse()

    _, messages = caught(fit, model, Worse(), *used)

    # Stopped in the ninth epoch, with the weights of the first.
    assert model.optimizer.steps == 36
    assert any("outside of a final mask" in m for m in messages)
    assert scores_of(model).sum() == BUDGET
    stripped, _ = caught(kg.strip, model)
    assert non_zeros(stripped) == BUDGET
    best = keras.saving.load_model(tmp_path / "best.keras")
    stripped, _ = caught(kg.strip, best)
    assert non_zeros(stripped) == BUDGET


# The end of training.


@pytest.mark.one_backend
def test_logger_says_where_training_did_end():
    model = sparse()

    _, messages = caught(
        fit, model, Worse(), restoring(patience=2), SparsityLogger()
    )
    step = model.optimizer.steps
    stripped, later = caught(kg.strip, model)

    assert step == 12
    density = 0.1 + 0.9 * (1 - step / (0.6 * STEPS)) ** 3
    now = math.floor(density * COUNT)
    (message,) = [m for m in messages if "Training ended at step 12" in m]
    assert f"is at {now:,} weights. The schedule ends at {BUDGET}," in message
    (message,) = later
    assert f"keeps {BUDGET} weights" in message
    assert f"earlier, at {now:,}." in message
    assert non_zeros(stripped) == BUDGET


@pytest.mark.one_backend
def test_logger_is_silent_where_training_ends_with_its_mask():
    with warnings.catch_warnings():
        warnings.simplefilter("error", kg.SparsityWarning)
        fit(sparse(), OnceFinal(Worse()), SparsityLogger())


@pytest.mark.one_backend
def test_logger_says_that_gates_have_no_budget():
    model = keras.Sequential(
        [keras.Input((16,)), kg.layers.ConcreteMask(), keras.layers.Dense(4)]
    )
    model.compile("sgd", "sparse_categorical_crossentropy")

    with pytest.warns(kg.SparsityWarning, match="`SGD`, which has no budget"):
        fit(model, SparsityLogger(), epochs=1)


# Callbacks that wait for the final mask.


def test_once_final_early_stopping_restores_an_epoch_of_the_final_mask():
    model = sparse()
    masks = []

    class Masks(callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            masks.append(self.model.get_weights())

    with warnings.catch_warnings():
        warnings.simplefilter("error", kg.SparsityWarning)
        fit(model, Worse(), Masks(), OnceFinal(restoring(patience=1)))
        assert len(masks) == 8  # the 28th step ends the seventh epoch
        for restored, best in zip(model.get_weights(), masks[6], strict=True):
            np.testing.assert_array_equal(restored, best)
        assert non_zeros(kg.strip(model)) == BUDGET


def test_once_final_checkpoint_saves_no_other_mask(tmp_path):
    class Saved(callbacks.ModelCheckpoint):
        epochs = ()

        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            self.epochs += (epoch,)

    path = tmp_path / "best.keras"
    best = Saved(path, "worse", mode="min", save_best_only=True, verbose=0)

    fit(sparse(), Worse(), OnceFinal(best))

    assert best.epochs == (6, 7, 8, 9)
    loaded = keras.saving.load_model(path)
    assert loaded.optimizer.steps == 28
    assert non_zeros(kg.strip(loaded)) == BUDGET


@pytest.mark.one_backend
def test_once_final_passes_on_all_that_happens_in_training():
    class Recorder(callbacks.Callback):
        def __getattribute__(self, name):
            if name.startswith("on_"):
                seen.append(name)
            return super().__getattribute__(name)

    hooks = {
        name
        for name in dir(callbacks.Callback)
        if name.startswith(("on_train_", "on_epoch_", "on_test_"))
    }
    seen, model = [], kg.harden(sparse(), budget=BUDGET)
    recorder = Recorder()

    fit(model, OnceFinal(recorder), epochs=1, validation_data=(X, Y))

    # The hooks of Keras call those under their older names.
    assert set(seen) - {"on_batch_begin", "on_batch_end"} == hooks
    assert recorder.model is model
    assert recorder.params["epochs"] == 1


@pytest.mark.one_backend
def test_once_final_of_a_mask_that_never_is_raises():
    model = sparse(harden_step=None)

    with pytest.raises(ValueError, match="waits for a final mask.*harden_step"):
        fit(model, OnceFinal(restoring()), epochs=1)


@pytest.mark.one_backend
@pytest.mark.parametrize("callback", [None, "EarlyStopping", OnceFinal])
def test_once_final_of_no_callback_raises(callback):
    with pytest.raises(TypeError, match="must be a `keras.callbacks.Callback`"):
        OnceFinal(callback)


# An optimizer that has no budget.

PLAIN = (
    r"has masks, but is compiled with `Adam`.*prune hidden/kernel, out/kernel"
)


@pytest.mark.one_backend
def test_compile_with_a_plain_optimizer_warns():
    model = kg.sparsify(dense())

    with pytest.warns(kg.SparsityWarning, match=PLAIN) as found:
        model.compile("adam", loss="sparse_categorical_crossentropy")
    with warnings.catch_warnings():
        warnings.simplefilter("error", kg.SparsityWarning)
        fit(model, epochs=1)  # has been said

    ours = [w for w in found if w.category is kg.SparsityWarning]
    assert [w.filename for w in ours] == [__file__]


@pytest.mark.one_backend
def test_fit_of_a_model_that_was_compiled_before_it_had_masks_warns():
    model = dense()
    model.compile("adam", loss="sparse_categorical_crossentropy")
    kg.sparsify(model)

    with pytest.warns(kg.SparsityWarning, match=PLAIN):
        model.train_on_batch(X, Y)


@pytest.mark.one_backend
def test_fit_of_a_model_around_one_with_masks_warns():
    model = kg.models.MonteCarloModel(kg.sparsify(dense()))
    model.compile("adam", loss="sparse_categorical_crossentropy")

    with pytest.warns(kg.SparsityWarning, match=PLAIN):
        model.train_on_batch(X, Y)


@pytest.mark.one_backend
def test_plain_optimizers_of_models_that_need_no_budget_are_silent(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", kg.SparsityWarning)
        evaluated = kg.sparsify(dense())
        evaluated.compile(loss="sparse_categorical_crossentropy")
        evaluated.evaluate(X, Y, verbose=0)
        hard = kg.harden(kg.sparsify(dense()), budget=BUDGET)
        hard.compile("adam", loss="sparse_categorical_crossentropy")
        fit(hard, epochs=1)
        hard.save(tmp_path / "hard.keras")
        keras.saving.load_model(tmp_path / "hard.keras")
        frozen = kg.sparsify(dense())
        frozen.trainable = False
        frozen.compile("adam", loss="sparse_categorical_crossentropy")
        mask = kg.masks.LearnedMask(
            scores_constraint=kg.constraints.CappedBox(20)
        )
        held = kg.sparsify(dense(), mask)
        held.compile("adam", loss="sparse_categorical_crossentropy")


@pytest.mark.one_backend
def test_loading_compiles_a_model_with_masks(tmp_path):
    model = kg.sparsify(dense())
    model.compile("adam", loss="sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "plain.keras")

    with pytest.warns(kg.SparsityWarning, match=PLAIN):
        loaded = keras.saving.load_model(tmp_path / "plain.keras")

    assert isinstance(loaded.optimizer, keras.optimizers.Adam)


# Schedules.


SHORT = {
    "ours": lambda: CubicDensity(0.1, steps=6),  # 0.6 of which change it
    "keras": lambda: keras.optimizers.schedules.PolynomialDecay(1.0, 3, 0.1),
}


@pytest.mark.one_backend
@pytest.mark.parametrize("schedule", SHORT)
def test_schedule_that_ends_in_the_first_tenth_warns(schedule):
    model = sparse(density=SHORT[schedule]())

    _, early = caught(fit, model, SparsityLogger())
    _, late = caught(kg.strip, model)

    for messages in (early, late):
        (message,) = [m for m in messages if "first tenth" in m]
        assert "first tenth of the 40 training steps" in message
        assert "batches, not epochs" in message


@pytest.mark.one_backend
def test_schedule_of_a_tenth_and_fine_tuning_after_it_are_silent():
    model = sparse(density=CubicDensity(0.1, steps=10))
    _, messages = caught(fit, model, SparsityLogger(), epochs=3)
    assert not any("first tenth" in m for m in messages)

    _, messages = caught(fit, model, SparsityLogger(), epochs=30)

    assert not any("first tenth" in m for m in messages)


decays = keras.optimizers.schedules
KNOWN_ENDS = {
    "polynomial": (decays.PolynomialDecay(1.0, 100, 0.1), 100),
    "cosine": (decays.CosineDecay(1.0, 100, 0.1), 100),
    "warmup": (
        decays.CosineDecay(0.5, 100, 0.1, warmup_target=1.0, warmup_steps=60),
        160,
    ),
    "no warmup": (decays.CosineDecay(1.0, 100, 0.1, warmup_steps=60), 100),
    "piecewise": (decays.PiecewiseConstantDecay([40, 80], [1.0, 0.5, 0.1]), 80),
    "cycle": (decays.PolynomialDecay(1.0, 100, 0.1, cycle=True), None),
    "restarts": (decays.CosineDecayRestarts(1.0, 100), None),
    "exponential": (decays.ExponentialDecay(1.0, 100, 0.5), None),
}


@pytest.mark.one_backend
@pytest.mark.parametrize("case", KNOWN_ENDS)
def test_schedules_of_keras_have_the_defaults_of_ours(case):
    schedule, steps = KNOWN_ENDS[case]

    optimizer = ProjectedOptimizer("adam", density=schedule)

    score = optimizer.score_optimizer.get_config()["learning_rate"]
    if steps is None:
        assert optimizer.harden_step is None
        assert score == pytest.approx(0.05)
    else:
        assert optimizer.harden_step == math.ceil(0.7 * steps)
        assert score["config"]["decay_steps"] == steps


# A layer of which nothing is kept.


@pytest.mark.one_backend
@pytest.mark.parametrize("function", ["harden", "strip", "sparsity_report"])
def test_layer_of_which_nothing_is_kept_is_reported(function):
    model = sparse(density=0.1)
    model.optimizer.build(model.trainable_variables)
    for variable in model.variables:
        if variable.name == "mask_scores":
            alive = variable.shape[0] == 16
            variable.assign(ops.full(variable.shape, float(alive)))

    with pytest.warns(
        kg.SparsityWarning, match="Nothing is kept of out/kernel,"
    ) as found:
        result = getattr(kg, function)(model)

    ours = [w for w in found if w.category is kg.SparsityWarning]
    assert {w.filename for w in ours} == {__file__}
    if function == "sparsity_report":
        assert result.empty == ("out/kernel",)
        assert "nothing is kept of: out/kernel" in str(result)
    elif function == "harden":
        with pytest.warns(kg.SparsityWarning, match="Nothing is kept of out"):
            kg.strip(model)


# Messages and results.


@pytest.mark.one_backend
@pytest.mark.parametrize("end", [0.1015, 0.1001])
def test_message_counts_what_is_kept(end):
    model = sparse(density=CubicDensity(end, steps=STEPS))
    fit(model, epochs=1)
    now = end + (1 - end) * (1 - 4 / (0.6 * STEPS)) ** 3

    stripped, (message,) = caught(kg.strip, model)

    assert non_zeros(stripped) == math.floor(end * COUNT) == BUDGET
    assert f"The final mask keeps {BUDGET} weights" in message
    assert f"ends at {BUDGET} weights" in message
    assert f"earlier, at {math.floor(now * COUNT):,}." in message


# Files.


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = keras.layers.Dense(32, activation="relu", name="hidden")
        self.second = keras.layers.Dense(4, activation="softmax", name="out")

    def build(self, input_shape):
        self.first.build(input_shape)
        self.second.build((None, 32))
        self.built = True

    def call(self, inputs):
        return self.second(self.first(inputs))


def functional():
    inputs = keras.Input((16,))
    return keras.Model(inputs, dense()(inputs))


def subclassed():
    model = Subclassed()
    model(X)
    return model


@pytest.mark.parametrize(
    "make",
    [
        dense,
        pytest.param(functional, marks=pytest.mark.one_backend),
        pytest.param(subclassed, marks=pytest.mark.one_backend),
    ],
)
@pytest.mark.parametrize("compile", [True, False])
@pytest.mark.parametrize(
    "function",
    [False, pytest.param(True, marks=pytest.mark.one_backend)],
)
def test_legacy_file_of_a_sparse_model_loads(make, compile, function, tmp_path):
    path = str(tmp_path / "legacy.h5")
    model = compiled(kg.sparsify(make()))
    model.optimizer.build(model.trainable_variables)
    if function:
        keras.saving.save_model(model, path)
    else:
        model.save(path)

    loaded = keras.saving.load_model(path, compile=compile)

    assert (
        type(loaded).__name__
        == type(model).__name__
        == make().__class__.__name__
    )
    for one, two in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    if compile:
        fit(loaded, epochs=1)
        stripped, _ = caught(kg.strip, loaded)
        assert non_zeros(stripped) == BUDGET


@pytest.mark.parametrize(
    ("ending", "mask"),
    [
        (".keras", "learned"),
        (".weights.h5", "magnitude"),
        pytest.param(".keras", "magnitude", marks=pytest.mark.one_backend),
        pytest.param(".weights.h5", "learned", marks=pytest.mark.one_backend),
    ],
)
def test_final_mask_strips_without_its_optimizer(ending, mask, tmp_path):
    def reload(model):
        path = str(tmp_path / f"model{ending}")
        if ending == ".keras":
            model.save(path)
            return keras.saving.load_model(path, compile=False)
        model.save_weights(path)
        loaded = kg.sparsify(dense(), mask)
        loaded.load_weights(path)
        return loaded

    model = sparse(mask)
    fit(model, epochs=3)
    early = reload(model)
    fit(model, epochs=7)
    late = reload(reload(model))  # as a file of what was loaded

    with pytest.raises(ValueError, match="the number of scores to keep"):
        kg.strip(early)
    np.testing.assert_array_equal(scores_of(late), scores_of(model))
    assert non_zeros(kg.strip(late)) == BUDGET


@pytest.mark.one_backend
@pytest.mark.parametrize("seed", [None, 2**31 - 1, 2**32 - 1])
def test_random_mask_ranks_as_the_weights_that_were_loaded(seed, tmp_path):
    path = tmp_path / "random.weights.h5"

    def masked(seed):
        keras.utils.set_random_seed(0)
        model = dense()
        keras.utils.set_random_seed(seed or 0)
        return kg.sparsify(model, kg.masks.RandomMask(seed))

    first, other = masked(seed), masked(5)
    first.save_weights(path)
    second = masked(6)
    second.load_weights(path)

    kept = [
        np.concatenate(
            [
                w.ravel()
                for w in kg.strip(kg.harden(m, budget=BUDGET)).get_weights()
                if w.ndim == 2
            ]
        )
        != 0
        for m in (first, second, other)
    ]

    np.testing.assert_array_equal(kept[0], kept[1])
    assert np.any(kept[0] != kept[2])


# The category of warnings.


@pytest.mark.one_backend
def test_every_warning_of_the_package_has_its_category():
    package = pathlib.Path(kg.__file__).parent
    calls = [
        node
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "warnings.warn"
    ]

    assert len(calls) > 10
    assert {ast.unparse(call.args[1]) for call in calls} == {"SparsityWarning"}
    assert issubclass(kg.SparsityWarning, UserWarning)
