import functools
import itertools
import math

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel.constraints import CappedBox
from keras_gumbel.layers import ConcreteMask
from keras_gumbel.ops import _capped_box
from keras_gumbel.ops import _scalars
from keras_gumbel.ops import project_capped_box
from keras_gumbel.ops._projection import project_over
from tests.cases import compiled_for
from tests.gradients import MODES
from tests.gradients import compiled
from tests.gradients import dtype_of
from tests.gradients import float64_allowed
from tests.gradients import gradient
from tests.gradients import to_numpy
from tests.reference import project_exactly

SIZE = 24
INF = np.inf
COMPILED = True


def floats(low, high):
    low, high = float(np.float32(low)), float(np.float32(high))
    return st.floats(low, high, width=32, allow_subnormal=False)


# Spread out, tied at the corners of the box, and of all magnitudes.
NORMAL = floats(-2, 3)
TIED = st.sampled_from([-0.5, 0.0, 0.25, 0.5, 1.0, 1.5])
BOUND = float(np.float32(1e30))
HUGE = floats(-BOUND, BOUND) | st.sampled_from([BOUND, -BOUND, 0.5, -INF])

SCORES = st.sampled_from([NORMAL, TIED, NORMAL | TIED]).flatmap(
    lambda elements: arrays("float32", SIZE, elements=elements)
)
HUGE_SCORES = arrays("float32", SIZE, elements=HUGE)
BUDGETS = st.one_of(
    floats(0, SIZE), st.integers(0, SIZE + 2), floats(1e-6, 1e-2)
)

RNG = np.random.default_rng(0)
NORMALS = RNG.normal(size=200)
CASES = {
    "normal": (NORMALS, 10),
    "normal, not an integer": (NORMALS, 33.3),
    "uniform": (RNG.random(200), 20),
    "after a step": (np.repeat([0, 1], [180, 20]) + 0.01 * NORMALS, 20),
    "all 0.7": (np.full(200, 0.7), 100),
    "all ones": (np.ones(200), 10),
    "five values": (RNG.choice([0, 0.2, 0.5, 0.9, 1.3], 200), 30),
    "integer gap": (np.repeat([-1.0, 0.0, 2.0], [100, 90, 10]), 10),
    "feasible": (RNG.random(200) * 0.1, 20),
    "all negative": (-RNG.random(200), 3),
    "no budget": (NORMALS, 0),
    "tiny budget": (RNG.random(200), 1e-3),
    "budget one": (RNG.standard_cauchy(200), 1),
    "budget just below n": (np.full(200, 3.0), 199.5),
    "budget n": (np.full(200, 3.0), 200),
    "budget above n": (np.full(200, 3.0), 1000),
    "one huge score": (np.append(RNG.random(199), 1e30), 20),
    "forbidden scores": (np.append(np.full(100, -INF), NORMALS[:100]), 5),
}


def tensor(values):
    return ops.convert_to_tensor(np.asarray(values, "float32"))


@functools.cache
def projection(jit):
    return compiled(lambda *z: project_capped_box(z[:-1], z[-1]), jit)


def project(values, budget, jit=COMPILED):
    """Projects in float32, compiled by default; returns float64."""
    (s,) = projection(jit)(tensor(values), tensor(budget))
    return to_numpy(s)


def resolution(budget, shift):
    """Bounds the distance of the computed lambda from the exact one.

    The search may stop when the sum is within 1e-6 K; and lambda is a float.
    """
    return 1.5e-6 * float(budget) + 2 * np.spacing(np.float32(shift))


def require_projection(s, z, budget):
    exact, shift = project_exactly(z, budget)
    nearness = resolution(budget, shift)
    assert math.fsum(s.ravel()) <= budget
    assert s.min() >= 0
    assert s.max() <= 1
    np.testing.assert_allclose(s, exact, rtol=0, atol=nearness)
    assert (s[z > shift + 1 + nearness] == 1).all()
    assert (s[z < shift] == 0).all()
    if shift > 0:
        on_slope = ((exact > 0) & (exact < 1)).sum()
        short = budget - math.fsum(s.ravel())
        assert short <= 1.5e-6 * budget + max(on_slope, 1) * nearness


