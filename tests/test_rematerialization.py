"""Noise is that of the forward pass where a part of it is computed again."""

import contextlib
import functools

import keras
import numpy as np
import pytest
from keras import ops

import keras_gumbel as kg
from keras_gumbel.layers import ConcreteMask
from keras_gumbel.layers import GumbelSoftmax
from keras_gumbel.layers import StraightThroughArgmax
from keras_gumbel.layers import SubsetSampler
from keras_gumbel.masks import GaussianMask
from keras_gumbel.masks import HardConcreteMask
from keras_gumbel.schedules import LinearAnnealing
from tests.gradients import gradient
from tests.gradients import to_numpy
from tests.newer_keras import require_keras

BACKEND = keras.config.backend()
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(5, 6)).astype("float32")
WEIGHTS = RNG.normal(size=(5, 6)).astype("float32")
ANNEALING = LinearAnnealing(2.0, 0.1, steps=2)

SAMPLERS = {
    "gumbel_softmax": functools.partial(GumbelSoftmax, 0.7),
    "annealed": functools.partial(GumbelSoftmax, ANNEALING),
    "hard": functools.partial(GumbelSoftmax, 0.7, hard=True),
    "argmax": functools.partial(StraightThroughArgmax, 0.7),
    "reinmax": functools.partial(StraightThroughArgmax, estimator="reinmax"),
    "rao": functools.partial(StraightThroughArgmax, estimator="gumbel_rao"),
    "high": functools.partial(GumbelSoftmax, precision="high"),
    "simple": functools.partial(SubsetSampler, 2),
    "top_k": functools.partial(
        SubsetSampler, 2, 0.7, estimator="relaxed_top_k", hard=False
    ),
    "concrete": functools.partial(
        ConcreteMask, temperature=ANNEALING, scores_initializer="random_uniform"
    ),
    "hard_concrete": functools.partial(HardConcreteMask, 0.7),
    "gaussian": GaussianMask,
}


def checkpoint(function, reentrant=False):
    import torch

    def call(*args):
        return torch.utils.checkpoint.checkpoint(
            function, *args, use_reentrant=reentrant
        )

    return call


def reentrant_checkpoint(function):
    return checkpoint(function, reentrant=True)


def recompute_grad(function):
    import tensorflow as tf

    return tf.recompute_grad(function)


WAYS = {
    "torch": [
        keras.remat,
        checkpoint,
        reentrant_checkpoint,
    ],
    "tensorflow": [keras.remat, recompute_grad],
    "jax": [keras.remat],  # which is `jax.checkpoint`
}[BACKEND]


def made(name):
    if name in ("concrete", "hard_concrete", "gaussian"):
        scores = keras.initializers.RandomUniform(0.2, 0.8, seed=1)
        layer = SAMPLERS[name](scores_initializer=scores, seed=3)
    else:
        layer = SAMPLERS[name](seed=3)
    layer.build(LOGITS.shape)
    return layer


def loss_of(layer, around=lambda function: function, calls=1):
    """Returns a loss of several calls, each of which is computed again."""

    weights = ops.convert_to_tensor(WEIGHTS)

    def loss(x):
        total = 0.0
        for i in range(calls):
            block = around(lambda x: layer(ops.tanh(x), training=True))
            total = total + ops.sum(ops.square(block(x + i)) * weights)
        return total

    return loss


def slope(loss):
    """Differentiates a loss, on torch by a whole backward pass."""
    if BACKEND != "torch":
        return gradient(loss, LOGITS)[0]
    x = ops.convert_to_tensor(LOGITS).clone().requires_grad_()
    loss(x).backward()
    return to_numpy(x.grad)


def state_of(layer):
    return [to_numpy(v) for v in layer.non_trainable_variables]


