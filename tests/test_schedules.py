import math

import keras
import numpy as np
import pytest

import keras_gumbel as kg
from keras_gumbel import schedules
from tests.gradients import MODES
from tests.gradients import compiled
from tests.gradients import dtype_of
from tests.gradients import to_numpy

ANNEALINGS = [
    schedules.LinearAnnealing,
    schedules.ExponentialAnnealing,
    schedules.CosineAnnealing,
]
SCHEDULES = [
    schedules.Constant(0.5),
    *(cls(2.0, 0.5, steps=100) for cls in ANNEALINGS),
    schedules.CubicDensity(0.1, steps=100, initial=0.9, begin=0.2, end=0.7),
]


def kind(schedule):
    return type(schedule).__name__


def values(schedule, steps):
    return np.array([float(schedule(step)) for step in steps])


@pytest.mark.parametrize("schedule", SCHEDULES, ids=kind)
def test_schedule_gives_a_float32_scalar(schedule):
    value = schedule(3)

    assert dtype_of(value) == "float32"
    assert tuple(value.shape) == ()
    assert 0 < to_numpy(value) <= 2


def test_constant_never_changes():
    schedule = schedules.Constant(0.3)

    assert values(schedule, [0, 1, 10**9]) == pytest.approx(0.3)


def test_constant_follows_its_value():
    assert float(schedules.Constant(0.25)(7)) == 0.25
    assert float(schedules.Constant(4)(7)) == 4.0


@pytest.mark.parametrize(
    ("cls", "middle", "quarter"),
    [
        (schedules.LinearAnnealing, 1.25, 1.625),
        (schedules.ExponentialAnnealing, 1.0, math.sqrt(2.0)),
        (schedules.CosineAnnealing, 1.25, 1.25 + 0.75 * math.sqrt(0.5)),
    ],
)
def test_annealing_goes_through_its_formula(cls, middle, quarter):
    schedule = cls(2.0, 0.5, steps=100)

    observed = values(schedule, [0, 25, 50, 100, 101, 10**6])

    expected = [2.0, quarter, middle, 0.5, 0.5, 0.5]
    np.testing.assert_allclose(observed, expected, rtol=1e-6)


@pytest.mark.parametrize(("initial", "final"), [(2.0, 0.5), (0.5, 2.0)])
@pytest.mark.parametrize("cls", ANNEALINGS)
def test_annealing_is_monotone(cls, initial, final):
    schedule = cls(initial, final, steps=20)

    changes = np.diff(values(schedule, range(25))) * np.sign(final - initial)

    assert (changes[:20] > 0).all()
    assert (changes[20:] == 0).all()


@pytest.mark.parametrize("change", ["initial", "final", "steps"])
@pytest.mark.parametrize("cls", ANNEALINGS)
def test_annealing_depends_on_every_argument(cls, change):
    arguments = {"initial": 2.0, "final": 0.5, "steps": 100}
    changed = {**arguments, change: arguments[change] / 2}

    assert float(cls(**arguments)(30)) != float(cls(**changed)(30))


@pytest.mark.parametrize("cls", ANNEALINGS)
def test_annealing_may_last_a_fraction_of_a_step(cls):
    observed = values(cls(2.0, 0.5, steps=0.5), [0, 1])

    np.testing.assert_allclose(observed, [2.0, 0.5], rtol=1e-6)


def test_cubic_density_goes_through_its_formula():
    schedule = schedules.CubicDensity(
        0.1, steps=100, initial=0.9, begin=0.2, end=0.7
    )

    observed = values(schedule, [0, 20, 45, 70, 100, 10**6])

    expected = [0.9, 0.9, 0.2, 0.1, 0.1, 0.1]
    np.testing.assert_allclose(observed, expected, rtol=1e-6)


def test_cubic_density_starts_whole_and_ends_at_three_fifths():
    schedule = schedules.CubicDensity(0.05, steps=1000)

    observed = values(schedule, [0, 300, 600, 1000])

    expected = [1.0, 0.05 + 0.95 / 8, 0.05, 0.05]
    np.testing.assert_allclose(observed, expected, rtol=1e-6)


def test_cubic_density_falls_ever_more_slowly():
    schedule = schedules.CubicDensity(0.1, steps=20, begin=0.25, end=0.75)

    changes = np.diff(values(schedule, range(21)))

    assert (changes[:5] == 0).all()
    assert (changes[5:15] < 0).all()
    assert (np.diff(changes[5:15]) > 0).all()
    assert (changes[15:] == 0).all()


