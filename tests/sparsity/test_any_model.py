"""Every verb on every kind of model."""

import inspect
import math

import keras
import numpy as np
import pytest
from keras import ops

import keras_gumbel as kg
from tests.cases import compiled_for
from tests.sparsity import zoo

DENSITY = 0.3


def predict(model, inputs):
    tensors = keras.tree.map_structure(ops.convert_to_tensor, inputs)
    outputs = keras.tree.flatten(model(tensors))
    return [ops.convert_to_numpy(ops.cast(y, "float32")) for y in outputs]


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def sizes(model):
    return sum(math.prod(w.shape) for w in model.weights if len(w.shape) > 1)


def fit(model, inputs, steps=4):
    model.compile(
        kg.optimizers.ProjectedOptimizer(
            "adam", density=kg.schedules.CubicDensity(DENSITY, steps=steps)
        ),
        loss="mse",
    )
    targets = np.zeros((8, *predict(model, inputs)[0].shape[1:]), "float32")
    model.fit(inputs, targets, batch_size=2, shuffle=False, verbose=0)


@pytest.mark.one_backend
@pytest.mark.parametrize("make", zoo.MODELS)
def test_sparsify_masks_the_model_in_place(make):
    model, inputs = make()
    kind, name, layers = type(model), model.name, list(model.layers)
    matrices, dense = sizes(model), predict(model, inputs)

    returned = kg.sparsify(model)

    assert returned is model
    assert isinstance(model, kind)
    assert (type(model).__name__, model.name) == (kind.__name__, name)
    assert all(a is b for a, b in zip(model.layers, layers, strict=True))
    assert_same(predict(model, inputs), dense)
    report = kg.sparsity_report(model)
    assert report.weights >= 0.9 * matrices
    assert len({row.name for row in report.rows}) == len(report.rows)


# Of how layers are found, torch tells enough.
ON_TORCH = (
    zoo.shared_layer,
    zoo.custom_block,
    zoo.own_weight,
    zoo.with_lambda,
    zoo.two_towers,
)


@pytest.mark.parametrize(
    "make", compiled_for(set(zoo.MODELS) - set(ON_TORCH), zoo.MODELS)
)
def test_training_and_every_verb(make, tmp_path):
    model, inputs = make()
    kind, kinds = type(model), [type(x) for x in model._flatten_layers()]
    before, dense = len(model.weights), predict(model, inputs)
    kg.sparsify(model)
    assert_same(predict(model, inputs), dense)

    fit(model, inputs)
    budget = math.floor(DENSITY * kg.sparsity_report(model).weights)
    kg.harden(model, density=0.1)
    kg.soften(model)
    kg.harden(model)

    hardened = predict(model, inputs)
    assert kg.sparsity_report(model).kept == budget
    model.save(tmp_path / "hardened.keras")
    kg.strip(model)
    assert_same(predict(model, inputs), hardened)
    assert type(model) is kind
    assert [type(x) for x in model._flatten_layers()] == kinds
    assert len(model.weights) == before
    model.save(tmp_path / "stripped.keras")
    for name in ("hardened", "stripped"):
        path = tmp_path / f"{name}.keras"
        loaded = keras.saving.load_model(path, safe_mode=False)
        assert_same(predict(loaded, inputs), hardened)
        assert isinstance(loaded, kind)
    assert b"keras_gumbel>" not in (tmp_path / "stripped.keras").read_bytes()


@pytest.mark.one_backend
@pytest.mark.parametrize("make", zoo.MODELS)
def test_strip_leaves_exactly_k_weights(make):
    model, _ = make()
    kg.sparsify(model, "magnitude")
    names = {row.name for row in kg.sparsity_report(model).rows}
    weights = [mask.parts[0].weight for mask in masks_of(model)]

    kg.strip(kg.harden(model, budget=17))

    kept = [np.count_nonzero(ops.convert_to_numpy(w)) for w in weights]
    assert len(names) == len(weights)
    assert sum(kept) == 17


@pytest.mark.one_backend
@pytest.mark.parametrize("make", zoo.MODELS)
def test_costs_and_densities_name_every_mask(make):
    model, inputs = make()
    kg.sparsify(model)
    one = keras.tree.map_structure(lambda x: ops.convert_to_tensor(x), inputs)

    names = [row.name for row in kg.sparsity_report(model).rows]

    assert list(kg.layer_densities(model, 0.9)) == names
    assert list(kg.sparsity_costs(model, inputs=one)) == names
    assert set(kg.sparsity_costs(model, "bytes").values()) == {4.0}
    by_name = kg.layer_densities(model, 0.9, "uniform")
    kg.harden(model, density=by_name)
    for row in kg.sparsity_report(model).rows:
        assert row.density == by_name[row.name]


def masks_of(model):
    return [m for x in model._flatten_layers() for m in masks_on(x)]


def masks_on(layer):
    return getattr(layer, "weight_masks", [])


