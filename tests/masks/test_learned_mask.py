import keras
import numpy as np
import pytest
from keras import ops

from keras_gumbel.masks import LearnedMask
from tests.contracts import values_of
from tests.gradients import gradient
from tests.gradients import to_numpy

INPUTS = np.random.default_rng(0).normal(size=(2, 4)).astype("float32")


def with_scores(scores):
    mask = LearnedMask()
    mask.build((None, len(scores)))
    mask.mask_scores.assign(np.asarray(scores, "float32"))
    return mask


@pytest.mark.parametrize("training", [False, True])
def test_learned_mask_multiplies_with_its_scores(training):
    scores = np.float32([0.0, 0.25, 0.5, 1.0])
    mask = with_scores(scores)
    before = values_of(mask.variables)

    outputs = to_numpy(mask(INPUTS, training=training))

    np.testing.assert_array_equal(outputs, INPUTS * scores)
    for old, new in zip(before, values_of(mask.variables), strict=True):
        np.testing.assert_array_equal(old, new)


def test_learned_mask_clips_scores_in_inference():
    mask = with_scores([-0.5, 0.25, 1.0, 1.5])

    drawn = to_numpy(mask.draw(training=False))

    assert drawn.tolist() == [0.0, 0.25, 1.0, 1.0]


@pytest.mark.parametrize("start", [0.0, 0.5, 1.0])
def test_learned_mask_has_the_inputs_for_gradient(start):
    mask = with_scores([start] * 4)

    def total(scores):
        with keras.StatelessScope([(mask.mask_scores, scores)]):
            return ops.sum(mask(INPUTS, training=True))

    (slope,) = gradient(total, np.full(4, start, "float32"))

    np.testing.assert_allclose(slope, INPUTS.sum(axis=0), rtol=1e-6)


def test_learned_mask_has_no_state():
    mask = with_scores([1.0] * 4)

    assert [v.name for v in mask.variables] == ["mask_scores"]
