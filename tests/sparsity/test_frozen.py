"""Frozen, quantized and adapted layers."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gumbel as kg
from tests.sparsity import zoo
from tests.sparsity.test_any_model import assert_same
from tests.sparsity.test_any_model import masks_of
from tests.sparsity.test_any_model import predict


def transfer(trainable=False):
    base = keras.Sequential(
        [keras.Input((6,)), layers.Dense(8), layers.Dense(8)], name="base"
    )
    base.trainable = trainable
    inputs = keras.Input((6,))
    return keras.Model(inputs, layers.Dense(2, name="head")(base(inputs)))


def compiled(model, **limits):
    optimizer = kg.optimizers.ProjectedOptimizer("adam", **limits)
    model.compile(optimizer, loss="mse")
    return model


def fit(model):
    model.fit(zoo.FEATURES, zoo.TARGETS, batch_size=2, verbose=0)


@pytest.mark.one_backend
def test_a_base_that_was_frozen_before_is_not_masked():
    model = kg.sparsify(transfer())

    report = kg.sparsity_report(model)

    assert [row.name for row in report.rows] == ["head/kernel"]
    assert set(report.skipped.values()) == {"frozen"}
    names = [name.split("/")[0] for name in report.skipped]
    assert names == ["base", "base"]
    assert not model.get_layer("base").trainable


def test_a_base_that_is_frozen_later_keeps_all_its_weights():
    model = kg.sparsify(transfer(trainable=True))
    model.get_layer("base").trainable = False
    fit(compiled(model, density=0.5))

    kg.harden(model)

    report = kg.sparsity_report(model)
    assert (report.weights, report.kept) == (48 + 64 + 16, 48 + 64 + 8)
    kg.strip(model)
    base = model.get_layer("base")
    assert all(np.all(w != 0) for w in base.get_weights() if w.ndim > 1)


@pytest.mark.one_backend
def test_scores_frozen_later_count_in_no_budget():
    model = kg.sparsify(transfer(trainable=True))
    model.get_layer("base").trainable = False

    report = kg.sparsity_report(model)

    assert report.weights == 16
    assert list(report.skipped.values()) == ["frozen", "frozen"]
    assert list(kg.layer_densities(model, 0.5)) == ["head/kernel"]


def test_masks_alone_are_trained_on_frozen_weights():
    model = transfer()
    before = [w.copy() for w in model.get_weights()]

    kg.sparsify(model, freeze_weights=True)
    fit(compiled(model, density=0.5))
    kg.harden(model)

    assert kg.sparsity_report(model).kept == (48 + 64 + 16) // 2
    moved = {bool(np.ptp(np.asarray(m.mask_scores))) for m in masks_of(model)}
    assert moved == {True}
    kg.strip(model)
    assert not any(x.trainable for x in model._flatten_layers())
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(b, np.where(b == 0, 0, a))


def test_masks_alone_become_final_in_training():
    model = kg.sparsify(transfer(), freeze_weights=True)
    density = kg.schedules.CubicDensity(0.5, steps=4)

    fit(compiled(model, density=density))

    values = np.concatenate(
        [ops.convert_to_numpy(m.mask_scores).ravel() for m in masks_of(model)]
    )
    assert sorted(set(values)) == [0, 1]
    assert values.sum() == (48 + 64 + 16) // 2


@pytest.mark.backends("jax")  # elsewhere weights can be read
def test_ranked_masks_of_frozen_weights_are_to_be_hardened():
    model = kg.sparsify(transfer(trainable=True), "magnitude")
    for mask in masks_of(model):
        mask.parts[0].weight.trainable = False

    with pytest.raises(ValueError, match=r"call `keras_gumbel.harden"):
        fit(compiled(model, density=0.5))


@pytest.mark.one_backend
def test_weights_that_are_frozen_have_no_state_in_the_optimizer():
    model = kg.sparsify(transfer(), freeze_weights=True)
    compiled(model, density=0.5)
    model.optimizer.build(model.trainable_variables)

    slots = [
        v
        for v in model.optimizer.variables
        if len(v.shape) > 1 and "last_projection" not in v.path
    ]

    scores = [tuple(m.mask_scores.shape) for m in masks_of(model)]
    assert sorted(tuple(v.shape) for v in slots) == sorted(scores * 2)


@pytest.mark.one_backend
def test_masks_alone_need_half_more_than_weights_and_scores():
    model = keras.Sequential([keras.Input((32,)), layers.Dense(32)])
    kg.sparsify(model, freeze_weights=True, pretrained=True)
    compiled(model, density=kg.schedules.CubicDensity(0.5, steps=10))
    model.optimizer.build(model.trainable_variables)

    def size(variables):
        widths = [2 if v.dtype == "bfloat16" else 4 for v in variables]
        sizes = [np.prod(v.shape) for v in variables]
        return np.dot(widths, sizes)

    both = size(model.variables)
    assert size([*model.variables, *model.optimizer.variables]) < 1.51 * both


def test_training_of_masks_alone_continues_from_a_file(tmp_path):
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4)])
    model.build()
    kg.sparsify(model, freeze_weights=True, pretrained=True)
    compiled(model, density=kg.schedules.CubicDensity(0.5, steps=20))
    x = np.random.default_rng(0).normal(size=(12, 6)).astype("float32")
    y = x[:, :4]
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")

    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for one in (model, loaded):
        one.fit(x, y, batch_size=4, shuffle=False, verbose=0)

    (before,), (after,) = masks_of(model), masks_of(loaded)
    np.testing.assert_allclose(
        ops.convert_to_numpy(before.mask_scores),
        ops.convert_to_numpy(after.mask_scores),
        atol=1e-6,
    )


@pytest.mark.one_backend
def test_freezing_weights_leaves_other_masks_as_they_are():
    model = transfer(trainable=True)
    kg.sparsify(model, filters="head")
    kg.sparsify(model, filters="base", freeze_weights=True)

    assert [m.trainable for m in masks_of(model)] == [True] * 3


@pytest.mark.one_backend
def test_masks_of_frozen_weights_still_train_after_loading(tmp_path):
    model = kg.sparsify(transfer(), freeze_weights=True)
    model.get_layer("base").layers[0].weight_masks[0].trainable = False
    model.save(tmp_path / "model.keras")

    loaded = keras.saving.load_model(tmp_path / "model.keras")

    trained = [m.trainable for m in masks_of(loaded)]
    assert trained == [m.trainable for m in masks_of(model)]
    assert sorted(trained) == [False, True, True]


@pytest.mark.one_backend
@pytest.mark.parametrize("action", ["lora", "quantize", "quantize_model"])
def test_lora_and_quantization_ask_to_strip_first(action):
    model, inputs = zoo.sequential()
    kg.sparsify(model)
    dense = predict(model, inputs)
    actions = {
        "lora": lambda: model.layers[0].enable_lora(2),
        "quantize": lambda: model.layers[0].quantize("int8"),
        "quantize_model": lambda: model.quantize("int8"),
    }

    with pytest.raises(ValueError, match=r"keras_gumbel\.strip"):
        actions[action]()

    assert_same(predict(model, inputs), dense)


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_a_stripped_model_is_quantized_and_keeps_its_zeros(mode):
    model, _ = zoo.sequential()
    kg.strip(kg.harden(kg.sparsify(model), density=0.25))
    zeros = ops.convert_to_numpy(model.layers[0].kernel) == 0

    layer = model.layers[0]
    layer.quantize(mode)

    unit = predict(layer, np.eye(6, dtype="float32"))[0]
    bare = predict(layer, np.zeros((6, 6), "float32"))[0]
    assert zeros.sum() > 10
    assert np.all((unit - bare)[zeros] == 0)


@pytest.mark.one_backend
def test_a_stripped_model_takes_lora():
    model, inputs = zoo.sequential()
    kg.strip(kg.harden(kg.sparsify(model), density=0.25))
    before = predict(model, inputs)

    model.layers[0].enable_lora(2)

    assert_same(predict(model, inputs), before)
    assert len(model.layers[0].trainable_variables) == 3


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda layer: layer.enable_lora(2), "LoRA is enabled"),
        (lambda layer: layer.quantize("int8"), "quantized to int8"),
    ],
)
def test_layers_that_have_lora_or_are_quantized_are_left_out(change, reason):
    model, inputs = zoo.sequential()
    change(model.layers[0])
    before = predict(model, inputs)

    with pytest.warns(UserWarning, match=f"no mask on these weights.*{reason}"):
        kg.sparsify(model)

    report = kg.sparsity_report(model)
    assert len(report.rows) == 1
    assert reason in report.skipped.values()
    kg.strip(kg.harden(model, density=1.0))
    assert_same(predict(model, inputs), before)


@pytest.mark.one_backend
def test_spectral_normalization_is_left_out_with_its_reason():
    layer = layers.SpectralNormalization(layers.Dense(4))
    model = keras.Sequential([keras.Input((6,)), layer, layers.Dense(2)])

    with pytest.warns(UserWarning, match="SpectralNormalization writes"):
        kg.sparsify(model)

    assert kg.sparsity_report(model).weights == 8


@pytest.mark.one_backend
def test_masks_alone_are_learned_to_the_last_step():
    steps = 10
    density = kg.schedules.CubicDensity(0.5, steps)
    alone = kg.sparsify(transfer(), freeze_weights=True)
    both = kg.sparsify(transfer(trainable=True))

    for model in (alone, both):
        compiled(model, density=density)
        model.optimizer.build(model.trainable_variables)

    assert alone.optimizer.harden_step == steps
    assert both.optimizer.harden_step == 7


def test_masks_are_trained_on_weights_of_bfloat16():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(4, dtype="bfloat16")]
    )
    kernel = model.layers[0].kernel
    before = ops.convert_to_numpy(ops.cast(kernel, "float32"))
    x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    wanted = np.where(np.arange(8)[:, None] % 2, before, 0)

    kg.sparsify(model, freeze_weights=True, pretrained=True)
    assert keras.backend.standardize_dtype(kernel.dtype) == "bfloat16"
    compiled(model, density=kg.schedules.CubicDensity(0.5, steps=40))
    model.fit(x, x @ wanted, batch_size=16, epochs=10, verbose=0)
    kg.strip(model)

    after = ops.convert_to_numpy(ops.cast(kernel, "float32"))
    assert np.count_nonzero(after) == 16
    np.testing.assert_array_equal(after, np.where(after == 0, 0, before))
    assert np.square(after - wanted).sum() < 0.5 * np.square(wanted).sum()
