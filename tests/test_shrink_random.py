"""What `shrink` must do to any model, tried on random ones."""

import dataclasses
import warnings

import keras
import numpy as np
import pytest

import keras_gumbel
from keras_gumbel import _keras_private
from keras_gumbel.shrinking import _unit_rules
from keras_gumbel.shrinking import _unit_sums
from tests.random_models import predictions
from tests.random_models import random_model

pytestmark = pytest.mark.one_backend

MODELS = 240
PER_TEST = 6


def quietly(function, model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", keras_gumbel.SparsityWarning)
        return function(model)


def check(model):
    """Raises unless a model shrinks as any model should."""
    report = keras_gumbel.shrink_report(model)
    small = quietly(keras_gumbel.shrink, model)

    assert_equal_predictions(model, small)
    assert_agrees(report, small)
    again = keras_gumbel.shrink_report(small)
    assert {r.name: r.kept for r in again.rows} == widths(report)
    assert again.parameters == again.kept
    assert_equal_weights(small, quietly(keras_gumbel.shrink, small))


def assert_equal_predictions(model, small):
    for before, after in zip(
        predictions(model), predictions(small), strict=True
    ):
        scale = max(1.0, float(np.abs(before).max()))
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * scale)


def widths(report):
    return {row.name: row.kept for row in report.rows}


def assert_agrees(report, small):
    """Raises unless a report says what the smaller model is like."""
    assert report.kept == small.count_params()
    for row in report.rows:
        assert row.kept == units_of(layer_of(small, row.name))
    for name in report.skipped:
        assert layer_of(small, name).weights


def units_of(layer):
    config = layer.get_config()
    for inner in ("cell", "layer"):  # of wrappers
        config = config.get(inner, {}).get("config", config)
    names = ("units", "filters", "num_heads", "num_key_value_heads")
    found = [config[name] for name in names if name in config]
    return found[0] if found else np.ravel(config["output_shape"])[-1]


def layer_of(model, name):
    for part in name.split("/"):
        if hasattr(model, "get_layer"):
            model = model.get_layer(part)
        else:  # a layer of layers
            parts = _keras_private.sublayers(model)
            model = next(x for x in parts if x.name == part)
    return model


def assert_equal_weights(small, again):
    pairs = zip(small.get_weights(), again.get_weights(), strict=True)
    for before, after in pairs:
        np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(0, marks=pytest.mark.every_backend),
        *(
            pytest.param(first, marks=pytest.mark.slow)
            for first in range(PER_TEST, MODELS, PER_TEST)
        ),
    ],
)
def test_random_models_shrink(first):
    for seed in range(first, first + PER_TEST):
        try:
            check(random_model(seed))
        except Exception as error:
            error.add_note(f"of random_model({seed})")
            raise
        keras.utils.clear_session(free_memory=False)


def failures(seeds):
    """Counts the models that do not shrink as any model should."""
    count = 0
    for seed in seeds:
        try:
            check(random_model(seed))
        except AssertionError:
            count += 1
    return count


@pytest.mark.slow
def test_the_check_notices_a_constant_folded_at_padded_edges(monkeypatch):
    monkeypatch.setattr(_unit_rules, "_is_unpadded", lambda layer: True)

    assert failures(range(48)) > 0


@pytest.mark.slow
def test_the_check_notices_units_that_a_second_time_removes(monkeypatch):
    demand = _unit_sums.UnitSum.demand

    def lavish(rule, kept):
        varying, uneven = demand(rule, kept)
        spare = np.flatnonzero(~varying)
        varying[spare[:1] if len(spare) > 1 else []] = True
        return varying, uneven

    monkeypatch.setattr(_unit_sums.UnitSum, "demand", lavish)

    assert failures(range(48)) > 0


def test_the_check_notices_a_report_that_is_wrong():
    model = random_model(0)
    report = keras_gumbel.shrink_report(model)
    small = quietly(keras_gumbel.shrink, model)
    row = dataclasses.replace(report.rows[0], kept=report.rows[0].kept + 1)

    assert_agrees(report, small)
    for change in ({"kept": report.kept + 1}, {"rows": (row,)}):
        with pytest.raises(AssertionError):
            assert_agrees(dataclasses.replace(report, **change), small)
