import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gumbel as kg
from keras_gumbel.sparsity._choices import decide
from keras_gumbel.sparsity._choices import final_masks
from keras_gumbel.sparsity._found import find_scores
from keras_gumbel.sparsity._harden_best import _perturbed
from tests.sparsity.models import finals_of
from tests.sparsity.models import flat
from tests.sparsity.models import kernels_of
from tests.sparsity.models import scores_of

N, K = 10, 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, N)).astype("float32")
KERNEL = RNG.uniform(0.5, 1.5, size=N)


def sparse(scores, loss="mse", metrics=None):
    """A linear model of known weights whose scores are given."""
    model = kg.sparsify(
        keras.Sequential([keras.Input((N,)), layers.Dense(1, use_bias=False)])
    )
    (kernel,), (variable,) = kernels_of(model), scores_of(model)
    kernel.assign(KERNEL[:, None])
    variable.assign(np.reshape(scores, (N, 1)))
    model.compile("sgd", loss=loss, metrics=metrics)
    return model


def target(mask):
    """What the model with this mask predicts."""
    return X @ (KERNEL * mask)[:, None].astype("float32")


def kept(model):
    return flat(finals_of(model))


def random_masks(model, count, budget, seed=0):
    """Draws masks for all scores of a model, as `harden_best` does."""
    scores = find_scores("test", model)
    choices = decide("test", model, scores, budget=budget)
    generator = np.random.default_rng(seed)
    for _ in range(count):
        yield final_masks(
            scores, choices, lambda values: _perturbed(values, generator)
        )


def drawn(scores, count, budget=K):
    finals = [
        mask for (mask,) in random_masks(sparse(scores), count, budget=budget)
    ]
    return np.reshape(finals, (count, N))


def spread_scores():
    """Scores of all sizes that sum to K."""
    return np.linspace(0.1, 0.7, N)


@pytest.mark.parametrize("budget", [1, 4, 9, 10])
def test_random_masks_have_exactly_k_ones(budget):
    finals = drawn(spread_scores(), 10, budget)

    assert set(np.unique(finals)) <= {0.0, 1.0}
    assert (finals.sum(axis=1) == budget).all()


def test_random_masks_keep_what_is_certain():
    scores = np.array([1.0] * 2 + [0.0] * 3 + [0.4] * 5)

    finals = drawn(scores, 20)

    assert (finals[:, :2] == 1).all()
    assert (finals[:, 2:5] == 0).all()
    assert len(np.unique(finals, axis=0)) > 5


def test_random_masks_without_enough_scores_keep_the_largest_weights():
    scores = np.array([1.0] + [0.0] * (N - 1))

    (finals,) = drawn(scores, 1)

    largest = 1 + np.argsort(-KERNEL[1:])[: K - 1]
    assert set(np.flatnonzero(finals)) == {0, *largest}


def noisy_scores(scores, count):
    generator = np.random.default_rng(0)
    return np.array([_perturbed(scores, generator) for _ in range(count)])


def largest(values):
    """Marks the K largest of each row."""
    return np.argsort(np.argsort(-values, axis=-1), axis=-1) < K


def test_random_masks_keep_the_largest_noisy_scores():
    finals = drawn(spread_scores(), 5)

    noisy = noisy_scores(spread_scores().astype("float32"), 5)
    np.testing.assert_array_equal(finals, largest(noisy))


def test_eq_18_random_masks_keep_a_weight_as_often_as_its_score_says():
    scores, count = spread_scores(), 4000
    bound = 6.1 * np.sqrt(0.25 / count)  # false alarms: 1e-9 each

    often = largest(noisy_scores(scores, count)).mean(axis=0)

    assert np.abs(often - scores).max() < bound
    # The same bound finds masks of equal chances.
    even = largest(noisy_scores(np.full(N, K / N), count)).mean(axis=0)
    assert np.abs(even - scores).max() > bound


def test_masks_of_several_budgets_are_drawn_apart():
    model = kg.sparsify(
        keras.Sequential(
            [
                keras.Input((4,)),
                layers.Dense(6, name="first"),
                layers.Dense(3, name="second"),
            ]
        )
    )
    for scores in scores_of(model):
        scores.assign(ops.full(scores.shape, 0.5))

    (finals,) = random_masks(model, 1, budget={"second": 5, "first": 7})

    assert [int(final.sum()) for final in finals] == [7, 5]


def test_harden_best_takes_the_mask_of_lowest_loss():
    scores, y = (
        spread_scores(),
        target(np.random.default_rng(3).permutation(N) < K),
    )
    model = sparse(scores)
    draws = random_masks(model, 6, K, seed=[7, 0])
    finals = [scores >= np.sort(scores)[-K]]
    finals += [mask.ravel() for (mask,) in draws]
    losses = [np.mean((target(final) - y) ** 2) for final in finals]
    best = int(np.argmin(losses))
    assert best > 1

    options = {"data": (X, y), "budget": K, "seed": 7}
    hard = kept(kg.harden_best(model, num_samples=6, **options))
    # One draw fewer than it takes to find that mask.
    short = kept(kg.harden_best(model, num_samples=best - 1, **options))

    np.testing.assert_array_equal(hard, finals[best])
    assert (short != finals[best]).any()


def test_harden_best_returns_the_same_model():
    model = sparse(spread_scores())

    hard = kg.harden_best(model, (X, X[:, :1]), budget=K, num_samples=2)

    assert hard is model
    np.testing.assert_allclose(flat(scores_of(model)), spread_scores())
    assert kept(model).sum() == kg.sparsity_report(model).kept == K


