"""A final mask stays as it is when a part of the model leaves training."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gumbel as kg
from tests.sparsity.models import predictions
from tests.sparsity.models import scores_of

X = np.random.default_rng(0).normal(size=(96, 8)).astype("float32")
Y = (X[:, :3] + X[:, 3:6]).astype("float32")


def mlp():
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(16, "relu", name="hidden"),
            layers.Dense(4, name="out"),
            layers.Dense(3, name="last"),
        ]
    )


def trained(model, density=0.25, epochs=2, **options):
    """Trains until the mask is final."""
    optimizer = kg.optimizers.ProjectedOptimizer(
        "adam", density=density, harden_step=4, **options
    )
    model.compile(optimizer, "mse")
    model.fit(X, Y, batch_size=16, epochs=epochs, verbose=0)
    assert optimizer.is_final()
    return model


def kept(model):
    return {row.name: row.kept for row in kg.sparsity_report(model).rows}


def stripped_kept(model):
    return {
        f"{layer.name}/kernel": int(np.count_nonzero(layer.get_weights()[0]))
        for layer in model.layers
    }


GRANULARITIES = ["weight", "unit", "2:4", "fan_in"]


@pytest.mark.one_backend
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_hardened_layer_keeps_its_mask_while_others_are_trained(granularity):
    model = kg.sparsify(mlp(), granularity=granularity)
    kg.harden(model.get_layer("hidden"), density=0.5)
    before = kept(model)["hidden/kernel"]
    trained(model)
    reported, outputs = kept(model), predictions(model, X)

    kg.strip(model)

    assert reported["hidden/kernel"] == before == 64
    assert stripped_kept(model) == reported
    np.testing.assert_array_equal(predictions(model, X), outputs)


@pytest.mark.one_backend
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("part", ["hidden", "out"])
def test_model_is_stripped_part_by_part(granularity, part):
    model = trained(kg.sparsify(mlp(), granularity=granularity))
    all_kept, outputs = kept(model), predictions(model, X)

    kg.strip(model.get_layer(part))
    rest = kept(model)
    used = kg.sparsity_report(model).budget_used
    kg.strip(model)

    del all_kept[f"{part}/kernel"]
    assert rest == all_kept
    assert used <= 1.0
    np.testing.assert_array_equal(predictions(model, X), outputs)


LIMITS = {
    "one": {"density": 0.25},
    "several": {"density": {"hidden/kernel": 0.25, "out|last": 0.5}},
    "costs": {"density": 0.25, "costs": {"hidden/kernel": 2.0}},
}


# JAX needs another optimizer for other variables.
@pytest.mark.backends("tensorflow", "torch")
@pytest.mark.parametrize("case", LIMITS)
def test_final_mask_stays_when_a_layer_is_frozen(case):
    model = trained(kg.sparsify(mlp()), **LIMITS[case])
    masks = [ops.convert_to_numpy(v) for v in scores_of(model)]

    model.get_layer("hidden").trainable = False
    model.fit(X, Y, batch_size=16, verbose=0)

    for variable, mask in zip(scores_of(model), masks, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), mask)
    outputs = predictions(model, X)
    kg.strip(model)
    np.testing.assert_array_equal(predictions(model, X), outputs)


@pytest.mark.one_backend
def test_scores_of_an_earlier_step_come_under_the_budget_beside_frozen_ones():
    model = trained(kg.sparsify(mlp()))
    model.get_layer("hidden").trainable = False
    for variable in scores_of(model)[1:]:
        variable.assign(ops.ones_like(variable))

    model.fit(X, Y, batch_size=16, verbose=0)

    assert sum(kept(model).values()) == (64 + 12) // 4


@pytest.mark.one_backend
def test_frozen_layer_may_have_a_budget_and_a_cost_of_its_own():
    model = kg.sparsify(mlp())
    optimizer = kg.optimizers.ProjectedOptimizer(
        "adam",
        density={"hidden/kernel": 0.5, "out|last": 0.25},
        costs={"hidden": 2.0},
    )
    model.compile(optimizer, "mse")
    model.fit(X, Y, verbose=0)

    model.get_layer("hidden").trainable = False
    model.fit(X, Y, verbose=0)

    assert optimizer.current_budget() == (64 + 12) / 4
