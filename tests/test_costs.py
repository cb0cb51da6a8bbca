import functools

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_gumbel as kg
from tests.newer_keras import require_keras

pytestmark = pytest.mark.one_backend

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
    # A filter reads one group alone, but all of its places.
    "grouped": (lambda: layers.Conv2D(4, 3, groups=2), [(8, 9, 6)], [6 * 7]),
    # An entry is used once for each place of the input.
    "transpose": (
        lambda: layers.Conv2DTranspose(4, 2, strides=2),
        [(3, 5, 2)],
        [3 * 5],
    ),
    "transpose of rank 1": (
        lambda: layers.Conv1DTranspose(4, 3, strides=2),
        [(6, 2)],
        [6],
    ),
    "depthwise": (
        lambda: layers.DepthwiseConv2D(3, depth_multiplier=2),
        [(8, 8, 3)],
        [6 * 6],
    ),
    "separable": (
        lambda: layers.SeparableConv2D(5, 3),
        [(8, 8, 3)],
        [6 * 6, 6 * 6],
    ),
    "separable of rank 1": (
        lambda: layers.SeparableConv1D(5, 3, strides=2, depth_multiplier=2),
        [(9, 3)],
        [4, 4],
    ),
    "embedding": (lambda: layers.Embedding(5, 3), [(4,)], [4 / 5]),
    "lstm": (lambda: layers.LSTM(3), [(7, 4)], [7, 7]),
    "gru": (lambda: layers.GRU(3, return_sequences=True), [(7, 4)], [7, 7]),
    "stacked": (
        lambda: layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)]),
        [(7, 4)],
        [7] * 4,
    ),
    # At 7 times, in all 5 places of the output.
    "conv lstm": (
        lambda: layers.ConvLSTM1D(3, 2),
        [(7, 6, 4)],
        [7 * 5, 7 * 5],
    ),
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
    "time distributed conv": (
        lambda: layers.TimeDistributed(layers.Conv1D(3, 2)),
        [(7, 6, 4)],
        [7 * 5],
    ),
    "attention": (
        lambda: layers.MultiHeadAttention(2, 4),
        [(5, 6), (9, 6)],
        [5, 9, 9, 5],
    ),
    "grouped attention": (
        lambda: layers.GroupQueryAttention(4, 4, 2),
        [(5, 6), (9, 6)],
        [5, 9, 9, 5],
    ),
}


def sparse_model(make, shapes, **options):
    inputs = [keras.Input(shape) for shape in shapes]
    outputs = make()(*inputs)
    model = keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs)
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


