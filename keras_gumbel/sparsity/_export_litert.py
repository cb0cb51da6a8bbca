"""Exports block-sparse models as LiteRT files."""

import dataclasses
import importlib
import importlib.util
import pathlib
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._reports import Report
from keras_gumbel._reports import Table
from keras_gumbel._validation import invalid_argument
from keras_gumbel.sparsity._convert_litert import DENSE
from keras_gumbel.sparsity._convert_litert import SPARSE
from keras_gumbel.sparsity._convert_litert import convert
from keras_gumbel.sparsity._save_compressed import require_path
from keras_gumbel.sparsity._save_compressed import require_plain
from keras_gumbel.sparsity._scan import weight_matrices

_OWNER = "export_litert"

# The number of inputs of a unit in one block, in files and kernels of LiteRT.
_BLOCK = 4

# The converter stores a kernel with this fraction of zeros in sparse form: in
# blocks if these cover .9 of the single zeros, and entry by entry otherwise.
_LEAST_ZEROS = 0.3
_BLOCKS_TO_ZEROS = 0.9

# With fewer zeros in blocks, a file is slower than a dense one at every batch
# size: see docs/benchmarks/litert.md.
_LEAST_BLOCKS = 0.8

_ADVICE = (
    "Prune it with `keras_gumbel.sparsify(model, granularity=(4, 1))`, which "
    "keeps or drops four consecutive inputs of a unit together."
)


@dataclasses.dataclass(frozen=True)
class LiteRTReport(Report):
    """The file that `export_litert` has written.

    Attributes:
        size: Integer, the bytes of the file.
        dense_size: Integer, the bytes of the same model without sparsity.
        max_difference: Float, the largest difference between an output of the
            file and of the model.
        seconds: Dictionary from a batch size to the seconds of one call of
            the file, on one thread. Empty if the time is not measured.
        dense_seconds: Dictionary, the same for the dense file.
    """

    size: int
    dense_size: int
    max_difference: float
    seconds: dict[int, float]
    dense_seconds: dict[int, float]

    def _parts(self) -> Sequence[Table | str]:
        lines = [f"{self.size:,} bytes (dense: {self.dense_size:,})"]
        for batch_size, seconds in self.seconds.items():
            dense = self.dense_seconds[batch_size]
            lines.append(
                f"batch of {batch_size}: {1e6 * seconds:,.1f} µs "
                f"(dense: {1e6 * dense:,.1f}, ratio {seconds / dense:.2f})"
            )
        return lines


def export_litert(
    model: keras.Model,
    path: str | pathlib.Path,
    x: Any,
    measure_time: bool = False,
) -> LiteRTReport:
    """Exports a block-sparse model as a LiteRT file that is small and fast.

    LiteRT skips blocks of four consecutive inputs of a unit that are zero.
    Train such a model with `sparsify(granularity=(4, 1))`, and `strip` it.
    `Dense` kernels become smaller and faster, and convolutions only become
    smaller.

    TensorFlow converts the model in a separate process on every backend. The
    model must load there, so it may only contain layers of Keras and of this
    package. The outputs of the file on `x` are compared with those of the
    model. The file is written, in one step, only if they agree.

    `export_litert` raises an error if the file would not be faster than a dense
    one: if the zeros do not form blocks, or if less than 80% of the blocks are
    zero. It also raises an error for quantized layers, for which LiteRT
    computes wrong outputs. Small layers and large batches need more zeros for a
    speedup, so measure your model.

    Args:
        model: Keras model in float32 without masks on its weights, Sequential
            or Functional, with one input and one output.
        path: String or path that ends in `.tflite`.
        x: Batch of inputs, as for `predict`.
        measure_time: Boolean, whether to time the file and the dense file,
            with a single input and with `x`. Defaults to `False`.

    Returns:
        A `keras_gumbel.sparsity.LiteRTReport`.

    Raises:
        ImportError: If TensorFlow or `ai-edge-litert` is not installed.
        TypeError: If `model` is not a Keras model.
        ValueError: If the model or `path` is not as described, the model
            cannot be converted, or the outputs of the file differ.

    Example:

    ```python
    keras_gumbel.sparsify(model, granularity=(4, 1))
    ...  # train it
    keras_gumbel.strip(model)
    print(keras_gumbel.export_litert(model, "small.tflite", x_test))
    ```
    """
    require_plain(_OWNER, model)
    target = require_path(_OWNER, path, ".tflite")
    _require_packages()
    _require_one_tensor(model)
    _require_float32(model)
    _require_blocks(model)
    x = ops.convert_to_numpy(x).astype(model.inputs[0].dtype)
    expected = model.predict(x, verbose=0)
    with tempfile.TemporaryDirectory(
        dir=target.parent, prefix=f".{target.stem}-"
    ) as name:
        folder = pathlib.Path(name)
        convert(model, folder)
        files = [(folder / file).read_bytes() for file in (SPARSE, DENSE)]
        difference = _compare(_Runner(files[0], x), expected)
        sizes = sorted({1, len(x)}) if measure_time else []
        times = {n: _measure(files, x[:n]) for n in sizes}
        (folder / SPARSE).replace(target)
    return LiteRTReport(
        size=len(files[0]),
        dense_size=len(files[1]),
        max_difference=difference,
        seconds={n: sparse for n, (sparse, _) in times.items()},
        dense_seconds={n: dense for n, (_, dense) in times.items()},
    )


