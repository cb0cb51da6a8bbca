import contextlib

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops
from scipy import special

from keras_gumbel.layers import ConcreteMask
from keras_gumbel.layers import Sparsified
from keras_gumbel.schedules import LinearAnnealing
from tests.contracts import dtype_policy
from tests.contracts import save_and_load
from tests.contracts import step_counters
from tests.contracts import values_of
from tests.gradients import to_numpy

HALF = keras.initializers.Constant(0.5)


def half(**kwargs):
    return ConcreteMask(scores_initializer=HALF, **kwargs)


def closed():
    return ConcreteMask(scores_initializer="zeros")


def dense():
    return layers.Dense(2, bias_initializer="ones")


def einsum_dense():
    return layers.EinsumDense("abc,cd->abd", (2, 2), bias_axes="d")


def conv_1d():
    return layers.Conv1D(2, 2)


def conv_2d():
    return layers.Conv2D(2, 2, strides=2)


def conv_3d():
    return layers.Conv3D(2, 2)


def conv_1d_transpose():
    return layers.Conv1DTranspose(2, 2)


def conv_2d_transpose():
    return layers.Conv2DTranspose(2, 2)


def conv_3d_transpose():
    return layers.Conv3DTranspose(2, 2)


def depthwise_conv_1d():
    return layers.DepthwiseConv1D(2, depth_multiplier=2)


def depthwise_conv_2d():
    return layers.DepthwiseConv2D(2)


def separable_conv_1d():
    return layers.SeparableConv1D(2, 2)


def separable_conv_2d():
    return layers.SeparableConv2D(2, 2)


def embedding():
    return layers.Embedding(4, 3)


# The shape of a batch, and the names of the kernels.
KNOWN = {
    dense: ((2, 3), ["kernel"]),
    einsum_dense: ((2, 2, 3), ["kernel"]),
    conv_1d: ((2, 4, 3), ["kernel"]),
    conv_2d: ((2, 4, 4, 3), ["kernel"]),
    conv_3d: ((2, 3, 3, 3, 2), ["kernel"]),
    conv_1d_transpose: ((2, 3, 3), ["kernel"]),
    conv_2d_transpose: ((2, 3, 3, 2), ["kernel"]),
    conv_3d_transpose: ((2, 2, 2, 2, 2), ["kernel"]),
    depthwise_conv_1d: ((2, 4, 3), ["kernel"]),
    depthwise_conv_2d: ((2, 4, 4, 3), ["kernel"]),
    separable_conv_1d: ((2, 4, 3), ["depthwise_kernel", "pointwise_kernel"]),
    separable_conv_2d: (
        (2, 4, 4, 3),
        ["depthwise_kernel", "pointwise_kernel"],
    ),
    embedding: ((3, 4), ["embeddings"]),
}


def inputs_of(make):
    shape, _ = KNOWN[make]
    if make is embedding:
        # Every token occurs.
        return np.arange(12, dtype="int32").reshape(shape) % 4
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def kernels_of(make, layer):
    return [getattr(layer, name) for name in KNOWN[make][1]]


def value(variable):
    return to_numpy(ops.convert_to_tensor(variable))


def randomize_masks(sparsified):
    """Sets the scores to zeros and ones at random, half of each."""
    generator = np.random.default_rng(1)
    for mask in sparsified.masks:
        shape = mask.mask_scores.shape
        ranks = generator.permutation(np.prod(shape)).reshape(shape)
        mask.mask_scores.assign((ranks % 2).astype("float32"))


@pytest.mark.parametrize("make", KNOWN)
def test_sparsified_calls_layer_with_masked_kernels(make):
    inputs = inputs_of(make)
    layer = Sparsified(make(), fixed=True)
    layer.build(inputs.shape)
    randomize_masks(layer)
    by_hand = make()
    by_hand.build(inputs.shape)
    by_hand.set_weights(layer.layer.get_weights())

    kernels = kernels_of(make, by_hand)
    for kernel, mask in zip(kernels, layer.masks, strict=True):
        kernel.assign(kernel * mask.mask_scores)
    outputs, expected = to_numpy(layer(inputs)), to_numpy(by_hand(inputs))

    assert len(layer.masks) == len(kernels)
    np.testing.assert_array_equal(outputs, expected)
    assert (outputs != to_numpy(layer.layer(inputs))).any()


