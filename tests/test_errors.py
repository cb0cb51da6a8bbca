import re

import keras
import pytest
from keras import ops

import keras_gumbel as kg
from keras_gumbel._validation import invalid_argument
from tests.newer_keras import require_keras

TEMPLATE = re.compile(
    r"Argument `\w+` of `[\w.]+` must be .+\. "
    r"Received: \w+=.+ \(of type \w+\)\.( .+\.)?",
    re.DOTALL,
)


def _model():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])


def _sparse():
    return kg.sparsify(_model())


def _renormalized():
    require_keras("3.14", "batch renormalization")
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.BatchNormalization(renorm=True)]
    )


def _build(optimizer):
    optimizer.build(_sparse().trainable_variables)


DATA = (ops.ones((2, 4)), ops.ones((2, 3)))


def _projected(**kwargs):
    return kg.optimizers.ProjectedOptimizer("sgd", **kwargs)


# What is called, and the argument its message must name.
BAD_VALUES = {
    "softmax temperature": (
        lambda: kg.ops.gumbel_softmax([0.0, 1.0], temperature=0.0),
        "temperature",
    ),
    "softmax axis": (lambda: kg.ops.gumbel_softmax([0.0, 1.0], axis=1), "axis"),
    "softmax mask": (
        lambda: kg.ops.gumbel_softmax([0.0, 1.0], mask=[True] * 3),
        "mask",
    ),
    "max axis": (lambda: kg.ops.gumbel_max([0.0, 1.0], axis=-2), "axis"),
    "one hot axis": (lambda: kg.ops.one_hot_argmax([0.0], axis=1), "axis"),
    "bernoulli temperature": (
        lambda: kg.ops.relaxed_bernoulli([0.5], temperature=-1),
        "temperature",
    ),
    "projection budget": (
        lambda: kg.ops.project_capped_box(ops.ones(3), -1),
        "budget",
    ),
    "projection values": (lambda: kg.ops.project_capped_box([], 1), "values"),
    "gumbel dtype": (lambda: kg.random.gumbel((2,), "int32"), "dtype"),
    "logistic dtype": (lambda: kg.random.logistic((2,), "bool"), "dtype"),
    "report of nothing": (lambda: kg.gradient_report(ops.sum), "logits"),
    "report of both": (
        lambda: kg.gradient_report(ops.sum, [0.0, 1.0], [0.5]),
        "logits",
    ),
    "report of too much": (
        lambda: kg.gradient_report(ops.sum, [[0.0, 1.0]] * 17),
        "logits",
    ),
    "report of too many masks": (
        lambda: kg.gradient_report(ops.sum, probs=[0.5] * 17),
        "probs",
    ),
    "report of wrong probabilities": (
        lambda: kg.gradient_report(ops.sum, probs=[1.5]),
        "probs",
    ),
    "report of a total": (
        lambda: kg.gradient_report(ops.sum, [0.0, 1.0]),
        "function",
    ),
    "report of a constant": (
        lambda: kg.gradient_report(lambda h: h[:, 0] * 0.0, [0.0, 1.0]),
        "function",
    ),
    "report estimator": (
        lambda: kg.gradient_report(
            lambda h: h[:, 0], [0.0, 1.0], estimators=["unknown"]
        ),
        "estimators",
    ),
    "report temperature": (
        lambda: kg.gradient_report(
            lambda h: h[:, 0], [0.0, 1.0], temperature=0.0
        ),
        "temperature",
    ),
    "report samples": (
        lambda: kg.gradient_report(
            lambda h: h[:, 0], [0.0, 1.0], num_samples=0
        ),
        "num_samples",
    ),
    "report seed": (
        lambda: kg.gradient_report(lambda h: h[:, 0], [0.0, 1.0], seed=-1),
        "seed",
    ),
    "layer temperature": (
        lambda: kg.layers.GumbelSoftmax(temperature=0.0),
        "temperature",
    ),
    "layer inference": (
        lambda: kg.layers.GumbelSoftmax(inference="mode"),
        "inference",
    ),
    "layer noise shape": (
        lambda: kg.layers.GumbelSoftmax(noise_shape=3),
        "noise_shape",
    ),
    "layer noise shape at build": (
        lambda: kg.layers.GumbelSoftmax(noise_shape=(None, 1)).build((2, 4)),
        "noise_shape",
    ),
    "layer noise shape of what is compared": (
        lambda: kg.layers.StraightThroughArgmax(
            estimator="rloo", noise_shape=(1, None)
        ),
        "noise_shape",
    ),
    "layer soft beside soft": (
        lambda: kg.layers.GumbelSoftmax(return_soft=True),
        "return_soft",
    ),
    "layer mix": (
        lambda: kg.layers.GumbelSoftmax(uniform_mix=2.0),
        "uniform_mix",
    ),
    "layer seed": (lambda: kg.layers.GumbelSoftmax(seed=-1), "seed"),
    "layer axis": (lambda: kg.layers.GumbelSoftmax(axis="last"), "axis"),
    "layer axis at build": (
        lambda: kg.layers.StraightThroughArgmax(axis=2).build((None, 4)),
        "axis",
    ),
    "layer axis unknown": (
        lambda: kg.layers.StraightThroughArgmax(axis=0).build((None, 4)),
        "axis",
    ),
    "mask axis": (lambda: kg.layers.ConcreteMask(axis=0.5), "axis"),
    "mask axis at build": (
        lambda: kg.layers.ConcreteMask(axis=0).build((None, 4)),
        "axis",
    ),
    "mask": (lambda: kg.sparsify(_model(), "soft"), "mask"),
    "mask gradient": (
        lambda: kg.masks.MagnitudeMask(gradient="none"),
        "gradient",
    ),
    "mask method": (
        lambda: kg.masks.SaliencyMask("magnitude"),
        "method",
    ),
    "nothing to calibrate": (
        lambda: kg.calibrate(
            keras.Sequential([keras.Input((4,)), keras.layers.ReLU()]),
            ops.ones((2, 4)),
        ),
        "model",
    ),
    "mask estimator": (
        lambda: kg.masks.ConcreteMask(estimator="identity"),
        "estimator",
    ),
    "gaussian mask inference": (
        lambda: kg.masks.GaussianMask(inference="argmax"),
        "inference",
    ),
    "hard concrete mask temperature": (
        lambda: kg.masks.HardConcreteMask(0.0),
        "temperature",
    ),
    "random mask seed": (lambda: kg.masks.RandomMask(seed=-1), "seed"),
    "granularity": (
        lambda: kg.sparsify(_model(), granularity="row"),
        "granularity",
    ),
    "block rows": (lambda: kg.granularities.Block(0, 1), "rows"),
    "N of M": (lambda: kg.granularities.NOfM(4, 2), "m"),
    "sparsify minimum": (
        lambda: kg.sparsify(_model(), minimum=1.0),
        "minimum",
    ),
    "sparsify seed": (lambda: kg.sparsify(_model(), seed=-1), "seed"),
    "constraint budget": (lambda: kg.constraints.CappedBox(-1), "budget"),
    "constant": (lambda: kg.schedules.Constant(0), "value"),
    "annealing start": (
        lambda: kg.schedules.LinearAnnealing(-1.0, 0.5, 10),
        "initial",
    ),
    "annealing end": (
        lambda: kg.schedules.ExponentialAnnealing(1.0, 0.0, 10),
        "final",
    ),
    "annealing steps": (
        lambda: kg.schedules.CosineAnnealing(1.0, 0.5, 0),
        "steps",
    ),
    "density end": (lambda: kg.schedules.CubicDensity(1.5, 10), "final"),
    "density begin": (
        lambda: kg.schedules.CubicDensity(0.5, 10, begin=1.0),
        "begin",
    ),
    "density window": (
        lambda: kg.schedules.CubicDensity(0.5, 10, begin=0.5, end=0.5),
        "end",
    ),
    "density": (lambda: _projected(density=1.5), "density"),
    "density of zero": (lambda: _projected(density=0.0), "density"),
    "density of text": (lambda: _projected(density="5%"), "density"),
    "budget": (lambda: _projected(budget=0), "budget"),
    "budget too large": (lambda: _build(_projected(budget=13)), "budget"),
    "score optimizer decays": (
        lambda: _projected(density=0.5, score_optimizer="adamw"),
        "score_optimizer",
    ),
    "score optimizer accumulates": (
        lambda: _projected(
            density=0.5,
            score_optimizer=keras.optimizers.SGD(gradient_accumulation_steps=2),
        ),
        "score_optimizer",
    ),
    "harden density": (lambda: kg.harden(_sparse(), density=0), "density"),
    "harden budget": (lambda: kg.harden(_sparse(), budget=13), "budget"),
    "harden samples": (
        lambda: kg.harden_best(_sparse(), DATA, density=0.5, num_samples=0),
        "num_samples",
    ),
    "harden seed": (
        lambda: kg.harden_best(_sparse(), DATA, density=0.5, seed=-1),
        "seed",
    ),
    "draws in a step": (
        lambda: kg.models.MonteCarloModel(_model(), num_samples=0),
        "num_samples",
    ),
    "nothing to recalibrate": (
        lambda: kg.recalibrate_batch_normalization(_model(), ops.ones((2, 4))),
        "model",
    ),
    "batch renormalization": (
        lambda: kg.recalibrate_batch_normalization(
            _renormalized(), ops.ones((2, 4))
        ),
        "model",
    ),
    "logger batch size": (
        lambda: kg.callbacks.SparsityLogger(batch_size=0),
        "batch_size",
    ),
    "file of another kind": (
        lambda: kg.save_compressed(_model(), "a.h5"),
        "path",
    ),
    "LiteRT file of another kind": (
        lambda: kg.export_litert(_model(), "a.h5", DATA[0]),
        "path",
    ),
    "no folder to save in": (
        lambda: kg.save_compressed(_model(), "no such folder/a.keras"),
        "path",
    ),
    "plot of two classes": (
        lambda: kg.visualization.plot_simplex(logits=[0.0, 1.0]),
        "logits",
    ),
    "plot of no samples": (
        lambda: kg.visualization.plot_simplex(num_samples=0),
        "num_samples",
    ),
    "plot of a sure score": (
        lambda: kg.visualization.plot_binary_concrete(1.0),
        "prob",
    ),
    "plot of no steps": (
        lambda: kg.visualization.plot_schedules({}, 0),
        "steps",
    ),
    "plot of no bins": (
        lambda: kg.visualization.plot_scores(_sparse(), bins=0),
        "bins",
    ),
    "plot of no such layer": (
        lambda: kg.visualization.plot_mask(_sparse(), "conv"),
        "name",
    ),
    "plot of other pixels": (
        lambda: kg.visualization.plot_mask(_sparse(), image_shape=(3, 3)),
        "image_shape",
    ),
}

