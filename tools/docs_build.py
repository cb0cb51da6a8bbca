"""Builds the site, and stops at what would be wrong with it.

A link to nowhere, a docstring that griffe cannot match with its signature, a
public name without an entry in the API reference: each ends the build. No
server is asked for anything.
"""

import ast
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
SITE = ROOT / "site"


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


def public_names() -> set[str]:
    """Reads the dotted names of the snapshot of the API."""
    path = ROOT / "tests" / "test_public_api.py"
    (snapshot,) = [
        ast.literal_eval(node.value)
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign)
        and ast.unparse(node.targets[0]) == "API"
    ]
    names = re.findall(r"^[\w.]+", snapshot, re.MULTILINE)
    return {"keras_gumbel." + name for name in names} - {
        "keras_gumbel.__version__"
    }


def shown_names() -> set[str]:
    """Lists what has an entry in the API reference."""
    pages = (SITE / "api").rglob("*.html")
    return {
        name
        for page in pages
        for name in re.findall(r'id="(keras_gumbel[\w.]*)"', page.read_text())
    }


def main() -> None:
    """Builds and checks."""
    require_no_griffe_warning(build())
    missing = public_names() - shown_names()
    if missing:
        raise SystemExit(f"Not in the API reference: {sorted(missing)}.")


if __name__ == "__main__":
    main()
