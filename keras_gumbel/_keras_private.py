"""The only file that touches private Keras: what it takes, and why."""

import contextlib
import dataclasses
import inspect
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
from keras.src.backend import get_keras_mask
from keras.src.layers.rnn.conv_lstm import ConvLSTMCell
from keras.src.models.functional import Functional
from keras.src.ops import numpy as keras_numpy
from keras.src.utils import jax_utils
from keras.src.utils.module_utils import tensorflow as lazy_tensorflow

from keras_gumbel._typing import Tensor

# What `a + b` and `a * b` of symbolic tensors are in a Functional model.
ADDITION: type = keras_numpy.Add
MULTIPLICATION: type = keras_numpy.Multiply

# Keras has it from 3.15 on. Before, nothing is an instance of `()`.
MULTI_OPTIMIZER: Any = getattr(keras.optimizers, "MultiOptimizer", ())

# Where Keras layers keep what they multiply their inputs with, on which axes of
# it units are counted, and on which the inputs that are summed over, if on one.
# The public `kernel` of Dense, EinsumDense and Embedding is a read-only
# property.
_KERNELS: tuple[
    tuple[
        tuple[type[keras.Layer], ...],
        dict[str, tuple[tuple[int, ...], int | None]],
    ],
    ...,
] = (
    (
        (
            keras.layers.Dense,
            keras.layers.Conv1D,
            keras.layers.Conv2D,
            keras.layers.Conv3D,
        ),
        {"_kernel": ((-1,), -2)},
    ),
    (
        (
            keras.layers.Conv1DTranspose,
            keras.layers.Conv2DTranspose,
            keras.layers.Conv3DTranspose,
        ),
        {"kernel": ((-2,), -1)},
    ),
    (
        (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D),
        {"kernel": ((-2, -1), None)},
    ),
    (
        (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D),
        {
            "depthwise_kernel": ((-2, -1), None),
            "pointwise_kernel": ((-1,), -2),
        },
    ),
    ((keras.layers.Embedding,), {"_embeddings": ((-1,), None)}),
    (
        (
            keras.layers.SimpleRNNCell,
            keras.layers.LSTMCell,
            keras.layers.GRUCell,
            ConvLSTMCell,
        ),
        {"kernel": ((-1,), -2), "recurrent_kernel": ((-1,), -2)},
    ),
)

# The layers inside of others, by what tells their kernels apart.
_PARTS: tuple[tuple[type[keras.Layer], dict[str, str]], ...] = (
    (keras.layers.RNN, {"": "cell"}),
    (keras.layers.TimeDistributed, {"": "layer"}),
    (
        keras.layers.Bidirectional,
        {"forward": "forward_layer", "backward": "backward_layer"},
    ),
)

# The dense layers of an attention layer, which it makes when it is built.
ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
_ATTENTION_PARTS = {
    "query": "_query_dense",
    "key": "_key_dense",
    "value": "_value_dense",
    "gate": "_gate_dense",
    "attention_output": "_output_dense",
}

# (inputs, heads, size), and (heads, size, outputs): units are heads.
_TO_HEADS = ((-2,), -3)
_FROM_HEADS = ((-3,), -2)


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where a layer, built or not, keeps a kernel.

    Attributes:
        name: String, such as `"kernel"` or `"forward/recurrent_kernel"`.
        path: Tuple of attribute names and indices, from the layer to the one
            inside it that owns the kernel.
        attribute: String, the attribute of the owner.
        units: Tuple of the axes of units, from the end.
        inputs: Integer, the axis of what is summed over, from the end, or
            `None` if there is not one.
        dtype_policy: The dtype policy of the owner.
    """

    name: str
    path: tuple[str | int, ...]
    attribute: str
    units: tuple[int, ...]
    inputs: int | None
    dtype_policy: keras.DTypePolicy

    def owner(self, layer: keras.Layer) -> keras.Layer:
        """Finds the layer that owns the kernel."""
        found: Any = layer
        for key in self.path:
            found = found[key] if isinstance(key, int) else getattr(found, key)
        return found


def kernel_slots(layer: keras.Layer) -> tuple[Slot, ...]:
    """Lists where a layer keeps its kernels.

    Returns:
        A tuple of `Slot`, empty for a model, whose layers have kernels of
        their own, and for a layer of a class that is not known.
    """
    return () if isinstance(layer, keras.Model) else tuple(_slots(layer))


def kernel_places(layer: keras.Layer) -> list[tuple[keras.Layer, str]]:
    """Lists the owners of a built layer's kernels, and their attributes."""
    return [(s.owner(layer), s.attribute) for s in kernel_slots(layer)]


def kernels(layer: keras.Layer) -> list[keras.Variable]:
    """Returns the kernels of a built layer, in the order of its slots."""
    return [vars(owner)[name] for owner, name in kernel_places(layer)]


