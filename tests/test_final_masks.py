import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gumbel as kg
from keras_gumbel.sparsity._masks import final_masks
from keras_gumbel.sparsity._masks import find_masks
from keras_gumbel.sparsity._masks import together

N, K = 10, 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, N)).astype("float32")
KERNEL = RNG.uniform(0.5, 1.5, size=N)


def sparse(scores, loss="mse", metrics=None):
    """A linear model of known weights whose scores are given."""
    model = kg.sparsify(
        keras.Sequential([keras.Input((N,)), layers.Dense(1, use_bias=False)])
    )
    wrapper = model.layers[0]
    wrapper.kernels[0].assign(KERNEL[:, None])
    wrapper.masks[0].mask_scores.assign(np.reshape(scores, (N, 1)))
    model.compile("sgd", loss=loss, metrics=metrics)
    return model


def target(mask):
    """What the model with this mask predicts."""
    return X @ (KERNEL * mask)[:, None].astype("float32")


def kept(model):
    scores = model.layers[0].masks[0].mask_scores
    return ops.convert_to_numpy(scores).ravel()


def drawn(scores, count, budget=K, seed=0):
    masks = find_masks("test", sparse(scores))
    generator = np.random.default_rng(seed)
    finals = [
        final_masks(masks, [together(masks, budget)], generator)[0]
        for _ in range(count)
    ]
    return np.reshape(finals, (count, N))


def spread_scores():
    """Scores of all sizes that sum to K."""
    return np.linspace(0.1, 0.7, N)


@pytest.mark.parametrize("budget", [1, 4, 9, 10])
def test_random_masks_have_exactly_k_ones(budget):
    finals = drawn(spread_scores(), 50, budget)

    assert set(np.unique(finals)) <= {0.0, 1.0}
    assert (finals.sum(axis=1) == budget).all()


def test_random_masks_keep_what_is_certain():
    scores = np.array([1.0] * 2 + [0.0] * 3 + [0.4] * 5)

    finals = drawn(scores, 50)

    assert (finals[:, :2] == 1).all()
    assert (finals[:, 2:5] == 0).all()
    assert len(np.unique(finals, axis=0)) > 5


def test_random_masks_without_enough_scores_keep_the_largest_weights():
    scores = np.array([1.0] + [0.0] * (N - 1))

    (finals,) = drawn(scores, 1)

    largest = 1 + np.argsort(-KERNEL[1:])[: K - 1]
    assert set(np.flatnonzero(finals)) == {0, *largest}


def test_eq_18_random_masks_keep_a_weight_as_often_as_its_score_says():
    scores, count = spread_scores(), 4000
    bound = 6.1 * np.sqrt(0.25 / count)  # false alarms: 1e-9 each

    error = np.abs(drawn(scores, count).mean(axis=0) - scores)

    assert error.max() < bound
    # The same bound finds masks of equal chances.
    even = np.abs(drawn(np.full(N, K / N), count).mean(axis=0) - scores)
    assert even.max() > bound


def test_masks_of_several_budgets_are_drawn_apart():
    model = kg.sparsify(
        keras.Sequential([keras.Input((4,)), layers.Dense(6), layers.Dense(3)])
    )
    first, second = masks = find_masks("test", model)
    for m in masks:
        m.mask.mask_scores.assign(ops.full(m.mask.mask_scores.shape, 0.5))
    shares = [together([second], 5), together([first], 7)]

    finals = final_masks(masks, shares, np.random.default_rng(0))

    assert [int(final.sum()) for final in finals] == [7, 5]


def test_harden_takes_the_mask_of_lowest_loss():
    scores, y = spread_scores(), target(RNG.permutation(N) < K)
    generator = np.random.default_rng([7, 0])
    model = sparse(scores)
    masks = find_masks("test", model)
    shares = [together(masks, K)]
    candidates = [final_masks(masks, shares)] + [
        final_masks(masks, shares, generator) for _ in range(6)
    ]
    finals = [candidate[0].ravel() for candidate in candidates]
    losses = [np.mean((target(final) - y) ** 2) for final in finals]
    best = int(np.argmin(losses))
    assert best > 0

    hard = kg.harden(model, budget=K, data=(X, y), num_samples=6, seed=7)

    np.testing.assert_array_equal(kept(hard), finals[best])
    # One draw fewer than it takes to find that mask.
    if best > 1:
        short = kg.harden(
            model, budget=K, data=(X, y), num_samples=best - 1, seed=7
        )
        assert (kept(short) != finals[best]).any()


