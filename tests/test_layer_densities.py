import itertools

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import layers

import keras_gumbel as kg
from keras_gumbel.optimizers import ProjectedOptimizer
from keras_gumbel.schedules import CubicDensity

pytestmark = pytest.mark.one_backend

RNG = np.random.default_rng(0)
METHODS = ["uniform", "erk"]


def dense_model(*units):
    rest = [layers.Dense(n) for n in units[1:]]
    return keras.Sequential([keras.Input(units[:1]), *rest])


def sparse_model(*units, **kwargs):
    return kg.sparsify(dense_model(*units), **kwargs)


def kept(model, densities):
    """Returns how many scores of each kernel are kept."""
    masks = [layer.weight_masks[0] for layer in model.layers]
    sizes = [np.prod(mask.mask_scores.shape) for mask in masks]
    return np.array(list(densities.values())) * sizes


def test_erk_densities_of_a_known_network():
    densities = kg.layer_densities(sparse_model(64, 300, 100, 10), 0.05)

    # (64 + 300) / (64 * 300), and so on, times one number for all layers.
    counts = 2510 * np.array([364, 400, 110]) / (364 + 400 + 110)
    sizes = np.array([64 * 300, 300 * 100, 100 * 10])
    np.testing.assert_allclose(
        list(densities.values()), counts / sizes, atol=1 / sizes.min()
    )


def test_erk_gives_what_a_full_kernel_cannot_take_to_the_others():
    densities = kg.layer_densities(sparse_model(64, 300, 100, 10), 0.3)

    first, second, last = densities.values()
    assert last == 1.0
    assert first / second == pytest.approx((364 / 19200) / (400 / 30000), 1e-3)
    assert 19200 * first + 30000 * second + 1000 == pytest.approx(15060)


def test_erk_of_a_convolution_adds_up_its_whole_shape():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            layers.Conv2D(8, 3),
            layers.Conv2D(16, 3),
        ]
    )

    first, second = kg.layer_densities(kg.sparsify(model), 0.2).values()

    expected = ((3 + 3 + 4 + 8) / 288) / ((3 + 3 + 8 + 16) / 1152)
    assert first / second == pytest.approx(expected, rel=0.02)


@settings(max_examples=30, deadline=None)
@given(
    units=st.lists(st.integers(1, 12), min_size=2, max_size=5),
    density=st.floats(0.01, 1),
    method=st.sampled_from(METHODS),
)
def test_densities_keep_as_many_weights_as_one_budget(units, density, method):
    model = sparse_model(*units)
    total = sum(a * b for a, b in itertools.pairwise(units))
    budget = int(density * total + 1e-3)
    if budget < len(units) - 1:
        with pytest.raises(ValueError, match="`density` of `layer_densities`"):
            kg.layer_densities(model, density, method)
        return

    counts = kept(model, kg.layer_densities(model, density, method))

    np.testing.assert_allclose(counts, np.round(counts), atol=1e-6)
    assert round(counts.sum()) == budget
    assert counts.min() > 0.5


def test_small_kernels_keep_a_score_that_the_largest_gives_up():
    model = sparse_model(1, 1, 9, 12)

    counts = kept(model, kg.layer_densities(model, 0.05, "uniform"))

    # 5 of 118 weights, of which 0.05, 0.45 and 5.4 would be uniform.
    np.testing.assert_allclose(counts, [1, 1, 3])


def test_uniform_densities_are_within_a_weight_of_the_density():
    model = sparse_model(13, 7, 5, 3)

    counts = kept(model, kg.layer_densities(model, 0.3, "uniform"))

    assert (abs(counts - 0.3 * np.array([91, 35, 15])) < 1).all()


def test_densities_of_units_are_of_whole_units():
    model = sparse_model(6, 8, 5, granularity="unit")

    counts = kept(model, kg.layer_densities(model, 0.5, "uniform"))

    # 44 of 88 weights: 4 of 8 units of 6 weights, and 2 of 5 of 8.
    np.testing.assert_allclose(counts, [4, 2])


@pytest.mark.parametrize("granularity", ["2:4", "1:4", "3:4"])
@pytest.mark.parametrize("density", [0.1, 0.25, 0.37, 0.5, 0.74, 0.9])
@pytest.mark.parametrize("method", [*METHODS, "owl", "obs"])
def test_densities_are_what_rows_allow(granularity, density, method):
    def model():
        keras.utils.set_random_seed(0)
        plain = dense_model(16, 24, 12, 4)
        kg.calibrate(plain, RNG.normal(size=(64, 16)), verbose=0)
        return kg.sparsify(plain, granularity=granularity)

    together, apart = model(), model()
    kg.harden(together, density=density)
    densities = kg.layer_densities(apart, density, method)
    kg.harden(apart, density=densities)

    assert max(densities.values()) <= int(granularity[0]) / 4
    assert sum(counts(apart)) == sum(counts(together))


def test_erk_gives_what_rows_do_not_allow_to_the_others():
    model = sparse_model(16, 24, 12, 4, granularity="2:4")

    first, second, last = kept(model, kg.layer_densities(model, 0.37))

    assert last == 24  # half of 48
    assert first + second + last == 266
    assert first / second == pytest.approx((16 + 24) / (24 + 12), rel=0.01)


