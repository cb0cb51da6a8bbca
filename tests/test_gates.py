import numpy as np
import pytest
from keras import ops
from scipy import stats

from keras_gumbel.ops import hard_concrete
from keras_gumbel.ops import stochastic_gate
from tests.gradients import gradient
from tests.gradients import to_numpy

GATES = {"hard_concrete": hard_concrete, "stochastic_gate": stochastic_gate}
COUNT = 40_000


def draws(gate, prob, **options):
    return to_numpy(gate(ops.full((COUNT,), prob), seed=3, **options))


@pytest.mark.parametrize("prob", [0.02, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("name", GATES)
def test_gate_is_open_with_its_probability(name, prob):
    count = int((draws(GATES[name], prob) > 0).sum())

    # A two-sided test that fails once in 1e9 runs.
    assert 1e-9 < 2 * stats.binom.cdf(count, COUNT, prob)
    assert 1e-9 < 2 * stats.binom.sf(count - 1, COUNT, prob)


@pytest.mark.parametrize("temperature", [0.1, 2.0])
def test_hard_concrete_is_open_with_s_at_every_temperature(temperature):
    count = int((draws(hard_concrete, 0.3, temperature=temperature) > 0).sum())

    assert 1e-9 < 2 * stats.binom.cdf(count, COUNT, 0.3)
    assert 1e-9 < 2 * stats.binom.sf(count - 1, COUNT, 0.3)


@pytest.mark.parametrize("name", GATES)
def test_gate_is_exactly_zero_and_one_at_times(name):
    mask = draws(GATES[name], 0.5)

    assert mask.min() == 0.0
    assert mask.max() == 1.0
    assert ((mask > 0) & (mask < 1)).any()


def test_hard_concrete_of_given_noise_is_the_stretched_sigmoid():
    noise = np.float32([-0.5, 0.0, 1.5])
    gate = hard_concrete(
        ops.full((3,), 0.4), 0.5, noise=ops.convert_to_tensor(noise)
    )

    perturbed = (np.log(0.4 / 0.6) + noise) / 0.5 + np.log(0.1 / 1.1)
    stretched = 1.2 / (1 + np.exp(-perturbed)) - 0.1
    np.testing.assert_allclose(
        to_numpy(gate), np.clip(stretched, 0, 1), atol=1e-6
    )


def test_stochastic_gate_of_given_noise_is_a_clipped_normal():
    noise = np.float32([-0.5, 0.0, 1.5])
    gate = stochastic_gate(
        ops.full((3,), 0.7), sigma=0.4, noise=ops.convert_to_tensor(noise)
    )

    expected = np.clip(0.4 * (stats.norm.ppf(0.7) + noise), 0, 1)
    np.testing.assert_allclose(to_numpy(gate), expected, atol=1e-6)


@pytest.mark.parametrize("name", GATES)
def test_gate_is_finite_at_zero_and_one(name):
    def total(probs):
        return ops.sum(GATES[name](probs, seed=1))

    (slope,) = gradient(total, np.float32([0.0, 0.5, 1.0]))

    assert np.isfinite(to_numpy(slope)).all()
    ends = to_numpy(GATES[name](ops.convert_to_tensor([0.0, 1.0]), seed=1))
    assert ends.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: hard_concrete(ops.ones(2), temperature=0), "temperature"),
        (lambda: hard_concrete(ops.ones(2), low=0.0), "low"),
        (lambda: hard_concrete(ops.ones(2), high=1.0), "high"),
        (lambda: stochastic_gate(ops.ones(2), sigma=0), "sigma"),
    ],
)
def test_gates_reject_bad_arguments(call, argument):
    with pytest.raises(ValueError, match=rf"Argument `{argument}` of"):
        call()
