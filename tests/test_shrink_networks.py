"""Coupled channels of well-known networks, half of which are removed."""

import keras
import numpy as np
import pytest

import keras_gumbel
from tests.test_shrink_coupling import groups_of
from tests.test_shrink_coupling import stop_reading
from tests.test_shrink_coupling import without
from tests.test_shrink_random import assert_equal_predictions
from tests.test_shrink_random import quietly

pytestmark = [pytest.mark.one_backend, pytest.mark.slow]

# The share of the parameters that is left. `LayerNormalization` keeps the
# width of the residual stream of ConvNeXt.
SHARES = {
    "ResNet50": 0.25,
    "MobileNetV2": 0.27,
    "EfficientNetV2B0": 0.26,
    "DenseNet121": 0.26,
    "ConvNeXtTiny": 0.53,
}


def network(name):
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(
        weights=None,
        input_shape=(32, 32, 3),
        classes=10,
        classifier_activation=None,
    )
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if len(variable.shape) == 1:
            low = 0.5 if variable.name in ("gamma", "moving_variance") else -0.5
            variable.assign(rng.uniform(low, low + 1.0, variable.shape))
    return model


@pytest.mark.parametrize("name", SHARES)
def test_half_of_the_channels_of(name):
    model = network(name)
    groups = groups_of(model)
    rng = np.random.default_rng(0)
    halves = [rng.permutation(g.size) < g.size // 2 for g in groups]
    stop_reading(groups, halves)

    small = quietly(keras_gumbel.shrink, model)

    assert_equal_predictions(model, small)
    expected = without(model, groups, halves)
    for weight, value in zip(small.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(weight, value)
    share = small.count_params() / model.count_params()
    assert share == pytest.approx(SHARES[name], abs=0.01)
