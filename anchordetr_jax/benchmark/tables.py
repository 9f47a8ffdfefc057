"""Measurements as a table: for a person, and as a JSON file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from anchordetr_jax.benchmark.machine import surroundings

Row = Mapping[str, str | float | None]
"""Column to figure; the first column names the row. None: there is no figure."""


def table(rows: Sequence[Row]) -> str:
    """A Markdown table with aligned columns."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [columns, *([_text(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def write(folder: Path, name: str, rows: Sequence[Row]) -> None:
    """Writes the rows and their surroundings to `folder`/`name`.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({**surroundings(), "rows": rows}, indent=1) + "\n")


def _text(value: str | float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
