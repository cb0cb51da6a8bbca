import copy
import warnings

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gumbel as kg
from tests.sparsity.models import MODELS
from tests.sparsity.models import X
from tests.sparsity.models import assert_same_values
from tests.sparsity.models import build
from tests.sparsity.models import compiled
from tests.sparsity.models import every_layer
from tests.sparsity.models import flat
from tests.sparsity.models import functional
from tests.sparsity.models import kernels_of
from tests.sparsity.models import predictions
from tests.sparsity.models import randomized
from tests.sparsity.models import scores_of
from tests.sparsity.models import sequential
from tests.sparsity.models import values
from tests.sparsity.models import with_scores

pytestmark = pytest.mark.one_backend

ACTIONS = {
    "sparsify": kg.sparsify,
    "harden": lambda model: kg.harden(model, density=0.5),
    "soften": kg.soften,
    "strip": kg.strip,
    "sparsity_report": kg.sparsity_report,
}


@pytest.mark.parametrize("name", MODELS)
def test_sparsify_returns_the_same_model(name):
    model = build(name)
    kinds = [type(x) for x in [model, *every_layer(model)]]
    inside, weights = every_layer(model), model.weights
    before, outputs = values(weights), predictions(model)

    sparse = kg.sparsify(model)

    assert sparse is model
    assert [id(x) for x in every_layer(model)] == [id(x) for x in inside]
    for layer, kind in zip([model, *inside], kinds, strict=True):
        assert isinstance(layer, kind)
        assert type(layer).__name__ == kind.__name__
    plain = [v for v in model.weights if "mask" not in v.path]
    assert [id(v) for v in plain] == [id(v) for v in weights]
    assert_same_values(values(weights), before)
    np.testing.assert_array_equal(predictions(model), outputs)


@pytest.mark.parametrize("name", MODELS)
def test_sparsify_makes_one_score_for_each_weight(name):
    sparse = kg.sparsify(build(name))

    assert flat(scores_of(sparse)).size == MODELS[name][1]
    np.testing.assert_array_equal(flat(scores_of(sparse)), 1.0)
    assert len(scores_of(sparse)) == len(kernels_of(sparse))


@pytest.mark.parametrize("name", MODELS)
def test_sparsify_leaves_a_deep_copy_dense(name):
    model = build(name)
    dense, outputs = copy.deepcopy(model), predictions(model)
    before = values(dense.weights)
    kinds = [type(x) for x in [dense, *every_layer(dense)]]

    for variable in kg.sparsify(model).weights:
        variable.assign(ops.zeros(variable.shape))

    assert [type(x) for x in [dense, *every_layer(dense)]] == kinds
    assert_same_values(values(dense.weights), before)
    np.testing.assert_array_equal(predictions(dense), outputs)


def test_shared_layers_have_one_mask():
    sparse = with_scores(kg.sparsify(build("shared_layer")))
    shared, out = (sparse.get_layer(x) for x in ("shared", "out"))
    kernel, weights = (
        ops.convert_to_numpy(x.kernel * x.weight_masks[0].mask_scores)
        for x in (shared, out)
    )
    biases = [ops.convert_to_numpy(x.bias) for x in (shared, out)]

    outputs = predictions(sparse)

    expected = (3 * X @ kernel + 2 * biases[0]) @ weights + biases[1]
    np.testing.assert_allclose(outputs, expected, rtol=1e-4)
    assert len(scores_of(sparse)) == 2


def test_sparsify_keeps_what_models_are_compiled_with():
    inner = sequential()
    inner.compile("sgd", loss="mse")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(inner(inputs)))
    model.compile("adam", loss="mae")
    optimizers = model.optimizer, inner.optimizer

    kg.sparsify(model)

    assert model.compiled
    assert inner.compiled
    assert (model.optimizer, inner.optimizer) == optimizers
    assert (model.loss, inner.loss) == ("mae", "mse")


@pytest.mark.every_backend
def test_sparsify_of_a_compiled_model_trains_once_it_is_compiled_again():
    model = sequential()
    model.compile("sgd", loss="mse", jit_compile=False)
    model.fit(X, X[:, :3], verbose=0)

    sparse = compiled(kg.sparsify(model), density=0.5)
    sparse.fit(X, X[:, :3], verbose=0)

    scores = flat(scores_of(sparse))
    assert 0 < scores.sum() <= 21 + 1e-3
    assert np.ptp(scores) > 0


