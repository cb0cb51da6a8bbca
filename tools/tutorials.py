"""Turns examples/*.py into cells: prose and code, one after the other.

An example begins with a docstring of `Title:`, `Description:` and the like.
Every further string that stands by itself is Markdown; what is between two of
them is code.
"""

import ast
import dataclasses
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
OUTPUTS = ROOT / "docs" / "outputs"
IMAGES = ROOT / "docs" / "images"

# Stands above the output of a cell in a file of recorded outputs.
MARK = re.compile(r"^#### (\w+) (.+)\n", re.M)


@dataclasses.dataclass(frozen=True)
class Cell:
    """A piece of an example, and whether it is code."""

    text: str
    code: bool


@dataclasses.dataclass(frozen=True)
class Tutorial:
    """An example: its name, its header and its cells."""

    name: str
    header: dict[str, str]
    cells: list[Cell]

    @property
    def code(self) -> list[str]:
        """The code of all cells that have some."""
        return [cell.text for cell in self.cells if cell.code]


def is_prose(node: ast.stmt) -> bool:
    """Returns whether a statement is a string that stands by itself."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def read(name: str) -> Tutorial:
    """Parses an example."""
    source = (EXAMPLES / f"{name}.py").read_text()
    lines = source.splitlines()
    prose = [node for node in ast.parse(source).body if is_prose(node)]
    header = dict(re.findall(r"^([\w ]+): (.+)$", prose[0].value.value, re.M))
    cells = []
    ends = [node.lineno - 1 for node in prose[1:]] + [len(lines)]
    for node, end in zip(prose, ends, strict=True):
        if node is not prose[0]:
            cells.append(Cell(node.value.value.strip(), code=False))
        code = "\n".join(lines[node.end_lineno : end]).strip()
        if code:
            cells.append(Cell(code, code=True))
    return Tutorial(name, header, cells)


def names() -> list[str]:
    """Lists the examples, in the order that the site shows them in."""
    return sorted(path.stem for path in EXAMPLES.glob("*.py"))


def recorded(name: str) -> tuple[dict[str, str], list[str]]:
    """Reads what a run of an example said of itself, and what it printed.

    Returns:
        The facts about the run, and the output of each cell of code.
    """
    parts = MARK.split((OUTPUTS / f"{name}.txt").read_text())[1:]
    marks = list(zip(parts[::3], parts[1::3], parts[2::3], strict=True))
    facts = {kind: value for kind, value, _ in marks if kind != "cell"}
    outputs = [text.strip("\n") for kind, _, text in marks if kind == "cell"]
    return facts, outputs
