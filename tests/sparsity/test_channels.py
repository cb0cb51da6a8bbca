import copy
import pickle

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gumbel as kg
from keras_gumbel._budgets import NEVER
from keras_gumbel._budgets._channel_costs import Costs
from keras_gumbel._budgets._channel_costs import Kernel
from keras_gumbel._budgets._channel_costs import KernelAxis
from keras_gumbel._budgets._channels import Network
from keras_gumbel._budgets._channels import Place
from keras_gumbel._scores import Mark
from keras_gumbel._scores import mark_of
from keras_gumbel._scores import set_mark
from keras_gumbel.sparsity._found import find_scores
from tests.gradients import to_numpy
from tests.test_shrink_random import units_of

X = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
Y = np.random.default_rng(1).normal(size=(32, 3)).astype("float32")
IMAGES = np.random.default_rng(0).normal(size=(16, 8, 8, 1)).astype("float32")
LABELS = np.random.default_rng(1).normal(size=(16, 3)).astype("float32")


def dense_net():
    """Returns a net of 8 + 8 units that a residual sum couples, and 16."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    x = layers.Dense(8, activation="tanh", name="first")(inputs)
    y = layers.Dense(16, activation="tanh", name="wide")(x)
    x = layers.Add()([x, layers.Dense(8, name="second")(y)])
    return keras.Model(inputs, layers.Dense(3, name="out")(x))


def conv_net(data_format="channels_last"):
    """Returns a residual net with everything that channels pass through."""
    keras.utils.set_random_seed(0)
    axis = -1 if data_format == "channels_last" else 1
    options = {"padding": "same", "data_format": data_format}
    shape = (8, 8, 1) if axis == -1 else (1, 8, 8)
    inputs = keras.Input(shape)
    x = layers.Conv2D(12, 3, name="stem", **options)(inputs)
    x = layers.ReLU()(layers.BatchNormalization(axis=axis)(x))
    y = layers.DepthwiseConv2D(3, name="depthwise", **options)(x)
    y = layers.BatchNormalization(axis=axis)(y)
    y = layers.Conv2D(12, 3, name="conv", **options)(y)
    x = layers.Add()([x, layers.BatchNormalization(axis=axis)(y)])
    gate = layers.GlobalAveragePooling2D(data_format, keepdims=True)(x)
    gate = layers.Conv2D(4, 1, activation="relu", name="squeeze", **options)(
        gate
    )
    gate = layers.Conv2D(12, 1, activation="sigmoid", name="excite", **options)(
        gate
    )
    x = layers.Multiply()([x, gate])
    z = layers.Conv2D(10, 3, name="branch", **options)(x)
    x = layers.Concatenate(axis=axis)([x, z])
    x = layers.GlobalAveragePooling2D(data_format)(x)
    return keras.Model(inputs, layers.Dense(3, name="out")(x))


def train(
    model, x=X, y=Y, steps=40, rate=0.01, batch=16, eagerly=True, **options
):
    optimizer = keras.optimizers.SGD(rate)
    options = options or {"density": kg.schedules.CubicDensity(0.3, steps)}
    model.compile(
        kg.optimizers.ProjectedOptimizer(optimizer, **options),
        "mse",
        run_eagerly=eagerly,
    )
    for step in range(steps):
        rows = np.arange(batch * step, batch * (step + 1)) % len(x)
        model.train_on_batch(x[rows], y[rows])
    return model


def kept(model):
    scores = find_scores("test", model)
    return {s.name: int(s.values().sum()) for s in scores}


def importances(model):
    return {
        s.name: to_numpy(model.optimizer.importance_of(s.variable))
        for s in find_scores("test", model)
    }


def test_what_training_drops_shrink_removes():
    model = kg.sparsify(conv_net(), granularity="channel")
    costs = kg.sparsity_costs(model)

    train(
        model,
        IMAGES,
        LABELS,
        steps=30,
        costs=costs,
        density=0.4,
        harden_step=28,
    )
    counts, report = kept(model), kg.sparsity_report(model)
    budget = model.optimizer.final_budget()
    before = model.predict(IMAGES, verbose=0)
    small = kg.shrink(kg.strip(model))

    assert sum(counts.values()) < 12 + 4 + 10
    by_name = {layer.name: layer for layer in small.layers}
    assert by_name["stem"].filters == counts["stem"]
    assert by_name["conv"].filters == by_name["excite"].filters
    assert by_name["conv"].filters == counts["stem"]
    assert by_name["branch"].filters == counts["branch"]
    assert by_name["squeeze"].filters == counts["squeeze"]
    kernels = [w.shape for w in small.weights if w.name.endswith("kernel")]
    assert report.kept == sum(int(np.prod(shape)) for shape in kernels)
    np.testing.assert_allclose(
        small.predict(IMAGES, verbose=0), before, atol=1e-5
    )
    # What is computed, layer by layer, from the smaller model alone.
    spent, every = (
        sum(
            costs[f"{layer.name}/kernel"] * np.prod(layer.kernel.shape)
            for layer in net.layers
            if hasattr(layer, "kernel") and layer.name != "depthwise"
        )
        + costs["depthwise/kernel"]
        * np.prod(net.get_layer("depthwise").weights[0].shape)
        for net in (small, conv_net())
    )
    assert 0.36 * every < spent <= 0.4 * every
    assert spent == pytest.approx(report.budget_used * budget, rel=1e-6)


@pytest.mark.parametrize(
    "measure",
    [
        "parameters",
        pytest.param("multiply_adds", marks=pytest.mark.one_backend),
    ],
)
def test_spends_almost_all_of_the_budget(measure):
    model = kg.sparsify(dense_net(), granularity="channel")
    costs = None
    if measure == "multiply_adds":
        costs = dict.fromkeys(kg.sparsity_costs(model), 7.0)

    train(
        model,
        density=kg.schedules.CubicDensity(0.5, steps=40),
        costs=costs,
    )

    report = kg.sparsity_report(model)
    assert 0.42 * report.weights < report.kept <= 0.5 * report.weights
    assert all(row.kept > 0 for row in report.rows)


def test_importance_is_the_mean_of_the_squared_gradients_of_examples():
    model = kg.sparsify(dense_net(), granularity="channel")
    plain = dense_net()
    train(model, steps=1, rate=0.0, batch=32, density=0.5)
    measured = importances(model)["first"] / 0.05

    readers = [plain.get_layer("wide").kernel, plain.get_layer("out").kernel]
    expected = []
    for channel in range(8):
        losses = []
        for scale in (1.01, 0.99):
            originals = [to_numpy(kernel) for kernel in readers]
            for kernel, original in zip(readers, originals, strict=True):
                changed = original.copy()
                changed[channel] *= scale
                kernel.assign(changed)
            losses.append(((plain.predict(X, verbose=0) - Y) ** 2).mean(-1))
            for kernel, original in zip(readers, originals, strict=True):
                kernel.assign(original)
        gradients = (losses[0] - losses[1]) / 0.02
        expected.append((gradients**2).mean())
    np.testing.assert_allclose(measured, expected, rtol=5e-3)


@pytest.mark.one_backend
def test_the_sum_of_a_batch_is_not_its_importance():
    """The test above must fail if gradients are squared after their sum."""
    model = kg.sparsify(dense_net(), granularity="channel")

    train(model, steps=1, rate=0.0, batch=32, density=0.5)
    whole = importances(model)["first"]
    model = kg.sparsify(dense_net(), granularity="channel")
    train(model, X[:1], Y[:1], steps=1, rate=0.0, batch=1, density=0.5)
    one = importances(model)["first"]

    assert (whole > 0).all()
    assert np.abs(whole / one - 1).max() > 0.1


@pytest.mark.one_backend
def test_nothing_is_dropped_before_statistics_are_known():
    model = kg.sparsify(dense_net(), granularity="channel")

    train(model, steps=19, density=0.3)
    before = kept(model)
    train(model, steps=21, density=0.3)

    assert before == {"first": 8, "wide": 16}
    assert sum(kept(model).values()) < 24


@pytest.mark.one_backend
def test_channels_are_not_chosen_by_statistics_that_nobody_has():
    model = kg.sparsify(dense_net(), granularity="channel")

    with pytest.raises(ValueError, match="Train the model"):
        kg.harden(model, density=0.5)


def test_dropped_channels_stay_dropped():
    model = kg.sparsify(dense_net(), granularity="channel")
    model.compile(
        kg.optimizers.ProjectedOptimizer(
            keras.optimizers.SGD(0.05),
            density=kg.schedules.CubicDensity(
                0.3, steps=60, begin=0.4, end=1.0
            ),
        ),
        "mse",
        run_eagerly=True,
    )
    masks = []
    for _ in range(60):
        model.train_on_batch(X, Y)
        scores = find_scores("test", model)
        masks.append(np.concatenate([s.values() for s in scores]))
        (now,) = model.optimizer.current_budgets()
        values = [s.values() for s in scores]
        if model.optimizer.steps >= 20:
            assert now[1].spent(values) <= now[0] * (1 + 1e-6)

    masks = np.stack(masks)
    assert (np.diff(masks, axis=0) <= 0).all()
    assert len(np.unique(masks.sum(axis=1))) > 2


@pytest.mark.parametrize("mask", ["fisher", "magnitude"])
def test_scores_are_zeros_and_ones_without_regrowth(mask):
    model = kg.sparsify(dense_net(), mask, granularity="channel")

    train(model, steps=24, density=0.5, regrow=False, harden_step=None)

    values = [to_numpy(s.variable) for s in find_scores("test", model)]
    assert set(np.concatenate(values)) == {0.0, 1.0}


@pytest.mark.parametrize("mask", ["magnitude", "random"])
def test_masks_that_know_their_saliency_choose_without_training(mask):
    model = kg.sparsify(dense_net(), mask, granularity="channel", seed=0)

    kg.harden(model, density=0.5)

    report = kg.sparsity_report(model)
    assert 0.4 * report.weights < report.kept <= 0.5 * report.weights


@pytest.mark.one_backend
def test_magnitude_of_a_channel_is_that_of_its_weights_over_the_mean():
    model = kg.sparsify(dense_net(), "magnitude", granularity="channel")
    weights = {
        name: to_numpy(model.get_layer(name).kernel)
        for name in ("first", "wide", "second", "out")
    }

    (scores,) = (s for s in find_scores("test", model) if s.name == "first")

    squares = (weights["first"] ** 2).sum(0) + (weights["second"] ** 2).sum(0)
    squares += (weights["wide"] ** 2).sum(1) + (weights["out"] ** 2).sum(1)
    magnitudes = np.sqrt(squares)
    np.testing.assert_allclose(
        to_numpy(scores.mark.saliency()),
        magnitudes / magnitudes.mean(),
        rtol=1e-5,
    )


def test_small_weights_do_not_empty_a_layer():
    counts = []
    for scale in (1.0, 0.01):
        model = dense_net()
        for name in ("wide", "second"):
            kernel = model.get_layer(name).kernel
            kernel.assign(scale * kernel)
        kg.sparsify(model, "magnitude", granularity="channel", minimum=0.0)
        kg.harden(model, density=0.4)
        counts.append(kept(model)["wide"])

    assert 4 < counts[0] < 16
    assert abs(counts[1] - counts[0]) <= 2


def test_weights_of_zero_have_no_magnitude():
    model = kg.sparsify(dense_net(), "magnitude", granularity="channel")
    for name in ("wide", "second"):
        kernel = model.get_layer(name).kernel
        kernel.assign(0.0 * kernel)

    kg.harden(model, density=0.4)

    assert kept(model) == {"first": 8, "wide": 3}


def test_budgets_of_groups_count_channels():
    model = kg.sparsify(dense_net(), "magnitude", granularity="channel")

    kg.harden(model, density={"first": 0.25, "wide": 0.75})

    assert kept(model) == {"first": 2, "wide": 12}


@pytest.mark.parametrize("minimum", [0.25, 0.5])
def test_minimum_is_kept_of_every_group(minimum):
    model = dense_net()
    # All but one of the units would go.
    small = np.where(np.arange(16) > 0, 1e-3, 1.0)
    wide, second = (model.get_layer(n).kernel for n in ("wide", "second"))
    wide.assign(to_numpy(wide) * small)
    second.assign(to_numpy(second) * small[:, None])
    kg.sparsify(model, "magnitude", granularity="channel", minimum=minimum)

    kg.harden(model, density=0.4)

    assert kept(model)["wide"] == 16 * minimum


@pytest.mark.one_backend
def test_budget_below_the_minimum_is_refused():
    model = kg.sparsify(dense_net(), granularity="channel", minimum=0.5)

    with pytest.raises(ValueError, match="at least 0.3"):
        train(model, steps=1, density=0.2)


@pytest.mark.one_backend
@pytest.mark.parametrize("minimum", [0.0, 0.5])
@pytest.mark.parametrize(
    ("limit", "least"),
    [({"density": 0.02}, "0.0377907"), ({"budget": 4}, "13")],
)
def test_budget_below_what_cannot_be_removed_is_refused(limit, least, minimum):
    model = kg.sparsify(
        dense_net(), "magnitude", granularity="channel", minimum=minimum
    )

    with pytest.raises(ValueError, match="cannot be removed") as error:
        kg.harden(model, **limit)

    # 8 + 1 + 1 + 3 of 344 weights, with one channel of each of two groups.
    assert f"and {least} cannot be removed" in str(error.value)
    assert f"{8 * minimum or 1:.0f} of 8 of first" in str(error.value)
    assert "smaller `minimum`" not in str(error.value)


@pytest.mark.backends("jax", "tensorflow")
def test_compiled_steps_drop_the_same_channels():
    masks = []
    for eagerly in (True, False):
        model = kg.sparsify(dense_net(), granularity="channel")
        schedule = kg.schedules.CubicDensity(0.3, 40)
        train(model, eagerly=eagerly, density=schedule)
        masks.append([s.values() for s in find_scores("test", model)])

    for eager, compiled in zip(*masks, strict=True):
        assert 0 < eager.sum() < eager.size
        np.testing.assert_array_equal(eager, compiled)


@pytest.mark.parametrize("hardened", [False, True])
def test_saved_model_goes_on_as_it_was(tmp_path, hardened):
    model = kg.sparsify(dense_net(), granularity="channel", minimum=0.2)
    train(model, steps=25, density=0.5)
    if hardened:
        kg.harden(model)

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")

    np.testing.assert_array_equal(
        loaded.predict(X, verbose=0), model.predict(X, verbose=0)
    )
    assert kept(loaded) == kept(model)
    if not hardened:
        first, second = importances(model), importances(loaded)
        assert all((first[k] == second[k]).all() for k in first)
        assert all((first[k] > 0).any() for k in first)
    again = copy.deepcopy(model)
    assert kept(again) == kept(model)
    assert kg.sparsity_report(loaded).kept == kg.sparsity_report(model).kept


@pytest.mark.one_backend
def test_part_of_a_network_is_not_saved_alone(tmp_path):
    model = kg.sparsify(dense_net(), granularity="channel")
    part = keras.Model(model.inputs, model.get_layer("wide").output)

    with pytest.raises(ValueError, match="whole model"):
        part.save(tmp_path / "part.keras")


@pytest.mark.one_backend
def test_coupled_channels_are_copied_as_the_error_of_clone_model_says():
    model = kg.sparsify(dense_net(), "magnitude", granularity="channel")
    kg.harden(model, density=0.5)

    with pytest.raises(ValueError, match=r"copy\.deepcopy\(model\).*pickle"):
        keras.models.clone_model(model)

    for other in copy.deepcopy(model), pickle.loads(pickle.dumps(model)):
        assert kept(other) == kept(model)


@pytest.mark.one_backend
def test_filters_choose_the_layers_whose_units_may_go():
    model = kg.sparsify(dense_net(), filters="wide", granularity="channel")

    assert kept(model) == {"wide": 16}
    report = kg.sparsity_report(model)
    assert "out/kernel" in report.skipped


@pytest.mark.one_backend
def test_frozen_layers_keep_their_units():
    model = dense_net()
    model.get_layer("second").trainable = False

    with pytest.raises(ValueError, match="frozen"):
        kg.sparsify(model, granularity="channel")
    kg.sparsify(model, granularity="channel", freeze_weights=True)

    assert kept(model) == {"first": 8, "wide": 16}


@pytest.mark.backends("jax")
def test_magnitudes_of_frozen_weights_are_not_ranked_in_a_step_of_jax():
    model = kg.sparsify(
        dense_net(), "magnitude", granularity="channel", freeze_weights=True
    )
    schedule = kg.schedules.CubicDensity(0.5, steps=4)
    model.compile(kg.optimizers.ProjectedOptimizer("sgd", schedule), "mse")

    with pytest.raises(ValueError, match="before `fit`"):
        model.fit(X, Y, verbose=0)


def test_observed_channels_of_a_frozen_model_are_dropped_in_training():
    model = kg.sparsify(dense_net(), granularity="channel", freeze_weights=True)
    before = to_numpy(model.get_layer("wide").kernel)

    train(model, steps=25, density=0.5)

    assert sum(kept(model).values()) < 24
    np.testing.assert_array_equal(
        to_numpy(model.get_layer("wide").kernel), before
    )


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(4)

    def call(self, x):
        return self.dense(x)


@pytest.mark.one_backend
def test_models_without_a_graph_are_refused():
    model = Subclassed()
    model(X)

    with pytest.raises(TypeError, match="graph"):
        kg.sparsify(model, granularity="channel")


@pytest.mark.one_backend
def test_masks_that_cannot_be_shared_are_refused():
    with pytest.raises(ValueError, match="fisher"):
        kg.sparsify(dense_net(), "learned", granularity="channel")
    with pytest.raises(ValueError, match="granularity='channel'"):
        kg.sparsify(dense_net(), "fisher")
    with pytest.raises(ValueError, match="keep_zeros"):
        kg.sparsify(dense_net(), granularity="channel", keep_zeros=True)


def test_costs_of_a_channel_are_those_of_the_layers_it_is_in():
    costs = Costs(
        np.array([2.0, 3.0]),
        np.array([[1.0, 0.0], [0.0, 4.0]]),
        np.array([[[0.0, 0.0], [5.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]]),
    )
    counts = np.array([6.0, 7.0])

    def cost(a, b):
        return 2.0 * a + 3.0 * (5.0 * a) * (4.0 + b)

    assert costs.of(counts) == cost(6, 7)
    each = costs.of_one_more(counts)
    np.testing.assert_allclose(
        each, [cost(7, 7) - cost(6, 7), cost(6, 8) - cost(6, 7)]
    )
    exchange = [[cost(6, 7), cost(5, 8)], [cost(7, 6), cost(6, 7)]]
    np.testing.assert_allclose(costs.of_exchange(counts), exchange)
    tensor = ops.convert_to_tensor(counts, "float32")
    np.testing.assert_allclose(to_numpy(costs.of(tensor)), cost(6, 7))
    np.testing.assert_allclose(to_numpy(costs.of_one_more(tensor)), each)
    np.testing.assert_allclose(to_numpy(costs.of_exchange(tensor)), exchange)


def budget_of(saliencies, minimum=0.0, **limit):
    """Returns a budget of two groups that one kernel of 2 x n x m couples."""
    network = Network([], [])
    for index, saliency in enumerate(saliencies):
        scores = keras.Variable(np.ones(len(saliency), "float32"))
        values = ops.convert_to_tensor(saliency, "float32")
        mark = Mark(
            saliency=lambda values=values: values,
            ranked=True,
            minimum=minimum,
            place=Place(network, index),
        )
        network.scores.append(set_mark(scores, mark))
    axes = (KernelAxis(0, {0: 1}), KernelAxis(0, {1: 1}))
    network.kernels.append(Kernel("kernel", 2, axes))
    return network.budget(
        network.scores,
        {"kernel": 1.0},
        limit.get("density"),
        limit.get("budget"),
    )


def choose(group, budget):
    values = [ops.convert_to_tensor(v) for v in group.variables]
    return [to_numpy(m) for m in group.final_masks(values, budget)]


@pytest.mark.parametrize("budget", [2, 3, 24, 57, 100, 160])
@pytest.mark.parametrize(
    "seed",
    [
        0,
        pytest.param(1, marks=pytest.mark.one_backend),
        pytest.param(2, marks=pytest.mark.one_backend),
    ],
)
def test_choice_is_the_largest_that_fits(budget, seed):
    rng = np.random.default_rng(seed)
    saliencies = [rng.exponential(size=8), rng.exponential(size=10)]
    group = budget_of(saliencies, budget=budget)

    masks = choose(group, budget)

    counts = [int(m.sum()) for m in masks]
    spent = 2 * counts[0] * counts[1]
    assert spent <= budget
    assert min(counts) >= 1
    for mask, saliency in zip(masks, saliencies, strict=True):
        dropped, stays = saliency[mask == 0], saliency[mask == 1]
        assert not dropped.size or dropped.max() <= stays.min()
    # One channel more of either kind is too much.
    sizes = [8, 10]
    for i in (0, 1):
        assert counts[i] == sizes[i] or 2 * counts[1 - i] > budget - spent


def random_network(rng, observed, minimum):
    """Returns a budget of groups that kernels couple, and its kernels."""
    sizes = rng.integers(2, 24, size=rng.integers(2, 7))
    network = Network([], [])
    for index, size in enumerate(sizes):
        scores = keras.Variable(np.ones(size, "float32"))
        values = ops.convert_to_tensor(rng.exponential(size=size), "float32")
        mark = Mark(
            saliency=lambda values=values: values,
            ranked=True,
            observed=observed,
            minimum=minimum,
            place=Place(network, index),
        )
        network.scores.append(set_mark(scores, mark))
    for number in range(rng.integers(2, 8)):
        axes = [
            KernelAxis(
                int(rng.integers(0, 3)),
                {
                    # A group may lie on both axes, as in a recurrent layer.
                    int(g): int(rng.integers(1, 4))
                    for g in rng.choice(len(sizes), rng.integers(1, 3), False)
                },
            )
            for _ in range(2)
        ]
        rest = int(rng.integers(1, 20))
        network.kernels.append(Kernel(str(number), rest, tuple(axes)))
    return network, sizes


def cost_of(network, unit_costs, counts):
    """Returns what is computed with so many sets of channels, one by one."""
    total = 0.0
    for kernel in network.kernels:
        first, second = (
            axis.fixed + sum(e * counts[g] for g, e in axis.entries.items())
            for axis in kernel.axes
        )
        total += unit_costs[kernel.name] * kernel.rest * first * second
    return total


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_no_channel_and_no_exchange_would_fit(seed, observed):
    rng = np.random.default_rng(seed)
    minimum = rng.choice([0.0, 0.2])
    network, sizes = random_network(rng, observed, minimum)
    unit_costs = {k.name: float(rng.integers(1, 9)) for k in network.kernels}
    every = cost_of(network, unit_costs, sizes)
    floors = np.maximum(np.ceil(minimum * sizes - 1e-3).astype(int), 1)
    least = cost_of(network, unit_costs, floors) / every
    never = [rng.random(n) < 0.2 for n in sizes]
    group = network.budget(network.scores, unit_costs, 1.0, None)

    for density in np.linspace(least, 1.0, 5)[1:4]:
        values = [
            ops.convert_to_tensor(np.where(n, NEVER, 1.0), "float32")
            for n in never
        ]
        masks = [
            to_numpy(m) for m in group.final_masks(values, density * every)
        ]

        counts = np.array([m.sum() for m in masks], int)
        spent = cost_of(network, unit_costs, counts)
        assert spent <= density * every * (1 + 1e-6)
        unit = np.eye(len(sizes), dtype=int)
        for i, (mask, lost) in enumerate(zip(masks, never, strict=True)):
            live = sizes[i] - lost.sum()
            assert not mask[lost].any()
            assert counts[i] >= min(floors[i], live)
            saliency = to_numpy(mark_of(network.scores[i]).saliency())
            dropped = saliency[(mask == 0) & ~lost]
            if not dropped.size:
                continue
            best = dropped.max()
            assert best <= saliency[mask == 1].min()
            # Taken back as it is, or for one of the others.
            moves = [counts + unit[i]]
            for j, other in enumerate(masks):
                saliency = to_numpy(mark_of(network.scores[j]).saliency())
                if counts[j] > floors[j] and best > saliency[other == 1].min():
                    moves.append(counts + unit[i] - unit[j])
            for move in moves:
                more = cost_of(network, unit_costs, move)
                assert more > density * every * (1 - 1e-6)


def test_floors_come_first():
    saliencies = [np.full(8, 1e-6), np.linspace(1, 2, 10)]
    group = budget_of(saliencies, minimum=0.5, budget=60)

    masks = choose(group, 60)

    assert [int(m.sum()) for m in masks] == [4, 7]


def test_equal_channels_go_from_all_groups():
    group = budget_of([np.ones(8), np.ones(8)], density=0.25)

    counts = [int(m.sum()) for m in choose(group, 32)]

    assert min(counts) > 1


def test_divergence_shows():
    group = budget_of([np.array([1.0, np.nan]), np.ones(3)], budget=6)

    assert all(np.isnan(m).all() for m in choose(group, 6))


def test_channels_that_may_not_be_kept_are_not():
    group = budget_of([np.arange(1.0, 5), np.arange(1.0, 5)], budget=32)
    never = [
        ops.convert_to_tensor([NEVER, 1.0, 1.0, NEVER]),
        ops.convert_to_tensor([1.0, 1.0, 1.0, 1.0]),
    ]

    masks = [to_numpy(m) for m in group.final_masks(never, 32)]

    assert masks[0].tolist() == [0, 1, 1, 0]
    assert masks[1].tolist() == [1, 1, 1, 1]


def attention_net():
    """Returns a block whose heads and hidden units can go."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 8))
    y = layers.MultiHeadAttention(4, 3, name="attention")(inputs, inputs)
    x = layers.LayerNormalization()(layers.Add()([inputs, y]))
    y = layers.Dense(16, activation="gelu", name="hidden")(x)
    x = layers.Add()([x, layers.Dense(8)(y)])
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(3)(x)), {"attention": 4}


