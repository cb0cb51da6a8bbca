"""Accuracy of convolutional networks that lose whole channels.

    python benchmarks/channels.py --data fashion_mnist.npz \\
        --nets "plain uneven" --budgets 0.12

trains networks with batch normalization on 10,000 images of 14 x 14 pixels,
and drops coupled channels until a share of the multiply-adds is left. It
prints the test accuracy, mean and standard error over seeds, the paired
differences to ours, and the widths that the first seed has found. `--data` is
an `.npz` file of the arrays of `keras.datasets.mnist` or `fashion_mnist`.

Networks: a plain one of five convolutions and a residual one of three blocks,
with even widths, and three with widths that were chosen badly on purpose.
`residual even, pretrained` is trained dense before it is pruned.

Every method has the same steps, batches and first weights of a seed, and the
learning rate of the grid with the best mean on validation data. It is found at
12% of the multiply-adds with the first `--tuning` seeds, one unless said; the
grid grows until both neighbors of the best rate are known. With `--check`, the
multiply-adds of the report have to equal those of the model that `shrink`
returns.

Each cell becomes a line of `benchmarks/records/channels-DATA.jsonl`, but not
with `--quick`. Seeds of a cell that are in the file are not run again, and
differences are those of the seeds that both have. `--time` prints the cost of
a step instead.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import argparse
import dataclasses
import datetime
import functools
import itertools
import json
import math
import pathlib

import jax
import keras
import numpy as np
from jax import numpy as jnp
from keras import layers
from keras import ops
from timing import mean_and_error
from timing import median_ratios
from timing import print_table
from timing import versions

import keras_gumbel as kg
from keras_gumbel._scores import name_of
from keras_gumbel.masks._magnitude_mask import RankedMask

RECORDS = pathlib.Path(__file__).parent / "records"
BUDGETS = (0.5, 0.25, 0.12)
RATES = (0.05, 0.1, 0.2, 0.4)
TUNED_AT = 0.12
BATCH = 64
STEPS = 600
# Keras takes weight decay out of the momentum: of an L2 penalty of 5e-4, a
# momentum of 0.9 makes ten times as much.
WEIGHT_DECAY = 5e-3
# Of the scales of batch normalization: https://arxiv.org/abs/1708.06519.
PENALTY = 1e-4
# The first and the last step at which the density falls, as shares of them all.
FALLS = 0.07, 0.45
# Of hard concrete gates: https://arxiv.org/abs/1712.01312. Their logits start
# at the scale, which makes their steps larger by its square.
GATE_PENALTY = 0.1
GATE_SCALE = 5.0
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def plain(widths):
    """Five convolutions, two of them with a stride of 2."""
    x = inputs = keras.Input((14, 14, 1))
    strides = (2, 1, 1, 2, 1)
    for i, (width, stride) in enumerate(zip(widths, strides, strict=True)):
        x = layers.ReLU()(unit(x, width, f"conv_{i + 1}", stride))
    return classifier(inputs, x)


def residual(widths):
    """A block on 7 x 7 pixels and two on 4 x 4; the second one is wider."""
    first, *inner, second, last = widths
    inner = [*inner, last]
    inputs = keras.Input((14, 14, 1))
    x = layers.ReLU()(unit(inputs, first, "stem", 2))
    for i, width in enumerate(inner):
        stride, out = (1, first) if i == 0 else (2 if i == 1 else 1, second)
        y = layers.ReLU()(unit(x, width, f"block_{i + 1}_a", stride))
        y = unit(y, out, f"block_{i + 1}_b")
        if stride > 1:
            x = unit(x, out, "shortcut", stride, size=1)
        x = layers.ReLU()(layers.Add()([x, y]))
    return classifier(inputs, x)


def unit(x, width, name, stride=1, size=3):
    convolution = layers.Conv2D(
        width,
        size,
        stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )
    return layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(
        convolution(x)
    )


def classifier(inputs, x):
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, name="classifier")(x))


# A function that makes the network, its widths, and whether it is pretrained.
NETS = {
    "plain even": (plain, (32, 32, 32, 64, 64), False),
    "plain uneven": (plain, (16, 48, 16, 96, 32), False),
    "plain uneven, wide start": (plain, (96, 16, 48, 24, 64), False),
    "residual even": (residual, (32, 32, 64, 64, 64), False),
    "residual uneven": (residual, (16, 48, 24, 96, 16), False),
    "residual even, pretrained": (residual, (32, 32, 64, 64, 64), True),
}


# The place of a group of channels among the widths, by its first layer.
PLACES = {f"conv_{i + 1}": i for i in range(5)} | {
    "stem": 0,
    "block_1_a": 1,
    "block_2_a": 2,
    "block_2_b": 3,
    "shortcut": 3,
    "block_3_a": 4,
}


class TaylorMask(RankedMask):
    """The squared gradient of the mask, averaged over steps.

    Fisher information squares the gradient of every example, this one that of
    the batch. `Trainer` squares it.
    """

    for_channels = True
    observed = True

    def draw(self, training=False):
        return ops.convert_to_tensor(self.mask_scores)


class AbsoluteMask(kg.masks.MagnitudeMask):
    """Compares magnitudes as they are."""

    relative = False


class GammaMask(RankedMask):
    """The scales of batch normalization, mean square over a group."""

    for_channels = True

    def saliency(self, weight, layout):
        squares = [ops.square(norm.gamma) for norm in vars(self)["norms"]]
        return ops.sqrt(sum(squares) / len(squares))


class GatesMask(RankedMask):
    """The probabilities that hard concrete gates are not 0.

    `Trainer` draws the gates, and puts them on batch normalization.
    """

    for_channels = True

    def build(self, input_shape):
        super().build(input_shape)
        self.gate_logits = self.add_weight(
            name="gate_logits", shape=self.mask_scores.shape, initializer="ones"
        )

    def saliency(self, weight, layout):
        return ops.sigmoid(GATE_SCALE * self.gate_logits)


@dataclasses.dataclass(frozen=True)
class Method:
    """How channels are chosen.

    Attributes:
        mask: What `sparsify` takes, or `None` for a small network.
        widths: "joint" if the budget of multiply-adds decides how many each
            group keeps, "uniform", or "found" for what ours has found.
        penalty: The L1 penalty of the scales of batch normalization.
        gate_penalty: The penalty of P(gate > 0), averaged over multiply-adds.
    """

    mask: object
    widths: str = "joint"
    penalty: float = 0.0
    gate_penalty: float = 0.0


METHODS = {
    "ours": Method("fisher"),
    "uniform, group L2": Method("magnitude", "uniform"),
    "small network": Method(None, "uniform"),
    "random at our widths": Method("random", "found"),
    "global, group L2": Method(AbsoluteMask()),
    # The rule of Torch-Pruning, and `mask="magnitude"`.
    "global, group L2 / mean": Method("magnitude"),
    "Taylor": Method(TaylorMask()),
    "BN scales": Method(GammaMask(), penalty=PENALTY),
    "BN scales, 10 x penalty": Method(GammaMask(), penalty=10 * PENALTY),
    "hard concrete": Method(GatesMask(), gate_penalty=GATE_PENALTY),
    "hard concrete, 10 x penalty": Method(
        GatesMask(), gate_penalty=10 * GATE_PENALTY
    ),
}


def multiply_adds(model):
    """Counts the multiply-adds of a network with nothing but its layers."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            total += layer.kernel.shape[0] ** 2 * math.prod(
                (*layer.kernel.shape[2:], *layer.output.shape[1:3])
            )
        elif isinstance(layer, layers.Dense):
            total += math.prod(layer.kernel.shape)
    return total


