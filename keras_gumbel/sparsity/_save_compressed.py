"""Saves a compressed `.keras` file, in which zeros take almost no space."""

import pathlib
import shutil
import tempfile
import zipfile
from typing import Any

import keras

from keras_gumbel._validation import invalid_argument
from keras_gumbel.sparsity._masked_layer import attached_masks
from keras_gumbel.sparsity._scan import require_built

# Keras refuses to load a member of an archive that is larger than this and is
# compressed to less than a hundredth of its size.
LARGE = 1 << 32


def save_compressed(model: keras.Model, path: str | pathlib.Path) -> None:
    """Saves a model as a compressed `.keras` file.

    Keras stores the weights of a model uncompressed, and zeros take as much
    space as other numbers. This file is the same archive, compressed by
    `zipfile`. `keras.saving.load_model` loads it without `keras_gumbel`, and
    every weight is equal to the last bit.

    An existing file is replaced only when the new file is complete. If the
    process is killed before, the old file does not change.

    Weights of more than 4 GiB that would shrink to less than a hundredth are
    stored uncompressed, because Keras refuses to load such a file.

    Args:
        model: Built Keras model without masks on its weights.
        path: String or path that ends in `.keras`.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model is not built or still has masks on its
            weights, if `path` does not end in `.keras`, or if its folder does
            not exist.

    Example:

    >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64)])
    >>> model = keras_gumbel.harden(keras_gumbel.sparsify(model), density=0.05)
    >>> keras_gumbel.save_compressed(keras_gumbel.strip(model), "small.keras")
    >>> small = keras.saving.load_model("small.keras")
    """
    require_plain("save_compressed", model)
    target = require_path("save_compressed", path, ".keras")
    # In the folder of the target, because a move is atomic only on one disk.
    with tempfile.TemporaryDirectory(
        dir=target.parent, prefix=f".{target.stem}-"
    ) as folder:
        stored = pathlib.Path(folder) / "stored.keras"
        deflated = pathlib.Path(folder) / "deflated.keras"
        keras.saving.save_model(model, stored)
        _deflate(stored, deflated)
        (stored if _is_refused(deflated) else deflated).replace(target)


def require_plain(owner: str, model: Any) -> None:
    """Raises unless `model` is a built model without masks on weights."""
    if not isinstance(model, keras.Model):
        raise invalid_argument(
            owner, "model", "a Keras model", model, error=TypeError
        )
    require_built(owner, model)
    if attached_masks(model):
        raise ValueError(
            f"The model {model.name!r} has masks on its weights, and the "
            "pruned weights are not zero yet. Call `keras_gumbel.strip` before "
            f"`{owner}`. To continue training later, save the model with "
            "`model.save`."
        )


def require_path(owner: str, path: Any, suffix: str) -> pathlib.Path:
    """Returns the file to write, or raises if `path` cannot be it."""
    known = isinstance(path, str | pathlib.PurePath)
    if not known or not str(path).endswith(suffix):
        raise invalid_argument(
            owner, "path", f"a path that ends in {suffix!r}", path
        )
    target = pathlib.Path(path).resolve()
    if not target.parent.is_dir():
        raise invalid_argument(
            owner, "path", "a path in an existing folder", path
        )
    return target


def _deflate(source: pathlib.Path, target: pathlib.Path) -> None:
    """Writes a compressed copy of an archive."""
    with (
        zipfile.ZipFile(source) as before,
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as after,
    ):
        for name in before.namelist():
            with (
                before.open(name) as stored,
                after.open(name, "w", force_zip64=True) as deflated,
            ):
                shutil.copyfileobj(stored, deflated)


def _is_refused(path: pathlib.Path) -> bool:
    """Whether Keras would refuse an archive as a decompression bomb."""
    with zipfile.ZipFile(path) as archive:
        return any(
            member.file_size > max(LARGE, 100 * member.compress_size)
            for member in archive.infolist()
        )