def test_sparsify_copies_its_mask_to_every_weight():
    schedule = kg.schedules.LinearAnnealing(1.0, 0.5, steps=10)
    template = kg.masks.ConcreteMask(
        temperature=schedule,
        hard=True,
        scores_initializer=keras.initializers.Constant(0.25),
        inference="mode",
    )

    sparse = kg.sparsify(sequential(), template)

    np.testing.assert_array_equal(flat(scores_of(sparse)), 0.25)
    for layer in sparse.layers:
        (mask,) = layer.weight_masks
        assert mask is not template
        assert mask.temperature.get_config() == schedule.get_config()
        assert mask.hard
        assert mask.inference == "mode"
        # In the mode a score of 0.25 keeps nothing.
        np.testing.assert_array_equal(
            ops.convert_to_numpy(mask.draw(training=False)), 0.0
        )
    assert not template.built


def draws(seed):
    sparse = kg.sparsify(
        keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dense(4)]),
        kg.masks.ConcreteMask(
            scores_initializer=keras.initializers.Constant(0.5)
        ),
        seed=seed,
    )
    return [
        ops.convert_to_numpy(layer.weight_masks[0].draw(training=True))
        for layer in sparse.layers
    ]


@pytest.mark.every_backend
def test_sparsify_seeds_every_mask_differently_and_repeatably():
    first, again, other = draws(0), draws(0), draws(1)

    assert np.abs(first[0] - first[1]).max() > 0.1
    assert np.abs(first[0] - other[0]).max() > 0.1
    np.testing.assert_array_equal(first, again)


FILTERS = {
    "regex": ("hid", ["hidden"]),
    "alternatives": ("hid|out", ["hidden", "out"]),
    "list": (["nothing", "^o"], ["out"]),
    "whole_name": ("^hidden/kernel$", ["hidden"]),
    "name_of_the_weight": ("kernel", ["hidden", "out"]),
    "callable": (lambda layer: layer.units == 3, ["out"]),
    "none": (None, ["hidden", "out"]),
}


@pytest.mark.parametrize("case", FILTERS)
def test_sparsify_masks_what_passes_the_filters(case):
    filters, expected = FILTERS[case]

    sparse = kg.sparsify(sequential(), filters=filters)

    masked = [x.name for x in sparse.layers if hasattr(x, "weight_masks")]
    assert masked == expected
    left_out = {f"{x}/kernel" for x in {"hidden", "out"} - set(expected)}
    report = kg.sparsity_report(sparse)
    assert report.skipped == dict.fromkeys(left_out, "left out")


@pytest.mark.parametrize("filters", ["^den$", [], lambda layer: False])
def test_sparsify_with_no_weight_that_passes_raises(filters):
    with pytest.raises(ValueError, match="no weight to mask") as error:
        kg.sparsify(sequential(), filters=filters)

    assert repr(filters) in str(error.value)


@pytest.mark.parametrize("filters", [3, [1], {"hidden"}, ["hidden", None]])
def test_sparsify_with_filters_of_another_type_raises(filters):
    with pytest.raises(TypeError, match="`filters` of `sparsify`.*regex"):
        kg.sparsify(sequential(), filters=filters)


class Own(layers.Layer):
    """A layer with a matrix that no one knows."""

    def build(self, input_shape):
        self.matrix = self.add_weight((input_shape[-1], 2), name="matrix")

    def call(self, inputs):
        return ops.matmul(inputs, self.matrix)


def unknown():
    half = keras.Sequential(
        [layers.Dense(3, name="half"), Own(name="in")], name="both"
    )
    return keras.Sequential(
        [
            keras.Input((5, 3)),
            Own(name="own"),
            layers.TimeDistributed(half, name="times"),
            layers.Flatten(),
            layers.LayerNormalization(),
            layers.Dense(3, name="out"),
        ]
    )


def test_sparsify_masks_the_matrices_of_unknown_layers():
    report = kg.sparsity_report(kg.sparsify(unknown()))

    assert {row.name: row.weights for row in report.rows} == {
        "own/matrix": 6,
        "times/both/half/kernel": 6,
        "times/both/in/matrix": 6,
        "out/kernel": 30,
    }
    assert report.skipped == {}


