import contextlib
import copy
import csv
import io
import math
import warnings

import keras
import numpy as np
import pytest
from keras import ops

import keras_gumbel as kg
from keras_gumbel.callbacks import SparsityLogger
from keras_gumbel.callbacks._hardened import evaluate_soft_and_hard
from keras_gumbel.masks import ConcreteMask
from keras_gumbel.masks import MagnitudeMask
from keras_gumbel.optimizers import ProjectedOptimizer
from keras_gumbel.schedules import CubicDensity
from keras_gumbel.schedules import LinearAnnealing
from keras_gumbel.sparsity._choices import find_decisions

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 6)).astype("float32")
Y = RNG.normal(size=(12, 5)).astype("float32")
EPOCHS, STEPS = 4, 3
TEMPERATURE = LinearAnnealing(1.0, 0.4, steps=EPOCHS * STEPS)
ADDED = {
    "density",
    "undecided",
    "budget_used",
    "mask_churn",
    "temperature",
    "val_hard_loss",
    "val_hard_mae",
    "val_gap_loss",
    "val_gap_mae",
}


def dense():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(5, name="only")]
    )


def sparse(optimizer, mask=None, **kwargs):
    mask = mask or ConcreteMask(temperature=TEMPERATURE)
    model = kg.sparsify(dense(), mask, seed=0)
    model.compile(optimizer, loss="mse", metrics=["mae"], **kwargs)
    return model


def trained_sparse():
    optimizer = ProjectedOptimizer(
        keras.optimizers.SGD(0.05),
        density=0.3,
        score_optimizer=keras.optimizers.Adam(0.2),
    )
    return sparse(optimizer)


class Masks(keras.callbacks.Callback):
    """Finds the largest scores on its own."""

    def __init__(self):
        super().__init__()
        self.scores, self.largest = [], []

    def on_train_begin(self, logs=None):
        # All scores are equal: the largest weights stand first.
        weights = ops.convert_to_numpy(self.model.layers[0].kernel).ravel()
        self.largest.append(set(np.argsort(-abs(weights))[:9]))

    def on_epoch_end(self, epoch, logs=None):
        scores = self.model.layers[0].weight_masks[0].mask_scores
        scores = ops.convert_to_numpy(scores).copy().ravel()
        self.scores.append(scores)
        self.largest.append(set(np.argsort(-scores)[:9]))  # 0.3 of 30


def fit(model, logger, callbacks):
    # Four epochs are too few for the advice to be silent.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return model.fit(
            X,
            Y,
            batch_size=4,
            epochs=EPOCHS,
            shuffle=False,  # torch's shuffling depends on earlier evaluations
            validation_data=(X, Y),
            callbacks=[*callbacks[0], logger, *callbacks[1]],
            verbose=2,
        ).history


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    model, masks = trained_sparse(), Masks()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        history = fit(
            model,
            SparsityLogger(validation_data=(X, Y)),
            (
                [keras.callbacks.CSVLogger(folder / "before.csv")],
                [keras.callbacks.CSVLogger(folder / "after.csv"), masks],
            ),
        )
    return model, history, masks, folder, printed.getvalue()


def test_logger_adds_its_keys_to_the_history(fitted):
    _, history, *_ = fitted

    plain = {"loss", "mae", "val_loss", "val_mae"}
    assert set(history) == plain | ADDED
    assert {len(values) for values in history.values()} == {EPOCHS}


def test_logger_logs_what_the_report_says(fitted):
    model, history, *_ = fitted
    report = kg.sparsity_report(model)

    assert history["density"] == [0.3] * EPOCHS
    assert history["undecided"][-1] == report.undecided_fraction
    assert history["budget_used"][-1] == report.budget_used


def test_logger_sees_what_each_epoch_has_changed(fitted):
    _, history, masks, *_ = fitted

    undecided = [((s > 0.05) & (s < 0.95)).mean() for s in masks.scores]
    np.testing.assert_allclose(history["undecided"], undecided)
    assert len(set(undecided)) > 1
    used = [s.sum(dtype="float64") / 9 for s in masks.scores]
    np.testing.assert_allclose(history["budget_used"], used, rtol=1e-6)


def test_mask_churn_is_the_share_of_new_ones(fitted):
    _, history, masks, *_ = fitted

    new = [
        len(now - before) / 9
        for before, now in zip(masks.largest, masks.largest[1:], strict=False)
    ]

    np.testing.assert_allclose(history["mask_churn"], new)
    assert max(new) > 0