@given(SCORES, BUDGETS)
def test_projection_is_the_exact_one(z, budget):
    s = project(z, budget)

    require_projection(s, z, budget)


@settings(max_examples=20)
@given(SCORES, BUDGETS | st.floats(1e-3, SIZE))
def test_eager_projection_is_the_exact_one(z, budget):
    s = to_numpy(project_capped_box(tensor(z), budget))

    require_projection(s, z, budget)


@given(HUGE_SCORES, BUDGETS)
def test_projection_of_huge_scores_is_the_exact_one(z, budget):
    s = project(z, budget)

    require_projection(s, z, budget)


@settings(max_examples=30)
@given(arrays("float32", SIZE, elements=floats(0, 1)), BUDGETS)
def test_projection_sees_the_sixteenths_of_scores_about_a_million(z, budget):
    z = z + np.float32(1e6)

    s = project(z, budget)

    # float32 has steps of 1/16 there: no lambda in float32 comes nearer.
    require_projection(s, z, budget)
    assert resolution(0, 1e6) == 0.125


@settings(max_examples=50)
@given(SCORES | HUGE_SCORES, BUDGETS)
def test_projection_is_idempotent_bit_for_bit(z, budget):
    once = project(z, budget)

    assert (project(once, budget) == once).all()


@settings(max_examples=50)
@given(SCORES, floats(1e-6, 1))
def test_projection_of_a_feasible_point_is_the_clip(z, room):
    clipped = np.clip(z, 0, 1)
    budget = math.fsum(clipped) * (1 + 1e-6) + room

    assert (project(z, budget) == clipped).all()


@pytest.mark.parametrize("jit", MODES)
def test_projection_of_a_point_next_to_the_boundary_fits(jit):
    for seed in range(10):
        z = np.random.default_rng(seed).random(SIZE).astype("float32")
        # The float32 budgets about the sum, from 4 below to 2 above.
        steps = np.arange(-4, 3) * np.spacing(np.float32(math.fsum(z)))
        for budget in np.float32(math.fsum(z)) + steps.astype("float32"):
            s = project(z, budget, jit)

            assert math.fsum(s) <= budget
            np.testing.assert_allclose(s, z, rtol=0, atol=2e-5)


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize(
    ("scores", "budget"),
    [([0.25] * 4, 1), ([1.0, 1.0, 0.0], 2), ([0.3, 0.7], 1)],
)
def test_projection_of_a_point_on_the_boundary_is_the_point(
    scores, budget, jit
):
    z = np.zeros(SIZE, "float32")
    z[: len(scores)] = scores
    assert math.fsum(z) == budget

    assert (project(z, budget, jit) == z).all()


@settings(max_examples=50)
@given(SCORES | HUGE_SCORES, BUDGETS)
def test_projection_keeps_the_order(z, budget):
    s = project(z, budget)

    assert (np.diff(s[np.argsort(z)]) >= 0).all()
    assert all(np.unique(s[z == score]).size == 1 for score in z)


@settings(max_examples=50)
@given(SCORES, BUDGETS, st.integers(0, 2**32 - 1))
def test_projection_commutes_with_permutations(z, budget, seed):
    order = np.random.default_rng(seed).permutation(SIZE)

    one, other = project(z, budget)[order], project(z[order], budget)

    nearness = resolution(budget, project_exactly(z, budget)[1])
    np.testing.assert_allclose(one, other, rtol=0, atol=nearness)


@settings(max_examples=50)
@given(SCORES, SCORES, BUDGETS)
def test_projection_brings_no_two_points_apart(z, other, budget):
    distance = np.linalg.norm(project(z, budget) - project(other, budget))

    rounding = 2 * math.sqrt(SIZE) * resolution(budget, 3)
    assert distance <= np.linalg.norm(z - other) + rounding


@settings(max_examples=50)
@given(SCORES, floats(0.1, 0.8))
def test_projection_takes_more_from_a_smaller_budget(z, share):
    total = np.clip(z, 0, 1).sum()

    small, large = project(z, share * total), project(z, 1.2 * share * total)

    assert (small <= large).all()
    difference = large.sum() - small.sum()
    assert difference == pytest.approx(0.2 * share * total, abs=1e-4)