def test_sparsify_lists_weights_that_do_not_fit_in_one_warning():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        sparse = kg.sparsify(unknown(), granularity="unit")

    (warning,) = caught
    message = str(warning.message)
    assert "own/matrix (which of its axes are units" in message
    assert "times/both/in/matrix (which of its axes are units" in message
    assert "out" not in message
    assert "half" not in message
    assert warning.filename == __file__
    report = kg.sparsity_report(sparse)
    assert set(report.skipped) == {"own/matrix", "times/both/in/matrix"}
    assert [row.name for row in report.rows] == [
        "times/both/half/kernel",
        "out/kernel",
    ]
    assert report.weights == 6 + 30


def test_sparsify_does_not_warn_of_what_the_filters_leave_out():
    sparse = kg.sparsify(functional(), filters="hidden")

    skipped = kg.sparsity_report(sparse).skipped
    assert skipped == {"out/kernel": "left out"}


@pytest.mark.parametrize("axis", [-1, (1, 2), None])
def test_sparsify_does_not_warn_of_masks_that_are_there(axis):
    inputs = keras.Input((3, 4), batch_size=2)
    gate = kg.masks.ConcreteMask(axis=axis, name="gate")
    model = keras.Model(inputs, layers.Dense(2, name="out")(gate(inputs)))

    report = kg.sparsity_report(kg.sparsify(model))

    assert {row.name for row in report.rows} == {"out/kernel", "gate"}
    assert report.skipped == {}


@pytest.mark.parametrize("first", ["hidden", "out"])
def test_sparsify_masks_what_is_not_masked_yet(first):
    model = with_scores(kg.sparsify(build("sequential"), filters=first))
    (scores,) = scores_of(model)
    before, outputs = flat([scores]), predictions(model)

    kg.sparsify(model)

    assert len(scores_of(model)) == 2
    assert all(len(layer.weight_masks) == 1 for layer in model.layers)
    np.testing.assert_array_equal(flat([scores]), before)
    np.testing.assert_array_equal(predictions(model), outputs)


def test_sparsify_with_nothing_left_to_mask_raises():
    model = kg.sparsify(sequential())

    with pytest.raises(ValueError, match="no weight to mask.*no mask yet"):
        kg.sparsify(model)


def test_sparsify_keeps_frozen_layers_frozen():
    model = build("functional")
    model.get_layer("hidden").trainable = False
    model.get_layer("norm").trainable = False
    outputs = predictions(model)

    sparse = kg.sparsify(model)

    trainable = [v.path for v in sparse.trainable_variables]
    assert "hidden/kernel" not in trainable
    assert not any(path.startswith("norm/") for path in trainable)
    assert "out/kernel" in trainable
    report = kg.sparsity_report(sparse)
    assert report.skipped == {"hidden/kernel": "frozen"}
    np.testing.assert_array_equal(predictions(sparse), outputs)


@pytest.mark.every_backend
def test_sparsify_keeps_the_dtype_policy_with_float32_scores():
    model = randomized(
        keras.Sequential(
            [keras.Input((4,)), layers.Dense(3, dtype="mixed_float16")]
        )
    )
    outputs = predictions(model)

    sparse = kg.sparsify(model)

    assert sparse.layers[0].dtype_policy.name == "mixed_float16"
    assert sparse.layers[0].compute_dtype == "float16"
    assert {v.dtype for v in scores_of(sparse)} == {"float32"}
    np.testing.assert_array_equal(predictions(sparse), outputs)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("value", [lambda: ops.ones(3), lambda: None])
def test_what_is_no_model_raises(action, value):
    with pytest.raises(TypeError, match="a Keras model") as error:
        ACTIONS[action](value())

    assert f"`model` of `{action}`" in str(error.value)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(
    "model",
    [lambda: keras.Sequential([layers.Dense(3)]), lambda: layers.Dense(3)],
)
def test_models_that_are_not_built_raise(action, model):
    with pytest.raises(ValueError, match=f"`{action}` .*is not built. Call it"):
        ACTIONS[action](model())


@pytest.mark.parametrize("action", ACTIONS)
def test_models_without_weights_to_mask_raise(action):
    model = keras.Sequential([keras.Input((4,)), layers.Activation("relu")])

    with pytest.raises(ValueError, match=f"`{action}` found no"):
        ACTIONS[action](model)
