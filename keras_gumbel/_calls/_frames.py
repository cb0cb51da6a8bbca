"""The functions that are running."""

import sys
from collections.abc import Iterator
from types import FrameType

from keras_gumbel import _keras_private


def frames(
    file: str, *functions: str, until: bool = False
) -> Iterator[FrameType]:
    """Yields the frames of functions that run, the innermost first.

    Args:
        file: String, how the path of the file of the functions ends.
        *functions: Strings, their names.
        until: Boolean, whether to stop at the outermost call of a layer.
    """
    call = _keras_private.current_call() if until else None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name in functions and code.co_filename.endswith(file):
            yield frame
        if call is not None and code.co_name == "__call__":
            if frame.f_locals.get("self") is call.entry_layer:
                return
        frame = frame.f_back
