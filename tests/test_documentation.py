import pathlib
import re
import tomllib
import unittest

import keras
import pytest
from sybil import Sybil
from sybil.document import PythonDocStringDocument
from sybil.parsers.markdown import PythonCodeBlockParser
from sybil.parsers.markdown import SkipParser
from sybil.parsers.rest import DocTestParser

import keras_gumbel
from tests.test_public_api import OBJECTS

ROOT = pathlib.Path(__file__).parents[1]
MODULES = [
    path
    for path in sorted((ROOT / "keras_gumbel").rglob("*.py"))
    if ">>> " in path.read_text()
]
LOOPS = ROOT / "docs" / "custom_training.md"
# Made from the examples when the site is built. `test_examples` runs those.
TUTORIALS = ROOT / "docs" / "tutorials"
PAGES = [
    path
    for path in sorted((ROOT / "docs").rglob("*.md"))
    if "```python" in path.read_text()
    and path != LOOPS
    and path.parent != TUTORIALS
]


def _markdown(path):
    return Sybil([PythonCodeBlockParser(), SkipParser()]).parse(path)


def _docstrings(path):
    types = {".py": PythonDocStringDocument}
    return Sybil([DocTestParser()], document_types=types).parse(path)


def _run(document):
    """Runs the examples of a document, which raise where they fail.

    Returns:
        The number of those that were run, not skipped.
    """
    document.namespace.update(keras=keras, keras_gumbel=keras_gumbel)
    count = 0
    for example in document.examples():
        try:
            example.evaluate()
        except unittest.SkipTest:
            continue
        count += not isinstance(example.parsed, tuple)  # a `skip` itself
    return count


# Keras's own switch for cutting examples short warns, and so does a mask that
# is made final early.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Limiting epochs")
@pytest.mark.filterwarnings("ignore:The final mask keeps")
def test_readme_blocks_run(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_MAX_EPOCHS", "1")
    monkeypatch.chdir(tmp_path)

    count = _run(_markdown(ROOT / "README.md"))

    assert count == 2
    assert (tmp_path / "sparse.keras").exists()


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "page",
    sorted((ROOT / "docs" / "benchmarks").glob("[!i]*.md")),
    ids=lambda path: path.stem,
)
def test_a_benchmark_has_a_chart_before_its_tables(page):
    above = page.read_text().partition("\n| ")[0]

    assert f"../generated/{page.stem}-light.svg" in above
    assert f"../generated/{page.stem}-dark.svg" in above


@pytest.mark.one_backend
def test_the_readme_has_the_address_of_the_repository_on_the_index():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    address = project["project"]["urls"]["Repository"]
    owner = address.removeprefix("https://github.com/")
    hooks = project["tool"]["hatch"]["metadata"]["hooks"]
    readme = (ROOT / "README.md").read_text()

    for rule in hooks["fancy-pypi-readme"]["substitutions"]:
        readme = re.sub(rule["pattern"], rule["replacement"], readme)

    links = re.findall(r'\]\((.+?)\)|src(?:set)?="(.+?)"', readme)
    links = [link or source for link, source in links]
    inside = [link for link in links if f"/{owner}/" in link]
    assert all(link.startswith("https://") for link in links)
    assert len(inside) > 10
    for link in inside:
        path = re.split(r"/main/", link)[1].partition("#")[0]
        assert (ROOT / path).exists()


@pytest.mark.slow
@pytest.mark.one_backend
@pytest.mark.parametrize("path", PAGES)
def test_pages_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert _run(_markdown(path)) > 0


def test_custom_loop_of_the_backend_runs_and_no_other():
    document = _markdown(LOOPS)

    assert _run(document) == 3  # what they share, one loop, the result
    names = {"jax": "jax", "tensorflow": "tf", "torch": "torch"}
    backend = names.pop(keras.config.backend())
    assert backend in document.namespace
    assert not set(names.values()) & set(document.namespace)


@pytest.mark.one_backend
def test_quoted_measurements_are_those_of_the_benchmark():
    quoted = _table_rows("docs/estimators.md")
    printed = _table_rows("docs/benchmarks/estimators.md")

    measured = [row for row in quoted if len(row) == 6 and row[2][0].isdigit()]
    assert len(measured) == 19
    for name, *numbers in measured:
        assert [re.findall(r"\w+", name)[0], *numbers] in printed


@pytest.mark.one_backend
def test_every_public_module_has_a_page():
    modules = {f"keras_gumbel.{name}".rpartition(".")[0] for name in OBJECTS}

    shown = {
        module
        for path in (ROOT / "docs/api").glob("*.md")
        for module in re.findall(r"^::: (\S+)$", path.read_text(), re.M)
    }

    # What a module shows is compared with the names by tools/docs_build.py.
    assert shown == modules


@pytest.mark.one_backend
def test_note_names_tests_that_exist():
    note = (ROOT / "docs/note.md").read_text()
    quoted = set(re.findall(r"`(test_\w+)`", note))
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }

    assert quoted - defined == set()
    assert len(quoted) >= note.count("- Test: ") > 10


@pytest.mark.one_backend
def test_note_has_every_equation():
    note = (ROOT / "docs/note.md").read_text()
    tags = re.findall(r"\\tag\{([\d-]+)\}", note)

    spans = [[int(n) for n in tag.split("-")] for tag in tags]

    found = [n for span in spans for n in range(span[0], span[-1] + 1)]
    assert found == list(range(1, 34))


def _table_rows(path):
    lines = (ROOT / path).read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]


@pytest.mark.one_backend
@pytest.mark.parametrize("path", MODULES)
def test_docstring_examples_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert _run(_docstrings(path)) > 0


@pytest.mark.one_backend
def test_documentation_check_sees_a_wrong_example(tmp_path):
    path = tmp_path / "wrong.md"
    path.write_text("```python\nassert 1 + 1 == 3\n```\n")

    with pytest.raises(AssertionError):
        _run(_markdown(path))
