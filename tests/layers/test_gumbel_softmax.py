import keras
import numpy as np
import pytest
from keras import ops
from scipy import special

from keras_gumbel.layers import GumbelSoftmax
from keras_gumbel.schedules import LinearAnnealing
from tests.contracts import save_and_load
from tests.contracts import step_counters
from tests.contracts import values_of
from tests.gradients import to_numpy

LOGITS = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")

# As many time steps as classes: a mask of the ones fits the others, too.
STEPS = np.random.default_rng(1).normal(size=(3, 3, 3)).astype("float32")
STEPS[:, 1] = 0.0


def sample(layer, inputs=LOGITS, **kwargs):
    return to_numpy(layer(inputs, training=True, **kwargs))


def infer(layer, inputs=LOGITS, **kwargs):
    return to_numpy(layer(inputs, training=False, **kwargs))


def at_temperature(samples, ratio):
    """Returns softmax(x / (ratio T)) for samples softmax(x / T)."""
    return special.softmax(np.log(samples) / ratio, axis=-1)


def require_one_hot(samples, axis=-1):
    assert set(np.unique(samples)) == {0.0, 1.0}
    assert (samples.sum(axis=axis) == 1.0).all()


def test_gumbel_softmax_divides_by_temperature():
    warm = sample(GumbelSoftmax(1.0, seed=0))
    hot = sample(GumbelSoftmax(4.0, seed=0))

    np.testing.assert_allclose(hot, at_temperature(warm, 4.0), atol=1e-6)
    assert hot.max() < warm.max()


def test_gumbel_softmax_defaults_to_temperature_one():
    default = sample(GumbelSoftmax(seed=0))

    np.testing.assert_array_equal(default, sample(GumbelSoftmax(1.0, seed=0)))


def test_gumbel_softmax_soft_samples_are_inside_the_simplex():
    samples = sample(GumbelSoftmax(seed=0))

    np.testing.assert_allclose(samples.sum(axis=-1), 1.0, atol=1e-6)
    assert (0.0 < samples).all()
    assert (samples < 1.0).all()


def test_gumbel_softmax_hard_is_the_largest_of_the_soft():
    soft = sample(GumbelSoftmax(0.5, seed=0))
    hard = sample(GumbelSoftmax(0.5, hard=True, seed=0))

    require_one_hot(hard)
    np.testing.assert_array_equal(hard.argmax(axis=-1), soft.argmax(axis=-1))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gumbel_softmax_chooses_along_axis(axis):
    inputs = np.random.default_rng(2).normal(size=(3, 3, 3)).astype("float32")

    samples = sample(GumbelSoftmax(axis=axis, seed=0), inputs)
    choices = infer(GumbelSoftmax(axis=axis), inputs)

    np.testing.assert_allclose(samples.sum(axis=axis), 1.0, atol=1e-6)
    require_one_hot(choices, axis)
    np.testing.assert_array_equal(
        choices.argmax(axis=axis), inputs.argmax(axis=axis)
    )


def test_gumbel_softmax_infers_argmax_by_default():
    choices = infer(GumbelSoftmax(temperature=3.0))

    expected = np.eye(3)[LOGITS.argmax(axis=-1)]
    np.testing.assert_array_equal(choices, expected)


@pytest.mark.parametrize("temperature", [0.1, 10.0])
def test_gumbel_softmax_infers_probabilities_at_temperature_one(temperature):
    layer = GumbelSoftmax(temperature, hard=True, inference="softmax")

    probabilities = infer(layer)

    expected = special.softmax(LOGITS, axis=-1)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)


def test_gumbel_softmax_inference_can_sample():
    layer = GumbelSoftmax(inference="sample", seed=0)

    first, second = infer(layer), infer(layer)

    np.testing.assert_array_equal(first, sample(GumbelSoftmax(seed=0)))
    assert (first != second).all()
    assert values_of(step_counters(layer)) == [0]


def test_gumbel_softmax_without_seed_differs_from_layer_to_layer():
    one, other = sample(GumbelSoftmax()), sample(GumbelSoftmax())

    assert (one != other).all()


