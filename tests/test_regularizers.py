import json
import math

import keras
import numpy as np
import pytest
from keras import ops
from scipy import special
from scipy import stats

from keras_gumbel.regularizers import CategoricalKL
from tests.contracts import save_and_load
from tests.gradients import MODES
from tests.gradients import compiled
from tests.gradients import dtype_of
from tests.gradients import gradient
from tests.gradients import to_numpy

INF = np.inf
X = np.random.default_rng(0).normal(size=(6, 5, 3)).astype("float32")
PRIOR = [0.3, -1.0, 0.5]


def right_kl(x, prior=(0.0, 0.0, 0.0)):
    p = special.softmax(np.asarray(x, "float64"), -1)
    q = np.broadcast_to(special.softmax(np.asarray(prior, "float64")), p.shape)
    return stats.entropy(p, q, axis=-1).mean()


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("prior", [None, PRIOR])
def test_categorical_kl_is_the_mean_of_numpy(prior, axis):
    regularizer = CategoricalKL(0.1, prior, axis)

    loss = compiled(regularizer, MODES[-1])(np.moveaxis(X, -1, axis))

    right = 0.1 * right_kl(X, [0.0] * 3 if prior is None else prior)
    assert loss.shape == ()
    assert float(loss) == pytest.approx(right, rel=1e-5)


def test_categorical_kl_is_uniform_with_factor_one_by_default():
    loss = CategoricalKL()(ops.convert_to_tensor(X))

    assert float(loss) == pytest.approx(right_kl(X), rel=1e-5)


def test_categorical_kl_leaves_forbidden_classes_out():
    x = X.copy()
    x[..., 1] = -INF
    regularizer = CategoricalKL()

    loss = float(regularizer(ops.convert_to_tensor(x)))
    (slope,) = gradient(regularizer, x, jit=MODES[-1])

    assert loss == pytest.approx(right_kl(X[..., [0, 2]], [0.0] * 2), rel=1e-5)
    assert (slope[..., 1] == 0).all()
    assert (slope[..., [0, 2]] != 0).all()


def test_categorical_kl_of_the_prior_is_zero_without_a_slope():
    x = np.broadcast_to(np.float32(PRIOR), (4, 3))
    regularizer = CategoricalKL(prior_logits=PRIOR)

    (slope,) = gradient(regularizer, x, jit=MODES[-1])

    assert float(regularizer(x)) == pytest.approx(0.0, abs=1e-7)
    np.testing.assert_allclose(slope, 0.0, atol=1e-7)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_categorical_kl_of_half_precision_is_a_float32(dtype):
    # The sum of these overflows float16.
    x = np.tile([6e4, 0.0, 0.0], (100_000, 1))

    x = ops.cast(ops.convert_to_tensor(x), dtype)
    loss = compiled(CategoricalKL(), MODES[-1])(x)

    assert dtype_of(loss) == "float32"
    assert float(loss) == pytest.approx(math.log(3), rel=1e-4)


def test_categorical_kl_with_a_prior_that_forbids():
    x = X.copy()
    x[..., 1] = -INF
    regularizer = CategoricalKL(prior_logits=[0.0, -INF, 0.0])

    assert float(regularizer(x)) == pytest.approx(
        right_kl(X[..., [0, 2]], [0.0] * 2), rel=1e-5
    )
    assert float(regularizer(X)) == INF


def test_categorical_kl_trains_logits_to_the_prior():
    layer = keras.layers.Embedding(
        4, 3, embeddings_regularizer=CategoricalKL(prior_logits=PRIOR)
    )
    model = keras.Sequential([layer])
    model.compile(keras.optimizers.SGD(8.0), lambda y, z: 0.0 * ops.sum(z))

    model.fit(np.zeros((60, 1)), np.zeros((60, 1)), batch_size=1, verbose=0)

    np.testing.assert_allclose(
        special.softmax(to_numpy(layer.embeddings), -1),
        np.tile(special.softmax(PRIOR), (4, 1)),
        atol=1e-3,
    )


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("factor", -0.1),
        ("factor", math.nan),
        ("factor", math.inf),
        ("factor", "1"),
        ("factor", True),
        ("prior_logits", []),
        ("prior_logits", 0.0),
        ("prior_logits", [[0.0, 1.0]]),
        ("prior_logits", [0.0, math.nan]),
        ("prior_logits", [0.0, math.inf]),
        ("prior_logits", [-math.inf, -math.inf]),
        ("prior_logits", ["a", "b"]),
        ("axis", 1.0),
        ("axis", None),
    ],
)
def test_categorical_kl_refuses_bad_arguments(name, bad):
    with pytest.raises(ValueError, match=f"`{name}` of `CategoricalKL`"):
        CategoricalKL(**{name: bad})


@pytest.mark.parametrize(
    ("name", "options"), [("prior_logits", {"axis": 1}), ("axis", {"axis": 3})]
)
def test_categorical_kl_refuses_logits_that_do_not_fit(name, options):
    regularizer = CategoricalKL(prior_logits=PRIOR, **options)

    with pytest.raises(ValueError, match=f"`{name}` of `CategoricalKL`"):
        regularizer(ops.convert_to_tensor(X))


@pytest.mark.parametrize(
    "prior", [None, PRIOR, np.array(PRIOR, "float32"), (0, -INF, 1)]
)
def test_categorical_kl_comes_back_from_its_config(prior):
    regularizer = CategoricalKL(0.5, prior, 1)

    config = keras.saving.serialize_keras_object(regularizer)
    again = keras.saving.deserialize_keras_object(
        json.loads(json.dumps(config))
    )

    assert config["registered_name"] == "keras_gumbel>CategoricalKL"
    assert again.get_config() == regularizer.get_config()
    assert (again.factor, again.axis) == (0.5, 1)
    if prior is not None:
        np.testing.assert_array_equal(again.prior_logits, prior)


def test_categorical_kl_comes_back_from_a_file():
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(
                3, kernel_regularizer=CategoricalKL(0.5, [0.0, -INF, 1.0])
            ),
        ]
    )

    loaded = save_and_load(model)

    regularizer = loaded.layers[0].kernel_regularizer
    assert isinstance(regularizer, CategoricalKL)
    assert regularizer.get_config() == {
        "factor": 0.5,
        "prior_logits": [0.0, -INF, 1.0],
        "axis": -1,
        "reduction": "mean",
        "name": "kl",
    }
