"""Calls on torch."""

from collections.abc import Callable
from typing import Any

from keras_gumbel._calls._memory import PASS_NOISE
from keras_gumbel._calls._memory import remember
from keras_gumbel._calls._memory import remembered
from keras_gumbel._typing import Tensor


def once(compute: Callable[[], Any]) -> Any:
    import torch

    if torch.compiler.is_compiling() or _is_transformed():
        return compute()
    # `torch.utils.checkpoint` restores the state of torch's random numbers, so
    # a random number identifies the repeated call.
    call = int(torch.randint(2**62, (), device="cpu"))
    if not _in_backward_pass():
        if call in remembered:
            # The state of torch's random numbers was restored.
            remembered.clear()
        return remember(call, compute())
    if call not in remembered:
        raise RuntimeError(
            "A part of the forward pass that draws noise is run again in the "
            "backward pass, and the noise of the forward pass is not known. "
            "Gradients would be wrong. Use `torch.utils.checkpoint` with "
            f"`preserve_rng_state=True`, its default. Or: {PASS_NOISE}"
        )
    return remembered[call]


def _in_backward_pass() -> bool:
    import torch

    task = getattr(torch._C, "_current_graph_task_id", lambda: -1)
    return bool(task() != -1)


def _is_transformed() -> bool:
    """Whether `torch.func`, such as `vmap`, transforms the call."""
    import torch

    level = getattr(torch._C._functorch, "maybe_current_level", lambda: None)
    return level() is not None


def process_rank() -> int:
    import torch

    parallel = torch.distributed
    if parallel.is_available() and parallel.is_initialized():
        return int(parallel.get_rank())
    return 0


def exported_noise(shape: Any, normal: bool) -> Tensor | None:
    import torch
    from keras import ops

    compiler: Any = torch.compiler
    exporting = getattr(compiler, "is_exporting", compiler.is_compiling)
    traced: Any = torch.jit
    if not exporting() and not traced.is_tracing():
        return None
    # From the generator of the program that runs the exported file.
    draw = torch.randn if normal else torch.rand
    return draw(tuple(shape), device=ops.zeros(()).device)
