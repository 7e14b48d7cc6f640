"""Tables for people on a terminal, and the same tables, wide and plain, for everything else.

Into a pipe or a file nothing is cut, folded or coloured: one row is one line, whatever its length.  On a
terminal a table that does not fit is folded, and a narrower form of it is used where there is one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mooring.controller.printable import printable

_WIDE = 100_000  # columns; nothing is as long
NOTHING = "-"


class Screen:
    """Standard output."""

    def __init__(self) -> None:
        self.terminal = sys.stdout.isatty()
        self._console = (
            Console(highlight=False)
            if self.terminal
            else Console(width=_WIDE, no_color=True, highlight=False, force_terminal=False)
        )
        fancy = _can_encode("✓→")
        self.tick, self.arrow = ("✓", "→") if fancy else ("ok", "->")

    def line(self, text: str, style: str = "") -> None:
        """One line of text; what is unprintable in it is escaped."""
        self._console.print(Text(printable(text), style=style if self.terminal else ""))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table whose cells are values or `Text`."""
        self._console.print(self._table(columns, rows))

    def fits(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> bool:
        """Whether the table can be shown without folding."""
        unbounded = self._console.options.update(width=_WIDE)
        needed = self._console.measure(self._table(columns, rows), options=unbounded).maximum
        return needed <= self._console.width

    def _table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
        table = Table(box=SIMPLE_HEAD if self.terminal else None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold", no_wrap=not self.terminal)
        for row in rows:
            table.add_row(*(cell(value) for value in row))
        return table


def cell(value: Any) -> Text:
    """A value as a table shows it."""
    if isinstance(value, Text):
        return value
    return Text(NOTHING if value is None or value == "" else printable(str(value)))


def moment(at: float | None) -> str | None:
    """Unix seconds as people and log files write them."""
    return None if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def print_json(value: Any) -> None:
    """Indented JSON on standard output, UTF-8 whatever the locale."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def _can_encode(text: str) -> bool:
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(command)