@settings(max_examples=50)
@given(SCORES, BUDGETS)
def test_projection_of_a_list_is_the_one_of_all_scores(z, budget):
    parts = [z[:9], z[9:10].reshape(()), z[10:].reshape(2, 7)]

    projected = projection(MODES[-1])(*map(tensor, parts), tensor(budget))

    assert [tuple(p.shape) for p in projected] == [(9,), (), (2, 7)]
    s = np.concatenate([to_numpy(p).ravel() for p in projected])
    require_projection(s, z, budget)


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("case", CASES)
def test_projection_is_exact_in_every_mode(case, jit):
    z, budget = (np.float32(x) for x in CASES[case])

    s = project(z, budget, jit)

    require_projection(s, z, float(budget))
    if case not in ("tiny budget", "budget one"):  # float32 limits these two
        exact = project_exactly(z, float(budget))[0]
        np.testing.assert_allclose(s, exact, rtol=0, atol=1e-5)
        assert s.sum() >= exact.sum() * (1 - 2e-6)


@pytest.mark.parametrize("case", ["normal", "no budget", "forbidden scores"])
def test_projection_in_float64_is_exact_to_the_tolerance(case):
    z, budget = CASES[case]

    with float64_allowed():
        s = project_capped_box(ops.convert_to_tensor(z), budget)

    assert dtype_of(s) == "float64"
    assert math.fsum(to_numpy(s)) <= budget
    exact, shift = project_exactly(z, budget)
    nearness = 1.5e-6 * budget + 2 * np.spacing(shift)
    np.testing.assert_allclose(to_numpy(s), exact, rtol=0, atol=nearness)


@pytest.mark.parametrize("case", ["normal", "all 0.7", "integer gap"])
@pytest.mark.parametrize("kind", [float, np.float64, np.float32, ops.array])
def test_projection_takes_a_budget_of_any_kind(kind, case):
    z, budget = CASES[case]

    s = to_numpy(project_capped_box(tensor(z), kind(budget)))

    assert (s == project(z, budget, jit=False)).all()


@pytest.mark.parametrize("kind", [float, np.float64])
def test_projection_rounds_a_budget_down(kind):
    budget = kind(1 - 1e-9)  # rounds to 1 in float32

    s = to_numpy(project_capped_box(tensor([1.0, -1.0, 0.0, 0.0]), budget))

    assert math.fsum(s) <= budget
    assert s[0] == pytest.approx(1, abs=2e-6)


@pytest.mark.parametrize("budget", [4, 5.5, 1e30, 1e300, math.inf])
def test_projection_onto_a_large_budget_is_the_clip(budget):
    s = project_capped_box(tensor([2.0, 0.3, -1.0, 1e30]), budget)

    assert to_numpy(s).tolist() == [1, np.float32(0.3), 0, 1]


@pytest.mark.parametrize(
    ("dtype", "eps"), [("float16", 1e-3), ("bfloat16", 8e-3)]
)
@pytest.mark.parametrize("case", CASES)
def test_projection_in_half_precision_fits_after_rounding(case, dtype, eps):
    z, budget = CASES[case]
    z = ops.cast(np.clip(z, -6e4, 6e4), dtype)

    s = project_capped_box(z, budget)

    exact, shift = project_exactly(to_numpy(z), budget)
    assert dtype_of(s) == dtype
    assert math.fsum(to_numpy(s)) <= budget
    assert to_numpy(s).sum() >= (1 - eps) * exact.sum() - 1e-5
    np.testing.assert_allclose(to_numpy(s), exact, rtol=0, atol=0.02)
    if shift == 0:
        assert (to_numpy(s) == exact).all()


def test_projection_keeps_the_dtype_of_every_tensor():
    half = ops.cast([2.0, 0.6], "float16")
    wide = ops.cast([0.5, 0.2, 1.1], "float32")

    first, second = project_capped_box((half, wide), 2.5)

    assert (dtype_of(first), dtype_of(second)) == ("float16", "float32")
    np.testing.assert_allclose(to_numpy(first), [1, 0.3667], atol=1e-3)
    np.testing.assert_allclose(to_numpy(second), [0.2667, 0, 0.8667], atol=1e-3)


