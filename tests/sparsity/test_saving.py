"""Files and copies of models with masks."""

import copy
import pickle

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
from tests.sparsity.test_in_force import halve


def trained(make, mask="learned", steps=8, **kwargs):
    """Returns a model that is half way through its schedule."""
    model, inputs = make()
    kg.sparsify(model, mask, **kwargs)
    model.compile(
        kg.optimizers.ProjectedOptimizer(
            "adam", density=kg.schedules.CubicDensity(0.3, steps=steps)
        ),
        loss="mse",
    )
    fit(model, inputs)
    return model, inputs


def fit(model, inputs):
    targets = np.zeros((8, *predict(model, inputs)[0].shape[1:]), "float32")
    model.fit(inputs, targets, batch_size=2, shuffle=False, verbose=0)


def saved_and_loaded(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return keras.saving.load_model(tmp_path / "model.keras")


@pytest.mark.parametrize(
    "make",
    [
        zoo.shared_layer,
        zoo.tied,
        pytest.param(zoo.custom_block, marks=pytest.mark.one_backend),
        pytest.param(zoo.own_call, marks=pytest.mark.one_backend),
    ],
)
def test_training_resumes_bit_for_bit(make, tmp_path):
    model, inputs = trained(make, kg.masks.ConcreteMask(seed=0))

    loaded = saved_and_loaded(model, tmp_path)
    fit(model, inputs)
    fit(loaded, inputs)

    assert type(loaded).__name__ == type(model).__name__
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_random_mask_resumes_with_its_ranking(tmp_path):
    model, inputs = trained(zoo.sequential, "random")

    loaded = saved_and_loaded(model, tmp_path)
    fit(model, inputs)
    fit(loaded, inputs)

    for a, b in zip(masks_of(model), masks_of(loaded), strict=True):
        np.testing.assert_array_equal(a.mask_scores, b.mask_scores)


def test_a_hardened_model_loads_with_its_mask_and_its_scores(tmp_path):
    model, inputs = trained(zoo.shared_layer)
    live = predict(model, inputs)
    kg.harden(model, density=0.2)

    loaded = saved_and_loaded(model, tmp_path)

    assert_same(predict(loaded, inputs), predict(model, inputs))
    assert kg.harden(loaded) is loaded
    assert kg.sparsity_report(loaded) == kg.sparsity_report(model)
    assert_same(predict(kg.soften(loaded), inputs), live)


@pytest.mark.parametrize("copied", [copy.deepcopy, "pickle", "clone"])
@pytest.mark.parametrize(
    "make",
    [
        zoo.sequential,
        pytest.param(zoo.shared_layer, marks=pytest.mark.one_backend),
        pytest.param(zoo.tied, marks=pytest.mark.one_backend),
    ],
)
def test_copies_have_masks_of_their_own(make, copied):
    model, inputs = trained(make)
    kinds = {
        "pickle": lambda m: pickle.loads(pickle.dumps(m)),
        "clone": clone,
    }

    other = kinds.get(copied, copied)(model)

    assert isinstance(other, zoo.Tied if make is zoo.tied else keras.Model)
    assert_same(predict(other, inputs), predict(model, inputs))
    for mask in masks_of(other):
        mask.mask_scores.assign(np.zeros(mask.mask_scores.shape))
    kg.strip(kg.harden(other, density=1.0))
    assert kg.sparsity_report(model).expected > 0


def clone(model):
    other = keras.models.clone_model(model)
    if not other.built or not other.weights:
        other(ops.convert_to_tensor(zoo.TOKENS))
    other.set_weights(model.get_weights())
    return other


@pytest.mark.one_backend
def test_copies_and_files_of_a_bare_layer(tmp_path):
    layer = layers.Dense(4)
    layer.build((None, 6))
    halve(kg.sparsify(layer))

    other = copy.deepcopy(layer)
    model = keras.Sequential([keras.Input((6,)), layer])
    loaded = saved_and_loaded(model, tmp_path)

    expected = predict(layer, zoo.FEATURES)
    assert_same(predict(other, zoo.FEATURES), expected)
    assert_same(predict(loaded, zoo.FEATURES), expected)
    assert len(masks_of(loaded)) == 1


@pytest.mark.one_backend
def test_weights_of_a_masked_model_do_not_load_into_a_plain_one(tmp_path):
    masked, _ = zoo.sequential()
    halve(kg.sparsify(masked))
    masked.save_weights(tmp_path / "masked.weights.h5")
    plain, inputs = zoo.sequential()
    before = predict(plain, inputs)

    with pytest.raises((KeyError, ValueError)):
        plain.load_weights(tmp_path / "masked.weights.h5")

    assert_same(predict(plain, inputs), before)


@pytest.mark.one_backend
def test_weights_of_a_plain_model_do_not_load_into_a_masked_one(tmp_path):
    plain, _ = zoo.sequential()
    plain.save_weights(tmp_path / "plain.weights.h5")
    masked, _ = zoo.sequential()
    kg.sparsify(masked)

    with pytest.raises(ValueError, match=r"before `keras_gumbel\.sparsify`"):
        masked.load_weights(tmp_path / "plain.weights.h5")


def test_weights_of_a_masked_model_load_into_another_one(tmp_path):
    first, inputs = trained(zoo.tied)
    first.save_weights(tmp_path / "masked.weights.h5")
    second, _ = zoo.tied()
    kg.sparsify(second)

    second.load_weights(tmp_path / "masked.weights.h5")

    assert_same(predict(second, inputs), predict(first, inputs))


def test_model_checkpoint_and_backup_go_on_as_if_nothing_had_happened(tmp_path):
    def run(epochs, interrupted=False):
        keras.utils.set_random_seed(1)
        model, inputs = zoo.sequential()
        kg.sparsify(model)
        model.compile(
            kg.optimizers.ProjectedOptimizer(
                "adam", density=kg.schedules.CubicDensity(0.3, steps=16)
            ),
            loss="mse",
        )
        callbacks = [
            keras.callbacks.BackupAndRestore(tmp_path / "backup"),
            keras.callbacks.ModelCheckpoint(tmp_path / "best.keras"),
        ]
        if interrupted:
            callbacks.append(Interrupt())
        model.fit(
            inputs,
            zoo.TARGETS,
            batch_size=2,
            epochs=epochs,
            shuffle=False,
            verbose=0,
            callbacks=callbacks,
        )
        return model

    straight = run(4)
    with pytest.raises(RuntimeError, match="interrupted"):
        run(4, interrupted=True)
    resumed = run(4)

    best = keras.saving.load_model(tmp_path / "best.keras")
    for model in (resumed, best):
        for a, b in zip(straight.weights, model.weights, strict=True):
            np.testing.assert_array_equal(a, b)


class Interrupt(keras.callbacks.Callback):
    """Stops after the second epoch, as a machine that goes away."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise RuntimeError("interrupted")


@pytest.mark.one_backend
def test_paths_of_scores_are_unique():
    model, _ = zoo.nested_with_equal_names()
    kg.sparsify(model)

    paths = [mask.mask_scores.path for mask in masks_of(model)]

    assert len(set(paths)) == 3


@pytest.mark.one_backend
def test_a_model_that_changed_since_it_was_saved_says_so():
    model, _ = zoo.sequential()
    config = kg.sparsify(model).get_config()
    config["masks"][0]["weight"][-1] = 7

    with pytest.raises(ValueError, match="was .*'Dense', 'kernel', 6, 7"):
        type(model).from_config(config)
