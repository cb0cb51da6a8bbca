"""Masks, granularities and layers of a user's own, in every verb."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gumbel as kg
from tests.sparsity import zoo
from tests.sparsity.test_any_model import assert_same
from tests.sparsity.test_any_model import fit
from tests.sparsity.test_any_model import masks_of
from tests.sparsity.test_any_model import predict

pytestmark = pytest.mark.one_backend


@zoo.register
class Squared(kg.masks.Mask):
    """Learned, with an argument of its own."""

    def __init__(self, power=2.0, **kwargs):
        super().__init__(**kwargs)
        self.power = power

    def draw(self, training=False):
        return ops.power(ops.clip(self.mask_scores, 0.0, 1.0), self.power)

    def get_config(self):
        return {**super().get_config(), "power": self.power}


@zoo.register
class Smallest(kg.masks.MagnitudeMask):
    """Ranked: keeps the smallest weights instead of the largest."""

    def saliency(self, weight, layout):
        return 1.0 / (1e-6 + super().saliency(weight, layout))


@zoo.register
class Row(kg.granularities.Granularity):
    """A score for each index of the first axis."""

    def __init__(self, least=1):
        self.least = least

    def layout(self, shape, axes):
        if shape[0] < self.least:
            raise ValueError(f"has fewer than {self.least} rows")
        scores = (shape[0],) + (1,) * (len(shape) - 1)
        return kg.granularities.ScoreLayout(shape, shape, scores)

    def get_config(self):
        return {"least": self.least}


@zoo.register
class Mixing(layers.Layer):
    """A layer nobody here knows."""

    def build(self, shape):
        self.mixer = self.add_weight(shape=(shape[-1], 8), name="mixer")

    def call(self, inputs):
        return ops.matmul(inputs, self.mixer)


def mixing():
    model = keras.Sequential([keras.Input((8,)), Mixing(), layers.Dense(2)])
    return model, np.random.default_rng(0).normal(size=(8, 8))


@pytest.mark.parametrize(
    ("mask", "granularity"),
    [
        pytest.param(Squared(3.0), "weight", marks=pytest.mark.every_backend),
        (Smallest(), "weight"),
        ("learned", Row()),
        pytest.param(Smallest(), Row(), marks=pytest.mark.every_backend),
    ],
    ids=["learned", "ranked", "granularity", "both"],
)
def test_classes_of_a_user_work_in_every_verb(mask, granularity, tmp_path):
    model, inputs = zoo.sequential()
    dense = predict(model, inputs)
    kg.sparsify(model, mask, granularity=granularity)
    assert_same(predict(model, inputs), dense)

    fit(model, inputs)
    model.save(tmp_path / "live.keras")
    loaded = keras.saving.load_model(tmp_path / "live.keras")
    assert_same(predict(loaded, inputs), predict(model, inputs))
    assert kg.sparsity_report(loaded) == kg.sparsity_report(model)
    kg.harden(model)
    hardened = predict(model, inputs)
    report = kg.sparsity_report(model)
    kg.strip(model)

    assert 0 < report.kept <= 0.3 * report.weights
    assert_same(predict(model, inputs), hardened)


def test_a_users_mask_keeps_its_arguments():
    model, _ = zoo.sequential()
    kg.sparsify(model, Squared(3.0))

    assert [mask.power for mask in masks_of(model)] == [3.0, 3.0]


def test_a_users_saliency_ranks_the_weights():
    model, _ = zoo.sequential()
    kg.sparsify(model, Smallest())
    weights = np.abs(ops.convert_to_numpy(model.layers[0].kernel)).copy()

    kg.strip(kg.harden(model, density={"dense/": 0.25, "dense_1/": 1.0}))

    kept = ops.convert_to_numpy(model.layers[0].kernel) != 0
    assert weights[kept].max() <= weights[~kept].min()


def test_a_granularity_that_does_not_fit_says_why():
    model, _ = zoo.sequential()

    with pytest.warns(UserWarning, match="has fewer than 8 rows"):
        kg.sparsify(model, granularity=Row(least=8))

    assert len(masks_of(model)) == 1


def test_units_of_an_unknown_layer_are_not_known():
    model, _ = mixing()

    with pytest.warns(
        UserWarning, match=r"mixing/mixer .*register_weight_axes"
    ):
        kg.sparsify(model, granularity="unit")


def test_a_registered_layer_has_units_inputs_and_costs():
    @zoo.register
    class Known(Mixing):
        pass

    axes = kg.WeightAxes(units=-1, inputs=-2, uses=lambda i, o, w: 3.0)
    kg.register_weight_axes(Known, {"mixer": axes})
    unit, ratio, cost = (
        keras.Sequential([keras.Input((8,)), Known(name="known")])
        for _ in range(3)
    )

    kg.harden(kg.sparsify(unit, granularity="unit"), density=0.5)
    kg.harden(kg.sparsify(ratio, granularity="2:4"), density=1.0)
    costs = kg.sparsity_costs(kg.sparsify(cost))

    (mask,) = masks_of(unit)
    assert tuple(mask.mask_scores.shape) == (1, 8)
    (mask,) = masks_of(ratio)
    final = ops.convert_to_numpy(mask.final_mask)
    np.testing.assert_array_equal(final.sum(axis=1), np.full((2, 8), 2))
    assert costs == {"known/mixer": 3.0}


def test_a_ranked_mask_between_layers_raises():
    with pytest.raises(ValueError, match="cannot be used between layers"):
        kg.masks.MagnitudeMask()(ops.ones((2, 3)))


@zoo.register
class Gated(layers.Layer):
    """Marks scores of its own, without a mask."""

    def build(self, shape):
        self.scores = kg.mark_scores(
            self.add_weight(shape=(shape[-1],), initializer="ones")
        )

    def call(self, inputs):
        return inputs * self.scores


def test_marked_scores_go_through_every_verb():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(2)(Gated(name="gate")(inputs)))
    kg.sparsify(model)
    gate = model.get_layer("gate").scores
    before = np.linspace(0.1, 0.9, 6)
    gate.assign(before)

    kg.harden(model, density={"gate": 0.5, "dense": 0.5})
    hardened = predict(model, zoo.FEATURES)

    assert [row.kept for row in kg.sparsity_report(model).rows] == [3, 6]
    np.testing.assert_array_equal(gate, [0, 0, 0, 1, 1, 1])
    kg.soften(model)
    np.testing.assert_allclose(gate, before, rtol=1e-6)
    kg.strip(kg.harden(model, density={"gate": 0.5, "dense": 0.5}))
    assert_same(predict(model, zoo.FEATURES), hardened)
    with pytest.raises(ValueError, match="found no mask"):
        kg.sparsity_report(model)
