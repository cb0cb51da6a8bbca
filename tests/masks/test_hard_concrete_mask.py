import keras
import numpy as np
import pytest
from keras import ops

import keras_gumbel as kg
from keras_gumbel.masks import HardConcreteMask
from keras_gumbel.schedules import LinearAnnealing
from tests.contracts import step_counters
from tests.contracts import values_of
from tests.gradients import to_numpy

HALF = keras.initializers.Constant(0.5)


def sample(mask, count=2000):
    return to_numpy(mask(np.ones((1, count), "float32"), training=True))[0]


def expected_of(temperature, seed, count=2000):
    noise = kg.random.logistic((count,), seed=keras.random.SeedGenerator(seed))
    return to_numpy(
        kg.ops.hard_concrete(ops.full((count,), 0.5), temperature, noise=noise)
    )


def test_hard_concrete_mask_draws_gates():
    mask = sample(HardConcreteMask(scores_initializer=HALF, seed=0))

    assert 0.4 < (mask > 0).mean() < 0.6
    assert (mask == 1).any()
    assert ((mask > 0) & (mask < 1)).any()


@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_hard_concrete_mask_has_its_temperature(temperature):
    mask = HardConcreteMask(temperature, scores_initializer=HALF, seed=4)

    drawn = sample(mask)

    expected = expected_of(temperature, seed=4)
    np.testing.assert_array_equal(drawn, expected)


def test_hard_concrete_mask_defaults_to_temperature_two_thirds():
    drawn = sample(HardConcreteMask(scores_initializer=HALF, seed=4))

    np.testing.assert_array_equal(drawn, expected_of(2 / 3, seed=4))


def test_hard_concrete_mask_anneals_with_every_training_call():
    schedule = LinearAnnealing(1.0, 0.5, steps=2)
    mask = HardConcreteMask(schedule, scores_initializer=HALF, seed=0)
    mask.build((None, 3))
    temperatures = []

    for _ in range(3):
        temperatures.append(float(to_numpy(mask.current_temperature())))
        sample(mask, 3)
        mask(np.ones((1, 3)), training=False)

    assert temperatures == [1.0, 0.75, 0.5]
    assert values_of(step_counters(mask)) == [3]


@pytest.mark.parametrize(
    ("inference", "expected"),
    [("mean", [0.25, 0.5, 0.75]), ("mode", [0.0, 0.0, 1.0])],
)
def test_hard_concrete_mask_infers(inference, expected):
    mask = HardConcreteMask(inference=inference)
    mask.build((None, 3))
    mask.mask_scores.assign([0.25, 0.5, 0.75])

    outputs = to_numpy(mask(np.ones((1, 3), "float32")))

    assert outputs.tolist() == [expected]


def test_hard_concrete_mask_inference_can_sample():
    drawing = HardConcreteMask(
        inference="sample", scores_initializer=HALF, seed=0
    )
    training = HardConcreteMask(scores_initializer=HALF, seed=0)

    drawn = to_numpy(drawing(np.ones((1, 2000), "float32")))[0]

    np.testing.assert_array_equal(drawn, sample(training))
    assert values_of(step_counters(drawing)) == [0]


@pytest.mark.parametrize(
    ("kwargs", "name"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"inference": "argmax"}, "inference"),
        ({"precision": "double"}, "precision"),
        ({"seed": -1}, "seed"),
    ],
)
def test_hard_concrete_mask_rejects(kwargs, name):
    with pytest.raises(ValueError, match=rf"`{name}` of `HardConcreteMask`"):
        HardConcreteMask(**kwargs)
