"""Every layer keeps every contract, and every contract can be broken."""

import inspect
import itertools

import keras
import numpy as np
import pytest
from keras import ops

import keras_gumbel as kg
from keras_gumbel.constraints import CappedBox
from keras_gumbel.layers import GumbelSoftmax
from keras_gumbel.layers import PermutationSampler
from keras_gumbel.layers import StraightThroughArgmax
from keras_gumbel.layers import SubsetSampler
from keras_gumbel.masks import ConcreteMask
from keras_gumbel.masks import GaussianMask
from keras_gumbel.masks import HardConcreteMask
from keras_gumbel.masks import LearnedMask
from keras_gumbel.masks import MagnitudeMask
from keras_gumbel.masks import Mask
from keras_gumbel.masks import PatternMask
from keras_gumbel.masks import RandomMask
from keras_gumbel.masks import SaliencyMask
from keras_gumbel.masks._magnitude_mask import RankedMask
from keras_gumbel.regularizers import CategoricalKL
from keras_gumbel.schedules import LinearAnnealing
from tests import contracts
from tests.contracts import check_cell_draws_in_every_time_step
from tests.contracts import check_config_round_trip
from tests.contracts import check_dtype_policies
from tests.contracts import check_fit_compiled
from tests.contracts import check_fit_eagerly
from tests.contracts import check_fit_uncompiled
from tests.contracts import check_given_noise_leaves_no_trace
from tests.contracts import check_inference_changes_no_state
from tests.contracts import check_inference_has_no_random_op
from tests.contracts import check_inference_is_deterministic
from tests.contracts import check_mask_propagation
from tests.contracts import check_models
from tests.contracts import check_other_seed_other_draws
from tests.contracts import check_rematerialization_repeats_noise
from tests.contracts import check_same_seed_same_draws
from tests.contracts import check_saving
from tests.contracts import check_symbolic_call
from tests.contracts import check_training_draws_anew
from tests.contracts import check_two_calls_are_one_step
from tests.contracts import check_variable_counts

CHECKS = [
    check
    for name, check in vars(contracts).items()
    if name.startswith("check_") and check is not check_variable_counts
]

serialized = keras.saving.serialize_keras_object

HALF = keras.initializers.Constant(0.5)

FLOATS = np.random.default_rng(0).normal(size=(4, 3, 5)).astype("float32")
FLOATS[:, 2] = 0.0  # a time step for `Masking` to mask

SQUARES = np.random.default_rng(1).normal(size=(4, 3, 3)).astype("float32")
SQUARES[:, 2] = 0.0  # an item for `Masking` to mask

INDICES = np.array([[1, 2, 0], [3, 1, 2], [0, 3, 1], [2, 0, 3]], "int32")


def gumbel_softmax(seed=0):
    schedule = LinearAnnealing(1.0, 0.5, steps=4)
    return GumbelSoftmax(schedule, inference="softmax", seed=seed)


def hard_gumbel_softmax(seed=0):
    return GumbelSoftmax(0.5, hard=True, seed=seed)


def straight_through_argmax(seed=0):
    return StraightThroughArgmax(2.0, seed=seed)


def gumbel_rao_argmax(seed=0):
    return StraightThroughArgmax(
        2.0,
        estimator="gumbel_rao",
        learn_temperature=True,
        precision="high",
        logits_regularizer=keras.regularizers.L2(0.1),
        seed=seed,
    )


def explored_argmax(seed=0):
    return StraightThroughArgmax(
        uniform_mix=0.1, noise_shape=(None, 1, None), seed=seed
    )


def argmax_with_divergence(seed=0):
    factor = LinearAnnealing(1.0, 0.5, steps=4)
    kl = CategoricalKL(factor, reduction="sum")
    return StraightThroughArgmax(2.0, logits_regularizer=kl, seed=seed)


def subset_sampler(seed=0):
    return SubsetSampler(2, inference="marginals", seed=seed)


def permutation_sampler(seed=0):
    schedule = LinearAnnealing(1.0, 0.5, steps=4)
    return PermutationSampler(schedule, seed=seed)


def soft_permutation_sampler(seed=0):
    return PermutationSampler(
        0.5, hard=False, inference="sinkhorn", precision="high", seed=seed
    )


def concrete_mask(seed=0):
    return ConcreteMask(scores_initializer=HALF, seed=seed)