def test_harden_keeps_the_largest_scores_if_no_draw_is_better():
    scores = spread_scores()
    largest = scores >= np.sort(scores)[-K]

    hard = kg.harden(
        sparse(scores), budget=K, data=(X, target(largest)), seed=0
    )

    np.testing.assert_array_equal(kept(hard), largest)


def test_harden_weighs_the_examples_of_the_data():
    scores = np.full(N, K / N)
    order = np.argsort(-KERNEL)
    first, second = (np.isin(np.arange(N), order[s:][:K]) for s in (0, 2))
    y = np.concatenate([target(first)[:32], target(second)[32:]])
    weight = np.repeat([0.0, 1.0], 32)

    masks = [
        kept(
            kg.harden(
                sparse(scores),
                budget=K,
                data=(X, y, w),
                num_samples=30,
                seed=0,
            )
        )
        for w in (weight, 1 - weight)
    ]

    assert (masks[0] != masks[1]).any()
    losses = [np.mean((target(m) - y)[32:] ** 2) for m in masks]
    assert losses[0] < losses[1]


def test_harden_of_decided_scores_needs_no_data():
    decided = np.arange(N) < K

    hard = kg.harden(sparse(decided), budget=K, data=("not", "read"))

    np.testing.assert_array_equal(kept(hard), decided)


def test_training_a_hardened_model_leaves_the_original_usable():
    model = kg.sparsify(
        keras.Sequential([keras.Input((N,)), layers.Dense(1)]),
        kg.layers.ConcreteMask(),
    )
    model.compile("sgd", "mse")
    y = X[:, :1]

    kg.harden(model, budget=K).fit(X, y, batch_size=64, verbose=0)
    model.fit(X, y, batch_size=64, verbose=0)

    assert int(model.layers[0].masks[0].step) == 1


def test_harden_leaves_the_metrics_and_the_copy_as_new():
    metric = keras.metrics.MeanAbsoluteError()
    model = sparse(spread_scores(), metrics=[metric])
    model.evaluate(X, 0 * X[:, :1], verbose=0)
    before = float(metric.result())

    hard = kg.harden(
        model, budget=K, data=(X, 0 * X[:, :1]), batch_size=64, seed=0
    )

    assert float(metric.result()) == before > 0
    assert not hard.optimizer.built
    hard.fit(X, target(np.ones(N)), batch_size=64, verbose=0)
    assert int(hard.optimizer.iterations) == 1


def test_random_masks_are_the_same_on_every_backend():
    y = target(np.arange(N) % 3 == 0)

    hard = kg.harden(
        sparse(np.full(N, 0.4)), budget=K, data=(X, y), num_samples=3, seed=5
    )

    assert list(np.flatnonzero(kept(hard))) == [0, 1, 2, 9]


def test_harden_cannot_compare_without_a_loss():
    model = kg.sparsify(keras.Sequential([keras.Input((N,)), layers.Dense(1)]))

    with pytest.raises(ValueError, match=r"not compiled\.$"):
        kg.harden(model, budget=K, data=(X, X[:, :1]))


def test_a_mask_that_training_made_final_stays_where_there_is_room():
    # The largest score left costs too much, one that is smaller does not.
    model = kg.sparsify(
        keras.Sequential(
            [
                keras.Input((4,)),
                layers.Dense(3, use_bias=False, name="dear"),
                layers.Dense(1, use_bias=False, name="cheap"),
            ]
        )
    )
    dear, cheap = (wrapper.masks[0].mask_scores for wrapper in model.layers)
    for kernel, value in zip(model.layers, (0.1, 1.0), strict=True):
        kernel.kernels[0].assign(np.full(kernel.kernels[0].shape, value))
    model.compile(
        kg.optimizers.ProjectedOptimizer(
            keras.optimizers.SGD(0.0),
            budget=35,
            costs={"dear": 10.0, "cheap": 1.0},
            score_optimizer=keras.optimizers.SGD(0.0),
            harden_step=2,
        ),
        loss="mse",
    )
    x = np.zeros((1, 4), "float32")
    model.fit(x, x[:, :1], verbose=0)
    dear.assign([[0.9, 0.9, 0.9], [0.3, 0.3, 0.3], [0.0] * 3, [0.0] * 3])
    cheap.assign([[0.1], [0.1], [0.0]])
    model.fit(x, x[:, :1], verbose=0)
    trained = [ops.convert_to_numpy(v) for v in (dear, cheap)]

    hard = kg.harden(model)

    assert [mask.sum() for mask in trained] == [3.0, 0.0]
    for wrapper, mask in zip(hard.layers, trained, strict=True):
        final = wrapper.masks[0].mask_scores
        np.testing.assert_array_equal(ops.convert_to_numpy(final), mask)
    assert kg.sparsity_report(model).kept == 3
