import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from keras_gumbel.ops._projection import project_capped_box
from keras_gumbel.ops._short_rows import LONGEST
from keras_gumbel.ops._short_rows import project_short_rows


@given(
    seed=st.integers(0, 2**31),
    length=st.integers(1, LONGEST),
    budget=st.floats(0.0, LONGEST),
    spread=st.sampled_from([0.1, 1.0, 5.0]),
)
def test_rows_are_projected_as_one_by_one(seed, length, budget, spread):
    rng = np.random.default_rng(seed)
    rows = rng.normal(0.5, spread, (3, length, 2)).astype("float32")

    tensor = ops.convert_to_tensor(rows)
    found = ops.convert_to_numpy(project_short_rows(tensor, budget, axis=1))

    expected = project_capped_box(rows, budget, axis=1, differentiable=False)
    expected = ops.convert_to_numpy(expected)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("budget", [0, 1, 2, 2.5, 4])
def test_budgets_may_be_tensors(budget):
    rows = [[0.9, 1.3, 0.2, -0.4], [0.5, 0.5, 0.5, 0.5]]
    rows = ops.convert_to_tensor(rows, "float32")

    tensor = ops.convert_to_tensor(budget, "float32")
    found = project_short_rows(rows, tensor, axis=1)

    expected = project_short_rows(rows, budget, axis=1)
    found = ops.convert_to_numpy(found)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.all(found.sum(axis=1) <= budget + 1e-5)
