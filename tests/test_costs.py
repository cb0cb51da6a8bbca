import keras
import numpy as np
import pytest
from keras import layers

import keras_gumbel as kg

# A layer, the shapes of its inputs, and the uses of each weight by hand.
CASES = {
    "dense": (lambda: layers.Dense(3), [(4,)], [1]),
    "dense on a sequence": (lambda: layers.Dense(3), [(5, 4)], [5]),
    "einsum": (
        lambda: layers.EinsumDense("abc,cde->abde", (5, 2, 3)),
        [(5, 4)],
        [5],
    ),
    "conv": (lambda: layers.Conv2D(4, 3), [(8, 9, 2)], [6 * 7]),
    "strided": (
        lambda: layers.Conv1D(4, 3, strides=2, padding="same"),
        [(8, 2)],
        [4],
    ),
    "transpose": (
        lambda: layers.Conv2DTranspose(4, 2, strides=2),
        [(3, 5, 2)],
        [15],
    ),
    "depthwise": (
        lambda: layers.DepthwiseConv2D(3, depth_multiplier=2),
        [(8, 8, 3)],
        [36],
    ),
    "separable": (
        lambda: layers.SeparableConv2D(5, 3),
        [(8, 8, 3)],
        [36, 36],
    ),
    "lstm": (lambda: layers.LSTM(3), [(7, 4)], [7, 7]),
    "bidirectional": (
        lambda: layers.Bidirectional(layers.GRU(3)),
        [(7, 4)],
        [7] * 4,
    ),
    "time distributed": (
        lambda: layers.TimeDistributed(layers.Dense(3)),
        [(7, 4)],
        [7],
    ),
    "attention": (
        lambda: layers.MultiHeadAttention(2, 4),
        [(5, 6), (9, 6)],
        [5, 9, 9, 5],
    ),
}


def sparse_model(make, shapes, **options):
    inputs = [keras.Input(shape) for shape in shapes]
    model = keras.Model(inputs, make()(*inputs))
    return kg.sparsify(model, **options)


@pytest.mark.parametrize("case", CASES)
def test_multiply_adds_are_those_of_the_shapes(case):
    make, shapes, expected = CASES[case]

    costs = kg.sparsity_costs(sparse_model(make, shapes))

    assert list(costs.values()) == expected


def test_multiply_adds_of_a_shared_layer_add_up():
    shared = layers.Dense(3)
    inputs = [keras.Input((4,)), keras.Input((6, 4))]
    model = keras.Model(inputs, [shared(x) for x in inputs])

    costs = kg.sparsity_costs(kg.sparsify(model))

    assert list(costs.values()) == [7.0]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float32", 4.0), ("mixed_bfloat16", 4.0), ("bfloat16", 2.0)],
)
def test_bytes_are_those_of_the_kernel(dtype, expected):
    model = sparse_model(lambda: layers.Dense(3, dtype=dtype), [(4,)])

    assert list(kg.sparsity_costs(model, "bytes").values()) == [expected]


@pytest.mark.parametrize("granularity", ["weight", "unit"])
def test_a_density_is_the_share_of_multiply_adds(granularity):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 2))
    hidden = layers.Conv2D(8, 3, name="conv")(inputs)
    hidden = layers.Flatten()(hidden)
    model = keras.Model(inputs, layers.Dense(6, name="dense")(hidden))
    sparse = kg.sparsify(model, granularity=granularity, seed=0)
    costs = kg.sparsity_costs(sparse)

    sparse.compile(
        kg.optimizers.ProjectedOptimizer("sgd", density=0.4, costs=costs),
        "mse",
    )
    sparse.optimizer.build(sparse.trainable_variables)
    kernels = [x.kernel for x in kg.strip(sparse).layers if x.weights]

    left = [np.count_nonzero(np.asarray(k)) for k in kernels]
    total = 36 * 8 * 18 + 288 * 6
    spent = 36 * left[0] + left[1]
    largest = 36 * 18 if granularity == "unit" else 36
    assert 0.4 * total - largest < spent <= 0.4 * total


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: layers.Embedding(5, 3), (4,)),
        (lambda: layers.Conv1D(4, 3), (None, 2)),
    ],
)
def test_multiply_adds_that_are_not_known_raise(make, shape):
    model = sparse_model(make, [shape])

    with pytest.raises(ValueError, match="does not know the multiply-adds of"):
        kg.sparsity_costs(model)


def test_unit_of_another_name_raises():
    model = sparse_model(lambda: layers.Dense(3), [(4,)])

    with pytest.raises(ValueError, match="`unit` of `sparsity_costs`"):
        kg.sparsity_costs(model, "flops")
