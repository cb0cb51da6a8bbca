"""Times projections onto the budget.

    KERAS_BACKEND=jax python benchmarks/projection.py

prints CPU time as a multiple of one clip of the same scores, in place, for
points after a step of training and for a cold start: of ours, of 30 halvings,
of a guarded Newton method, of sorting and of jaxopt's `projection_box_section`
if it is installed. On JAX and TensorFlow all are compiled by XLA, on torch
they are eager. Ours returns new tensors; "ours, in place" writes over the
scores, as an optimizer does.

A table of the passes that ours is made of says what it cannot go below, and
one of consecutive steps how many of them a step of training takes. The last
one is the cost of `ProjectedOptimizer(Adam)` over Adam. `--huge` adds a
projection of 1e8 scores and its error, `--plot FILE` draws the first table.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import importlib.util
import math

import keras
import numpy as np
from keras import ops
from timing import accelerator
from timing import median_ratios
from timing import print_table
from timing import versions

import keras_gumbel as kg
from keras_gumbel.ops import _capped_box
from keras_gumbel.ops import _sums
from keras_gumbel.ops._projection import project_again

BACKEND = keras.config.backend()
DENSITY = 0.1


def after_a_step(shape, generator):
    kept = generator.random(shape) < DENSITY
    return (kept + 0.01 * generator.normal(size=shape)).astype("float32")


def cold(shape, generator):
    return generator.random(shape).astype("float32")


def ours(z, budget):
    return kg.ops.project_capped_box(z, budget, differentiable=False)


def bisection(z, budget):
    """30 halvings of the interval from 0 to the largest score."""

    def halve(step, low, high):
        middle = 0.5 * (low + high)
        above = sum(ops.sum(ops.clip(x - middle, 0.0, 1.0)) for x in z) > budget
        low, high = (
            ops.where(above, middle, low),
            ops.where(above, high, middle),
        )
        return step + 1, low, high

    high = ops.amax(ops.stack([ops.amax(x) for x in z]))
    state = (0, ops.zeros_like(high), high)
    if BACKEND == "torch":
        for _ in range(30):
            state = halve(*state)
    else:
        state = ops.while_loop(lambda step, *_: step < 30, halve, state)
    return [ops.clip(x - state[2], 0.0, 1.0) for x in z]


def newton(z, budget):
    """Newton's method for 10 steps, inside the bracket found so far."""

    def step(i, shift, low, high):
        shifted = [x - shift for x in z]
        clipped = [ops.clip(x, 0.0, 1.0) for x in shifted]
        excess = sum(map(ops.sum, clipped)) - budget
        inside = sum(
            ops.sum(ops.cast((x > 0) & (x < 1), "float32")) for x in shifted
        )
        low = ops.where(excess > 0, shift, low)
        high = ops.where(excess > 0, high, shift)
        following = shift + excess / ops.maximum(inside, 1.0)
        safe = ops.logical_and(following > low, following < high)
        return (
            i + 1,
            ops.where(safe, following, 0.5 * (low + high)),
            low,
            high,
        )

    high = ops.amax(ops.stack([ops.amax(x) for x in z]))
    zero = ops.zeros_like(high)
    state = (0, zero, zero - 1e-6, high)
    if BACKEND == "torch":
        for _ in range(10):
            state = step(*state)
    else:
        state = ops.while_loop(lambda i, *_: i < 10, step, state)
    return [ops.clip(x - state[3], 0.0, 1.0) for x in z]


def sorting(z, budget):
    """The exact solution, from the sorted corners of the sum (one tensor)."""
    (x,) = z
    corners = ops.flip(ops.sort(ops.concatenate([x - 1.0, x])))
    falls = ops.flip(ops.sort(x))
    above = ops.cumsum(falls)
    size = x.shape[0]
    entered = ops.searchsorted(-falls, -corners, side="left")
    full = ops.searchsorted(-(falls - 1.0), -corners, side="left")
    padded = ops.concatenate([ops.zeros((1,)), above])
    entered, full = (ops.minimum(i, size) for i in (entered, full))
    sums = ops.take(padded, entered) - ops.take(padded, full)
    count = ops.cast(entered - full, "float32")
    sums = sums - count * corners + ops.cast(full, "float32")
    last = ops.sum(ops.cast(sums <= budget, "int32")) - 1
    rest = budget - ops.take(sums, last)
    slope = ops.maximum(ops.take(count, last), 1.0)
    return [ops.clip(x - (ops.take(corners, last) - rest / slope), 0.0, 1.0)]


