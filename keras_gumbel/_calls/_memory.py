"""What has been drawn in forward passes that may be repeated."""

import collections
from typing import Any

PASS_NOISE = (
    "Draw the noise outside of it and pass it as `noise=`: then nothing is "
    "drawn, and no state changes."
)

# How many draws are remembered.
_LENGTH = 2**16

remembered: collections.OrderedDict[Any, Any] = collections.OrderedDict()


def remember(key: Any, value: Any) -> Any:
    """Returns a value, which is known by its key from now on."""
    remembered[key] = value
    if len(remembered) > _LENGTH:
        remembered.popitem(last=False)
    return value