def test_projection_takes_a_list_of_lists_as_tensors():
    projected = project_capped_box([[2.0, 0.5], [0.75]], 1.25)

    assert isinstance(projected, list)
    assert [tuple(p.shape) for p in projected] == [(2,), (1,)]
    np.testing.assert_allclose(to_numpy(projected[0]), [1, 0], atol=2e-6)
    np.testing.assert_allclose(to_numpy(projected[1]), [0.25], atol=2e-6)


@pytest.mark.parametrize("jit", MODES)
def test_projection_of_nan_is_loud(jit):
    s = project(np.append(np.ones(SIZE - 1), math.nan), 3, jit)

    assert np.isnan(s).all()


@pytest.mark.parametrize("jit", MODES)
def test_projection_of_the_largest_scores_fits(jit):
    s = project(np.repeat([0.5, 3.4e38], [SIZE - 3, 3]), 2, jit)

    assert math.fsum(s) <= 2
    np.testing.assert_allclose(s[-3:], 2 / 3, rtol=2e-6)


@pytest.mark.parametrize("jit", MODES)
def test_projection_of_infinity_is_one(jit):
    s = project(np.append(np.full(SIZE - 3, 0.5), [INF] * 3), 4, jit)

    assert s[-3:].tolist() == [1, 1, 1]
    assert 0 <= 4 - math.fsum(s) <= 4e-6


@pytest.mark.parametrize("jit", MODES)
def test_projection_of_more_infinities_than_fit_is_loud(jit):
    s = project(np.append(np.full(SIZE - 3, 0.5), [INF] * 3), 2, jit)

    assert np.isnan(s).all()


@pytest.mark.parametrize("bad", [-1, -1e-9, math.nan, -math.inf])
def test_projection_refuses_a_bad_budget(bad):
    with pytest.raises(ValueError, match="`budget` of `project_capped_box`"):
        project_capped_box(tensor([0.5, 0.5]), bad)


@pytest.mark.parametrize("empty", [[], ()])
def test_projection_refuses_an_empty_list(empty):
    with pytest.raises(ValueError, match="`values` of `project_capped_box`"):
        project_capped_box(empty, 1)


def test_capped_box_projects():
    z, budget = CASES["normal"]

    s = to_numpy(CappedBox(budget)(tensor(z)))

    assert (s == to_numpy(project_capped_box(tensor(z), budget))).all()
    assert s.sum() == pytest.approx(budget, rel=2e-6)


@pytest.mark.parametrize("budget", [1, 2.5])
def test_capped_box_holds_a_kernel_through_training(budget):
    layer = keras.layers.Dense(1, kernel_constraint=CappedBox(budget))
    layer.build((None, 6))
    layer.kernel.assign(np.full((6, 1), 0.1))
    slope = -np.array([3.0, 0.9, 0.5, 0.4, -1.0, 0.2], "float32")[:, None]

    keras.optimizers.SGD(1.0).apply(
        [ops.convert_to_tensor(slope)], [layer.kernel]
    )

    kernel = to_numpy(layer.kernel)
    require_projection(kernel, np.float32(0.1) - slope, budget)


def test_capped_box_holds_the_scores_of_a_mask():
    gate = ConcreteMask(scores_constraint=CappedBox(2))
    gate.build((None, 4))

    keras.optimizers.SGD(1.0).apply([ops.zeros((4,))], [gate.mask_scores])

    scores = to_numpy(gate.mask_scores)
    assert math.fsum(scores) <= 2
    np.testing.assert_allclose(scores, 0.5, atol=1e-5)


@pytest.mark.parametrize("budget", [0, 3, 2.5])
def test_capped_box_survives_serialization(budget):
    config = keras.constraints.serialize(CappedBox(budget))

    restored = keras.constraints.deserialize(config)

    assert isinstance(restored, CappedBox)
    assert restored.budget == budget
    assert restored.get_config() == {"budget": budget}


@pytest.mark.parametrize("bad", [-1, math.nan, math.inf, "3", None, True])
def test_capped_box_refuses_a_bad_budget(bad):
    with pytest.raises(ValueError, match="`budget` of `CappedBox`"):
        CappedBox(bad)


# Beyond one budget: costs, equality, rows, gradients.