def _require_packages() -> None:
    for module, package in [
        ("tensorflow", "tensorflow"),
        ("ai_edge_litert", "ai-edge-litert"),
    ]:
        if importlib.util.find_spec(module) is None:
            raise ImportError(
                f"`{_OWNER}` needs the package `{package}`, which is not "
                f"installed. Run `pip install {package}`."
            )


def _require_one_tensor(model: keras.Model) -> None:
    tensors = [getattr(model, name, None) for name in ("inputs", "outputs")]
    if [t is not None and len(t) for t in tensors] != [1, 1]:
        raise invalid_argument(
            _OWNER,
            "model",
            "a Sequential or Functional model with one input and one output",
            model,
        )


def _require_float32(model: keras.Model) -> None:
    for layer in _keras_private.flatten_layers(model):
        if layer.quantization_mode is not None:
            raise ValueError(
                f"The layer {layer.name!r} is quantized to "
                f"{layer.quantization_mode}. LiteRT computes wrong outputs "
                f"for sparse int8 kernels, so `{_OWNER}` needs float32. "
                "Export the model before `quantize`, or quantize a dense model."
            )
        if layer.compute_dtype != "float32":
            raise ValueError(
                f"The layer {layer.name!r} computes in {layer.compute_dtype}. "
                f"`{_OWNER}` needs float32. Create the model with the dtype "
                "policy 'float32', set its weights, and export that model."
            )


def _require_blocks(model: keras.Model) -> None:
    """Raises unless the file will be faster than a dense one."""
    zero = total = 0
    for matrix in weight_matrices(model):
        if not isinstance(matrix.layer, keras.layers.Dense):
            continue
        kernel = ops.convert_to_numpy(matrix.weight) == 0
        zeros = kernel.mean()
        if zeros < _LEAST_ZEROS:
            total += kernel.size
            continue
        blocks = 0.0
        if kernel.shape[0] % _BLOCK == 0:
            split = kernel.reshape(-1, _BLOCK, kernel.shape[1])
            blocks = split.all(axis=1).mean()
        if blocks < _BLOCKS_TO_ZEROS * zeros:
            raise ValueError(
                f"{zeros:.0%} of the entries of {matrix.name!r} are zero, but "
                f"only {blocks:.0%} of its blocks of four inputs. LiteRT does "
                f"not run single zeros faster than a dense kernel. {_ADVICE}"
            )
        zero += blocks * kernel.size
        total += kernel.size
    if zero < _LEAST_BLOCKS * total or not total:
        raise ValueError(
            f"{zero / max(total, 1):.0%} of the blocks in the `Dense` kernels "
            f"of {model.name!r} are zero. With fewer than "
            f"{_LEAST_BLOCKS:.0%}, the file is slower than a dense one. "
            f"{_ADVICE} For a dense file, call "
            "`model.export(path, format='litert')`."
        )


class _Runner:
    """A LiteRT file in memory, with its inputs set.

    Args:
        file: Bytes of the file.
        x: Array, the batch to run.
    """

    def __init__(self, file: bytes, x: np.ndarray) -> None:
        litert = importlib.import_module("ai_edge_litert.interpreter")
        self.interpreter = litert.Interpreter(model_content=file, num_threads=1)
        (source,) = self.interpreter.get_input_details()
        (self.output,) = self.interpreter.get_output_details()
        self.interpreter.resize_tensor_input(source["index"], x.shape)
        self.interpreter.allocate_tensors()
        self.interpreter.set_tensor(source["index"], x)

    def __call__(self) -> np.ndarray:
        self.interpreter.invoke()
        return self.interpreter.get_tensor(self.output["index"])

    def has_single_zeros(self) -> bool:
        """Whether a matrix is stored entry by entry, not in blocks."""
        return any(
            len(tensor["shape"]) == 2
            and tensor["sparsity_parameters"]
            and not len(tensor["sparsity_parameters"]["block_map"])
            for tensor in self.interpreter.get_tensor_details()
        )


def _compare(runner: _Runner, expected: np.ndarray) -> float:
    """Returns the largest difference to what is expected, or raises."""
    if runner.has_single_zeros():
        raise ValueError(
            "TensorFlow has stored a kernel entry by entry, not in blocks. "
            "LiteRT does not run it faster than a dense kernel. Use "
            "`model.export(path, format='litert')` for this model."
        )
    found = runner()
    difference = float(np.abs(found - expected).max())
    if not difference <= 1e-4 * max(1.0, float(np.abs(expected).max())):
        raise ValueError(
            f"The outputs of the file differ from those of the model by up to "
            f"{difference:.2g}, so the file was not written. If the model "
            "returns the same outputs in every call, please report this."
        )
    return difference


def _measure(files: list[bytes], x: np.ndarray) -> tuple[float, float]:
    """Returns the median seconds of a call of each file, interleaved."""
    runners = [_Runner(file, x) for file in files]
    start = time.perf_counter()
    for runner in runners:
        runner()
    calls = max(1, int(2e-3 / (time.perf_counter() - start)))
    seconds: list[list[float]] = [[], []]
    for _ in range(50):
        for runner, measured in zip(runners, seconds, strict=True):
            start = time.perf_counter()
            for _ in range(calls):
                runner()
            measured.append((time.perf_counter() - start) / calls)
    return statistics.median(seconds[0]), statistics.median(seconds[1])