def test_gumbel_softmax_passes_name_and_dtype_on():
    layer = GumbelSoftmax(name="choice", dtype="float16")

    assert layer.name == "choice"
    assert layer.compute_dtype == "float16"


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("inference", ["argmax", "softmax", "sample"])
def test_gumbel_softmax_never_chooses_a_forbidden_class(hard, inference):
    layer = GumbelSoftmax(hard=hard, inference=inference, seed=0)
    mask = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 1], [1, 1, 1]], bool)

    for run in (sample, infer):
        outputs = run(layer, mask=mask)

        assert (outputs[~mask] == 0.0).all()
        np.testing.assert_allclose(outputs.sum(axis=-1), 1.0, atol=1e-6)
        assert (outputs[2] == [0.0, 0.0, 1.0]).all()


@pytest.mark.parametrize("shape", [(3,), (1, 3), (4, 3)])
def test_gumbel_softmax_mask_broadcasts(shape):
    layer = GumbelSoftmax(inference="softmax")
    mask = np.broadcast_to(np.array([True, False, True]), shape)

    outputs = infer(layer, mask=mask)

    allowed = np.where([True, False, True], LOGITS, -np.inf)
    expected = special.softmax(allowed, axis=-1)
    np.testing.assert_allclose(outputs, expected, atol=1e-6)


def test_gumbel_softmax_row_without_a_class_is_zero():
    layer = GumbelSoftmax(hard=True, seed=0)
    mask = np.array([[False], [True], [True], [True]])

    for run in (sample, infer):
        outputs = run(layer, mask=mask)

        assert outputs.sum(axis=-1).tolist() == [0.0, 1.0, 1.0, 1.0]


def test_gumbel_softmax_infinite_logit_forbids_a_class():
    inputs = LOGITS.copy()
    inputs[:, 1] = -np.inf

    samples = sample(GumbelSoftmax(seed=0), inputs)

    assert (samples[:, 1] == 0.0).all()
    np.testing.assert_allclose(samples.sum(axis=-1), 1.0, atol=1e-6)


@pytest.mark.parametrize("shape", [(2,), (4, 2), (3, 3), (1, 4, 3)])
@pytest.mark.parametrize("training", [False, True])
def test_gumbel_softmax_rejects_mask_of_other_shape(shape, training):
    layer = GumbelSoftmax()

    with pytest.raises(ValueError, match=r"`mask`.*must be broadcastable"):
        layer(LOGITS, mask=np.ones(shape, bool), training=training)


def test_gumbel_softmax_mask_can_be_an_input_of_a_model():
    logits, mask = keras.Input((3,)), keras.Input((3,), dtype="bool")
    layer = GumbelSoftmax(inference="softmax")
    model = keras.Model([logits, mask], layer(logits, mask=mask))
    allowed = np.tile([False, True, True], (4, 1))

    outputs = to_numpy(model([LOGITS, allowed]))

    expected = special.softmax(np.where(allowed, LOGITS, -np.inf), axis=-1)
    np.testing.assert_allclose(outputs, expected, atol=1e-6)


class Subclassed(keras.Model):
    def __init__(self, source, layer):
        super().__init__()
        self.source = source
        self.layer = layer

    def call(self, inputs):
        return self.layer(self.source(inputs))


def functional(source, layer):
    entrance = keras.Input((3, 3))
    return keras.Model(entrance, layer(source(entrance)))


def sequential(source, layer):
    return keras.Sequential([keras.Input((3, 3)), source, layer])


