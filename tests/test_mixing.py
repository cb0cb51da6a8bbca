import numpy as np
import pytest
from keras import ops
from scipy import special

from keras_gumbel.ops import gumbel_max
from keras_gumbel.ops import mix_uniform
from tests.gradients import MODES
from tests.gradients import compiled
from tests.gradients import dtype_of
from tests.gradients import gradient
from tests.gradients import to_numpy
from tests.statistics import require_frequencies

INF = np.inf
X = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
WEIGHTS = np.random.default_rng(1).normal(size=5).astype("float32")


@pytest.mark.parametrize("jit", MODES)
@pytest.mark.parametrize("epsilon", [0, 0.01, 0.5, 1.0])
def test_mixture_has_its_probabilities(epsilon, jit):
    run = compiled(lambda x: mix_uniform(x, epsilon), jit)

    found = to_numpy(run(ops.convert_to_tensor(X)))

    p = (1 - epsilon) * special.softmax(X.astype("float64"), -1) + epsilon / 5
    np.testing.assert_allclose(found, np.log(p), atol=1e-6)


def test_mixture_is_along_an_axis_of_what_is_allowed():
    mask = np.array([[True], [False], [True], [True]])

    found = to_numpy(mix_uniform(X, 0.3, axis=0, mask=mask))

    assert (found[1] == -INF).all()
    p = special.softmax(X[[0, 2, 3]].astype("float64"), 0)
    np.testing.assert_allclose(
        found[[0, 2, 3]], np.log(0.7 * p + 0.1), atol=1e-6
    )


def test_samples_of_a_mixture_explore():
    logits = np.broadcast_to(np.array([60.0, 0.0], "f"), (20_000, 2))

    drawn = to_numpy(gumbel_max(mix_uniform(logits, 0.1), seed=1))

    require_frequencies(np.bincount(drawn.astype(int)), [0.95, 0.05])


def test_mixture_has_its_gradient():
    def loss(x):
        return ops.sum(mix_uniform(x, 0.2) * ops.convert_to_tensor(WEIGHTS))

    (slopes,) = gradient(loss, X)

    p = special.softmax(X.astype("float64"), -1)
    inner = 0.8 * WEIGHTS / (0.8 * p + 0.04)
    expected = p * (inner - (p * inner).sum(-1, keepdims=True))
    np.testing.assert_allclose(slopes, expected, atol=1e-5)


@pytest.mark.parametrize("epsilon", [0.01, 1.0])
def test_harsh_logits_are_mixed(epsilon):
    rows = [[1e30, -1e30, 0.0], [-INF] * 3, [-INF, 3e38, 1.0]]

    found = to_numpy(mix_uniform(np.array(rows, "f"), epsilon))
    (slopes,) = gradient(
        lambda x: ops.sum(ops.exp(mix_uniform(x, epsilon))), np.array(rows, "f")
    )

    np.testing.assert_array_equal(found == -INF, np.isneginf(rows))
    np.testing.assert_allclose(found[0, 1], np.log(epsilon / 3), rtol=1e-5)
    assert np.isfinite(slopes).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mixture_has_the_dtype_of_the_logits(dtype):
    assert dtype_of(mix_uniform(ops.cast(X, dtype))) == dtype


@pytest.mark.parametrize("epsilon", [-0.1, 1.1, np.nan, None, "1", True])
def test_epsilon_must_be_a_share(epsilon):
    with pytest.raises(ValueError, match="`epsilon` of `mix_uniform`"):
        mix_uniform(X, epsilon)