def solve_by_bisection(z, budget, costs=1.0, equality=False):
    """Eq. (33) with costs, by 200 halvings in float64; one row."""
    z, costs = np.broadcast_arrays(np.asarray(z, "float64"), costs)

    def spent(shift):
        return (costs * np.clip(z - shift * costs, 0, 1)).sum()

    low, high = (-1e3, 1e3) if equality else (0.0, 1e3)
    if not equality and spent(0.0) <= budget:
        return np.clip(z, 0, 1)
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if spent(middle) > budget else (low, middle)
    return np.clip(z - high * costs, 0, 1)


COSTS = st.floats(0.0625, 8, width=32)


@settings(max_examples=40)
@given(SCORES, arrays("float32", SIZE, elements=COSTS), st.floats(0.01, 60))
def test_projection_counts_costs(z, costs, budget):
    s = to_numpy(project_capped_box(tensor(z), budget, costs=costs))

    exact = solve_by_bisection(z, budget, costs)
    assert math.fsum(s * costs) <= budget
    np.testing.assert_allclose(s, exact, rtol=0, atol=4e-6 * max(1, budget))


@pytest.mark.parametrize("jit", MODES)
def test_projection_of_a_list_counts_the_cost_of_each_tensor(jit):
    z = [NORMALS[:120], NORMALS[120:]]
    costs = [9.0, np.float32(2.0)]
    function = compiled(lambda *z: project_capped_box(z, 90.0, costs), jit)

    s = [to_numpy(part) for part in function(*map(tensor, z))]

    exact = solve_by_bisection(
        np.concatenate(z), 90.0, np.repeat([9.0, 2.0], [120, 80])
    )
    np.testing.assert_allclose(np.concatenate(s), exact, rtol=0, atol=1e-5)
    assert 9 * math.fsum(s[0]) + 2 * math.fsum(s[1]) <= 90


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("budget", [0.5, 30, 170, 199.5, 200])
def test_projection_with_equality_meets_the_budget(budget, jit):
    function = compiled(
        lambda z: project_capped_box(z, budget, equality=True), jit
    )

    s = to_numpy(function(tensor(NORMALS)))

    assert 0 <= budget - math.fsum(s) <= 1e-6 * budget
    exact = solve_by_bisection(NORMALS, budget, equality=True)
    np.testing.assert_allclose(s, exact, rtol=0, atol=2e-4)


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_projection_along_an_axis_is_that_of_every_row(axis, jit):
    z = (NORMALS.reshape(4, 5, 10) + 0.5).astype("float32")
    budgets = np.moveaxis(z, axis, -1)[..., :1] * 0 + [[[0.5]]] * 1
    budgets[0] = 2.0
    function = compiled(lambda z, k: project_capped_box(z, k, axis=axis), jit)

    s = to_numpy(function(tensor(z), tensor(np.moveaxis(budgets, -1, axis))))

    rows = np.moveaxis(z, axis, -1)
    exact = np.empty_like(rows)
    for i in np.ndindex(rows.shape[:-1]):
        exact[i] = solve_by_bisection(rows[i], budgets[i][0])
    s = np.moveaxis(s, axis, -1)
    np.testing.assert_allclose(s, exact, rtol=0, atol=2e-5)
    assert (s.sum(axis=-1, dtype="float64") <= budgets[..., 0]).all()


@pytest.mark.parametrize("shape", [None, (), (1,), (1, 1)])
def test_rows_share_a_budget(shape):
    z = np.random.default_rng(3).uniform(size=(2, 4, 3)).astype("float32")
    budget = 0.75 if shape is None else tensor(np.full(shape, 0.75))
    function = compiled(lambda z: project_capped_box(z, budget, axis=1))

    s = to_numpy(function(tensor(z)))

    expected = to_numpy(project_capped_box(tensor(z), 0.75, axis=1))
    np.testing.assert_allclose(s, expected, atol=1e-6)
    np.testing.assert_allclose(s.sum(axis=1), 0.75, atol=1e-5)


def test_projection_keeps_two_of_four():
    z = np.array([[3.0, 1.5, 1.4, 0.0], [9.0, 0.2, 0.1, -1.0]], "float32")

    s = to_numpy(project_capped_box(tensor(z), 2, axis=-1))

    np.testing.assert_allclose(
        s, [[1, 0.55, 0.45, 0], [1, 0.2, 0.1, 0]], atol=2e-6
    )


