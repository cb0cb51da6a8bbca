"""The only file that uses private Keras.

Private names are looked up where they are used, so a name that the next Keras
moves cannot break the import. They have a fallback if possible.
"""

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from typing import NamedTuple

import keras
from keras import ops

from keras_gumbel._typing import Tensor

# Keras has it since 3.15. Before, nothing is an instance of `()`.
MULTI_OPTIMIZER: Any = getattr(keras.optimizers, "MultiOptimizer", ())


def is_functional(model: keras.Layer) -> bool:
    """Whether a model is a graph of layers: Functional or Sequential."""
    try:
        from keras.src.models.functional import Functional
    except ImportError:
        symbol = keras.Input((1,), name="symbol")
        Functional = type(keras.Model(symbol, symbol, name="graph"))
    return isinstance(model, (Functional, keras.Sequential))


def flatten_layers(layer: keras.Layer) -> list[keras.Layer]:
    """Lists the layers inside a model or layer at every depth, once each."""
    return list(layer._flatten_layers(include_self=False))


def sublayers(layer: keras.Layer) -> list[keras.Layer]:
    """Lists the direct sublayers of a model or layer."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


@contextlib.contextmanager
def unlocked(layer: keras.Layer) -> Iterator[None]:
    """Lets a built layer track more layers and variables."""
    tracker = layer._tracker
    locked = tracker.locked
    tracker.unlock()
    try:
        yield
    finally:
        if locked:
            tracker.lock()


def untrack(layer: keras.Layer, parts: list[keras.Layer]) -> None:
    """Removes layers from the tracked layers of a layer."""
    with unlocked(layer):
        for part in parts:
            layer._tracker.untrack(part)


def forget_attribute(layer: keras.Layer, name: str) -> None:
    """Deletes an attribute of a layer, also for exports of TensorFlow."""
    with unlocked(layer):
        delattr(layer, name)
    names = getattr(layer, "_tracked", [])
    if name in names:
        names.remove(name)


def variables_changed(model: keras.Layer) -> None:
    """Lets Keras search the variables of a model again.

    Compiled functions have traced the old variables. On torch, `parameters()`
    returns the variables from the time when the layer was built.
    """
    for layer in [model, *flatten_layers(model)]:
        if hasattr(layer, "_track_variables"):
            layer._track_variables()
        for kind in ("train", "test", "predict", "generate"):
            if hasattr(layer, f"{kind}_function"):
                setattr(layer, f"{kind}_function", None)


def replace_optimizer(
    model: keras.Model, optimizer: keras.optimizers.Optimizer
) -> None:
    """Replaces the optimizer of a compiled model, and keeps the rest.

    `compile` would drop additions of model subclasses, such as the sampler of a
    KerasHub task.
    """
    model.optimizer = optimizer
    arguments = getattr(model, "_compile_config", None)
    if arguments is not None:
        arguments.config["optimizer"] = optimizer


def uncompile(model: keras.Model) -> None:
    """Removes the optimizer of a model that becomes part of another model.

    Keras would save it there, and warn when it is loaded.
    """
    model.optimizer = None
    model.compiled = False


def is_saving_legacy_file() -> bool:
    """Whether Keras is writing, or reading, a file in its `.h5` format."""
    try:
        from keras.src.backend.common import global_state
    except ImportError:
        return False
    return bool(global_state.get_global_attribute("use_legacy_config"))


@contextlib.contextmanager
def calling(layer: keras.Layer, call: Callable[..., Any]) -> Iterator[None]:
    """Replaces the call of a layer temporarily."""
    vars(layer)["call"] = call
    try:
        yield
    finally:
        del vars(layer)["call"]


@contextlib.contextmanager
def without_rematerialization(model: keras.Layer) -> Iterator[None]:
    """Lets layers be computed once, in the trace of the call around them."""
    changed = [
        (layer, layer._remat_mode)
        for layer in [model, *flatten_layers(model)]
        if getattr(layer, "_remat_mode", None) is not None
    ]
    for layer, _ in changed:
        layer._remat_mode = None
    try:
        yield
    finally:
        for layer, mode in changed:
            layer._remat_mode = mode


def current_call() -> Any:
    """Returns the current call of the outermost layer, if known.

    Its `entry_layer` is this layer, and it accepts more attributes.
    """
    try:
        from keras.src.backend.common import global_state
    except ImportError:
        return None
    return global_state.get_global_attribute("current_call_ctx")


def is_first_in_call(variable: keras.Variable) -> bool:
    """Marks a variable; returns whether it is new to the outermost call."""
    call = _stateless_scope_of(variable) or current_call()
    if call is None:
        return True
    counted = vars(call).setdefault("keras_gumbel_counted", set())
    is_first = id(variable) not in counted
    counted.add(id(variable))
    return is_first


def mark_as_counted(
    scope: keras.StatelessScope, variables: list[keras.Variable]
) -> None:
    """Marks variables, so that no call in a stateless scope counts them."""
    vars(scope)["keras_gumbel_counted"] = set(map(id, variables))


def is_counted(variable: keras.Variable) -> bool:
    """Whether a variable was marked in the outermost call."""
    call = _stateless_scope_of(variable) or current_call()
    return id(variable) in getattr(call, "keras_gumbel_counted", ())


def is_in_stateless_scope(variable: keras.Variable) -> bool:
    """Whether a stateless scope has a value of a variable."""
    return _stateless_scope_of(variable) is not None


def _stateless_scope_of(variable: keras.Variable) -> Any:
    """Returns the innermost stateless scope with a value of a variable."""
    try:
        from keras.src.backend.common import stateless_scope
    except ImportError:
        return None
    scope = stateless_scope.get_stateless_scope()
    while scope is not None and scope.get_current_value(variable) is None:
        scope = getattr(scope, "original_scope", None)
    return scope


@contextlib.contextmanager
def in_scope_of(variable: keras.Variable, enter: bool) -> Iterator[None]:
    """Leaves the stateless scopes without a value of a variable.

    On JAX, recurrent layers open such a scope, and drop assignments in it.
    """
    try:
        from keras.src.backend.common import global_state
    except ImportError:
        enter = False
    if not enter:
        yield
        return
    before = global_state.get_global_attribute("stateless_scope")
    scope = _stateless_scope_of(variable)
    global_state.set_global_attribute("stateless_scope", scope)
    try:
        yield
    finally:
        global_state.set_global_attribute("stateless_scope", before)


def calls_per_update(model: Any) -> int | None:
    """Returns the number of calls of a model per update, if known.

    The optimizer accumulates gradients over these calls.
    """
    optimizer = getattr(model, "optimizer", None)
    return None if optimizer is None else calls_per_update_by(optimizer)


def calls_per_update_by(optimizer: Any) -> int:
    """Returns the number of calls whose gradients an optimizer accumulates."""
    while optimizer is not None:
        steps = getattr(optimizer, "gradient_accumulation_steps", None)
        if steps:
            return int(steps)
        optimizer = getattr(optimizer, "inner_optimizer", None)
    return 1


def training_in_context() -> bool | None:
    """Returns the `training` argument of the current call, if known.

    Not every layer has such an argument.
    """
    context = current_call()
    if context is None:
        return None
    if hasattr(context, "get_value"):
        return context.get_value("training")
    return getattr(context, "training", None)


def in_symbolic_scope() -> bool:
    """Whether Keras makes a call only to infer shapes."""
    try:
        from keras.src.backend.common.symbolic_scope import in_symbolic_scope
    except ImportError:
        return False
    return bool(in_symbolic_scope())


def global_seed() -> Tensor:
    """Draws the next seed from Keras, for `seed=None`."""
    try:
        from keras.src.random.seed_generator import draw_seed
    except ImportError:
        return keras.random.randint((2,), 0, 2**31 - 1)
    return draw_seed(None)


def without_autocast() -> contextlib.AbstractContextManager[Any]:
    """Lets variables be read in their own dtype."""
    try:
        from keras.src.backend.common.variables import AutocastScope
    except ImportError:
        return contextlib.nullcontext()
    return AutocastScope(None)


def is_readable(variable: keras.Variable) -> bool:
    """Whether a variable has a value here.

    In a step of `fit` on JAX, an optimizer sees only the variables that it
    trains.
    """
    try:
        from keras.src.backend.common import stateless_scope
    except ImportError:
        return True
    if stateless_scope.in_stateless_scope():
        scope = stateless_scope.get_stateless_scope()
        if scope.get_current_value(variable) is not None:
            return True
    return getattr(variable, "_value", variable) is not None


class GraphCall(NamedTuple):
    """One call of a layer or operation in a Functional model.

    Attributes:
        layer: The layer or operation.
        inputs: List of symbolic tensors.
        outputs: List of symbolic tensors.
        arguments: Dictionary of all arguments, by position or name.
    """

    layer: Any
    inputs: list[Tensor]
    outputs: list[Tensor]
    arguments: dict[int | str, Any]


def graph_calls(model: keras.Model) -> Iterator[GraphCall]:
    """Yields the calls of a Functional or built Sequential model.

    The call that makes a tensor comes before the calls that read it.
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
    """Returns the name of the input layer of a symbolic tensor."""
    return tensor._keras_history.operation.name


