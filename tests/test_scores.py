import keras
import numpy as np
import pytest
from keras import ops

import keras_gumbel
from keras_gumbel._scores import mark_of
from keras_gumbel._scores import marked_scores
from keras_gumbel._scores import name_of
from keras_gumbel._scores import rename
from keras_gumbel._scores import saliency_of
from keras_gumbel._scores import set_mark
from keras_gumbel.optimizers import ProjectedOptimizer
from tests.contracts import save_and_load
from tests.contracts import values_of
from tests.gradients import to_numpy


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


@pytest.mark.parametrize("name", ["learned", "concrete", "gaussian"])
def test_masks_mark_their_scores(name):
    mask, dense = keras_gumbel.masks.get(name), keras.layers.Dense(2)
    for layer in (mask, dense):
        layer.build((None, 3))
    keras_gumbel.sparsify(dense, name)

    for layer in (mask, dense):
        marked = marked_scores(layer.weights)
        assert [v.name for v in marked] == ["mask_scores"]


def test_mark_says_how_many_weights_share_a_score():
    variable = keras.Variable([0.5, 0.5])

    keras_gumbel.mark_scores(variable, weights_per_score=3, rows=(1, 0))

    mark = mark_of(variable)
    assert (mark.weights_per_score, mark.rows, mark.ranked) == (
        3,
        (1, 0),
        False,
    )


def test_mark_with_saliency_is_of_ranked_scores():
    variable = keras.Variable([0.5, 0.5])

    keras_gumbel.mark_scores(variable, saliency=lambda: ops.ones(2))

    assert mark_of(variable).ranked
    assert to_numpy(saliency_of(variable)).tolist() == [1.0, 1.0]


def test_scores_of_unknown_saliency_are_all_alike():
    variable = keras_gumbel.mark_scores(keras.Variable([0.5, 0.7]))

    assert to_numpy(saliency_of(variable)).tolist() == [0.0, 0.0]


def test_name_of_scores_is_their_path_until_they_are_renamed():
    variable = keras_gumbel.mark_scores(keras.Variable([0.5], name="gate"))
    before = name_of(variable)

    rename(variable, "encoder/gate")

    assert before == variable.path
    assert name_of(variable) == "encoder/gate"


def test_mark_is_taken_away():
    variable = keras_gumbel.mark_scores(keras.Variable([0.5]))

    set_mark(variable, None)

    assert marked_scores([variable]) == []


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
