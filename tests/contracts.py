"""What a Keras user may expect of every layer of the package.

A check takes `make`, which builds a new layer and may be given a `seed`, and
a batch of inputs. It raises if the layer does not keep the promise.
"""

import contextlib
import inspect
import itertools
import json
import pathlib
import tempfile
from unittest import mock

import keras
import numpy as np
from keras import ops

from tests.gradients import gradient
from tests.gradients import to_numpy


def values_of(variables):
    """Returns copies of the values of variables."""
    return [to_numpy(ops.convert_to_tensor(v)) for v in variables]


def step_counters(layer):
    """Returns the variables in which a layer counts its training calls."""
    return [v for v in layer.weights if v.name == "step"]


def save_and_load(model):
    """Returns the model that comes back from a `.keras` file."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.keras"
        model.save(path)
        return keras.models.load_model(path)


@contextlib.contextmanager
def dtype_policy(policy):
    """Sets the global dtype policy for a while."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def check_config_round_trip(make, inputs):
    layer = make()
    arguments = [
        p.name
        for p in inspect.signature(type(layer)).parameters.values()
        if p.kind is not p.VAR_KEYWORD
    ]

    config = layer.get_config()
    json.dumps(config)
    again = type(layer).from_config(config)

    assert set(arguments) <= set(layer.get_config())
    assert again.get_config() == layer.get_config()
    for name in arguments:
        one, other = (
            keras.saving.serialize_keras_object(getattr(x, name))
            for x in (layer, again)
        )
        assert one == other, name


def check_saving(make, inputs):
    model = keras.Sequential([make()])
    for _ in range(2):
        model(inputs, training=True)

    loaded = save_and_load(model)

    saved, restored = values_of(model.variables), values_of(loaded.variables)
    for one, other in zip(saved, restored, strict=True):
        np.testing.assert_array_equal(one, other)
    for training in (False, True):
        np.testing.assert_array_equal(
            to_numpy(model(inputs, training=training)),
            to_numpy(loaded(inputs, training=training)),
        )


def check_symbolic_call(make, inputs):
    for policy in ("float32", "mixed_float16"):
        with dtype_policy(policy):
            symbol = make()(keras.Input(inputs.shape[1:], dtype=inputs.dtype))
            output = make()(inputs)

        assert symbol.shape == (None, *output.shape[1:])
        assert symbol.dtype == keras.backend.standardize_dtype(output.dtype)


def check_dtype_policies(make, inputs):
    for policy in ("float32", "mixed_float16", "mixed_bfloat16", "float16"):
        with dtype_policy(policy):
            layer = make()
            outputs = [layer(inputs, training=t) for t in (False, True)]

        for output in outputs:
            dtype = keras.backend.standardize_dtype(output.dtype)
            assert dtype == layer.compute_dtype, policy
            assert np.isfinite(to_numpy(output)).all(), policy
        for variable in layer.weights:
            if variable.name == "mask_scores":
                assert variable.dtype == "float32", policy


def check_fit_compiled(make, inputs):
    _check_fit(make, inputs, steps=2, jit_compile=True)


def check_fit_uncompiled(make, inputs):
    _check_fit(make, inputs, steps=2, jit_compile=False)


def check_fit_eagerly(make, inputs):
    _check_fit(make, inputs, steps=1, run_eagerly=True)


def _check_fit(make, inputs, steps, **options):
    """Every trainable variable moves, and what has a temperature counts."""
    layer = make()
    # A layer in front shows whether the gradient passes through this one.
    floating = np.issubdtype(inputs.dtype, np.floating)
    front = [keras.layers.Dense(inputs.shape[-1])] if floating else []
    model = keras.Sequential([keras.Input(inputs.shape[1:]), *front, layer])
    targets = np.full(model.compute_output_shape(inputs.shape), 2.0)
    model.compile(keras.optimizers.SGD(1.0), "mse", **options)
    before = values_of(model.trainable_variables)

    model.fit(inputs, targets, batch_size=len(inputs) // steps, verbose=0)

    after = values_of(model.trainable_variables)
    moved = [(a != b).any() for a, b in zip(after, before, strict=True)]
    assert all(moved), [v.path for v in model.trainable_variables]
    assert all(np.isfinite(value).all() for value in after)
    counting = [hasattr(x, "temperature") for x in layer._flatten_layers()]
    assert values_of(step_counters(layer)) == [steps] * sum(counting)


def check_same_seed_same_draws(make, inputs):
    one, other = make(seed=1), make(seed=1)

    for _ in range(2):
        np.testing.assert_array_equal(
            to_numpy(one(inputs, training=True)),
            to_numpy(other(inputs, training=True)),
        )


def check_other_seed_other_draws(make, inputs):
    one = make(seed=1)(inputs, training=True)
    other = make(seed=2)(inputs, training=True)

    assert (to_numpy(one) != to_numpy(other)).any()


def check_training_draws_anew(make, inputs):
    layer = make()

    first, second = (to_numpy(layer(inputs, training=True)) for _ in range(2))

    assert (first != second).any()


def check_inference_is_deterministic(make, inputs):
    layer = make()

    first, second = (to_numpy(layer(inputs, training=False)) for _ in range(2))

    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, to_numpy(layer(inputs)))