def carried_mask(inputs: Any) -> Any:
    """Returns the mask of a tensor, such as a mask of padded steps."""
    try:
        # On JAX, masks of traced tensors are kept in a table.
        from keras.src.backend.common.masking import get_keras_mask
    except ImportError:
        return getattr(inputs, "_keras_mask", None)
    return get_keras_mask(inputs)


def is_propagated_mask(mask: Any, inputs: Any) -> bool:
    """Whether `mask` is the mask of `inputs`, by its shape.

    It is not always the same object, because a Functional model computes it
    separately. While a model is built, symbolic tensors have no masks.
    """
    carried = carried_mask(inputs)
    return carried is not None and tuple(carried.shape) == tuple(mask.shape)


def exclude_from_weight_decay(
    optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable]
) -> None:
    """Excludes variables, and keeps the exclusions of the user.

    The public `exclude_from_weight_decay` replaces them.
    """
    excluded = set(getattr(optimizer, "_exclude_from_weight_decay", ()))
    excluded.update(optimizer._var_key(v) for v in variables)
    optimizer._exclude_from_weight_decay = excluded
    optimizer._exclude_from_weight_decay_cache = {}


def forgo_needless_weight_decay(
    optimizer: keras.optimizers.Optimizer,
) -> None:
    """Removes the weight decay of an optimizer if nothing decays.

    On torch, Keras fails if there is no variable to decay.
    """
    excluded: set[Any] = getattr(optimizer, "_exclude_from_weight_decay", set())
    if excluded.issuperset(optimizer._trainable_variables_indices):
        optimizer.weight_decay = None


