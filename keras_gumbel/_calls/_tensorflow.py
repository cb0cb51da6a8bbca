"""Calls on TensorFlow."""

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from typing import NamedTuple

from keras_gumbel._calls._frames import frames
from keras_gumbel._calls._memory import PASS_NOISE
from keras_gumbel._calls._memory import remember
from keras_gumbel._calls._memory import remembered
from keras_gumbel._typing import Tensor


class _Block(NamedTuple):
    """A call of a function from `tf.recompute_grad`.

    Attributes:
        arguments: The dictionary of its arguments, the same in both passes.
        tape: The tape of the backward pass, or `None` in the forward pass.
    """

    arguments: dict[str, Any]
    tape: Any


def once(compute: Callable[[], Any]) -> Any:
    return _once(compute, list(_blocks()))


def _once(compute: Callable[[], Any], blocks: list[_Block]) -> Any:
    if not blocks:
        return compute()
    arguments, tape = blocks[0]
    # The arguments are kept alive, so no other object gets their `id`.
    entry = remembered.get(id(arguments))
    if entry is None:
        entry = remember(id(arguments), (arguments, []))
    values = entry[1]
    if tape is None:
        values.append(_once(compute, blocks[1:]))
        return values[-1]
    place = getattr(tape, "keras_gumbel_draws", 0)
    tape.keras_gumbel_draws = place + 1
    if place < len(values) and _is_known_here(values[place]):
        return values[place]
    raise RuntimeError(
        "A part of the forward pass that draws noise is run again in the "
        "backward pass by `tf.recompute_grad`. The noise of the forward pass "
        "is not known there, as in a loop. Gradients would be wrong. "
        f"{PASS_NOISE}"
    )


def _blocks() -> Iterator[_Block]:
    """Yields the blocks around the call, the innermost first."""
    for frame in frames("custom_gradient.py", "inner", "inner_recompute_grad"):
        names = frame.f_locals
        if "current_var_scope" in names and "kwargs" in names:
            again = frame.f_code.co_name != "inner"
            yield _Block(names["kwargs"], names["t"] if again else None)


def _is_known_here(tensor: Tensor) -> bool:
    """Whether a tensor belongs to the current graph or to one around it."""
    import tensorflow

    if not hasattr(tensor, "graph"):
        return True
    graph = tensorflow.compat.v1.get_default_graph()
    while graph is not None:
        if graph is tensor.graph:
            return True
        graph = getattr(graph, "outer_graph", None)
    return False


@contextlib.contextmanager
def in_graph_of_call() -> Iterator[None]:
    """Adds operations to the graph in which the model was called."""
    import tensorflow

    if tensorflow.executing_eagerly():
        yield
        return
    graph = tensorflow.compat.v1.get_default_graph()
    for _ in frames("func_graph.py", "func_graph_from_py_func", until=True):
        if "While" in type(graph).__name__ or "Cond" in type(graph).__name__:
            graph = graph.outer_graph
    with graph.as_default():
        yield


def seed_of_row(seed: Tensor) -> Tensor:
    for frame in frames("control_flow_ops.py", "_pfor_impl"):
        seed = _folded(seed, frame.f_locals["loop_var"])
    return seed


def seed_of_replica(seed: Tensor) -> Tensor:
    import tensorflow

    context = tensorflow.distribute.get_replica_context()
    if context is not None and context.num_replicas_in_sync > 1:
        return _folded(seed, context.replica_id_in_sync_group)
    return seed


def _folded(seed: Tensor, index: Tensor) -> Tensor:
    import tensorflow

    index = tensorflow.cast(index, "int32")
    fold_in = tensorflow.random.experimental.stateless_fold_in
    return fold_in(tensorflow.cast(seed, "int32"), index)
