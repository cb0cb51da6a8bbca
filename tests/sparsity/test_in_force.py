"""Where masks are in force, and that one is drawn once a step."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gumbel as kg
from tests.sparsity import zoo


@zoo.register
class CountingMask(kg.masks.Mask):
    """Counts its draws in training."""

    def build(self, shape):
        super().build(shape)
        self.draws = self.add_weight(
            shape=(), dtype="int32", initializer="zeros", trainable=False
        )

    def draw(self, training=False):
        if training:
            self.draws.assign_add(1)
        return ops.convert_to_tensor(self.mask_scores)


def masks_of(model):
    return [
        mask
        for layer in model._flatten_layers()
        for mask in getattr(layer, "weight_masks", [])
    ]


def draws(model):
    return {int(ops.convert_to_numpy(m.draws)) for m in masks_of(model)}


def halve(model):
    """Sets half of the scores to 0 and the others to 1/2."""
    for mask in masks_of(model):
        shape = mask.mask_scores.shape
        half = 0.5 * (np.arange(np.prod(shape)).reshape(shape) % 2)
        mask.mask_scores.assign(half)
    return model


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


@pytest.mark.parametrize(
    "make", [zoo.shared_layer, zoo.tied, zoo.recurrent, zoo.own_call]
)
def test_one_mask_is_drawn_in_each_training_step(make):
    model, inputs = make()
    kg.sparsify(model, CountingMask())
    model.compile("sgd", loss="mse")

    model.fit(inputs, zoo.TARGETS[:, :1], batch_size=2, verbose=0)

    assert draws(model) == {4}


def test_a_direct_call_of_any_layer_sees_the_masks():
    model, _ = zoo.tied()
    halve(kg.sparsify(model))
    embeddings = numpy(model.embedding.embeddings).copy()
    (mask,) = model.embedding.weight_masks
    masked = embeddings * numpy(mask.mask_scores)
    hidden = np.ones((2, 6), "float32")

    looked_up = model.embedding(np.array([3, 7]))
    scores = model.heads["tied"](hidden)

    np.testing.assert_array_equal(numpy(looked_up), masked[[3, 7]])
    np.testing.assert_allclose(numpy(scores), hidden @ masked.T, rtol=1e-6)


def test_outside_of_calls_weights_are_as_they_are():
    model, inputs = zoo.sequential()
    kernel = model.layers[0].kernel
    before = numpy(kernel).copy()

    halve(kg.sparsify(model))
    model.predict(inputs, verbose=0)

    np.testing.assert_array_equal(numpy(kernel), before)
    np.testing.assert_array_equal(model.get_weights()[0], before)


@pytest.mark.parametrize("method", ["predict", "evaluate", "train_on_batch"])
def test_compiled_functions_see_the_masks(method):
    model, inputs = zoo.sequential()
    model.compile("sgd", loss="mse")
    plain = getattr(model, method)
    arguments = [inputs] if method == "predict" else [inputs, zoo.TARGETS]
    quiet = {} if method == "train_on_batch" else {"verbose": 0}
    dense = plain(*arguments, **quiet)

    halve(kg.sparsify(model))
    model.compile("sgd", loss="mse")
    masked = plain(*arguments, **quiet)

    assert not np.allclose(dense, masked)


def test_stateless_call_sees_the_masks():
    model, inputs = zoo.tied()
    halve(kg.sparsify(model))
    expected = numpy(model(inputs))

    outputs, _ = model.stateless_call(
        model.trainable_variables, model.non_trainable_variables, inputs
    )

    np.testing.assert_array_equal(numpy(outputs), expected)


def test_a_model_around_a_masked_one_sees_the_masks():
    model, inputs = zoo.sequential()
    halve(kg.sparsify(model))
    outer = keras.Sequential([keras.Input((6,)), model])

    np.testing.assert_array_equal(
        outer.predict(inputs, verbose=0), model.predict(inputs, verbose=0)
    )


def test_monte_carlo_model_draws_several_masks_a_step():
    model, inputs = zoo.sequential()
    kg.sparsify(model, kg.masks.ConcreteMask(seed=0))
    noisy = kg.models.MonteCarloModel(model, num_samples=3)
    noisy.compile("sgd", loss="mse")

    noisy.fit(inputs, zoo.TARGETS, batch_size=4, verbose=0)

    assert {int(numpy(m.step)) for m in masks_of(model)} == {2}


def test_gradients_reach_weights_and_scores_as_through_a_product():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(2)])
    halve(kg.sparsify(model))
    weight = numpy(model.layers[0].kernel).copy()
    (mask,) = masks_of(model)
    scores = numpy(mask.mask_scores).copy()
    model.compile(keras.optimizers.SGD(1.0), loss="mse", jit_compile=False)

    model.train_on_batch(zoo.FEATURES, zoo.TARGETS)

    errors = zoo.FEATURES @ (weight * scores) - zoo.TARGETS
    gradient = zoo.FEATURES.T @ errors * 2 / errors.size
    moved = weight - numpy(model.layers[0].kernel)
    np.testing.assert_allclose(moved, gradient * scores, rtol=1e-4, atol=1e-6)
    moved = scores - numpy(mask.mask_scores)
    np.testing.assert_allclose(moved, gradient * weight, rtol=1e-4, atol=1e-6)


def test_readers_of_another_dtype_read_the_masked_weight_in_theirs():
    embedding = layers.Embedding(12, 6, dtype="mixed_bfloat16")
    embedding.build(None)
    head = zoo.TiedHead(embedding, dtype="float32")
    head.built = True
    halve(kg.sparsify(head))
    (mask,) = embedding.weight_masks
    weight = numpy(embedding.embeddings) * numpy(mask.mask_scores)

    outputs = head(np.eye(6, dtype="float32"))

    np.testing.assert_array_equal(numpy(outputs), weight.T)
