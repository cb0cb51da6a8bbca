"""Interleaved timing of contenders, in CPU time of this process.

On a busy machine wall-clock times and separate runs mean little. Here every
round times every contender once, right after each other, and what is reported
is the median over the rounds of the ratio to the first contender, the unit.
"""

import importlib.metadata
import platform
import statistics
import time

import keras


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
            start = time.process_time()
            run()
            seconds[name] = time.process_time() - start
        unit = next(iter(seconds.values()))
        units.append(unit)
        for name in contenders:
            ratios[name].append(seconds[name] / unit)
    medians = {name: statistics.median(r) for name, r in ratios.items()}
    return medians, statistics.median(units)


def versions(*packages):
    """Returns one line that says what ran."""
    listed = " ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("keras", *packages)
    )
    return (
        f"backend {keras.config.backend()}, {listed}, "
        f"Python {platform.python_version()}, {platform.machine()} CPU"
    )


def print_table(title, columns, rows):
    """Prints rows of strings as a table in Markdown."""
    by_column = zip(columns, *rows, strict=True)
    widths = [max(map(len, cells)) for cells in by_column]
    print(f"\n{title}\n")
    for row in [columns, ["-" * width for width in widths], *rows]:
        cells = map(str.ljust, row, widths)
        print("| " + " | ".join(cells) + " |")