def recurrent_net():
    """Returns a recurrent net whose units can go."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 8))
    x = layers.LSTM(6, return_sequences=True, name="lstm")(inputs)
    x = layers.GRU(6, name="gru")(x)
    return keras.Model(inputs, layers.Dense(3)(x)), {"lstm": 6, "gru": 6}


def grouped_net():
    """Returns a block whose heads share keys and values."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 8))
    x = layers.Dense(8, "tanh", name="stem")(inputs)
    y = layers.GroupQueryAttention(3, 8, 4, name="grouped")(x, x)
    x = layers.GlobalAveragePooling1D()(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(3)(x)), {"stem": 8, "grouped": 4}


def wrapped_net():
    """Returns a net of layers within others."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 8))
    each = layers.TimeDistributed(layers.Dense(8, "tanh"), name="each")
    x = layers.RNN(layers.LSTMCell(6), name="cell")(each(inputs))
    expected = {f"each/{each.layer.name}": 8, "cell": 6}
    return keras.Model(inputs, layers.Dense(3)(x)), expected


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "net", [attention_net, grouped_net, recurrent_net, wrapped_net]
)
def test_heads_and_recurrent_units_are_channels(net):
    model, expected = net()
    kg.sparsify(model, granularity="channel")
    before = kept(model)
    x = np.random.default_rng(0).normal(size=(16, 5, 8)).astype("float32")
    y = np.random.default_rng(1).normal(size=(16, 3)).astype("float32")

    train(model, x, y, steps=25, density=0.5, harden_step=25)
    assert all((x > 0).any() for x in importances(model).values())
    counts, report = kept(model), kg.sparsity_report(model)
    predicted = model.predict(x, verbose=0)
    small = kg.shrink(kg.strip(model))

    # What the report counts is what is left of the kernels.
    names = ("kernel", "recurrent_kernel")
    left = sum(np.prod(w.shape) for w in small.weights if w.name in names)
    for name in report.skipped:
        left -= np.prod(small.get_layer(name.split("/")[0]).kernel.shape)
    assert report.kept == left
    assert expected.items() <= before.items()
    assert sum(counts.values()) < sum(before.values())
    np.testing.assert_allclose(
        small.predict(x, verbose=0), predicted, atol=1e-5
    )
    for name in expected:
        layer = small.get_layer(name.split("/")[0])
        assert units_of(layer) == counts[name]
    assert 0.3 * report.weights < report.kept <= 0.5 * report.weights


@pytest.mark.backends("torch")  # where Keras can rematerialize in `fit`
def test_importance_is_the_same_if_layers_are_computed_again():
    plain = kg.sparsify(dense_net(), granularity="channel")
    with keras.RematScope(mode="full"):
        again = kg.sparsify(dense_net(), granularity="channel")

    for model in (plain, again):
        train(model, steps=2, rate=0.0, density=0.5)

    first, second = importances(plain), importances(again)
    for name in first:
        np.testing.assert_allclose(second[name], first[name], rtol=1e-5)
