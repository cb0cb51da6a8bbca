import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


# The same code on all backends: the script itself runs on each. Windows cannot
# fork.
@pytest.mark.backends("torch")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs `os.fork`")
@pytest.mark.slow
def test_killed_training_ends_with_the_bits_of_an_undisturbed_run():
    run = subprocess.run(
        [
            sys.executable,
            str(ROOT / "benchmarks" / "killed.py"),
            *("--kills", "3"),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=500,
    )

    assert "The same bits as without a kill: yes" in run.stdout, run.stderr
