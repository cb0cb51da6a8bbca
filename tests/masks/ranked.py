"""A model of two layers, for masks that rank its weights."""

import keras
import numpy as np
from keras import layers

import keras_gumbel as kg
from tests.gradients import to_numpy

X = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
Y = np.random.default_rng(1).normal(size=(12, 3)).astype("float32")


def model_with(mask, **kwargs):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(6, name="dense"),
            layers.Dense(3, name="dense_1"),
        ]
    )
    return kg.sparsify(model, mask, **kwargs)


def train(model, steps=1, **limits):
    limits = limits or {"budget": 10}
    model.compile(
        kg.optimizers.ProjectedOptimizer(keras.optimizers.SGD(0.1), **limits),
        "mse",
        run_eagerly=keras.config.backend() != "jax",
    )
    for _ in range(steps):
        model.train_on_batch(X, Y)
    return model


def scores_of(model):
    return _flat(x.weight_masks[0].mask_scores for x in model.layers)


def kernels_of(model):
    return _flat(x.kernel for x in model.layers)


def _flat(variables):
    return np.concatenate([to_numpy(v).ravel() for v in variables])
