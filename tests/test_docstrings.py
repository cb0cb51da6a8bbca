import inspect
import re

import pytest

from tests.test_public_api import OBJECTS

pytestmark = pytest.mark.one_backend

# The order of Keras's style guide.
SECTIONS = [
    "Args",
    "Call arguments",
    "Input shape",
    "Output shape",
    "Attributes",
    "Returns",
    "Raises",
    "Example",
    "References",
]


def _documented_arguments(docstring):
    # Those of a dataclass are its attributes.
    kind = "Args" if "\nArgs:\n" in docstring else "Attributes"
    section = re.search(rf"\n{kind}:\n((?:    .*\n|\n)+)", docstring + "\n")
    if section is None:
        return {}
    entries = re.split(r"\n    (?=\S)", "\n" + section[1])
    pairs = (entry.split(":", 1) for entry in entries if entry.strip())
    return {name.strip(): " ".join(text.split()) for name, text in pairs}


def _defaults(value):
    return {
        name: parameter.default
        for name, parameter in inspect.signature(value).parameters.items()
        if parameter.default is not parameter.empty
    }


def documented_default_errors(value):
    """Lists where the documentation and the signature disagree."""
    documented = _documented_arguments(inspect.getdoc(value))
    errors = []
    for name, default in _defaults(value).items():
        stated = re.search(r"Defaults to `(.+?)`\.", documented.get(name, ""))
        if stated is None or eval(stated[1]) != default:
            errors.append((name, default, stated and stated[1]))
    return errors


@pytest.mark.parametrize("name", OBJECTS)
def test_docstring_documents_every_argument(name):
    value = OBJECTS[name]
    parameters = inspect.signature(value).parameters.values()
    expected = [
        "**" + p.name if p.kind is p.VAR_KEYWORD else p.name for p in parameters
    ]

    documented = list(_documented_arguments(inspect.getdoc(value)))

    assert documented == expected


@pytest.mark.parametrize("name", OBJECTS)
def test_docstring_defaults_are_those_of_the_signature(name):
    assert documented_default_errors(OBJECTS[name]) == []


@pytest.mark.parametrize("name", OBJECTS)
def test_docstring_sections_stand_in_order(name):
    titles = re.findall(r"^(\w[\w ]*):$", inspect.getdoc(OBJECTS[name]), re.M)

    found = [title for title in titles if title in SECTIONS]

    assert found == sorted(found, key=SECTIONS.index)


@pytest.mark.parametrize("name", OBJECTS)
def test_docstring_equations_are_in_the_note(name):
    numbers = re.findall(r"Eqs?\. \(?(\d+)", inspect.getdoc(OBJECTS[name]))

    assert all(1 <= int(number) <= 33 for number in numbers)


def test_docstring_check_sees_a_wrong_default():
    def wrong(rate=0.5):
        """Does nothing.

        Args:
            rate: Float. Defaults to `0.1`.
        """

    assert documented_default_errors(wrong) == [("rate", 0.5, "0.1")]
