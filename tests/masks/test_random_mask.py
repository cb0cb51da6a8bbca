import keras
import numpy as np
import pytest

import keras_gumbel as kg
from keras_gumbel.masks import RandomMask
from tests.contracts import save_and_load
from tests.gradients import to_numpy
from tests.masks.ranked import X
from tests.masks.ranked import Y
from tests.masks.ranked import kernels_of
from tests.masks.ranked import model_with
from tests.masks.ranked import scores_of
from tests.masks.ranked import train


def test_random_mask_ranks_once_and_by_seed():
    first, again = (
        train(model_with("random", seed=4), steps=s) for s in (1, 3)
    )
    other = train(model_with("random", seed=5))

    np.testing.assert_array_equal(scores_of(first), scores_of(again))
    assert scores_of(first).sum() == 10
    assert (scores_of(first) != scores_of(other)).any()
    magnitudes = np.abs(kernels_of(first))
    assert set(np.flatnonzero(scores_of(first))) != set(
        np.argsort(-magnitudes)[:10]
    )


def test_random_mask_drops_in_the_order_of_its_ranking():
    model = model_with("random", seed=4)

    kept = []
    for budget in (20, 10, 5):
        kg.harden(model, budget=budget)
        masks = [to_numpy(x.weight_masks[0].final_mask) for x in model.layers]
        kept.append(
            {
                (i, *at)
                for i, m in enumerate(masks)
                for at in np.argwhere(m).tolist()
            }
        )

    assert [len(k) for k in kept] == [20, 10, 5]
    assert kept[2] < kept[1] < kept[0]


@pytest.mark.parametrize("seed", [None, 3])
def test_random_mask_resumes_with_the_ranking_it_was_saved_with(seed):
    model = train(model_with("random", seed=seed), budget=20)

    loaded = save_and_load(model)

    for resumed in (model, loaded):
        kg.harden(resumed, budget=10)
    kept = [
        [to_numpy(x.weight_masks[0].final_mask) for x in resumed.layers]
        for resumed in (model, loaded)
    ]
    for one, other in zip(*kept, strict=True):
        np.testing.assert_array_equal(one, other)


def test_random_masks_of_a_model_differ():
    model = model_with("random")

    seeds = [x.weight_masks[0].seed for x in model.layers]

    assert seeds[0] != seeds[1]


def test_random_mask_without_seed_follows_keras():
    seeds = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        seeds.append(RandomMask().seed)

    assert seeds[0] == seeds[1]
    assert seeds[0] != seeds[2]


@pytest.mark.parametrize("method", ["magnitude", "random"])
def test_ranked_mask_hardens_in_one_shot(method):
    model = model_with(method, seed=3)
    trained = train(model_with(method, seed=3), budget=7, steps=0)

    kg.harden(model, budget=7)

    trained.optimizer.build(trained.trainable_variables)
    kept = [to_numpy(x.weight_masks[0].final_mask) for x in model.layers]
    np.testing.assert_array_equal(
        np.concatenate([k.ravel() for k in kept]), scores_of(trained)
    )
    assert kg.sparsity_report(model).kept == 7


@pytest.mark.parametrize("method", ["magnitude", "random"])
def test_ranked_mask_is_saved_hardened_and_stripped(method):
    model = train(model_with(method, seed=3))
    loaded = save_and_load(model)
    for resumed in (model, loaded):
        resumed.train_on_batch(X, Y)
    np.testing.assert_array_equal(scores_of(loaded), scores_of(model))
    expected = to_numpy(model(X))

    kg.strip(loaded)

    assert (
        sum(np.count_nonzero(to_numpy(x.kernel)) for x in loaded.layers) == 10
    )
    np.testing.assert_allclose(to_numpy(loaded(X)), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [({"gradient": "none"}, "gradient"), ({"seed": -1}, "seed")],
)
def test_random_mask_rejects(arguments, name):
    with pytest.raises(ValueError, match=rf"`{name}` of `RandomMask`"):
        RandomMask(**arguments)


def test_random_masks_of_a_model_follow_the_seed_of_the_one_given():
    seeds = []
    for seed in (3, 3, 4):
        model = model_with(RandomMask(seed=seed))
        seeds.append([x.weight_masks[0].seed for x in model.layers])
        keras.utils.set_random_seed(len(seeds))

    assert seeds[0] == seeds[1]
    assert seeds[0] != seeds[2]