def test_temperature_is_the_one_of_the_schedule(fitted):
    _, history, *_ = fitted

    expected = [float(TEMPERATURE(STEPS * (e + 1))) for e in range(EPOCHS)]

    np.testing.assert_allclose(history["temperature"], expected, rtol=1e-6)


def test_gap_is_that_of_the_hardened_model(fitted):
    model, history, *_ = fitted

    soft = model.evaluate(X, Y, verbose=0, return_dict=True)
    copied = kg.harden(copy.deepcopy(model))
    hard = copied.evaluate(X, Y, verbose=0, return_dict=True)

    for name in ("loss", "mae"):
        assert history[f"val_hard_{name}"][-1] == pytest.approx(
            hard[name], rel=1e-5
        )
        assert history[f"val_gap_{name}"][-1] == pytest.approx(
            hard[name] - soft[name], abs=1e-5
        )
        assert history[f"val_{name}"][-1] == pytest.approx(soft[name], rel=1e-5)


def test_what_comes_after_the_logger_finds_its_values(fitted):
    _, history, _, folder, printed = fitted

    with (folder / "after.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (folder / "before.csv").open() as file:
        header = next(csv.reader(file))

    for key in ADDED:
        written = [float(row[key]) for row in rows]
        np.testing.assert_allclose(written, history[key])
        assert f" {key}: " in printed
    # The order of the list that the documentation asks for matters.
    assert ADDED.isdisjoint(header)


def test_validation_data_leaves_the_training_as_it_is(fitted):
    model, history, *_ = fitted

    with contextlib.redirect_stdout(io.StringIO()):
        other = trained_sparse()
        again = fit(other, SparsityLogger(), ([], []))

    assert again["loss"] == history["loss"]
    for one, two in zip(model.variables, other.variables, strict=True):
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (one, two)))


def test_evaluation_of_the_final_mask_restores_every_variable():
    mask = ConcreteMask(inference="sample")
    model = sparse(ProjectedOptimizer("sgd", density=0.3), mask)
    model.optimizer.build(model.trainable_variables)
    model.evaluate(X[:4], Y[:4], verbose=0)
    before = [ops.convert_to_numpy(v).copy() for v in model.variables]

    soft, hard = evaluate_soft_and_hard(
        model, find_decisions("test", model), (X, Y)
    )

    assert soft["loss"] != hard["loss"]
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)


def test_evaluation_that_fails_restores_the_scores():
    model = sparse(ProjectedOptimizer("sgd", density=0.3))
    (mask,) = model.layers[0].weight_masks
    calls = []

    def evaluate(*args, **kwargs):
        calls.append(ops.convert_to_numpy(mask.mask_scores).copy())
        if len(calls) == 2:
            raise KeyboardInterrupt
        return {}

    model.evaluate = evaluate
    decisions = find_decisions("test", model)
    decisions.finals[0][0] = 0.0

    with pytest.raises(KeyboardInterrupt):
        evaluate_soft_and_hard(model, decisions, (X, Y))

    assert np.any(calls[0] != calls[1])
    np.testing.assert_array_equal(
        ops.convert_to_numpy(mask.mask_scores), calls[0]
    )


def epochs_of(logger, model, epochs=2, steps=5, count=None, initial=0):
    """Calls a logger as `fit` does, with steps whose gradients are zero."""
    optimizer = model.optimizer
    optimizer.build(model.trainable_variables)
    zeros = [ops.zeros(v.shape) for v in model.trainable_variables]
    logs = []
    logger.set_model(model)
    logger.set_params({"epochs": epochs, "steps": count, "verbose": 0})
    logger.on_train_begin()
    for epoch in range(initial, epochs):
        logger.on_epoch_begin(epoch)
        for _ in range(steps):
            optimizer.apply(zeros, model.trainable_variables)
        logs.append({})
        logger.on_epoch_end(epoch, logs[-1])
    logger.on_train_end()
    return logs


def advice(model, logger=None, **kwargs):
    """Lists the warnings of a run."""
    logger = logger or SparsityLogger()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        epochs_of(logger, model, **kwargs)
    return [str(w.message) for w in caught]


def plain(score_optimizer=None, mask=None, **kwargs):
    """Returns a model whose scores plain gradient descent would train."""
    kwargs.setdefault("harden_step", None)
    if "budget" not in kwargs:
        kwargs.setdefault("density", 0.3)
    optimizer = ProjectedOptimizer(
        "sgd", score_optimizer=score_optimizer, **kwargs
    )
    return sparse(optimizer, mask)


def decided(model):
    """Makes all scores 0 or 1."""
    model.optimizer.build(model.trainable_variables)
    scores = model.layers[0].weight_masks[0].mask_scores
    scores.assign(ops.reshape(ops.cast(ops.arange(30) < 9, "float32"), (6, 5)))
    return model