@pytest.mark.parametrize("method", ["__call__", "predict_on_batch"])
@pytest.mark.parametrize("build", [Subclassed, functional, sequential])
def test_gumbel_softmax_takes_time_steps_for_no_classes(build, method):
    layer = GumbelSoftmax(inference="softmax")
    model = build(keras.layers.Masking(), layer)

    outputs = getattr(model, method)(STEPS)

    expected = special.softmax(STEPS, axis=-1)
    outputs = ops.convert_to_tensor(outputs)
    np.testing.assert_allclose(to_numpy(outputs), expected, atol=1e-6)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_gumbel_softmax_takes_time_steps_of_embedding_for_no_classes(policy):
    source = keras.layers.Embedding(4, 5, mask_zero=True)
    layer = GumbelSoftmax(inference="softmax", dtype=policy)
    model = keras.Sequential([source, layer])
    indices = np.array([[1, 2, 0], [3, 0, 0]])

    outputs = to_numpy(model(indices))

    expected = special.softmax(to_numpy(source(indices)), axis=-1)
    np.testing.assert_allclose(outputs, expected, atol=1e-3)
    assert outputs.min() > 0.0


def test_gumbel_softmax_trains_behind_time_steps():
    layer = GumbelSoftmax(seed=0)
    front = keras.layers.Dense(3, kernel_initializer="ones")
    model = keras.Sequential(
        [keras.Input((3, 3)), keras.layers.Masking(), front, layer]
    )
    model.compile(keras.optimizers.SGD(1.0), "mse")

    model.train_on_batch(STEPS, np.full((3, 3, 3), 2.0))

    assert values_of(step_counters(layer)) == [1]
    assert (to_numpy(ops.convert_to_tensor(front.kernel)) != 1.0).all()


def test_gumbel_softmax_explicit_mask_wins_over_time_steps():
    layer = GumbelSoftmax(inference="softmax")
    classes = np.broadcast_to(np.array([True, True, False]), STEPS.shape)

    steps = keras.layers.Masking()(STEPS)
    outputs = infer(layer, steps, mask=classes)

    expected = special.softmax(np.where(classes, STEPS, -np.inf), axis=-1)
    np.testing.assert_allclose(outputs, expected, atol=1e-6)


def test_gumbel_softmax_refuses_a_mask_of_two_meanings():
    layer = GumbelSoftmax(inference="softmax")
    allowed = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1]], bool)

    with pytest.raises(ValueError, match=r"`mask`.*in the shape \(1, 3, 3\)"):
        layer(STEPS, mask=allowed)

    outputs = infer(layer, STEPS, mask=allowed[None])
    np.testing.assert_array_equal(outputs > 0, np.stack([allowed] * 3))


def test_gumbel_softmax_anneals_with_every_training_call():
    annealed = GumbelSoftmax(LinearAnnealing(1.0, 0.5, steps=2), seed=0)
    constant = GumbelSoftmax(1.0, seed=0)

    for temperature in (1.0, 0.75, 0.5, 0.5):
        infer(annealed)
        samples, warm = sample(annealed), sample(constant)

        expected = at_temperature(warm, temperature)
        np.testing.assert_allclose(samples, expected, atol=1e-5)


def test_gumbel_softmax_takes_schedules_of_keras():
    schedule = keras.optimizers.schedules.PolynomialDecay(1.0, 2, 0.5)
    layer = GumbelSoftmax(schedule, seed=0)
    constant = GumbelSoftmax(1.0, seed=0)

    for temperature in (1.0, 0.75, 0.5):
        samples, warm = sample(layer), sample(constant)

        expected = at_temperature(warm, temperature)
        np.testing.assert_allclose(samples, expected, atol=1e-5)


def test_gumbel_softmax_symbolic_call_counts_no_step():
    layer = GumbelSoftmax(LinearAnnealing(1.0, 0.5, steps=2), seed=0)
    state = np.array(to_numpy(layer.seed_generator.state.value))
    entrance = keras.Input((3,))

    keras.Model(entrance, layer(entrance, training=True))

    assert values_of(step_counters(layer)) == [0]
    np.testing.assert_array_equal(
        to_numpy(layer.seed_generator.state.value), state
    )