def jaxopt_section(z, budget):
    import jax.numpy as jnp
    from jaxopt.projection import projection_box_section

    (x,) = z
    weights = jnp.ones_like(x)
    return [projection_box_section(x, (0 * x, weights, weights, budget))]


def contenders(shapes, case):
    """Returns functions without arguments, the clip first."""
    generator = np.random.default_rng(0)
    z = [case(shape, generator) for shape in shapes]
    budget = DENSITY * sum(x.size for x in z)
    functions = {"ours": ours, "30 halvings": bisection, "Newton": newton}
    size = sum(x.size for x in z)
    if len(z) == 1 and size <= 1_000_000:
        if BACKEND != "tensorflow":  # XLA's `cumsum` wants terabytes there
            functions["sorting"] = sorting
        if BACKEND == "jax" and importlib.util.find_spec("jaxopt"):
            functions["jaxopt"] = jaxopt_section
    runs = {"clip in place": clip_in_place(z)}
    if BACKEND != "torch":
        runs["ours, in place"] = ours_in_place(z, budget)
    for name, function in functions.items():
        runs[name] = runner(function, z, budget)
    return runs


def passes(z):
    """Returns what a projection has to do, each once."""

    def one_sum(z, shift):
        total = 0.0
        for x in z:
            corner = x[(0,) * len(x.shape)]
            zero = ops.where(corner == corner, 0.0, corner)
            clipped = ops.minimum(
                ops.maximum(x - (shift + zero), zero), zero + 1.0
            )
            whole, rest = _sums.add_exactly(_sums.row_sums(clipped, True))
            total = total + ops.cast(whole, "float32") + rest
        return total

    def one_sum_in_pieces(z, shift):
        pieces = [p for x in z for p in _sums.chunks(x)]
        return sum(float(ops.sum((p - 0.01).clip(0.0, 1.0))) for p in pieces)

    add_up = one_sum_in_pieces if BACKEND == "torch" else one_sum
    shifted = [*z, np.full(1, 0.01, "float32")]  # an argument, not a constant
    return {
        "clip in place": clip_in_place(z),
        "clip and sum": runner(
            lambda z, _: add_up(z[:-1], z[-1][0]), shifted, 0
        ),
        "clip to a new tensor": runner(
            lambda z, _: [ops.clip(x - z[-1][0], 0.0, 1.0) for x in z[:-1]],
            shifted,
            0,
        ),
    }


def count_sums(z, budget):
    """Returns how many sums over all scores the search takes."""
    tensors = [ops.convert_to_tensor(x) for x in z]
    return counting_sums(lambda: ours(tensors, budget))[0]


def counting_sums(function):
    """Returns how many sums a search takes, and what it returns."""
    counted = []
    original = _capped_box._Eager.sum_less

    def sum_less(*args):
        counted.append(original(*args))
        return counted[-1]

    _capped_box._Eager.sum_less = sum_less
    result = function()
    _capped_box._Eager.sum_less = original
    return len(counted), result


def measure_consecutive(steps=200, size=200_000):
    """Prints the sums of steps whose scores follow on each other.

    Each score drifts with momentum and noise, under a budget that falls. A
    step knows nothing of the last one, or where its projection ended.
    """
    rows = []
    for name, knows in {"alone": False, "after the last": True}.items():
        generator = np.random.default_rng(0)
        drift = generator.normal(size=size)
        s, velocity = np.full(size, 0.5), np.zeros(size)
        last, counts = ops.zeros(2), []
        for step in range(steps):
            velocity *= 0.8
            velocity += drift + 3 * generator.normal(size=size)
            z = ops.convert_to_tensor((s + 4e-4 * velocity).astype("float32"))
            budget = size * (0.05 + 0.35 * (1 - step / steps) ** 3)

            def project(z=z, budget=budget, last=last):
                return project_again([z], budget, None, last)

            count, ((s,), following) = counting_sums(project)
            s = ops.convert_to_numpy(s)
            if knows:
                last = following
            counts.append(count)
        shares = [f"{counts[1:].count(n) / (steps - 1):.0%}" for n in range(7)]
        rows.append([name, f"{np.mean(counts[1:]):.2f}", *shares])
    print_table(
        "Sums of the search in consecutive steps",
        ["a step", "mean", *map(str, range(7))],
        rows,
    )


