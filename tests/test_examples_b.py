import os
import pathlib
import re
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


def run_shortened(name, folder):
    """Runs an example, cut to two epochs, and returns its output."""
    environment = {
        **os.environ,
        "KERAS_MAX_EPOCHS": "2",
        "KERAS_MAX_STEPS_PER_EPOCH": "5",
        "PYTHONWARNINGS": "ignore",
    }
    run = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    header = (folder / name / f"{name}.png").read_bytes()[:8]
    assert header == b"\x89PNG\r\n\x1a\n"
    return run.stdout


def rows(output):
    """Returns the cells of the table, row by row, the titles first."""
    lines = [x for x in output.splitlines() if x.startswith("| ")]
    return [[cell.strip() for cell in x.split("|")[1:-1]] for x in lines]


def number(cell):
    return float(re.match(r"[\d.,]+", cell)[0].replace(",", ""))


@pytest.fixture(scope="module")
def hash_codes(tmp_path_factory):
    return run_shortened("hash_codes", tmp_path_factory.mktemp("hash"))


@pytest.fixture(scope="module")
def prune_channels(tmp_path_factory):
    return run_shortened("prune_channels", tmp_path_factory.mktemp("prune"))


def test_hash_codes_take_bits_over_8_bytes_an_image(hash_codes):
    _, *codes, pixels = rows(hash_codes)

    assert len(codes) == 10
    for _, bits, size, *_ in codes:
        assert number(size) == 1437 * number(bits) / 8
    assert number(pixels[2]) == 1437 * 64 * 4


def test_hash_codes_order_the_methods_that_training_does_not_change(hash_codes):
    _, *codes, pixels = rows(hash_codes)

    found = {(name, bits): number(p) for name, bits, _, p, *_ in codes}
    for bits in ("16", "32"):
        random, signs = (
            found[name, bits]
            for name in ("random projections", "principal components")
        )
        assert found["ITQ", bits] > max(random, signs) > 0.5
    assert number(pixels[3]) > max(found.values())


def test_prune_channels_ends_with_the_predictions_of_the_masked(prune_channels):
    difference = re.search(
        r"difference of the predictions: (\S+)\n", prune_channels
    )

    assert float(difference[1]) <= 1e-5


def test_prune_channels_ends_with_a_smaller_model(prune_channels):
    _, dense, *others = rows(prune_channels)

    before, after = re.search(
        r"parameters: ([\d,]+) -> ([\d,]+)", prune_channels
    ).groups()
    assert before == dense[2]
    assert others[0][2] == after
    for _, _, parameters, multiply_adds, size, _ in others:
        assert number(parameters) < number(dense[2])
        assert number(multiply_adds) < number(dense[3])
        assert number(size) < number(dense[4])
    # That of the same shape, trained from scratch, is as large.
    assert others[2][2:5] == others[0][2:5]
