import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]


def printed_by(script, *options, **variables):
    """Returns what a benchmark prints."""
    run = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / script, *options],
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        check=True,
        capture_output=True,
        text=True,
        timeout=500,
    )
    return run.stdout


@pytest.fixture(scope="module")
def cell():
    """Trains one cell of the table of sparse networks again."""
    command = "--data digits --methods ours --sparsities 0.95 --seeds 2"
    printed = printed_by(
        "sparsity.py",
        *command.split(),
        *("--rates", "0.1"),
        PYTHONWARNINGS="ignore",
    )
    lines = printed.splitlines()
    return json.loads(next(x for x in lines if x.startswith("{"))), printed


@pytest.mark.one_backend
@pytest.mark.slow
def test_a_cell_of_the_table_is_as_printed(cell):
    row, printed = cell
    page = (ROOT / "docs" / "benchmarks" / "sparsity.md").read_text()
    digits = page[page.index("## Digits") :]
    ours = next(x for x in digits.splitlines() if x.startswith("| ours"))
    quoted = float(ours.split("|")[3].split("±")[0])

    # Two seeds of the five, on any backend; one image is 0.28%.
    assert 100 * np.mean(row["test"]) == pytest.approx(quoted, abs=1.2)
    assert "| ours" in printed


@pytest.mark.slow
@pytest.mark.backends("torch")
def test_tables_of_features_are_those_of_the_records():
    if importlib.util.find_spec("jax") is None:
        pytest.skip("its stochastic gates are written for JAX")
    lines = printed_by(
        "features.py", "--seeds", "5", KERAS_BACKEND="jax"
    ).splitlines()

    printed = [x for x in lines if x.startswith(("|", "- "))]

    page = (ROOT / "docs/benchmarks/features.md").read_text().splitlines()
    assert len(printed) > 60
    assert [line for line in printed if line not in page] == []


@pytest.mark.slow
@pytest.mark.backends("torch")
def test_tables_of_papers_are_those_of_the_records():
    if importlib.util.find_spec("jax") is None:
        pytest.skip("its bounds are written for JAX")
    records = (ROOT / "benchmarks/records").glob("papers-*.jsonl")
    tables = [path.stem.removeprefix("papers-") for path in records]
    # With no seed, it only prints what is known.
    options = ("--seeds", "0", "--table", *tables)
    lines = printed_by("papers.py", *options, KERAS_BACKEND="jax").splitlines()

    printed = [x for x in lines if x.startswith("|")]

    page = (ROOT / "docs/benchmarks/papers.md").read_text().splitlines()
    assert len(printed) > 20
    assert [line for line in printed if line not in page] == []
