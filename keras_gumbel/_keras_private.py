"""The only file that touches private Keras: what it takes, and why."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
from keras.src.backend import get_keras_mask
from keras.src.models.functional import Functional
from keras.src.utils import jax_utils
from keras.src.utils.module_utils import tensorflow as lazy_tensorflow

from keras_gumbel._typing import Tensor

# Where Keras layers keep what they multiply their inputs with. The public
# `kernel` of Dense, EinsumDense and Embedding is a read-only property.
_KERNEL_ATTRIBUTES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Dense", ("_kernel",)),
    ("EinsumDense", ("_kernel",)),
    ("Conv1D", ("_kernel",)),
    ("Conv2D", ("_kernel",)),
    ("Conv3D", ("_kernel",)),
    ("Conv1DTranspose", ("kernel",)),
    ("Conv2DTranspose", ("kernel",)),
    ("Conv3DTranspose", ("kernel",)),
    ("DepthwiseConv1D", ("kernel",)),
    ("DepthwiseConv2D", ("kernel",)),
    ("SeparableConv1D", ("depthwise_kernel", "pointwise_kernel")),
    ("SeparableConv2D", ("depthwise_kernel", "pointwise_kernel")),
    ("Embedding", ("_embeddings",)),
)


def kernel_attributes(layer: keras.Layer) -> tuple[str, ...]:
    """Names the attributes that hold the kernels of a layer.

    Returns:
        A tuple of strings, empty for a layer of a class that is not known.
    """
    for class_name, attributes in _KERNEL_ATTRIBUTES:
        if isinstance(layer, getattr(keras.layers, class_name)):
            return attributes
    return ()


def kernels(layer: keras.Layer) -> list[keras.Variable]:
    """Returns the kernels of a built layer, in the order of their names."""
    return [vars(layer)[name] for name in kernel_attributes(layer)]


@contextlib.contextmanager
def substituted(
    layer: keras.Layer, values: dict[str, Tensor]
) -> Iterator[None]:
    """Puts tensors in place of a layer's variables for the duration.

    Writing to the instance's dictionary passes by Keras's attribute tracking.
    It is the one technique that works for every layer on every backend: a
    nested `StatelessScope` hides the outer one on JAX.
    """
    attributes = vars(layer)
    variables = {name: attributes[name] for name in values}
    attributes.update(values)
    try:
        yield
    finally:
        attributes.update(variables)


def is_functional(model: keras.Model) -> bool:
    """Whether `keras.models.clone_model` can rewrite the model."""
    return isinstance(model, (Functional, keras.Sequential))


def flatten_layers(model: keras.Layer) -> list[keras.Layer]:
    """Lists the layers inside a model or layer at every depth, once each."""
    return list(model._flatten_layers(include_self=False))


def input_name(tensor: Any) -> str:
    """Returns the name of the input layer a symbolic tensor came from."""
    return tensor._keras_history.operation.name


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