@pytest.mark.parametrize("make", KNOWN)
def test_sparsified_puts_the_variables_back(make):
    inputs = inputs_of(make)
    layer = Sparsified(make(), half())
    layer.build(inputs.shape)
    kernels = kernels_of(make, layer.layer)
    before = values_of(layer.layer.weights)

    layer(inputs)

    after = kernels_of(make, layer.layer)
    assert all(isinstance(kernel, keras.Variable) for kernel in kernels)
    assert [id(k) for k in after] == [id(k) for k in kernels]
    assert [id(k) for k in layer.kernels] == [id(k) for k in kernels]
    for old, new in zip(before, values_of(layer.layer.weights), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("make", KNOWN)
def test_sparsified_has_a_score_for_each_entry(make):
    layer = Sparsified(make())
    layer.build(KNOWN[make][0])

    kernels = kernels_of(make, layer.layer)
    shapes = [mask.mask_scores.shape for mask in layer.masks]

    assert shapes == [kernel.shape for kernel in kernels]
    assert len(layer.trainable_variables) == (
        len(layer.layer.trainable_variables) + len(kernels)
    )


@pytest.mark.parametrize("make", KNOWN)
def test_sparsified_runs_in_half_precision(make):
    inputs = inputs_of(make)
    with dtype_policy("mixed_float16"):
        layer = Sparsified(make(), half())
        outputs = layer(inputs)

    assert keras.backend.standardize_dtype(outputs.dtype) == "float16"
    assert np.isfinite(to_numpy(outputs)).all()
    assert to_numpy(outputs).any()
    assert {v.dtype for v in layer.trainable_variables} == {"float32"}


@contextlib.contextmanager
def unoptimized():
    """Compiles on JAX in half the time."""
    if keras.config.backend() != "jax":
        yield
        return
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def trained():
    """All known layers in one model, before and after a step of training.

    One model is one compilation.
    """
    keras.utils.set_random_seed(0)
    inputs = [inputs_of(make) for make in KNOWN]
    entrances = [keras.Input(x.shape[1:], dtype=x.dtype) for x in inputs]
    sparsified = [Sparsified(make(), half(), seed=0) for make in KNOWN]
    exits = [f(x) for f, x in zip(sparsified, entrances, strict=True)]
    model = keras.Model(entrances, exits)
    targets = [
        np.ones((len(x), *y.shape[1:]), "float32")
        for x, y in zip(inputs, exits, strict=True)
    ]
    # No XLA on TensorFlow, where it takes seconds a layer.
    jit = keras.config.backend() == "jax"
    losses = ["mse"] * len(KNOWN)
    model.compile(keras.optimizers.SGD(0.1), losses, jit_compile=jit)
    before = [values_of(layer.weights) for layer in sparsified]
    with unoptimized():
        model.train_on_batch(inputs, targets)
    return model, inputs, sparsified, before


@pytest.mark.parametrize("make", KNOWN)
def test_sparsified_trains_every_variable(trained, make):
    _, _, sparsified, before = trained
    index = list(KNOWN).index(make)
    layer, old = sparsified[index], before[index]

    new = values_of(layer.weights)

    moves = [b - a for a, b in zip(old, new, strict=True)]
    steps = {id(v) for v in step_counters(layer)}
    assert type(layer.layer) is type(make())
    for variable, move in zip(layer.weights, moves, strict=True):
        assert np.isfinite(move).all()
        assert move == 1 if id(variable) in steps else move.any()
    assert len(steps) == len(layer.masks)


def test_sparsified_layers_are_saved_and_loaded(trained):
    model, inputs, _, _ = trained

    loaded = save_and_load(model)

    outputs, again = model(inputs), loaded(inputs)
    assert len(outputs) == len(KNOWN)
    for one, other in zip(outputs, again, strict=True):
        np.testing.assert_array_equal(to_numpy(one), to_numpy(other))


def test_sparsified_trains_under_mixed_float16():
    with dtype_policy("mixed_float16"):
        layer = Sparsified(dense(), half(), seed=0)
        model = keras.Sequential([keras.Input((3,)), layer])
        model.compile(keras.optimizers.SGD(0.1), "mse")
    inputs = inputs_of(dense)
    before = values_of(layer.trainable_variables)

    for _ in range(2):
        model.train_on_batch(inputs, np.zeros((2, 2)))

    for old, new in zip(
        before, values_of(layer.trainable_variables), strict=True
    ):
        assert np.isfinite(new).all()
        assert (new != old).any()


def test_sparsified_leaves_biases_alone():
    layer = Sparsified(dense(), closed(), fixed=True)

    outputs = to_numpy(layer(inputs_of(dense)))

    assert (outputs == 1.0).all()


def test_sparsified_regularizes_the_kernel_without_the_mask():
    regularized = layers.Dense(
        2,
        kernel_initializer="ones",
        kernel_regularizer=keras.regularizers.L1(1),
    )
    layer = Sparsified(regularized, closed(), fixed=True)

    layer(inputs_of(dense))

    assert [float(to_numpy(loss)) for loss in layer.losses] == [6.0]


class Failing(layers.Dense):
    def call(self, inputs):
        raise RuntimeError("a failure inside")


def test_sparsified_puts_the_variables_back_after_an_exception():
    layer = Sparsified(Failing(2))
    layer.build((2, 3))
    kernel = layer.layer.kernel

    with pytest.raises(RuntimeError, match="a failure inside"):
        layer(inputs_of(dense))

    assert isinstance(kernel, keras.Variable)
    assert layer.layer.kernel is kernel
    assert layer.layer.trainable_variables[0] is kernel


def test_sparsified_puts_the_variables_back_after_a_failed_fit():
    layer = Sparsified(Failing(2))
    model = keras.Sequential([keras.Input((3,)), layer])
    model.compile("sgd", "mse")
    kernel = layer.layer.kernel

    with pytest.raises(RuntimeError, match="a failure inside"):
        model.train_on_batch(inputs_of(dense), np.ones((2, 2)))

    assert layer.layer.kernel is kernel
    assert np.isfinite(value(kernel)).all()


def test_sparsified_keeps_the_weights_of_a_built_layer():
    inputs = inputs_of(dense)
    plain = dense()
    expected = to_numpy(plain(inputs))
    weights = values_of(plain.weights)

    layer = Sparsified(plain)
    outputs = to_numpy(layer(inputs))

    assert layer.layer is plain
    np.testing.assert_array_equal(outputs, expected)
    for old, new in zip(weights, values_of(plain.weights), strict=True):
        np.testing.assert_array_equal(old, new)


class Scaled(layers.Dense):
    """A Dense layer with call arguments of its own."""

    def call(self, inputs, scale=1.0, shift=None):
        outputs = super().call(inputs) * scale
        return outputs if shift is None else outputs + shift


def test_sparsified_hands_call_arguments_on():
    inputs = inputs_of(dense)
    layer = Sparsified(Scaled(2))
    plain = to_numpy(layer(inputs))
    shift = np.full((2, 2), 3.0, "float32")

    scaled = to_numpy(layer(inputs, scale=2.0))
    shifted = to_numpy(layer(inputs, shift=shift))

    np.testing.assert_allclose(scaled, 2.0 * plain, rtol=1e-6)
    np.testing.assert_allclose(shifted, plain + 3.0, rtol=1e-6)


def test_sparsified_hands_call_arguments_on_in_a_model():
    inputs = inputs_of(dense)
    layer = Sparsified(Scaled(2))
    entrance, shift = keras.Input((3,)), keras.Input((2,))
    scaled, shifted = layer(entrance, scale=2.0), layer(entrance, shift=shift)
    model = keras.Model([entrance, shift], [scaled, shifted])

    outputs = model([inputs, np.full((2, 2), 3.0, "float32")])

    plain = to_numpy(layer(inputs))
    np.testing.assert_allclose(to_numpy(outputs[0]), 2.0 * plain, rtol=1e-6)
    np.testing.assert_allclose(to_numpy(outputs[1]), plain + 3.0, rtol=1e-6)


def ones_kernel(mask=None, seed=0, fixed=False):
    """Returns a layer that hands out its mask for the identity."""
    plain = layers.Dense(3, kernel_initializer="ones", use_bias=False)
    return Sparsified(plain, mask or half(), fixed=fixed, seed=seed)


def sample(layer):
    return to_numpy(layer(np.eye(3, dtype="float32"), training=True))


def infer(layer):
    return to_numpy(layer(np.eye(3, dtype="float32"), training=False))


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_sparsified_divides_by_temperature(temperature):
    reference = sample(ones_kernel(half(temperature=1.0)))

    mask = sample(ones_kernel(half(temperature=temperature)))

    expected = special.expit(special.logit(reference) / temperature)
    np.testing.assert_allclose(mask, expected, atol=1e-5)


def test_sparsified_multiplies_with_the_scores_by_default():
    plain = layers.Dense(3, kernel_initializer="ones", use_bias=False)
    layer = Sparsified(plain)
    layer.build((None, 3))
    scores = np.arange(9, dtype="float32").reshape(3, 3) / 8
    layer.masks[0].mask_scores.assign(scores)

    np.testing.assert_array_equal(sample(layer), scores)
    np.testing.assert_array_equal(infer(layer), scores)


def test_sparsified_anneals_with_every_training_call():
    annealed = ones_kernel(half(temperature=LinearAnnealing(1.0, 0.5, steps=2)))
    constant = ones_kernel(half(temperature=1.0))

    for temperature in (1.0, 0.75, 0.5, 0.5):
        infer(annealed)
        mask, warm = sample(annealed), sample(constant)

        expected = special.expit(special.logit(warm) / temperature)
        np.testing.assert_allclose(mask, expected, atol=1e-5)


def test_sparsified_hard_rounds_the_soft():
    relaxed, mask = sample(ones_kernel()), sample(ones_kernel(half(hard=True)))

    assert set(np.unique(mask)) == {0.0, 1.0}
    np.testing.assert_array_equal(mask, relaxed > 0.5)


def test_sparsified_starts_with_the_whole_kernel():
    layer = Sparsified(dense())

    layer(inputs_of(dense))

    assert (value(layer.masks[0].mask_scores) == 1.0).all()


def test_sparsified_draws_one_mask_for_the_batch():
    layer = ones_kernel()

    outputs = to_numpy(layer(np.ones((5, 3), "float32"), training=True))

    assert np.unique(outputs, axis=0).shape == (1, 3)


def test_sparsified_fixed_draws_nothing_and_does_not_train():
    layer = ones_kernel(fixed=True)

    outputs = [sample(layer), sample(layer), infer(layer)]

    np.testing.assert_array_equal(outputs, np.full((3, 3, 3), 0.5))
    assert layer.trainable_variables == layer.layer.trainable_variables
    assert values_of(step_counters(layer)) == [0]


def test_sparsified_infers_mean_mode_or_sample():
    mean = infer(ones_kernel())
    mode = infer(ones_kernel(half(inference="mode")))
    drawn = infer(ones_kernel(half(inference="sample")))

    np.testing.assert_array_equal(mean, np.full((3, 3), 0.5))
    np.testing.assert_array_equal(mode, np.zeros((3, 3)))
    np.testing.assert_array_equal(drawn, sample(ones_kernel()))


def test_sparsified_without_seed_differs_from_layer_to_layer():
    one, other = (sample(ones_kernel(seed=None)) for _ in range(2))

    assert (one != other).any()


def test_sparsified_masks_of_one_layer_differ():
    layer, again = (Sparsified(separable_conv_1d(), seed=0) for _ in range(2))

    depthwise, pointwise = values_of(
        m.seed_generator.state for m in layer.masks
    )

    assert (depthwise != pointwise).any()
    assert [m.seed for m in layer.masks] == [m.seed for m in again.masks]


def test_sparsified_is_named_after_the_layer():
    assert Sparsified(layers.Dense(2, name="head")).name == "sparsified_head"
    assert Sparsified(layers.Dense(2), name="mine").name == "mine"


def test_sparsified_has_the_dtype_of_the_layer():
    layer = Sparsified(layers.Dense(2, dtype="mixed_float16"))

    outputs = layer(inputs_of(dense))

    assert layer.dtype_policy.name == "mixed_float16"
    assert keras.backend.standardize_dtype(outputs.dtype) == "float16"


@pytest.mark.parametrize("mask_zero", [False, True])
def test_sparsified_embedding_masks_as_the_layer_does(mask_zero):
    plain = layers.Embedding(4, 3, mask_zero=mask_zero)
    layer = Sparsified(plain)
    indices = np.array([[1, 0], [2, 3]])

    mask = layer.compute_mask(indices, None)

    assert layer.supports_masking == mask_zero
    assert (mask is None) == (not mask_zero)
    if mask_zero:
        assert to_numpy(mask).tolist() == [[1.0, 0.0], [1.0, 1.0]]


@pytest.mark.parametrize(
    "layer", [np.ones((2, 2)), "dense", layers.Dense, None]
)
def test_sparsified_rejects_what_is_no_layer(layer):
    with pytest.raises(TypeError, match=r"`layer`.*must be a Keras layer"):
        Sparsified(layer)


def test_sparsified_rejects_symbolic_tensor():
    with pytest.raises(TypeError, match=r"then call the result"):
        Sparsified(keras.Input((3,)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.Dropout(0.5),
        lambda: ConcreteMask(),
        lambda: Sparsified(layers.Dense(2)),
        lambda: keras.Sequential([layers.Dense(2)]),
    ],
)
def test_sparsified_rejects_layer_without_known_kernel(make):
    with pytest.raises(ValueError, match=r"`layer`.*kernel that is known"):
        Sparsified(make())


@pytest.mark.parametrize("mask", ["magnitude", ConcreteMask, layers.ReLU()])
def test_sparsified_rejects_mask(mask):
    with pytest.raises(TypeError, match=r"`mask`.*a `ConcreteMask`"):
        Sparsified(dense(), mask)


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, True, "0"])
def test_sparsified_rejects_seed(seed):
    with pytest.raises(ValueError, match=r"`seed`.*integer in"):
        Sparsified(dense(), seed=seed)
