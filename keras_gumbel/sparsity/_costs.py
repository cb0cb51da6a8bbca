"""Computes the cost of a kept weight."""

import contextlib
import functools
import inspect
import math
import re
import statistics
import time
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from typing import TypeAlias

import keras
from keras import ops

from keras_gumbel import _keras_private
from keras_gumbel._typing import Shape
from keras_gumbel._validation import require_choice
from keras_gumbel._weight_axes import WeightAxes
from keras_gumbel.models import MonteCarloModel
from keras_gumbel.sparsity._found import find_scores
from keras_gumbel.sparsity._masked_layer import is_masked
from keras_gumbel.sparsity._scan import WeightMatrix
from keras_gumbel.sparsity._scan import weight_matrices

_MEASURES = ("multiply_adds", "bytes", "seconds")

# The calls of a layer that are timed.
_CALLS = 10

# Returns the cost of one entry of each weight in a call, from the weights, the
# shapes of the inputs and the output, and the call itself.
_Count: TypeAlias = Callable[
    [list[WeightMatrix], list[Shape], Shape, Callable[[], Any]], list[float]
]


def sparsity_costs(
    model: keras.Layer, measure: str = "multiply_adds", inputs: Any = None
) -> dict[str, float]:
    """Returns the cost of one entry of each masked weight.

    Pass the result as `costs` to `keras_gumbel.optimizers.ProjectedOptimizer`.
    A density is then the fraction of all multiply-adds, or of all bytes, that
    is kept, and a budget is their number.

    In a model with `granularity="channel"`, a weight has the same cost. A
    budget counts the weights between kept inputs and kept units, which are the
    multiply-adds that remain after `keras_gumbel.shrink`.

    Multiply-adds are counted by calling the model once, on zeros. For an
    embedding, the cost is the average number of lookups of a row. In a layer
    without registered axes, every entry is assumed to be used once for each
    position of the first input. Call `keras_gumbel.register_weight_axes` to
    change this.

    Args:
        model: Keras model or layer with masks.
        measure: String, `"multiply_adds"` for one example, `"bytes"` for the
            size of the weight, or `"seconds"` for the time of its layer on
            this machine, divided by its number of entries. Seconds are medians
            of 10 calls of each layer, not compiled. Defaults to
            `"multiply_adds"`.
        inputs: The inputs of the call that counts multiply-adds or seconds:
            tensors with one example or more, as for a call of the model.
            `None` for one example of zeros in the shapes that the model was
            built with. Defaults to `None`.

    Returns:
        A dictionary from the names in `keras_gumbel.sparsity_report` to
        positive floats.

    Raises:
        TypeError: If `model` is not a Keras model or layer.
        ValueError: If the model has no mask, `measure` is unknown, the shapes
            of its inputs are unknown, or the call does not use a masked
            weight.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3, name="conv")]
    ... )
    >>> keras_gumbel.sparsity_costs(keras_gumbel.sparsify(model))
    {'conv/kernel': 36.0}
    """
    owner = "sparsity_costs"
    require_choice(owner, "measure", measure, _MEASURES)
    weights = {
        name: part.weight
        for s in find_scores(owner, model)
        for name, part in s.named_parts()
    }
    if measure == "bytes":
        return {name: _bytes(weight) for name, weight in weights.items()}
    count = _seconds if measure == "seconds" else _uses
    uses = _observe_calls(model, inputs, count)
    for name, weight in weights.items():
        if not uses.get(id(weight)):
            raise ValueError(
                f"`sparsity_costs` found no use of {name} when it called "
                f"the model {model.name!r}. Pass the `inputs` of a call that "
                "uses this weight, pass `measure='bytes'`, or leave the weight "
                "out with the `filters` of `sparsify`."
            )
    return {name: uses[id(weight)] for name, weight in weights.items()}


def _bytes(weight: Any) -> float:
    dtype = keras.backend.standardize_dtype(weight.dtype)
    return int(re.sub(r"\D", "", dtype)) / 8


def _observe_calls(
    model: keras.Layer, inputs: Any, count: _Count
) -> dict[int, float]:
    """Adds up the costs of weights over all calls of their layers.

    Returns:
        Dictionary from the ids of weights to the cost of one entry.
    """
    uses: dict[int, float] = {}
    by_layer: dict[int, tuple[keras.Layer, list[WeightMatrix]]] = {}
    for matrix in weight_matrices(model):
        layer = matrix.known_by or matrix.layer
        by_layer.setdefault(id(layer), (layer, []))[1].append(matrix)
    args, kwargs = ((inputs,), {}) if inputs is not None else _zeros(model)
    if "training" in _signature(model).parameters:
        kwargs["training"] = False
    with contextlib.ExitStack() as stack:
        for layer, own in by_layer.values():
            stack.enter_context(_observed(layer, own, uses, count))
        for layer in [model, *_keras_private.flatten_layers(model)]:
            if isinstance(layer, keras.layers.RNN):
                inside = map(id, _keras_private.flatten_layers(layer))
                if not by_layer.keys().isdisjoint(inside):
                    stack.enter_context(_unrolled(layer))
        model(*args, **kwargs)
    return uses