@pytest.mark.parametrize(
    "change",
    [
        {"final": 0.2},
        {"steps": 90},
        {"initial": 0.8},
        {"begin": 0.1},
        {"end": 0.8},
    ],
    ids=str,
)
def test_cubic_density_depends_on_every_argument(change):
    arguments = {
        "final": 0.1,
        "steps": 100,
        "initial": 0.9,
        "begin": 0.2,
        "end": 0.7,
    }

    one = float(schedules.CubicDensity(**arguments)(40))
    other = float(schedules.CubicDensity(**{**arguments, **change})(40))

    assert one != other


@pytest.mark.parametrize("schedule", SCHEDULES, ids=kind)
def test_schedule_survives_serialization(schedule):
    config = keras.saving.serialize_keras_object(schedule)

    restored = keras.saving.deserialize_keras_object(config)

    assert type(restored) is type(schedule)
    assert restored.get_config() == schedule.get_config()
    steps = [0, 13, 37, 200]
    assert (values(restored, steps) == values(schedule, steps)).all()


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=kind)
def test_schedule_takes_a_traced_step(schedule, jit):
    traced = compiled(schedule, jit)

    observed = [
        float(traced(keras.ops.convert_to_tensor(step, dtype="int32")))
        for step in (0, 13, 37, 200)
    ]

    expected = values(schedule, [0, 13, 37, 200])
    np.testing.assert_allclose(observed, expected, rtol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=kind)
def test_schedule_takes_an_integer_variable(schedule):
    step = keras.Variable(36, dtype="int32", trainable=False)

    step.assign_add(1)

    assert float(schedule(step)) == float(schedule(37))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=kind)
def test_schedule_serves_as_a_learning_rate(schedule):
    optimizer = keras.optimizers.SGD(schedule)

    rate = float(optimizer.learning_rate)

    assert rate == pytest.approx(float(schedule(0)))


@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), float("inf"), "1"])
def test_constant_refuses_a_bad_value(bad):
    with pytest.raises(ValueError, match="`value` of `Constant`"):
        schedules.Constant(bad)


@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), float("inf"), "1"])
@pytest.mark.parametrize("name", ["initial", "final", "steps"])
def test_annealing_refuses_bad_arguments(name, bad):
    arguments = {"initial": 2.0, "final": 0.5, "steps": 100, name: bad}

    for cls in ANNEALINGS:
        with pytest.raises(ValueError, match=f"`{name}` of `{cls.__name__}`"):
            cls(**arguments)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("final", 0.0),
        ("final", 1.5),
        ("initial", -0.1),
        ("initial", "1"),
        ("steps", 0),
        ("begin", -0.1),
        ("begin", 1.0),
        ("begin", None),
        ("end", 0.2),
        ("end", 1.1),
        ("end", float("nan")),
    ],
)
def test_cubic_density_refuses_bad_arguments(name, bad):
    arguments = {"final": 0.1, "steps": 100, "begin": 0.2, name: bad}

    with pytest.raises(ValueError, match=f"`{name}` of `CubicDensity`"):
        schedules.CubicDensity(**arguments)


# Steps that were left out.

X = np.random.default_rng(0).normal(size=(12, 8)).astype("float32")


def choosing(schedule):
    sampler = kg.layers.GumbelSoftmax(schedule, seed=0)
    layers = [keras.Input((8,)), keras.layers.Dense(8), sampler]
    return keras.Sequential(layers), sampler


def pruned(schedule, **options):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8)])
    kg.sparsify(model, seed=0)
    optimizer = kg.optimizers.ProjectedOptimizer(
        keras.optimizers.SGD(0.1, **options), density=schedule
    )
    model.compile(optimizer, loss="mse")
    return model


@pytest.mark.parametrize("accumulated", [None, 2])
def test_fit_tells_samplers_how_long_it_is(accumulated):
    schedule = schedules.LinearAnnealing(1.0, 0.5)
    model, sampler = choosing(schedule)
    optimizer = keras.optimizers.SGD(
        0.1, gradient_accumulation_steps=accumulated
    )
    model.compile(optimizer, loss="mse")

    model.fit(X, X, batch_size=3, epochs=2, verbose=0)

    found = sampler.temperature
    assert found.steps == 8 // (accumulated or 1)
    assert float(sampler.current_temperature()) == pytest.approx(0.5)
    again = schedules.LinearAnnealing.from_config(found.get_config())
    assert again.steps == found.steps


