"""Trains one model alone or spread out, and prints what came of it as JSON.

python -m tests.replicas {alone,data,model}            on JAX, 4 devices
python -m tests.replicas process WORLD RANK ADDRESS    on JAX, WORLD processes
python -m tests.replicas {alone,mirrored}              on TensorFlow, 2 devices
python -m tests.replicas alone                         on torch
python -m tests.replicas ddp WORLD RANK FILE           on torch, WORLD processes

Processes that wait for each other longer than `PATIENCE` seconds print where
they are, and stop.
"""

import datetime
import faulthandler
import json
import os
import pathlib
import re
import sys

# JAX reads them when it starts.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count="
    + ("1" if sys.argv[1:2] == ["process"] else "4")
)
os.environ["JAX_CPU_COLLECTIVES_IMPLEMENTATION"] = "gloo"

import keras
import numpy as np

import keras_gumbel as kg

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 8)).astype("float32")
Y = RNG.normal(size=(32, 4)).astype("float32")
DENSITY = 0.3
BATCH, EPOCHS = 16, 3
PATIENCE = 480


def sparse_model():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(4),
        ]
    )
    return kg.sparsify(model, seed=0)


def compiled_model():
    model = sparse_model()
    model.compile(optimizer(), loss="mse")
    return model


def optimizer():
    return kg.optimizers.ProjectedOptimizer(
        keras.optimizers.Adam(0.05), density=DENSITY
    )


def fit(model, world=1, rank=0):
    x, y = own_part(X, world, rank), own_part(Y, world, rank)
    options = {"epochs": EPOCHS, "shuffle": False, "verbose": 0}
    history = model.fit(x, y, batch_size=BATCH // world, **options)
    return history.history["loss"]


def own_part(array, world, rank):
    """Returns what one of several processes sees of each batch."""
    parts = array.reshape(-1, world, BATCH // world, array.shape[-1])
    return parts[:, rank].reshape(-1, array.shape[-1])


def samplers():
    """Returns a layer that samples for each example, and a mask for all."""
    sampler = kg.layers.GumbelSoftmax(
        kg.schedules.LinearAnnealing(1.0, 0.5, steps=100), seed=5
    )
    gate = kg.layers.ConcreteMask(
        scores_initializer=keras.initializers.Constant(0.5), seed=6
    )
    return sampler, gate


def drawn(sampler, gate):
    """Draws twice for examples that are all the same."""
    x = keras.ops.zeros((4, 8))
    choices = [sampler(x, training=True) for _ in range(2)]
    return keras.ops.concatenate(choices), gate(x + 1.0, training=True)


def fit_sampler(sampler):
    """Trains the layer, and returns how many steps it has counted."""
    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(8), sampler]
    )
    model.compile("sgd", loss="mse")
    model.fit(X, X, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    return int(keras.ops.convert_to_numpy(sampler.step))


def score_variables(model):
    return [v for v in model.trainable_variables if "mask_scores" in v.path]


def as_lists(arrays):
    return [np.asarray(a, "float64").ravel().tolist() for a in arrays]


def on_jax(kind, world=1, rank=0, address=None):
    if kind == "process":
        keras.distribution.initialize(address, world, rank)
    devices = keras.distribution.list_devices()
    if kind in ("data", "process"):
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(
                devices=devices, auto_shard_dataset=False
            )
        )
    elif kind == "model":
        mesh = keras.distribution.DeviceMesh(
            (2, 2), ("batch", "model"), devices
        )
        layout = keras.distribution.LayoutMap(mesh)
        layout[".*(mask_scores|kernel)"] = (None, "model")
        keras.distribution.set_distribution(
            keras.distribution.ModelParallel(
                layout_map=layout, batch_dim_name="batch"
            )
        )
    model = compiled_model()
    loss = fit(model, world, rank)
    scores = [v.value for v in score_variables(model)]
    return {
        "loss": loss,
        "devices": len(scores[0].sharding.device_set),
        "gathered": gathered_sizes(scores),
        "replicas": [as_lists(scores)],
        # The layout is one of kernels.
        **({} if kind == "model" else drawn_on_jax()),
    }


def drawn_on_jax():
    choices, gates = drawn(*samplers())
    return {"drawn": as_lists([choices]), "gates": as_lists([gates])}


def gathered_sizes(scores):
    """Lists how many numbers each all-gather of a projection collects."""
    import jax

    def project(values):
        values = [value + 0.1 for value in values]
        return kg.ops.project_capped_box(values, 9.5, differentiable=False)

    text = jax.jit(project).lower(scores).compile().as_text()
    shapes = re.findall(r"= \w+\[([\d,]*)\]\S* all-gather\(", text)
    return [int(np.prod([int(n) for n in s.split(",") if n])) for s in shapes]


def on_tensorflow(kind):
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    strategy = tf.distribute.get_strategy()
    if kind == "mirrored":
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = compiled_model()
    loss = fit(model)
    copies = [
        getattr(v.value, "values", [v.value]) for v in score_variables(model)
    ]
    replicas = [as_lists(r) for r in zip(*copies, strict=True)]
    with strategy.scope():
        layers = samplers()
        drawn(*layers)  # builds them
        steps = fit_sampler(samplers()[0])
    run = tf.function(lambda: strategy.run(drawn, layers))
    choices, gates = map(strategy.experimental_local_results, run())
    return {
        "loss": loss,
        "replicas": replicas,
        "drawn": as_lists(choices),
        "gates": as_lists(gates),
        "steps": steps,
    }


def on_torch(kind, world=1, rank=0, file=None):
    import torch

    torch.set_num_threads(1)
    model = spread = sparse_model()
    if kind == "ddp":
        torch.distributed.init_process_group(
            "gloo",
            init_method=pathlib.Path(file).as_uri(),
            timeout=datetime.timedelta(seconds=PATIENCE),
            world_size=world,
            rank=rank,
        )
        spread = torch.nn.parallel.DistributedDataParallel(model)
    variables = model.trainable_variables
    projected = optimizer()
    projected.build(variables)
    x, y = own_part(X, world, rank), own_part(Y, world, rank)
    size = BATCH // world
    losses = []
    for _ in range(EPOCHS):
        for i in range(0, len(x), size):
            inputs, targets = map(
                torch.tensor, (x[i : i + size], y[i : i + size])
            )
            spread.zero_grad()
            loss = torch.mean((spread(inputs, training=True) - targets) ** 2)
            loss.backward()
            with torch.no_grad():
                projected.apply([v.value.grad for v in variables], variables)
            losses.append(loss.item())
    choices, gates = drawn(*samplers())
    if kind == "ddp":
        # Before its group: torch joins the group's threads when the last
        # holder goes, and waits for ever where it does so under the GIL.
        del spread
        torch.distributed.destroy_process_group()
    scores = [v.value.detach() for v in score_variables(model)]
    return {
        "loss": losses,
        "replicas": [as_lists(scores)],
        "drawn": as_lists([choices]),
        "gates": as_lists([gates.detach()]),
    }


def main(kind, world="1", rank="0", meeting=None):
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    run = {"jax": on_jax, "tensorflow": on_tensorflow, "torch": on_torch}
    spread = () if meeting is None else (int(world), int(rank), meeting)
    print(json.dumps(run[keras.config.backend()](kind, *spread)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