def clip_in_place(z):
    if BACKEND == "jax":
        import jax

        run = jax.jit(
            lambda z: [ops.clip(x, 0.0, 1.0) for x in z], donate_argnums=0
        )
        state = [[jax.numpy.array(x) for x in z]]

        def clip():
            state[0] = run(state[0])
            jax.block_until_ready(state[0])

    elif BACKEND == "tensorflow":
        import tensorflow as tf

        variables = [tf.Variable(x) for x in z]

        @tf.function(jit_compile=True)
        def clip():
            for v in variables:
                v.assign(tf.clip_by_value(v, 0.0, 1.0))

    else:
        tensors = list(map(copied, z))

        def clip():
            for x in tensors:
                x.clamp_(0.0, 1.0)

    return clip


def ours_in_place(z, budget):
    """Returns what lays out the scores, and what projects them there."""
    if BACKEND == "jax":
        import jax

        source = [jax.numpy.array(x) for x in z]
        run = jax.jit(lambda z: ours(z, budget), donate_argnums=0)
        state = []

        def prepare():
            state[:] = [
                jax.block_until_ready(list(map(jax.numpy.array, source)))
            ]

        def project():
            state[:] = [jax.block_until_ready(run(state[0]))]

        return prepare, project
    import tensorflow as tf

    source = [tf.constant(x) for x in z]
    variables = [tf.Variable(x) for x in source]

    def prepare():
        for v, x in zip(variables, source, strict=True):
            v.assign(x)

    @tf.function(jit_compile=True)
    def project():
        projected = ours([tf.convert_to_tensor(v) for v in variables], budget)
        for v, s in zip(variables, projected, strict=True):
            v.assign(s)

    return prepare, project


def runner(function, z, budget):
    """Compiles a projection of these scores, which stay as they are."""
    z = list(map(copied, z))
    if BACKEND == "jax":
        import jax

        run = jax.jit(lambda z: function(z, budget))
        return lambda: jax.block_until_ready(run(z))
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda: function(z, budget), jit_compile=True)
    return lambda: function(z, budget)


def copied(x):
    """Returns a tensor on Keras's device that shares no memory with x."""
    return ops.copy(ops.convert_to_tensor(x))


SIZES = {
    "10,000": [(10_000,)],
    "1e5": [(100_000,)],
    "1e6": [(1_000_000,)],
    "1e7": [(10_000_000,)],
    "20 x (512, 1024)": [(512, 1024)] * 20,
}
if accelerator():  # on which 1e7 take no longer than the call
    SIZES["1e8"] = [(100_000_000,)]


def measure_sizes(rounds):
    """Prints tables, and returns the milliseconds of the first, by column."""
    milliseconds = []
    for title, case in (
        ("After a step of training", after_a_step),
        ("Cold start, uniform scores", cold),
    ):
        columns = []
        for shapes in SIZES.values():
            ratios, unit = median_ratios(contenders(shapes, case), rounds)
            column = {name: f"{ratio:.1f}" for name, ratio in ratios.items()}
            column["clip in place"] = f"{1e3 * unit:.3f} ms"
            columns.append(column)
            milliseconds.append({n: 1e3 * unit * r for n, r in ratios.items()})
        names = columns[0]  # one with all contenders
        rows = [[name, *(c.get(name, "-") for c in columns)] for name in names]
        print_table(title, ["multiples of a clip", *SIZES], rows)
    return milliseconds[: len(SIZES)]


def measure_passes(rounds):
    """Prints what the passes cost that a projection is made of."""
    names, columns = [], []
    for shapes in SIZES.values():
        generator = np.random.default_rng(0)
        z = [after_a_step(shape, generator) for shape in shapes]
        sums = count_sums(z, DENSITY * sum(x.size for x in z))
        ratios, _ = median_ratios(passes(z), rounds)
        add_up, clip = list(ratios.values())[1:]
        column = {
            "clip and sum": f"{add_up:.2f}",
            "clip to a new tensor": f"{clip:.2f}",
            "sums of the search": str(sums),
            "all passes": f"{sums * add_up + clip:.1f}",
            "all passes, in place": f"{sums * add_up + 1:.1f}",
        }
        names = list(column)
        columns.append(column)
    rows = [[name, *(c[name] for c in columns)] for name in names]
    print_table(
        "What ours is made of, after a step of training",
        ["multiples of a clip", *SIZES],
        rows,
    )