def closed_form_slopes(s, weights, costs, active):
    """The vector-Jacobian product of the projection."""
    inside = (s > 0) & (s < 1)
    c = np.where(inside, costs, 0.0)
    slopes = np.where(inside, weights, 0.0)
    if active:
        slopes = slopes - c * (c @ weights) / (c @ c)
    return slopes, (c @ weights) / (c @ c) if active else 0.0


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("budget", [20.0, 1000.0])
@pytest.mark.parametrize("costs", [1.0, RNG.uniform(0.5, 2, 200)])
def test_projection_has_the_gradient_of_the_closed_form(costs, budget, jit):
    costs = np.broadcast_to(np.asarray(costs, "float32"), 200)
    weights = RNG.normal(size=200).astype("float32")

    def loss(z, k):
        return ops.sum(project_capped_box(z, k, costs=costs) * tensor(weights))

    in_z, in_k = gradient(loss, tensor(NORMALS), tensor(budget), jit=jit)

    s = to_numpy(project_capped_box(tensor(NORMALS), budget, costs=costs))
    expected, of_k = closed_form_slopes(s, weights, costs, budget < 100)
    np.testing.assert_allclose(in_z, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(in_k, of_k, rtol=1e-4, atol=1e-6)


def test_projection_has_no_gradient_unless_asked():
    def loss(z):
        return ops.sum(project_capped_box(z, 20.0, differentiable=False) * z)

    (slopes,) = gradient(loss, tensor(NORMALS))

    s = to_numpy(project_capped_box(tensor(NORMALS), 20.0))
    np.testing.assert_allclose(slopes, s, atol=1e-6)


@pytest.mark.parametrize("costs", [0.0, -1.0, [1.0, math.nan], math.inf])
def test_projection_refuses_bad_costs(costs):
    with pytest.raises(ValueError, match="`costs` of `project_capped_box`"):
        project_capped_box(tensor([0.5, 0.5]), 1, costs=costs)


def test_projection_refuses_costs_of_another_number():
    with pytest.raises(ValueError, match="one for each of `values`"):
        project_capped_box([tensor([0.5]), tensor([0.5])], 1, costs=[1.0])


# What the search takes: the sums over z, the overshoot and the distance to
# the exact solution.
N = 20_000
WIDE = np.random.default_rng(1)
BINARY = (WIDE.random(N) < 0.1).astype("float64")
HARD_CASES = {
    "feasible": (BINARY * 0.9, 0.1 * N, 1),
    "after an SGD step": (BINARY + 0.01 * WIDE.normal(size=N), 0.1 * N, 6),
    "after an Adam step": (
        np.clip(WIDE.random(N) * 0.2, 0, 1)
        + 1e-3 * np.sign(WIDE.normal(size=N)),
        0.1 * N,
        6,
    ),
    "uniform": (WIDE.random(N), 0.05 * N, 8),
    "heavy tails": (WIDE.standard_cauchy(N), 0.05 * N, 60),
    "lognormal": (WIDE.lognormal(0, 3, N), 0.01 * N, 60),
    "all equal": (np.full(N, 0.7), 0.05 * N, 60),
    "five values": (WIDE.choice([0, 0.2, 0.5, 0.9, 1.3], N), 0.1 * N, 60),
    "about a million": (1e6 + WIDE.random(N), 0.05 * N, 60),
    "huge": (1e30 * WIDE.normal(size=N), 0.05 * N, 60),
    "one outlier": (np.append(WIDE.random(N - 1), 1e30), 0.05 * N, 60),
    "-inf": (np.where(WIDE.random(N) < 0.5, -np.inf, 0.5), 0.05 * N, 60),
    "tiny budget": (WIDE.random(N), 0.25, 60),
    "fraction": (WIDE.random(N), 1234.5, 60),
    "no budget": (WIDE.random(N), 0, 60),
    "nearly all": (np.full(N, 3.0), N - 0.5, 60),
    "all": (np.full(N, 3.0), N, 1),
}


@pytest.mark.parametrize("case", HARD_CASES)
def test_search_takes_few_sums(case, monkeypatch):
    z, budget, most = HARD_CASES[case]
    z = z.astype("float32")
    sums = []
    original = _capped_box._Eager.sum_less

    def counted(*args):
        sums.append(original(*args))
        return sums[-1]

    monkeypatch.setattr(_capped_box._Eager, "sum_less", counted)
    s = to_numpy(project_capped_box(tensor(z), budget))

    exact, shift = project_exactly(z, budget)
    inside = max(1, ((exact > 0) & (exact < 1)).sum())
    assert len(sums) <= most
    assert math.fsum(s) <= budget
    if shift > 0:
        assert budget - math.fsum(s) <= 1e-6 * budget
    assert np.abs(s - exact).max() <= 1e-6 * budget / inside + 1e-6


@pytest.mark.parametrize("costs", [None, [1.0, 0.5]])
def test_projection_over_its_tensors_is_the_same_bit_for_bit(costs):
    rng = np.random.default_rng(0)
    z = [rng.normal(0.2, 0.4, size=(50, 4)).astype("float32") for _ in "ab"]
    tensors = [ops.convert_to_tensor(np.array(part)) for part in z]

    expected = project_capped_box(tensors, 20.0, costs)
    unchanged = list(map(ops.convert_to_numpy, tensors))
    np.testing.assert_array_equal(unchanged, z)
    found = project_over(tensors, 20.0, costs)

    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs)
        )
    if keras.backend.backend() == "torch":
        assert found[0].data_ptr() == tensors[0].data_ptr()


