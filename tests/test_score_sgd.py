import keras
import numpy as np
import pytest
from keras import ops

import keras_gumbel as kg
from keras_gumbel.optimizers import ProjectedOptimizer
from keras_gumbel.optimizers import ScoreSGD
from keras_gumbel.schedules import CubicDensity
from tests.gradients import to_numpy
from tests.newer_keras import multi_optimizer


def scores(values, pretrained=False):
    variable = keras.Variable(np.float32(values))
    return kg.mark_scores(variable, pretrained=pretrained)


def run(optimizer, variables, gradients):
    optimizer.build(variables)
    for step in gradients:
        optimizer.apply([ops.convert_to_tensor(np.float32(g)) for g in step])
    return [to_numpy(v) for v in variables]


def reference(values, steps, rate, momentum, curvature, batch, decay):
    """The formulas of the docstring, in float64."""
    values = [np.float64(v) for v in values]
    squares = [np.zeros_like(v) for v in values]
    speeds = [np.zeros_like(v) for v in values]
    for count, gradients in enumerate(steps, 1):
        differences = []
        for i, gradient in enumerate(gradients):
            gradient = np.float64(gradient)
            squares[i] = decay * squares[i] + (1 - decay) * gradient**2
            h = batch * squares[i] / (1 - decay**count)
            differences.append(gradient - curvature * h * (values[i] - 0.5))
        everything = np.concatenate([d.ravel() for d in differences])
        rms = np.sqrt(np.mean(everything**2))
        for i, difference in enumerate(differences):
            speeds[i] = momentum * speeds[i] + difference / rms
            values[i] = values[i] - rate * speeds[i]
    return values


@pytest.mark.parametrize("curvature", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("batch_size", [1, 32])
def test_score_sgd_follows_its_formulas(curvature, batch_size):
    generator = np.random.default_rng(0)
    start = [generator.uniform(size=(2, 3)), generator.uniform(size=4)]
    steps = [
        [generator.normal(size=(2, 3)), generator.normal(size=4)]
        for _ in range(4)
    ]
    optimizer = ScoreSGD(
        0.1, momentum=0.7, curvature=curvature, batch_size=batch_size, decay=0.9
    )

    found = run(optimizer, [scores(s) for s in start], steps)

    expected = reference(start, steps, 0.1, 0.7, curvature, batch_size, 0.9)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def pretrained_reference(values, steps, rate, momentum, significance, decay):
    """The formulas for pretrained networks, in float64."""
    values = np.float64(values)
    square, speed = np.zeros_like(values), np.zeros_like(values)
    for count, gradient in enumerate(np.float64(steps), 1):
        square = decay * square + (1 - decay) * gradient**2
        noise = np.sqrt(square / (1 - decay**count))
        difference = gradient - significance / 2 / np.sqrt(count) * noise
        speed = momentum * speed + difference / np.sqrt(np.mean(difference**2))
        values = values - rate * speed
    return values


@pytest.mark.parametrize("significance", [0.0, 5.0])
def test_scores_of_pretrained_networks_resist_noise(significance):
    generator = np.random.default_rng(0)
    start = generator.uniform(size=(2, 3))
    steps = generator.normal(size=(5, 2, 3))
    optimizer = ScoreSGD(
        0.1, momentum=0.7, decay=0.9, significance=significance, batch_size=9
    )

    (found,) = run(optimizer, [scores(start, True)], [[g] for g in steps])

    expected = pretrained_reference(start, steps, 0.1, 0.7, significance, 0.9)
    # The averages are rounded to bfloat16, 1/256 of them.
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_rounded_averages_order_scores_as_exact_ones_do():
    generator = np.random.default_rng(0)
    steps = generator.normal(size=(200, 100))
    steps *= np.geomspace(1e-6, 1.0, 100)  # weights that hardly matter, too
    optimizer = ScoreSGD(0.01)

    (found,) = run(optimizer, [scores([0.5] * 100, True)], [[g] for g in steps])

    expected = pretrained_reference([0.5] * 100, steps, 0.01, 0.8, 5.0, 0.95)
    np.testing.assert_allclose(found, expected, rtol=0.02)


def test_updates_are_counted_and_not_the_batches_of_one():
    generator = np.random.default_rng(0)
    steps = generator.normal(size=(3, 4))
    plain = ScoreSGD(0.1)
    accumulating = ScoreSGD(0.1, gradient_accumulation_steps=2)

    (one,) = run(plain, [scores([0.5] * 4, True)], [[g] for g in steps])
    (two,) = run(
        accumulating,
        [scores([0.5] * 4, True)],
        [[g] for g in steps for _ in range(2)],
    )

    np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.parametrize("pretrained", [False, True])
def test_averages_of_pretrained_networks_take_half_of_the_memory(pretrained):
    variable = scores([0.5] * 4, pretrained)
    optimizer = ScoreSGD()
    optimizer.build([variable])

    slots = [v for v in optimizer.variables if v.shape == variable.shape]

    wanted = "bfloat16" if pretrained else "float32"
    dtypes = [keras.backend.standardize_dtype(v.dtype) for v in slots]
    assert dtypes == [wanted, wanted]


def test_score_sgd_does_not_depend_on_the_size_of_gradients():
    small, large = (
        run(
            ScoreSGD(0.1, curvature=0.0),
            [scores([0.2, 0.6])],
            [[[scale, -2 * scale]]] * 3,
        )[0]
        for scale in (1e-6, 1e6)
    )

    np.testing.assert_allclose(small, large, rtol=1e-5)


def test_score_sgd_stays_where_all_gradients_are_zero():
    (found,) = run(ScoreSGD(0.1), [scores([0.2, 1.0])], [[[0.0, 0.0]]] * 2)

    np.testing.assert_array_equal(found, np.float32([0.2, 1.0]))


def test_curvature_keeps_weights_that_matter_at_a_minimum():
    """Gradients of mean 0, large for the second score only."""
    gradients = [[[0.0, sign]] for sign in (1.0, -1.0) * 4]

    (with_it,) = run(ScoreSGD(0.05), [scores([0.9, 0.9])], gradients)
    (without,) = run(
        ScoreSGD(0.05, curvature=0.0), [scores([0.9, 0.9])], gradients
    )

    assert with_it[1] > 1.0
    assert with_it[0] == pytest.approx(0.9)
    assert without[1] < 1.0


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"momentum": 1.0}, "momentum"),
        ({"momentum": -0.1}, "momentum"),
        ({"curvature": -1.0}, "curvature"),
        ({"curvature": float("inf")}, "curvature"),
        ({"batch_size": 0}, "batch_size"),
        ({"decay": 1.0}, "decay"),
    ],
)
def test_score_sgd_rejects(arguments, name):
    with pytest.raises(ValueError, match=rf"`{name}` of `ScoreSGD`"):
        ScoreSGD(**arguments)


