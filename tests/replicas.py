"""Trains one model alone or spread out, and prints what came of it as JSON.

python -m tests.replicas {alone,data,model}        on JAX, 4 devices
python -m tests.replicas {alone,mirrored}          on TensorFlow, 2 devices
python -m tests.replicas ddp RANK WORLD FILE       on torch, WORLD processes
"""

import contextlib
import json
import os
import re
import sys

# JAX reads it when it starts.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import keras
import numpy as np

import keras_gumbel as kg

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 8)).astype("float32")
Y = RNG.normal(size=(32, 4)).astype("float32")
DENSITY = 0.3


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


def fit(model):
    options = {"batch_size": 16, "epochs": 3, "shuffle": False, "verbose": 0}
    return model.fit(X, Y, **options).history["loss"]


def score_variables(model):
    return [v for v in model.trainable_variables if "mask_scores" in v.path]


def as_lists(arrays):
    return [np.asarray(a, "float64").ravel().tolist() for a in arrays]


def on_jax(kind):
    devices = keras.distribution.list_devices()
    if kind == "data":
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(devices=devices)
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
    loss = fit(model)
    scores = [v.value for v in score_variables(model)]
    return {
        "loss": loss,
        "devices": len(scores[0].sharding.device_set),
        "gathered": gathered_sizes(scores),
        "replicas": [as_lists(scores)],
    }


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
    scope = contextlib.nullcontext()
    if kind == "mirrored":
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        scope = strategy.scope()
    with scope:
        model = compiled_model()
    loss = fit(model)
    copies = [
        getattr(v.value, "values", [v.value]) for v in score_variables(model)
    ]
    replicas = [as_lists(r) for r in zip(*copies, strict=True)]
    return {"loss": loss, "replicas": replicas}


if __name__ == "__main__":
    run = {"jax": on_jax, "tensorflow": on_tensorflow}
    print(json.dumps(run[keras.config.backend()](sys.argv[1])))
