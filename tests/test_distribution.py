"""Training that is spread out ends where training on one device does.

Every run is a process of its own: see `tests/replicas.py`.
"""

import json
import math
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
BUDGET = 0.3 * (8 * 16 + 16 * 4)


def run(kind):
    process = subprocess.run(
        [sys.executable, "-m", "tests.replicas", kind],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def require_same(spread, alone):
    (expected,) = alone["replicas"]
    for replica in spread["replicas"]:
        assert replica == spread["replicas"][0]
        assert math.fsum(s for scores in replica for s in scores) <= BUDGET
        for scores, right in zip(replica, expected, strict=True):
            np.testing.assert_allclose(scores, right, rtol=0, atol=1e-5)
    assert len(set(expected[0])) > 50  # scores that have moved


@pytest.mark.backends("jax")
def test_data_and_model_parallel_train_as_one_device_does():
    alone, data, model = (run(kind) for kind in ("alone", "data", "model"))

    assert [r["devices"] for r in (alone, data, model)] == [1, 4, 4]
    for spread in (data, model):
        require_same(spread, alone)
        np.testing.assert_allclose(spread["loss"], alone["loss"], rtol=1e-5)
    # Scalars may be gathered, scores not: the smaller tensor has 64.
    assert all(size < 64 for size in model["gathered"])


@pytest.mark.backends("tensorflow")
def test_mirrored_strategy_trains_as_one_device_does():
    alone, mirrored = run("alone"), run("mirrored")

    assert len(mirrored["replicas"]) == 2
    require_same(mirrored, alone)
    np.testing.assert_allclose(mirrored["loss"], alone["loss"], rtol=1e-5)
