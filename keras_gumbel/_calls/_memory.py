"""The draws of forward passes that may be repeated."""

import collections
from typing import Any

PASS_NOISE = (
    "Draw the noise outside of it and pass it as `noise=`. Then nothing is "
    "drawn, and no state changes."
)

# The number of draws that are remembered.
_LENGTH = 2**16

remembered: collections.OrderedDict[Any, Any] = collections.OrderedDict()


def remember(key: Any, value: Any) -> Any:
    """Stores a value under its key, and returns it."""
    remembered[key] = value
    if len(remembered) > _LENGTH:
        remembered.popitem(last=False)
    return value
