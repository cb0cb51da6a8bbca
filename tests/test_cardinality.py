import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import ops

from keras_gumbel.ops import top_k_mask
from tests.gradients import to_numpy


def tensors(arrays):
    return [ops.convert_to_tensor(a.astype("float32")) for a in arrays]


def largest(arrays, budget, costs=None):
    """The oracle: a stable sort, and as many as can be paid for."""
    flat = np.concatenate([a.ravel() for a in arrays])
    prices = np.repeat(costs or [1.0] * len(arrays), [a.size for a in arrays])
    order = np.argsort(-flat, kind="stable")
    chosen = np.zeros(flat.size, bool)
    chosen[order[np.cumsum(prices[order]) <= budget]] = True
    return chosen


def flat(masks):
    return np.concatenate([to_numpy(m).ravel() for m in masks])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    levels=st.sampled_from([1, 2, 5, 10**6]),
    share=st.floats(0, 1),
)
def test_top_k_mask_keeps_the_largest(seed, levels, share):
    generator = np.random.default_rng(seed)
    arrays = [
        generator.integers(0, levels, size=shape) / levels
        for shape in ((3, 4), (7,))
    ]
    budget = share * 19

    mask = flat(top_k_mask(tensors(arrays), budget))

    np.testing.assert_array_equal(mask, largest(arrays, budget))


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("sizes", [(3, 2), (3, 3), (1, 4)])
def test_arrays_share_the_budget_as_tensors_do(sizes, kind):
    arrays = kind(np.linspace(0.1, 0.1 * n, n).astype("float32") for n in sizes)

    masks = top_k_mask(arrays, 2)

    assert isinstance(masks, list)
    assert [tuple(m.shape) for m in masks] == [(n,) for n in sizes]
    np.testing.assert_array_equal(
        flat(masks), flat(top_k_mask(tensors(arrays), 2))
    )


def test_numbers_are_one_vector():
    for values in (
        [0.3, 0.1, 0.5],
        (0.3, 0.1, 0.5),
        np.float32([0.3, 0.1, 0.5]),
    ):
        assert to_numpy(top_k_mask(values, 2)).tolist() == [1.0, 0.0, 1.0]
    matrix = [[0.3, 0.1], [0.5, 0.2]]
    assert to_numpy(top_k_mask(matrix, 2)).tolist() == [[1, 0], [1, 0]]


@pytest.mark.parametrize("budget", [0, 1, 3, 5, 8])
def test_top_k_mask_keeps_the_larger_tie_of_equal_values(budget):
    values = [np.array([0.5, 0.5, 1.0, 0.0]), np.array([0.5, 0.0, 0.5])]
    ties = [np.array([3.0, 1.0, 0.0, 5.0]), np.array([2.0, 7.0, 1.0])]

    mask = flat(top_k_mask(tensors(values), budget, ties=tensors(ties)))

    # By value, then tie, then place.
    order = [2, 0, 4, 1, 6, 5, 3]
    assert set(np.flatnonzero(mask)) == set(order[:budget])


def test_top_k_mask_takes_ties_of_a_single_tensor():
    mask = top_k_mask([0.5, 0.5, 0.5], 1, ties=[1.0, 3.0, 2.0])

    assert to_numpy(mask).tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("budget", [0, 1, 4.9, 9, 30, 1e9])
def test_top_k_mask_spends_no_more_than_the_budget(budget):
    arrays = [np.linspace(0.0, 1.0, 6), np.linspace(0.05, 0.9, 5)]
    costs = [2.0, 3.5]

    mask = flat(top_k_mask(tensors(arrays), budget, costs))

    spent = float(np.repeat(costs, [6, 5]) @ mask)
    assert spent <= budget
    rest = np.repeat(costs, [6, 5])[mask == 0]
    first_left_out = np.argsort(-np.concatenate(arrays))
    first_left_out = [i for i in first_left_out if mask[i] == 0][:1]
    for index in first_left_out:
        assert spent + np.repeat(costs, [6, 5])[index] > budget
    assert rest.size == 0 or budget < float(np.repeat(costs, [6, 5]).sum())


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1.0, 1e30])
def test_top_k_mask_resolves_neighbours_of_every_size(scale):
    values = np.float32(scale) * np.float32([1.0, 1.0000001, 0.9999999, 0.0])

    mask = to_numpy(top_k_mask(ops.convert_to_tensor(values), 2))

    assert mask.tolist() == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_top_k_mask_keeps_shape_and_dtype(dtype):
    values = ops.cast(ops.reshape(ops.arange(6), (2, 3)), dtype)

    mask = top_k_mask(values, 2)

    assert keras.backend.standardize_dtype(mask.dtype) == dtype
    assert to_numpy(ops.cast(mask, "float32")).tolist() == [
        [0.0, 0.0, 0.0],
        [0.0, 1.0, 1.0],
    ]


@pytest.mark.parametrize("costs", [None, [2.0, 3.5]])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_top_k_mask_of_nan_is_nan(dtype, costs):
    arrays = [np.array([0.4, 0.1]), np.array([0.3, np.nan, 0.2])]
    values = [ops.cast(v, dtype) for v in tensors(arrays)]

    masks = top_k_mask(values, 2, costs)

    assert {keras.backend.standardize_dtype(m.dtype) for m in masks} == {dtype}
    assert np.isnan(flat([ops.cast(m, "float32") for m in masks])).all()


def test_top_k_mask_takes_a_budget_from_a_schedule():
    values = tensors([np.array([0.4, 0.1, 0.3, 0.2])])
    budget = ops.convert_to_tensor(np.float32(2.0))

    assert flat(top_k_mask(values, budget)).tolist() == [1.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize("budget", [-1, float("nan")])
def test_top_k_mask_rejects_budget(budget):
    with pytest.raises(ValueError, match=r"`budget` of `top_k_mask`.*least 0"):
        top_k_mask([0.1, 0.2], budget)


def test_top_k_mask_rejects_other_number_of_costs():
    with pytest.raises(ValueError, match=r"`costs` of `top_k_mask`.*list of 1"):
        top_k_mask([0.1, 0.2], 1, costs=[1.0, 2.0])
