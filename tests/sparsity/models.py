"""Small models with and without masks, and what is in them."""

import keras
import numpy as np
from keras import layers
from keras import ops

from keras_gumbel.optimizers import ProjectedOptimizer

X = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")


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


def build(name):
    return randomized(MODELS[name][0]())


def randomized(model, seed=0):
    """Gives a model weights that all matter."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        variable.assign(rng.uniform(0.1, 1.0, variable.shape))
    return model


def with_scores(model, seed=0):
    """Gives a model with masks scores that all differ."""
    rng = np.random.default_rng(seed)
    for scores in scores_of(model):
        scores.assign(rng.uniform(size=scores.shape))
    return model


def compiled(model, optimizer=None, **limits):
    optimizer = optimizer or ProjectedOptimizer("sgd", **limits)
    model.compile(optimizer, loss="mse", jit_compile=False)
    optimizer.build(model.trainable_variables)
    return model


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
    return {v.path: ops.convert_to_numpy(v).copy() for v in variables}


def assert_same_values(first, second):
    assert first.keys() == second.keys()
    for path in first:
        np.testing.assert_array_equal(first[path], second[path], err_msg=path)


def kernels_of(model):
    return [v for v in model.weights if v.path.endswith("kernel")]


def scores_of(model):
    return [v for v in model.variables if v.path.endswith("mask_scores")]


def finals_of(model):
    """The final masks of a hardened model."""
    return [v for v in model.variables if v.path.endswith("final_mask")]


def flat(variables):
    arrays = [ops.convert_to_numpy(v).ravel() for v in variables]
    return np.concatenate(arrays).astype("float64")


def every_layer(model):
    found = []
    for layer in model.layers:
        found.append(layer)
        if isinstance(layer, keras.Model):
            found += every_layer(layer)
    return found
