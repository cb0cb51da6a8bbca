import os
import pathlib
import re
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Runs the example, cut to two epochs, and returns its output."""
    folder = tmp_path_factory.mktemp("digits")
    environment = {
        **os.environ,
        "KERAS_MAX_EPOCHS": "2",
        "KERAS_MAX_STEPS_PER_EPOCH": "5",
        "PYTHONWARNINGS": "ignore",
    }
    run = subprocess.run(
        [sys.executable, str(EXAMPLES / "sparsify_digits.py")],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return folder / "sparsify_digits", run.stdout


def test_sparsify_digits_saves_as_many_weights_as_it_reports(digits):
    _, output = digits

    total = re.search(r"total\D+50,200\D+([\d,]+)", output)[1]
    saved = re.search(r"sparse\.keras: ([\d,]+) non-zero", output)[1]

    assert saved == total


def test_sparsify_digits_prints_accuracies_and_sizes(digits):
    _, output = digits

    assert re.search(r"test accuracy, dense:  \d+\.\d\d%", output)
    assert re.search(r"test accuracy, sparse: \d+\.\d\d%", output)
    assert len(re.findall(r"[\d,]+ bytes gzipped", output)) == 2


def test_sparsify_digits_draws_a_picture(digits):
    folder, _ = digits

    header = (folder / "sparsify_digits.png").read_bytes()[:8]

    assert header == b"\x89PNG\r\n\x1a\n"
