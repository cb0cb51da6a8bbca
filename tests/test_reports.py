import re
import xml.etree.ElementTree

import numpy as np
import pytest

from keras_gumbel import diagnostics
from keras_gumbel import shrinking
from keras_gumbel import sparsity

pytestmark = pytest.mark.one_backend

NAME = "block<1>&[bold]/kernel"
SIZE = sparsity.SparsitySize(4000, 900, 525, 2400, 4000, 0)
REPORTS = [
    sparsity.SparsityReport(
        rows=(
            sparsity.SparsityRow(NAME, 1000, 100, 100.0, 3, SIZE),
            sparsity.SparsityRow("empty", 1000, 0, 0.0, 0, SIZE),
            sparsity.SparsityRow("gate", 30, 10, 9.5, 1, SIZE, "features"),
        ),
        budget=110,
        budget_used=0.995,
        skipped={"head<2>/kernel": "left out"},
        other_bytes=1234,
        score_steps=2,
    ),
    shrinking.ShrinkReport(
        rows=(shrinking.ShrinkRow(NAME, 1000, 8, {"its sum is < 1": 2}),),
        parameters=2000,
        kept=30,
        skipped={"head<2>": "Dense shared"},
    ),
    diagnostics.GradientReport(
        rows=(diagnostics.GradientRow(NAME, 0.1, 0.01, 2.0, 0.9),),
        gradient=np.ones(2),
    ),
    sparsity.LiteRTReport(1000, 2000, 1e-6, {1: 2e-6}, {1: 3e-6}),
]
IDS = [type(report).__name__ for report in REPORTS]


def _words(text):
    """Splits the text of a report at the frames of its tables."""
    return " ".join(re.split(r"[\s┏┓┡┩├┤└┘┃│━─┳╇┼┴]+", text)).split()


@pytest.mark.parametrize("report", REPORTS, ids=IDS)
def test_notebooks_show_what_print_shows(report):
    # Fails where a name is not escaped, or a tag is not closed.
    html = xml.etree.ElementTree.fromstring(report._repr_html_())

    shown = _words("\n".join(html.itertext()))

    assert sorted(shown) == sorted(_words(str(report)))


def test_html_tables_have_heads_rows_and_totals():
    html = xml.etree.ElementTree.fromstring(REPORTS[0]._repr_html_())

    counts, sizes, features = html.findall("table")

    assert [c.text for c in counts.findall("thead/tr/th")][1] == "weights"
    assert [c.text for c in counts.findall("tbody/tr/td")][:3] == [
        NAME,
        "1,000",
        "100",
    ]
    assert [c.text for c in sizes.findall("tfoot/tr/th")][:2] == [
        "total",
        "8,000",
    ]
    assert len(features.findall("tbody/tr")) == 1


@pytest.mark.parametrize("report", REPORTS[:3], ids=IDS[:3])
def test_text_shows_names_with_brackets(report):
    assert NAME in str(report)