def check_inference_changes_no_state(make, inputs):
    layer = make()
    layer(inputs, training=True)
    before = values_of(layer.variables)

    layer(inputs, training=False)
    layer(inputs)

    for old, new in zip(before, values_of(layer.variables), strict=True):
        np.testing.assert_array_equal(old, new)


def check_inference_has_no_random_op(make, inputs):
    layer = make()
    layer(inputs)
    seeds = keras.random.SeedGenerator

    with mock.patch.object(seeds, "next", side_effect=AssertionError("drew")):
        layer(inputs, training=False)

    assert "random" not in _graph_of(layer, inputs).lower()


def _graph_of(layer, inputs):
    """Returns the traced inference as text; empty where nothing is traced."""
    if keras.config.backend() == "jax":
        import jax

        def infer(values, x):
            state = zip(layer.variables, values, strict=True)
            with keras.StatelessScope(state):
                return layer(x, training=False)

        values = [v.value for v in layer.variables]
        return str(jax.make_jaxpr(infer)(values, inputs))
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        traced = tf.function(lambda x: layer(x, training=False))
        # Nested functions are part of the definition.
        return str(traced.get_concrete_function(inputs).graph.as_graph_def())
    return ""


def check_mask_propagation(make, inputs):
    floating = np.issubdtype(inputs.dtype, np.floating)
    source = keras.layers.Masking() if floating else keras.layers.Identity()
    layer, probe = make(), MaskProbe()
    entrance = keras.Input(inputs.shape[1:], dtype=inputs.dtype)
    model = keras.Model(entrance, probe(layer(source(entrance))))

    eager = probe(layer(source(inputs)))

    expected = inputs.any(axis=-1) if floating else inputs != 0
    assert not expected.all()
    np.testing.assert_array_equal(to_numpy(eager), expected)
    np.testing.assert_array_equal(to_numpy(model(inputs)), expected)


class MaskProbe(keras.layers.Layer):
    """Returns the mask that its input carries, as numbers."""

    def __init__(self):
        super().__init__()
        self.supports_masking = True

    def call(self, inputs, mask=None):
        assert mask is not None, "no mask arrived"
        return ops.cast(mask, "float32")


def check_models(make, inputs):
    layer = make()
    entrance = keras.Input(inputs.shape[1:], dtype=inputs.dtype)
    functional = keras.Model(entrance, layer(entrance))
    sequential = keras.Sequential([layer])

    expected = to_numpy(layer(inputs))

    for model in (functional, sequential):
        np.testing.assert_array_equal(to_numpy(model(inputs)), expected)
        assert len(model.weights) == len(layer.weights)


def check_two_calls_are_one_step(make, inputs):
    layer = make()
    entrance = keras.Input(inputs.shape[1:], dtype=inputs.dtype)
    model = keras.Model(entrance, [layer(entrance), layer(entrance)])

    for _ in range(2):
        model(inputs, training=True)

    counters = values_of(step_counters(layer))
    assert all(counter == 2 for counter in counters)


def check_given_noise_leaves_no_trace(make, inputs):
    layer = make()
    layer(inputs)
    if "noise" not in inspect.signature(layer.call).parameters:
        return
    before = values_of(layer.variables)

    drawn = [
        to_numpy(layer(inputs, training=True, noise=np.ones_like(inputs)))
        for _ in range(2)
    ]

    np.testing.assert_array_equal(*drawn)
    for old, new in zip(before, values_of(layer.variables), strict=True):
        np.testing.assert_array_equal(old, new)


def check_cell_draws_in_every_time_step(make, inputs):
    layer = make()
    layer(inputs)
    recurrent = keras.layers.RNN(_Cell(layer), return_sequences=True)
    steps = np.stack([inputs] * 3, axis=1)

    first, second = (to_numpy(recurrent(steps, training=True)) for _ in "12")

    for one, other in itertools.combinations(
        [*np.moveaxis(first, 1, 0), *np.moveaxis(second, 1, 0)], 2
    ):
        assert (one != other).any()
    # Nothing that belongs to a trace stays in the layer.
    assert np.isfinite(to_numpy(layer(inputs, training=True))).all()


class _Cell(keras.layers.Layer):
    """A cell that keeps no state of its own."""

    state_size = 1

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.built = True

    def call(self, inputs, states, training=None):
        return self.layer(inputs, training=training), states


def check_rematerialization_repeats_noise(make, inputs):
    def loss_of(layer, around):
        def block(scale):
            y = ops.cast(layer(inputs, training=True), "float32")
            return ops.sum(ops.square(scale * y))

        return lambda scale: around(block)(scale)

    plain, again = make(), make()
    for layer in (plain, again):
        layer(inputs)

    (expected,) = gradient(loss_of(plain, lambda block: block), 1.0)
    (found,) = gradient(loss_of(again, keras.remat), 1.0)

    np.testing.assert_allclose(found, expected, rtol=1e-6)
    for one, other in zip(
        values_of(plain.variables), values_of(again.variables), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def check_variable_counts(make, inputs, trainable, non_trainable, seeds):
    layer = make()

    layer(inputs, training=True)

    assert len(layer.trainable_variables) == trainable
    assert len(layer.non_trainable_weights) == non_trainable
    assert len(layer.variables) - len(layer.weights) == seeds
