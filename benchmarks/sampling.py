"""Times samplers against a softmax of the same size.

    KERAS_BACKEND=torch python benchmarks/sampling.py

prints, for three sizes, CPU time as a multiple of `softmax(x / temperature)`:
forward, and forward and backward, for relaxed samples; forward for indices.
On JAX all functions are jitted, on TensorFlow they are `tf.function`s without
XLA, on torch they are eager. There it also counts the operations that a relaxed
sample and its gradient launch, and what is kept for the gradient.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse

import keras
import numpy as np
from keras import ops
from timing import median_ratios
from timing import print_table
from timing import versions

import keras_gumbel as kg

SIZES = [(4096, 10), (256, 1000), (64, 50_000)]
TEMPERATURE = 0.5
BACKEND = keras.config.backend()


def softmax(x, seed):
    return ops.softmax(x / TEMPERATURE)


def textbook(x, seed):
    u = keras.random.uniform(ops.shape(x), seed=seed)
    noise = -ops.log(-ops.log(u + 1e-20) + 1e-20)
    return ops.softmax((x + noise) / TEMPERATURE)


def soft(x, seed):
    return kg.ops.gumbel_softmax(x, TEMPERATURE, seed=seed)


def hard(x, seed):
    return kg.ops.gumbel_softmax(x, TEMPERATURE, hard=True, seed=seed)


def reinmax(x, seed):
    return kg.ops.sample_one_hot(x, 1.0, "reinmax", seed=seed)


def gumbel_rao(x, seed):
    return kg.ops.sample_one_hot(x, TEMPERATURE, "gumbel_rao", seed=seed)


def gapped(x, seed):
    return kg.ops.sample_one_hot(x, TEMPERATURE, "gapped", seed=seed)


def precise(x, seed):
    noise = kg.random.gumbel(ops.shape(x), seed=seed, precision="high")
    return kg.ops.gumbel_softmax(x, TEMPERATURE, noise=noise)


def gumbel_max(x, seed):
    return kg.ops.gumbel_max(x, seed=seed)


def categorical(x, seed):
    return kg.ops.categorical(x, seed=seed)


def keras_categorical(x, seed):
    return keras.random.categorical(x, 1, seed=seed)


RELAXED = {
    "softmax": softmax,
    "textbook formula": textbook,
    "keras_gumbel": soft,
    "keras_gumbel, hard": hard,
    "keras_gumbel, ReinMax": reinmax,
    "keras_gumbel, gapped": gapped,
    "keras_gumbel, Gumbel-Rao of 10": gumbel_rao,
    'keras_gumbel, precision="high"': precise,
}
INDICES = {
    "softmax": softmax,
    "keras_gumbel.ops.gumbel_max": gumbel_max,
    "keras_gumbel.ops.categorical": categorical,
    "keras.random.categorical": keras_categorical,
}


class Jax:
    packages = ("jax",)

    def __init__(self):
        import jax

        self.jax = jax
        self.generator = keras.random.SeedGenerator(0)
        self.relaxed = {
            "jax.random.gumbel": self.gumbel,
            'jax.random.gumbel, mode="high"': self.gumbel_high,
        }
        self.indices = {"jax.random.categorical": self.categorical}

    def gumbel(self, x, seed, mode="low"):
        noise = self.jax.random.gumbel(seed.next(), x.shape, mode=mode)
        return ops.softmax((x + noise) / TEMPERATURE)

    def gumbel_high(self, x, seed):
        return self.gumbel(x, seed, "high")

    def categorical(self, x, seed):
        return self.jax.random.categorical(seed.next(), x)

    def forward(self, function, x, weights):
        # Keras's noise state is an argument: as a constant of the function,
        # the noise would be drawn once, by the compiler.
        def run(x, state):
            with keras.StatelessScope([(self.generator.state, state)]):
                return function(x, self.generator)

        run = self.jax.jit(run)
        x, state = self.jax.numpy.asarray(x), self.generator.state.value
        return lambda: run(x, state).block_until_ready()

    def both(self, function, x, weights):
        def loss(x, weights, state):
            with keras.StatelessScope([(self.generator.state, state)]):
                return (function(x, self.generator) * weights).sum()

        run = self.jax.jit(self.jax.grad(loss))
        x, weights = map(self.jax.numpy.asarray, (x, weights))
        state = self.generator.state.value
        return lambda: run(x, weights, state).block_until_ready()


class Tensorflow:
    packages = ("tensorflow-cpu", "tensorflow-probability")

    def __init__(self):
        import tensorflow as tf
        import tensorflow_probability as tfp

        self.tf, self.tfp = tf, tfp
        self.generator = keras.random.SeedGenerator(0)
        self.relaxed = {"TFP RelaxedOneHotCategorical": self.probability}
        self.indices = {"tf.random.categorical": self.categorical}

    def probability(self, x, seed):
        distribution = self.tfp.distributions.RelaxedOneHotCategorical(
            TEMPERATURE, logits=x
        )
        return distribution.sample(seed=(1, 2))

    def categorical(self, x, seed):
        return self.tf.random.categorical(x, 1)

    def forward(self, function, x, weights):
        x = self.tf.constant(x)
        return self.tf.function(lambda: function(x, self.generator))

    def both(self, function, x, weights):
        x, weights = self.tf.constant(x), self.tf.constant(weights)

        def run():
            with self.tf.GradientTape() as tape:
                tape.watch(x)
                loss = self.tf.reduce_sum(function(x, self.generator) * weights)
            return tape.gradient(loss, x)

        return self.tf.function(run)


class Torch:
    packages = ("torch",)

    def __init__(self):
        import torch

        torch.set_num_threads(1)
        self.torch = torch
        self.generator = keras.random.SeedGenerator(0)
        self.relaxed = {
            "F.gumbel_softmax": self.functional,
            "F.gumbel_softmax, hard": self.functional_hard,
            "torch RelaxedOneHotCategorical": self.distribution,
        }
        self.indices = {"torch.multinomial": self.multinomial}

    def functional(self, x, seed, hard=False):
        return self.torch.nn.functional.gumbel_softmax(x, TEMPERATURE, hard)

    def functional_hard(self, x, seed):
        return self.functional(x, seed, True)

    def distribution(self, x, seed):
        distribution = self.torch.distributions.RelaxedOneHotCategorical(
            ops.convert_to_tensor(TEMPERATURE), logits=x, validate_args=False
        )
        return distribution.rsample()

    def multinomial(self, x, seed):
        return self.torch.multinomial(self.torch.softmax(x, -1), 1)

    def forward(self, function, x, weights):
        x = ops.convert_to_tensor(x)

        def run():
            with self.torch.no_grad():
                return function(x, self.generator)

        return run

    def both(self, function, x, weights):
        x = ops.convert_to_tensor(x).requires_grad_()
        weights = ops.convert_to_tensor(weights)

        def run():
            x.grad = None
            function(x, self.generator).backward(weights)

        return run


def costs(x, functions):
    """Returns rows of operations forward and backward, and of memory kept."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    # Views, memory, and numbers on their way to Python.
    free = "_local_scalar_dense alias detach empty_like expand lift_fresh view"

    class Counter(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            outputs = function(*args, **(kwargs or {}))
            name = function.name().split("::")[1].split(".")[0]
            # The number of a call is drawn on the CPU.
            numbered = name == "randint" and not outputs.shape
            self.count += name not in free.split() and not numbered
            return outputs

    rows = []
    for name, function in functions.items():
        given = ops.convert_to_tensor(x).requires_grad_()
        kept = {}

        def pack(tensor, kept=kept, given=given):
            storage = tensor.untyped_storage()
            if storage.data_ptr() != given.untyped_storage().data_ptr():
                kept[storage.data_ptr()] = tensor
            return tensor

        saving = torch.autograd.graph.saved_tensors_hooks
        with saving(pack, lambda tensor: tensor), Counter() as forward:
            sample = function(given)
        weights = torch.ones_like(sample)
        with Counter() as backward:
            sample.backward(weights)
        size = sum(t.untyped_storage().nbytes() for t in kept.values())
        rows.append(
            [
                name,
                str(forward.count),
                str(backward.count),
                f"{size / given.untyped_storage().nbytes():.3f}",
            ]
        )
    return rows


def print_costs(backend):
    """Prints what a sample costs on torch, eagerly, beside its time."""
    layer = kg.layers.GumbelSoftmax(TEMPERATURE, seed=0)
    layer.build((256, 1000))
    x = np.random.default_rng(0).normal(size=(256, 1000)).astype("float32")
    functions = {
        "F.gumbel_softmax": lambda x: backend.functional(x, None),
        "keras_gumbel.ops.gumbel_softmax": lambda x: soft(x, 1),
        "keras_gumbel.layers.GumbelSoftmax": lambda x: layer(x, training=True),
        "a temperature that is a tensor": lambda x: kg.ops.gumbel_softmax(
            x, ops.convert_to_tensor(TEMPERATURE), seed=1
        ),
    }
    print_table(
        "Operations of a relaxed sample, and memory kept in sizes of it",
        ["256x1000", "forward", "backward", "kept"],
        costs(x, functions),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=31)
    rounds = parser.parse_args().rounds
    backend = {"jax": Jax, "tensorflow": Tensorflow, "torch": Torch}[BACKEND]()
    print(versions(*backend.packages))
    if BACKEND == "torch":
        print_costs(backend)
    for title, contenders, kinds in (
        ("Relaxed samples", RELAXED | backend.relaxed, ("forward", "both")),
        ("Indices", INDICES | backend.indices, ("forward",)),
    ):
        columns, cells = [title], {name: [name] for name in contenders}
        for shape in SIZES:
            generator = np.random.default_rng(0)
            x, weights = generator.normal(size=(2, *shape)).astype("float32")
            for kind in kinds:
                timed = {
                    name: getattr(backend, kind)(function, x, weights)
                    for name, function in contenders.items()
                }
                ratios, unit = median_ratios(timed, rounds)
                suffix = " f+b" if kind == "both" else ""
                columns.append(f"{shape[0]}x{shape[1]}{suffix}")
                for name, ratio in ratios.items():
                    cells[name].append(f"{ratio:.2f}")
                cells["softmax"][-1] = f"{1e3 * unit:.2f} ms"
        print_table(
            f"{title}: multiples of softmax (f+b: forward and backward)",
            columns,
            list(cells.values()),
        )


if __name__ == "__main__":
    main()