@contextlib.contextmanager
def _unrolled(layer: keras.layers.RNN) -> Iterator[None]:
    """Lets a layer call its cell once for every step, on every backend."""
    before, layer.unroll = layer.unroll, True
    try:
        yield
    finally:
        layer.unroll = before


@contextlib.contextmanager
def _observed(
    layer: keras.Layer,
    matrices: list[WeightMatrix],
    uses: dict[int, float],
    count: _Count,
) -> Iterator[None]:
    """Adds up the costs of the calls of a layer, for each of its weights."""
    original, signature = layer.call, _signature(layer)

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        outputs = original(*args, **kwargs)
        # In the order of the arguments, however they are passed.
        arguments = signature.bind(layer, *args, **kwargs).arguments
        given = _shapes(list(arguments.values()))
        again = functools.partial(original, *args, **kwargs)
        found = count(matrices, given, _shapes(outputs)[0], again)
        for matrix, cost in zip(matrices, found, strict=True):
            key = id(matrix.weight)
            uses[key] = uses.get(key, 0.0) + cost
        return outputs

    with _keras_private.calling(layer, call):
        yield


def _uses(
    matrices: list[WeightMatrix],
    inputs: list[Shape],
    output: Shape,
    call: Callable[[], Any],
) -> list[float]:
    """Counts how often the entries of weights are used for one example."""
    return [
        (matrix.axes or WeightAxes()).count_uses(
            inputs, output, tuple(matrix.weight.shape)
        )
        for matrix in matrices
    ]


def _seconds(
    matrices: list[WeightMatrix],
    inputs: list[Shape],
    output: Shape,
    call: Callable[[], Any],
) -> list[float]:
    """Measures how long a call takes for each entry of the weights."""
    times = []
    for _ in range(_CALLS):
        start = time.perf_counter()
        for tensor in keras.tree.flatten(call()):
            ops.convert_to_numpy(tensor)  # waits until it is there
        times.append(time.perf_counter() - start)
    # All weights of a layer share its time by their sizes.
    entries = sum(math.prod(matrix.weight.shape) for matrix in matrices)
    return [statistics.median(times) / entries] * len(matrices)


def _signature(layer: keras.Layer) -> inspect.Signature:
    """Returns the signature of `call`, with the layer as first argument."""
    kind = type(layer)._plain_class if is_masked(layer) else type(layer)
    return inspect.signature(kind.call)


def _shapes(values: Any) -> list[Shape]:
    return [
        tuple(x.shape) for x in keras.tree.flatten(values) if ops.is_tensor(x)
    ]


def _zeros(model: keras.Layer) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns the arguments of a call on one example of zeros.

    They have the shapes that the model was built with.
    """
    if isinstance(model, MonteCarloModel):
        return _zeros(model.model)
    if _keras_private.is_functional(model):
        # Sequential models have `inputs` alone, always one.
        sequential = isinstance(model, keras.Sequential)
        inputs = model.inputs[0] if sequential else model.input
        zeros = keras.tree.map_structure(
            lambda x: _zero(model, x.shape, x.dtype), inputs
        )
        return (zeros,), {}
    kind = type(model)._plain_class if is_masked(model) else type(model)
    config = kind.get_build_config(model) or {}
    shapes = config.get("shapes_dict", {})
    if config.get("input_shape") is not None:
        shapes = {"": config["input_shape"]}
    zeros = {
        name.removesuffix("_shape"): keras.tree.map_shape_structure(
            lambda shape: _zero(model, shape, model.compute_dtype), shape
        )
        for name, shape in shapes.items()
        if shape is not None
    }
    if not zeros:
        raise _unknown_shapes(model, None)
    first = zeros.pop("", None)
    return () if first is None else (first,), zeros


def _zero(model: keras.Layer, shape: Shape, dtype: str) -> Any:
    if None in shape[1:]:
        raise _unknown_shapes(model, shape)
    return ops.zeros((1, *shape[1:]), dtype)


def _unknown_shapes(model: keras.Layer, shape: Any) -> ValueError:
    return ValueError(
        "`sparsity_costs` needs the lengths of the inputs of "
        f"{model.name!r} to count multiply-adds. Received: a model built for "
        f"inputs of shape {shape}. Pass `inputs`, or `measure='bytes'`."
    )