@pytest.mark.every_backend
@pytest.mark.parametrize("mask", ["learned", "magnitude"])
@pytest.mark.parametrize("rule", METHODS)
def test_training_keeps_the_budget_of_every_layer(rule, mask):
    model = sparse_model(6, 9, 4, mask=mask)
    densities = kg.layer_densities(model, 0.3, rule)
    schedules = {k: CubicDensity(d, steps=8) for k, d in densities.items()}
    model.compile(ProjectedOptimizer("sgd", density=schedules), "mse")

    x = RNG.normal(size=(16, 6)).astype("float32")
    model.fit(x, x[:, :4], batch_size=4, epochs=2, verbose=0)

    report = kg.sparsity_report(kg.harden(model))
    assert report.kept == 27  # of 90
    np.testing.assert_allclose(
        [row.kept for row in report.rows], kept(model, densities)
    )


def test_a_mask_between_layers_has_a_density_too():
    model = keras.Sequential(
        [
            keras.Input((8,)),
            kg.masks.LearnedMask(name="gate"),
            layers.Dense(4, name="dense"),
        ]
    )
    model = kg.sparsify(model)

    densities = kg.layer_densities(model, 0.5)
    optimizer = ProjectedOptimizer("sgd", density=densities)
    optimizer.build(model.trainable_variables)

    assert list(densities) == ["gate", "dense/kernel"]
    # 20 of 40: all of the gate, as its shape adds up to its size.
    assert [k for k, _ in optimizer.current_budgets()] == [8, 12]


def counts(model):
    """Returns how many weights of each are kept."""
    return [row.kept for row in kg.sparsity_report(model).rows]


@pytest.mark.parametrize("mask", ["learned", "magnitude"])
@pytest.mark.parametrize("way", ["harden", "optimizer"])
def test_one_shot_keeps_the_budget_of_every_layer(way, mask):
    model = sparse_model(6, 8, 2, mask=mask)
    densities = kg.layer_densities(model, 0.5)

    if way == "harden":
        kg.harden(model, density=densities)
    else:
        model.compile(ProjectedOptimizer("adam", density=densities), "mse")
        kg.harden(model)

    # 32 of 64 weights: 14 / 48 and 10 / 16 of them, times one number.
    assert counts(model) == [19, 13]
    kernels = [np.asarray(w) for w in kg.strip(model).get_weights()[::2]]
    assert [np.count_nonzero(kernel) for kernel in kernels] == [19, 13]


def test_densities_of_two_layers_of_one_name_differ():
    def encoder(name, width, units):
        dense = layers.Dense(units, name="dense")
        return keras.Sequential([keras.Input((width,)), dense], name=name)

    model = keras.Sequential([encoder("A", 8, 16), encoder("B", 16, 64)])
    model = kg.sparsify(model)

    densities = kg.layer_densities(model, 0.2)
    kg.harden(model, density=densities)

    # 230 of 1152 weights: 24 / 128 and 80 / 1024 of them, times one number.
    assert list(densities) == ["A/dense/kernel", "B/dense/kernel"]
    assert counts(model) == [53, 177]


def test_densities_of_a_subclassed_model():
    class Pair(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = [layers.Dense(8, name="a"), layers.Dense(2, name="b")]

        def call(self, inputs):
            return self.parts[1](self.parts[0](inputs))

    model = Pair()
    model(np.zeros((2, 6)))
    model = kg.sparsify(model)

    densities = kg.layer_densities(model, 0.5)

    assert densities == {"a/kernel": 19 / 48, "b/kernel": 13 / 16}


def test_densities_leave_out_what_is_frozen():
    model = sparse_model(6, 8, 2)
    model.layers[1].weight_masks[0].trainable = False

    densities = kg.layer_densities(model, 0.5)

    assert list(densities.values()) == [0.5]


@pytest.mark.every_backend
def test_run_of_a_nested_model_is_loaded_and_goes_on(tmp_path):
    stem = keras.Sequential([layers.Dense(8, name="d")], name="stem")
    inputs = keras.Input((6,))
    head = layers.Dense(2, name="head")
    model = kg.sparsify(keras.Model(inputs, head(stem(inputs))), "magnitude")
    densities = kg.layer_densities(model, 0.5)
    model.compile(ProjectedOptimizer("sgd", density=densities), "mse")
    x = RNG.normal(size=(8, 6)).astype("float32")
    model.train_on_batch(x, x[:, :2])
    model.save(tmp_path / "model.keras")

    loaded = keras.models.load_model(tmp_path / "model.keras")
    for run in (model, loaded):
        run.train_on_batch(x, x[:, :2])

    assert kg.layer_densities(loaded, 0.5) == densities
    assert counts(loaded) == counts(model) == [19, 13]
    for one, two in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("density", [0, 1.5, None, CubicDensity(0.1, 10)])
def test_what_is_no_density_raises(density):
    with pytest.raises(ValueError, match="`density` of `layer_densities`"):
        kg.layer_densities(sparse_model(4, 3), density)


def test_unknown_method_raises():
    with pytest.raises(ValueError, match="`method` of `layer_densities`"):
        kg.layer_densities(sparse_model(4, 3), 0.5, "lamp")


def test_model_without_masks_raises():
    with pytest.raises(ValueError, match="found no mask in"):
        kg.layer_densities(dense_model(4, 3), 0.5)


def test_what_is_no_model_raises():
    with pytest.raises(TypeError, match="`model` of `layer_densities`"):
        kg.layer_densities("dense", 0.5)
