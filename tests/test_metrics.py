import json

import keras
import numpy as np
import pytest
from keras import ops
from scipy import special
from scipy import stats

from keras_gumbel.metrics import CodePerplexity
from keras_gumbel.metrics import CodeUsage
from tests.contracts import save_and_load
from tests.gradients import dtype_of
from tests.gradients import to_numpy

METRICS = [CodeUsage, CodePerplexity]
RNG = np.random.default_rng(0)
PROBS = special.softmax(2 * RNG.normal(size=(3, 8, 5, 4)), -1).astype("float32")


def usage_of(codes, weights=1.0):
    """Of codes of shape (..., K)."""
    chosen = np.eye(codes.shape[-1])[codes.argmax(-1)]
    chosen = chosen * np.broadcast_to(weights, chosen.shape[:-1])[..., None]
    return (chosen.reshape(-1, codes.shape[-1]).sum(0) > 0).mean()


def perplexity_of(codes, weights=1.0):
    weighted = codes * np.broadcast_to(weights, codes.shape[:-1])[..., None]
    mean = weighted.reshape(-1, codes.shape[-1]).sum(0)
    return np.exp(stats.entropy(mean))


RIGHT = {CodeUsage: usage_of, CodePerplexity: perplexity_of}


def result_of(metric):
    return float(metric.result())


@pytest.mark.parametrize("metric", METRICS)
def test_metric_is_that_of_numpy_over_several_batches(metric):
    ours = metric(4)
    codes = PROBS[:, :1, :2]

    for batch in codes:
        ours.update_state(ops.convert_to_tensor(batch))

    right = RIGHT[metric](codes)
    assert result_of(ours) == pytest.approx(right, rel=1e-6)
    assert right not in (0.0, 1.0)


@pytest.mark.parametrize("axis", [0, 1, -2])
@pytest.mark.parametrize("metric", METRICS)
def test_metric_looks_along_its_axis(metric, axis):
    ours = metric(4, axis)

    ours.update_state(np.moveaxis(PROBS[0, :1], -1, axis))

    right = RIGHT[metric](PROBS[0, :1])
    assert result_of(ours) == pytest.approx(right, rel=1e-6)


