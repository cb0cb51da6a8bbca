"""Version, changelog and citation tell the same release."""

import pathlib
import re
import tomllib

import pytest

import keras_gumbel

pytestmark = pytest.mark.one_backend

ROOT = pathlib.Path(__file__).parents[1]
CHANGELOG = "# Changelog\n\n## Unreleased\n\n## 0.2.0 - 2027-01-31\n\n- New.\n"
CITATION = "title: keras-gumbel\nversion: 0.2.0\ndate-released: 2027-01-31\n"
README = "  version = {0.2.0},\n  year    = {2027},\n"


def release_errors(version, changelog, citation, readme):
    """Lists what does not belong to the version."""
    headings = re.findall(r"^## (.+)$", changelog, re.MULTILINE)
    released = [h for h in headings if h != "Unreleased"]
    cited = [
        re.findall(rf"^{key}: *['\"]?([\w.-]+)", citation, re.MULTILINE)
        for key in ("version", "date-released")
    ]
    errors = []
    if ".dev" in version and headings[0] != "Unreleased":
        errors.append("a development version with nothing unreleased")
    if ".dev" not in version and not released[:1]:
        errors.append(f"{version} is not in the changelog")
    if ".dev" not in version and released[:1]:
        if released[0].split(" - ")[0] != version:
            errors.append(f"the changelog has {released[0]}, not {version}")
    latest = released[0].split(" - ") if released else []
    if [value for values in cited for value in values] != latest:
        errors.append(f"the citation has {cited}, the changelog {latest}")
    bibtex = [
        value
        for key in ("version", "year")
        for value in re.findall(rf"^  {key} *= {{(.+)}},$", readme, re.M)
    ]
    if bibtex != [value.split("-")[0] for value in latest]:
        errors.append(f"the README has {bibtex}, the changelog {latest}")
    return errors


def test_files_tell_the_same_release():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    citation = (ROOT / "CITATION.cff").read_text()

    readme = (ROOT / "README.md").read_text()

    version = keras_gumbel.__version__
    assert release_errors(version, changelog, citation, readme) == []


def test_citation_names_the_repository_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = (ROOT / "CITATION.cff").read_text()

    (url,) = re.findall(r"^repository-code: (\S+)$", citation, re.MULTILINE)

    assert url == project["urls"]["Repository"]


@pytest.mark.parametrize("version", ["0.2.0", "0.3.0.dev0"])
def test_a_release_that_is_told_right_has_no_errors(version):
    assert release_errors(version, CHANGELOG, CITATION, README) == []


@pytest.mark.parametrize(
    ("version", "changelog", "citation", "readme"),
    [
        ("0.2.1", CHANGELOG, CITATION, README),
        ("0.2.0", CHANGELOG.replace("0.2.0", "0.1.9"), CITATION, README),
        ("0.2.0", CHANGELOG, CITATION.replace("01-31", "01-30"), README),
        ("0.2.0", CHANGELOG, "title: keras-gumbel\n", README),
        ("0.2.0", CHANGELOG, CITATION, README.replace("0.2.0", "0.1.0")),
        ("0.2.0", CHANGELOG, CITATION, README.replace("2027", "2026")),
        ("0.2.0", "## Unreleased\n", CITATION, README),
        (
            "0.3.0.dev0",
            CHANGELOG.replace("## Unreleased\n", ""),
            CITATION,
            README,
        ),
    ],
)
def test_a_release_that_is_told_wrong_is_noticed(
    version, changelog, citation, readme
):
    assert release_errors(version, changelog, citation, readme) != []
