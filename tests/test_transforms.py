"""Functions of given noise are the same eager, compiled and vectorized."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

import keras_gumbel
from keras_gumbel import estimators
from keras_gumbel.layers import ConcreteMask
from keras_gumbel.layers import GumbelSoftmax
from keras_gumbel.layers import StraightThroughArgmax
from keras_gumbel.layers import SubsetSampler
from tests.gradients import MODES
from tests.gradients import compiled
from tests.gradients import dtype_of
from tests.gradients import gradient
from tests.gradients import to_numpy
from tests.short_names import PATHWISE

BACKEND = keras.config.backend()
HALF = ["float16", "bfloat16"]
ROWS, CLASSES, RAO_SAMPLES = 36, 4, 3
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(ROWS, CLASSES)).astype("float32")
PROBS = RNG.uniform(0.05, 0.95, size=(ROWS, CLASSES)).astype("float32")
GUMBEL = RNG.gumbel(size=(ROWS, CLASSES)).astype("float32")
LOGISTIC = RNG.logistic(size=(ROWS, CLASSES)).astype("float32")
TEMPERATURE = RNG.uniform(0.3, 2.0, size=(ROWS, 1)).astype("float32")
ARRAYS = (LOGITS, PROBS, GUMBEL, LOGISTIC, TEMPERATURE)
RAO = RNG.gumbel(size=(RAO_SAMPLES, CLASSES)).astype("float32")
WEIGHTS = np.array([1.0, -2.0, 0.5, 3.0], "float32")


def tensor(values, dtype="float32"):
    return ops.cast(ops.convert_to_tensor(values), dtype)


class GivenRao(estimators.GumbelRao):
    """Gumbel-Rao whose own noise is given, too."""

    def draw(self, logits, seed):
        classes = logits.shape[-1]
        shape = (RAO_SAMPLES, *[1] * (len(logits.shape) - 1), classes)
        return ops.reshape(tensor(RAO[:, :classes]), shape)


ESTIMATORS = {
    name: GivenRao(RAO_SAMPLES)
    if name == "gumbel_rao"
    else estimators.get(name)
    for name in PATHWISE
}


def one_hot_of(estimator):
    return lambda x, z, t: keras_gumbel.ops.sample_one_hot(
        x, t, estimator, noise=z
    )


def mask_of(estimator):
    return lambda s, e, t: keras_gumbel.ops.sample_bernoulli(
        s, t, estimator, noise=e
    )


# Functions of logits, Gumbel noise and temperature, along the last axis.
SOFT = {
    "gumbel_softmax": lambda x, z, t: keras_gumbel.ops.gumbel_softmax(
        x, t, noise=z
    ),
    "constant_temperature": lambda x, z, t: keras_gumbel.ops.gumbel_softmax(
        x, 0.5, noise=z
    ),
    "gumbel_log_softmax": lambda x, z, t: keras_gumbel.ops.gumbel_log_softmax(
        x, t, noise=z
    ),
    "relaxed_top_k": lambda x, z, t: keras_gumbel.ops.relaxed_top_k(
        x, 2, t, noise=z
    ),
    "subset_marginals": lambda x, z, t: keras_gumbel.ops.subset_marginals(x, 2),
    "logit_of_bernoulli": lambda x, z, t: (
        keras_gumbel.ops.logit_relaxed_bernoulli(x, t, noise=z)
    ),
    "concrete": lambda x, z, t: keras_gumbel.ops.concrete_log_prob(
        ops.log_softmax(z), x, t
    ),
    "exp_concrete": lambda x, z, t: keras_gumbel.ops.exp_concrete_log_prob(
        ops.log_softmax(z), x, t
    ),
    "binary_concrete": lambda x, z, t: (
        keras_gumbel.ops.binary_concrete_log_prob(z, x, t)
    ),
    "entropy": lambda x, z, t: keras_gumbel.ops.categorical_entropy(x),
    "kl": lambda x, z, t: keras_gumbel.ops.categorical_kl(x, z),
}
ONE_HOT = {
    "hard": lambda x, z, t: keras_gumbel.ops.gumbel_softmax(
        x, t, hard=True, noise=z
    ),
    **{name: one_hot_of(estimator) for name, estimator in ESTIMATORS.items()},
}
DISCRETE = {
    "gumbel_max": lambda x, z, t: keras_gumbel.ops.gumbel_max(x, noise=z),
    "gumbel_top_k": lambda x, z, t: keras_gumbel.ops.gumbel_top_k(
        x, 2, noise=z
    ),
    "hard_top_k": lambda x, z, t: keras_gumbel.ops.relaxed_top_k(
        x, 2, t, hard=True, noise=z
    ),
    "sample_subset": lambda x, z, t: keras_gumbel.ops.sample_subset(
        x, 2, noise=z
    ),
}
# Functions of probabilities, logistic noise and temperature.
SOFT_MASK = {
    "relaxed_bernoulli": lambda s, e, t: keras_gumbel.ops.relaxed_bernoulli(
        s, t, noise=e
    )
}
HARD_MASK = {
    "hard_bernoulli": lambda s, e, t: keras_gumbel.ops.relaxed_bernoulli(
        s, t, hard=True, noise=e
    ),
    **{
        f"mask_by_{name}": mask_of(estimator)
        for name, estimator in ESTIMATORS.items()
    },
}
OF_LOGITS = {**SOFT, **ONE_HOT, **DISCRETE}
OF_PROBS = {**SOFT_MASK, **HARD_MASK}
FUNCTIONS = {**OF_LOGITS, **OF_PROBS}
EXACT = {**ONE_HOT, **DISCRETE, **HARD_MASK}
OF_SUBSETS = (
    "relaxed_top_k",
    "subset_marginals",
    "hard_top_k",
    "sample_subset",
)
# Samples whose gradient in the logits is that of a soft value, bit for bit.
# TensorFlow adds up the many terms of one in the temperature in any order.
SAME_GRADIENT = {
    "hard": "gumbel_softmax",
    "straight_through_gumbel": "gumbel_softmax",
    "hard_top_k": "relaxed_top_k",
    "sample_subset": "subset_marginals",
    "hard_bernoulli": "relaxed_bernoulli",
    "mask_by_straight_through_gumbel": "relaxed_bernoulli",
}


def arguments_of(name, x, s, z, e, t):
    """The point, the noise and the temperature of a function."""
    return (x, z, t) if name in OF_LOGITS else (s, e, t)


def loss_of(value):
    """A weighted sum; densities and entropies have no axis of classes."""
    if value.shape[-1:] == (CLASSES,):
        value = value * tensor(WEIGHTS)
    return ops.sum(ops.cast(value, "float32"))


def value_and_slopes(function, *points):
    """Calls a function that returns its loss and a value, and differentiates.

    Other than `gradient`, it works inside of what transforms it.
    """
    if BACKEND == "jax":
        import jax

        places = tuple(range(len(points)))
        slopes, value = jax.grad(function, places, has_aux=True)(*points)
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(points)
            loss, value = function(*points)
        slopes = tape.gradient(loss, points, unconnected_gradients="zero")
    else:
        import torch

        places = tuple(range(len(points)))
        slopes, value = torch.func.grad(function, places, True)(*points)
    return value, *slopes


def everything(*arrays):
    """The values and gradients of all functions, of a batch or of one row."""
    found = {}
    for name, function in FUNCTIONS.items():
        x, noise, t = arguments_of(name, *arrays)

        def loss_and_value(x, t, function=function, noise=noise):
            value = function(x, noise, t)
            return loss_of(value), value

        found[name] = value_and_slopes(loss_and_value, x, t)
    return found


def vectorized(function):
    """Maps a function of one row over the rows, compiled where possible."""
    if BACKEND == "jax":
        import jax

        return jax.jit(jax.vmap(function))
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(
            lambda *arrays: tf.vectorized_map(
                lambda row: function(*row), arrays
            )
        )
    import torch

    return torch.func.vmap(function)


def for_any_batch(function):
    """Compiles a function of batches of unknown size, for TensorFlow."""
    import tensorflow as tf

    shapes = [(None, *array.shape[1:]) for array in ARRAYS]
    signature = [tf.TensorSpec(shape, "float32") for shape in shapes]
    return tf.function(function, input_signature=signature)


TRANSFORMS = {
    "jax": {"jit": compiled, "vmap": vectorized},
    "tensorflow": {
        "function": for_any_batch,
        "xla": functools.partial(compiled, jit="xla"),
        "vectorized_map": vectorized,
    },
    "torch": {"func": compiled, "vmap": vectorized},
}[BACKEND]


@pytest.fixture(scope="module")
def values():
    """Values of eager calls."""
    arrays = [tensor(array) for array in ARRAYS]
    found = {}
    for name, function in FUNCTIONS.items():
        # JAX compiles every operation of an eager call: those are many.
        jit = BACKEND == "jax" and name in OF_SUBSETS
        call = compiled(function, jit)
        found[name] = to_numpy(call(*arguments_of(name, *arrays)))
    return found


@functools.cache  # one compilation each
def outputs_of(transform):
    """The values and gradients of all functions, transformed."""
    outputs = TRANSFORMS[transform](everything)(*map(tensor, ARRAYS))
    return {n: [to_numpy(v) for v in found] for n, found in outputs.items()}


@pytest.fixture(scope="module")
def slopes():
    """Gradients of eager calls; of compiled ones on JAX, to save time."""
    if BACKEND == "jax":
        return {name: found[1:] for name, found in outputs_of("jit").items()}
    points = [arguments_of(name, *ARRAYS) for name in FUNCTIONS]

    def total(*args):
        return sum(
            loss_of(function(x, tensor(noise), t))
            for function, (_, noise, _), x, t in zip(
                FUNCTIONS.values(), points, args[::2], args[1::2], strict=True
            )
        )

    found = gradient(total, *[a for x, _, t in points for a in (x, t)])
    pairs = zip(found[::2], found[1::2], strict=True)
    return dict(zip(FUNCTIONS, pairs, strict=True))


# Under `vmap`, `torch.nn.functional.gumbel_softmax` of torch 2.13.0 raises: it
# cannot be given its noise. `keras.random` of Keras 3.15.1 with an integer
# seed draws the same for every row on JAX and TensorFlow, and raises on torch.
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transformed_function_has_its_value_and_gradient(
    transform, values, slopes
):
    found = outputs_of(transform)

    assert set(found) == set(FUNCTIONS)
    for name, (value, *gradients) in found.items():
        close = 0 if name in EXACT else 1e-6
        np.testing.assert_allclose(value, values[name], close, close, name)
        for one, other in zip(gradients, slopes[name], strict=True):
            np.testing.assert_allclose(one, other, 1e-5, 1e-5, err_msg=name)
    for hard, soft in SAME_GRADIENT.items():
        assert (found[hard][1] == found[soft][1]).all(), hard


FEATURES = RNG.normal(size=(ROWS, 6)).astype("float32")
KERNEL = RNG.normal(size=(6, CLASSES)).astype("float32")
CODES = RNG.integers(1, 9, size=(CLASSES, 5)).astype("float32")


def require_exact_samples(names, dtype, jit):
    """Checks the samples of a training step, as they are and decoded."""
    _, s, z, e, t = map(tensor, ARRAYS)

    def step(kernel, s):
        x = ops.matmul(tensor(FEATURES, dtype), kernel)
        arrays = x, s, z, e, t
        samples = {n: FUNCTIONS[n](*arguments_of(n, *arrays)) for n in names}
        decoded = {
            n: ops.matmul(ops.cast(sample, "float32"), tensor(CODES))
            for n, sample in samples.items()
        }
        loss = sum(ops.mean(ops.square(d)) for d in decoded.values())
        return loss, (samples, decoded)

    run = compiled(functools.partial(value_and_slopes, step), jit)
    (samples, decoded), *slopes = run(tensor(KERNEL, dtype), ops.cast(s, dtype))

    assert all(np.isfinite(to_numpy(slope)).all() for slope in slopes)
    for name, sample in samples.items():
        assert dtype_of(sample) == dtype, name
        sample = to_numpy(sample)
        assert np.isin(sample, [0, 1]).all(), name
        assert not np.signbit(sample).any(), name
        assert (sample.sum(-1) == 1).all() or name in HARD_MASK, name
        assert sample.any(axis=0).all(), name
        assert (to_numpy(decoded[name]) == sample @ CODES).all(), name


# `sg(hard - soft) + soft`, as the note groups Eq. (16), looks one-hot here in
# bfloat16, but compiled by JAX 0.10.2 or by XLA for TensorFlow 2.21.0 it
# decodes a ninth of the rows to no code: it is added up in float32.
@pytest.mark.parametrize("jit", MODES[-1:])
@pytest.mark.parametrize("dtype", HALF)
def test_samples_of_a_training_step_are_exact(dtype, jit):
    require_exact_samples([*ONE_HOT, *HARD_MASK], dtype, jit)


@pytest.mark.parametrize("jit", MODES[-1:])
def test_training_step_catches_an_inexact_sample(jit, monkeypatch):
    def grouped_otherwise(hard, soft):
        hard = ops.cast(hard, soft.dtype)
        return hard + soft - ops.stop_gradient(soft)

    monkeypatch.setattr(
        keras_gumbel.estimators._base, "straight_through", grouped_otherwise
    )

    with pytest.raises(AssertionError, match="hard"):
        require_exact_samples(["hard"], "float32", jit)


# Layers of k-hot samples, and their k; masks have any number of ones.
SAMPLERS = {
    GumbelSoftmax: ("hard", [True], 1),
    StraightThroughArgmax: ("estimator", ESTIMATORS, 1),
    SubsetSampler: ("estimator", ["simple", "relaxed_top_k"], 3),
    ConcreteMask: ("estimator", ESTIMATORS, None),
}


def samplers_of(layer_class):
    """Makes a sampling layer for every estimator."""
    option, choices, _ = SAMPLERS[layer_class]
    extra = {
        SubsetSampler: {"k": 3},
        ConcreteMask: {
            "hard": True,
            "scores_initializer": keras.initializers.Constant(0.5),
        },
    }.get(layer_class, {})
    return [
        layer_class(
            temperature=0.3,
            inference="sample",
            seed=1,
            dtype="mixed_bfloat16",
            **{option: choice},
            **extra,
        )
        for choice in choices
    ]


# A layer that calls `keras.random` of Keras 3.15.1 with an integer seed draws
# the same numbers in every batch.
def test_predicted_samples_are_exact_and_new_in_every_batch():
    inputs = keras.Input((16,))
    outputs = [
        [layer(inputs) for layer in samplers_of(layer_class)]
        for layer_class in SAMPLERS
    ]
    model = keras.Model(inputs, outputs)
    ones = np.ones((64, 16), "float32")

    calls = [model.predict(ones, 32, verbose=0) for _ in range(2)]

    for (_, _, k), *predicted in zip(SAMPLERS.values(), *calls, strict=True):
        for arrays in zip(*predicted, strict=True):
            samples = [ops.convert_to_tensor(array) for array in arrays]
            assert {dtype_of(sample) for sample in samples} == {"bfloat16"}
            batches = np.reshape([to_numpy(s) for s in samples], (4, 32, 16))
            assert np.isin(batches, [0, 1]).all()
            assert k is None or (batches.sum(-1) == k).all()
            assert len(np.unique(batches, axis=0)) == 4
