"""Noise and steps in loops, branches, vectorized functions and cells."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_gumbel as kg
from keras_gumbel.layers import ConcreteMask
from keras_gumbel.layers import GumbelSoftmax
from keras_gumbel.layers import StraightThroughArgmax
from keras_gumbel.layers import SubsetSampler
from keras_gumbel.schedules import LinearAnnealing
from tests.gradients import gradient
from tests.gradients import to_numpy

BACKEND = keras.config.backend()
ROWS, STEPS, CLASSES = 64, 6, 8
EVEN = np.zeros((ROWS, CLASSES), "float32")
# Of the shape of what is stacked up, as TensorFlow wants it.
CARRY = ops.convert_to_tensor(EVEN)
ANNEALING = LinearAnnealing(2.0, 1.0, steps=10)
SAMPLERS = [
    lambda **options: GumbelSoftmax(hard=True, **options),
    lambda **options: StraightThroughArgmax(**options),
    lambda **options: SubsetSampler(1, **options),
]


@keras.saving.register_keras_serializable(package="tests")
class Cell(keras.layers.Layer):
    """A cell of a recurrent layer that feeds back what it samples."""

    def __init__(self, sampler, **kwargs):
        super().__init__(**kwargs)
        self.sampler = sampler
        self.state_size = self.output_size = CLASSES

    def build(self, input_shape):
        self.scale = self.add_weight(shape=(), initializer="ones")
        self.sampler.build(input_shape)

    def call(self, inputs, states, training=None):
        logits = self.scale * inputs + 0.0 * states[0]
        chosen = self.sampler(logits, training=training)
        return chosen, [chosen]


def recurrent(sampler):
    return keras.layers.RNN(Cell(sampler), return_sequences=True)


def repeats(samples):
    """Returns the share of pairs along the first axis that are the same."""
    samples = to_numpy(samples)
    first, last = samples[:-1], samples[1:]
    return float((first == last).all(-1).mean())


def steps_of(samples):
    return np.moveaxis(to_numpy(samples), 1, 0)


# Two draws out of eight are the same once in eight times: with 320 pairs,
# a share over 0.25 has a probability below 1e-9.
@pytest.mark.parametrize("make", SAMPLERS)
def test_every_time_step_of_a_cell_has_its_own_noise(make):
    layer = recurrent(make(seed=1))
    inputs = np.zeros((ROWS, STEPS, CLASSES), "float32")

    first = layer(inputs, training=True)
    second = layer(inputs, training=True)

    assert repeats(steps_of(first)) < 0.25
    assert repeats(np.stack([to_numpy(first), to_numpy(second)])) < 0.25


def test_predict_of_a_cell_samples_anew():
    model = keras.Sequential(
        [
            keras.Input((STEPS, CLASSES)),
            recurrent(GumbelSoftmax(hard=True, inference="sample", seed=1)),
        ]
    )
    inputs = np.zeros((ROWS, STEPS, CLASSES), "float32")

    first, second = (model.predict(inputs, verbose=0) for _ in range(2))

    assert repeats(steps_of(first)) < 0.25
    assert repeats(np.stack([first, second])) < 0.25


@pytest.mark.parametrize("eagerly", [True, False])
def test_cell_is_trained(eagerly):
    sampler = GumbelSoftmax(ANNEALING, seed=1)
    model = keras.Sequential(
        [keras.Input((STEPS, CLASSES)), recurrent(sampler)]
    )
    model.compile("sgd", loss="mse", run_eagerly=eagerly)
    inputs = np.zeros((8, STEPS, CLASSES), "float32")

    model.fit(inputs, inputs, batch_size=2, epochs=2, verbose=0)

    assert int(sampler.step) == 8
    drawn = to_numpy(sampler.seed_generator.state)[1]
    assert drawn >= 8


def drawn_in_scan(layer):
    def body(carry, _):
        return carry, layer(ops.zeros((ROWS, CLASSES)), training=True)

    return ops.scan(body, CARRY, length=STEPS)[1]


def drawn_in_fori_loop(layer):
    def body(i, found):
        sample = layer(ops.zeros((ROWS, CLASSES)), training=True)
        index = ops.reshape(ops.cast(i, "int32"), (1, 1))
        return ops.scatter_update(found, index, sample[None])

    zeros = ops.zeros((STEPS, ROWS, CLASSES))
    return ops.fori_loop(0, STEPS, body, zeros)


def drawn_in_while_loop(layer):
    def body(i, found):
        sample = layer(ops.zeros((ROWS, CLASSES)), training=True)
        index = ops.reshape(ops.cast(i, "int32"), (1, 1))
        return i + 1, ops.scatter_update(found, index, sample[None])

    zeros = ops.zeros((STEPS, ROWS, CLASSES))
    return ops.while_loop(lambda i, _: i < STEPS, body, (0, zeros))[1]


def drawn_in_nested_scans(layer):
    def body(carry, _):
        def inner(carry, _):
            return carry, layer(ops.zeros((ROWS, CLASSES)), training=True)

        return carry, ops.scan(inner, CARRY, length=2)[1]

    outer = ops.zeros((2, ROWS, CLASSES))
    found = ops.scan(body, outer, length=STEPS // 2)[1]
    return ops.reshape(found, (STEPS, ROWS, CLASSES))


def drawn_in_branches(layer):
    def draw():
        return layer(ops.zeros((ROWS, CLASSES)), training=True)

    true = ops.convert_to_tensor(True)
    return ops.stack([ops.cond(true, draw, draw) for _ in range(STEPS)])


def drawn_time_distributed(layer):
    return ops.moveaxis(
        keras.layers.TimeDistributed(layer)(
            np.zeros((ROWS, STEPS, CLASSES), "float32"), training=True
        ),
        1,
        0,
    )


LOOPS = [
    drawn_in_scan,
    drawn_in_fori_loop,
    drawn_in_while_loop,
    drawn_in_nested_scans,
    drawn_in_branches,
    drawn_time_distributed,
]


@pytest.mark.parametrize("draw", LOOPS)
def test_every_iteration_has_its_own_noise(draw):
    layer = GumbelSoftmax(hard=True, seed=1)
    layer.build((ROWS, CLASSES))

    first, second = draw(layer), draw(layer)

    assert repeats(first) < 0.25
    assert repeats(ops.stack([first, second])) < 0.25
    # Nothing that belongs to a trace has stayed in the layer.
    assert np.isfinite(to_numpy(layer(EVEN, training=True))).all()


def test_gradient_of_a_scan():
    layer = GumbelSoftmax(0.7, seed=1)
    layer.build((2, 3))
    logits = np.array([[0.3, -1.0, 0.5], [1.0, 0.0, 0.2]], "float32")

    def drawn(x):
        def body(carry, _):
            return carry, layer(x, training=True)

        return ops.scan(body, ops.zeros((2, 3)), length=3)[1]

    def loss(x):
        samples = drawn(x)
        return ops.sum(samples[..., 0] * samples[..., 1])

    (slope,) = gradient(loss, logits)
    layer = GumbelSoftmax(0.7, seed=1)
    layer.build((2, 3))
    samples = to_numpy(drawn(ops.convert_to_tensor(logits)))

    # d(y_0 y_1)/dx_k = y_0 y_1 (1[k = 0] + 1[k = 1] - 2 y_k) / temperature
    first, second = samples[..., :1], samples[..., 1:2]
    chosen = np.array([1.0, 1.0, 0.0]) - 2 * samples
    expected = (first * second * chosen).sum(0) / 0.7
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-6)


def test_noise_that_is_given_leaves_no_trace():
    noise = np.random.default_rng(0).gumbel(size=EVEN.shape).astype("float32")
    for make in [*SAMPLERS, lambda **o: GumbelSoftmax(ANNEALING, **o)]:
        layer = make(seed=1)
        layer.build(EVEN.shape)
        before = [to_numpy(v) for v in layer.variables]

        def body(carry, _, layer=layer):
            return carry, layer(EVEN, training=True, noise=noise)

        drawn = ops.scan(body, CARRY, length=2)[1]

        np.testing.assert_array_equal(to_numpy(drawn)[0], to_numpy(drawn)[1])
        for variable, value in zip(layer.variables, before, strict=True):
            np.testing.assert_array_equal(to_numpy(variable), value)


# Steps of training.


def called_twice(sampler):
    inputs = keras.Input((CLASSES,))
    x = keras.layers.Dense(CLASSES)(inputs)
    outputs = keras.layers.Add()([sampler(x), sampler(x)])
    return keras.Model(inputs, outputs)


def siamese(sampler):
    inputs = [keras.Input((CLASSES,)) for _ in range(2)]
    encoder = keras.Sequential([keras.layers.Dense(CLASSES), sampler])
    outputs = keras.layers.Subtract()([encoder(x) for x in inputs])
    return keras.Model(inputs[0], keras.Model(inputs, outputs)([inputs[0]] * 2))


def in_every_time_step(sampler):
    inputs = keras.Input((CLASSES,))
    x = keras.layers.RepeatVector(STEPS)(inputs)
    x = keras.layers.TimeDistributed(sampler)(keras.layers.Dense(CLASSES)(x))
    return keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(x))


def in_a_cell(sampler):
    inputs = keras.Input((CLASSES,))
    x = keras.layers.RepeatVector(STEPS)(inputs)
    x = keras.layers.RNN(Cell(sampler))(x)
    return keras.Model(inputs, x)


def monte_carlo(sampler):
    dense = keras.layers.Dense(CLASSES)
    model = keras.Sequential([keras.Input((CLASSES,)), dense, sampler])
    return kg.models.MonteCarloModel(model, num_samples=3)


USES = [called_twice, siamese, in_every_time_step, in_a_cell, monte_carlo]


@pytest.mark.parametrize("use", USES)
def test_a_step_is_a_step_of_training(use):
    sampler = GumbelSoftmax(ANNEALING, seed=1)
    model = use(sampler)
    together = 1 if BACKEND == "torch" else 2
    model.compile("sgd", loss="mse", steps_per_execution=together)

    model.fit(EVEN, EVEN, batch_size=16, verbose=0)

    assert int(sampler.step) == 4


@pytest.mark.parametrize("use", [called_twice, in_a_cell, monte_carlo])
def test_steps_are_updates_with_accumulated_gradients(use):
    sampler = GumbelSoftmax(LinearAnnealing(2.0, 1.0, steps=4), seed=1)
    model = use(sampler)
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    model.compile(optimizer, loss="mse")

    model.fit(EVEN, EVEN, batch_size=16, verbose=0)  # two updates

    assert float(sampler.current_temperature()) == pytest.approx(1.5)


def test_all_layers_are_at_the_same_step():
    first = ConcreteMask(temperature=ANNEALING, seed=1)
    second = GumbelSoftmax(ANNEALING, seed=2)
    inputs = keras.Input((CLASSES,))
    x = keras.layers.Dense(CLASSES)(second(first(second(inputs))))
    model = keras.Model(inputs, x)
    model.compile("sgd", loss="mse")

    model.fit(EVEN, EVEN, batch_size=16, epochs=2, verbose=0)

    assert int(first.step) == int(second.step) == 8


def test_calls_of_a_layer_alone_count():
    layer = GumbelSoftmax(ANNEALING, seed=1)
    for _ in range(3):
        layer(EVEN, training=True)
    layer(EVEN, training=False)

    assert int(layer.step) == 3


# Keys and rows.


@pytest.mark.parametrize("seed", ["generator", "integer"])
def test_rows_have_noise_of_their_own(seed):
    if BACKEND == "torch" and seed == "integer":
        pytest.skip("an integer is the same seed in all rows of torch")
    seed = keras.random.SeedGenerator(1) if seed == "generator" else 3
    rows = ops.zeros((512, 5))

    def function(x):
        return kg.ops.gumbel_softmax(x, seed=seed)

    if BACKEND == "jax":
        import jax

        found = jax.vmap(function)(rows)
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        found = tf.vectorized_map(function, rows)
    else:
        import torch

        found = torch.vmap(function, randomness="different")(rows)

    assert len(np.unique(to_numpy(found), axis=0)) == 512


@pytest.mark.backends("jax")
def test_keys_of_jax_are_seeds():
    import jax

    def drawn(seed):
        return to_numpy(kg.random.gumbel((4,), seed=seed))

    typed, raw = jax.random.key(7), jax.random.PRNGKey(7)
    np.testing.assert_array_equal(drawn(typed), drawn(raw))
    assert (drawn(typed) != drawn(jax.random.key(8))).all()
    number = jax.numpy.int32(3)
    np.testing.assert_array_equal(drawn(number), drawn(3))
    np.testing.assert_array_equal(to_numpy(jax.jit(drawn_of)(number)), drawn(3))
    keys = jax.random.split(typed, 6)
    rows = to_numpy(jax.vmap(drawn_of)(keys))
    np.testing.assert_array_equal(rows, np.stack([drawn(k) for k in keys]))
    for seed in (typed, raw, number):
        layer = GumbelSoftmax(seed=seed)
        assert isinstance(layer.get_config()["seed"], int)
    assert GumbelSoftmax(seed=number).seed == 3


def drawn_of(seed):
    return kg.random.gumbel((4,), seed=seed)


@pytest.mark.backends("jax")
def test_state_is_not_lost_in_a_compiled_function():
    import jax

    layer = GumbelSoftmax(seed=1)
    layer.build(EVEN.shape)

    with pytest.raises(RuntimeError, match="stateless_call.*`noise=`"):
        jax.jit(lambda x: layer(x, training=True))(EVEN)

    layer(EVEN, training=True)
