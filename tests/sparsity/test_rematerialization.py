"""Masks under layers that are computed again for the gradients."""

import contextlib

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gumbel as kg
from tests.gradients import gradient
from tests.sparsity import zoo
from tests.sparsity.test_in_force import halve
from tests.sparsity.test_in_force import masks_of

# On TensorFlow, Keras itself cannot rematerialize these layers.
pytestmark = pytest.mark.backends("jax", "torch")

SCOPES = {
    "none": contextlib.nullcontext,
    "full": lambda: keras.RematScope("full"),
    "activations": lambda: keras.RematScope("activations"),
    "larger_than": lambda: keras.RematScope(
        "larger_than", output_size_threshold=1
    ),
    "list_of_layers": lambda: keras.RematScope(
        "list_of_layers", layer_names=["hidden", "block"]
    ),
}


def network(scope):
    keras.utils.set_random_seed(0)
    with SCOPES[scope]():
        inputs = keras.Input((5, 6))
        hidden = layers.Dense(6, activation="tanh", name="hidden")(inputs)
        hidden = zoo.Block(6, name="block")(hidden)
        return keras.Model(inputs, layers.Dense(2, name="out")(hidden))


def subclassed(scope):
    keras.utils.set_random_seed(0)
    with SCOPES[scope]():
        model = zoo.Tied()
        model(zoo.TOKENS)
    return model


def gradients(model, inputs):
    inputs = ops.convert_to_tensor(inputs)

    def loss(*variables):
        outputs, _ = model.stateless_call(
            list(variables),
            model.non_trainable_variables,
            inputs,
            training=True,
        )
        return ops.mean(ops.square(outputs))

    values = [ops.convert_to_numpy(v) for v in model.trainable_variables]
    return gradient(loss, *values, jit=keras.config.backend() == "jax")


@pytest.mark.parametrize(
    ("make", "inputs", "scope", "mask"),
    [
        (network, zoo.SERIES, "full", "learned"),
        (network, zoo.SERIES, "full", "concrete"),
        (network, zoo.SERIES, "activations", "learned"),
        (network, zoo.SERIES, "larger_than", "learned"),
        (network, zoo.SERIES, "list_of_layers", "learned"),
        (subclassed, zoo.TOKENS, "full", "learned"),
    ],
)
def test_gradients_are_those_without(make, inputs, scope, mask):
    plain, again = make("none"), make(scope)

    found = [
        gradients(halve(kg.sparsify(m, mask, seed=0)), inputs)
        for m in (plain, again)
    ]

    for expected, actual in zip(*found, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.backends("torch")
def test_a_step_counts_once_in_an_eager_training_step():
    model = network("full")
    kg.sparsify(model, kg.masks.ConcreteMask(seed=0))
    model.compile("sgd", loss="mse")

    model.fit(zoo.SERIES, np.zeros((8, 5, 2)), batch_size=4, verbose=0)

    steps = {int(ops.convert_to_numpy(m.step)) for m in masks_of(model)}
    assert steps == {2}
