import json
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

import keras_gumbel as kg
from tests.sparsity.models import MODELS
from tests.sparsity.models import build
from tests.sparsity.models import compiled
from tests.sparsity.models import every_layer
from tests.sparsity.models import finals_of
from tests.sparsity.models import flat
from tests.sparsity.models import kernels_of
from tests.sparsity.models import predictions
from tests.sparsity.models import randomized
from tests.sparsity.models import scores_of
from tests.sparsity.models import sequential
from tests.sparsity.models import values
from tests.sparsity.models import with_scores


@pytest.mark.one_backend
@pytest.mark.parametrize("name", MODELS)
def test_strip_gives_the_plain_model_back(name):
    model = build(name)
    inside, weights = every_layer(model), model.weights
    kinds = [type(x) for x in [model, *inside]]
    hard = kg.harden(with_scores(kg.sparsify(model)), budget=11)

    stripped = kg.strip(hard)

    assert stripped is model
    assert [id(x) for x in every_layer(model)] == [id(x) for x in inside]
    assert [type(x) for x in [model, *inside]] == kinds
    assert [id(v) for v in model.variables] == [id(v) for v in weights]
    assert not any(hasattr(x, "weight_masks") for x in [model, *inside])


def test_strip_leaves_no_signs_on_zeros():
    model = kg.harden(with_scores(kg.sparsify(sequential())), budget=11)

    kernel = flat(kernels_of(kg.strip(model)))

    assert (kernel == 0).any()
    assert not np.signbit(kernel[kernel == 0]).any()


@pytest.mark.parametrize("budget", [1, 11, 30])
@pytest.mark.parametrize("name", MODELS)
def test_strip_keeps_exactly_k_weights_and_the_predictions(name, budget):
    model = build(name)
    before, paths = values(kernels_of(model)), [v.path for v in model.weights]
    hard = kg.harden(with_scores(kg.sparsify(model)), budget=budget)
    outputs = predictions(hard)

    stripped = kg.strip(hard)

    kernels = kernels_of(stripped)
    assert np.count_nonzero(flat(kernels)) == budget
    for path, kernel in values(kernels).items():
        assert np.isin(kernel, [0, *before[path].ravel()]).all()
    np.testing.assert_allclose(
        predictions(stripped), outputs, rtol=1e-6, atol=1e-6
    )
    assert [v.path for v in stripped.weights] == paths


def config_of(path):
    with zipfile.ZipFile(path) as archive:
        return archive.read("config.json").decode()


@pytest.mark.parametrize("name", ["functional_in_sequential", "shared_layer"])
def test_strip_leaves_nothing_of_the_package_in_the_file(name, tmp_path):
    hard = kg.harden(with_scores(kg.sparsify(build(name))), budget=11)
    compiled(hard, keras.optimizers.SGD(0.1, momentum=0.9))
    hard.save(tmp_path / "hard.keras")

    stripped = kg.strip(hard)
    stripped.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")

    assert "keras_gumbel" in config_of(tmp_path / "hard.keras")
    assert "keras_gumbel" not in config_of(tmp_path / "small.keras")
    assert "keras_gumbel" not in json.dumps(stripped.get_config(), default=str)
    np.testing.assert_array_equal(predictions(loaded), predictions(stripped))


def test_strip_hardens_a_compiled_model():
    sparse = kg.sparsify(build("sequential"))
    sparse = with_scores(compiled(sparse, density=0.3))
    kernels = flat(kernels_of(sparse))
    kg.harden(sparse)
    final = flat(finals_of(sparse))
    kg.soften(sparse)

    stripped = kg.strip(sparse)

    np.testing.assert_array_equal(flat(kernels_of(stripped)), kernels * final)
    assert np.count_nonzero(flat(kernels_of(stripped))) == 12


@pytest.mark.one_backend
def test_strip_leaves_the_model_compiled_as_harden_does():
    sparse = compiled(kg.sparsify(build("sequential")), density=0.5)

    stripped = kg.strip(sparse)

    assert stripped.compiled
    assert isinstance(stripped.optimizer, keras.optimizers.SGD)
    assert stripped.loss == "mse"
    assert "keras_gumbel" not in json.dumps(stripped.get_compile_config())


@pytest.mark.one_backend
def test_strip_of_a_model_that_knows_no_budget_raises():
    sparse = kg.sparsify(sequential())

    with pytest.raises(ValueError, match="the number of scores to keep"):
        kg.strip(sparse)


@pytest.mark.one_backend
def test_strip_warns_where_it_is_called():
    sparse = compiled(kg.sparsify(sequential()), budget=10)

    with pytest.warns(
        UserWarning, match="10 weights, but 42 scores are"
    ) as got:
        kg.strip(sparse)

    assert [x.filename for x in got if x.category is kg.SparsityWarning] == [
        __file__
    ]


