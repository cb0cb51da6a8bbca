"""What `import keras_gumbel` adds to `import keras`.

    python benchmarks/import_time.py

prints medians of several processes for every backend that is installed. It
fails where more than 0.15 s of CPU time are added: on a busy machine wall-clock
times mean little.
"""

import importlib.util
import os
import statistics
import subprocess
import sys

BACKENDS = ("jax", "tensorflow", "torch")
LIMIT = 0.15
PROCESSES = 5

PROBE = """
import time
import keras
start, cpu = time.perf_counter(), time.process_time()
import keras_gumbel
print(time.perf_counter() - start, time.process_time() - cpu)
"""


def seconds(backend):
    """Returns the seconds, and those of the CPU, in a new process."""
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
    wall, cpu = run.stdout.split()[-2:]
    return float(wall), float(cpu)


def main():
    slow = []
    for backend in BACKENDS:
        if importlib.util.find_spec(backend) is None:
            continue
        seconds(backend)  # fills the caches
        runs = [seconds(backend) for _ in range(PROCESSES)]
        wall, cpu = map(statistics.median, zip(*runs, strict=True))
        print(f"{backend:10} +{wall:.3f} s, CPU +{cpu:.3f} s", flush=True)
        if cpu > LIMIT:
            slow.append(backend)
    if slow:
        sys.exit(f"more than {LIMIT} s on {' and '.join(slow)}")


if __name__ == "__main__":
    main()