@pytest.mark.parametrize("accumulated", [None, 2])
def test_fit_tells_the_optimizer_how_long_it_is(accumulated):
    found = []
    for steps in (None, 20 // (accumulated or 1)):
        keras.utils.set_random_seed(0)
        schedule = schedules.CubicDensity(0.25, steps)
        model = pruned(schedule, gradient_accumulation_steps=accumulated)
        model.fit(X, X, batch_size=3, epochs=5, shuffle=False, verbose=0)
        optimizer = model.optimizer
        found.append(
            (
                optimizer.density.steps,
                optimizer.harden_step,
                optimizer.get_config()["score_optimizer"],
            )
        )
        np.testing.assert_equal(kg.sparsity_report(model).budget, 16)

    assert found[0] == found[1]
    assert found[0][1] == math.ceil(0.7 * found[0][0])


def test_resumed_fit_keeps_the_steps_of_the_first(tmp_path):
    model = pruned(schedules.CubicDensity(0.25))
    model.fit(X, X, batch_size=3, epochs=5, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")

    loaded.fit(X, X, batch_size=3, epochs=50, initial_epoch=49, verbose=0)

    assert loaded.optimizer.density.steps == 20
    assert loaded.optimizer.harden_step == 14


@pytest.mark.one_backend
def test_fit_from_a_later_epoch_counts_the_epochs_that_it_runs():
    model = pruned(schedules.CubicDensity(0.25))

    model.fit(X, X, batch_size=3, epochs=15, initial_epoch=10, verbose=0)

    assert model.optimizer.density.steps == model.optimizer.steps == 20
    assert model.optimizer.is_final()


@pytest.mark.one_backend
def test_schedule_serves_runs_of_different_lengths():
    density = schedules.CubicDensity(0.25)
    temperature = schedules.LinearAnnealing(1.0, 0.5)
    steps = []
    for epochs in (2, 5):
        model = pruned(density)
        model.fit(X, X, batch_size=3, epochs=epochs, verbose=0)
        chosen, sampler = choosing(temperature)
        chosen.compile("sgd", loss="mse")
        chosen.fit(X, X, batch_size=3, epochs=epochs, verbose=0)
        steps.append((model.optimizer.density.steps, sampler.temperature.steps))

    assert steps == [(8, 8), (20, 20)]
    assert density.steps is temperature.steps is None


@pytest.mark.one_backend
def test_schedule_of_a_pretrained_network_serves_a_new_one():
    density = schedules.CubicDensity(0.25)
    ends = []
    for pretrained in (True, False):
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8)])
        kg.sparsify(model, pretrained=pretrained)
        optimizer = kg.optimizers.ProjectedOptimizer("sgd", density=density)
        model.compile(optimizer, loss="mse")
        model.fit(X, X, batch_size=3, verbose=0)
        ends.append(optimizer.density.end)

    assert ends == [0.3, 0.6]


def test_config_of_an_optimizer_that_waits_for_fit():
    optimizer = pruned(schedules.CubicDensity(0.25)).optimizer

    again = type(optimizer).from_config(optimizer.get_config())

    assert again.get_config() == optimizer.get_config()
    assert again.harden_step == again.score_optimizer == "auto"


def test_ends_are_known_before_fit():
    model = pruned(schedules.CubicDensity(0.25))

    assert kg.sparsity_report(model).budget == 64
    assert kg.sparsity_report(kg.harden(model)).budget == 16


def test_length_that_cannot_be_known_is_an_error():
    def endless():
        while True:
            yield X[:3], X[:3]

    model, sampler = choosing(schedules.LinearAnnealing(1.0, 0.5))
    model.compile("sgd", loss="mse")
    for train in (
        lambda: sampler(X, training=True),
        lambda: model.train_on_batch(X, X),
        lambda: model.fit(endless(), shuffle=False, verbose=0),
        lambda: pruned(schedules.CubicDensity(0.5)).train_on_batch(X, X),
    ):
        with pytest.raises(ValueError, match="how many steps.*Pass `steps=`"):
            train()

    # On JAX, Keras leaves a model without values if `fit` raises.
    model, sampler = choosing(schedules.LinearAnnealing(1.0, 0.5))
    model.compile("sgd", loss="mse")
    options = {"steps_per_epoch": 6, "epochs": 2, "shuffle": False}
    model.fit(endless(), verbose=0, **options)
    assert sampler.temperature.steps == 12
