"""The projection of a step that knows the last one."""

import functools
import math

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import ops

import keras_gumbel as kg
from keras_gumbel.ops import _capped_box
from keras_gumbel.ops import project_capped_box
from keras_gumbel.ops._projection import project_again
from tests.gradients import compiled
from tests.gradients import to_numpy
from tests.reference import project_exactly
from tests.test_projection import BUDGETS
from tests.test_projection import COMPILED
from tests.test_projection import HUGE_SCORES
from tests.test_projection import NORMALS
from tests.test_projection import SCORES
from tests.test_projection import resolution
from tests.test_projection import tensor


def require_near(s, z, budget):
    """Requires the projection to within 1e-6 K."""
    exact, shift = project_exactly(z, budget)
    nearness = resolution(budget, shift)
    assert math.fsum(s.ravel()) <= budget
    assert s.min() >= 0
    assert s.max() <= 1
    np.testing.assert_allclose(s, exact, rtol=0, atol=nearness)
    assert (s[z < shift] == 0).all()
    if shift > 0:
        on_slope = ((exact > 0) & (exact < 1)).sum()
        short = budget - math.fsum(s.ravel())
        assert short <= 1.5e-6 * budget + max(on_slope, 1) * nearness


LARGEST = float(np.finfo("float32").max)
# What may be there: of a step like this one, of any other, or nonsense.
STALE = st.one_of(
    st.sampled_from([0.0, -1.0, math.nan, math.inf, LARGEST, 1e-30]),
    st.floats(0, 2, width=32),
    st.floats(0, LARGEST, width=32),
)


@functools.cache
def search(jit):
    def project(z, budget, last):
        (s,), following = project_again([z], budget, None, last)
        return s, following

    return compiled(project, jit)


def again(z, budget, last, jit=COMPILED):
    s, following = search(jit)(tensor(z), tensor(budget), tensor(last))
    return to_numpy(s), ops.convert_to_numpy(following)


@given(SCORES, BUDGETS, STALE, STALE)
def test_any_start_leads_to_the_exact_projection(z, budget, shift, slope):
    s, _ = again(z, budget, [shift, slope])

    require_near(s, z, budget)


@settings(max_examples=20)
@given(SCORES, BUDGETS, STALE, STALE)
def test_any_start_leads_there_eagerly(z, budget, shift, slope):
    (s,), _ = project_again([tensor(z)], budget, None, tensor([shift, slope]))

    require_near(to_numpy(s), z, budget)


@given(HUGE_SCORES, BUDGETS, STALE, STALE)
def test_any_start_leads_there_among_huge_scores(z, budget, shift, slope):
    s, _ = again(z, budget, [shift, slope])

    require_near(s, z, budget)


@given(SCORES, BUDGETS)
def test_its_own_result_is_a_start(z, budget):
    _, last = again(z, budget, [0.0, 0.0])
    s, _ = again(z, budget, last)

    require_near(s, z, budget)


def test_a_nan_shows_and_does_no_harm_later():
    z = np.append(NORMALS, math.nan)
    s, last = again(z, 10.0, [0.1, 50.0])
    healthy, _ = again(NORMALS, 10.0, last)

    assert np.isnan(s).all()
    require_near(healthy, NORMALS, 10.0)


def test_more_infinite_scores_than_the_budget_are_all_nan():
    z = np.append(NORMALS, np.full(20, math.inf))

    s, _ = again(z, 10.0, [0.1, 50.0])

    assert np.isnan(s).all()


def test_several_tensors_with_costs_are_projected_alike():
    z, costs = [tensor(NORMALS[:50]), tensor(NORMALS[50:])], [3.0, 1.0]
    expected = project_capped_box(z, 20.0, costs)

    found, last = project_again(
        list(map(ops.copy, z)), 20.0, costs, tensor([0.2, 90.0])
    )

    for s, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(to_numpy(s), to_numpy(e), atol=2e-6)
    spent = sum(
        c * to_numpy(s).sum() for s, c in zip(found, costs, strict=True)
    )
    assert 20.0 * (1 - 1e-6) <= spent <= 20.0
    assert ops.convert_to_numpy(last)[0] > 0


def test_nothing_and_half_precision_pass_the_numbers_on():
    last = tensor([0.2, 90.0])
    half = ops.cast(tensor(NORMALS), "float16")

    (empty,), passed = project_again([ops.zeros((0,))], 1.0, None, last)
    (s,), kept = project_again([half], 10.0, None, last)

    assert tuple(empty.shape) == (0,)
    assert to_numpy(s).sum() <= 10.0
    for numbers in (passed, kept):
        assert (ops.convert_to_numpy(numbers) == to_numpy(last)).all()


def trajectory(steps):
    """Scores as momentum moves them, under a budget that falls."""
    generator = np.random.default_rng(0)
    size = 20_000
    drift = generator.normal(size=size)
    s, velocity = np.full(size, 0.5), np.zeros(size)
    for step in range(steps):
        budget = 0.05 * size + 0.35 * size * (1 - step / steps) ** 3
        velocity = 0.8 * velocity + drift + 3 * generator.normal(size=size)
        s = yield (s + 0.002 * velocity).astype("float32"), budget


def count_sums(monkeypatch, known):
    """Counts the sums of every step, from where the last one ended or not."""
    counted = []
    original = _capped_box._Eager.sum_less

    def sum_less(*args):
        counted[-1] += 1
        return original(*args)

    monkeypatch.setattr(_capped_box._Eager, "sum_less", sum_less)
    path, last, s = trajectory(40), ops.zeros(2), None
    while True:
        try:
            z, budget = path.send(s)
        except StopIteration:
            return counted
        counted.append(0)
        (s,), last = project_again([tensor(z)], budget, None, last)
        s = to_numpy(s)
        if not known:
            last = ops.zeros(2)


def test_consecutive_steps_take_at_most_three_sums(monkeypatch):
    cold = count_sums(monkeypatch, known=False)
    warm = count_sums(monkeypatch, known=True)

    active = [c > 1 for c in cold]
    assert np.mean(np.compress(active, cold)) > 4
    # The first step under an active budget knows nothing.
    assert max(np.compress(active, warm)[1:]) <= 3


@pytest.mark.parametrize("limits", [0.2, {"a": 0.2, "b": 0.5}])
def test_optimizer_passes_the_numbers_on_and_saves_them(limits):
    def make():
        scores = [
            kg.mark_scores(keras.Variable(np.full(100, 0.5), name=name))
            for name in ("a", "b")
        ]
        optimizer = kg.optimizers.ProjectedOptimizer(
            keras.optimizers.SGD(0.1), limits, score_optimizer=None
        )
        optimizer.build(scores)
        return optimizer, scores

    optimizer, scores = make()
    gradients = [tensor(NORMALS[:100]), tensor(NORMALS[100:] - 1.0)]
    for _ in range(3):
        optimizer.apply(gradients, scores)
    state = {}
    optimizer.save_own_variables(state)
    again, others = make()
    again.inner_optimizer.build(others)
    again.load_own_variables(state)
    for new, old in zip(others, scores, strict=True):
        new.assign(old)

    numbers = ops.convert_to_numpy(optimizer._last)
    assert numbers.shape == (1 if limits == 0.2 else 2, 2)
    assert (numbers > 0).all()
    for one, variables in ((optimizer, scores), (again, others)):
        one.apply(gradients, variables)
    for new, old in zip(others, scores, strict=True):
        assert (to_numpy(new.value) == to_numpy(old.value)).all()
    assert (
        ops.convert_to_numpy(again._last)
        == ops.convert_to_numpy(optimizer._last)
    ).all()
