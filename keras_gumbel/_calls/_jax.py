"""Calls on JAX."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from keras_gumbel import _keras_private
from keras_gumbel._calls._memory import PASS_NOISE
from keras_gumbel._typing import Tensor

# Functions that can run many times with one trace. JAX also reuses the trace of
# a branch.
_REPEATED = ("scan", "fori_loop", "while_body", "cond", "switch")

# Functions that run in place, with values from around them.
_INLINE = ("checkpoint / remat", "custom_", "closure_convert")


@contextlib.contextmanager
def updating(variable: keras.Variable) -> Iterator[None]:
    home, traces = _traces(variable)
    if home is None or _keras_private.in_symbolic_scope():
        yield
        return
    # In a stateless scope, the caller passes the state.
    if not _keras_private.is_in_stateless_scope(variable):
        for trace in traces:
            _require_transparent(trace)
    with _keras_private.in_scope_of(variable, bool(traces)):
        with _core().set_current_trace(home):
            yield


def seed_of_iteration(seed: Tensor, variable: keras.Variable | None) -> Tensor:
    for trace in _traces(variable)[1]:
        seed = _folded(seed, trace, variable is not None)
    return seed


def _core() -> Any:
    from jax._src import core

    return core


def _traces(variable: keras.Variable | None) -> tuple[Any, list[Any]]:
    """Returns the trace of a value of a variable, and inner traces.

    Returns:
        A tuple `(home, traces)`: the trace for operations on the value, and the
        traces from there to the current one, from the outside in. `(None, [])`
        if this is unknown.
    """
    try:
        core = _core()
    except ImportError:
        return None, []
    if not hasattr(core, "trace_ctx") or not hasattr(core, "set_current_trace"):
        return None, []
    value: Any = None if variable is None else variable.value
    is_traced = isinstance(value, core.Tracer)
    home = value._trace if is_traced else core.eval_trace
    traces, trace = [], core.trace_ctx.trace
    while trace is not home:
        traces.append(trace)
        trace = getattr(trace, "parent_trace", None)
        if trace is None:
            return None, []
    return home, traces[::-1]


def _traced_for(trace: Any) -> str | None:
    """Returns the kind of a trace, or `None` if it changes operations."""
    frame = getattr(trace, "frame", None)
    info = getattr(frame, "debug_info", None)
    return getattr(info, "traced_for", None)


def _require_transparent(trace: Any) -> None:
    what = _traced_for(trace)
    if what is not None and not what.startswith((*_REPEATED, *_INLINE)):
        raise RuntimeError(
            f"Noise is drawn in a function that JAX compiles apart ({what}). "
            "Every call would repeat the noise of the first call. Use "
            "`stateless_call` of the layer or model, which takes and returns "
            f"its state. Or: {PASS_NOISE}"
        )


def _folded(seed: Tensor, trace: Any, in_loops: bool) -> Tensor:
    """Puts the number of the iteration or row of a trace into a seed."""
    import jax

    core = _core()
    if type(trace).__name__ == "BatchTrace":
        if getattr(seed, "_trace", None) is trace:
            return seed  # every row has its own seed
        from jax._src.interpreters import batching

        with core.set_current_trace(trace.parent_trace):
            rows = jax.numpy.arange(trace.axis_data.size)
        index = batching.BatchTracer(trace, rows, 0)
    elif in_loops and _traced_for(trace) in _REPEATED:
        if not hasattr(jax, "new_ref"):
            raise RuntimeError(
                "Noise is drawn in a loop or branch, but this version of JAX, "
                f"{jax.__version__}, cannot draw different noise in each "
                f"iteration. Update JAX. Or: {PASS_NOISE}"
            )
        with core.set_current_trace(_without_gradients(trace.parent_trace)):
            iterations = jax.new_ref(jax.numpy.int32(0))
        with core.set_current_trace(trace):
            index = iterations[...]
            iterations[...] = index + 1
    else:
        return seed
    with core.set_current_trace(trace):
        return jax.random.fold_in(seed, index)


def _without_gradients(trace: Any) -> Any:
    """Returns the trace around those that differentiate."""
    while type(trace).__name__ in ("JVPTrace", "LinearizeTrace"):
        trace = trace.parent_trace
    return trace