def unknown_parts(layer: keras.Layer) -> list[keras.Layer]:
    """Lists what has weight matrices but no kernel that is known.

    Returns:
        A list of the layer itself, or of layers inside it.
    """
    parts = _parts(layer)
    if parts:
        return [p for _, _, part in parts for p in unknown_parts(part)]
    if _slots(layer):
        return []
    return [layer] if any(len(w.shape) > 1 for w in layer.weights) else []


def _slots(layer: keras.Layer) -> list[Slot]:
    policy = layer.dtype_policy
    for kinds, attributes in _KERNELS:
        if isinstance(layer, kinds):
            return [
                Slot(name.strip("_"), (), name, *axes, policy)
                for name, axes in attributes.items()
            ]
    if isinstance(layer, keras.layers.EinsumDense):
        return [Slot("kernel", (), "_kernel", *_einsum_axes(layer), policy)]
    if isinstance(layer, ATTENTION):
        own = vars(layer)
        gated = own.get("_use_gate", own.get("use_gate"))
        return [
            Slot(
                f"{name}/kernel",
                (attribute,),
                "_kernel",
                *(_FROM_HEADS if name == "attention_output" else _TO_HEADS),
                policy,
            )
            for name, attribute in _ATTENTION_PARTS.items()
            if name != "gate" or gated
        ]
    return [
        dataclasses.replace(
            slot,
            name=f"{name}/{slot.name}" if name else slot.name,
            path=path + slot.path,
        )
        for name, path, part in _parts(layer)
        for slot in _slots(part)
    ]


def _einsum_axes(
    layer: keras.layers.EinsumDense,
) -> tuple[tuple[int, ...], int | None]:
    """Reads the axes of units, and of the inputs, off an equation."""
    operands, outputs = layer.equation.replace(" ", "").split("->")
    inputs, kernel = operands.split(",")
    places = {label: i - len(kernel) for i, label in enumerate(kernel)}
    units = tuple(i for x, i in places.items() if x not in inputs)
    summed = [i for x, i in places.items() if x in inputs and x not in outputs]
    return units, summed[-1] if summed else None


def _parts(
    layer: keras.Layer,
) -> list[tuple[str, tuple[str | int, ...], keras.Layer]]:
    """Lists the layers inside a layer, with their names and paths."""
    if is_functional(layer):
        return [
            (part.name, ("layers", i), part)
            for i, part in enumerate(layer.layers)
        ]
    if isinstance(layer, keras.layers.StackedRNNCells):
        return [
            (f"cell_{i}", ("cells", i), part)
            for i, part in enumerate(layer.cells)
        ]
    for kind, attributes in _PARTS:
        if isinstance(layer, kind):
            return [(n, (a,), getattr(layer, a)) for n, a in attributes.items()]
    return []


@contextlib.contextmanager
def substituted(
    places: Sequence[tuple[keras.Layer, str]], values: Sequence[Tensor]
) -> Iterator[None]:
    """Puts tensors in place of layers' variables for the duration.

    Writing to the instance's dictionary passes by Keras's attribute tracking.
    It is the one technique that works for every layer on every backend: a
    nested `StatelessScope` hides the outer one on JAX.
    """
    variables = [vars(layer)[name] for layer, name in places]
    for (layer, name), value in zip(places, values, strict=True):
        vars(layer)[name] = value
    try:
        yield
    finally:
        for (layer, name), variable in zip(places, variables, strict=True):
            vars(layer)[name] = variable


def mirror_signatures(wrapper: keras.Layer, layer: keras.Layer) -> None:
    """Lets a wrapper be called and built as the layer in it is.

    From the signatures Keras learns which of the arguments are tensors, whose
    masks to hand over and whose shapes to build with. The wrapper takes
    `training` whether the layer does or not.
    """
    signature = inspect.signature(layer.call)
    parameters = list(signature.parameters.values())
    if "training" not in signature.parameters:
        training = inspect.Parameter(
            "training", inspect.Parameter.KEYWORD_ONLY, default=None
        )
        catches_all = parameters[-1].kind is inspect.Parameter.VAR_KEYWORD
        parameters.insert(len(parameters) - catches_all, training)
    wrapper._call_signature = signature.replace(parameters=parameters)
    wrapper.call_signature_parameters = [p.name for p in parameters]
    wrapper._call_has_mask_arg = "mask" in signature.parameters
    wrapper.build.__signature__ = inspect.signature(layer.build)


def is_functional(model: keras.Layer) -> bool:
    """Whether `keras.models.clone_model` can rewrite the model."""
    return isinstance(model, (Functional, keras.Sequential))


def flatten_layers(model: keras.Layer) -> list[keras.Layer]:
    """Lists the layers inside a model or layer at every depth, once each."""
    return list(model._flatten_layers(include_self=False))


class GraphCall(NamedTuple):
    """One call of a layer or operation in a Functional model.

    Attributes:
        layer: The layer or operation.
        inputs: List of symbolic tensors.
        outputs: List of symbolic tensors.
        arguments: Dictionary of all arguments, by their places or names.
    """

    layer: Any
    inputs: list[Tensor]
    outputs: list[Tensor]
    arguments: dict[int | str, Any]