WRONG_KINDS = {
    "tensor to sparsify": (lambda: kg.sparsify(ops.ones((2, 2))), "model"),
    "symbol to sparsify": (lambda: kg.sparsify(keras.Input((4,))), "model"),
    "class to sparsify": (lambda: kg.sparsify(keras.layers.Dense), "model"),
    "tensor to strip": (lambda: kg.strip(ops.ones(2)), "model"),
    "tensor to harden": (lambda: kg.harden(ops.ones(2)), "model"),
    "tensor to soften": (lambda: kg.soften(ops.ones(2)), "model"),
    "tensor to report": (lambda: kg.sparsity_report(ops.ones(2)), "model"),
    "layer for a class of layers": (
        lambda: kg.register_weight_axes(keras.layers.ReLU(), {}),
        "layer_class",
    ),
    "list for axes": (
        lambda: kg.register_weight_axes(keras.layers.ReLU, ["kernel"]),
        "axes",
    ),
    "layer to save": (
        lambda: kg.save_compressed(keras.layers.Dense(2), "a.keras"),
        "model",
    ),
    "layer to draw from": (
        lambda: kg.models.MonteCarloModel(keras.layers.Dense(2)),
        "model",
    ),
    "layer to recalibrate": (
        lambda: kg.recalibrate_batch_normalization(
            keras.layers.BatchNormalization(), ops.ones((2, 4))
        ),
        "model",
    ),
    "layer to calibrate": (
        lambda: kg.calibrate(keras.layers.Dense(2), ops.ones((2, 4))),
        "model",
    ),
    "layer to shrink": (lambda: kg.shrink(keras.layers.Dense(2)), "model"),
    "number for filters": (lambda: kg.sparsify(_model(), filters=3), "filters"),
    "loss scale inside": (
        lambda: kg.optimizers.ProjectedOptimizer(
            keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()),
            density=0.5,
        ),
        "inner_optimizer",
    ),
    "nothing for optimizer": (
        lambda: kg.optimizers.ProjectedOptimizer(None, density=0.5),
        "inner_optimizer",
    ),
}

