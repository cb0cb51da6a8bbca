"""Compressed `.keras` files: smaller, equal, and never half written."""

import os
import pathlib
import signal
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

import keras_gumbel as kg
from keras_gumbel.sparsity import _save_compressed
from tests.sparsity import zoo

pytestmark = pytest.mark.one_backend

# Reads a file as plain Keras does.
ELSEWHERE = """
import sys
sys.modules["keras_gumbel"] = None
import keras
import numpy as np
model = keras.saving.load_model(sys.argv[1])
np.savez(sys.argv[2], *model.get_weights())
"""

# Is killed when the new file is there but not yet in its place.
KILLED = """
import os
import pathlib
import signal
import sys
import keras
import keras_gumbel as kg
pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
kg.save_compressed(model, sys.argv[1])
"""


def pruned(density=0.05):
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(300, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    return kg.strip(kg.harden(kg.sparsify(model), density=density))


def run(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
    )


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.every_backend
def test_the_file_is_small_and_loads_in_plain_keras(tmp_path):
    model = pruned()
    model.save(tmp_path / "plain.keras")

    kg.save_compressed(model, tmp_path / "small.keras")
    elsewhere = run(ELSEWHERE, tmp_path / "small.keras", tmp_path / "w.npz")

    assert elsewhere.returncode == 0, elsewhere.stderr
    assert_same(np.load(tmp_path / "w.npz").values(), model.get_weights())
    small = (tmp_path / "small.keras").stat().st_size
    assert small < (tmp_path / "plain.keras").stat().st_size / 4
    assert {path.name for path in tmp_path.iterdir()} == {
        "plain.keras",
        "small.keras",
        "w.npz",
    }


@pytest.mark.every_backend
def test_the_archives_are_equal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = pruned()
    model.compile("adam", loss="mse")
    model.fit(np.ones((8, 64)), np.ones((8, 10)), verbose=0)
    model.save("plain.keras")

    kg.save_compressed(model, "small.keras")

    with (
        zipfile.ZipFile("plain.keras") as plain,
        zipfile.ZipFile("small.keras") as small,
    ):
        assert small.namelist() == plain.namelist()
        assert small.read("config.json") == plain.read("config.json")
        assert small.testzip() is None
    again = keras.saving.load_model("small.keras")
    assert_same(again.get_weights(), model.get_weights())
    assert_same(
        [keras.ops.convert_to_numpy(v) for v in again.optimizer.variables],
        [keras.ops.convert_to_numpy(v) for v in model.optimizer.variables],
    )


@keras.saving.register_keras_serializable(package="tests")
class Vocabulary(keras.layers.Layer):
    """A layer with a file of its own in the archive."""

    words = ""

    def call(self, inputs):
        return inputs

    def save_assets(self, dir_path):
        (pathlib.Path(dir_path) / "words.txt").write_text(self.words)

    def load_assets(self, dir_path):
        self.words = (pathlib.Path(dir_path) / "words.txt").read_text()


def test_assets_are_kept(tmp_path):
    layer = Vocabulary()
    layer.words = "sparse dense"
    model = keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(2)])

    kg.save_compressed(model, tmp_path / "small.keras")

    again = keras.saving.load_model(tmp_path / "small.keras")
    assert again.layers[0].words == "sparse dense"
    assert_same(again.get_weights(), model.get_weights())


@pytest.mark.every_backend
def test_a_model_with_gates_between_layers_is_saved(tmp_path):
    gate = kg.layers.ConcreteMask()
    model = keras.Sequential([keras.Input((4,)), gate, keras.layers.Dense(2)])

    kg.save_compressed(model, tmp_path / "gates.keras")

    again = keras.saving.load_model(tmp_path / "gates.keras")
    assert_same(again.get_weights(), model.get_weights())


@pytest.mark.parametrize("make", [zoo.custom_block, zoo.tied])
def test_other_models_are_saved(make, tmp_path):
    model, inputs = make()
    expected = model.predict(inputs, verbose=0)

    kg.save_compressed(model, tmp_path / "small.keras")

    again = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(again.predict(inputs, verbose=0), expected)


@pytest.mark.slow
def test_a_killed_process_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.keras"
    kg.save_compressed(pruned(), path)
    before = path.read_bytes()

    killed = run(KILLED, path)

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert path.read_bytes() == before


def test_a_full_disk_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "model.keras"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_save_compressed.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space"):
        kg.save_compressed(pruned(), path)

    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link.keras").symlink_to(tmp_path / "file.keras")

    kg.save_compressed(pruned(), tmp_path / "link.keras")

    assert (tmp_path / "link.keras").is_symlink()
    assert zipfile.is_zipfile(tmp_path / "file.keras")


@pytest.mark.parametrize("large", [1 << 16, 1 << 32])
def test_what_keras_would_refuse_stays_uncompressed(
    large, tmp_path, monkeypatch
):
    monkeypatch.setattr(_save_compressed, "LARGE", large)
    saving = keras.src.saving.saving_lib
    if hasattr(saving, "_ZIP_MEMBER_BOMB_FLOOR_BYTES"):
        assert saving._ZIP_MEMBER_BOMB_FLOOR_BYTES == 1 << 32
        assert saving._ZIP_MEMBER_MAX_EXPANSION == 100
        monkeypatch.setattr(saving, "_ZIP_MEMBER_BOMB_FLOOR_BYTES", large)
    zeros = keras.layers.Dense(1000, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((1000,)), zeros])

    kg.save_compressed(model, tmp_path / "zeros.keras")

    size = (tmp_path / "zeros.keras").stat().st_size
    assert (size > 4_000_000) == (large == 1 << 16)
    keras.saving.load_model(tmp_path / "zeros.keras")


def test_bad_arguments_get_an_error(tmp_path):
    model = pruned()

    with pytest.raises(TypeError, match="`model` of `save_compressed`"):
        kg.save_compressed(keras.layers.Dense(2), tmp_path / "a.keras")
    with pytest.raises(ValueError, match="not built"):
        kg.save_compressed(
            keras.Sequential([keras.layers.Dense(2)]), tmp_path / "a.keras"
        )
    with pytest.raises(ValueError, match=r"`keras_gumbel\.strip`"):
        kg.save_compressed(kg.sparsify(pruned()), tmp_path / "a.keras")
    for path in ["a.h5", "a.keras.zip", b"a.keras", None, 3]:
        with pytest.raises(ValueError, match="`path` of `save_compressed`"):
            kg.save_compressed(model, path)
    with pytest.raises(ValueError, match="an existing folder"):
        kg.save_compressed(model, tmp_path / "no" / "a.keras")
    assert list(tmp_path.iterdir()) == []
