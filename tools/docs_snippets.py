"""Writes what pages include: tables of the API, and the life of a model.

They go to docs/generated/, which is not committed. The table of a page of the
API lists what the page shows, each name with the first line of its docstring.
"""

import html
import pathlib
import re

import griffe
from griffe_keras import public_names

ROOT = pathlib.Path(__file__).parents[1]
API = ROOT / "docs" / "api"
GENERATED = ROOT / "docs" / "generated"

# A model's kernel on its way to the device: what it is called, how it comes
# about, what that means, and the share of each of its 24 weights.
WEIGHTS = (
    9,
    3,
    7,
    1,
    8,
    2,
    5,
    9,
    1,
    6,
    2,
    8,
    1,
    2,
    1,
    3,
    2,
    1,
    9,
    2,
    6,
    1,
    7,
    3,
)
STATES = (
    ("dense", "", "Any built Keras model, trained or not.", "dense"),
    (
        "sparsified",
        "sparsify",
        "Every weight has a score in [0, 1] that trains with it.",
        "scored",
    ),
    (
        "hardened",
        "fit, harden",
        "Scores are 0 or 1: exactly K weights are kept.",
        "hard",
    ),
    (
        "stripped",
        "strip",
        "A plain Keras model again. The zeros are in its kernels.",
        "zeros",
    ),
    (
        "shrunk",
        "shrink",
        "Channels without weights are gone: smaller and faster.",
        "small",
    ),
)


def kernel(state: str) -> str:
    """Draws a kernel of 4 x 6 weights as an SVG."""
    cells = []
    for i, weight in enumerate(WEIGHTS):
        row, column = divmod(i, 6)
        kept = weight > 4 and row != 2
        if state == "small":
            if row == 2:
                continue
            row -= row > 2
        opacity = {
            "dense": 0.35 + weight / 14,
            "scored": weight / 9,
            "hard": 1.0 if kept else 0.0,
            "zeros": 0.35 + weight / 14 if kept else 0.0,
            "small": 0.35 + weight / 14 if kept else 0.0,
        }[state]
        cells.append(
            f'<rect x="{column * 14 + 1}" y="{row * 14 + 1}" width="12"'
            f' height="12" rx="2" style="fill-opacity: {opacity:.2f}"/>'
        )
    height = 42 if state == "small" else 56
    return (
        f'<svg viewBox="0 0 84 {height}" width="84" height="{height}"'
        f' aria-hidden="true">{"".join(cells)}</svg>'
    )


def life_cycle() -> str:
    """Returns a list of the states of a model, each with a picture."""
    items = []
    for name, verb, meaning, state in STATES:
        step = f"<code>{html.escape(verb)}</code>" if verb else ""
        items.append(
            f'<li><span class="kg-step">{step}</span>{kernel(state)}'
            f"<strong>{name}</strong><span>{html.escape(meaning)}</span></li>"
        )
    return f'<ol class="kg-life">{"".join(items)}</ol>\n'


def first_line(item: griffe.Object | griffe.Alias) -> str:
    """Returns the first paragraph of a docstring, in one line."""
    text = item.docstring.value if item.docstring else ""
    return " ".join(text.partition("\n\n")[0].split()).replace("|", r"\|")


def members(
    page: str, package: griffe.Object | griffe.Alias, public: set[str]
) -> list[str]:
    """Returns the dotted names that a page of the API shows."""
    module = re.search(r"^::: (\S+)", page, re.M)
    if module is None:
        return []
    listed = re.findall(r"^ {8}- (\w+)$", page, re.M)
    hidden = re.search(r'"!\^\(([\w|]+)\)\$"', page)
    left_out = hidden[1].split("|") if hidden else []
    owner = package
    if module[1] != "keras_gumbel":
        owner = package[module[1].removeprefix("keras_gumbel.")]
    names = listed or sorted(
        name
        for name in owner.members
        if f"{module[1]}.{name}" in public and name not in left_out
    )
    return [f"{module[1]}.{name}" for name in names]


def table(names: list[str], package: griffe.Object | griffe.Alias) -> str:
    """Returns the rows of names, each with a link and its first line."""
    rows = [
        f"| [`{name.rpartition('.')[2]}`][{name}] "
        f"| {first_line(package[name.removeprefix('keras_gumbel.')])} |"
        for name in names
    ]
    return "\n".join(["| name | what it does |", "|---|---|", *rows]) + "\n"


def main() -> None:
    """Writes all of them anew."""
    GENERATED.mkdir(exist_ok=True)
    (GENERATED / "life_cycle.html").write_text(life_cycle())
    package = griffe.load(
        "keras_gumbel", search_paths=[str(ROOT)], resolve_aliases=True
    )
    public = public_names()
    shown: dict[str, list[str]] = {
        path.stem: members(path.read_text(), package, public)
        for path in sorted(API.glob("*.md"))
    }
    shown["ops"] = sorted(
        name
        for stem in shown
        if stem.startswith("ops_")
        for name in shown[stem]
    )
    for stem, names in shown.items():
        (GENERATED / f"{stem}.inc").write_text(table(names, package))


if __name__ == "__main__":
    main()