def binary_concrete_mask(seed=0):
    schedule = LinearAnnealing(1.0, 0.5, steps=4)
    return ConcreteMask(
        [1, 2], schedule, hard=True, scores_initializer=HALF, seed=seed
    )


def hard_concrete_mask(seed=0):
    schedule = LinearAnnealing(1.0, 0.5, steps=4)
    return HardConcreteMask(schedule, scores_initializer=HALF, seed=seed)


def gaussian_mask(seed=0):
    return GaussianMask(scores_initializer=HALF, seed=seed)


def learned_mask(seed=0):
    return LearnedMask(scores_initializer=HALF)


def masked_dense(seed=0):
    dense = keras.layers.Dense(2, kernel_initializer="ones")
    dense.build(FLOATS.shape)
    return kg.sparsify(dense, ConcreteMask(scores_initializer=HALF), seed=seed)


def masked_dense_by_patterns(seed=0):
    dense = keras.layers.Dense(2, kernel_initializer="ones")
    dense.build(FLOATS.shape)
    mask = PatternMask(LinearAnnealing(1.0, 0.5, steps=4))
    return kg.sparsify(dense, mask, granularity="2:5", seed=seed)


def masked_embedding(seed=0):
    embedding = keras.layers.Embedding(
        4, 3, embeddings_initializer="ones", mask_zero=True
    )
    embedding.build(INDICES.shape)
    schedule = LinearAnnealing(1.0, 0.5, steps=4)
    mask = ConcreteMask(None, schedule, hard=True, scores_initializer=HALF)
    return kg.sparsify(embedding, mask, seed=seed)


# Inputs, and the numbers of trainable variables, others and noise states.
LAYERS = {
    gumbel_softmax: (FLOATS, (0, 1, 1)),
    hard_gumbel_softmax: (FLOATS, (0, 1, 1)),
    straight_through_argmax: (FLOATS, (0, 1, 1)),
    gumbel_rao_argmax: (FLOATS, (1, 1, 1)),
    explored_argmax: (FLOATS, (0, 1, 1)),
    argmax_with_divergence: (FLOATS, (0, 3, 1)),
    subset_sampler: (FLOATS, (0, 1, 1)),
    permutation_sampler: (SQUARES, (0, 1, 1)),
    soft_permutation_sampler: (SQUARES, (0, 1, 1)),
    concrete_mask: (FLOATS, (1, 1, 1)),
    binary_concrete_mask: (FLOATS, (1, 1, 1)),
    hard_concrete_mask: (FLOATS, (1, 1, 1)),
    gaussian_mask: (FLOATS, (1, 0, 1)),
    learned_mask: (FLOATS, (1, 0, 0)),
    masked_dense: (FLOATS, (3, 1, 1)),
    masked_dense_by_patterns: (FLOATS, (3, 1, 1)),
    masked_embedding: (INDICES, (2, 1, 1)),
}

# What they do not have to keep: their configs are those of layers with masks
# on their weights, or they draw no noise.
EXCEPT = {
    masked_dense: [check_config_round_trip],
    masked_dense_by_patterns: [check_config_round_trip],
    masked_embedding: [check_config_round_trip],
    learned_mask: [
        check_other_seed_other_draws,
        check_training_draws_anew,
        check_cell_draws_in_every_time_step,
    ],
    # Its estimator draws once more.
    gumbel_rao_argmax: [check_given_noise_leaves_no_trace],
}


L2 = keras.regularizers.L2(0.5)

OF_MASKS = {
    "axis": [0, 2],
    "scores_initializer": HALF,
    "scores_constraint": CappedBox(2.0),
}
OF_RANKED = {**OF_MASKS, "gradient": "dense", "frequency": 5}

