import gzip
import json
import warnings
import zipfile

import keras
import numpy as np
import pytest
import scipy.sparse
from keras import layers
from keras import ops

import keras_gumbel
from keras_gumbel.layers import ConcreteMask
from keras_gumbel.layers import Sparsified
from keras_gumbel.optimizers import ProjectedOptimizer
from keras_gumbel.optimizers import ScoreSGD
from keras_gumbel.schedules import LinearAnnealing
from tests.newer_keras import multi_optimizer

X = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")

# Scores that nothing has trained are not decided.
UNTRAINED = "ignore:The final mask keeps.*undecided"


def sequential():
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(6, activation="tanh", name="hidden"),
            layers.Dense(3, name="out"),
        ],
        name="two_layers",
    )


def functional():
    inputs = keras.Input((4,), name="features")
    hidden = layers.Dense(6, activation="relu", name="hidden")(inputs)
    hidden = layers.BatchNormalization(name="norm")(hidden)
    joined = layers.Concatenate()([inputs, hidden])
    return keras.Model(inputs, layers.Dense(3, name="out")(joined))


def sequential_in_functional():
    inputs = keras.Input((4,))
    return keras.Model(
        inputs, layers.Dense(2, name="top")(sequential()(inputs))
    )


def functional_in_sequential():
    return keras.Sequential(
        [keras.Input((4,)), functional(), layers.Dense(2, name="top")],
        name="outer",
    )


def nested_twice():
    inputs = keras.Input((4,))
    return keras.Model(inputs, sequential_in_functional()(inputs))


def shared_layer():
    first, second = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    shared = layers.Dense(5, name="shared")
    joined = layers.Add()([shared(first), shared(second)])
    outputs = layers.Dense(2, name="out")(joined)
    return keras.Model([first, second], outputs)


def shared_model():
    first, second = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    tower = sequential()
    return keras.Model(
        {"a": first, "b": second}, layers.Add()([tower(first), tower(second)])
    )


# Each model with the number of its maskable weights.
MODELS = {
    "sequential": (sequential, 42),
    "functional": (functional, 54),
    "sequential_in_functional": (sequential_in_functional, 48),
    "functional_in_sequential": (functional_in_sequential, 60),
    "nested_twice": (nested_twice, 48),
    "shared_layer": (shared_layer, 30),
    "shared_model": (shared_model, 42),
}


