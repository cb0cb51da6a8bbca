"""The functions that are running."""

import sys
import threading
from collections.abc import Iterator
from types import FrameType

from keras_gumbel import _keras_private


def frames(
    file: str, *functions: str, until: bool = False, everywhere: bool = False
) -> Iterator[FrameType]:
    """Yields the frames of running functions, the innermost first.

    Args:
        file: String, the end of the path of the file of the functions.
        *functions: Strings, their names.
        until: Boolean, whether to stop at the outermost call of a layer.
            Defaults to `False`.
        everywhere: Boolean, whether to continue with the main thread, because
            `tf.distribute` runs functions in other threads. Defaults to
            `False`.
    """
    call = _keras_private.current_call() if until else None
    for frame in _all_frames(sys._getframe(1), everywhere):
        code = frame.f_code
        if code.co_name in functions and code.co_filename.endswith(file):
            yield frame
        if call is not None and code.co_name == "__call__":
            if frame.f_locals.get("self") is call.entry_layer:
                return


def _all_frames(
    frame: FrameType | None, everywhere: bool
) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
    main = threading.main_thread().ident
    if everywhere and main is not None and threading.get_ident() != main:
        yield from _all_frames(sys._current_frames().get(main), False)
