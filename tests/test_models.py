import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gumbel as kg
from keras_gumbel.models import MonteCarloModel
from tests.gradients import to_numpy

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 4)).astype("float32")
Y = RNG.normal(size=(32, 3)).astype("float32")
WEIGHT = RNG.uniform(0.5, 2.0, size=32).astype("float32")

# How the training step runs.
STEPS = {
    "jax": [{"jit_compile": True}],
    "tensorflow": [{"jit_compile": False}, {"jit_compile": True}],
    "torch": [{"jit_compile": False}],
}[keras.config.backend()]

COMPILED = STEPS[0]


def dense(normalized=False, regularized=True):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,), name="features")
    x = layers.Dense(
        6,
        activation="tanh",
        kernel_regularizer=keras.regularizers.L2(0.01),
        activity_regularizer="l2" if regularized else None,
    )(inputs)
    if normalized:
        x = layers.BatchNormalization(momentum=0.5)(x)
    return keras.Model(inputs, layers.Dense(3, name="out")(x))


def noisy(normalized=False):
    """A model whose temperature falls from step to step."""
    annealed = kg.schedules.LinearAnnealing(1.0, 0.3, steps=8)
    mask = kg.layers.ConcreteMask(
        temperature=annealed,
        scores_initializer=keras.initializers.RandomUniform(0.2, 0.8, seed=0),
    )
    return kg.sparsify(dense(normalized), mask, seed=0)


def arrays(variables):
    return [np.copy(ops.convert_to_numpy(v)) for v in variables]


def named(model, text):
    return [
        np.copy(ops.convert_to_numpy(v))
        for v in model.variables
        if text in v.path
    ]


def gradient_of(model):
    """Takes a step of length 1 and puts the weights back as they were."""
    before = arrays(model.weights)
    trainable = arrays(model.trainable_variables)
    model.reset_metrics()
    logs = model.train_on_batch(X, Y, WEIGHT, return_dict=True)
    after = arrays(model.trainable_variables)
    model.set_weights(before)
    slopes = [a - b for a, b in zip(trainable, after, strict=True)]
    return slopes, logs


def compiled(model, optimizer=None, **arguments):
    optimizer = optimizer or keras.optimizers.SGD(1.0)
    model.compile(optimizer, loss="mse", **{**COMPILED, **arguments})
    return model


def at_step(model, step):
    for layer in kg._keras_private.flatten_layers(model):
        if isinstance(layer, kg.layers.ConcreteMask):
            layer.step.assign(step)
    return model


@pytest.mark.parametrize("how", STEPS)
def test_eq_28_the_gradient_is_the_mean_of_single_draws(how):
    single = compiled(at_step(noisy(), 3), weighted_metrics=["mae"], **how)
    mean = MonteCarloModel(at_step(noisy(), 3), num_samples=3)
    compiled(mean, weighted_metrics=["mae"], **how)

    # The states of the noise go on, all else is put back after each draw.
    draws = [gradient_of(single) for _ in range(3)]
    slopes, logs = gradient_of(mean)

    separate = [part for part, _ in draws]
    assert np.abs(separate[0][0] - separate[1][0]).max() > 1e-3
    for own, parts in zip(slopes, zip(*separate, strict=True), strict=True):
        np.testing.assert_allclose(own, np.mean(parts, axis=0), atol=2e-6)
    np.testing.assert_allclose(
        logs["loss"], np.mean([one["loss"] for _, one in draws]), rtol=1e-5
    )
    assert logs["mae"] == pytest.approx(draws[0][1]["mae"], rel=1e-5)


@pytest.mark.one_backend
def test_the_variance_falls_with_the_number_of_draws():
    variances = []
    for samples in (1, 4):
        model = compiled(MonteCarloModel(noisy(), samples))
        slopes = [gradient_of(model)[0] for _ in range(100)]
        flat = [np.concatenate([s.ravel() for s in part]) for part in slopes]
        variances.append(np.var(flat, axis=0).sum())

    assert 0.18 < variances[1] / variances[0] < 0.34


