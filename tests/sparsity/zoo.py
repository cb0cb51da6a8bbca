"""Models as people write them, each with inputs and targets."""

import collections

import keras
import numpy as np
from keras import layers
from keras import ops

register = keras.saving.register_keras_serializable("keras_gumbel_tests")
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(8, 6)).astype("float32")
TOKENS = RNG.integers(0, 12, (8, 5))
IMAGES = RNG.normal(size=(8, 8, 8, 3)).astype("float32")
SERIES = RNG.normal(size=(8, 5, 6)).astype("float32")
TARGETS = RNG.normal(size=(8, 2)).astype("float32")


def sequential():
    return keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, "relu"), layers.Dense(2)]
    ), FEATURES


def shared_layer():
    inputs = keras.Input((6,))
    shared = layers.Dense(6, "tanh")
    outputs = layers.Dense(2)(shared(shared(inputs)))
    return keras.Model(inputs, outputs), FEATURES


def nested_with_equal_names():
    def encoder(inputs, outputs, name):
        symbol = keras.Input((inputs,))
        hidden = layers.Dense(outputs, name="d")(symbol)
        return keras.Model(symbol, hidden, name=name)

    inputs = keras.Input((6,))
    hidden = encoder(8, 4, "b")(encoder(6, 8, "a")(inputs))
    return keras.Model(inputs, layers.Dense(2, name="d")(hidden)), FEATURES


@register
class OwnCall(keras.Model):
    """A Functional model with a `call` and a `train_step` of its own."""

    def __init__(self, width=8, **kwargs):
        inputs = keras.Input((6,))
        outputs = layers.Dense(2)(layers.Dense(width)(inputs))
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self.width = width
        self.steps = 0

    def call(self, inputs, training=None, mask=None):
        return 2.0 * super().call(inputs, training=training)

    def train_step(self, *args, **kwargs):
        self.steps += 1
        return super().train_step(*args, **kwargs)

    def get_config(self):
        return {"width": self.width}


def own_call():
    return OwnCall(), FEATURES


@register
class Block(layers.Layer):
    """A transformer block with one more matrix."""

    def __init__(self, dim, **kwargs):
        super().__init__(**kwargs)
        self.dim = dim
        self.attention = layers.MultiHeadAttention(2, dim)
        self.ffn = keras.Sequential(
            [layers.Dense(2 * dim, "relu"), layers.Dense(dim)]
        )

    def build(self, shape):
        self.attention.build(shape, shape)
        self.ffn.build(shape)
        self.extra = self.add_weight(shape=(self.dim, self.dim), name="extra")

    def call(self, inputs):
        hidden = inputs + self.attention(inputs, inputs)
        return hidden + self.ffn(hidden) + ops.matmul(hidden, self.extra)

    def get_config(self):
        return {**super().get_config(), "dim": self.dim}


def custom_block():
    inputs = keras.Input((5, 6))
    hidden = layers.GlobalAveragePooling1D()(Block(6)(inputs))
    return keras.Model(inputs, layers.Dense(2)(hidden)), SERIES


Pair = collections.namedtuple("Pair", ["up", "down"])


class Holder:
    """What Keras does not look into."""


@register
class Experts(layers.Layer):
    """Weights of rank 3, in a list, in a tuple, and in another object."""

    def build(self, shape):
        dim = shape[-1]
        self.experts = self.add_weight(shape=(3, dim, dim), name="experts")
        self.listed = [self.add_weight(shape=(dim, dim), name="listed")]
        self.pair = Pair(
            self.add_weight(shape=(dim, 2 * dim), name="up"),
            self.add_weight(shape=(2 * dim, dim), name="down"),
        )
        self.holder = Holder()
        self.holder.hidden = self.add_weight(shape=(dim, dim), name="hidden")

    def call(self, inputs):
        hidden = ops.sum(ops.einsum("bi,eij->ebj", inputs, self.experts), 0)
        hidden = ops.tanh(ops.matmul(hidden, self.listed[0]))
        hidden = ops.matmul(ops.matmul(hidden, self.pair.up), self.pair.down)
        return ops.matmul(hidden, self.holder.hidden)