def test_a_bare_layer_goes_through_every_verb():
    layer = keras.layers.Dense(4)
    layer.build((None, 6))

    kg.harden(kg.sparsify(layer), budget=5)
    hardened = predict(layer, zoo.FEATURES)
    kg.strip(layer)

    assert_same(predict(layer, zoo.FEATURES), hardened)
    assert type(layer) is keras.layers.Dense
    assert np.count_nonzero(ops.convert_to_numpy(layer.kernel)) == 5


def test_layers_that_assign_to_their_weights_say_so():
    @zoo.register
    class Normalizing(keras.layers.Dense):
        def call(self, inputs):
            self._kernel.assign(self._kernel / ops.norm(self._kernel))
            return super().call(inputs)

    layer = Normalizing(4)
    layer.build((None, 6))
    kg.sparsify(layer)

    with pytest.raises(ValueError, match="assigns to its weight"):
        layer(ops.convert_to_tensor(zoo.FEATURES))


def test_a_train_step_of_the_users_runs():
    model, inputs = zoo.own_call()
    kg.sparsify(model)

    fit(model, inputs)

    assert model.steps > 0


class TwoKernels(keras.layers.Dense):
    """A known layer with one more matrix."""

    def build(self, shape):
        super().build(shape)
        self.extra = self.add_weight((shape[-1], self.units), name="extra")

    def call(self, inputs, training=None):
        return super().call(inputs) + ops.matmul(inputs, self.extra)


@pytest.mark.one_backend
def test_every_matrix_of_a_known_layer_has_a_mask():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, TwoKernels(8, name="two")(inputs))

    report = kg.sparsity_report(kg.sparsify(model))

    names = [(row.name, row.weights) for row in report.rows]
    assert names == [("two/kernel", 48), ("two/extra", 48)]


class WithoutConfig(keras.layers.Layer):
    """An `__init__` without `**kwargs`."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, inputs):
        return inputs * self.factor


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.layers.Lambda(lambda x: x * 2),
        lambda: keras.layers.Dense(6, activation=lambda x: x * 2),
        lambda: WithoutConfig(2),
    ],
    ids=["lambda", "activation", "no config"],
)
def test_layers_that_a_config_cannot_copy_do_not_matter(make):
    inputs = keras.Input((6,))
    hidden = make()(keras.layers.Dense(6)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2)(hidden))
    dense = predict(model, zoo.FEATURES)

    kg.sparsify(model)

    assert_same(predict(model, zoo.FEATURES), dense)
    kg.strip(kg.harden(model, density=1.0))
    assert_same(predict(model, zoo.FEATURES), dense)


@pytest.mark.backends("torch")
def test_a_torch_module_is_left_alone():
    import torch

    module = torch.nn.Linear(6, 3)
    wrapped = keras.layers.TorchModuleWrapper(module, output_shape=(None, 3))
    inputs = keras.Input((6,))
    model = keras.Model(inputs, wrapped(keras.layers.Dense(6)(inputs)))
    dense = predict(model, zoo.FEATURES)

    with pytest.warns(UserWarning, match="read by a torch module"):
        kg.sparsify(model)

    assert_same(predict(model, zoo.FEATURES), dense)
    assert kg.sparsity_report(model).weights == 36


@pytest.mark.one_backend
def test_parts_of_a_model_are_stripped_one_by_one():
    model, inputs = zoo.nested_with_equal_names()
    inner = [x for x in model.layers if isinstance(x, keras.Model)]
    kind = type(model)
    kg.harden(kg.sparsify(model), density=0.5)
    hardened = predict(model, inputs)

    for part in inner:
        kg.strip(part)
        assert_same(predict(model, inputs), hardened)
    kg.strip(model)

    assert_same(predict(model, inputs), hardened)
    assert [type(x) for x in (model, *inner)] == [kind] * 3


@pytest.mark.one_backend
def test_a_masked_model_shows_the_arguments_of_its_call():
    model, _ = zoo.own_call()

    kg.sparsify(model)

    names = list(inspect.signature(model.call).parameters)
    assert names == ["inputs", "training", "mask"]


@pytest.mark.one_backend
def test_names_carry_the_models_that_a_part_is_in():
    symbol = keras.Input((6,))
    part = keras.Model(
        symbol, keras.layers.Dense(6, name="d")(symbol), name="part"
    )
    kg.sparsify(part)
    assert [row.name for row in kg.sparsity_report(part).rows] == ["d/kernel"]

    whole = keras.Model(symbol, keras.layers.Dense(2, name="d")(part(symbol)))
    kg.sparsify(whole)

    names = [row.name for row in kg.sparsity_report(whole).rows]
    assert sorted(names) == ["d/kernel", "part/d/kernel"]
    assert [row.name for row in kg.sparsity_report(part).rows] == [
        "part/d/kernel"
    ]
    kg.harden(whole, density={"d/kernel": 0.5, "part/d/kernel": 0.25})
    kept = {row.name: row.kept for row in kg.sparsity_report(whole).rows}
    assert kept == {"d/kernel": 6, "part/d/kernel": 9}