@pytest.mark.one_backend
def test_sparsify_masks_a_stripped_model_anew():
    model = build("sequential")
    kg.strip(kg.harden(with_scores(kg.sparsify(model)), budget=11))
    outputs = predictions(model)

    kg.sparsify(model)

    np.testing.assert_array_equal(flat(scores_of(model)), 1.0)
    assert kg.sparsity_report(model).weights == 42
    np.testing.assert_array_equal(predictions(model), outputs)


def lines():
    return keras.Sequential(
        [
            keras.Input((8, 3)),
            layers.Conv1D(4, 3, padding="same", groups=1, name="conv"),
            layers.Conv1DTranspose(4, 3, strides=2, name="transpose"),
            layers.SeparableConv1D(5, 3, name="separable"),
            layers.DepthwiseConv1D(3, depth_multiplier=2, name="depthwise"),
            layers.EinsumDense(
                "btd,de->bte", output_shape=(None, 3), name="einsum"
            ),
            layers.Dense(2, use_bias=False, name="dense"),
        ]
    )


def images():
    return keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            layers.Conv2D(4, 3, groups=2, name="conv"),
            layers.Conv2DTranspose(3, 2, strides=2, name="transpose"),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.SeparableConv2D(2, 3, name="separable"),
        ]
    )


def volumes():
    return keras.Sequential(
        [
            keras.Input((4, 4, 4, 2)),
            layers.Conv3D(3, 2, name="conv"),
            layers.Conv3DTranspose(2, 2, name="transpose"),
        ]
    )


def words():
    return keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layers.Embedding(7, 4, mask_zero=True, name="embedding"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(2, name="dense"),
        ]
    )


KINDS = {"lines": lines, "images": images, "volumes": volumes, "words": words}


def matrices(model):
    return [v for v in model.weights if not v.path.endswith("bias")]


@pytest.mark.one_backend
@pytest.mark.parametrize("kind", KINDS)
def test_strip_handles_every_known_layer(kind):
    model = randomized(KINDS[kind]())
    inputs = np.random.default_rng(0).integers(
        0, 7, (2, *model.input_shape[1:])
    )
    inputs = inputs.astype("int32" if kind == "words" else "float32")
    dense, count = predictions(model, inputs), flat(matrices(model)).size
    sparse = kg.sparsify(model)
    ones = predictions(sparse, inputs)
    assert flat(scores_of(sparse)).size == count
    hard = predictions(kg.harden(with_scores(sparse), density=0.4), inputs)

    stripped = kg.strip(sparse)

    np.testing.assert_array_equal(ones, dense)
    assert np.count_nonzero(flat(matrices(stripped))) == int(0.4 * count)
    outputs = predictions(stripped, inputs)
    np.testing.assert_allclose(outputs, hard, rtol=1e-6)
    assert np.abs(outputs - ones).max() > 0.01


@pytest.mark.one_backend
@pytest.mark.parametrize("axis", [-1, 1, (1, 2), None])
def test_strip_turns_a_gate_into_a_rescaling(axis):
    gate = kg.masks.ConcreteMask(axis=axis, name="gate")
    inputs = keras.Input((3, 4), batch_size=2)
    outputs = layers.Dense(2, name="out")(gate(inputs))
    sparse = kg.sparsify(randomized(keras.Model(inputs, outputs)))
    data = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    count = flat(scores_of(sparse)).size
    kg.harden(with_scores(sparse), density=0.5)
    before = predictions(sparse, data)

    stripped = kg.strip(sparse)

    assert type(stripped.get_layer("gate")) is layers.Rescaling
    np.testing.assert_allclose(predictions(stripped, data), before, rtol=1e-6)
    kept = np.count_nonzero(flat(kernels_of(stripped)))
    scale = np.asarray(stripped.get_layer("gate").scale)
    assert kept + scale.sum() == count // 2
    assert "keras_gumbel" not in json.dumps(stripped.get_config(), default=str)


@pytest.mark.parametrize("gated", [False, True])
def test_strip_keeps_the_dtype_policy(gated, tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    model = sequential()
    if gated:
        model.add(kg.masks.ConcreteMask(name="gate"))
    sparse = with_scores(kg.sparsify(randomized(model)))
    outputs = predictions(kg.harden(sparse, density=0.5))
    keras.config.set_dtype_policy("float32")

    stripped = kg.strip(sparse)
    stripped.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")

    for layer in loaded.layers:
        assert layer.dtype_policy.name == "mixed_float16"
    assert predictions(loaded).dtype == "float16"
    np.testing.assert_array_equal(predictions(loaded), outputs)


@pytest.mark.backends("tensorflow")
def test_stripped_model_exports_as_a_saved_model(tmp_path):
    import tensorflow as tf

    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    kg.strip(kg.harden(kg.sparsify(model), density=0.5))
    x = np.ones((2, 6), "float32")

    model.export(tmp_path / "saved", format="tf_saved_model", verbose=False)

    loaded = tf.saved_model.load(tmp_path / "saved")  # owns the variables
    served = loaded.serve(x).numpy()
    np.testing.assert_allclose(served, model.predict(x, verbose=0), rtol=1e-6)