# A value other than the default for every argument.
ARGUMENTS = {
    GumbelSoftmax: {
        "temperature": 0.7,
        "hard": True,
        "estimator": kg.estimators.GumbelRao(3),
        "axis": 1,
        "inference": "softmax",
        "learn_temperature": True,
        "precision": "high",
        "logits_regularizer": L2,
        "uniform_mix": 0.1,
        "noise_shape": (None, 1),
        "return_soft": True,
        "seed": 7,
    },
    StraightThroughArgmax: {
        "temperature": 0.7,
        "estimator": kg.estimators.Gapped(0.5),
        "output_mode": "index",
        "axis": 1,
        "inference": "sample",
        "learn_temperature": True,
        "precision": "high",
        "logits_regularizer": L2,
        "uniform_mix": 0.1,
        "noise_shape": (None, 1),
        "return_soft": True,
        "seed": 7,
    },
    SubsetSampler: {
        "k": 3,
        "temperature": 0.7,
        "estimator": "relaxed_top_k",
        "hard": False,
        "axis": 1,
        "inference": "sample",
        "learn_temperature": True,
        "precision": "high",
        "logits_regularizer": L2,
        "noise_shape": (1, None),
        "seed": 7,
    },
    PermutationSampler: {
        "temperature": 0.7,
        "hard": False,
        "num_iterations": 3,
        "inference": "sample",
        "learn_temperature": True,
        "precision": "high",
        "noise_shape": (1, None, None),
        "seed": 7,
    },
    ConcreteMask: {
        **OF_MASKS,
        "temperature": 0.7,
        "hard": True,
        "estimator": kg.estimators.StraightThrough(),
        "inference": "mode",
        "learn_temperature": True,
        "precision": "high",
        "seed": 7,
    },
    HardConcreteMask: {
        **OF_MASKS,
        "temperature": 0.7,
        "inference": "mode",
        "learn_temperature": True,
        "precision": "high",
        "seed": 7,
    },
    GaussianMask: {**OF_MASKS, "inference": "mode", "seed": 7},
    LearnedMask: OF_MASKS,
    PatternMask: {
        **OF_MASKS,
        "temperature": 0.7,
        "scale": 3.0,
        "prior": 0.5,
        "inference": "mean",
        "seed": 7,
    },
    MagnitudeMask: OF_RANKED,
    SaliencyMask: {**OF_RANKED, "method": "obs"},
    RandomMask: {**OF_RANKED, "seed": 7},
}


def parameters_of(layer_class):
    """Returns the parameters of a class, those of masks among them."""
    own = dict(inspect.signature(layer_class).parameters)
    bases = [RankedMask, Mask]
    for base in (b for b in bases if issubclass(layer_class, b)):
        own |= inspect.signature(base).parameters
    return own


def skip_unless_it_compiles(check):
    backend = keras.config.backend()
    if check is check_fit_compiled and backend == "torch":
        pytest.skip("torch.compile takes half a minute a layer")
    if check is check_fit_eagerly and backend == "jax":
        pytest.skip("torch, eager by nature, checks the same")
    if check is check_rematerialization_repeats_noise and backend == "jax":
        pytest.skip("in test_rematerialization.py, for some: all take a minute")
    if check is check_fit_uncompiled and backend != "tensorflow":
        pytest.skip("the same as `run_eagerly`")


# Checks of what Python does, and layers that are options of another one.
IN_PYTHON = (
    check_config_round_trip,
    check_mask_propagation,
    check_models,
    check_other_seed_other_draws,
    check_given_noise_leaves_no_trace,
)
OPTIONS = (
    hard_gumbel_softmax,
    explored_argmax,
    argmax_with_divergence,
    soft_permutation_sampler,
    masked_dense_by_patterns,
)
ON_ALL_OPTIONS = (
    check_saving,
    check_fit_compiled,
    check_fit_uncompiled,
    check_dtype_policies,
    check_inference_has_no_random_op,
)


def cells():
    for check, make in itertools.product(CHECKS, LAYERS):
        option = make in OPTIONS and check not in ON_ALL_OPTIONS
        one = option or check in IN_PYTHON
        marks = [pytest.mark.one_backend] * one
        yield pytest.param(check, make, marks=marks)


@pytest.mark.parametrize(("check", "make"), list(cells()))
def test_layer_keeps_contract(check, make):
    skip_unless_it_compiles(check)
    if check in EXCEPT.get(make, ()):
        pytest.skip("not promised")
    compiles = keras.config.backend() == "jax"
    if check is check_cell_draws_in_every_time_step and compiles:
        if make not in (gumbel_softmax, concrete_mask, masked_dense):
            pytest.skip("all others are compiled in the same way")
    inputs, _ = LAYERS[make]

    check(make, inputs)


@pytest.mark.parametrize("layer_class", ARGUMENTS)
def test_config_keeps_every_argument(layer_class):
    arguments = ARGUMENTS[layer_class]
    layer = layer_class(**arguments)

    again = layer_class.from_config(layer.get_config())

    defaults = parameters_of(layer_class)
    # A sample that is soft itself has no soft one beside it.
    left = (
        {"kwargs"}
        if arguments.get("hard", True)
        else {
            "kwargs",
            "return_soft",
        }
    )
    assert set(arguments) == set(defaults) - left
    for name, value in arguments.items():
        assert value != defaults[name].default
        for one in (layer, again):
            assert serialized(getattr(one, name)) == serialized(value)