def test_gumbel_softmax_anneals_in_fit_alone():
    # No XLA on TensorFlow, whose noise differs from that of eager calls.
    jit = keras.config.backend() == "jax"
    schedule = LinearAnnealing(1.0, 0.1, steps=3)
    layer, replay = (GumbelSoftmax(schedule, seed=0) for _ in range(2))
    front = keras.layers.Dense(3, kernel_initializer="identity")
    model = keras.Sequential([keras.Input((3,)), front, layer])
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=jit)
    targets = np.eye(4, 3)

    losses = []
    for _ in range(3):
        model.predict_on_batch(LOGITS)
        model.test_on_batch(LOGITS, targets)
        model.reset_metrics()
        losses.append(model.train_on_batch(LOGITS, targets))

    expected = [((sample(replay) - targets) ** 2).mean() for _ in range(3)]
    assert values_of(step_counters(layer)) == [3]
    np.testing.assert_allclose(losses, expected, rtol=1e-4)


def test_gumbel_softmax_resumes_its_schedule():
    schedule = LinearAnnealing(1.0, 0.5, steps=4)
    model = keras.Sequential([GumbelSoftmax(schedule, seed=0)])
    for _ in range(2):
        model(LOGITS, training=True)

    layer = save_and_load(model).layers[0]

    temperatures = [float(model.layers[0].current_temperature())]
    for _ in range(3):
        temperatures.append(float(layer.current_temperature()))
        sample(layer)
    assert temperatures == [0.75, 0.75, 0.625, 0.5]


class Recorder(keras.layers.Layer):
    """Keeps its inputs, so that they can be read after `fit`."""

    def build(self, input_shape):
        self.record = self.add_weight(
            shape=input_shape, dtype=self.compute_dtype, trainable=False
        )

    def call(self, inputs):
        self.record.assign(inputs)
        return inputs


POLICIES = ["float32", "mixed_float16", "mixed_bfloat16"]


def test_gumbel_softmax_hard_is_exactly_one_hot_in_fit():
    inputs = np.random.default_rng(3).normal(size=(64, 7)).astype("float32")
    entrance = keras.Input((7,), 64)
    recorders = [Recorder(dtype=policy) for policy in POLICIES]
    exits = []
    for policy, recorder in zip(POLICIES, recorders, strict=True):
        layer = GumbelSoftmax(0.3, hard=True, seed=0, dtype=policy)
        logits = keras.layers.Dense(7, dtype=policy)(entrance)
        exits.append(recorder(layer(logits)))
    model = keras.Model(entrance, exits)
    model.compile("sgd", ["mse"] * 3)

    model.train_on_batch(inputs, [np.ones((64, 7))] * 3)

    for policy, recorder in zip(POLICIES, recorders, strict=True):
        (samples,) = values_of([recorder.record])
        assert recorder.record.dtype == keras.DTypePolicy(policy).compute_dtype
        assert samples.shape == (64, 7)
        require_one_hot(samples)


@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, "1", True, None, np.inf])
def test_gumbel_softmax_rejects_temperature(temperature):
    with pytest.raises(ValueError, match=r"`temperature`.*positive finite"):
        GumbelSoftmax(temperature)


@pytest.mark.parametrize("inference", ["mean", "", None, 0])
def test_gumbel_softmax_rejects_inference(inference):
    with pytest.raises(ValueError, match=r"`inference`.*one of 'argmax'"):
        GumbelSoftmax(inference=inference)


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, True, "0"])
def test_gumbel_softmax_rejects_seed(seed):
    with pytest.raises(ValueError, match=r"`seed`.*integer in"):
        GumbelSoftmax(seed=seed)


@pytest.mark.parametrize("axis", [None, 1.0, "1", (0, 1), True])
def test_gumbel_softmax_rejects_axis(axis):
    with pytest.raises(ValueError, match=r"`axis`.*an integer"):
        GumbelSoftmax(axis=axis)


@pytest.mark.parametrize("axis", [2, -3])
def test_gumbel_softmax_rejects_axis_its_inputs_lack(axis):
    layer = GumbelSoftmax(axis=axis)

    with pytest.raises(ValueError, match=r"`axis`.*in \[-2, 2\)"):
        layer(LOGITS)


def test_gumbel_softmax_rejects_axis_of_unknown_length():
    layer = GumbelSoftmax(axis=1)

    with pytest.raises(ValueError, match=r"known length.*\(None, None, 3\)"):
        layer(keras.Input((None, 3)))
