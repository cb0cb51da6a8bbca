"""Shows mkdocstrings what Keras's docstrings and our `X as X` imports mean."""

import ast
import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^Example:\n", re.MULTILINE)
_DOCTEST = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


class KerasDocstrings(griffe.Extension):
    """Fences examples, and makes names imported as themselves public."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Keras does not indent what stands under `Example:`."""
        if obj.docstring is not None:
            text = _EXAMPLE.sub("**Example**\n", obj.docstring.value)
            text = _DOCTEST.sub(r"```pycon\n\g<0>\n```", text)
            obj.docstring.value = text

    def on_alias_instance(
        self, *, node: Any, alias: griffe.Alias, **kwargs: Any
    ) -> None:
        """Type checkers take `import X as X` for a promise, and so do we."""
        if isinstance(node, ast.ImportFrom):
            alias.public = any(
                name.name == name.asname == alias.name for name in node.names
            )