STRUCTURE = {
    "density and budget": lambda: _projected(density=0.5, budget=3),
    "neither density nor budget": lambda: _projected(),
    "harden to both": lambda: kg.harden(_sparse(), density=0.5, budget=3),
    "no scores": lambda: _projected(density=0.5).build(
        _model().trainable_variables
    ),
    "no mask": lambda: kg.sparsity_report(_model()),
    "nothing to mask": lambda: kg.sparsify(_model(), filters="conv"),
    "no data to reconstruct": lambda: kg.harden(
        _sparse(), density=0.5, reconstruct=True
    ),
    "no data for densities": lambda: kg.layer_densities(_sparse(), 0.5, "owl"),
    "no budget": lambda: kg.harden(_sparse()),
    "no loss to compare": lambda: kg.harden_best(_sparse(), DATA, budget=2),
    "no budget to strip": lambda: kg.strip(_sparse()),
    "not built to sparsify": lambda: kg.sparsify(keras.layers.Dense(2)),
    "not built to harden": lambda: kg.harden(
        keras.Sequential([kg.layers.ConcreteMask()]), density=0.5
    ),
    "no mask to soften": lambda: kg.soften(_model()),
    "ranked between layers": lambda: kg.masks.MagnitudeMask()(ops.ones(2)),
    "masks to quantize": lambda: _sparse().quantize("int8"),
    "masks to export": lambda: kg.export_litert(_sparse(), "a.tflite", DATA[0]),
    "masks to save": lambda: kg.save_compressed(_sparse(), "a.keras"),
    "not built to save": lambda: kg.save_compressed(
        keras.Sequential([keras.layers.Dense(2)]), "a.keras"
    ),
    "masks to shrink": lambda: kg.shrink(_sparse()),
    "not built to shrink": lambda: kg.shrink(
        keras.Sequential([keras.layers.Dense(2)])
    ),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_bad_value_gets_the_template(case):
    call, name = BAD_VALUES[case]

    with pytest.raises(ValueError, match=f"Argument `{name}` of") as caught:
        call()

    assert TEMPLATE.fullmatch(str(caught.value))


@pytest.mark.parametrize("case", WRONG_KINDS)
def test_wrong_kind_gets_the_template(case):
    call, name = WRONG_KINDS[case]

    with pytest.raises(TypeError, match=f"Argument `{name}` of") as caught:
        call()

    assert TEMPLATE.fullmatch(str(caught.value))


@pytest.mark.one_backend
@pytest.mark.parametrize("case", STRUCTURE)
def test_wrong_structure_says_what_to_do(case):
    with pytest.raises(ValueError, match=r"`[\w.]+`") as caught:
        STRUCTURE[case]()

    assert str(caught.value).count(". ") >= 1


def test_constrained_score_gets_an_error_at_build():
    box = kg.constraints.CappedBox(2)
    gate = kg.layers.ConcreteMask(scores_constraint=box)
    gate.build((None, 4))

    with pytest.raises(ValueError, match="no constraint of their own"):
        _projected(density=0.5).build(gate.trainable_variables)


def test_template_check_sees_a_message_without_the_value():
    message = str(invalid_argument("Owner", "rate", "positive", -1))

    assert TEMPLATE.fullmatch(message)
    assert not TEMPLATE.fullmatch(message.replace("Received", "Got"))