SCHEDULES = {
    "density": {"density": CubicDensity(0.3, steps=100)},
    "budget": {"budget": LinearAnnealing(30.0, 9.0, steps=11)},
    "dictionary": {"density": {"only": CubicDensity(0.3, steps=100)}},
}


@pytest.mark.one_backend
@pytest.mark.parametrize("case", SCHEDULES)
@pytest.mark.parametrize("count", [5, None])
def test_schedule_that_ends_after_the_fit_warns(case, count):
    (message,) = advice(plain(**SCHEDULES[case]), count=count)

    name = "budget" if case == "budget" else "density"
    schedule = SCHEDULES[case][name]
    schedule = schedule["only"] if case == "dictionary" else schedule
    reached = float(schedule(10))
    shown = math.floor(reached) if name == "budget" else f"{reached:.4g}"
    assert f"the {name} has fallen to {shown}," in message
    assert "ends at step 10," in message
    assert f"the schedule ends at {schedule.final:.4g}." in message
    assert "`steps=10`" in message


@pytest.mark.one_backend
def test_schedule_that_ends_in_time_is_silent():
    model = decided(plain(density=CubicDensity(0.3, steps=16)))

    # 16 steps, of which 0.6 are under way.
    assert advice(model, count=5) == []


@pytest.mark.one_backend
def test_advice_counts_the_steps_of_earlier_fits():
    schedule = CubicDensity(0.3, steps=25)
    model = decided(plain(density=schedule))
    assert len(advice(model, count=5)) == 1

    assert advice(decided(model), count=5) == []


@pytest.mark.one_backend
def test_advice_counts_from_the_initial_epoch():
    schedule = CubicDensity(0.3, steps=16)
    model = decided(plain(density=schedule))

    (message,) = advice(model, initial=1, count=5)

    assert "ends at step 5," in message


@pytest.mark.one_backend
def test_advice_comes_before_the_first_step():
    logger = SparsityLogger()
    model = plain(density=CubicDensity(0.3, steps=100))
    logger.set_model(model)
    logger.set_params({"epochs": 1, "steps": 5, "verbose": 0})
    logger.on_train_begin()

    with pytest.warns(UserWarning, match="ends at step 5"):
        logger.on_epoch_begin(0)


@pytest.mark.one_backend
def test_advice_is_given_once():
    logger = SparsityLogger()
    model = plain(density=CubicDensity(0.3, steps=1000))

    assert len(advice(model, logger, count=5)) == 1
    assert advice(model, logger, count=5) == []


def cosine(rate, steps):
    return keras.optimizers.schedules.CosineDecay(rate, steps)


# What the optimizer of the scores is, and whether ten steps of it suffice.
RATES = {
    "adam": (lambda: keras.optimizers.Adam(0.9), False),
    "fast adam": (lambda: keras.optimizers.Adam(1.1), True),
    "cosine": (lambda: keras.optimizers.Nadam(cosine(1.65, 10)), False),
    "fast cosine": (lambda: keras.optimizers.Nadam(cosine(1.9, 10)), True),
    "momentum": (lambda: kg.optimizers.ScoreSGD(0.09, momentum=0.9), False),
    "fast momentum": (lambda: kg.optimizers.ScoreSGD(0.11, momentum=0.9), True),
    "sgd": (lambda: keras.optimizers.SGD(1e-6), True),
    "frozen": (lambda: keras.optimizers.Adam(0.0), True),
}


@pytest.mark.one_backend
@pytest.mark.parametrize("case", RATES)
def test_learning_rate_too_small_for_the_steps_warns(case):
    make, enough = RATES[case]

    found = advice(decided(plain(make())), count=5)

    assert len(found) == (0 if enough else 1)
    if not enough:
        assert "1.1 times as large" in found[0]
        assert "10 steps" in found[0]


@pytest.mark.one_backend
def test_learning_rate_is_summed_up_to_the_final_mask():
    model = decided(plain(keras.optimizers.Adam(1.5), harden_step=5))

    (message,) = advice(model, count=5)

    assert "add up to 7.5 in the 5 steps" in message


@pytest.mark.one_backend
def test_learning_rate_of_scores_that_are_not_learned_is_silent():
    model = plain(keras.optimizers.Adam(1e-6), MagnitudeMask())

    assert advice(model, count=5) == []


