"""Rows of numbers that a notebook shows as a table."""

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload


class Table(Sequence[Mapping[str, Any]]):
    """Rows as dicts. Some columns are shown, as text or in a notebook; `list(table)` has all."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]):
        """`columns`: what is shown, as far as any row has it."""
        self._rows = tuple(rows)
        self._columns = [name for name in columns if any(name in row for row in self._rows)]

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> "Table": ...
    def __getitem__(self, index: int | slice) -> "Mapping[str, Any] | Table":
        return Table(self._rows[index], self._columns) if isinstance(index, slice) else self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self._rows)

    def __repr__(self) -> str:
        lines = [self._columns, *self._cells()]
        widths = [max(len(line[place]) for line in lines) for place in range(len(self._columns))]
        return "\n".join("  ".join(map(str.rjust, line, widths)) for line in lines)

    def _repr_html_(self) -> str:
        def row(cells: Sequence[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        return f"<table>{row(self._columns, 'th')}{''.join(row(cells, 'td') for cells in self._cells())}</table>"

    def _cells(self) -> list[list[str]]:
        return [[_shown(row.get(name)) for name in self._columns] for row in self._rows]


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