@pytest.mark.parametrize("dtype", ["int32", "uint8", "int64"])
@pytest.mark.parametrize("metric", METRICS)
def test_metric_takes_indices(metric, dtype):
    indices = np.array([[0, 2, 2], [2, 0, 2]])
    by_index, by_code = metric(4), metric(4)

    by_index.update_state(ops.convert_to_tensor(indices.astype(dtype)))
    by_code.update_state(np.eye(4, dtype="float32")[indices])

    right = RIGHT[metric](np.eye(4)[indices])
    assert result_of(by_index) == pytest.approx(right, rel=1e-6)
    assert result_of(by_code) == pytest.approx(right, rel=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_metric_counts_no_index_outside_and_no_row_of_zeros(metric):
    by_index, by_code = metric(4), metric(4)

    by_index.update_state(np.array([-1, 4, 1, 2, 100], "int32"))
    by_code.update_state(np.eye(4)[[0, 0, 1, 2]] * [[0], [0], [1], [1]])

    right = {CodeUsage: 0.5, CodePerplexity: 2.0}[metric]
    assert result_of(by_index) == pytest.approx(right, rel=1e-6)
    assert result_of(by_code) == pytest.approx(right, rel=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_metric_takes_booleans_and_half_precision(metric):
    codes = np.eye(4)[[0, 1, 1]]

    for dtype in ("bool", "float16", "bfloat16"):
        ours = metric(4)
        ours.update_state(ops.cast(ops.convert_to_tensor(codes), dtype))

        assert result_of(ours) == pytest.approx(RIGHT[metric](codes), rel=1e-6)


@pytest.mark.parametrize("shape", [(), (8,), (8, 1), (8, 5), (8, 5, 1)])
@pytest.mark.parametrize("metric", METRICS)
def test_metric_weighs_codes(metric, shape):
    weights = RNG.integers(0, 2, size=shape) * RNG.random(shape)
    weights = np.asarray(weights + (shape == ()), "float32")
    ours = metric(4)

    ours.update_state(PROBS[0], sample_weight=weights)

    padded = weights.reshape(shape + (1,) * (2 - len(shape)))
    padded = padded[..., 0] if len(shape) == 3 else padded
    right = RIGHT[metric](PROBS[0], padded)
    assert result_of(ours) == pytest.approx(right, rel=1e-5)


def test_weight_zero_hides_a_code():
    ours = CodeUsage(4)

    ours.update_state(np.array([0, 1, 2], "int32"), sample_weight=[1, 0, 0])

    assert result_of(ours) == 0.25


@pytest.mark.parametrize("metric", METRICS)
def test_metric_is_zero_before_an_update_and_after_a_reset(metric):
    ours = metric(4)
    assert result_of(ours) == 0.0
    ours.update_state(PROBS[0])
    assert result_of(ours) > 0.0

    ours.reset_state()

    assert result_of(ours) == 0.0


@pytest.mark.parametrize("classes", [1, 4])
def test_perplexity_is_between_one_and_the_number_of_classes(classes):
    same, all_of_them = CodePerplexity(classes), CodePerplexity(classes)

    same.update_state(np.zeros(5, "int32"))
    all_of_them.update_state(np.arange(classes, dtype="int32"))

    assert result_of(same) == 1.0
    assert result_of(all_of_them) == pytest.approx(classes, rel=1e-6)


def test_perplexity_shows_nan():
    ours = CodePerplexity(2)

    ours.update_state(np.array([[0.5, np.nan]], "float32"))

    assert np.isnan(result_of(ours))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [None, "float16"])
def test_metric_counts_in_float32(metric, dtype):
    ours = metric(4, dtype=dtype)

    for _ in range(3):
        ours.update_state(np.zeros(5000, "int32"))
    ours.update_state(np.ones(1, "int32"))

    assert [v.dtype for v in ours.variables] == ["float32"]
    assert to_numpy(ops.convert_to_tensor(ours.total)).tolist() == [
        15000.0,
        1.0,
        0.0,
        0.0,
    ]
    assert dtype_of(ours.result()) == (dtype or "float32")


class Observed(keras.layers.Layer):
    """A layer that passes codes on and keeps metrics of them."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.usage = CodeUsage(4)
        self.perplexity = CodePerplexity(4)

    def call(self, inputs):
        self.usage.update_state(inputs)
        self.perplexity.update_state(inputs)
        return inputs


# Keras's own metrics lose these updates on torch.
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_metric_works_in_a_layer(policy):
    keras.config.set_dtype_policy(policy)
    layer = Observed()

    for _ in range(3):
        layer(np.tile(np.float32([[0.75, 0.25, 0, 0]]), (1000, 1)))
    layer(np.float32([[0, 0.25, 0, 0]]))

    assert to_numpy(ops.convert_to_tensor(layer.perplexity.total)).tolist() == [
        2250.0,
        750.25,
        0.0,
        0.0,
    ]
    assert result_of(layer.usage) == 0.5


def compiled_model(**options):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Softmax()])
    model.compile(loss="mse", **options)
    return model


@pytest.mark.parametrize("eagerly", [False, True])
def test_metrics_of_a_compiled_model_look_at_its_output(eagerly):
    x = RNG.normal(size=(8, 4)).astype("float32") + np.float32([9, 0, 8, 0])
    weights = np.array([1, 1, 0, 0, 2, 1, 1, 1], "float32")
    model = compiled_model(
        metrics=[CodeUsage(4), CodePerplexity(4)],
        weighted_metrics=[CodePerplexity(4, name="weighted")],
        run_eagerly=eagerly,
    )

    logs = model.evaluate(
        x, np.eye(4)[[1] * 8], 4, sample_weight=weights, return_dict=True,
        verbose=0,
    )  # fmt: skip

    codes = special.softmax(x, -1)
    assert logs["code_usage"] == pytest.approx(usage_of(codes))
    assert logs["code_perplexity"] == pytest.approx(perplexity_of(codes), 1e-5)
    right = perplexity_of(codes, weights)
    assert logs["weighted"] == pytest.approx(right, 1e-5)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("num_classes", {"num_classes": 0}),
        ("num_classes", {"num_classes": 4.0}),
        ("axis", {"axis": None}),
        ("axis", {"axis": 0.0}),
    ],
)
@pytest.mark.parametrize("metric", METRICS)
def test_metric_refuses_bad_arguments(metric, name, arguments):
    with pytest.raises(ValueError, match=f"`{name}` of `{metric.__name__}`"):
        metric(**{"num_classes": 4, **arguments})


@pytest.mark.parametrize("metric", METRICS)
def test_metric_refuses_codes_that_do_not_fit(metric):
    with pytest.raises(ValueError, match=f"`codes` of `{metric.__name__}`"):
        metric(3).update_state(PROBS)
    with pytest.raises(ValueError, match=f"`axis` of `{metric.__name__}`"):
        metric(4, axis=4).update_state(PROBS)
    # Weights in the place of `y_pred`.
    with pytest.raises(ValueError, match="sample_weight` by name"):
        metric(4).update_state(PROBS[0, 0], np.ones(5))
    # Targets and predictions of a model whose output is no code.
    with pytest.raises(ValueError, match=r"metrics=\{'codes'"):
        metric(4).update_state(PROBS, np.ones((2, 9), "float32"))


@pytest.mark.parametrize("metric", METRICS)
def test_metric_comes_back_from_its_config(metric):
    ours = metric(4, 1, name="mine", dtype="float16")

    config = keras.saving.serialize_keras_object(ours)
    again = keras.saving.deserialize_keras_object(
        json.loads(json.dumps(config))
    )

    assert config["registered_name"] == f"keras_gumbel>{metric.__name__}"
    assert again.get_config() == ours.get_config()
    assert (again.num_classes, again.axis) == (4, 1)
    assert (again.name, again.dtype) == ("mine", "float16")


def test_metrics_come_back_from_a_file():
    model = compiled_model(metrics=[CodeUsage(4), CodePerplexity(4)])
    x = RNG.normal(size=(8, 4)).astype("float32")
    before = model.evaluate(x, x, return_dict=True, verbose=0)

    loaded = save_and_load(model)

    after = loaded.evaluate(x, x, return_dict=True, verbose=0)
    assert set(after) == {"loss", "code_usage", "code_perplexity"}
    assert after == pytest.approx(before, rel=1e-6)
