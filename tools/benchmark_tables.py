"""A Markdown extension: numbers on one line, the best of a column in bold.

A benchmark prints plain tables. The line above a table says what it measures,
so it says which values are good: the largest accuracies, the smallest losses
and errors. Dense networks, for reference, do not compete. Where a line says
neither, or a table has differences of methods, nothing is bold.
"""

import re
from typing import Any
from xml.etree import ElementTree

import markdown
from markdown.treeprocessors import Treeprocessor

NUMBER = re.compile(r"[-+]?[\d.,]+( ?[%x]| ± [\d.]+)?(?=[\s;(]|$)[^a-zA-Z]*")
MEASURED = re.compile(r"^([\d.]+) ± [\d.]+$")


def words(element: ElementTree.Element) -> str:
    """Returns the text of an element."""
    return "".join(element.itertext()).strip()


def best_of(line: str) -> Any:
    """Returns `max` or `min`, after what the line above a table says."""
    if re.search(r"\bless the method\b|\bmasks alone\b", line):
        return None
    if re.search(r"\baccuracy\b", line):
        return max
    if re.search(r"\b(loss|error)\b", line):
        return min
    return None


def emphasize(table: ElementTree.Element, best: Any) -> None:
    """Makes the best of each column of measured values bold."""
    rows = [row for row in table.iter("tr") if row.find("td") is not None]
    rows = [row for row in rows if not words(row[0]).startswith("dense")]
    for column in zip(*rows, strict=False):
        values = [MEASURED.match(words(cell)) for cell in column]
        found = [float(value[1]) for value in values if value]
        if len(found) < 2:
            continue
        for cell, value in zip(column, values, strict=True):
            if value and float(value[1]) == best(found):
                strong = ElementTree.SubElement(cell, "strong")
                strong.text, cell.text = cell.text, None


class Tables(Treeprocessor):
    """Marks the cells of every table."""

    def run(self, root: ElementTree.Element) -> None:
        """Goes through the tables, each with the line above it."""
        above = ""
        for element in root:
            if element.tag == "p":
                above = words(element)
            for table in element.iter("table"):
                best = best_of(above)
                if best is not None:
                    emphasize(table, best)
                for cell in table.iter("td"):
                    if NUMBER.fullmatch(words(cell)):
                        cell.set("class", "kg-number")


class Extension(markdown.Extension):
    """Adds the treatment of tables."""

    def extendMarkdown(self, md: markdown.Markdown) -> None:
        """Comes after inline Markdown, which makes the cells' text."""
        md.treeprocessors.register(Tables(md), "benchmark_tables", 5)


def makeExtension(**kwargs: Any) -> Extension:
    """Returns the extension, as Markdown asks for it."""
    return Extension(**kwargs)