COSTS_TO_JOIN = {
    "none": None,
    "equal": [2.0] * 3,
    "mixed": [1.0, np.float32(0.5), np.full((1, 7), 0.25)],
}


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("equality", [False, True])
@pytest.mark.parametrize("costs", compiled_for(["mixed"], COSTS_TO_JOIN))
def test_projection_joins_tensors_on_an_accelerator(
    costs, equality, jit, monkeypatch
):
    z = [NORMALS[:9], NORMALS[9].reshape(()), NORMALS[10:24].reshape(2, 7)]
    z = list(map(tensor, z))
    joined, costs = [], COSTS_TO_JOIN[costs]

    def projections():
        # A function of its own each time: JAX compiles it anew.
        function = compiled(
            lambda *z: project_capped_box(z, 6.0, costs, equality=equality),
            jit,
        )
        return [to_numpy(part) for part in function(*z)]

    def join(pairs, original=_capped_box._joined):
        joined.append(original(pairs))
        return joined[-1]

    expected = projections()
    monkeypatch.setattr(_keras_private, "on_accelerator", lambda _: True)
    monkeypatch.setattr(_capped_box, "_joined", join)
    found = projections()

    assert {len(pairs) for pairs in joined} == {1}
    assert [part.shape for part in found] == [(9,), (), (2, 7)]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["joint", "data"])
def test_projection_leaves_tensors_where_they_are_spread(name, monkeypatch):
    pairs = [(tensor(NORMALS[:9]), 1.0), (tensor(NORMALS[9:24]), 1.0)]
    monkeypatch.setattr(
        keras.distribution, "distribution", lambda: name == "data" or None
    )
    monkeypatch.setattr(_keras_private, "on_accelerator", lambda _: True)

    assert len(_capped_box._joined(pairs)) == (2 if name == "data" else 1)


NUMBERS = [0.0, -0.0, 1.0, -2.5, 9.0, math.inf, -math.inf, math.nan]


@pytest.mark.parametrize(
    "name", [n for n in vars(_scalars) if n[0] != "_" and hasattr(ops, n)]
)
def test_scalars_are_what_numpy_says(name):
    ours, theirs = getattr(_scalars, name), getattr(np, name)
    count = {"where": 3, "full_like": 2}.get(name, getattr(theirs, "nin", 1))

    with np.errstate(invalid="ignore"):
        for values in itertools.product(map(np.float64, NUMBERS), repeat=count):
            np.testing.assert_array_equal(ours(*values), theirs(*values))


@pytest.mark.parametrize("equality", [False, True])
def test_projection_of_rows_of_zeros_is_silent(equality):
    z = ops.convert_to_tensor([[0.0, 0.0], [1.0, 1.0]])

    s = project_capped_box(
        z, ops.convert_to_tensor([[0.0], [1.0]]), axis=-1, equality=equality
    )

    np.testing.assert_allclose(
        ops.convert_to_numpy(s), [[0.0, 0.0], [0.5, 0.5]], rtol=2e-6
    )
