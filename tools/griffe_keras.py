"""Shows mkdocstrings what Keras's docstrings mean."""

import ast
import functools
import pathlib
import re
from typing import Any

import griffe

SNAPSHOT = pathlib.Path(__file__).parents[1] / "tests" / "test_public_api.py"

_EXAMPLE = re.compile(r"^Example:\n", re.MULTILINE)
_DOCTEST = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)
# Code on lines of its own, which has no links.
_BLOCK = re.compile(r"(^ *```.*?^ *```$|^>>> .*(?:\n.+)*)", re.M | re.S)
_INLINE = re.compile(r"(?<![`\[])`(?:keras_gumbel\.|kg\.)?([\w.]+)`(?!`|\])")


@functools.cache
def public_names() -> set[str]:
    """Reads the dotted names of the snapshot of the API."""
    (snapshot,) = [
        ast.literal_eval(node.value)
        for node in ast.parse(SNAPSHOT.read_text()).body
        if isinstance(node, ast.Assign)
        and ast.unparse(node.targets[0]) == "API"
    ]
    names = re.findall(r"^[\w.]+", snapshot, re.MULTILINE)
    return {"keras_gumbel." + name for name in names} - {
        "keras_gumbel.__version__"
    }


@functools.cache
def short_names() -> dict[str, str]:
    """Returns what a name in a docstring refers to, where that is certain.

    A lower-case word such as `categorical` may be an argument as well. It is a
    function if it is in the package itself, or written with its module.
    """
    found: dict[str, list[str]] = {}
    for full in public_names():
        inside = full.removeprefix("keras_gumbel.")
        module, _, name = inside.rpartition(".")
        found.setdefault(inside, []).append(full)
        if module and (name[0].isupper() or "_" in name):
            found.setdefault(name, []).append(full)
    return {name: full[0] for name, full in found.items() if len(full) == 1}


def linked(text: str, owner: str) -> str:
    """Links every name of the API in a text, but the one it documents."""

    def link(match: re.Match[str]) -> str:
        full = short_names().get(match[1])
        if full is None or full.rpartition(".")[2] == owner:
            return match[0]
        return f"[{match[0]}][{full}]"

    parts = _BLOCK.split(text)
    parts[::2] = [_INLINE.sub(link, part) for part in parts[::2]]
    return "".join(parts)


class KerasDocstrings(griffe.Extension):
    """Fences examples and links names."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Keras does not indent what stands under `Example:`."""
        if obj.docstring is not None:
            text = linked(obj.docstring.value, obj.name)
            text = _EXAMPLE.sub("**Example**\n", text)
            text = _DOCTEST.sub(r"```pycon\n\g<0>\n```", text)
            obj.docstring.value = text
