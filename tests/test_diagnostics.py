import json

import keras
import numpy as np
import pytest
from keras import ops

import keras_gumbel as kg
from keras_gumbel.diagnostics import _estimates
from keras_gumbel.estimators._lookup import SHORT_NAMES
from tests import enumeration
from tests import reference
from tests.short_names import PATHWISE

X = np.array([0.8, -0.4, 0.1])
WEIGHTS = np.array([[0.3, -1.0, 0.7], [0.2, 1.5, -0.6]])
SLOPE = np.array([1.0, -2.0, 0.5])
EYE = np.eye(3)
MATRICES = {
    "straight_through": enumeration.straight_through,
    "reinmax": enumeration.reinmax,
    "gapped": enumeration.gapped,
}


def total(samples):
    """A weighted sum of each sample, squared."""
    axes = tuple(range(1, samples.ndim))
    weights = WEIGHTS if samples.ndim == 3 else SLOPE
    return ops.square(ops.sum(samples * ops.cast(weights, "float32"), axes))


def slope(h):
    return 2 * (SLOPE @ h) * SLOPE


def test_exact_gradient_is_that_of_one_variable():
    report = kg.gradient_report(total, X, estimators=[])

    expected = enumeration.exact_gradient(X, lambda h: (SLOPE @ h) ** 2)
    np.testing.assert_allclose(report.gradient, expected, atol=1e-6)


@pytest.mark.one_backend
def test_exact_gradient_is_that_of_two_variables():
    logits = np.stack([X, -X])
    report = kg.gradient_report(total, logits, estimators=[])

    def mean(first):
        return enumeration.exact_gradient(
            X,
            lambda h: sum(
                p * (WEIGHTS[0] @ h + w) ** 2
                for p, w in zip(
                    reference.softmax(first), WEIGHTS[1], strict=True
                )
            ),
        )

    np.testing.assert_allclose(report.gradient[0], mean(-X), atol=1e-6)
    np.testing.assert_allclose(report.gradient.sum(axis=-1), 0, atol=1e-6)


def test_exact_gradient_is_that_of_masks():
    s = np.array([0.0, 0.3, 1.0])
    report = kg.gradient_report(total, probs=s, estimators=[])

    # E[(w m)^2] = (w s)^2 + sum w^2 s (1 - s)
    expected = 2 * (SLOPE @ s) * SLOPE + SLOPE**2 * (1 - 2 * s)
    np.testing.assert_allclose(report.gradient, expected, atol=1e-6)


def test_rows_are_bias_variance_and_cosine_of_the_estimators():
    report = kg.gradient_report(total, X, temperature=0.5, seed=1)

    exact = report.gradient
    scale = np.linalg.norm(exact)
    for row in report.rows[1:]:
        mean = exact
        if row.estimator in PATHWISE:
            mean = enumeration.one_layer(row.estimator, X, slope, 0.5)
        bias = np.linalg.norm(mean - exact) / scale
        cosine = mean @ exact / np.linalg.norm(mean) / scale
        assert abs(row.bias - bias) < 6.1 * row.bias_error
        assert abs(row.cosine - cosine) < 6.1 * row.bias_error


@pytest.mark.one_backend
@pytest.mark.parametrize("name", MATRICES)
def test_variance_is_that_of_the_estimator(name):
    report = kg.gradient_report(total, X, estimators=[name], seed=2)

    values = np.stack([MATRICES[name](X, h, 1.0) @ slope(h) for h in EYE])
    mean = reference.softmax(X) @ values
    variance = reference.softmax(X) @ ((values - mean) ** 2).sum(axis=-1)
    expected = variance / np.linalg.norm(report.gradient) ** 2
    (row,) = report.rows
    assert row.variance == pytest.approx(expected, rel=0.1)
    assert row.bias_error == pytest.approx((row.variance / 10_000) ** 0.5)


@pytest.mark.one_backend
def test_masks_have_the_estimators_of_masks():
    s = np.array([0.2, 0.5, 0.7])
    report = kg.gradient_report(total, probs=s, num_samples=40_000, seed=3)

    biases = {row.estimator: row.bias for row in report.rows}
    errors = {row.estimator: row.bias_error for row in report.rows}
    assert list(biases) == ["relaxed", *SHORT_NAMES]
    assert biases["reinmax"] < 6.1 * errors["reinmax"]  # f is quadratic
    assert biases["identity"] > 6.1 * errors["identity"]


@pytest.mark.one_backend
@pytest.mark.parametrize("chunk", [6, 2**20])
def test_samples_of_all_chunks_count_once(chunk, monkeypatch):
    monkeypatch.setattr(_estimates, "_CHUNK", chunk)

    def every_other(x, seed):
        """Twice x in every other row."""
        factors = [[0.0], [2.0]] * x.shape[0]
        return x * ops.cast(factors[: x.shape[0]], x.dtype)

    report = kg.gradient_report(
        lambda h: ops.sum(h * ops.cast(SLOPE, "float32"), axis=-1),
        probs=[0.5, 0.5, 0.5],
        estimators={"every other": every_other},
        num_samples=5,
    )

    (row,) = report.rows
    assert row.bias == pytest.approx(0.2)  # the mean is 4 / 5 of the gradient
    assert row.variance == pytest.approx(0.96)
    assert row.cosine == pytest.approx(1.0)


@pytest.mark.one_backend
@pytest.mark.parametrize("estimators", [["rloo"], ["reinmax", "rloo"], None])
def test_one_draw_is_too_few_for_losses_to_be_compared(estimators):
    message = "^Argument `num_draws` of `gradient_report` .* at least 2 .*rloo"

    with pytest.raises(ValueError, match=message):
        kg.gradient_report(total, X, estimators=estimators, num_draws=1)


@pytest.mark.one_backend
def test_one_draw_is_enough_for_other_estimators():
    options = {"num_samples": 10, "num_draws": 1, "seed": 0}

    kg.gradient_report(total, X, estimators=["reinmax"], **options)
    # The next multiple of 3.
    kg.gradient_report(total, X, estimators=["rebar"], **options)


@pytest.mark.one_backend
def test_report_repeats_with_a_seed():
    first, again, other = (
        kg.gradient_report(total, X, estimators=["reinmax"], seed=seed)
        for seed in (4, 4, 5)
    )

    assert first.rows == again.rows
    assert first.rows != other.rows


@pytest.mark.one_backend
def test_report_does_not_depend_on_the_dtype_policy():
    expected = kg.gradient_report(total, X, estimators=["gapped"], seed=6)
    keras.config.set_dtype_policy("mixed_float16")

    report = kg.gradient_report(total, X, estimators=["gapped"], seed=6)

    assert report.rows == expected.rows


@pytest.mark.one_backend
def test_report_prints_as_a_table_and_is_plain_data():
    report = kg.gradient_report(total, X, estimators=["gapped"], seed=0)

    lines = str(report).splitlines()
    plain = json.loads(json.dumps(report.to_dict()))

    assert "variance" in lines[1]
    assert f"{report.rows[0].bias:.3f}" in lines[3]
    assert plain["rows"][0]["estimator"] == "gapped"
    np.testing.assert_allclose(plain["gradient"], report.gradient)
