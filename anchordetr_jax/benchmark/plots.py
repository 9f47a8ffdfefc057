"""Measurements as pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt

from anchordetr_jax.benchmark.tables import Row


def plot_bars(path: Path, rows: Sequence[Row], column: str) -> None:
    """Draws one column of a table as bars."""
    shown = [(str(next(iter(row.values()))), row[column]) for row in rows if isinstance(row.get(column), float)]
    figure, axes = plt.subplots(figsize=(7, 0.4 * len(shown) + 1.2), layout="constrained")
    positions = range(len(shown))  # Names may repeat.
    bars = axes.barh(positions, [float(value or 0) for _, value in shown], color="#4878a8")
    axes.set_yticks(positions, [name for name, _ in shown])
    axes.bar_label(bars, fmt="%.3g", padding=3)
    axes.invert_yaxis()
    axes.set_xlabel(column)
    axes.margins(x=0.15)
    _save(figure, path)


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
    _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