@pytest.mark.parametrize("make", LAYERS)
def test_layer_has_expected_variables(make):
    inputs, counts = LAYERS[make]

    check_variable_counts(make, inputs, *counts)


class ForgetsArgument(GumbelSoftmax):
    def get_config(self):
        config = super().get_config()
        del config["hard"]
        return config


class MistakesArgument(GumbelSoftmax):
    def get_config(self):
        return {**super().get_config(), "hard": False}


class ConfigIsNoJson(GumbelSoftmax):
    def get_config(self):
        return {**super().get_config(), "hard": np.array(True)}


@keras.saving.register_keras_serializable(package="tests")
class ForgetsNoise(GumbelSoftmax):
    def save_own_variables(self, store):
        keras.layers.Layer.save_own_variables(self, store)


@keras.saving.register_keras_serializable(package="tests")
class ForgetsStep(GumbelSoftmax):
    def load_own_variables(self, store):
        super().load_own_variables(store)
        self.step.assign(0)


@keras.saving.register_keras_serializable(package="tests")
class LoadsOtherScores(ConcreteMask):
    def load_own_variables(self, store):
        super().load_own_variables(store)
        self.mask_scores.assign(self.mask_scores * 0.999)


class PromisesOtherShape(GumbelSoftmax):
    def compute_output_shape(self, input_shape):
        return (*input_shape, 1)


class PromisesOtherDtype(GumbelSoftmax):
    def compute_output_spec(self, inputs, *args, **kwargs):
        return keras.KerasTensor(inputs.shape, "float32")


class ReturnsFloat32(GumbelSoftmax):
    def call(self, inputs, mask=None, training=False):
        return ops.cast(super().call(inputs, mask, training), "float32")


class Overflows(GumbelSoftmax):
    def call(self, inputs, mask=None, training=False):
        outputs = super().call(inputs, mask, training)
        return outputs * 1e4 * 1e4


class HalvesScores(ConcreteMask):
    def add_weight(self, *args, **kwargs):
        if kwargs["name"] == "mask_scores":
            kwargs["dtype"] = self.variable_dtype
        return super().add_weight(*args, **kwargs)


class BlocksGradient(GumbelSoftmax):
    def call(self, inputs, mask=None, training=False):
        return super().call(ops.stop_gradient(inputs), mask, training)


class NeverCounts(GumbelSoftmax):
    def count(self, training):
        return self.step


class CountsTwice(GumbelSoftmax):
    def count(self, training):
        self.step.assign_add(1)
        return super().count(training)


class CountsEveryCall(GumbelSoftmax):
    def _count(self):
        self.step.assign_add(1)
        return self.step - 1


class KeepsState(GumbelSoftmax):
    def call(self, inputs, mask=None, training=False, noise=None):
        self.count(training)
        return super().call(inputs, mask, training, noise=noise)


class DrawsInCell(GumbelSoftmax):
    def draw_noise(self, shape):
        return keras.random.uniform(shape, seed=3)


class DrawsAgain(GumbelSoftmax):
    def draw_noise(self, shape):
        return keras.random.uniform(shape, seed=self.seed_generator)


class NeedsValues(GumbelSoftmax):
    def call(self, inputs, mask=None, training=False):
        ops.convert_to_numpy(inputs)
        return super().call(inputs, mask, training)


class IgnoresSeed(GumbelSoftmax):
    def __init__(self, *args, seed=None, **kwargs):
        super().__init__(*args, seed=0, **kwargs)


class IgnoresSeedAtRandom(GumbelSoftmax):
    def __init__(self, *args, seed=None, **kwargs):
        super().__init__(*args, seed=None, **kwargs)


class RepeatsItself(GumbelSoftmax):
    def call(self, inputs, mask=None, training=False):
        self.seed_generator = keras.random.SeedGenerator(0)
        return super().call(inputs, mask, training)


class AlwaysDraws(GumbelSoftmax):
    def draws(self, training):
        return True


class CountsInference(GumbelSoftmax):
    def call(self, inputs, mask=None, training=False):
        outputs = super().call(inputs, mask, training)
        self.step.assign_add(int(not training))
        return outputs


