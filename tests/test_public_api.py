import inspect
import pickle
import pkgutil
import pydoc
import re

import keras
import pytest

import keras_gumbel

pytestmark = pytest.mark.one_backend

# The promise of the package: names and signatures. Changing a line here is
# changing the API, and belongs in the changelog.
API = """
FeatureSelector(model=None, *, n_features_to_select=None, epochs=100, \
batch_size=None, random_state=None, verbose=0)
SparsityWarning(message)
WeightAxes(units=(), inputs=None, uses=None, summed=None)
__version__
calibrate(model, x, batch_size=None, steps=None, verbose='auto')
callbacks.OnceFinal(callback)
callbacks.SparsityLogger(validation_data=None, batch_size=None)
constraints.CappedBox(budget)
diagnostics.GradientReport(rows, gradient)
diagnostics.GradientRow(estimator, bias, bias_error, variance, cosine)
estimators.ARM()
estimators.DisARM()
estimators.Estimator(backward_temperature=None)
estimators.FromFunction(function, backward_temperature=None)
estimators.Gapped(gap=1.0, backward_temperature=None)
estimators.GumbelRao(num_samples=10, backward_temperature=None)
estimators.REBAR(eta=1.0)
estimators.RLOO()
estimators.ReinMax(backward_temperature=1.0)
estimators.ScoreFunction()
estimators.ScoreTape()
estimators.StraightThrough(backward_temperature=None)
estimators.StraightThroughGumbel(backward_temperature=None)
estimators.get(identifier)
export_litert(model, path, x, measure_time=False)
gradient_report(function, logits=None, probs=None, estimators=None, \
temperature=1.0, num_samples=10000, num_draws=2, seed=None)
granularities.Block(rows, columns)
granularities.Channel()
granularities.FanIn()
granularities.Granularity()
granularities.NOfM(n, m)
granularities.ScoreLayout(shape, split, scores, rows=None)
granularities.Unit()
granularities.Weight()
granularities.get(identifier)
harden(model, density=None, budget=None, reconstruct=False)
harden_best(model, data, density=None, budget=None, num_samples=10, \
batch_size=None, seed=None)
layer_densities(model, density, method='erk')
layers.ConcreteMask(axis=-1, temperature=0.6666666666666666, hard=False, \
estimator='straight_through_gumbel', scores_initializer='ones', \
scores_constraint=None, inference='mean', learn_temperature=False, \
precision='standard', seed=None, **kwargs)
layers.GumbelSoftmax(temperature=1.0, hard=False, \
estimator='straight_through_gumbel', axis=-1, inference='argmax', \
learn_temperature=False, precision='standard', logits_regularizer=None, \
uniform_mix=0.0, noise_shape=None, return_soft=False, seed=None, **kwargs)
layers.PermutationSampler(temperature=1.0, hard=True, num_iterations=20, \
inference='matching', learn_temperature=False, precision='standard', \
noise_shape=None, return_soft=False, seed=None, **kwargs)
layers.StraightThroughArgmax(temperature=1.0, \
estimator='straight_through_gumbel', output_mode='one_hot', axis=-1, \
inference='argmax', learn_temperature=False, precision='standard', \
logits_regularizer=None, uniform_mix=0.0, noise_shape=None, \
return_soft=False, seed=None, **kwargs)
layers.SubsetSampler(k, temperature=1.0, estimator='simple', hard=True, \
axis=-1, inference='top_k', learn_temperature=False, precision='standard', \
logits_regularizer=None, noise_shape=None, return_soft=False, seed=None, \
**kwargs)
mark_scores(variable, saliency=None, weights_per_score=1, rows=None, \
pretrained=False, minimum=0.0)
masks.ConcreteMask(axis=-1, temperature=0.6666666666666666, hard=False, \
estimator='straight_through_gumbel', scores_initializer='ones', \
scores_constraint=None, inference='mean', learn_temperature=False, \
precision='standard', seed=None, **kwargs)
masks.FisherMask(gradient='masked', **kwargs)
masks.GaussianMask(inference='mean', seed=None, **kwargs)
masks.HardConcreteMask(temperature=0.6666666666666666, inference='mean', \
learn_temperature=False, precision='standard', seed=None, **kwargs)
masks.LearnedMask(axis=-1, scores_initializer='ones', scores_constraint=None, \
**kwargs)
masks.MagnitudeMask(gradient='masked', frequency=1, **kwargs)
masks.Mask(axis=-1, scores_initializer='ones', scores_constraint=None, \
**kwargs)
masks.PatternMask(temperature=1.0, scale=10.0, prior=0.25, inference='mode', \
seed=None, **kwargs)
masks.RandomMask(seed=None, **kwargs)
masks.SaliencyMask(method='wanda', gradient='masked', frequency=1, **kwargs)
masks.get(identifier)
metrics.CodePerplexity(num_classes, axis=-1, num_groups=None, \
name='code_perplexity', dtype=None)
metrics.CodeUsage(num_classes, axis=-1, num_groups=None, name='code_usage', \
dtype=None)
models.MonteCarloModel(model, num_samples=2, **kwargs)
ops.binary_concrete_log_prob(logit_sample, logits, temperature=1.0)
ops.categorical(logits, axis=-1, mask=None, seed=None)
ops.categorical_entropy(logits, axis=-1, mask=None)
ops.categorical_kl(logits, prior_logits=None, axis=-1, mask=None)
ops.concrete_log_prob(log_sample, logits, temperature=1.0, axis=-1, \
mask=None)
ops.exp_concrete_log_prob(log_sample, logits, temperature=1.0, axis=-1, \
mask=None)
ops.gumbel_log_softmax(logits, temperature=1.0, axis=-1, mask=None, \
noise=None, seed=None)
ops.gumbel_max(logits, axis=-1, mask=None, noise=None, seed=None)
ops.gumbel_sinkhorn(logits, temperature=1.0, hard=False, num_iterations=20, \
mask=None, noise=None, seed=None)
ops.gumbel_softmax(logits, temperature=1.0, hard=False, axis=-1, mask=None, \
noise=None, seed=None, estimator='straight_through_gumbel')
ops.gumbel_top_k(logits, k, axis=-1, mask=None, noise=None, seed=None)
ops.hard_concrete(probs, temperature=0.6666666666666666, low=-0.1, high=1.1, \
noise=None, seed=None)
ops.logit_binary_concrete_log_prob(logit_sample, logits, temperature=1.0)
ops.logit_relaxed_bernoulli(logits, temperature=1.0, noise=None, seed=None)
ops.matching(logits, mask=None)
ops.mix_uniform(logits, epsilon=0.01, axis=-1, mask=None)
ops.one_hot_argmax(values, axis=-1)
ops.plackett_luce_log_prob(indices, logits, axis=-1, mask=None)
ops.project_capped_box(values, budget, costs=None, equality=False, axis=None, \
differentiable=True)
ops.relaxed_bernoulli(probs, temperature=1.0, hard=False, noise=None, \
seed=None, estimator='straight_through_gumbel')
ops.relaxed_top_k(logits, k, temperature=1.0, hard=False, axis=-1, mask=None, \
noise=None, seed=None)
ops.sample_bernoulli(probs, temperature=1.0, \
estimator='straight_through_gumbel', noise=None, seed=None)
ops.sample_one_hot(logits, temperature=1.0, \
estimator='straight_through_gumbel', axis=-1, mask=None, noise=None, \
seed=None)
ops.sample_subset(logits, k, axis=-1, mask=None, noise=None, seed=None)
ops.sample_without_replacement(logits, k, axis=-1, mask=None, noise=None, \
seed=None)
ops.sinkhorn(logits, temperature=1.0, num_iterations=20, mask=None)
ops.soft_rank(values, temperature=1.0, axis=-1)
ops.soft_top_k(values, k, temperature=1.0, hard=False, axis=-1, mask=None)
ops.stochastic_gate(probs, sigma=0.5, noise=None, seed=None)
ops.straight_through(hard, soft)
ops.subset_marginals(logits, k, axis=-1, mask=None)
ops.top_k_mask(values, budget, costs=None, ties=None)
optimizers.ProjectedOptimizer(inner_optimizer, density=None, budget=None, \
score_optimizer='auto', harden_step='auto', regrow=True, costs=None, \
global_clipnorm=None, name=None)
optimizers.ScoreSGD(learning_rate=0.05, momentum=0.8, curvature=1.0, \
batch_size=32, decay=0.95, significance=5.0, name='score_sgd', **kwargs)
random.gumbel(shape, dtype=None, seed=None, precision='standard')
random.logistic(shape, dtype=None, seed=None, precision='standard')
recalibrate_batch_normalization(model, x, batch_size=None, steps=None)
register_weight_axes(layer_class, axes)
regularizers.CategoricalKL(factor=1.0, prior_logits=None, axis=-1, \
reduction='mean', name='kl')
save_compressed(model, path)
schedules.Constant(value)
schedules.CosineAnnealing(initial, final, steps=None)
schedules.CubicDensity(final, steps=None, initial=None, begin=0.0, end=None)
schedules.ExponentialAnnealing(initial, final, steps=None)
schedules.LinearAnnealing(initial, final, steps=None)
shrink(model)
shrink_report(model)
shrinking.ShrinkReport(rows, parameters, kept, skipped)
shrinking.ShrinkRow(name, units, kept, reasons)
soften(model)
sparsify(model, mask=None, filters=None, granularity='weight', \
minimum=None, freeze_weights=False, keep_zeros=False, pretrained=None, \
seed=None)
sparsity.LiteRTReport(size, dense_size, max_difference, seconds, dense_seconds)
sparsity.SparsityReport(rows, budget, budget_used, skipped, other_bytes, \
score_steps=None)
sparsity.SparsityRow(name, weights, kept, expected, undecided, size, \
counts='weights')
sparsity.SparsitySize(dense, gzip, bitmask, coo, scores, slots)
sparsity_costs(model, measure='multiply_adds', inputs=None)
sparsity_report(model)
strip(model)
visualization.plot_binary_concrete(prob=0.5, \
temperatures=(0.2, 0.5, 1.0, 2.0), ax=None)
visualization.plot_history(history, keys=None, ax=None)
visualization.plot_mask(model, name=None, image_shape=None, ax=None)
visualization.plot_pareto(results, ax=None)
visualization.plot_schedules(schedules, steps, ax=None)
visualization.plot_scores(model, bins=40, ax=None)
visualization.plot_simplex(logits=(0.0, 0.0, 0.0), \
temperatures=(0.1, 0.5, 1.0, 5.0), num_samples=200, seed=None, ax=None)
visualization.plot_sparsity(report, ax=None)
"""

