"""What all masks share, and masks that a user writes."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gumbel as kg
from keras_gumbel.masks import ConcreteMask
from keras_gumbel.masks import GaussianMask
from keras_gumbel.masks import HardConcreteMask
from keras_gumbel.masks import LearnedMask
from keras_gumbel.masks import MagnitudeMask
from keras_gumbel.masks import Mask
from keras_gumbel.masks import RandomMask
from tests.contracts import save_and_load
from tests.gradients import gradient
from tests.gradients import to_numpy

ONES = np.ones((2, 3, 4), "float32")
GATES = [LearnedMask, ConcreteMask, HardConcreteMask, GaussianMask]
RANKED = [MagnitudeMask, RandomMask]
HALF = keras.initializers.Constant(0.5)


def scores_of(mask):
    return to_numpy(ops.convert_to_tensor(mask.mask_scores))


def sample(mask, inputs=ONES):
    return to_numpy(mask(inputs, training=True))


@pytest.mark.parametrize(
    ("axis", "shape"),
    [
        (-1, (4,)),
        (1, (3,)),
        ((1, 2), (3, 4)),
        ([-1, 1], (3, 4)),
        ([2, 0], (2, 4)),
        (None, (2, 3, 4)),
    ],
)
def test_mask_has_scores_on_axis(axis, shape):
    mask = LearnedMask(axis)
    mask.build(ONES.shape)
    scores = np.arange(np.prod(shape), dtype="float32").reshape(shape) / 32
    mask.mask_scores.assign(scores)

    outputs = to_numpy(mask(ONES))

    named = range(3) if axis is None else np.atleast_1d(axis) % 3
    others = [a for a in range(3) if a not in named]
    expected = np.broadcast_to(np.expand_dims(scores, others), ONES.shape)
    assert mask.mask_scores.shape == shape
    np.testing.assert_array_equal(outputs, expected)


def test_mask_has_scores_on_the_last_axis_by_default():
    mask = LearnedMask()

    mask.build(ONES.shape)

    assert mask.mask_scores.shape == (4,)


@pytest.mark.parametrize("kind", GATES)
def test_mask_starts_with_ones(kind):
    mask = kind()

    outputs = to_numpy(mask(ONES))

    np.testing.assert_array_equal(scores_of(mask), np.ones(4))
    np.testing.assert_array_equal(outputs, ONES)


@pytest.mark.parametrize("kind", GATES)
def test_mask_initializes_its_scores(kind):
    mask = kind(scores_initializer=keras.initializers.Constant(0.25))

    outputs = to_numpy(mask(ONES))

    np.testing.assert_array_equal(scores_of(mask), np.full(4, 0.25))
    np.testing.assert_array_equal(outputs, 0.25 * ONES)


@pytest.mark.parametrize("kind", GATES)
def test_mask_constrains_its_scores(kind):
    mask = kind(scores_constraint=kg.constraints.CappedBox(2.0))
    model = keras.Sequential([keras.Input((4,)), mask])
    model.compile(keras.optimizers.SGD(1e-3), "mse", run_eagerly=True)

    model.train_on_batch(np.ones((1, 4)), np.ones((1, 4)))

    assert scores_of(mask).sum() == pytest.approx(2.0, abs=1e-2)


@pytest.mark.parametrize("kind", GATES)
def test_mask_has_name_and_dtype(kind):
    mask = kind(name="gate", dtype="float16")

    assert mask.name == "gate"
    assert mask.compute_dtype == "float16"


@pytest.mark.parametrize("axis", ["1", 1.5, (0, "1"), (0, None), (True,)])
@pytest.mark.parametrize("kind", GATES)
def test_mask_rejects_axis(kind, axis):
    with pytest.raises(ValueError, match=rf"`axis` of `{kind.__name__}`"):
        kind(axis=axis)


@pytest.mark.parametrize("axis", [3, -4, (0, 3)])
def test_mask_rejects_axis_its_inputs_lack(axis):
    mask = LearnedMask(axis)

    with pytest.raises(ValueError, match=r"`axis`.*in \[-3, 3\)"):
        mask(ONES)


@pytest.mark.parametrize("axis", [None, 0, (0, 2)])
def test_mask_rejects_axis_of_unknown_length(axis):
    mask = LearnedMask(axis)

    with pytest.raises(ValueError, match=r"`axis`.*known length"):
        mask(keras.Input((3, 4)))


def test_mask_rejects_inputs_of_other_rank():
    mask = LearnedMask()
    mask(ONES)

    with pytest.raises(ValueError, match="ndim=3"):
        mask(ONES[0])


@pytest.mark.parametrize("kind", RANKED)
def test_ranked_mask_does_not_stand_between_layers(kind):
    with pytest.raises(ValueError, match=rf"`{kind.__name__}` is.*cannot"):
        kind()(ONES)


FINAL = np.array([1.0, 0.0, 1.0, 0.0])


@pytest.mark.parametrize("kind", GATES)
def test_harden_applies_the_final_mask_without_noise(kind):
    mask = kind(scores_initializer=HALF)
    mask.build(ONES.shape)

    mask.harden(FINAL)

    for training in (False, True):
        outputs = to_numpy(mask(ONES, training=training))
        np.testing.assert_array_equal(outputs, ONES * FINAL)
    assert mask.hardened
    assert mask.trainable_variables == []
    np.testing.assert_array_equal(scores_of(mask), np.full(4, 0.5))


def test_harden_replaces_the_final_mask():
    mask = LearnedMask()
    mask.build(ONES.shape)

    mask.harden(FINAL)
    mask.harden(1 - FINAL)

    np.testing.assert_array_equal(to_numpy(mask(ONES)), ONES * (1 - FINAL))


@pytest.mark.parametrize("kind", GATES)
def test_soften_puts_the_scores_in_force_again(kind):
    mask = kind(scores_initializer=HALF)
    mask.build(ONES.shape)
    trained = mask.trainable_variables

    mask.harden(FINAL)
    mask.soften()

    np.testing.assert_array_equal(to_numpy(mask(ONES)), 0.5 * ONES)
    assert not mask.hardened
    assert [v.path for v in mask.trainable_variables] == [
        v.path for v in trained
    ]


def test_soften_keeps_frozen_scores_frozen():
    mask = LearnedMask()
    mask.build(ONES.shape)
    mask.trainable = False

    mask.harden(FINAL)
    mask.soften()

    assert mask.trainable_variables == []


def test_hardened_mask_is_not_trained_in_a_trainable_model():
    mask = LearnedMask()
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4), mask])
    mask.harden(FINAL)

    model.trainable = False
    model.trainable = True

    assert len(model.trainable_variables) == 2
    mask.soften()
    assert len(model.trainable_variables) == 3


@pytest.mark.parametrize("kind", GATES)
def test_hardened_mask_is_saved_and_loaded(kind):
    mask = kind(scores_initializer=HALF)
    model = keras.Sequential([keras.Input((4,)), mask])
    mask.harden(FINAL)

    loaded = save_and_load(model)

    np.testing.assert_array_equal(to_numpy(loaded(ONES[0])), ONES[0] * FINAL)
    (again,) = loaded.layers
    assert again.hardened
    assert loaded.trainable_variables == []
    again.soften()
    np.testing.assert_array_equal(to_numpy(loaded(ONES[0])), 0.5 * ONES[0])
    assert len(loaded.trainable_variables) == 1


@keras.saving.register_keras_serializable(package="tests")
class Squared(Mask):
    """A mask of a user."""

    def draw(self, training=False):
        return ops.square(ops.convert_to_tensor(self.mask_scores))


@keras.saving.register_keras_serializable(package="tests")
class Smallest(Mask):
    """A mask of a user who ranks weights."""

    ranked = True

    def draw(self, training=False):
        return ops.convert_to_tensor(self.mask_scores)

    def saliency(self, weight, layout):
        return 1.0 / layout.root_mean_square(ops.abs(weight))


class Reversing(LearnedMask):
    """A mask of a user with another gradient."""

    def keep(self, inputs, mask):
        kept = inputs * mask
        return ops.stop_gradient(2.0 * kept) - kept


def dense(mask, **kwargs):
    """Returns a layer with a mask on its kernel of 4 by 3."""
    layer = layers.Dense(3, use_bias=False)
    layer.build((None, 4))
    return kg.sparsify(layer, mask, **kwargs)


def test_mask_of_a_user_stands_between_layers():
    mask = Squared(scores_initializer=HALF)

    np.testing.assert_array_equal(sample(mask), 0.25 * ONES)


def test_mask_of_a_user_is_put_on_weights():
    layer = dense(Squared(scores_initializer=HALF))
    model = keras.Sequential([keras.Input((4,)), layer])

    loaded = save_and_load(model)

    expected = 0.25 * to_numpy(layer.kernel)
    eye = np.eye(4, dtype="float32")
    np.testing.assert_allclose(to_numpy(model(eye)), expected, atol=1e-6)
    np.testing.assert_array_equal(to_numpy(loaded(eye)), to_numpy(model(eye)))
    assert isinstance(loaded.layers[0].weight_masks[0], Squared)


def test_mask_of_a_user_ranks_weights():
    layer = dense(Smallest())

    kg.harden(layer, budget=5)

    kept = to_numpy(layer.weight_masks[0].final_mask).ravel()
    magnitudes = np.abs(to_numpy(layer.kernel)).ravel()
    assert set(np.flatnonzero(kept)) == set(np.argsort(magnitudes)[:5])


def test_mask_of_a_user_has_its_gradient_until_it_is_hardened():
    mask = Reversing(scores_initializer=HALF)
    mask.build((None, 4))

    def total(x):
        return ops.sum(mask(x))

    (reversed_,) = gradient(total, ONES[0])
    mask.harden(FINAL)
    (plain,) = gradient(total, ONES[0])

    np.testing.assert_array_equal(reversed_, np.full((3, 4), -0.5))
    np.testing.assert_array_equal(plain, np.broadcast_to(FINAL, (3, 4)))


NAMES = {
    "learned": LearnedMask,
    "magnitude": MagnitudeMask,
    "random": RandomMask,
    "concrete": ConcreteMask,
    "hard_concrete": HardConcreteMask,
    "gaussian": GaussianMask,
}


@pytest.mark.parametrize("name", NAMES)
def test_get_knows_the_short_names(name):
    assert type(kg.masks.get(name)) is NAMES[name]


def test_get_returns_a_mask_as_it_is():
    mask = Squared()

    assert kg.masks.get(mask) is mask


@pytest.mark.parametrize("identifier", ["soft", None, LearnedMask, 1])
def test_get_rejects(identifier):
    with pytest.raises(ValueError, match=r"`mask` of `sparsify`.*'learned'"):
        kg.masks.get(identifier)


@pytest.mark.parametrize("kind", [*GATES, *RANKED])
def test_mask_on_a_weight_has_a_score_for_each_entry(kind):
    layer = dense(kind(axis=0))

    (mask,) = layer.weight_masks

    assert type(mask) is kind
    assert mask.mask_scores.shape == (4, 3)


@pytest.mark.parametrize("kind", GATES)
def test_mask_tells_what_it_keeps(kind):
    mask = kind()
    mask.build((None, 5))
    mask.mask_scores.assign([0.2, 0.9, 0.0, 0.8, 0.3])

    before = mask.get_support()
    mask.harden([1, 0, 0, 0, 1])

    assert before.dtype == mask.get_support().dtype == bool
    assert before.tolist() == [False, True, False, True, False]
    assert mask.get_support(indices=True).tolist() == [0, 4]
    mask.soften()
    assert mask.get_support(indices=True).tolist() == [1, 3]


def test_mask_keeps_as_many_as_its_equal_scores_sum_to():
    mask = LearnedMask((1, 2))
    mask.build((None, 3, 4))
    mask.mask_scores.assign(np.full((3, 4), 0.25))

    assert mask.get_support().shape == (3, 4)
    assert mask.get_support().sum() == 3
    assert mask.get_support(indices=True).tolist() == [0, 1, 2]


def test_mask_keeps_what_the_hardened_model_keeps():
    gate = LearnedMask()
    model = keras.Sequential([keras.Input((6,)), gate, layers.Dense(1)])
    gate.mask_scores.assign([1.0, 0.6, 0.0, 0.1, 0.9, 0.4])
    before = gate.get_support()

    kg.harden(model, budget=3)

    assert before.tolist() == gate.get_support().tolist()
    assert gate.get_support().sum() == 3


def test_mask_without_scores_or_with_lost_ones_says_so():
    mask = LearnedMask(name="gate")
    with pytest.raises(ValueError, match="'gate' has no scores yet"):
        mask.get_support()
    mask.build((None, 2))
    mask.mask_scores.assign([0.5, np.nan])

    with pytest.raises(ValueError, match="Training diverged: scores of 'gate'"):
        mask.get_support()