class DrawsInVain(GumbelSoftmax):
    def call(self, inputs, mask=None, training=False):
        noise = keras.random.uniform(ops.shape(inputs), seed=self.source())
        return super().call(inputs + 0.0 * noise, mask, training)

    def source(self):
        return self.seed_generator


class DrawsInVainFromInteger(DrawsInVain):
    def source(self):
        return 0


class DropsMask(GumbelSoftmax):
    def compute_mask(self, inputs, previous_mask):
        return None


class InvertsMask(GumbelSoftmax):
    def compute_mask(self, inputs, previous_mask):
        return ops.logical_not(previous_mask)


class DeniesMask(GumbelSoftmax):
    def build(self, input_shape):
        super().build(input_shape)
        self.supports_masking = False


class NeedsBatchSize(GumbelSoftmax):
    def build(self, input_shape):
        if input_shape[0] is None:
            raise ValueError("What is the size of the batch?")
        super().build(input_shape)


class AddsVariable(GumbelSoftmax):
    def build(self, input_shape):
        super().build(input_shape)
        self.more = self.add_weight(name="more")


class AddsSeedGenerator(GumbelSoftmax):
    def build(self, input_shape):
        super().build(input_shape)
        self.more = keras.random.SeedGenerator(0)


class FreezesScores(ConcreteMask):
    def build(self, input_shape):
        super().build(input_shape)
        self.trainable = False


BROKEN = [
    (check_config_round_trip, ForgetsArgument),
    (check_config_round_trip, MistakesArgument),
    (check_config_round_trip, ConfigIsNoJson),
    (check_saving, ForgetsNoise),
    (check_saving, ForgetsStep),
    (check_saving, LoadsOtherScores),
    (check_symbolic_call, PromisesOtherShape),
    (check_symbolic_call, PromisesOtherDtype),
    (check_dtype_policies, ReturnsFloat32),
    (check_dtype_policies, Overflows),
    (check_dtype_policies, HalvesScores),
    (check_fit_compiled, NeedsValues),
    (check_fit_uncompiled, NeedsValues),
    (check_fit_eagerly, BlocksGradient),
    (check_fit_eagerly, NeverCounts),
    (check_fit_eagerly, CountsTwice),
    (check_same_seed_same_draws, IgnoresSeedAtRandom),
    (check_other_seed_other_draws, IgnoresSeed),
    (check_training_draws_anew, RepeatsItself),
    (check_inference_is_deterministic, AlwaysDraws),
    (check_inference_changes_no_state, AlwaysDraws),
    (check_inference_changes_no_state, CountsInference),
    (check_inference_has_no_random_op, DrawsInVain),
    (check_inference_has_no_random_op, DrawsInVainFromInteger),
    (check_mask_propagation, DropsMask),
    (check_mask_propagation, InvertsMask),
    (check_mask_propagation, DeniesMask),
    (check_models, NeedsBatchSize),
    (check_two_calls_are_one_step, CountsEveryCall),
    (check_given_noise_leaves_no_trace, KeepsState),
    (check_cell_draws_in_every_time_step, DrawsInCell),
    (check_rematerialization_repeats_noise, DrawsAgain),
]


def test_every_contract_is_known_to_fail():
    broken = {check for check, _ in BROKEN}

    assert broken == set(CHECKS)


# What fails in a trace alone fails nowhere on torch.
IN_TRACES = (
    check_fit_compiled,
    check_fit_uncompiled,
    check_inference_has_no_random_op,
    check_cell_draws_in_every_time_step,
)


@pytest.mark.parametrize(
    ("check", "broken"),
    [
        (check, broken)
        if check in IN_TRACES
        else pytest.param(check, broken, marks=pytest.mark.one_backend)
        for check, broken in BROKEN
    ],
)
# Exception: some breaches are found by Keras or the backend, not by us.
def test_contract_rejects_broken_layer(check, broken):
    skip_unless_it_compiles(check)
    if broken is DrawsInVainFromInteger and keras.config.backend() == "torch":
        pytest.skip("torch traces nothing that could be searched")

    def make(seed=0):
        return broken(hard=True, seed=seed)

    with pytest.raises(Exception):  # noqa: B017, PT011
        check(make, FLOATS)


@pytest.mark.parametrize(
    "broken", [AddsVariable, AddsSeedGenerator, FreezesScores]
)
def test_variable_counts_reject_broken_layer(broken):
    counts = (1, 1, 1) if broken is FreezesScores else (0, 1, 1)

    with pytest.raises(AssertionError):
        check_variable_counts(broken, FLOATS, *counts)