def plain_cost(widths):
    """Returns the multiply-adds of `plain` with these widths."""
    before = (1, *widths)
    positions = (49, 49, 49, 16, 16)
    parts = zip(positions, before, widths, strict=False)
    return 10 * widths[-1] + sum(9 * p * a * b for p, a, b in parts)


def residual_cost(widths):
    """Returns the multiply-adds of `residual` with these widths."""
    first, a, b, second, c = widths
    wide = 49 * 9 * (first + 2 * first * a)
    narrow = 16 * (9 * (first * b + b * second + 2 * second * c))
    return wide + narrow + 16 * first * second + 10 * second


@functools.cache
def uniform_widths(net, budget):
    """Returns the widths that are the same share of all, and fit a budget.

    The largest share is found by bisection. What it leaves of the budget goes
    to single channels, in the order in which a larger share would add them.
    """
    make, widths, _ = NETS[net]
    cost = COSTS[make]

    def fits(kept):
        return cost(kept) <= budget * cost(widths)

    def share(s):
        return [max(1, math.floor(s * w)) for w in widths]

    low, high = 0.0, 1.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if fits(share(middle)) else (low, middle)
    kept = share(low)
    order = sorted(range(len(widths)), key=lambda i: (kept[i] + 1) / widths[i])
    for i in order:
        more = [n + (j == i) for j, n in enumerate(kept)]
        if more[i] <= widths[i] and fits(more):
            kept = more
    return tuple(kept)