@pytest.mark.parametrize("around", WAYS)
@pytest.mark.parametrize(
    "name",
    # On JAX, each is compiled.
    SAMPLERS if BACKEND != "jax" else ["annealed", "concrete"],
)
def test_gradient_is_at_the_noise_of_the_forward_pass(name, around):
    plain, layer = made(name), made(name)

    expected = slope(loss_of(plain, calls=2))
    found = slope(loss_of(layer, around, 2))

    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(expected).max() > 0.01
    for one, other in zip(state_of(plain), state_of(layer), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("around", WAYS)
def test_functions_repeat_their_noise(around):
    weights = ops.convert_to_tensor(WEIGHTS)

    def loss(seed, around):
        def block(x):
            return kg.ops.gumbel_softmax(ops.tanh(x), 0.7, seed=seed)

        return lambda x: ops.sum(ops.square(around(block)(x)) * weights)

    seeds = [keras.random.SeedGenerator(4) for _ in range(2)]

    expected = slope(loss(seeds[0], lambda block: block))
    found = slope(loss(seeds[1], around))

    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def masked_dense():
    dense = keras.layers.Dense(
        6, kernel_initializer=keras.initializers.GlorotUniform(seed=1)
    )
    model = keras.Sequential([keras.Input(LOGITS.shape[1:]), dense])
    kg.sparsify(model, ConcreteMask(temperature=ANNEALING), seed=3)
    (mask,) = dense.weight_masks
    mask.mask_scores.assign(np.full(mask.mask_scores.shape, 0.5))
    return dense


@pytest.mark.parametrize("around", WAYS)
def test_masks_of_weights_are_repeated(around):
    expected = slope(loss_of(masked_dense(), calls=2))
    found = slope(loss_of(masked_dense(), around, 2))

    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.backends("torch")
def test_unknown_noise_is_an_error():
    import torch

    layer = made("gumbel_softmax")
    x = ops.convert_to_tensor(LOGITS).clone().requires_grad_()
    y = torch.utils.checkpoint.checkpoint(
        lambda x: layer(x, training=True),
        x,
        use_reentrant=False,
        preserve_rng_state=False,
    )

    with pytest.raises(RuntimeError, match="`preserve_rng_state=True`"):
        y.square().sum().backward()


@pytest.mark.backends("tensorflow")
def test_loop_that_is_repeated_is_an_error():
    import tensorflow as tf

    layer = made("gumbel_softmax")

    def block(x):
        return tf.while_loop(
            lambda i, x: i < 3,
            lambda i, x: (i + 1, layer(x, training=True)),
            (0, x),
        )[1]

    def loss(x):
        return ops.sum(ops.square(tf.recompute_grad(block)(x)))

    with pytest.raises(RuntimeError, match="as in a loop.*`noise=`"):
        gradient(loss, LOGITS, jit=True)
    assert np.isfinite(gradient(loss, LOGITS)[0]).all()


class Block(keras.layers.Layer):
    """A part of a model that is computed again, or is not."""

    def __init__(self, sampler, around, **kwargs):
        super().__init__(**kwargs)
        self.sampler = sampler
        self.dense = keras.layers.Dense(6, activation="tanh")
        self.around = around

    def build(self, input_shape):
        self.dense.build(input_shape)
        self.sampler.build((*input_shape[:-1], 6))

    def call(self, inputs, training=None):
        def block(x):
            return self.sampler(self.dense(x), training=training)

        return self.around(block)(inputs)


def fitted(layers, **options):
    """Trains a model, and returns its weights and the state of its noise."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), *layers()])
    model.compile(keras.optimizers.SGD(0.5), loss="mse", **options)
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(24, 4)), rng.normal(size=(24, 1))
    model.fit(x, y, batch_size=8, epochs=2, verbose=0)
    return [to_numpy(v) for v in model.variables]


@pytest.mark.parametrize("eagerly", [True, False])
@pytest.mark.parametrize("name", ["annealed", "concrete"])
def test_fit_repeats_noise(name, eagerly):
    def layers(around):
        return [Block(SAMPLERS[name](seed=3), around), keras.layers.Dense(1)]

    plain = fitted(lambda: layers(lambda f: f), run_eagerly=eagerly)
    repeated = fitted(lambda: layers(keras.remat), run_eagerly=eagerly)

    for one, other in zip(plain, repeated, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


# On JAX and in graphs of TensorFlow, Keras itself cannot run it.
@pytest.mark.backends("torch", "tensorflow")
@pytest.mark.parametrize("mode", ["full", "list_of_layers", "larger_than"])
def test_scope_repeats_noise(mode):
    require_keras("3.15", "`RematScope` that passes `training` on")

    def layers(scope):
        with scope:
            sampler = SAMPLERS["annealed"](seed=3, name="sampler")
        return [keras.layers.Dense(6), sampler, keras.layers.Dense(1)]

    scope = keras.RematScope(
        mode, output_size_threshold=1, layer_names=["sampler"]
    )

    plain = fitted(lambda: layers(contextlib.nullcontext()), run_eagerly=True)
    repeated = fitted(lambda: layers(scope), run_eagerly=True)

    for one, other in zip(plain, repeated, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
