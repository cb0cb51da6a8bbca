"""What `import keras_gumbel` adds to `import keras`.

    python benchmarks/import_time.py

prints the median of several processes for every backend that is installed.
It fails where that is more than 0.15 s.
"""

import importlib.util
import os
import statistics
import subprocess
import sys

BACKENDS = ("jax", "tensorflow", "torch")
LIMIT = 0.15
PROCESSES = 7

PROBE = """
import time
start = time.perf_counter()
import keras
middle = time.perf_counter()
import keras_gumbel
print(middle - start, time.perf_counter() - middle)
"""


def seconds(backend):
    """Imports both in a new process and returns the seconds of each."""
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    # An installed package is compiled: the first process does it here.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    run = subprocess.run(
        [sys.executable, "-c", PROBE],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return [float(number) for number in run.stdout.split()[-2:]]


def main():
    slow = []
    for backend in BACKENDS:
        if importlib.util.find_spec(backend) is None:
            continue
        seconds(backend)  # fills the caches
        runs = [seconds(backend) for _ in range(PROCESSES)]
        keras, own = map(statistics.median, zip(*runs, strict=True))
        print(f"{backend:10}  keras {keras:.2f} s, keras_gumbel +{own:.3f} s")
        if own > LIMIT:
            slow.append(backend)
    if slow:
        sys.exit(f"more than {LIMIT} s on {' and '.join(slow)}")


if __name__ == "__main__":
    main()