def test_score_sgd_keeps_its_arguments():
    arguments = {
        "learning_rate": 0.25,
        "momentum": 0.5,
        "curvature": 2.0,
        "batch_size": 8,
        "decay": 0.75,
    }

    again = keras.optimizers.deserialize(
        keras.optimizers.serialize(ScoreSGD(**arguments))
    )

    config = again.get_config()
    assert {name: config[name] for name in arguments} == arguments


def test_scores_get_score_sgd_by_default():
    optimizer = ProjectedOptimizer("adam", density=0.1)

    assert isinstance(optimizer.score_optimizer, ScoreSGD)
    assert optimizer.harden_step is None


def test_default_rate_of_scores_falls_over_the_schedule():
    optimizer = ProjectedOptimizer("adam", density=CubicDensity(0.1, 100))
    rate = optimizer.score_optimizer._learning_rate

    values = [float(ops.convert_to_numpy(rate(step))) for step in (0, 50, 100)]

    np.testing.assert_allclose(values, [0.05, 0.025, 0.0], atol=1e-7)


def test_default_rate_of_scores_grows_in_a_short_run():
    optimizer = ProjectedOptimizer("adam", density=CubicDensity(0.1, 20))
    rate, momentum = optimizer.score_optimizer._learning_rate, 0.8

    reach = sum(float(ops.convert_to_numpy(rate(step))) for step in range(20))

    assert reach / (1 - momentum) == pytest.approx(10.0, rel=0.1)


@pytest.mark.parametrize(
    ("end", "expected"), [(0.6, 70), (0.7, 70), (0.85, 85), (1.0, 100)]
)
def test_default_mask_is_final_when_the_schedule_has_ended(end, expected):
    optimizer = ProjectedOptimizer(
        "adam", density=CubicDensity(0.1, 100, end=end)
    )

    assert optimizer.harden_step == expected


def test_multi_optimizer_keeps_the_scores():
    inner = multi_optimizer(keras.optimizers.SGD(), {})

    optimizer = ProjectedOptimizer(inner, density=0.1)

    assert optimizer.score_optimizer is None
