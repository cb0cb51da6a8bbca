"""Checks of samples, each with a false-alarm rate of 1e-9.

A correct sampler fails one of these checks once in a billion seeds, so a red
test is a bug and not luck. How small an error they see depends on the number
of samples: the tests that use them each have a companion with a wrong sampler.
"""

import numpy as np
from scipy import stats

FALSE_ALARM_RATE = 1e-9


def require_frequencies(counts, probabilities):
    """Pearson's chi-square test of counts against probabilities.

    Its null distribution holds where every class expects some 20 counts or
    more, which is required. A class of probability 0 must have no count.
    """
    counts = np.asarray(counts, "float64").ravel()
    probabilities = np.asarray(probabilities, "float64").ravel()
    expected = counts.sum() * probabilities
    possible = expected > 0
    assert counts.shape == probabilities.shape, "one probability per count"
    assert abs(probabilities.sum() - 1) < 1e-6, "probabilities must sum to 1"
    assert expected[possible].min() >= 20, f"too few draws: {expected}"
    assert not counts[~possible].any(), f"impossible class drawn: {counts}"
    deviation = (counts - expected)[possible]
    statistic = (deviation**2 / expected[possible]).sum()
    threshold = stats.chi2.isf(FALSE_ALARM_RATE, possible.sum() - 1)
    assert statistic <= threshold, (
        f"chi-square {statistic:.1f} > {threshold:.1f}: "
        f"drawn {counts}, expected {np.round(expected, 1)}"
    )


def require_distribution(samples, cdf):
    """Kolmogorov-Smirnov test of samples against a continuous CDF.

    The threshold is the bound of Dvoretzky, Kiefer, Wolfowitz and Massart,
    which holds for every number of samples.
    """
    samples = np.sort(np.asarray(samples, "float64").ravel())
    size = samples.size
    assert np.isfinite(samples).all(), "samples must be finite"
    expected = cdf(samples)
    steps = np.arange(size + 1) / size
    gaps = np.maximum(steps[1:] - expected, expected - steps[:-1])
    threshold = np.sqrt(-np.log(FALSE_ALARM_RATE / 2) / (2 * size))
    worst = gaps.argmax()
    assert gaps[worst] <= threshold, (
        f"Kolmogorov-Smirnov distance {gaps[worst]:.5f} > {threshold:.5f}, "
        f"at {samples[worst]:.5f}, where the CDF is {expected[worst]:.5f}"
    )


def require_mean(samples, mean):
    """Test of the mean of independent samples, by the central limit theorem.

    Tolerates 6.1 standard errors, estimated from the samples.
    """
    samples = np.asarray(samples, "float64").ravel()
    error = samples.std(ddof=1) / np.sqrt(samples.size)
    tolerance = stats.norm.isf(FALSE_ALARM_RATE / 2) * error
    assert abs(samples.mean() - mean) <= tolerance, (
        f"mean {samples.mean():.6g} is not {mean:.6g} +- {tolerance:.2g}"
    )