@pytest.mark.one_backend
def test_undecided_scores_where_the_mask_is_fixed_warn():
    # Gradients of zero leave all scores at the density, 1 / 0.2 for each kept.
    (message,) = advice(plain(density=0.2, harden_step=7), count=5)

    assert "before the mask became final, there were 5.0 undecided" in message


@pytest.mark.one_backend
def test_few_undecided_scores_where_the_mask_is_fixed_are_silent():
    assert advice(plain(density=0.5, harden_step=7), count=5) == []


@pytest.mark.one_backend
def test_undecided_scores_at_the_end_warn():
    (message,) = advice(plain(density=0.8), count=5)

    assert "ended with 1.2 undecided" in message


@pytest.mark.one_backend
def test_decided_scores_at_the_end_are_silent():
    assert advice(decided(plain(density=0.3)), count=5) == []


@pytest.mark.one_backend
@pytest.mark.parametrize("name", ["first", "second"])
def test_layer_of_which_nothing_is_kept_warns(name):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(5, name="first"),
            keras.layers.Dense(5, name="second"),
        ]
    )
    model = kg.sparsify(model)
    optimizer = ProjectedOptimizer("sgd", density=0.9, score_optimizer=None)
    model.compile(optimizer, "mse")
    for layer in model.layers:
        scores = layer.weight_masks[0].mask_scores
        scores.assign(ops.full(scores.shape, name not in layer.name))

    (message,) = advice(model, count=5)

    assert f"Nothing is kept of {name}/kernel" in message
    assert "density" in message


def test_logger_warns_of_divergence_and_logs_nan():
    model, logger = decided(plain()), SparsityLogger((X, Y))
    (before,) = epochs_of(logger, model, epochs=1)
    scores = model.layers[0].weight_masks[0].mask_scores
    good = ops.convert_to_numpy(scores)
    scores.assign(np.full(scores.shape, np.nan))

    with pytest.warns(UserWarning, match="scores of only/kernel are NaN"):
        first, second = epochs_of(logger, model)
    scores.assign(good)
    (after,) = epochs_of(logger, model, epochs=1)

    assert set(before) == set(first) == set(second) == set(after) == ADDED
    assert all(math.isnan(v) for v in [*first.values(), *second.values()])
    assert not any(math.isnan(value) for value in after.values())


@pytest.mark.one_backend
def test_logger_of_a_hardened_model_is_silent():
    model = kg.harden(decided(plain(density=0.3)))
    logger = SparsityLogger()

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        first, second = epochs_of(logger, model, count=5)

    assert set(first) == {"density", "undecided", "budget_used", "mask_churn"}
    assert second == {
        "density": 0.3,
        "undecided": 0.0,
        "budget_used": 1.0,
        "mask_churn": 0.0,
    }


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.parts = [keras.layers.Dense(4), keras.layers.Dense(5)]

    def call(self, inputs):
        return self.parts[1](self.parts[0](inputs))


def test_logger_follows_a_subclassed_model():
    model = Subclassed()
    model(X)
    model = kg.sparsify(model)
    model.compile(ProjectedOptimizer("sgd", density=0.5), "mse")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        (logs,) = epochs_of(SparsityLogger((X, Y)), model, epochs=1)

    assert logs["density"] == 0.5
    hard = kg.harden(model).evaluate(X, Y, verbose=0)
    assert logs["val_hard_loss"] == pytest.approx(hard, rel=1e-5)


@pytest.mark.one_backend
def test_logger_starts_anew_with_another_model():
    logger = SparsityLogger()
    models = [decided(plain()), decided(plain())]
    scores = models[1].layers[0].weight_masks[0].mask_scores
    scores.assign(ops.flip(scores))

    for model in models:
        (logs,) = epochs_of(logger, kg.harden(model), epochs=1, count=5)

    # Against its own mask, not that of the model before.
    assert logs["mask_churn"] == 0.0


@pytest.mark.backends("tensorflow")
def test_tensorboard_finds_the_values(tmp_path):
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.util import tensor_util

    with contextlib.redirect_stdout(io.StringIO()):
        history = fit(
            trained_sparse(),
            SparsityLogger(validation_data=(X, Y)),
            ([], [keras.callbacks.TensorBoard(tmp_path, write_graph=False)]),
        )

    for key in ADDED:
        folder = "validation" if key.startswith("val_") else "train"
        events = event_accumulator.EventAccumulator(str(tmp_path / folder))
        events.Reload()
        tag = f"epoch_{key.removeprefix('val_')}"
        (_, *written) = [
            float(tensor_util.make_ndarray(event.tensor_proto))
            for event in events.Tensors(tag)
        ]
        np.testing.assert_allclose(written, history[key][1:], rtol=1e-6)
