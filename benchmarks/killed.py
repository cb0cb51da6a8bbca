"""A training process that is killed again and again, and resumed.

    python benchmarks/killed.py
    python benchmarks/killed.py --callback BackupAndRestore

trains a small model with masks and a sampling layer once undisturbed, and once
killed with SIGKILL at random moments: while it starts, between batches, and
while it saves. It says whether both runs end with the same bits. `SafeBackup`
is read from `docs/export.md`, so what is tried is what the page shows.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import collections
import functools
import multiprocessing
import pathlib
import random
import re
import shutil
import statistics
import tempfile
import time
import warnings

import keras
import numpy as np
from timing import versions

import keras_gumbel as kg

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "export.md"
BATCHES, BATCH = 4, 16
# A killed process gets less far than this, on average.
EPOCHS_PER_KILL = 3

# A process that is forked starts at once. Before that, this one must not even
# ask a backend for its devices.
FORK = multiprocessing.get_context("fork")


def safe_backup():
    """Returns the class that the page on saving shows."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (block,) = (block for block in blocks if "class SafeBackup" in block)
    namespace = {}
    exec(block, namespace)
    return namespace["SafeBackup"]


CALLBACKS = {
    "SafeBackup": safe_backup,
    "BackupAndRestore": lambda: keras.callbacks.BackupAndRestore,
    "double_checkpoint": lambda: functools.partial(
        keras.callbacks.BackupAndRestore, double_checkpoint=True
    ),
}


class Events(keras.callbacks.Callback):
    """Tells the parent process where training is."""

    def __init__(self, pipe, **events):
        super().__init__()
        self.pipe = pipe
        for hook, event in events.items():
            setattr(self, hook, functools.partial(self.tell, event))

    def tell(self, event, *_, **__):
        self.pipe.send((event, time.monotonic()))


def model(epochs):
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((16,)),
            keras.layers.Dense(24),
            kg.layers.GumbelSoftmax(
                kg.schedules.ExponentialAnnealing(
                    1.0, 0.5, steps=epochs * BATCHES
                ),
                seed=1,
            ),
            keras.layers.Dense(8),
        ]
    )
    kg.sparsify(network, mask="concrete", seed=2)
    density = kg.schedules.CubicDensity(0.2, steps=epochs * BATCHES)
    optimizer = kg.optimizers.ProjectedOptimizer("adam", density=density)
    network.compile(optimizer, loss="mse")
    return network


def train(pipe, callback, folder, epochs):
    """Trains, and writes all that has changed to a file."""
    warnings.simplefilter("ignore")
    network = model(epochs)
    rng = np.random.default_rng(0)
    network.fit(
        rng.normal(size=(BATCHES * BATCH, 16)),
        rng.normal(size=(BATCHES * BATCH, 8)),
        batch_size=BATCH,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[
            Events(pipe, on_epoch_end="saves", on_train_begin="restores"),
            CALLBACKS[callback]()(folder / "backup"),
            Events(
                pipe,
                on_epoch_end="trains",
                on_train_begin="trains",
                on_train_batch_end="trains",
            ),
        ],
    )
    variables = [*network.variables, *network.optimizer.variables]
    np.savez(folder / "end", *map(keras.ops.convert_to_numpy, variables))


def start(*arguments):
    """Starts a process that trains; returns it and its events."""
    events, pipe = FORK.Pipe(duplex=False)
    process = FORK.Process(target=train, args=(pipe, *arguments))
    process.start()
    pipe.close()
    return process, events


def received(events):
    """Yields events until there are no more."""
    try:
        while True:
            yield events.recv()
    except EOFError:
        return


def undisturbed(callback, folder, epochs):
    """Returns how long starting, training an epoch and saving take."""
    began = time.monotonic()
    process, events = start(callback, folder, epochs)
    times = collections.defaultdict(list)
    last, since = "starts", began
    for event, now in received(events):
        times[last].append(now - since)
        last, since = event, now
    process.join()
    if process.exitcode:
        raise SystemExit("The undisturbed run failed.")
    return {name: statistics.median(all_) for name, all_ in times.items()}


def kill_one(callback, folder, epochs, seconds, rng):
    """Starts a process and kills it at a random moment.

    Returns:
        What it was doing, or `None` if it came to an end before, and its
        exit code.
    """
    process, events = start(callback, folder, epochs)
    chosen = rng.choice(["starts", "restores", "trains", "saves", "saves"])
    skipped = rng.randrange(2) if chosen == "saves" else rng.randrange(10)
    doing = "starts"
    arrived = chosen == "starts"
    if not arrived:
        for doing, _ in received(events):
            if doing == chosen:
                skipped -= doing != "restores"
                if doing == "restores" or skipped < 0:
                    arrived = True
                    break
    if arrived:
        time.sleep(rng.uniform(0.0, 1.1 * seconds[chosen]))
    process.kill()
    *_, (doing, _) = [(doing, 0.0), *received(events)]
    process.join()
    return (doing if process.exitcode < 0 else None), process.exitcode


def same(one, other):
    """Whether two files hold the same arrays, to the bit."""
    with np.load(one) as a, np.load(other) as b:
        return sorted(a) == sorted(b) and all(
            a[name].tobytes() == b[name].tobytes() for name in a
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--callback", choices=CALLBACKS, default="SafeBackup")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    epochs = EPOCHS_PER_KILL * options.kills
    root = pathlib.Path(tempfile.mkdtemp())
    calm, killed = root / "calm", root / "killed"
    calm.mkdir()
    killed.mkdir()
    try:
        seconds = undisturbed(options.callback, calm, epochs)
        doing = collections.Counter()
        for _ in range(options.kills):
            arguments = (options.callback, killed, epochs)
            what, code = kill_one(*arguments, seconds, rng)
            if what is None and code:
                raise SystemExit(
                    f"{options.callback} did not resume after kill "
                    f"{doing.total()}. "
                    f"{versions(keras.config.backend())}"
                )
            if what is None:
                break
            doing[what] += 1
        process, events = start(options.callback, killed, epochs)
        resumed = sum(event == "saves" for event, _ in received(events))
        process.join()
        equal = not process.exitcode and same(
            calm / "end.npz", killed / "end.npz"
        )
        listed = ", ".join(f"{n} while it {name}" for name, n in doing.items())
        print(
            f"{options.callback}: {doing.total()} kills ({listed}), then "
            f"{resumed} of {epochs} epochs undisturbed. The same bits as "
            f"without a kill: {'yes' if equal else 'NO'}. "
            f"{versions(keras.config.backend())}"
        )
        if not equal:
            raise SystemExit(1)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