# Okabe and Ito's colours, told apart by all eyes, and shapes beside them.
LINES = {
    "clip in place": ("#000000", "."),
    "ours": ("#0072B2", "o"),
    "ours, in place": ("#56B4E9", "D"),
    "30 halvings": ("#D55E00", "s"),
    "Newton": ("#009E73", "^"),
    "sorting": ("#CC79A7", "v"),
    "jaxopt": ("#E69F00", "P"),
}


def plot(path, columns):
    """Draws milliseconds against the number of scores."""
    import matplotlib.pyplot as plt

    sizes = [shapes[0][0] for shapes in SIZES.values() if len(shapes) == 1]
    figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
    ends = []
    for name, (color, marker) in LINES.items():
        points = [
            (n, c[name])
            for n, c in zip(sizes, columns, strict=False)
            if name in c
        ]
        if points:
            ax.loglog(*zip(*points, strict=True), color=color, marker=marker)
            ends.append((*points[-1], name, color))
    above = -math.inf
    for n, cost, name, color in sorted(ends, key=lambda end: end[1]):
        if n == sizes[-1]:
            above = height = max(cost, above * 1.45 if above > 0 else cost)
        else:
            height = cost
        ax.annotate(
            name,
            (n, cost),
            (n * 1.25, height),
            color=color,
            va="center",
            annotation_clip=False,
        )
    ax.set_xlim(right=sizes[-1] * 8)
    ax.set_xlabel("scores")
    ax.set_ylabel("CPU time in ms")
    ax.set_title(f"Projection after a step of training, {BACKEND}", loc="left")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
    figure.savefig(path, dpi=150)


def measure_optimizer(rounds):
    """Prints the cost of a step with and without the projection."""
    generator = np.random.default_rng(0)
    start = generator.random((2500, 4000)).astype("float32")
    gradient = ops.convert_to_tensor(
        1e-3 * generator.normal(size=start.shape).astype("float32")
    )

    def stepper(projected):
        optimizer = keras.optimizers.Adam(1e-3)
        variable = keras.Variable(start, autocast=False)
        if projected:
            kg.mark_scores(variable)
            optimizer = kg.optimizers.ProjectedOptimizer(
                optimizer, DENSITY, score_optimizer=None
            )
        optimizer.build([variable])
        return optimizer_step(optimizer, variable, gradient)

    ratios, unit = median_ratios(
        {"Adam": stepper(False), "ProjectedOptimizer(Adam)": stepper(True)},
        rounds,
    )
    print_table(
        "One optimizer step, 1e7 scores",
        ["optimizer", "multiples of Adam"],
        [
            ["Adam", f"{1e3 * unit:.1f} ms"],
            [
                "ProjectedOptimizer(Adam)",
                f"{ratios['ProjectedOptimizer(Adam)']:.2f}",
            ],
        ],
    )


def optimizer_step(optimizer, variable, gradient):
    if BACKEND == "jax":
        import jax

        run = jax.jit(
            lambda own, values, g: optimizer.stateless_apply(own, [g], values),
            donate_argnums=(0, 1),
        )
        state = [
            [jax.numpy.array(v.value) for v in optimizer.variables],
            [jax.numpy.array(variable.value)],
        ]

        def step():
            values, own = run(*state, gradient)
            state[:] = [own, values]
            jax.block_until_ready(state)

        return step
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(
            lambda: optimizer.apply([gradient], [variable]), jit_compile=True
        )
    return lambda: optimizer.apply([gradient], [variable])


def measure_huge():
    """Prints the error of one projection of 1e8 scores."""
    rows = []
    for name, z in {
        "all 0.7": np.full(10**8, 0.7, "float32"),
        "after a step": after_a_step((10**8,), np.random.default_rng(0)),
    }.items():
        budget = DENSITY * z.size
        (s,) = runner(ours, [z], budget)()
        total = math.fsum(
            np.asarray(part, "float64").sum()
            for part in np.array_split(ops.convert_to_numpy(s), 100)
        )
        rows.append([name, f"{(total - budget) / budget:+.1e}"])
    print_table("1e8 scores", ["case", "(sum - K) / K"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--huge", action="store_true")
    parser.add_argument("--plot", metavar="FILE")
    options = parser.parse_args()
    if BACKEND == "torch":
        import torch

        torch.set_num_threads(1)
    print(versions(BACKEND))
    milliseconds = measure_sizes(options.rounds)
    if options.plot:
        plot(options.plot, milliseconds)
    measure_passes(options.rounds)
    measure_consecutive()
    measure_optimizer(options.rounds)
    if options.huge:
        measure_huge()


if __name__ == "__main__":
    main()
