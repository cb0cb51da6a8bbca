"""Interleaved timing of contenders, in CPU time of this process.

On a busy machine wall-clock times and separate runs mean little. Here every
round times every contender once, right after each other, and what is reported
is the median over the rounds of the ratio to the first contender, the unit.

On a GPU, which works while the process waits, it is wall-clock time, from a
GPU that has nothing left to do to the next time that it has nothing left.
"""

import functools
import importlib.metadata
import math
import platform
import statistics
import time

import keras
import numpy as np


def median_ratios(contenders, rounds):
    """Times functions against the first of them.

    Args:
        contenders: Dictionary of name to function without arguments, that
            returns when its work is done; or to a pair of such functions, of
            which the first is not timed.
        rounds: Integer, how often each is timed.

    Returns:
        A dictionary of name to median ratio, and the median seconds of the
        unit.
    """
    ratios = {name: [] for name in contenders}
    units = []
    pairs = {
        name: run if isinstance(run, tuple) else (lambda: None, run)
        for name, run in contenders.items()
    }
    for prepare, run in pairs.values():
        for _ in range(2):  # compiles, and fills the caches
            prepare()
            run()
    for _ in range(rounds):
        seconds = {}
        for name, (prepare, run) in pairs.items():
            prepare()
            start = now()
            run()
            seconds[name] = now() - start
        unit = next(iter(seconds.values()))
        units.append(unit)
        for name in contenders:
            ratios[name].append(seconds[name] / unit)
    medians = {name: statistics.median(r) for name, r in ratios.items()}
    return medians, statistics.median(units)


def now():
    """Returns seconds, once nothing is left to do for a GPU."""
    if not accelerator():
        return time.process_time()
    if keras.config.backend() == "torch":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter()


@functools.cache
def accelerator():
    """Returns the name of the GPU that Keras computes on, or `None`."""
    backend = keras.config.backend()
    if backend == "torch":
        import torch

        return (
            torch.cuda.get_device_name() if torch.cuda.is_available() else None
        )
    if backend == "tensorflow":
        import tensorflow as tf

        for gpu in tf.config.list_physical_devices("GPU"):
            return tf.config.experimental.get_device_details(gpu)["device_name"]
        return None
    import jax

    (device, *_) = jax.devices()
    return None if device.platform == "cpu" else device.device_kind


def versions(*packages):
    """Returns one line that says what ran."""
    listed = " ".join(
        f"{name} {importlib.metadata.version(name)}" for name in packages
    )
    return (
        f"backend {keras.config.backend()}, keras {keras.__version__}, "
        f"{listed}, "
        f"Python {platform.python_version()}, "
        + (accelerator() or f"{platform.machine()} CPU")
    )


def mean_and_error(values, sign="", digits=2):
    """Writes a mean and its standard error."""
    values = np.asarray(values)
    error = values.std(ddof=1) / math.sqrt(len(values))
    return f"{values.mean():{sign}.{digits}f} ± {error:.{digits}f}"


def print_table(title, columns, rows):
    """Prints rows of strings as a table in Markdown."""
    by_column = zip(columns, *rows, strict=True)
    widths = [max(map(len, cells)) for cells in by_column]
    print(f"\n{title}\n")
    for row in [columns, ["-" * width for width in widths], *rows]:
        cells = map(str.ljust, row, widths)
        print("| " + " | ".join(cells) + " |")