def experts():
    inputs = keras.Input((6,))
    return keras.Model(inputs, layers.Dense(2)(Experts()(inputs))), FEATURES


@register
class TiedHead(layers.Layer):
    """Reads the weight of a layer that it is given."""

    def __init__(self, embedding, **kwargs):
        super().__init__(**kwargs)
        self.embedding = embedding

    def call(self, inputs):
        return ops.matmul(inputs, ops.transpose(self.embedding.embeddings))

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        config = super().get_config()
        return {**config, "embedding": serialize(self.embedding)}

    @classmethod
    def from_config(cls, config):
        embedding = keras.saving.deserialize_keras_object(config["embedding"])
        return cls(**{**config, "embedding": embedding})


@register
class Tied(keras.Model):
    """A subclassed model with layers in a list and in a dictionary."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embedding = layers.Embedding(12, 6)
        self.blocks = [layers.Dense(6, "tanh"), layers.Dense(6, "tanh")]
        self.heads = {"tied": TiedHead(self.embedding)}
        self.out = layers.Dense(2)

    def call(self, inputs, training=None):
        hidden = ops.mean(self.embedding(inputs), axis=1)
        for block in self.blocks:
            hidden = block(hidden)
        return self.out(self.heads["tied"](hidden))


@register
class OwnWeight(keras.Model):
    """A subclassed model that owns a matrix, read in two ways."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = layers.Dense(6)

    def build(self, shape):
        self.w = self.add_weight(shape=(6, 2), name="w")
        self.hidden.build(shape)
        self.built = True

    def call(self, inputs):
        return self.hidden(inputs) @ self.w + ops.matmul(inputs, self.w.value)


def tied():
    model = Tied()
    model(TOKENS)
    return model, TOKENS


def own_weight():
    model = OwnWeight()
    model.build((None, 6))
    return model, FEATURES


def recurrent():
    inputs = keras.Input((5,), dtype="int32")
    hidden = layers.Embedding(12, 6)(inputs)
    hidden = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(hidden)
    hidden = layers.TimeDistributed(layers.Dense(4))(hidden)
    hidden = layers.RNN([layers.GRUCell(3), layers.SimpleRNNCell(4)])(hidden)
    return keras.Model(inputs, layers.Dense(2)(hidden)), TOKENS


def convolutions():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, padding="same"),
            layers.BatchNormalization(),
            layers.DepthwiseConv2D(3),
            layers.SeparableConv2D(4, 3),
            layers.Conv2DTranspose(2, 3),
            layers.PReLU(shared_axes=[1, 2]),
            layers.Flatten(),
            layers.Dense(2),
        ]
    ), IMAGES


def with_lambda():
    inputs = keras.Input((6,))
    hidden = layers.Lambda(lambda x: x * 2)(layers.Dense(6)(inputs))
    return keras.Model(inputs, layers.Dense(2)(hidden)), FEATURES


@register
class TwoTowers(keras.Model):
    """Inputs in a dictionary, a `compute_loss` of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.towers = {"a": layers.Dense(4), "b": layers.Dense(4)}

    def build(self, shapes=None):
        for tower in self.towers.values():
            tower.build((None, 6))
        self.built = True

    def call(self, inputs):
        return self.towers["a"](inputs["a"]) * self.towers["b"](inputs["b"])

    def compute_loss(self, x=None, y=None, y_pred=None, *args, **kwargs):
        return ops.mean(ops.square(self(x)))


def two_towers():
    model = TwoTowers()
    model.build()
    return model, {"a": FEATURES, "b": FEATURES[::-1].copy()}


MODELS = (
    sequential,
    shared_layer,
    nested_with_equal_names,
    own_call,
    custom_block,
    experts,
    tied,
    own_weight,
    recurrent,
    convolutions,
    with_lambda,
    two_towers,
)