def test_harden_best_keeps_the_largest_scores_if_no_draw_is_better():
    scores = spread_scores()
    largest = scores >= np.sort(scores)[-K]
    data = X, target(largest)

    hard = kg.harden_best(sparse(scores), data, budget=K, seed=0)

    np.testing.assert_array_equal(kept(hard), largest)


def test_harden_best_weighs_the_examples_of_the_data():
    order = np.argsort(-KERNEL)
    first, second = (np.isin(np.arange(N), order[s:][:K]) for s in (0, 2))
    y = np.concatenate([target(first)[:32], target(second)[32:]])
    weight = np.repeat([0.0, 1.0], 32)

    masks = []
    for w in (weight, 1 - weight):
        model = sparse(np.full(N, K / N))
        kg.harden_best(model, (X, y, w), budget=K, num_samples=8, seed=0)
        masks.append(kept(model))

    assert (masks[0] != masks[1]).any()
    losses = [np.mean((target(m) - y)[32:] ** 2) for m in masks]
    assert losses[0] < losses[1]


def test_harden_best_of_decided_scores_needs_no_data():
    decided = np.arange(N) < K

    hard = kg.harden_best(sparse(decided), ("not", "read"), budget=K)

    np.testing.assert_array_equal(kept(hard), decided)


def test_harden_best_chooses_anew_from_the_scores_of_a_hardened_model():
    data = X, target(np.arange(N) % 3 == 0)
    options = {"budget": K, "num_samples": 3, "seed": 5}
    expected = kept(kg.harden_best(sparse(np.full(N, 0.4)), data, **options))
    model = kg.harden(sparse(np.full(N, 0.4)), budget=7)

    kg.harden_best(model, data, **options)

    np.testing.assert_array_equal(kept(model), expected)


def test_harden_best_leaves_the_metrics_as_they_are():
    metric = keras.metrics.MeanAbsoluteError()
    model = sparse(spread_scores(), metrics=[metric])
    data = X, 0 * X[:, :1]
    model.evaluate(*data, verbose=0)
    before = float(metric.result())

    kg.harden_best(model, data, budget=K, batch_size=64, seed=0)

    assert float(metric.result()) == before > 0


def test_harden_best_leaves_the_optimizer_as_new():
    model, data = sparse(spread_scores()), (X, 0 * X[:, :1])

    kg.harden_best(model, data, budget=K, batch_size=64, seed=0)

    assert int(model.optimizer.iterations) == 0
    model.fit(X, target(np.ones(N)), batch_size=64, verbose=0)
    assert int(model.optimizer.iterations) == 1


def test_harden_best_warns_where_it_is_called():
    model = sparse(np.full(N, 0.5))
    model.compile(kg.optimizers.ProjectedOptimizer("sgd", budget=2), "mse")

    with pytest.warns(UserWarning, match="2 weights, but 10 scores are") as got:
        kg.harden_best(model, (X, X[:, :1]), num_samples=1)

    assert [x.filename for x in got if x.category is kg.SparsityWarning] == [
        __file__
    ]


def test_random_masks_are_the_same_on_every_backend():
    data = X, target(np.arange(N) % 3 == 0)

    hard = kg.harden_best(
        sparse(np.full(N, 0.4)), data, budget=K, num_samples=3, seed=5
    )

    assert list(np.flatnonzero(kept(hard))) == [0, 1, 2, 9]


def test_harden_best_cannot_compare_without_a_loss():
    model = kg.sparsify(keras.Sequential([keras.Input((N,)), layers.Dense(1)]))

    with pytest.raises(ValueError, match=r"not compiled\. Call `compile`"):
        kg.harden_best(model, (X, X[:, :1]), budget=K)

    assert not finals_of(model)


def dear_and_cheap():
    """Two layers, of which one has the weights that cost more."""
    model = kg.sparsify(
        keras.Sequential(
            [
                keras.Input((4,)),
                layers.Dense(3, use_bias=False, name="dear"),
                layers.Dense(1, use_bias=False, name="cheap"),
            ]
        )
    )
    for kernel, value in zip(kernels_of(model), (0.1, 1.0), strict=True):
        kernel.assign(np.full(kernel.shape, value))
    model.compile(
        kg.optimizers.ProjectedOptimizer(
            keras.optimizers.SGD(0.0),
            budget=35,
            costs={"dear/kernel": 10.0, "cheap/kernel": 1.0},
            score_optimizer=keras.optimizers.SGD(0.0),
            harden_step=2,
        ),
        loss="mse",
    )
    return model


def test_a_mask_that_training_made_final_stays_where_there_is_room():
    # The largest score left costs too much, one that is smaller does not.
    model = dear_and_cheap()
    dear, cheap = scores_of(model)
    x = np.zeros((1, 4), "float32")
    model.fit(x, x[:, :1], verbose=0)
    dear.assign([[0.9, 0.9, 0.9], [0.3, 0.3, 0.3], [0.0] * 3, [0.0] * 3])
    cheap.assign([[0.1], [0.1], [0.0]])
    model.fit(x, x[:, :1], verbose=0)
    trained = [flat([v]) for v in (dear, cheap)]
    report = kg.sparsity_report(model)

    hard = kg.harden(model)

    assert [mask.sum() for mask in trained] == [3.0, 0.0]
    for final, mask in zip(finals_of(hard), trained, strict=True):
        np.testing.assert_array_equal(flat([final]), mask)
    assert report.kept == 3
