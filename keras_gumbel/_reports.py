"""Reports as text in a terminal and as HTML in a notebook."""

import abc
import dataclasses
import html
import io
from collections.abc import Sequence

_WIDTH = 100


@dataclasses.dataclass(frozen=True)
class Table:
    """A table whose first column holds names, and all others numbers.

    Attributes:
        titles: Strings, one for each column.
        rows: The cells of each row, as strings.
        total: The cells of a separate last row, or `None`.
    """

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    total: Sequence[str] | None = None


class Report(abc.ABC):
    """Base class of reports, with the same content for all displays."""

    @abc.abstractmethod
    def _parts(self) -> Sequence[Table | str]:
        """Returns the tables and lines of the report, in order."""

    def __str__(self) -> str:
        parts = self._parts()
        return "\n".join(p if isinstance(p, str) else _text(p) for p in parts)

    def _repr_html_(self) -> str:
        parts = "\n".join(map(_html, self._parts()))
        return f"<div>\n{parts}\n</div>"


def _text(table: Table) -> str:
    # Keras depends on rich. Importing it here keeps the import of this package
    # fast.
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as RichTable

    name, *titles = table.titles
    drawn = RichTable()
    drawn.add_column(name, overflow="fold")
    for title in titles:
        drawn.add_column(title, justify="right", no_wrap=True)
    for row in table.rows:
        drawn.add_row(*map(escape, row))
    if table.total is not None:
        drawn.add_section()
        drawn.add_row(*map(escape, table.total))
    text = io.StringIO()
    Console(file=text, width=_WIDTH).print(drawn)
    return text.getvalue().rstrip()


def _html(part: Table | str) -> str:
    if isinstance(part, str):
        return f"<p>{html.escape(part)}</p>"
    lines = [
        "<table>",
        f"<thead>{_html_row('th', part.titles)}</thead>",
        "<tbody>",
        *(_html_row("td", row) for row in part.rows),
        "</tbody>",
    ]
    if part.total is not None:
        lines.append(f"<tfoot>{_html_row('th', part.total)}</tfoot>")
    return "\n".join([*lines, "</table>"])


def _html_row(tag: str, cells: Sequence[str]) -> str:
    sides = ["left"] + ["right"] * (len(cells) - 1)
    written = (
        f'<{tag} style="text-align: {side}">{html.escape(cell)}</{tag}>'
        for side, cell in zip(sides, cells, strict=True)
    )
    return f"<tr>{''.join(written)}</tr>"