def test_one_draw_is_the_model_itself():
    plain, single = compiled(noisy()), compiled(MonteCarloModel(noisy(), 1))

    options = {"batch_size": 8, "epochs": 1, "shuffle": False, "verbose": 0}
    expected = plain.fit(X, Y, **options).history["loss"]
    loss = single.fit(X, Y, **options).history["loss"]

    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    for one, other in zip(
        arrays(plain.variables), arrays(single.variables), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_noise_advances_with_every_draw_and_all_else_with_every_step():
    plain, mean = compiled(noisy(True)), MonteCarloModel(noisy(True), 3)
    compiled(mean)

    plain.train_on_batch(X, Y)
    mean.train_on_batch(X, Y)

    assert named(mean, "/step") == named(plain, "/step") == [1, 1]
    for one, other in zip(
        named(plain, "seed"), named(mean, "seed"), strict=True
    ):
        assert [int(one[1]), int(other[1])] == [1, 3]
    statistics = named(plain, "moving")
    assert any(np.abs(part).max() > 0.01 for part in statistics)
    for one, other in zip(statistics, named(mean, "moving"), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_inference_is_one_pass_and_changes_nothing():
    mean = compiled(MonteCarloModel(noisy(), 3))
    before = arrays(mean.variables)

    loss = mean.evaluate(X, Y, verbose=0)
    predicted = mean.predict(X, verbose=0)

    inner = compiled(mean.model)
    assert loss == pytest.approx(inner.evaluate(X, Y, verbose=0), rel=1e-6)
    np.testing.assert_array_equal(predicted, inner.predict(X, verbose=0))
    for one, other in zip(before, arrays(mean.variables), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_saved_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    optimizer = keras.optimizers.Adam(0.01)
    mean = compiled(MonteCarloModel(noisy(), 3), optimizer)
    mean.train_on_batch(X, Y)
    mean.save(tmp_path / "model.keras")

    mean.reset_metrics()
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    logs = [part.train_on_batch(X, Y) for part in (mean, loaded)]

    assert loaded.num_samples == 3
    assert loaded.name == mean.name
    np.testing.assert_allclose(*logs, rtol=1e-6)
    for one, other in zip(
        arrays(mean.weights), arrays(loaded.weights), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def two_by_two():
    keras.utils.set_random_seed(1)
    first, second = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    x = layers.Concatenate()([first, second])
    x = layers.Dense(5, activation="tanh", activity_regularizer="l2")(x)
    heads = [layers.Dense(3, name=name)(x) for name in ("near", "far")]
    return keras.Model([first, second], heads)


# Where nothing is random, the mean of draws is what each of them is.
DETERMINISTIC = {
    "single": (dense, X, Y, {"loss": "mse"}),
    # Keras cannot add up losses of two dtypes on TensorFlow.
    "mixed_float16": (
        lambda: dense(regularized=False),
        X,
        Y,
        {"loss": "mse"},
    ),
    "several outputs": (
        two_by_two,
        {"a": X, "b": 2 * X},
        {"near": Y, "far": -Y},
        {
            "loss": {"near": "mse", "far": "mae"},
            "loss_weights": {"near": 1.0, "far": 0.5},
            "metrics": {"far": ["mae"]},
        },
    ),
    "several steps at once": (
        dense,
        X,
        Y,
        {"loss": "mse", "steps_per_execution": 2},
    ),
}
if keras.config.backend() == "torch":  # where Keras refuses it
    del DETERMINISTIC["several steps at once"]


@pytest.mark.parametrize("case", DETERMINISTIC)
def test_draws_of_a_model_without_noise_train_as_one(case):
    if case == "mixed_float16":
        keras.config.set_dtype_policy("mixed_float16")
    build, x, y, arguments = DETERMINISTIC[case]
    options = {"batch_size": 8, "epochs": 1, "shuffle": False, "verbose": 0}
    histories, weights = [], []
    for model in (build(), MonteCarloModel(build(), 3)):
        model.compile(keras.optimizers.SGD(0.1), **arguments, **COMPILED)
        run = model.fit(x, y, sample_weight=None, **options)
        histories.append(run.history)
        weights.append(arrays(model.weights))

    assert histories[0].keys() == histories[1].keys()
    rough = case == "mixed_float16"
    for name, values in histories[0].items():
        np.testing.assert_allclose(
            histories[1][name], values, rtol=1e-2 if rough else 1e-5
        )
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-2 if rough else 1e-5)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.gate = kg.layers.ConcreteMask(seed=0)
        self.hidden = layers.Dense(3)

    def call(self, inputs):
        outputs = self.hidden(self.gate(inputs))
        self.add_loss(ops.mean(ops.square(outputs)))
        return outputs


def test_an_unbuilt_subclassed_model_trains():
    inner = Subclassed()
    mean = compiled(MonteCarloModel(inner, 2), keras.optimizers.Adam(0.05))

    losses = mean.fit(X, Y, epochs=3, verbose=0).history["loss"]

    assert losses[-1] < losses[0]
    assert int(named(inner, "seed")[0][1]) == 2 * 3


@pytest.mark.filterwarnings("ignore:The final mask keeps 9 weights")
def test_what_is_done_to_whole_models_reaches_the_model_inside():
    optimizer = kg.optimizers.ProjectedOptimizer("sgd", budget=9)
    mean = MonteCarloModel(dense(), 3, name="averaged")

    kg.sparsify(mean, kg.layers.ConcreteMask(), seed=0)
    compiled(mean, optimizer).train_on_batch(X, Y)
    report = kg.sparsity_report(mean)
    hard = kg.harden(mean)
    hardened = mean.predict(X, verbose=0)

    assert hard is mean
    assert (mean.name, mean.num_samples) == ("averaged", 3)
    assert (report.kept, report.weights, report.skipped) == (9, 42, {})
    assert mean.compiled
    assert kg.sparsity_report(mean.model).kept == 9
    plain = kg.strip(mean).model
    assert type(mean) is MonteCarloModel
    assert type(plain) is type(dense())
    np.testing.assert_allclose(plain.predict(X, verbose=0), hardened, atol=1e-6)


UNITS = np.array([[1.0, -1.0, 2.0], [0.5, 0.2, -0.3]], "float32")


def chooser(estimator="rloo", classes=3, **options):
    """A model whose output depends on one choice for each example."""
    inputs = keras.Input((4,))
    logits = layers.Dense(classes, name="logits", use_bias=False)(inputs)
    choice = kg.layers.StraightThroughArgmax(
        estimator=estimator, seed=3, **options
    )(logits)
    kernel = keras.initializers.Constant(UNITS[:, :classes].T)
    out = layers.Dense(2, kernel_initializer=kernel, name="out")
    return keras.Model(inputs, out(choice))


def steps(y_true, y_pred):
    """A loss of every example without a gradient."""
    return ops.sum(ops.floor(2.0 * ops.abs(y_true - y_pred)), axis=-1)


def exact_gradient(model, x, y, weight, loss):
    """The gradient of the expected loss in the kernel of the logits."""
    kernel = ops.convert_to_numpy(model.get_layer("logits").kernel)
    classes = kernel.shape[1]
    logits = x @ kernel
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    values = np.stack(
        [
            ops.convert_to_numpy(
                loss(y, np.tile(UNITS[:, k], (len(x), 1)).astype("float32"))
            )
            for k in range(classes)
        ],
        axis=-1,
    )
    mean = (p * values).sum(axis=-1, keepdims=True)
    return x.T @ (weight[:, None] * p * (values - mean)) / len(x)


@pytest.mark.parametrize("how", STEPS)
@pytest.mark.parametrize(
    ("estimator", "classes"), [("rloo", 3), ("disarm", 2), ("arm", 2)]
)
def test_gradient_of_an_unbiased_estimator_is_exact_on_average(
    estimator, classes, how
):
    keras.utils.set_random_seed(2)
    model = chooser(estimator, classes)
    model.get_layer("out").trainable = False
    mean = MonteCarloModel(model, num_samples=4)
    mean.compile(keras.optimizers.SGD(1.0), loss=steps, **how)
    # Every example many times: one step is the mean of as many.
    x, y, weight = (np.tile(a.T, 200).T for a in (X, Y[:, :2], WEIGHT))
    variables = mean.trainable_variables
    before = arrays(variables)
    slopes = []
    for _ in range(12):
        mean.train_on_batch(x, y, weight)
        slopes.append(before[0] - ops.convert_to_numpy(variables[0]))
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)

    expected = exact_gradient(model, x, y, weight, steps)
    slopes = np.stack(slopes)
    error = slopes.std(axis=0).max() / len(slopes) ** 0.5
    assert (np.abs(slopes.mean(axis=0) - expected) < 6.1 * error).all()
    assert np.abs(expected).max() > 20 * error


def test_loss_and_gradient_of_other_weights_are_those_of_the_mean_draw():
    keras.utils.set_random_seed(2)
    scored, plain = (
        MonteCarloModel(chooser(estimator), 3)
        for estimator in ("rloo", "straight_through")
    )
    plain.set_weights(scored.get_weights())

    (slopes, logs), (expected, expected_logs) = (
        gradient_of_pair(compiled(model)) for model in (scored, plain)
    )

    np.testing.assert_allclose(slopes[1], expected[1], atol=1e-5)
    assert logs["loss"] == pytest.approx(expected_logs["loss"], rel=1e-5)
    assert np.abs(slopes[0] - expected[0]).max() > 1e-3


def gradient_of_pair(model):
    before = arrays(model.trainable_variables)
    logs = model.train_on_batch(X, Y[:, :2], return_dict=True)
    after = arrays(model.trainable_variables)
    return [a - b for a, b in zip(before, after, strict=True)], logs


REDUCTIONS = ["sum_over_batch_size", "sum", "mean_with_sample_weight"]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_of_examples_add_up_to_the_loss(reduction, weighted):
    inputs = keras.Input((4,))
    model = keras.Model(
        inputs,
        {"a": layers.Dense(3)(inputs), "b": layers.Dense(2)(inputs)},
    )
    model.compile(
        "sgd",
        loss={
            "a": keras.losses.MeanSquaredError(reduction),
            "b": keras.losses.MeanAbsoluteError(reduction),
        },
        loss_weights={"a": 0.5, "b": 2.0},
    )
    y = {"a": Y, "b": Y[:, :2]}
    weight = {"a": WEIGHT, "b": WEIGHT[::-1].copy()} if weighted else None
    outputs = model(X)

    with kg._keras_private.losses_of_examples(
        model, y, outputs, weight
    ) as found:
        total = model.compute_loss(X, y, outputs, weight)

    assert [part.shape for part in found] == [(32,), (32,)]
    total = to_numpy(total)
    added = sum(to_numpy(part).sum() for part in found)
    assert added == pytest.approx(total, rel=1e-5)
    again = to_numpy(model.compute_loss(X, y, outputs, weight))
    assert again == pytest.approx(total, rel=1e-6)
    first = ops.convert_to_numpy(found[0])
    shares = ((ops.convert_to_numpy(outputs["a"]) - Y) ** 2).mean(axis=-1)
    shares = shares * weight["a"] if weighted else shares
    np.testing.assert_allclose(
        first / first.sum(), shares / shares.sum(), rtol=1e-4
    )


def test_losses_that_are_added_have_a_part_in_the_gradient():
    """Only the added loss depends on the choice."""

    @keras.saving.register_keras_serializable(package="tests")
    class Priced(layers.Layer):
        def call(self, choice):
            self.add_loss(ops.mean(ops.matmul(choice, UNITS[0])))
            return 0.0 * choice

    inputs = keras.Input((4,))
    logits = layers.Dense(3, name="logits", use_bias=False)(inputs)
    choice = kg.layers.StraightThroughArgmax(estimator="rloo", seed=3)(logits)
    model = MonteCarloModel(keras.Model(inputs, Priced()(choice)), 2)
    model.compile(keras.optimizers.SGD(1.0), loss="mse", **COMPILED)
    kernel = model.model.get_layer("logits").kernel
    before = ops.convert_to_numpy(kernel).copy()
    slopes = []
    x = np.tile(X[:1], (4, 1))
    for _ in range(150):
        model.train_on_batch(x, np.zeros((4, 3), "float32"))
        slopes.append(before - ops.convert_to_numpy(kernel))
        kernel.assign(before)

    expected = exact_gradient(
        model.model,
        x,
        x,
        np.ones(4),
        lambda _, out: out[:, 0],
    )
    slopes = np.stack(slopes)
    error = slopes.std(axis=0) / len(slopes) ** 0.5
    assert (np.abs(slopes.mean(axis=0) - expected) < 6.1 * error).all()
    assert np.abs(expected).max() > 6.1 * error.max()


def test_mask_learns_from_the_accuracy_alone():
    """VR-PGE: scores find the weights that a loss without gradient needs."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 8)).astype("float32")
    signs = np.float32([1, -1, 1, 0, 0, 0, 0, 0])
    noise = np.float32([0, 0, 0, 2, -2, 2, -2, 2])
    y = (x @ signs > 0).astype("float32")[:, None]
    model = keras.Sequential([keras.Input((8,)), layers.Dense(1)])
    model.set_weights([(signs + noise)[:, None], np.zeros(1, "float32")])
    half = keras.initializers.Constant(0.5)
    mask = kg.masks.ConcreteMask(
        hard=True, estimator="rloo", scores_initializer=half
    )
    kg.sparsify(model, mask, freeze_weights=True, seed=0)
    model = MonteCarloModel(model, num_samples=8)

    def errors(y_true, y_pred):
        wrong = ops.not_equal(y_true > 0.5, y_pred > 0)
        return ops.mean(ops.cast(wrong, "float32"), axis=-1)

    optimizer = kg.optimizers.ProjectedOptimizer(
        keras.optimizers.SGD(0.5), density=3 / 8, score_optimizer=None
    )
    model.compile(optimizer, loss=errors, **COMPILED)
    model.fit(x, y, batch_size=256, epochs=50, verbose=0)
    kg.harden(model, budget=3)

    final = ops.convert_to_numpy(
        model.model.layers[-1].weight_masks[0].final_mask
    )
    assert final[:, 0].tolist() == [True] * 3 + [False] * 5


def test_fit_trains_a_choice_by_a_loss_without_a_gradient():
    keras.utils.set_random_seed(2)
    x = np.eye(4, dtype="float32")[np.arange(256) % 4]
    y = UNITS.T[np.arange(256) % 4 % 3]
    model = chooser()
    model.get_layer("out").trainable = False
    model = MonteCarloModel(model, num_samples=4)
    model.compile(keras.optimizers.Adam(0.1), loss=steps, **COMPILED)

    model.fit(x, y, batch_size=64, epochs=30, verbose=0)

    chosen = np.argmax(ops.convert_to_numpy(model.model.layers[1](x)), axis=-1)
    assert (chosen == np.arange(256) % 4 % 3).mean() > 0.95


@pytest.mark.one_backend
def test_a_first_draw_that_was_not_recorded_is_an_error():
    model = compiled(MonteCarloModel(chooser(), 2))
    with kg.estimators.ScoreTape().draw():
        outputs = model.model(X, training=True)

    with pytest.raises(ValueError, match="one loss for each of the 1 draws"):
        model.compute_loss(X, Y[:, :2], outputs)


def test_losses_of_batches_are_compared_where_keras_hides_those_of_examples():
    model = compiled(MonteCarloModel(chooser(), 2))
    model.train_on_batch(X, Y[:, :2])
    hidden = model._compile_loss

    class Hiding:
        """The same losses, in a Keras that keeps them elsewhere."""

        built = True

        def __call__(self, *args):
            return hidden(*args)

    model._compile_loss = Hiding()
    with kg._keras_private.losses_of_examples(
        model, Y[:, :2], Y[:, :2], None
    ) as found:
        loss = model._compile_loss(Y[:, :2], Y[:, :2])

    assert found == []
    assert to_numpy(loss) == 0