REGISTERED = [
    "ARM",
    "Block",
    "CappedBox",
    "CategoricalKL",
    "Channel",
    "CodePerplexity",
    "CodeUsage",
    "ConcreteMask",
    "Constant",
    "CosineAnnealing",
    "CubicDensity",
    "DisARM",
    "ExponentialAnnealing",
    "FanIn",
    "FisherMask",
    "FromFunction",
    "Gapped",
    "GaussianMask",
    "GumbelRao",
    "GumbelSoftmax",
    "HardConcreteMask",
    "LearnedMask",
    "LinearAnnealing",
    "MagnitudeMask",
    "MaskedLayer",
    "MonteCarloModel",
    "NOfM",
    "PatternMask",
    "PermutationSampler",
    "ProjectedOptimizer",
    "REBAR",
    "RLOO",
    "RandomMask",
    "ReinMax",
    "SaliencyMask",
    "ScoreSGD",
    "StraightThrough",
    "StraightThroughArgmax",
    "StraightThroughGumbel",
    "SubsetSampler",
    "Unit",
    "Weight",
]


def public_modules():
    """Yields the package and its modules, each with the prefix of its names."""
    yield "", keras_gumbel
    for name in keras_gumbel.__all__:
        if inspect.ismodule(getattr(keras_gumbel, name)):
            yield f"{name}.", getattr(keras_gumbel, name)


