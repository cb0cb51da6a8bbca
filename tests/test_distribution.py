"""Training that is spread out ends where training on one device does.

Every run is a process of its own: see `tests/replicas.py`.
"""

import contextlib
import json
import math
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
SECONDS = 540
BUDGET = 0.3 * (8 * 16 + 16 * 4)


def run_together(*commands):
    """Runs processes side by side, and returns what they print.

    None outlives the call. What they write goes to files, not to pipes that
    one of them could fill while another is read.
    """
    environment = {
        **os.environ,
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
        # The loopback interface, not what the name of the host stands for.
        "GLOO_SOCKET_IFNAME": "lo",
    }
    with contextlib.ExitStack() as stack:
        processes, files = [], []
        for command in commands:
            out, err = (
                stack.enter_context(tempfile.TemporaryFile("w+"))
                for _ in range(2)
            )
            files.append((out, err))
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.replicas", *command.split()],
                    cwd=ROOT,
                    env=environment,
                    stdout=out,
                    stderr=err,
                )
            )
            stack.callback(stop, processes[-1])
        wait(processes)
        texts = [[read(file) for file in pair] for pair in files]
        codes = [process.poll() for process in processes]
    report = "\n".join(
        f"== {command}: {code}\n{err}"
        for command, code, (_, err) in zip(commands, codes, texts, strict=True)
    )
    assert not any(code != 0 for code in codes), report
    return [json.loads(out.splitlines()[-1]) for out, _ in texts]


def wait(processes):
    """Returns when all have ended, one has failed, or time is up."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        codes = [process.poll() for process in processes]
        if None not in codes or any(codes):
            return
        time.sleep(0.1)


def stop(process):
    process.kill()
    process.wait()


def read(file):
    file.seek(0)
    return file.read()


def require_same(spread, alone):
    (expected,) = alone["replicas"]
    for replica in spread["replicas"]:
        assert replica == spread["replicas"][0]
        assert math.fsum(s for scores in replica for s in scores) <= BUDGET
        for scores, right in zip(replica, expected, strict=True):
            np.testing.assert_allclose(scores, right, rtol=0, atol=1e-5)
    assert len(set(expected[0])) > 50  # scores that have moved


def require_own_noise(spread, count):
    """Checks that no two examples share noise, and all replicas a mask."""
    choices = np.reshape(spread["drawn"], (-1, 8))
    assert len(choices) == count
    assert len(np.unique(choices, axis=0)) == count
    gates = np.reshape(spread["gates"], (-1, 8))
    assert len(np.unique(gates, axis=0)) == 1
    assert len(np.unique(gates)) > 4


@pytest.fixture(scope="module")
def alone():
    (result,) = run_together("alone")
    return result


@pytest.mark.backends("jax")
@pytest.mark.slow
def test_data_and_model_parallel_train_as_one_device_does(alone):
    data, model = run_together("data", "model")

    assert [r["devices"] for r in (alone, data, model)] == [1, 4, 4]
    for spread in (data, model):
        require_same(spread, alone)
        np.testing.assert_allclose(spread["loss"], alone["loss"], rtol=1e-5)
    require_own_noise(data, 8)
    # Scalars may be gathered, scores not: the smaller tensor has 64.
    assert all(size < 64 for size in model["gathered"])


@pytest.mark.backends("tensorflow")
@pytest.mark.slow
def test_mirrored_strategy_trains_as_one_device_does(alone):
    (mirrored,) = run_together("mirrored")

    assert len(mirrored["replicas"]) == 2
    require_same(mirrored, alone)
    np.testing.assert_allclose(mirrored["loss"], alone["loss"], rtol=1e-5)
    require_own_noise(mirrored, 16)
    assert mirrored["steps"] == alone["steps"] == 6


@pytest.mark.backends("jax")
@pytest.mark.slow
def test_two_jax_processes_train_as_one_does(alone):
    with reserved_address() as address:
        first, second = run_together(
            f"process 2 0 {address}", f"process 2 1 {address}"
        )

    assert first["devices"] == second["devices"] == 2
    require_same(joined(first, second), alone)
    np.testing.assert_allclose(first["loss"], alone["loss"], rtol=1e-5)


@contextlib.contextmanager
def reserved_address():
    """Keeps a free port until the coordinator listens on it.

    No other program is given the port: JAX's coordinator may use it since it,
    too, sets `SO_REUSEPORT`.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        yield "{}:{}".format(*holder.getsockname())


@pytest.mark.backends("torch")
@pytest.mark.slow
def test_distributed_data_parallel_trains_as_one_process_does(alone, tmp_path):
    file = tmp_path / "meeting"

    first, second = run_together(f"ddp 2 0 {file}", f"ddp 2 1 {file}")

    require_same(joined(first, second), alone)
    require_own_noise(joined(first, second), 16)
    means = np.mean([first["loss"], second["loss"]], axis=0)
    np.testing.assert_allclose(means, alone["loss"], rtol=1e-5)


def joined(first, second):
    names = ("replicas", "drawn", "gates")
    return {name: first[name] + second[name] for name in names}
