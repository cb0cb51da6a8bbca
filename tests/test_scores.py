import keras
import numpy as np
import pytest

import keras_gumbel
from keras_gumbel._scores import marked_scores
from keras_gumbel.layers import ConcreteMask
from keras_gumbel.layers import Sparsified
from keras_gumbel.optimizers import ProjectedOptimizer
from tests.contracts import save_and_load
from tests.contracts import values_of


@keras.saving.register_keras_serializable(package="tests")
class Gate(keras.layers.Layer):
    """A layer of a user, who marks a variable in `build`."""

    def build(self, input_shape):
        self.gate = self.add_weight(input_shape[-1:], "ones")
        self.bias = self.add_weight(input_shape[-1:], "zeros")
        keras_gumbel.mark_scores(self.gate)

    def call(self, inputs):
        return inputs * self.gate + self.bias


def gated_model():
    return keras.Sequential([keras.Input((4,)), Gate()])


def test_mark_scores_returns_the_variable():
    variable = keras.Variable([0.5, 0.5])

    assert keras_gumbel.mark_scores(variable) is variable
    assert values_of([variable])[0].tolist() == [0.5, 0.5]


def test_marked_scores_are_found_in_order():
    variables = [keras.Variable([float(i)]) for i in range(5)]

    for index in (3, 1):
        keras_gumbel.mark_scores(variables[index])
    found = marked_scores(variables)

    assert [id(v) for v in found] == [id(variables[1]), id(variables[3])]
    assert marked_scores([]) == []
    assert marked_scores(iter(variables[:1])) == []


def test_mark_scores_can_be_repeated():
    variable = keras.Variable([0.5])

    keras_gumbel.mark_scores(keras_gumbel.mark_scores(variable))

    assert [id(v) for v in marked_scores([variable])] == [id(variable)]


@pytest.mark.parametrize("fixed", [False, True])
def test_layers_mark_the_scores_they_train(fixed):
    mask = ConcreteMask(fixed=fixed)
    dense = Sparsified(keras.layers.Dense(2), fixed=fixed)

    for layer in (mask, dense):
        layer.build((None, 3))

        names = [v.name for v in marked_scores(layer.weights)]
        assert names == ([] if fixed else ["mask_scores"])


@pytest.mark.parametrize("copy", [save_and_load, keras.models.clone_model])
def test_mark_survives_copies_of_a_model(copy):
    model = gated_model()

    copied = copy(model)

    (scores,) = marked_scores(copied.weights)
    assert scores is copied.layers[0].gate
    assert scores is not model.layers[0].gate


def test_marked_variable_of_a_user_is_held_under_the_budget():
    model = gated_model()
    sgd = keras.optimizers.SGD(0.1)
    model.compile(ProjectedOptimizer(sgd, budget=2), "mse")

    model.train_on_batch(np.ones((1, 4)), np.full((1, 4), 9.0))

    gate, bias = values_of([model.layers[0].gate, model.layers[0].bias])
    assert gate.sum() <= 2.0
    assert gate.min() >= 0.0
    # Descent raises both; only what is marked is brought down again.
    assert bias.min() > 0.1
