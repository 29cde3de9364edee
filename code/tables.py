"""Tables as Markdown text, which reads well on a terminal, in a log and in a bug report."""

import io
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format rows as an aligned Markdown table.

    Args:
        header: Title of each column.
        rows: One cell per column; cells are plain text without line breaks.
    """
    table = Table(box=box.MARKDOWN)
    for title in header:
        table.add_column(Text(title), no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    output = io.StringIO()
    # wide enough for any row; the terminal may wrap lines, the text must not be cut
    Console(file=output, width=10_000, color_system=None).print(table)
    return output.getvalue().strip()