def randomized(model, seed=0):
    """Gives a model weights that all matter."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        variable.assign(rng.uniform(0.1, 1.0, variable.shape))
    return model


def build(name):
    return randomized(MODELS[name][0]())


def inputs_of(model):
    if len(model.inputs) == 1:
        return X
    pair = {"a": X, "b": 2 * X}
    return pair if isinstance(model.input, dict) else list(pair.values())


def predictions(model, inputs=None):
    inputs = inputs_of(model) if inputs is None else inputs
    tensors = keras.tree.map_structure(ops.convert_to_tensor, inputs)
    return ops.convert_to_numpy(model(tensors, training=False))


def values(variables):
    return {v.path: ops.convert_to_numpy(v) for v in variables}


def assert_same_values(first, second):
    assert first.keys() == second.keys()
    for path in first:
        np.testing.assert_array_equal(first[path], second[path], err_msg=path)


def scores_of(model):
    return [v for v in model.variables if v.path.endswith("mask_scores")]


def kernels_of(model):
    return [v for v in model.weights if v.path.endswith("kernel")]


def flat(variables):
    arrays = [ops.convert_to_numpy(v).ravel() for v in variables]
    return np.concatenate(arrays).astype("float64")


def with_scores(model, seed=0):
    rng = np.random.default_rng(seed)
    for scores in scores_of(model):
        scores.assign(rng.uniform(size=scores.shape))
    return model


def compiled(model, optimizer=None, **limits):
    optimizer = optimizer or ProjectedOptimizer("sgd", **limits)
    model.compile(optimizer, loss="mse", jit_compile=False)
    optimizer.build(model.trainable_variables)
    return model


def every_layer(model):
    found = []
    for layer in model.layers:
        found.append(layer)
        if isinstance(layer, keras.Model):
            found += every_layer(layer)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_sparsify_copies_the_weights(name):
    model = build(name)
    sparse = keras_gumbel.sparsify(model)

    assert type(sparse) is type(model)
    assert [x.name for x in sparse.layers] == [x.name for x in model.layers]
    assert sum(isinstance(x, Sparsified) for x in every_layer(sparse)) >= 2
    plain = [v for v in sparse.weights if "mask" not in v.path]
    assert len(plain) == len(model.weights)
    np.testing.assert_array_equal(
        sorted(flat(plain)), sorted(flat(model.weights))
    )
    np.testing.assert_array_equal(predictions(sparse), predictions(model))


@pytest.mark.parametrize("name", MODELS)
def test_sparsify_makes_one_score_for_each_weight(name):
    sparse = keras_gumbel.sparsify(build(name))

    assert flat(scores_of(sparse)).size == MODELS[name][1]
    np.testing.assert_array_equal(flat(scores_of(sparse)), 1.0)
    assert len(scores_of(sparse)) == len(kernels_of(sparse))


@pytest.mark.parametrize("name", MODELS)
def test_sparsify_leaves_the_original_untouched(name):
    model = build(name)
    before, outputs = values(model.weights), predictions(model)
    kinds = [type(layer) for layer in every_layer(model)]

    sparse = keras_gumbel.sparsify(model)
    for variable in sparse.weights:
        variable.assign(ops.zeros(variable.shape))

    assert [type(layer) for layer in every_layer(model)] == kinds
    assert_same_values(values(model.weights), before)
    np.testing.assert_array_equal(predictions(model), outputs)
    assert not {id(v) for v in sparse.weights} & {id(v) for v in model.weights}


@pytest.mark.parametrize("step", ["sparsify", "harden", "strip"])
@pytest.mark.parametrize("name", ["functional", "shared_layer", "shared_model"])
def test_copies_keep_the_names_of_the_inputs(name, step):
    model = build(name)

    copy = keras_gumbel.sparsify(model)
    if step != "sparsify":
        copy = keras_gumbel.harden(copy, density=1.0)
    if step == "strip":
        copy = keras_gumbel.strip(copy)

    assert [x.name for x in copy.inputs] == [x.name for x in model.inputs]
    assert type(copy.input) is type(model.input)
    if isinstance(model.input, dict):
        assert list(copy.input) == list(model.input)
    if len(model.inputs) > 1:
        outputs = copy.predict({"b": 2 * X, "a": X}, verbose=0)
        np.testing.assert_allclose(outputs, predictions(model), rtol=1e-5)


def test_shared_layers_stay_shared():
    model = build("shared_layer")

    sparse = with_scores(keras_gumbel.sparsify(model))
    stripped = keras_gumbel.strip(keras_gumbel.harden(sparse, budget=9))

    shared = sparse.get_layer("shared")
    kernel = ops.convert_to_numpy(
        shared.kernels[0] * shared.masks[0].mask_scores
    )
    out = sparse.get_layer("out")
    weights = ops.convert_to_numpy(out.kernels[0] * out.masks[0].mask_scores)
    biases = [ops.convert_to_numpy(x.layer.bias) for x in (shared, out)]
    expected = (3 * X @ kernel + 2 * biases[0]) @ weights + biases[1]
    np.testing.assert_allclose(predictions(sparse), expected, rtol=1e-4)
    assert len(stripped.weights) == len(model.weights)


def compiled_outside_and_inside():
    inner = sequential()
    inner.compile("sgd", loss="mse")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(inner(inputs)))
    model.compile("adam", loss="mae")
    return model, inner


def test_copies_of_compiled_models_are_not_compiled():
    model, inner = compiled_outside_and_inside()
    optimizers = model.optimizer, inner.optimizer

    sparse = keras_gumbel.sparsify(model)
    hard = keras_gumbel.harden(sparse, budget=5)
    copies = [sparse, hard, keras_gumbel.strip(hard)]

    assert model.compiled
    assert inner.compiled
    assert (model.optimizer, inner.optimizer) == optimizers
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    for copy in copies:
        assert not copy.compiled
        assert not copy.get_layer(inner.name).compiled


def test_copies_of_a_compiled_sequential_are_not_compiled():
    model = sequential()
    model.compile("adam", loss="mse")

    sparse = compiled(keras_gumbel.sparsify(model), density=0.5)
    stripped = keras_gumbel.strip(sparse)

    assert not keras_gumbel.sparsify(model).compiled
    assert not stripped.compiled
    assert model.compiled
    assert sparse.compiled


def test_sparsify_hands_its_arguments_to_every_mask():
    schedule = LinearAnnealing(1.0, 0.5, steps=10)

    sparse = keras_gumbel.sparsify(
        sequential(),
        ConcreteMask(
            temperature=schedule,
            hard=True,
            scores_initializer=keras.initializers.Constant(0.25),
            inference="mode",
        ),
    )

    np.testing.assert_array_equal(flat(scores_of(sparse)), 0.25)
    for layer in sparse.layers:
        (mask,) = layer.masks
        assert mask.temperature.get_config() == schedule.get_config()
        assert mask.hard
        assert mask.inference == "mode"
        # In the mode a score of 0.25 keeps nothing.
        np.testing.assert_array_equal(
            ops.convert_to_numpy(mask.draw(training=False)), 0.0
        )


def draws(seed):
    sparse = keras_gumbel.sparsify(
        keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dense(4)]),
        ConcreteMask(scores_initializer=keras.initializers.Constant(0.5)),
        seed=seed,
    )
    return [
        ops.convert_to_numpy(layer.masks[0].draw(training=True))
        for layer in sparse.layers
    ]


def test_sparsify_seeds_every_mask_differently_and_repeatably():
    first, again, other = draws(0), draws(0), draws(1)

    assert np.abs(first[0] - first[1]).max() > 0.1
    assert np.abs(first[0] - other[0]).max() > 0.1
    np.testing.assert_array_equal(first, again)


FILTERS = {
    "regex": ("hid", ["hidden"]),
    "anchored": ("^den$", []),
    "alternatives": ("hid|out", ["hidden", "out"]),
    "list": (["nothing", "^o"], ["out"]),
    "callable": (lambda layer: layer.units == 3, ["out"]),
    "none": (None, ["hidden", "out"]),
}


@pytest.mark.parametrize("case", [x for x in FILTERS if x != "anchored"])
def test_sparsify_masks_what_passes_the_filters(case):
    filters, expected = FILTERS[case]

    sparse = keras_gumbel.sparsify(sequential(), filters=filters)

    masked = [x.name for x in sparse.layers if isinstance(x, Sparsified)]
    assert masked == expected
    left_out = {"hidden", "out"} - set(expected)
    report = keras_gumbel.sparsity_report(sparse)
    assert report.skipped == dict.fromkeys(left_out, "left out")


@pytest.mark.parametrize("filters", ["^den$", [], lambda layer: False])
def test_sparsify_with_no_layer_that_passes_raises(filters):
    with pytest.raises(ValueError, match="no layer to mask") as error:
        keras_gumbel.sparsify(sequential(), filters=filters)

    assert repr(filters) in str(error.value)


@pytest.mark.parametrize("filters", [3, [1], {"hidden"}, ["hidden", None]])
def test_sparsify_with_filters_of_another_type_raises(filters):
    with pytest.raises(TypeError, match="`filters` of `sparsify`.*regex"):
        keras_gumbel.sparsify(sequential(), filters=filters)


class Own(layers.Layer):
    """A layer with a matrix that no one knows."""

    def build(self, input_shape):
        self.matrix = self.add_weight(shape=(input_shape[-1], 2))

    def call(self, inputs):
        return ops.matmul(inputs, self.matrix)


def unknown():
    return keras.Sequential(
        [
            keras.Input((5, 3)),
            Own(name="own"),
            layers.TimeDistributed(
                keras.Sequential(
                    [layers.Dense(3, name="half"), Own(name="in")]
                ),
                name="times",
            ),
            layers.Flatten(),
            layers.LayerNormalization(),
            layers.Dense(3, name="out"),
        ]
    )


def test_sparsify_lists_unknown_layers_in_one_warning():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        sparse = keras_gumbel.sparsify(unknown())

    (warning,) = caught
    message = str(warning.message)
    assert "own (no known kernel in Own)" in message
    assert "times/in (no known kernel in Own)" in message
    assert "out" not in message
    assert "half" not in message
    assert warning.filename == __file__
    report = keras_gumbel.sparsity_report(sparse)
    assert set(report.skipped) == {"own", "times/in"}
    assert [row.name for row in report.rows] == [
        "times/half/kernel",
        "out/kernel",
    ]
    assert report.weights == 6 + 30


def test_sparsify_does_not_warn_of_what_the_filters_leave_out():
    sparse = keras_gumbel.sparsify(functional(), filters="hidden")

    assert keras_gumbel.sparsity_report(sparse).skipped == {"out": "left out"}


@pytest.mark.parametrize("axis", [-1, (1, 2), None])
def test_sparsify_does_not_warn_of_masks_that_are_there(axis):
    inputs = keras.Input((3, 4), batch_size=2)
    gate = ConcreteMask(axis=axis, name="gate")
    model = keras.Model(inputs, layers.Dense(2, name="out")(gate(inputs)))

    sparse = keras_gumbel.sparsify(model)

    report = keras_gumbel.sparsity_report(sparse)
    assert [row.name for row in report.rows] == ["out/kernel", "gate"]
    assert report.skipped == {}


def test_sparsify_takes_an_unbuilt_sequential():
    model = keras.Sequential([layers.Dense(6, name="hidden"), layers.Dense(3)])

    sparse = keras_gumbel.sparsify(model)
    was_built = sparse.built
    outputs = predictions(sparse, X)

    assert not was_built
    assert outputs.shape == (6, 3)
    assert keras_gumbel.sparsity_report(sparse).weights == 42
    assert not model.built


def test_sparsify_masks_what_is_not_masked_yet():
    half = with_scores(
        keras_gumbel.sparsify(build("sequential"), filters="hidden")
    )

    whole = keras_gumbel.sparsify(half)

    assert [type(x) for x in whole.layers] == [Sparsified, Sparsified]
    np.testing.assert_array_equal(
        flat(scores_of(whole)[:1]), flat(scores_of(half))
    )
    np.testing.assert_array_equal(predictions(whole), predictions(half))
    with pytest.raises(ValueError, match="not masked yet"):
        keras_gumbel.sparsify(whole)


def test_sparsify_keeps_frozen_layers_frozen():
    model = build("functional")
    model.get_layer("hidden").trainable = False
    model.get_layer("norm").trainable = False

    sparse = keras_gumbel.sparsify(model)

    trainable = [v.path for v in sparse.trainable_variables]
    assert "hidden/hidden/kernel" not in trainable
    assert not any(path.startswith("norm/") for path in trainable)
    assert "out/out/kernel" in trainable
    np.testing.assert_array_equal(predictions(sparse), predictions(model))


def test_sparsify_keeps_the_dtype_policy_with_float32_scores():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, dtype="mixed_float16")]
    )

    sparse = keras_gumbel.sparsify(randomized(model))

    assert sparse.layers[0].dtype_policy.name == "mixed_float16"
    assert sparse.layers[0].compute_dtype == "float16"
    assert {v.dtype for v in scores_of(sparse)} == {"float32"}
    np.testing.assert_array_equal(predictions(sparse), predictions(model))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs)


ACTIONS = {
    "sparsify": keras_gumbel.sparsify,
    "harden": lambda model: keras_gumbel.harden(model, density=0.5),
    "strip": keras_gumbel.strip,
    "sparsity_report": keras_gumbel.sparsity_report,
}


@pytest.mark.parametrize("action", ACTIONS)
def test_subclassed_model_raises_and_names_the_wrapper(action):
    with pytest.raises(TypeError, match="layers.Sparsified") as error:
        ACTIONS[action](Subclassed())

    assert f"`model` of `{action}`" in str(error.value)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(
    "value", [lambda: layers.Dense(3), lambda: ops.ones(3), lambda: None]
)
def test_what_is_no_model_raises(action, value):
    with pytest.raises(TypeError, match="a Keras model"):
        ACTIONS[action](value())


@pytest.mark.parametrize("action", ACTIONS)
def test_model_without_masks_raises(action):
    model = keras.Sequential([keras.Input((4,)), layers.Activation("relu")])

    with pytest.raises(ValueError, match=f"`{action}` found no"):
        ACTIONS[action](model)


@pytest.mark.parametrize("action", ["harden", "strip", "sparsity_report"])
def test_masks_that_are_not_built_raise(action):
    sparse = keras_gumbel.sparsify(keras.Sequential([layers.Dense(3)]))

    with pytest.raises(ValueError, match="not built"):
        ACTIONS[action](sparse)


@pytest.mark.parametrize("action", ["harden", "strip", "sparsity_report"])
def test_scores_of_a_model_that_diverged_raise(action):
    sparse = keras_gumbel.sparsify(build("sequential"))
    sparse.compile(ProjectedOptimizer("sgd", density=0.5), "mse")
    sparse.optimizer.build(sparse.trainable_variables)
    scores = scores_of(sparse)[1]
    scores.assign(np.full(scores.shape, np.nan))

    with pytest.raises(ValueError, match="diverged") as error:
        ACTIONS[action](sparse)

    first, second = [layer.name for layer in sparse.layers if layer.weights]
    assert f"scores of {second}/kernel are NaN" in str(error.value)
    assert first not in str(error.value)


@pytest.mark.parametrize("budget", [1, 2, 7, 29, 41, 42, 2.9])
@pytest.mark.parametrize("name", ["sequential", "shared_model"])
def test_harden_keeps_the_largest_scores(name, budget):
    sparse = with_scores(keras_gumbel.sparsify(build(name)))
    scores = flat(scores_of(sparse))

    hard = keras_gumbel.harden(sparse, budget=budget)

    final = flat(scores_of(hard))
    assert set(final) <= {0.0, 1.0}
    assert final.sum() == int(budget)
    assert set(np.flatnonzero(final)) == set(
        np.argsort(scores)[::-1][: int(budget)]
    )


@pytest.mark.parametrize("budget", [1, 10, 25])
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_harden_keeps_the_larger_of_weights_with_equal_scores(value, budget):
    model = build("sequential")
    for kernel in kernels_of(model):
        kernel.assign(kernel * np.random.default_rng(1).choice([-1, 1]))
    sparse = keras_gumbel.sparsify(model)
    for scores in scores_of(sparse):
        scores.assign(np.full(scores.shape, value, "float32"))

    hard = keras_gumbel.harden(sparse, budget=budget)

    magnitudes = np.abs(flat(kernels_of(model)))
    kept = np.flatnonzero(flat(scores_of(hard)))
    assert set(kept) == set(np.argsort(magnitudes)[::-1][:budget])


def test_harden_keeps_exactly_k_of_equal_scores_on_equal_weights():
    model = sequential()
    for kernel in kernels_of(model):
        kernel.assign(ops.ones(kernel.shape))

    hard = keras_gumbel.harden(keras_gumbel.sparsify(model), budget=17)

    assert flat(scores_of(hard)).sum() == 17


@pytest.mark.parametrize(
    ("density", "kept"),
    [(0.3, 12), (1 / 3, 14), (0.5, 21), (0.99, 41), (1, 42)],
)
def test_harden_rounds_the_density_down_to_whole_weights(density, kept):
    sparse = keras_gumbel.sparsify(sequential())

    hard = keras_gumbel.harden(sparse, density=density)

    assert flat(scores_of(hard)).sum() == kept


@pytest.mark.parametrize("density", [0.29, 0.57, 0.58])
def test_harden_loses_no_weight_to_rounding(density):
    assert density * 100 < round(density * 100)
    model = keras.Sequential([keras.Input((10,)), layers.Dense(10)])

    hard = keras_gumbel.harden(keras_gumbel.sparsify(model), density=density)

    assert flat(scores_of(hard)).sum() == round(density * 100)


def in_multi_optimizer():
    projected = ProjectedOptimizer("sgd", density=0.3)
    return multi_optimizer(
        keras.optimizers.Adam(), {".*mask_scores": projected}
    )


COMPILED = {
    "density": (lambda: ProjectedOptimizer("sgd", density=0.3), 12),
    "third": (lambda: ProjectedOptimizer("sgd", density=1 / 3), 14),
    "budget": (lambda: ProjectedOptimizer("sgd", budget=7.9), 7),
    "loss_scale": (
        lambda: keras.optimizers.LossScaleOptimizer(
            ProjectedOptimizer("sgd", density=0.3)
        ),
        12,
    ),
    "multi_optimizer": (in_multi_optimizer, 12),
    "loss_scale_of_multi_optimizer": (
        lambda: keras.optimizers.LossScaleOptimizer(in_multi_optimizer()),
        12,
    ),
    "ended_schedule": (
        lambda: ProjectedOptimizer(
            "sgd", density=LinearAnnealing(0.3, 0.3, steps=4)
        ),
        12,
    ),
}


@pytest.mark.filterwarnings(UNTRAINED)
@pytest.mark.parametrize("case", COMPILED)
def test_harden_takes_the_budget_of_the_optimizer(case):
    make, kept = COMPILED[case]
    sparse = compiled(keras_gumbel.sparsify(sequential()), make())

    hard = keras_gumbel.harden(sparse)

    assert flat(scores_of(hard)).sum() == kept
    assert keras_gumbel.sparsity_report(hard).budget == kept
    assert keras_gumbel.sparsity_report(sparse).budget == kept
    assert hard.compiled


def test_harden_before_the_schedule_has_ended_warns():
    schedule = LinearAnnealing(1.0, 0.1, steps=4)
    sparse = compiled(keras_gumbel.sparsify(sequential()), density=schedule)

    with pytest.warns(UserWarning, match="keeps 42 scores.* ends at 4") as got:
        hard = keras_gumbel.harden(sparse)

    assert [x.filename for x in got if x.category is UserWarning] == [__file__]
    assert flat(scores_of(hard)).sum() == 42
    assert flat(scores_of(keras_gumbel.harden(sparse, budget=4))).sum() == 4


def test_harden_keeps_the_budget_of_every_layer():
    sparse = with_scores(keras_gumbel.sparsify(sequential()))
    sparse = compiled(sparse, budget={"hidden": 7, "out": 5})

    hard = keras_gumbel.harden(sparse)

    assert [flat([s]).sum() for s in scores_of(hard)] == [7, 5]
    report = keras_gumbel.sparsity_report(sparse)
    assert [row.kept for row in report.rows] == [7, 5]
    assert report.budget == 12


def test_harden_keeps_what_can_be_paid_for():
    costs = {"hidden": 3.0, "out": 2.0}
    sparse = with_scores(keras_gumbel.sparsify(sequential()))
    optimizer = ProjectedOptimizer("sgd", budget=40, costs=costs)
    sparse = compiled(sparse, optimizer)

    hard = keras_gumbel.harden(sparse)

    hidden, out = (flat([s]) for s in scores_of(hard))
    spent = 3 * hidden.sum() + 2 * out.sum()
    assert 37 < spent <= 40
    learned = np.concatenate([flat([s]) for s in scores_of(sparse)])
    kept = np.concatenate([hidden, out]) == 1
    assert learned[kept].min() >= learned[~kept].max()


def test_harden_leaves_the_original_untouched():
    sparse = with_scores(keras_gumbel.sparsify(build("functional")))
    sparse = compiled(sparse, density=0.5)
    before, optimizer = values(sparse.variables), sparse.optimizer

    hard = keras_gumbel.harden(sparse)
    for variable in hard.weights:
        variable.assign(ops.zeros(variable.shape))

    assert_same_values(values(sparse.variables), before)
    assert sparse.optimizer is optimizer
    assert all(v.trainable for v in scores_of(sparse))


@pytest.mark.parametrize("name", MODELS)
def test_harden_masks_the_kernels(name):
    sparse = with_scores(keras_gumbel.sparsify(build(name)))

    hard = keras_gumbel.harden(sparse, density=0.5)
    for kernel, mask in zip(kernels_of(sparse), scores_of(hard), strict=True):
        kernel.assign(kernel * mask)
    for scores in scores_of(sparse):
        scores.assign(ops.ones(scores.shape))

    np.testing.assert_array_equal(predictions(hard), predictions(sparse))
    assert not any("mask" in v.path for v in hard.trainable_variables)


def test_harden_again_keeps_the_mask():
    sparse = with_scores(keras_gumbel.sparsify(build("sequential")))
    hard = keras_gumbel.harden(sparse, budget=11)

    again = keras_gumbel.harden(hard)

    assert_same_values(values(again.weights), values(hard.weights))


BAD_LIMITS = {
    "both": {"density": 0.5, "budget": 3},
    "density_zero": {"density": 0.0},
    "density_above_one": {"density": 1.5},
    "density_text": {"density": "x"},
    "density_true": {"density": True},
    "budget_zero": {"budget": 0},
    "budget_negative": {"budget": -1},
    "budget_too_large": {"budget": 43},
    "budget_text": {"budget": "x"},
    "budget_true": {"budget": True},
    "budget_nan": {"budget": float("nan")},
}


@pytest.mark.parametrize("case", BAD_LIMITS)
def test_harden_with_a_bad_limit_raises(case):
    sparse = keras_gumbel.sparsify(sequential())
    limits = BAD_LIMITS[case]
    name = next(iter(limits))

    with pytest.raises(ValueError, match=f"`{name}` of `harden`") as error:
        keras_gumbel.harden(sparse, **limits)

    assert f"{name}={limits[name]!r}" in str(error.value)


@pytest.mark.parametrize("optimizer", [None, "sgd"])
def test_harden_without_a_budget_raises(optimizer):
    sparse = keras_gumbel.sparsify(sequential())
    if optimizer:
        sparse.compile(optimizer, loss="mse")

    with pytest.raises(ValueError, match="how many scores to keep"):
        keras_gumbel.harden(sparse)


def momentum():
    return keras.optimizers.SGD(0.1, momentum=0.9)


def decayed():
    optimizer = ProjectedOptimizer(momentum(), density=0.3)
    optimizer.learning_rate = 0.05
    return optimizer


FRESH = {
    "projected": decayed,
    "loss_scale": lambda: keras.optimizers.LossScaleOptimizer(decayed()),
    "score_optimizer": lambda: ProjectedOptimizer(
        keras.optimizers.SGD(0.05, momentum=0.9),
        density=0.3,
        score_optimizer="adam",
    ),
}


@pytest.mark.filterwarnings(UNTRAINED)
@pytest.mark.parametrize("case", FRESH)
def test_harden_compiles_with_a_fresh_inner_optimizer(case):
    sparse = keras_gumbel.sparsify(build("sequential"))
    sparse.compile(
        FRESH[case](), loss="mae", metrics=["mse"], jit_compile=False
    )
    sparse.fit(X, np.zeros((6, 3)), verbose=0)

    hard = keras_gumbel.harden(sparse)

    inner = hard.optimizer
    assert isinstance(inner, keras.optimizers.SGD)
    assert inner.momentum == 0.9
    assert float(inner.learning_rate) == pytest.approx(0.05)
    assert int(ops.convert_to_numpy(inner.iterations)) == 0
    assert hard.loss == "mae"
    assert set(hard.evaluate(X, X[:, :3], verbose=0, return_dict=True)) == {
        "loss",
        "mse",
    }


@pytest.mark.filterwarnings(UNTRAINED)
def test_harden_of_a_multi_optimizer_keeps_its_other_parts():
    sparse = compiled(keras_gumbel.sparsify(sequential()), in_multi_optimizer())

    hard = keras_gumbel.harden(sparse)
    before = flat(kernels_of(hard))
    hard.fit(X, X[:, :3], epochs=2, verbose=0)

    assert isinstance(hard.optimizer, keras.optimizers.MultiOptimizer)
    assert hard.optimizer is not sparse.optimizer
    assert np.abs(flat(kernels_of(hard)) - before).max() > 0.0
    assert flat(scores_of(hard)).sum() == 12


def test_harden_takes_a_loss_that_keras_cannot_serialize():
    sparse = keras_gumbel.sparsify(sequential())
    sparse.compile(
        ProjectedOptimizer("sgd", density=0.5),
        loss=lambda y, p: ops.mean(ops.abs(y - p), axis=-1),
        jit_compile=False,
    )
    sparse.optimizer.build(sparse.trainable_variables)

    hard = keras_gumbel.harden(sparse)

    assert hard.evaluate(X, X[:, :3], verbose=0) == pytest.approx(
        np.abs(X[:, :3] - predictions(hard)).mean(), rel=1e-5
    )


def scramble_pruned(model):
    """Changes every weight that the final mask drops."""
    for layer in model.layers:
        keep = ops.convert_to_numpy(layer.masks[0].mask_scores)
        kernel = ops.convert_to_numpy(layer.kernels[0])
        layer.kernels[0].assign(np.where(keep == 1, kernel, 1e3))


def test_fit_of_a_hardened_model_keeps_the_mask(tmp_path):
    sparse = with_scores(keras_gumbel.sparsify(build("sequential")))
    hard = keras_gumbel.harden(sparse, budget=11)
    masks, kernels = flat(scores_of(hard)), flat(kernels_of(hard))
    hard.save(tmp_path / "hard.keras")

    loaded = keras.saving.load_model(tmp_path / "hard.keras")
    loaded.trainable = False
    loaded.trainable = True
    loaded.compile("adam", loss="mse")
    loaded.fit(X, X[:, :3], epochs=3, verbose=0)

    np.testing.assert_array_equal(flat(scores_of(loaded)), masks)
    moved = flat(kernels_of(loaded)) != kernels
    assert not moved[masks == 0].any()
    assert moved[masks == 1].sum() > 5
    outputs = predictions(loaded)
    scramble_pruned(loaded)
    np.testing.assert_array_equal(predictions(loaded), outputs)
    assert len(loaded.trainable_variables) == 4


def test_hardened_model_draws_no_noise_in_training():
    sparse = with_scores(keras_gumbel.sparsify(build("sequential"), seed=0))

    hard = keras_gumbel.harden(sparse, budget=11)

    training = ops.convert_to_numpy(hard(X, training=True))
    np.testing.assert_array_equal(training, predictions(hard))
    assert np.abs(ops.convert_to_numpy(sparse(X, training=True))).max() > 0.0


@pytest.mark.parametrize("budget", [1, 11, 30])
@pytest.mark.parametrize("name", MODELS)
def test_strip_keeps_exactly_k_weights_and_the_predictions(name, budget):
    sparse = with_scores(keras_gumbel.sparsify(build(name)))
    hard = keras_gumbel.harden(sparse, budget=budget)
    before = values(hard.weights)

    stripped = keras_gumbel.strip(hard)

    assert np.count_nonzero(flat(kernels_of(stripped))) == budget
    np.testing.assert_allclose(
        predictions(stripped), predictions(hard), rtol=1e-6, atol=1e-6
    )
    assert_same_values(values(hard.weights), before)
    paths = [v.path for v in stripped.weights]
    assert sorted(paths) == sorted(v.path for v in build(name).weights)


def config_of(path):
    with zipfile.ZipFile(path) as archive:
        return archive.read("config.json").decode()


@pytest.mark.parametrize("name", ["functional_in_sequential", "shared_layer"])
def test_strip_leaves_nothing_of_the_package_in_the_file(name, tmp_path):
    sparse = with_scores(keras_gumbel.sparsify(build(name)))
    hard = compiled(keras_gumbel.harden(sparse, budget=11), momentum())
    stripped = keras_gumbel.strip(hard)

    hard.save(tmp_path / "hard.keras")
    stripped.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")

    assert "keras_gumbel" in config_of(tmp_path / "hard.keras")
    assert "keras_gumbel" not in config_of(tmp_path / "small.keras")
    assert "keras_gumbel" not in json.dumps(stripped.get_config(), default=str)
    np.testing.assert_array_equal(predictions(loaded), predictions(stripped))


def test_strip_hardens_a_compiled_model():
    sparse = keras_gumbel.sparsify(build("sequential"))
    sparse = with_scores(compiled(sparse, density=0.3))

    stripped = keras_gumbel.strip(sparse)

    hard = keras_gumbel.harden(sparse)
    np.testing.assert_array_equal(
        flat(kernels_of(stripped)),
        flat(kernels_of(hard)) * flat(scores_of(hard)),
    )
    assert np.count_nonzero(flat(kernels_of(stripped))) == 12


def test_strip_of_a_model_that_knows_no_budget_raises():
    sparse = keras_gumbel.sparsify(sequential())

    with pytest.raises(ValueError, match="how many scores to keep"):
        keras_gumbel.strip(sparse)


def lines():
    return keras.Sequential(
        [
            keras.Input((8, 3)),
            layers.Conv1D(4, 3, padding="same", groups=1, name="conv"),
            layers.Conv1DTranspose(4, 3, strides=2, name="transpose"),
            layers.SeparableConv1D(5, 3, name="separable"),
            layers.DepthwiseConv1D(3, depth_multiplier=2, name="depthwise"),
            layers.EinsumDense(
                "btd,de->bte", output_shape=(None, 3), name="einsum"
            ),
            layers.Dense(2, use_bias=False, name="dense"),
        ]
    )


def images():
    return keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            layers.Conv2D(4, 3, groups=2, name="conv"),
            layers.Conv2DTranspose(3, 2, strides=2, name="transpose"),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.SeparableConv2D(2, 3, name="separable"),
        ]
    )


def volumes():
    return keras.Sequential(
        [
            keras.Input((4, 4, 4, 2)),
            layers.Conv3D(3, 2, name="conv"),
            layers.Conv3DTranspose(2, 2, name="transpose"),
        ]
    )


def words():
    return keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layers.Embedding(7, 4, mask_zero=True, name="embedding"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(2, name="dense"),
        ]
    )


KINDS = {"lines": lines, "images": images, "volumes": volumes, "words": words}


@pytest.mark.parametrize("kind", KINDS)
def test_strip_handles_every_known_layer(kind):
    model = randomized(KINDS[kind]())
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 7, (2, *model.input_shape[1:]))
    inputs = inputs.astype("int32" if kind == "words" else "float32")
    sparse = keras_gumbel.sparsify(model)
    ones = predictions(sparse, inputs)
    hard = keras_gumbel.harden(with_scores(sparse), density=0.4)

    stripped = keras_gumbel.strip(hard)

    np.testing.assert_array_equal(ones, predictions(model, inputs))
    assert all(
        isinstance(x, Sparsified) for x in sparse.layers if x.trainable_weights
    )
    masked = sum(np.count_nonzero(flat([v])) for v in matrices(stripped))
    assert masked == int(0.4 * sum(flat([v]).size for v in matrices(model)))
    outputs = predictions(stripped, inputs)
    np.testing.assert_allclose(outputs, predictions(hard, inputs), rtol=1e-6)
    assert np.abs(outputs - ones).max() > 0.01


def matrices(model):
    return [v for v in model.weights if not v.path.endswith("bias")]


@pytest.mark.parametrize("axis", [-1, 1, (1, 2), None])
def test_strip_turns_a_gate_into_a_rescaling(axis):
    gate = ConcreteMask(axis=axis, name="gate")
    inputs = keras.Input((3, 4), batch_size=2)
    outputs = Sparsified(layers.Dense(2, name="out"))(gate(inputs))
    sparse = with_scores(randomized(keras.Model(inputs, outputs)))
    data = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    hard = keras_gumbel.harden(sparse, density=0.5)

    stripped = keras_gumbel.strip(hard)

    assert type(stripped.get_layer("gate")) is layers.Rescaling
    np.testing.assert_allclose(
        predictions(stripped, data), predictions(hard, data), rtol=1e-6
    )
    kept = np.count_nonzero(flat(kernels_of(stripped)))
    scale = np.asarray(stripped.get_layer("gate").scale)
    assert kept + scale.sum() == flat(scores_of(sparse)).size // 2
    assert "keras_gumbel" not in json.dumps(stripped.get_config(), default=str)


@pytest.mark.parametrize("gated", [False, True])
def test_strip_keeps_the_dtype_policy(gated, tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    model = sequential()
    if gated:
        model.add(ConcreteMask(name="gate"))
    sparse = with_scores(keras_gumbel.sparsify(randomized(model)))
    hard = keras_gumbel.harden(sparse, density=0.5)
    keras.config.set_dtype_policy("float32")

    stripped = keras_gumbel.strip(hard)
    stripped.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")

    for layer in loaded.layers:
        assert layer.dtype_policy.name == "mixed_float16"
    outputs = predictions(loaded)
    assert outputs.dtype == "float16"
    np.testing.assert_array_equal(outputs, predictions(hard))


def test_report_counts_the_final_mask():
    sparse = with_scores(keras_gumbel.sparsify(build("functional")))
    sparse = compiled(sparse, budget=20)
    with_scores(sparse)

    report = keras_gumbel.sparsity_report(sparse)

    hidden, out = scores_of(keras_gumbel.harden(sparse, budget=20))
    first, second = report.rows
    assert [first.name, second.name] == ["hidden/kernel", "out/kernel"]
    assert [first.weights, second.weights] == [24, 30]
    assert [first.kept, second.kept] == [
        flat([hidden]).sum(),
        flat([out]).sum(),
    ]
    assert first.density == first.kept / 24
    assert first.expected == pytest.approx(flat(scores_of(sparse)[:1]).sum())
    assert (report.weights, report.kept, report.budget) == (54, 20, 20)
    assert report.density == 20 / 54
    assert report.expected == pytest.approx(flat(scores_of(sparse)).sum())
    assert report.skipped == {}


def test_report_counts_the_undecided_scores():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    sparse = keras_gumbel.sparsify(model)
    values = [0, 0.01, 0.04, 0.06, 0.2, 0.5, 0.8, 0.94, 0.96, 0.99, 1, 1]
    scores_of(sparse)[0].assign(np.reshape(values, (4, 3)))

    report = keras_gumbel.sparsity_report(sparse)

    assert report.undecided == 5
    assert report.rows[0].undecided == 5
    assert report.expected == pytest.approx(sum(values))
    assert report.budget == report.kept == round(sum(values))


def test_report_of_a_hardened_model_is_the_mask_itself():
    sparse = with_scores(keras_gumbel.sparsify(build("shared_layer")))

    report = keras_gumbel.sparsity_report(
        keras_gumbel.harden(sparse, budget=13)
    )

    assert (report.budget, report.kept, report.undecided) == (13, 13, 0)
    assert report.expected == 13.0
    assert report.weights == 30


def test_report_follows_the_schedule_of_the_budget():
    sparse = keras_gumbel.sparsify(build("sequential"))
    schedule = LinearAnnealing(40.0, 10.0, steps=3)
    optimizer = ProjectedOptimizer("sgd", budget=schedule)
    compiled(sparse, optimizer)
    zeros = [ops.zeros(v.shape) for v in sparse.trainable_variables]
    budgets = [keras_gumbel.sparsity_report(sparse).budget]

    for _ in range(4):
        optimizer.apply(zeros, sparse.trainable_variables)
        budgets.append(keras_gumbel.sparsity_report(sparse).budget)

    assert budgets == [40, 30, 20, 10, 10]


def test_report_counts_both_kernels_of_a_separable_layer():
    model = keras.Sequential(
        [
            keras.Input((5, 3)),
            layers.SeparableConv1D(4, 2, name="separable"),
            ConcreteMask(name="gate"),
        ]
    )

    report = keras_gumbel.sparsity_report(keras_gumbel.sparsify(model))

    assert {row.name: row.weights for row in report.rows} == {
        "separable/depthwise_kernel": 6,
        "separable/pointwise_kernel": 12,
        "gate": 4,
    }


def test_report_is_plain_data_for_json():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="one")])
    model.add(layers.Dense(2, name="two"))
    sparse = with_scores(keras_gumbel.sparsify(model, filters="two"))

    report = keras_gumbel.sparsity_report(sparse)
    data = json.loads(json.dumps(report.to_dict()))

    row = {
        "name": "two/kernel",
        "weights": 6,
        "kept": report.kept,
        "expected": report.expected,
        "undecided": report.undecided,
        "size": vars(report.size),
        "density": report.kept / 6,
        "undecided_share": report.undecided / 6,
    }
    assert data == {
        "rows": [row],
        "total": {**row, "name": "total"},
        "budget": report.budget,
        "spent": report.spent,
        "skipped": {"one": "left out"},
        "other_bytes": 4 * (12 + 3 + 2),
    }


def test_report_prints_as_tables():
    big = keras.Sequential([keras.Input((40,)), layers.Dense(50, name="wide")])
    big.add(layers.Dense(2, name="top"))
    sparse = keras_gumbel.sparsify(randomized(big), filters="wide")
    report = keras_gumbel.sparsity_report(compiled(sparse, density=0.25))

    text = str(report)

    def cells(name):
        return [
            [cell.strip() for cell in line.split("│")[2:-1]]
            for line in text.splitlines()
            if f"│ {name} " in line
        ]

    counts = ["2,000", "500", "25.00%", "500.0", "2,000 (100.00%)"]
    sizes = [f"{count:,}" for count in vars(report.size).values()]
    assert cells("wide/kernel") == cells("total") == [counts, sizes]
    lines = text.splitlines()
    assert lines[-3:] == [
        "sum s / K: 1.0000",
        f"weights without a mask: {4 * (50 + 100 + 2)} bytes",
        "not masked: top (left out)",
    ]
    assert max(map(len, lines)) <= 100


def test_report_counts_the_bytes_of_each_form():
    model = randomized(keras.Sequential([keras.Input((40,)), layers.Dense(50)]))
    sparse = with_scores(keras_gumbel.sparsify(model))
    hard = keras_gumbel.harden(sparse, budget=60)

    size = keras_gumbel.sparsity_report(hard).size

    (kernel,) = kernels_of(keras_gumbel.strip(hard))
    kernel = ops.convert_to_numpy(kernel)
    coo = scipy.sparse.coo_array(kernel)
    mask = np.packbits(kernel != 0)
    assert size.dense == kernel.nbytes == 8000
    assert size.bitmask == mask.nbytes + 60 * 4
    assert coo.nnz == 60
    assert size.coo == coo.data.nbytes + sum(c.nbytes for c in coo.coords)
    packed = gzip.compress(kernel.tobytes(), 6, mtime=0)
    assert size.gzip == len(packed)
    assert gzip.decompress(packed) == kernel.tobytes()


def test_report_counts_the_bytes_of_a_convolution():
    model = randomized(
        keras.Sequential([keras.Input((5, 5, 3)), layers.Conv2D(4, 3)])
    )

    size = keras_gumbel.sparsity_report(
        keras_gumbel.harden(keras_gumbel.sparsify(model), budget=10)
    ).size

    assert size.dense == 4 * 3 * 3 * 3 * 4
    assert size.coo == 10 * (4 + 4 * 4)
    assert size.bitmask == 108 // 8 + 1 + 10 * 4


def test_report_counts_half_precision():
    keras.config.set_dtype_policy("float16")
    model = randomized(keras.Sequential([keras.Input((4,)), layers.Dense(3)]))

    report = keras_gumbel.sparsity_report(
        keras_gumbel.harden(keras_gumbel.sparsify(model), budget=5)
    )

    assert report.size.dense == 24
    assert report.size.bitmask == 2 + 10
    assert report.size.scores == 48
    assert report.other_bytes == 6


SLOTS = {
    "sgd": (lambda: keras.optimizers.SGD(), 0),
    "momentum": (lambda: keras.optimizers.SGD(momentum=0.9), 1),
    "adam": (lambda: keras.optimizers.Adam(), 2),
    "average": (lambda: keras.optimizers.SGD(use_ema=True), 1),
    "score optimizer": (lambda: ScoreSGD(), 2),
}


@pytest.mark.parametrize("case", SLOTS)
def test_report_counts_the_memory_of_training(case):
    make, count = SLOTS[case]
    own = make() if case == "score optimizer" else None
    inner = keras.optimizers.Adam() if own else make()
    sparse = keras_gumbel.sparsify(build("sequential"))
    optimizer = ProjectedOptimizer(inner, density=0.5, score_optimizer=own)

    report = keras_gumbel.sparsity_report(compiled(sparse, optimizer))

    assert [row.size.scores for row in report.rows] == [96, 72]
    assert [row.size.slots for row in report.rows] == [96 * count, 72 * count]
    assert report.size.slots == 168 * count


def test_report_of_a_mask_between_layers_has_no_kernel_to_store():
    model = keras.Sequential([keras.Input((4,)), ConcreteMask(name="gate")])

    report = keras_gumbel.sparsity_report(model)

    assert vars(report.size) == {
        "dense": 0,
        "gzip": 0,
        "bitmask": 0,
        "coo": 0,
        "scores": 16,
        "slots": 0,
    }
    assert report.other_bytes == 0


def test_report_says_how_much_of_the_budget_is_spent():
    sparse = with_scores(keras_gumbel.sparsify(sequential()))
    costs = {"hidden": 3.0, "out": 2.0}
    optimizer = ProjectedOptimizer("sgd", budget=30, costs=costs)
    sparse = with_scores(compiled(sparse, optimizer))
    hidden, out = scores_of(sparse)
    for scores in (hidden, out):
        scores.assign(scores * 0.1)

    report = keras_gumbel.sparsity_report(sparse)

    cost = 3 * flat([hidden]).sum() + 2 * flat([out]).sum()
    assert report.spent == pytest.approx(cost / 30)


def test_harden_warns_of_undecided_scores():
    sparse = compiled(keras_gumbel.sparsify(sequential()), budget=10)

    with pytest.warns(UserWarning, match="10 weights, .* of 42 are") as got:
        keras_gumbel.harden(sparse)

    (warning,) = (x for x in got if x.category is UserWarning)
    assert warning.filename == __file__
    assert "`score_optimizer`" in str(warning.message)


def test_harden_is_silent_where_scores_are_decided_or_the_budget_is_given():
    undecided = compiled(keras_gumbel.sparsify(sequential()), budget=10)
    decided = compiled(keras_gumbel.sparsify(sequential()), budget=20)

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        keras_gumbel.harden(undecided, budget=10)
        keras_gumbel.harden(decided)  # 42 for 20, less than 3 for each


def test_training_the_hardened_copy_leaves_the_model_usable():
    mask = ConcreteMask(temperature=LinearAnnealing(1.0, 0.5, steps=10))
    sparse = compiled(keras_gumbel.sparsify(sequential(), mask), density=0.5)
    hard = keras_gumbel.harden(sparse)
    before = values(sparse.variables)

    # Jitted, for it is then that JAX deletes what a step has read.
    hard.compile("sgd", loss="mse")
    hard.fit(X, X[:, :3], verbose=0)

    assert_same_values(values(sparse.variables), before)