def graph_calls(model: keras.Model) -> Iterator[GraphCall]:
    """Yields the calls a Functional or built Sequential model consists of.

    What makes an input comes before what takes it.
    """
    graph = getattr(model, "_functional", model)
    for _, nodes in sorted(graph._nodes_by_depth.items(), reverse=True):
        for node in nodes:
            args, kwargs = node.arguments.args, node.arguments.kwargs
            yield GraphCall(
                node.operation,
                list(node.arguments.keras_tensors),
                list(node.outputs),
                dict(enumerate(args)) | kwargs,
            )


def input_name(tensor: Any) -> str:
    """Returns the name of the input layer a symbolic tensor came from."""
    return tensor._keras_history.operation.name


def call_shapes(layer: keras.Layer) -> list[tuple[list[Any], Any]]:
    """Lists the shapes of inputs and output of a layer's calls in models."""
    return [
        (
            [tuple(x.shape) for x in node.arguments.keras_tensors],
            tuple(node.outputs[0].shape),
        )
        for node in layer._inbound_nodes
    ]


def is_propagated_mask(mask: Any, inputs: Any) -> bool:
    """Whether `mask` is the one that `inputs` carry, by its shape.

    It is not always the same object: a Functional model computes it apart.
    While a model is built, symbols do not carry their masks along.
    """
    carried = get_keras_mask(inputs)
    return carried is not None and tuple(carried.shape) == tuple(mask.shape)


def compile_arguments(model: keras.Model) -> dict[str, Any] | None:
    """Returns what `model.compile` was called with, or `None`.

    `get_compile_config` serializes, which fails for a custom loss that is not
    registered.
    """
    if not model.compiled:
        return None
    return dict(model._compile_config.config)


def exclude_from_weight_decay(
    optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable]
) -> None:
    """Excludes variables, keeping the exclusions the user has set.

    The public `exclude_from_weight_decay` replaces them. An optimizer of
    nothing else loses its weight decay: torch cannot decay no variable.
    """
    excluded = set(getattr(optimizer, "_exclude_from_weight_decay", ()))
    excluded.update(optimizer._var_key(v) for v in variables)
    optimizer._exclude_from_weight_decay = excluded
    optimizer._exclude_from_weight_decay_cache = {}
    if excluded.issuperset(optimizer._trainable_variables_indices):
        optimizer.weight_decay = None


def moving_averages(
    optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable]
) -> list[keras.Variable]:
    """Returns an optimizer's moving averages of those variables it has."""
    if not optimizer.use_ema or not optimizer.built:
        return []
    known = optimizer._trainable_variables_indices
    averages = optimizer._model_variables_moving_average
    keys = [optimizer._var_key(v) for v in variables]
    return [averages[known[key]] for key in keys if key in known]


def sum_over_replicas(gradients: list[Tensor]) -> tuple[list[Tensor], int]:
    """Returns gradients of the whole batch, and the number of replicas.

    Under `tf.distribute`, Keras adds gradients up only after optimizers have
    seen them. Elsewhere they arrive as sums.
    """
    if keras.config.backend() == "tensorflow":
        context = lazy_tensorflow.distribute.get_replica_context()
        if context is not None and context.num_replicas_in_sync > 1:
            return context.all_reduce("SUM", gradients), (
                context.num_replicas_in_sync
            )
    return gradients, 1


def outside_graph() -> contextlib.AbstractContextManager[Any]:
    """Lets `assign` act at once while TensorFlow traces a function.

    TensorFlow builds optimizers inside the first traced training step.
    """
    if keras.config.backend() == "tensorflow":
        return lazy_tensorflow.init_scope()
    return contextlib.nullcontext()


def is_eager(tensor: Tensor) -> bool:
    """Whether the tensor has a value now: no trace, graph or symbol."""
    if isinstance(tensor, keras.KerasTensor):
        return False
    if keras.config.backend() == "tensorflow":
        return lazy_tensorflow.executing_eagerly()
    if keras.config.backend() == "jax":
        return not jax_utils.is_in_jax_tracing_scope(tensor)
    return True


def on_accelerator(tensor: Tensor) -> bool:
    """Whether a tensor is, or will be, on a GPU or TPU."""
    if keras.config.backend() == "torch":
        return tensor.device.type != "cpu"
    return not keras.distribution.list_devices()[0].startswith("cpu")


def slot_variables(
    optimizer: keras.optimizers.Optimizer, variable: keras.Variable
) -> list[keras.Variable]:
    """Returns what an optimizer holds for a variable, in its shape.

    Keras names such a variable after the path of the one it belongs to.
    """
    prefix = variable.path.replace("/", "_") + "_"
    return [
        slot
        for slot in optimizer.variables
        if slot.name.startswith(prefix)
        and tuple(slot.shape) == tuple(variable.shape)
    ]
