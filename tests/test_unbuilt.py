"""Models that are built by their first training step.

TensorFlow builds them inside the function that it traces.
"""

import keras
import numpy as np
import pytest
from keras import ops

import keras_gumbel as kg

# JAX and torch build models before they trace, or do not trace.
pytestmark = pytest.mark.backends("tensorflow", "torch")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 6)).astype("float32")
Y = RNG.normal(size=(32, 3)).astype("float32")

SAMPLERS = {
    "GumbelSoftmax": lambda: kg.layers.GumbelSoftmax(
        kg.schedules.LinearAnnealing(1.0, 0.5, steps=8), seed=1
    ),
    "learn_temperature": lambda: kg.layers.GumbelSoftmax(
        learn_temperature=True, seed=1
    ),
    "StraightThroughArgmax": lambda: kg.layers.StraightThroughArgmax(seed=1),
    "SubsetSampler": lambda: kg.layers.SubsetSampler(2, seed=1),
}
GATES = {
    "ConcreteMask": lambda: kg.layers.ConcreteMask(seed=1),
    "LearnedMask": kg.masks.LearnedMask,
    "HardConcreteMask": lambda: kg.masks.HardConcreteMask(seed=1),
    "GaussianMask": lambda: kg.masks.GaussianMask(seed=1),
}


def _trained(make, optimizer, build, jit=False):
    model = keras.Sequential(
        [
            keras.layers.Dense(
                5, kernel_initializer=keras.initializers.GlorotUniform(1)
            ),
            make(),
            keras.layers.Dense(
                3, kernel_initializer=keras.initializers.GlorotUniform(2)
            ),
        ]
    )
    model.compile(optimizer, loss="mse", jit_compile=jit)
    if build:
        model.build((None, 6))
    model.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return model


def _assert_same(one, other):
    for a, b in zip(one.variables, other.variables, strict=True):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(a), ops.convert_to_numpy(b), err_msg=a.path
        )


@pytest.mark.parametrize("name", SAMPLERS)
def test_unbuilt_model_with_a_sampler_trains_as_a_built_one(name):
    built, unbuilt = (
        _trained(SAMPLERS[name], "adam", build) for build in (True, False)
    )

    _assert_same(built, unbuilt)


@pytest.mark.parametrize(
    "jit",
    [
        False,
        pytest.param(True, marks=pytest.mark.backends("jax", "tensorflow")),
    ],
)
@pytest.mark.parametrize("name", GATES)
def test_unbuilt_model_with_a_gate_trains_as_a_built_one(name, jit):
    # TensorFlow: "The shape of the target variable and the shape of the
    # target value in `variable.assign(value)` must match."
    built, unbuilt = (
        _trained(
            GATES[name],
            kg.optimizers.ProjectedOptimizer("adam", density=0.4),
            build,
            jit,
        )
        for build in (True, False)
    )

    _assert_same(built, unbuilt)
    (scores,) = (v for v in unbuilt.variables if v.path.endswith("mask_scores"))
    assert ops.convert_to_numpy(scores).astype("float64").sum() <= 0.4 * 5


class OwnGate(keras.layers.Layer):
    def build(self, input_shape):
        self.gates = kg.mark_scores(
            self.add_weight(shape=(input_shape[-1],), initializer="ones")
        )

    def call(self, inputs):
        return inputs * self.gates


def test_unbuilt_model_with_scores_of_its_own_keeps_to_the_budget():
    optimizer = kg.optimizers.ProjectedOptimizer("adam", density=0.4)

    model = _trained(OwnGate, optimizer, build=False)

    gates = ops.convert_to_numpy(model.layers[1].gates).astype("float64")
    assert 0 < gates.sum() <= 0.4 * 5
