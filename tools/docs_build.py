"""Builds the site, and stops at what would be wrong with it.

A link to nowhere, a docstring that griffe cannot match with its signature, a
public name without an entry in the API reference: each ends the build. No
server is asked for anything.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import docs_charts
import docs_snippets
import docs_tutorials
from griffe_keras import public_names

ROOT = pathlib.Path(__file__).parents[1]
SITE = ROOT / "site"


def repository_url() -> str:
    """Reads the only place that has the address of the repository."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["project"]["urls"]["Repository"]


def build() -> str:
    """Builds the site and returns what Zensical and griffe print."""
    shutil.rmtree(SITE, ignore_errors=True)
    zensical = pathlib.Path(sys.executable).with_name("zensical")
    process = subprocess.run(
        [zensical, "build", "--clean", "--strict"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={
            **os.environ,
            "NO_COLOR": "1",
            "PYTHONPATH": str(ROOT / "tools"),
            "REPOSITORY_URL": repository_url(),
        },
    )
    # Of a traceback, what it says is all there is to know.
    printed = process.stdout.partition("Traceback")[0]
    print(printed, end="")
    if process.returncode:
        raise SystemExit("The site was not built.")
    return printed


def require_no_griffe_warning(printed: str) -> None:
    """`--strict` does not stop at them."""
    if "griffe: " in printed:
        raise SystemExit("griffe warns of the docstrings above.")


def shown_names() -> set[str]:
    """Lists what has an entry in the API reference."""
    pages = (SITE / "api").rglob("*.html")
    return {
        name
        for page in pages
        for name in re.findall(r'id="(keras_gumbel[\w.]*)"', page.read_text())
    }


def main() -> None:
    """Draws, writes, builds and checks."""
    docs_charts.main()
    docs_snippets.main()
    docs_tutorials.main()
    require_no_griffe_warning(build())
    missing = public_names() - shown_names()
    if missing:
        raise SystemExit(f"Not in the API reference: {sorted(missing)}.")


if __name__ == "__main__":
    main()
