"""Measurements as a table, as JSON and as a plot."""

import datetime
import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "scipy", "torch")
Row = Mapping[str, str | float | None]
"""Column to figure; the first column names the row. None: there is no figure."""


def surroundings() -> dict[str, Any]:
    """Hardware, versions, date and command. Without them a figure means nothing."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    device = jax.devices()[0]
    return {
        "date": datetime.date.today().isoformat(),
        "device": f"{len(jax.devices())} x {device.device_kind}" if device.platform != "cpu" else processor(),
        "python": platform.python_version(),
        "versions": versions,
        "command": shlex.join(["python", *sys.argv]),
    }


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


def plot_bars(path: Path, rows: Sequence[Row], column: str) -> None:
    """Draws one column of a table as bars."""
    shown = [(str(next(iter(row.values()))), row[column]) for row in rows if isinstance(row.get(column), float)]
    figure, axes = plt.subplots(figsize=(7, 0.5 * len(shown) + 1.2), layout="constrained")
    bars = axes.barh([name for name, _ in shown], [float(value or 0) for _, value in shown], color="#4878a8")
    axes.bar_label(bars, fmt="%.3g", padding=3)
    axes.invert_yaxis()
    axes.set_xlabel(column)
    axes.margins(x=0.15)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_lines(
    path: Path, x: Sequence[float], lines: Mapping[str, Sequence[float]], x_label: str, y_label: str
) -> None:
    """Draws several columns over the column `x`."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for name, y in lines.items():
        axes.plot(x, y, marker="o", label=name)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def processor() -> str:
    """The CPU's model and the number of cores that this process may use."""
    model = ""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        model = platform.processor()
    return f"cpu ({model or platform.machine()}, {_cores()} cores)"


def _text(value: str | float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
