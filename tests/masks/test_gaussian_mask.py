import keras
import numpy as np
import pytest
from keras import ops

import keras_gumbel as kg
from keras_gumbel._seeds import next_seed
from keras_gumbel.masks import GaussianMask
from tests.contracts import values_of
from tests.gradients import to_numpy

HALF = keras.initializers.Constant(0.5)
ONES = np.ones((1, 2000), "float32")


def sample(mask):
    return to_numpy(mask(ONES, training=True))[0]


def test_gaussian_mask_draws_gates():
    mask = sample(GaussianMask(scores_initializer=HALF, seed=0))

    assert 0.4 < (mask > 0).mean() < 0.6
    assert (mask == 1).any()
    assert ((mask > 0) & (mask < 1)).any()


def test_gaussian_mask_clips_normal_noise():
    drawn = sample(GaussianMask(scores_initializer=HALF, seed=4))

    seed = next_seed("test", keras.random.SeedGenerator(4))
    noise = keras.random.normal((2000,), seed=seed)
    expected = kg.ops.stochastic_gate(ops.full((2000,), 0.5), noise=noise)
    np.testing.assert_array_equal(drawn, to_numpy(expected))


@pytest.mark.parametrize(
    ("inference", "expected"),
    [("mean", [0.25, 0.5, 0.75]), ("mode", [0.0, 0.0, 1.0])],
)
def test_gaussian_mask_infers(inference, expected):
    mask = GaussianMask(inference=inference)
    mask.build((None, 3))
    mask.mask_scores.assign([0.25, 0.5, 0.75])

    outputs = to_numpy(mask(np.ones((1, 3), "float32")))

    assert outputs.tolist() == [expected]


def test_gaussian_mask_inference_can_sample():
    drawing = GaussianMask(inference="sample", scores_initializer=HALF, seed=0)
    training = GaussianMask(scores_initializer=HALF, seed=0)

    drawn = to_numpy(drawing(ONES))[0]

    np.testing.assert_array_equal(drawn, sample(training))


def test_gaussian_mask_counts_no_steps():
    mask = GaussianMask(seed=0)

    sample(mask)

    assert [v.name for v in mask.weights] == ["mask_scores"]
    assert [len(v) for v in values_of(mask.variables)] == [2000, 2]


@pytest.mark.parametrize(
    ("kwargs", "name"),
    [({"inference": "argmax"}, "inference"), ({"seed": -1}, "seed")],
)
def test_gaussian_mask_rejects(kwargs, name):
    with pytest.raises(ValueError, match=rf"`{name}` of `GaussianMask`"):
        GaussianMask(**kwargs)