def trained_by(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """Returns the variables that an optimizer was built for."""
    return list(optimizer._trainable_variables)


def resumed_epoch(model: keras.Model) -> int | None:
    """Returns the epoch that a callback continues a run from, or `None`."""
    return getattr(model, "_initial_epoch", None) or None


def moving_averages(
    optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable]
) -> list[keras.Variable]:
    """Returns the moving averages that an optimizer has of variables."""
    if not optimizer.use_ema or not optimizer.built:
        return []
    known = optimizer._trainable_variables_indices
    averages = optimizer._model_variables_moving_average
    keys = [optimizer._var_key(v) for v in variables]
    return [averages[known[key]] for key in keys if key in known]


def sum_over_replicas(gradients: list[Tensor]) -> tuple[list[Tensor], int]:
    """Returns gradients of the whole batch, and the number of replicas.

    Under `tf.distribute`, Keras sums gradients only after optimizers have seen
    them. Elsewhere, they arrive as sums.
    """
    if keras.config.backend() == "tensorflow":
        import tensorflow

        context = tensorflow.distribute.get_replica_context()
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
        import tensorflow

        return tensorflow.init_scope()
    return contextlib.nullcontext()


def has_values(variable: keras.Variable) -> bool:
    """Whether a variable has been initialized.

    A variable that is created while TensorFlow traces a function is initialized
    when the function runs.
    """
    if keras.config.backend() != "tensorflow":
        return True
    import tensorflow

    with tensorflow.init_scope():
        return bool(variable.value.is_initialized())


