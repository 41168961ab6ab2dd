"""Prints named values and tables on a terminal, all in one style."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from rich.console import Console
from rich.table import Table

Side = Literal["left", "right", "fold"]
"""How a column is aligned; one that is folded holds long text."""


def table_console() -> Console:
    """Return a console for tables: for a file or a pipe they are not folded at the width of some terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=240)


def print_rows(console: Console, rows: Iterable[tuple[str, str]]) -> None:
    """Print named values below each other; empty ones are left out."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        if value:
            table.add_row(name, value)
    console.print(table, markup=False, highlight=False)


def print_table(console: Console, columns: Mapping[str, Side], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; `columns` maps name to alignment."""
    table = Table(box=None, pad_edge=False)
    for name, side in columns.items():
        if side == "fold":
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify=side, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table, markup=False, highlight=False)