class Block(layers.Layer):
    """An attention layer and two Dense layers in a layer of one's own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(2, 4, name="attention")
        self.up = layers.Dense(16, name="up")
        self.down = layers.Dense(8, name="down")

    def call(self, inputs):
        x = inputs + self.attention(value=inputs, query=inputs)
        return x + self.down(self.up(x))


class Reader(keras.Model):
    """Embeds tokens, and classifies the whole sequence."""

    def __init__(self):
        super().__init__()
        self.table = layers.Embedding(10, 8, name="table")
        self.block = Block(name="block")
        self.head = layers.Dense(3, name="head")

    def call(self, tokens):
        return self.head(ops.mean(self.block(self.table(tokens)), axis=1))


BLOCK = {
    "attention/query/kernel": 6,
    "attention/key/kernel": 6,
    "attention/value/kernel": 6,
    "attention/attention_output/kernel": 6,
    "up/kernel": 6,
    "down/kernel": 6,
}


@pytest.mark.every_backend
def test_multiply_adds_of_layers_in_a_layer_of_ones_own():
    costs = kg.sparsity_costs(
        sparse_model(lambda: Block(name="block"), [(6, 8)])
    )

    assert costs == {f"block/{name}": uses for name, uses in BLOCK.items()}


@pytest.mark.every_backend
def test_multiply_adds_of_a_subclassed_model():
    model = Reader()
    model(np.zeros((2, 6), "int32"))

    costs = kg.sparsity_costs(kg.sparsify(model))

    block = {f"block/{name}": uses for name, uses in BLOCK.items()}
    assert costs == {"table/embeddings": 0.6, **block, "head/kernel": 1}


def test_multiply_adds_of_a_layer_of_several_inputs():
    layer = layers.MultiHeadAttention(2, 4)
    layer.build((None, 5, 6), (None, 9, 6))

    costs = kg.sparsity_costs(kg.sparsify(layer))

    assert list(costs.values()) == [5, 9, 9, 5]


def test_multiply_adds_of_a_monte_carlo_model():
    inputs = keras.Input((5, 4))
    inner = keras.Model(inputs, layers.Dense(3, name="dense")(inputs))
    model = kg.sparsify(kg.models.MonteCarloModel(inner))

    assert list(kg.sparsity_costs(model).values()) == [5]


class Cell(layers.Layer):
    """A recurrent cell out of other layers."""

    state_size = output_size = 3

    def __init__(self):
        super().__init__()
        self.read = layers.Dense(3)
        self.remember = layers.Dense(3)

    def build(self, shape):
        self.read.build(shape)
        self.remember.build((None, 3))

    def call(self, inputs, states):
        state = ops.tanh(self.read(inputs) + self.remember(states[0]))
        return state, [state]


@pytest.mark.every_backend
def test_multiply_adds_of_a_cell_of_ones_own_are_of_every_step():
    layer = layers.RNN(Cell())

    costs = kg.sparsity_costs(sparse_model(lambda: layer, [(7, 4)]))

    assert list(costs.values()) == [7, 7]
    assert not layer.unroll


@pytest.mark.parametrize("tied", [True, False])
def test_multiply_adds_of_an_embedding_and_its_reverse(tied):
    require_keras("3.15", "`ReversibleEmbedding`")
    inputs = keras.Input((4,))
    table = layers.ReversibleEmbedding(10, 3, tie_weights=tied)
    model = keras.Model(inputs, table(table(inputs), reverse=True))

    costs = kg.sparsity_costs(kg.sparsify(model))

    assert list(costs.values()) == ([4.4] if tied else [0.4, 4])


def test_multiply_adds_of_a_registered_layer():
    class Twice(layers.Layer):
        def build(self, shape):
            self.mixer = self.add_weight(shape=(3, 3), name="mixer")

        def call(self, inputs):
            return ops.matmul(ops.matmul(inputs, self.mixer), self.mixer)

    uses = lambda inputs, output, weight: 2 * inputs[0][1]  # noqa: E731
    axes = kg.WeightAxes(units=-1, inputs=-2, uses=uses)
    kg.register_weight_axes(Twice, {"mixer": axes})

    costs = kg.sparsity_costs(
        sparse_model(lambda: Twice(name="twice"), [(5, 3)])
    )

    assert costs == {"twice/mixer": 10}


def test_multiply_adds_of_layers_of_one_name_in_two_models_differ():
    def encoder(name, shape):
        inputs = keras.Input(shape)
        conv = layers.Conv2D(4, 3, padding="same", name="conv")
        return keras.Model(inputs, conv(inputs), name=name)

    inputs = keras.Input((8, 8, 3))
    x = layers.MaxPooling2D(4)(encoder("A", (8, 8, 3))(inputs))
    model = keras.Model(inputs, encoder("B", (2, 2, 4))(x))

    costs = kg.sparsity_costs(kg.sparsify(model))

    assert costs == {"A/conv/kernel": 64, "B/conv/kernel": 4}


def test_the_names_are_those_of_the_report_and_of_the_optimizer():
    model = sparse_model(lambda: Block(name="block"), [(6, 8)])
    costs = kg.sparsity_costs(model)

    model.compile(
        kg.optimizers.ProjectedOptimizer("sgd", density=0.5, costs=costs)
    )
    model.optimizer.build(model.trainable_variables)

    report = kg.sparsity_report(model)
    assert [row.name for row in report.rows] == list(costs)
    assert model.optimizer.current_budget() == 0.5 * 6 * report.weights


def test_multiply_adds_leave_the_model_as_it_is():
    model = Reader()
    tokens = np.zeros((2, 6), "int32")
    model(tokens)
    kg.sparsify(model, "concrete", seed=0)
    before = [np.copy(ops.convert_to_numpy(v)) for v in model.variables]

    kg.sparsity_costs(model)

    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)
    assert "call" not in vars(model.head)


@pytest.mark.every_backend
@pytest.mark.parametrize("kind", ["functional", "subclassed"])
def test_inputs_say_what_the_shapes_do_not(kind):
    layer = layers.Conv1D(4, 3)
    if kind == "functional":
        model = sparse_model(lambda: layer, [(None, 2)])
    else:
        layer.build((None, None, 2))
        model = kg.sparsify(layer)

    with pytest.raises(ValueError, match=r"lengths of the inputs.*`inputs`"):
        kg.sparsity_costs(model)

    costs = kg.sparsity_costs(model, inputs=np.zeros((2, 12, 2), "float32"))
    assert list(costs.values()) == [10]
    assert list(kg.sparsity_costs(model, "bytes").values()) == [4]


def test_a_weight_that_is_not_used_raises():
    class Half(keras.Model):
        def __init__(self):
            super().__init__()
            self.used = layers.Dense(3)
            self.unused = layers.Dense(3, name="unused")

        def call(self, inputs, both=True):
            extra = self.unused(inputs) if both else 0.0
            return self.used(inputs) + extra

    model = Half()
    model(np.zeros((2, 4)))
    model = kg.sparsify(model)
    model.call = functools.partial(model.call, both=False)

    with pytest.raises(ValueError, match="no use of unused/kernel"):
        kg.sparsity_costs(model)


def test_measure_of_another_name_raises():
    model = sparse_model(lambda: layers.Dense(3), [(4,)])

    with pytest.raises(ValueError, match="`measure` of `sparsity_costs`"):
        kg.sparsity_costs(model, "flops")


@pytest.mark.every_backend
def test_seconds_are_those_of_the_layers():
    inputs = keras.Input((64, 64, 8))
    x = layers.Conv2D(64, 3, name="slow")(inputs)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(4, name="fast")(x))
    kg.sparsify(model)

    costs = kg.sparsity_costs(model, "seconds", np.zeros((8, 64, 64, 8), "f4"))

    seconds = {
        "slow": costs["slow/kernel"] * 3 * 3 * 8 * 64,
        "fast": costs["fast/kernel"] * 64 * 4,
    }
    assert seconds["slow"] > 2 * seconds["fast"] > 0