def is_eager(tensor: Tensor) -> bool:
    """Whether the tensor has a value now: no trace, graph or symbol."""
    if isinstance(tensor, keras.KerasTensor):
        return False
    if keras.config.backend() == "tensorflow":
        import tensorflow

        return tensorflow.executing_eagerly()
    if keras.config.backend() == "jax":
        import jax

        return not isinstance(tensor, jax.core.Tracer)
    return True


def has_value(variable: keras.Variable) -> bool:
    """Whether a variable has a value here.

    In a step of `fit` on JAX, variables that the step does not know have none.
    """
    if getattr(variable, "_value", True) is not None:
        return True
    return is_in_stateless_scope(variable)


def on_accelerator(tensor: Tensor) -> bool:
    """Whether a tensor is, or will be, on a GPU or TPU."""
    if keras.config.backend() == "torch":
        return tensor.device.type != "cpu"
    return not keras.distribution.list_devices()[0].startswith("cpu")


def slot_variables(
    optimizer: keras.optimizers.Optimizer, variable: keras.Variable
) -> list[keras.Variable]:
    """Returns the optimizer variables of a variable, in its shape.

    Keras names such a variable after the path of its variable.
    """
    prefix = variable.path.replace("/", "_") + "_"
    return [
        slot
        for slot in optimizer.variables
        if slot.name.startswith(prefix)
        and tuple(slot.shape) == tuple(variable.shape)
    ]


def take_the_place_of(old: keras.Layer, new: keras.Layer) -> None:
    """Turns a layer into another one, at the same place in its models."""
    places = {
        name: vars(old)[name]
        for name in ("_inbound_nodes", "_outbound_nodes", "_path")
        if name in vars(old)
    }
    old.__class__ = type(new)
    vars(old).clear()
    vars(old).update(vars(new), **places, built=True)


@contextlib.contextmanager
def losses_of_examples(
    model: keras.Model, y: Any, y_pred: Any, sample_weight: Any
) -> Iterator[list[Tensor]]:
    """Records the loss of each example in the losses of a model.

    Yields: A list, to which each loss of `compile` adds a tensor of shape
        `(batch,)` when it is computed. Losses without a value for each example
        add nothing.
    """
    found: list[Tensor] = []
    compiled: Any = getattr(model, "_compile_loss", None)
    if not hasattr(compiled, "_flat_losses"):
        # Then the losses of batches are compared, with more variance.
        yield found
        return
    if not compiled.built:
        compiled(y, y_pred, sample_weight)
    entries = compiled._flat_losses
    compiled._flat_losses = [
        entry._replace(loss=_noting(entry.loss, entry.loss_weights, found))
        for entry in entries
    ]
    try:
        yield found
    finally:
        compiled._flat_losses = entries


def _noting(
    loss: Any, weight: Any, found: list[Tensor]
) -> Callable[..., Tensor]:
    """Returns a loss that also records the loss of each example."""

    def compute(y: Any, y_pred: Any, sample_weight: Any = None) -> Tensor:
        raw: list[Tensor] = []

        def call(*args: Any) -> Tensor:
            raw.append(type(loss).call(loss, *args))
            return raw[-1]

        def reduced(values: Tensor, reduction: Any) -> Tensor:
            with _having(loss, call=lambda *_: values, reduction=reduction):
                return loss(y, y_pred, sample_weight)

        reduction = loss.reduction
        with _having(loss, call=call):
            value = loss(y, y_pred, sample_weight)
        if len(raw) == 1 and len(raw[0].shape) > 0:
            ones = ops.ones_like(raw[0])
            shares = ops.sum(reduced(ones, None))
            scale = reduced(ones, reduction) / ops.where(
                ops.equal(shares, 0.0), 1.0, shares
            )
            parts = scale * reduced(ops.stop_gradient(raw[0]), None)
            parts = ops.sum(parts, axis=tuple(range(1, len(parts.shape))))
            found.append(parts if weight is None else weight * parts)
        return value

    return compute


@contextlib.contextmanager
def _having(instance: Any, **attributes: Any) -> Iterator[None]:
    """Replaces attributes of an object temporarily."""
    own = vars(instance)
    before = {name: own[name] for name in attributes if name in own}
    own.update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            del own[name]
        own.update(before)