def public_objects():
    """Yields the dotted name and object of everything public."""
    for prefix, module in public_modules():
        for name in module.__all__:
            value = getattr(module, name)
            if not inspect.ismodule(value) and name != "__version__":
                yield prefix + name, value


MODULES = dict(public_modules())
OBJECTS = dict(public_objects())


def _signature(value):
    parameters = inspect.signature(value).parameters.values()
    bare = [p.replace(annotation=p.empty) for p in parameters]
    return str(inspect.Signature(bare))


def test_public_names_and_signatures_are_the_promised_ones():
    found = {name + _signature(value) for name, value in OBJECTS.items()}

    assert sorted(found | {"__version__"}) == sorted(API.strip().splitlines())


@pytest.mark.parametrize("name", REGISTERED)
def test_registered_names_stay(name):
    registered = keras.saving.get_registered_object(f"keras_gumbel>{name}")

    # `MaskedLayer` stands for the classes below it, too.
    assert name in [kind.__name__ for kind in registered.__mro__]


def test_every_registered_class_is_listed():
    registered = [
        key.removeprefix("keras_gumbel>")
        for key in keras.saving.get_custom_objects()
        if key.startswith("keras_gumbel>")
    ]

    assert sorted(registered) == REGISTERED


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_completion_shows_public_names_and_no_others(module):
    assert dir(module) == sorted(module.__all__)


def test_every_other_module_is_private():
    modules = {module.__name__ for module in MODULES.values()}
    found = pkgutil.walk_packages(keras_gumbel.__path__, "keras_gumbel.")

    looks_public = {m.name for m in found if "._" not in m.name}

    assert looks_public | {"keras_gumbel"} == modules


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_every_public_name_is_documented(module):
    values = [module, *(getattr(module, name) for name in module.__all__)]

    bare = [v for v in values if not isinstance(v, str) and not v.__doc__]

    assert bare == []


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_tables_of_a_module_name_what_is_in_it(module):
    named = re.findall(r"^\| `(\w+)", module.__doc__, re.MULTILINE)

    assert set(named) <= set(module.__all__)
    if module is keras_gumbel.layers:
        assert sorted(named) == module.__all__


def test_help_lists_functions_of_the_package():
    text = pydoc.plain(pydoc.render_doc(keras_gumbel))

    listed = re.findall(r"^    (\w+)\(", text, re.MULTILINE)
    assert {"sparsify", "harden", "strip", "shrink", "calibrate"} <= set(listed)


@pytest.mark.parametrize("value", OBJECTS.values(), ids=OBJECTS)
def test_public_objects_can_be_pickled_by_name(value):
    assert pickle.loads(pickle.dumps(value)) is value


@pytest.mark.parametrize("value", OBJECTS.values(), ids=OBJECTS)
def test_registered_names_hold_no_module(value):
    known = keras.saving.get_registered_name(value)

    assert known in (f"keras_gumbel>{value.__name__}", value.__name__)
