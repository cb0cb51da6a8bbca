"""Shows mkdocstrings what Keras's docstrings mean."""

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^Example:\n", re.MULTILINE)
_DOCTEST = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


class KerasDocstrings(griffe.Extension):
    """Fences examples."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Keras does not indent what stands under `Example:`."""
        if obj.docstring is not None:
            text = _EXAMPLE.sub("**Example**\n", obj.docstring.value)
            text = _DOCTEST.sub(r"```pycon\n\g<0>\n```", text)
            obj.docstring.value = text