COSTS = {plain: plain_cost, residual: residual_cost}


class Falling(keras.optimizers.schedules.LearningRateSchedule):
    """A cubic density whose end is a variable of the optimizer.

    One compiled function then trains for every budget.
    """

    def __init__(self, steps):
        self.steps, self.variable = steps, None

    def __call__(self, step):
        begin, end = FALLS
        part = (ops.cast(step, "float32") / self.steps - begin) / (end - begin)
        rest = (1.0 - ops.clip(part, 0.0, 1.0)) ** 3
        final = 1.0 if self.variable is None else self.variable
        return final + (1.0 - final) * rest


class Trainer:
    """A network and a method, compiled once.

    Args:
        net: String.
        method: String.
        data: Dictionary of pairs of arrays.
        steps: Integer.
        widths: Tuple of integers of a small network, or `None`.
    """

    def __init__(self, net, method, data, steps, widths=None):
        self.steps, self.data = steps, data
        self.name, self.method = method, METHODS[method]
        make, self.full, _ = NETS[net]
        self.make = functools.partial(make, widths or self.full)
        self.model = self.make()
        self.scores, self.limits = [], []
        self.optimizer = self._optimizer()
        places = {id(v): i for i, v in enumerate(self.optimizer.variables)}
        inner = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        self.rate_at = places[id(inner._learning_rate)]
        self.limits_at = [places[id(x.variable)] for x in self.limits]
        self.first = [np.array(v.value) for v in self.optimizer.variables]
        self.step = jax.jit(self._step, donate_argnums=0)
        self.outputs = jax.jit(
            lambda t, n, x: self.model.stateless_call(t, n, x)[0]
        )
        self.calibrated = jax.jit(self._calibrated)

    def _optimizer(self):
        """Puts masks on the model if need be, and returns its optimizer."""
        inner = keras.optimizers.SGD(
            0.1, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY
        )
        if self.method.mask is None:
            inner.build(self.model.trainable_variables)
            return inner
        inner.exclude_from_weight_decay(var_names=["gate_logits"])
        kg.sparsify(self.model, self.method.mask, granularity="channel", seed=0)
        for mask in masks_of(self.model):
            self._prepare(mask)
        self.scores = [mask.mask_scores for mask in masks_of(self.model)]
        joint = self.method.widths == "joint"
        self.limits = [
            Falling(self.steps) for _ in self.scores[: 1 if joint else None]
        ]
        density = dict(zip(self.groups, self.limits, strict=False))
        optimizer = kg.optimizers.ProjectedOptimizer(
            inner,
            density=self.limits[0] if joint else density,
            costs=kg.sparsity_costs(self.model),
        )
        optimizer.build(self.model.trainable_variables)
        for limit in self.limits:
            limit.variable = optimizer.add_variable((), "ones", name="final")
        return optimizer

    @property
    def groups(self):
        """The names of the groups of channels."""
        return [name_of(v) for v in self.scores]

    def _prepare(self, mask):
        if isinstance(mask, TaylorMask):
            # The gradient of the mask itself, not that of the examples.
            mask.observed = False
        names = {
            f"{p.layer.name}_norm"
            for p in mask.parts
            for g in p.gates
            if g.mask is mask and g.axis == len(p.weight.shape) - 1
        }
        vars(mask)["norms"] = [
            layer for layer in self.model.layers if layer.name in names
        ]

    def _step(self, state, step, x, y, rate):
        """Returns the state after a step. It is compiled."""
        variables = self.model.trainable_variables
        marked = {id(v) for v in self.scores}
        taylor = isinstance(self.method.mask, TaylorMask)
        penalized = [
            i for i, v in enumerate(variables) if v.path.endswith("gamma")
        ]

        def loss(t, n):
            more = 0.0
            if self.method.gate_penalty:
                more, t = self._gated(t, step)
            logits, n = self.model.stateless_call(t, n, x, training=True)
            penalty = sum(jnp.abs(t[i]).sum() for i in penalized)
            return LOSS(y, logits) + self.method.penalty * penalty + more, n

        t, n, o = state
        grads, n = jax.grad(loss, has_aux=True)(t, n)
        grads = [
            g * g if taylor and id(v) in marked else g
            for g, v in zip(grads, variables, strict=True)
        ]
        o = list(o)
        o[self.rate_at] = rate * 0.5 * (1 + jnp.cos(jnp.pi * step / self.steps))
        t, o = self.optimizer.stateless_apply(o, grads, t)
        return t, n, o

    def _gated(self, t, step):
        """Draws gates while the density falls.

        Returns:
            The penalty, and the trainable variables with gates on them.
        """
        variables = self.model.trainable_variables
        places = {id(v): i for i, v in enumerate(variables)}
        key = jax.random.PRNGKey(jnp.asarray(step, "int32"))
        t, penalty = list(t), 0.0
        for mask in masks_of(self.model):
            logits = GATE_SCALE * t[places[id(mask.gate_logits)]]
            key, own = jax.random.split(key)
            noise = jax.random.logistic(own, logits.shape)
            gates = kg.ops.hard_concrete(ops.sigmoid(logits), noise=noise)
            gates = jnp.where(step < FALLS[1] * self.steps, gates, 1.0)
            for norm in vars(mask)["norms"]:
                for variable in (norm.gamma, norm.beta):
                    i = places[id(variable)]
                    t[i] = t[i] * gates
            share = self.cost_share[name_of(mask.mask_scores)]
            penalty += share * ops.sigmoid(logits).sum()
        return self.method.gate_penalty * penalty, t

    @functools.cached_property
    def cost_share(self):
        """What one channel of a group costs, as a share of the network."""
        cost, found = COSTS[self.make.func], {}
        for group in self.groups:
            fewer = list(self.full)
            fewer[PLACES[group]] -= 1
            found[group] = 1 - cost(fewer) / cost(self.full)
        return found

    def _calibrated(self, t, n, x):
        """Returns the statistics of batch normalization of a batch."""
        _, new = self.model.stateless_call(t, n, x, training=True)
        momentum = 0.9
        return [
            (b - momentum * a) / (1 - momentum)
            for a, b in zip(n, new, strict=True)
        ]

    def _recalibrate(self, t, n, x):
        """Does what `recalibrate_batch_normalization` does, compiled once."""
        batches = [
            self.calibrated(t, n, part) for part in np.split(x, len(x) // 500)
        ]
        found = []
        for variable, *seen in zip(
            self.model.non_trainable_variables, *batches, strict=True
        ):
            seen = np.stack(seen)
            average = seen.mean(0)
            if variable.path.endswith("moving_mean"):
                means = seen
            elif variable.path.endswith("moving_variance"):
                average = average + means.var(0)
            found.append(jnp.array(average))
        return found

    def first_weights(self, seed, dense):
        """Returns the weights that training starts from, by their paths."""
        keras.utils.set_random_seed(seed)
        found = {v.path: np.array(v.value) for v in self.make().weights}
        return {**found, **(dense or {})}

    def train(self, seed, rate, finals=(), dense=None, steps=None):
        """Trains for a seed, and keeps what it returns for `percent`.

        Args:
            seed: Integer.
            rate: Number.
            finals: Densities that the schedules end at.
            dense: Dictionary of weights to start from, or `None`.
            steps: Integer, to stop early, or `None`.
        """
        first = self.first_weights(seed, dense)
        t, n = (
            [
                jnp.array(first[v.path])
                if v.path in first
                else jnp.ones(v.shape, v.dtype)
                for v in variables
            ]
            for variables in (
                self.model.trainable_variables,
                self.model.non_trainable_variables,
            )
        )
        o = [jnp.array(v) for v in self.first]
        for i, final in zip(self.limits_at, finals, strict=True):
            o[i] = jnp.float32(final)
        generator = np.random.default_rng(seed)
        x, y = self.data["train"]
        count = -(-self.steps * BATCH // len(x))
        order = [generator.permutation(len(x)) for _ in range(count)]
        order = np.concatenate(order)[: self.steps * BATCH]
        state = t, n, o
        for step, rows in enumerate(order.reshape(self.steps, BATCH)[:steps]):
            number = np.float32(step)
            state = self.step(state, number, x[rows], y[rows], rate)
        self.timed = state
        if steps is not None:
            return
        t, n, o = state
        self.state = t, self._recalibrate(t, n, x[:4000]), o

    def percent(self, part):
        t, n, _ = self.state
        x, y = self.data[part]
        parts = np.split(x, range(1000, len(x), 1000))
        found = [np.argmax(self.outputs(t, n, p), -1) for p in parts]
        return 100 * float(np.mean(np.concatenate(found) == y))

    def widths(self):
        """Returns how many channels are kept, in the order of the network."""
        ids = [id(v) for v in self.model.trainable_variables]
        found = {}
        for group, score in zip(self.groups, self.scores, strict=True):
            value = self.state[0][ids.index(id(score))]
            found[PLACES[group]] = round(float(value.sum()))
        return [found.get(i, w) for i, w in enumerate(self.full)]

    def finals(self, budget, widths):
        """Returns what the schedules end at.

        Args:
            budget: Number, the share of the multiply-adds.
            widths: Widths to end at, if there is a budget for each group.
        """
        if self.method.widths == "joint":
            return [budget][: len(self.limits)]
        # Half a channel more, since they are rounded down.
        places = [PLACES[group] for group in self.groups]
        return [min(1.0, (widths[i] + 0.5) / self.full[i]) for i in places]

    def shrunk(self, net, finals):
        """Returns the multiply-adds of the report, and of the shrunk model.

        Goes the way of a user, on a model of its own.
        """
        other = Trainer(net, self.name, self.data, self.steps)
        model, optimizer = other.model, other.optimizer
        t, n, o = self.state
        for variables, values in (
            (model.trainable_variables, t),
            (model.non_trainable_variables, n),
            (optimizer.variables, o),
        ):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(np.array(value))
        model.compile(optimizer, LOSS)
        x = self.data["test"][0][:500]
        before = model.predict(x, verbose=0)
        report = kg.sparsity_report(model)
        used = report.budget_used * optimizer.final_budget()
        model = kg.shrink(kg.strip(kg.harden(model)))
        after = model.predict(x, verbose=0)
        if not np.allclose(before, after, atol=1e-4):
            raise RuntimeError(
                f"predictions differ: {abs(before - after).max()}"
            )
        return used, multiply_adds(model)


def masks_of(model):
    return [
        mask
        for layer in model._flatten_layers()
        for mask in vars(layer).get("weight_masks", ())
    ]


def images(path):
    """Reads 10,000 images for training, 5,000 for validation, and a test."""
    with np.load(path) as arrays:
        x, y = arrays["x_train"], arrays["y_train"]
        test = arrays["x_test"], arrays["y_test"]
    order = np.random.default_rng(0).permutation(len(x))
    parts = {"train": order[:10000], "validation": order[10000:15000]}
    found = {name: (x[rows], y[rows]) for name, rows in parts.items()}
    return {
        name: (
            (x / np.float32(255))
            .reshape(-1, 14, 2, 14, 2)
            .mean((2, 4))[..., None],
            y.astype("int32"),
        )
        for name, (x, y) in {**found, "test": test}.items()
    }


class Runs:
    """Trains the cells of a net, each method compiled once.

    Args:
        net: String.
        data: Dictionary of pairs of arrays.
        options: The options of the command line.
        rows: List of the records that there are.
    """

    def __init__(self, net, data, options, rows):
        self.net, self.data, self.options, self.rows = net, data, options, rows
        self.make, self.full, self.pretrained = NETS[net]
        self.cost = COSTS[self.make]
        self.trainers = {}

    def trainer(self, method, widths=None):
        key = method, widths
        if key not in self.trainers:
            self.trainers[key] = Trainer(
                self.net, method, self.data, self.options.steps, widths
            )
        return self.trainers[key]

    @functools.cached_property
    def dense(self):
        """The weights of a dense network for each seed, if pretrained."""
        if not self.pretrained:
            return {}
        trainer, found = self.trainer("small network", self.full), {}
        for seed in self.options.seeds:
            trainer.train(seed, RATES[1])
            variables = (
                trainer.model.trainable_variables,
                trainer.model.non_trainable_variables,
            )
            found[seed] = {
                v.path: np.array(value)
                for own, values in zip(variables, trainer.state, strict=False)
                for v, value in zip(own, values, strict=True)
            }
            print("dense", seed, trainer.percent("test"), flush=True)
        return found

    def found(self, method, budget):
        """Returns the record of a cell, if there is one."""
        for row in reversed(self.rows):
            if (row["net"], row["method"], row["budget"]) == (
                self.net,
                method,
                budget,
            ):
                return row
        return None

    def train(self, method, budget, seed, rate):
        """Returns the trainer, after a run."""
        kind, finals = METHODS[method], ()
        if kind.mask is None:
            trainer = self.trainer(method, uniform_widths(self.net, budget))
        else:
            trainer = self.trainer(method)
            widths = uniform_widths(self.net, budget)
            if kind.widths == "found":
                ours = self.found("ours", budget)
                widths = ours["widths"][ours["seeds"].index(seed)]
            finals = trainer.finals(budget, widths)
        trainer.train(seed, rate, finals, self.dense.get(seed))
        return trainer

    def tuned(self, method):
        """Returns the accuracies of learning rates on validation data."""
        for budget in BUDGETS:
            row = self.found(method, budget)
            if row is not None:
                return row["validation"]
        found = {}
        for rate in RATES[1:3]:
            found[rate] = self._validation(method, rate)
        while True:
            best = max(found, key=found.get)
            beside = [r for r in (best / 2, best * 2) if r not in found]
            if not beside:
                return {str(r): found[r] for r in sorted(found)}
            for rate in beside:
                found[rate] = self._validation(method, rate)

    def _validation(self, method, rate):
        seeds = self.options.seeds[: self.options.tuning]
        runs = [
            self.train(method, TUNED_AT, seed, rate).percent("validation")
            for seed in seeds
        ]
        return round(float(np.mean(runs)), 3)

    def measure(self, method, budget):
        """Returns the record of a cell, or `None` if all is known."""
        known = self.found(method, budget) or {"seeds": []}
        missing = [s for s in self.options.seeds if s not in known["seeds"]]
        if not missing:
            return None
        validation = self.tuned(method)
        rate = float(max(validation, key=validation.get))
        test, widths = known.get("test", [])[:], known.get("widths", [])[:]
        checked = known.get("shrunk")
        for seed in missing:
            trainer = self.train(method, budget, seed, rate)
            test.append(round(trainer.percent("test"), 3))
            kept = uniform_widths(self.net, budget)
            if METHODS[method].mask is not None:
                kept = trainer.widths()
            widths.append(list(kept))
        if self.options.check and METHODS[method].mask is not None:
            reported, checked = trainer.shrunk(self.net, ())
            if METHODS[method].widths == "joint" and reported != checked:
                raise RuntimeError(f"{reported} reported, {checked} left")
            if checked != self.cost(widths[-1]):
                raise RuntimeError(f"{checked} left of {widths[-1]}")
        return {
            "net": self.net,
            "method": method,
            "budget": budget,
            "rate": rate,
            "validation": validation,
            "seeds": [*known["seeds"], *missing],
            "test": test,
            "multiply_adds": [self.cost(w) for w in widths],
            "share": [
                round(self.cost(w) / self.cost(self.full), 4) for w in widths
            ],
            "widths": widths,
            "shrunk": checked,
        }


def print_results(rows):
    """Prints a table for each network and budget."""
    for net, budget in itertools.product(NETS, BUDGETS):
        own = [r for r in rows if (r["net"], r["budget"]) == (net, budget)]
        if not own:
            continue
        found = {r["method"]: r for r in own}
        ours = found.get("ours")
        cells = []
        for method in METHODS:
            if method not in found:
                continue
            row, less = found[method], ""
            if ours and method != "ours":
                mine, other = (
                    dict(zip(r["seeds"], r["test"], strict=True))
                    for r in (ours, row)
                )
                both = [seed for seed in mine if seed in other]
                less = [mine[seed] - other[seed] for seed in both]
                less = mean_and_error(less, "+")
            cells.append(
                [
                    method,
                    mean_and_error(row["test"]),
                    less,
                    f"{100 * np.mean(row['share']):.1f}",
                    f"{row['rate']:g}",
                    " ".join(map(str, row["widths"][0])),
                ]
            )
        full = " ".join(map(str, NETS[net][1]))
        print_table(
            f"{net} ({full}), {budget:.0%} of the multiply-adds, test "
            "accuracy in %:",
            ["method", "accuracy", "ours less", "% left", "rate", "widths"],
            cells,
        )


TIMED = 20


def print_times(data, options):
    """Prints what a step costs with masks, against one without."""
    rows = []
    for net in options.nets or ("plain uneven", "residual uneven"):
        contenders = {}
        x, y = (part[:BATCH] for part in data["train"])
        # A small network as wide as the dense one.
        for method in ("small network", "global, group L2", "ours"):
            trainer = Trainer(net, method, data, options.steps)
            trainer.train(0, 0.1, trainer.finals(0.25, trainer.full), steps=2)
            contenders[method] = functools.partial(time_steps, trainer, x, y)
        ratios, seconds = median_ratios(contenders, options.rounds)
        _, magnitude, ours = ratios.values()
        rows.append(
            [
                net,
                f"{1e3 * seconds / TIMED:.1f}",
                f"{magnitude:.2f}",
                f"{ours:.2f}",
                f"{ours / magnitude:.2f}",
            ]
        )
    print_table(
        "Training steps:",
        ["network", "dense, ms", "L2 / dense", "ours / dense", "ours / L2"],
        rows,
    )


def time_steps(trainer, x, y):
    state = trainer.timed
    for step in range(TIMED):
        number = np.float32(100 + step)
        state = trainer.step(state, number, x, y, 0.1)
    trainer.timed = jax.block_until_ready(state)


def read(path):
    return [json.loads(line) for line in path.open()] if path.exists() else []


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--nets", nargs="+", choices=NETS)
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    parser.add_argument("--budgets", nargs="+", type=float)
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--tuning", type=int, default=1)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--record", type=pathlib.Path)
    parser.add_argument("--show", nargs="+", type=pathlib.Path)
    options = parser.parse_args()
    if options.show:
        for path in options.show:
            print(f"\n## {path.stem}")
            print_results(read(path))
        return
    options.seeds = options.seeds or list(range(2 if options.quick else 5))
    if options.quick:
        options.steps = 60
    data = images(options.data)
    about = {
        "date": datetime.date.today().isoformat(),
        "versions": versions("jax"),
    }
    print(about["versions"])
    if options.time:
        print_times(data, options)
        return
    path = options.record
    if path is None and not options.quick:
        path = RECORDS / f"channels-{options.data.stem}.jsonl"
    rows = read(path) if path else []
    for net in options.nets or NETS:
        runs = Runs(net, data, options, rows)
        for budget, method in itertools.product(
            options.budgets or BUDGETS, options.methods or METHODS
        ):
            row = runs.measure(method, budget)
            if row is None:
                continue
            row = {**row, **about}
            rows.append(row)
            print(json.dumps(row), flush=True)
            if path:
                with path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    print_results(rows)


if __name__ == "__main__":
    main()
