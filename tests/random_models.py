"""Random models with dead units, for what must hold for any model.

A model grows piece by piece. Each piece is a function of a tensor and of a
`Draw`, and an entry in `PIECES` beside the ranks that it is for.
"""

import math

import keras
import numpy as np
from keras import layers
from keras import ops

ACTIVATIONS = ("linear", "relu", "tanh", "sigmoid", "softplus", "gelu", "elu")
SHAPES = ((5,), (6, 3), (6, 6, 2))


class Draw:
    """Random choices, and the tensors of the model so far."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.tensors = []

    def one_of(self, *options):
        return options[self.rng.integers(len(options))]

    def often(self, probability=0.5):
        return bool(self.rng.random() < probability)

    def like(self, tensor, same=slice(None)):
        """Returns a tensor of the same shape, or of the same part of it."""
        shape = tuple(tensor.shape)[same]
        return self.one_of(
            *(x for x in self.tensors if tuple(x.shape)[same] == shape)
        )

    def units(self):
        return {
            "activation": self.one_of(*ACTIVATIONS),
            "use_bias": self.often(0.7),
        }


def of_rank(x, name):
    """Returns a layer class for the number of spatial axes of `x`."""
    return getattr(layers, f"{name}{len(x.shape) - 2}D")


def dense(x, draw):
    return layers.Dense(draw.one_of(3, 4, 6), **draw.units())(x)


def einsum(x, draw):
    bias_axes = draw.one_of(None, "b")
    activation = draw.one_of(*ACTIVATIONS)
    batch = "xyz"[: len(x.shape) - 1]
    equation = draw.one_of("...a,ab->...b", f"{batch}a,ab->{batch}b")
    shape = 4 if equation[0] == "." else (*x.shape[1:-1], 4)
    return layers.EinsumDense(equation, shape, activation, bias_axes=bias_axes)(
        x
    )


def conv(x, draw):
    size, padding = draw.one_of(1, 2, 3), draw.one_of("same", "valid")
    kind = of_rank(x, "Conv")
    return kind(draw.one_of(3, 4, 6), size, padding=padding, **draw.units())(x)


def causal(x, draw):
    return layers.Conv1D(4, 2, padding="causal", **draw.units())(x)


def strided(x, draw):
    kind = of_rank(x, "Conv")
    return kind(4, 2, strides=2, padding="same", **draw.units())(x)


def grouped(x, draw):
    width = x.shape[-1]
    groups = draw.one_of(width, 2 if width % 2 == 0 else width)
    filters = groups * draw.one_of(1, 2)
    size, padding = draw.one_of(1, 2), draw.one_of("same", "valid")
    kind = of_rank(x, "Conv")
    options = {"groups": groups, "padding": padding, **draw.units()}
    return kind(filters, size, **options)(x)


def depthwise(x, draw):
    padding = draw.one_of("same", "valid")
    return of_rank(x, "DepthwiseConv")(
        draw.one_of(1, 3),
        padding=padding,
        depth_multiplier=draw.one_of(1, 1, 2),
        **draw.units(),
    )(x)


def separable(x, draw):
    padding = draw.one_of("same", "valid")
    kind = of_rank(x, "SeparableConv")
    return kind(4, 2, padding=padding, **draw.units())(x)


def transposed(x, draw):
    kind = getattr(layers, f"Conv{len(x.shape) - 2}DTranspose")
    return kind(4, 2, strides=draw.one_of(1, 2), **draw.units())(x)


def activation(x, draw):
    name = draw.one_of(*ACTIVATIONS, "softmax")
    return draw.one_of(
        layers.Activation(name),
        layers.ReLU(max_value=0.5, threshold=0.1),
        layers.LeakyReLU(),
        layers.PReLU(shared_axes=list(range(1, len(x.shape) - 1))),
    )(x)


def normalized(x, draw):
    return draw.one_of(
        layers.BatchNormalization(),
        layers.BatchNormalization(scale=False),
        layers.GroupNormalization(2 if x.shape[-1] % 2 == 0 else -1),
        layers.LayerNormalization(),
    )(x)


def block(x, draw):
    """Convolution, normalization, activation, twice, and a shortcut."""
    kind, width = of_rank(x, "Conv"), x.shape[-1]
    y = kind(4, 1, use_bias=False)(x)
    y = layers.ReLU()(layers.BatchNormalization()(y))
    y = kind(width, 3, padding="same", use_bias=False)(y)
    return layers.ReLU()(layers.Add()([layers.BatchNormalization()(y), x]))


def excited(x, draw):
    """Squeeze and excite."""
    y = of_rank(x, "GlobalAveragePooling")(keepdims=True)(x)
    y = layers.Dense(3, "relu")(y)
    return layers.Multiply()([x, layers.Dense(x.shape[-1], "sigmoid")(y)])


def pooled(x, draw):
    kind = of_rank(x, draw.one_of("MaxPooling", "AveragePooling"))
    return kind(2, 1, padding=draw.one_of("same", "valid"))(x)


def padded(x, draw):
    return of_rank(x, "ZeroPadding")(1)(x)


def cropped(x, draw):
    return of_rank(x, "Cropping")(draw.one_of(1, (1, 0)))(x)


def enlarged(x, draw):
    return of_rank(x, "UpSampling")(2)(x)


def merged(x, draw):
    names = ("Add", "Multiply", "Average", "Maximum", "Minimum", "Subtract")
    other = draw.like(x)
    y = dense(x, draw) if other is x else x
    if y.shape != x.shape:
        y = layers.Dense(x.shape[-1])(x)
    return getattr(layers, draw.one_of(*names))()([y, other])


def joined(x, draw):
    return layers.Concatenate()([x, draw.like(x, slice(-1))])


def flattened(x, draw):
    return layers.Flatten()(x)


def globally_pooled(x, draw):
    kind = draw.one_of("GlobalAveragePooling", "GlobalMaxPooling")
    return of_rank(x, kind)()(x)


def rows(x, draw):
    return layers.Reshape((-1, x.shape[-1]))(x)


def nested(x, draw):
    """A model in the model, perhaps called twice."""
    inner = [keras.Input(x.shape[1:]), layers.Dense(4, **draw.units())]
    inner = keras.Sequential([*inner, layers.Dense(x.shape[-1])])
    y = inner(x)
    return layers.Add()([inner(y), y]) if draw.often() else y


def shared(x, draw):
    layer = layers.Dense(x.shape[-1], **draw.units())
    return layer(layer(x))


def attended(x, draw):
    """Attention, of each other or of another tensor."""
    layer = layers.MultiHeadAttention(
        draw.one_of(1, 2, 4),
        key_dim=2,
        value_dim=draw.one_of(2, 3),
        use_bias=draw.often(),
        output_shape=draw.one_of(None, None, 5),
    )
    return layer(x, draw.one_of(x, *_rows(draw)))


def _rows(draw):
    return [x for x in draw.tensors if len(x.shape) == 3]


def recurrent(x, draw):
    kind = draw.one_of(layers.GRU, layers.LSTM, layers.SimpleRNN)
    options = {"reset_after": draw.often()} if kind is layers.GRU else {}
    layer = kind(
        draw.one_of(3, 4),
        use_bias=draw.often(),
        return_sequences=draw.often(0.7),
        **options,
    )
    if draw.often(0.3):
        return layers.Bidirectional(layer, draw.one_of("concat", "sum"))(x)
    return layer(x)


def repeated(x, draw):
    return layers.RepeatVector(3)(x)


def swapped(x, draw):
    return layers.Permute((2, 1, 3))(x)


def rescaled(x, draw):
    offset = draw.one_of(0.25, [0.5] * x.shape[-1])
    return layers.Rescaling(0.5, offset)(x)


def dropped_out(x, draw):
    return draw.one_of(layers.Dropout(0.5), layers.Identity())(x)


def computed(x, draw):
    """Applies a function of each number to one or more tensors."""
    array = draw.rng.normal(size=x.shape[-1]).astype("float32")
    other = draw.like(x)
    return draw.one_of(
        lambda: 0.5 * x + 0.25,
        lambda: 1.0 - x,
        lambda: x * array + array,
        lambda: ops.abs(-x),
        lambda: ops.add(x, other),
        lambda: ops.clip(x, -0.5, 0.5),
        lambda: ops.divide(x, ops.square(other) + 1.0),
        lambda: ops.maximum(x, 0.1),
        lambda: ops.multiply(other, ops.sigmoid(x)),
        lambda: ops.relu(x),
        lambda: ops.subtract(array, x),
        lambda: ops.where(x > other, x, 0.1 * x),
        lambda: keras.activations.silu(x),
    )()


def arranged(x, draw):
    """Moves channels or positions, or leaves some out."""
    rank, width = len(x.shape), x.shape[-1]
    last = (*range(1, rank - 1), rank - 1)
    choices = [
        lambda: ops.concatenate([x, draw.like(x, slice(-1))], axis=-1),
        lambda: ops.flip(x, axis=-1),
        lambda: ops.repeat(x, 2, axis=-1),
        lambda: ops.reshape(x, (-1, *x.shape[1:])),
        lambda: ops.squeeze(ops.expand_dims(x, 1), 1),
        lambda: ops.tile(x, (*(1 for _ in last), 2)),
        lambda: gated(*ops.split(ops.concatenate([x, -x], -1), 2, axis=-1)),
        lambda: x[..., : draw.one_of(1, 2)],
        lambda: x[..., width // 2 :],
    ]
    if rank > 2:
        choices += [
            lambda: ops.concatenate([x, draw.like(x)], axis=1),
            lambda: ops.pad(x, ((0, 0), (1, 0), *((0, 0) for _ in last[1:]))),
            lambda: ops.reshape(x, (-1, x.shape[1], math.prod(x.shape[2:]))),
            lambda: ops.sum(x, axis=1, keepdims=True),
            lambda: x[:, 1:],
        ]
    if rank == 4:
        choices += [
            lambda: ops.average_pool(x, 2, 1),
            lambda: ops.max_pool(x, 2, 1, padding="same"),
            lambda: ops.max(ops.stack([x, draw.like(x)], axis=2), axis=2),
            lambda: ops.mean(x, axis=2),
            lambda: ops.moveaxis(ops.swapaxes(x, 1, 3), 1, 3),
            lambda: ops.transpose(x, (0, 2, 1, 3)),
            lambda: x[:, 0],
        ]
    return draw.one_of(*choices)()


def gated(x, gate):
    return x * ops.sigmoid(gate)


def mixed(x, draw):
    """Operations that need all channels."""
    return draw.one_of(
        lambda: ops.softmax(x),
        lambda: ops.roll(x, 1, axis=-1),
        lambda: x - ops.mean(x, axis=-1, keepdims=True),
        lambda: ops.matmul(x, ops.ones((x.shape[-1], 3)) * 0.5),
        lambda: layers.RMSNormalization()(x),
    )()


ANY, SPATIAL = (2, 3, 4), (3, 4)
PIECES = {
    **dict.fromkeys(
        (activation, computed, dense, dropped_out, einsum, joined, merged), ANY
    ),
    **dict.fromkeys((arranged, mixed), ANY),
    **dict.fromkeys((nested, normalized, rescaled, shared), ANY),
    **dict.fromkeys((block, conv, cropped, depthwise, enlarged), SPATIAL),
    **dict.fromkeys((excited, grouped, padded, pooled), SPATIAL),
    **dict.fromkeys((separable, strided, transposed), SPATIAL),
    **dict.fromkeys((attended, causal, recurrent), (3,)),
    repeated: (2,),
    rows: (4,),
    swapped: (4,),
}
ENDS = {flattened: SPATIAL, globally_pooled: SPATIAL}


def fitting(pieces, x, draw):
    """Draws a piece for the rank and the size of a tensor."""
    small = min(x.shape[1:-1], default=4) < 4
    shrinking = (conv, cropped, depthwise, pooled, separable, strided)
    names = [p for p, ranks in pieces.items() if len(x.shape) in ranks]
    if small:
        names = [p for p in names if p not in shrinking]
    if math.prod(x.shape[1:]) > 400:
        names = [p for p in names if p not in (enlarged, transposed)]
    return draw.one_of(*names)


def random_model(seed, pieces=PIECES, zeros=True):
    """Draws a model, its weights, and which of them are zero, if any."""
    draw = Draw(seed)
    inputs = keras.Input(draw.one_of(*SHAPES))
    x = (dense if len(inputs.shape) == 2 else conv)(inputs, draw)
    draw.tensors = [inputs, x]
    for _ in range(draw.rng.integers(2, 8)):
        x = fitting(pieces, x, draw)(x, draw)
        draw.tensors.append(x)
    if len(x.shape) > 2:
        x = fitting(ENDS, x, draw)(x, draw)
    outputs = layers.Dense(2)(x)
    if draw.often(0.2):
        outputs = [outputs, draw.one_of(*draw.tensors)]
    model = keras.Model(inputs, outputs)
    for layer in model.layers:
        layer.set_weights([weight(v, draw, zeros) for v in layer.weights])
    return model


def weight(variable, draw, zeros):
    """Draws the values of a variable, perhaps zero for some channels."""
    low = 0.5 if "variance" in variable.path else -1.0
    values = draw.rng.uniform(low, 1.0, variable.shape)
    first = 0 if "attention" in variable.path else max(values.ndim - 2, 0)
    for axis in range(first, values.ndim):
        if zeros and draw.often() and low < 0:
            shape = [1] * values.ndim
            shape[axis] = values.shape[axis]
            values = values * (draw.rng.random(shape) < 0.6)
    return values.astype("float32")


def predictions(model, seed=0):
    """Returns the outputs of a model for three random examples."""
    rng = np.random.default_rng(seed)
    data = [rng.normal(size=(3, *x.shape[1:])) for x in model.inputs]
    data = [ops.convert_to_tensor(x.astype("float32")) for x in data]
    outputs = model(data if len(data) > 1 else data[0], training=False)
    return [ops.convert_to_numpy(x) for x in keras.tree.flatten(outputs)]
