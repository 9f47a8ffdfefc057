"""Curves of a run, or of several: losses, scores and learning rate over time (matplotlib)."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

from anchordetr_jax.pictures.panels import (
    COLOURS,
    LEGEND,
    figure_png,
    make_logarithmic,
    new_figure,
    save_figure,
    say_nothing_yet,
    style_panel,
)
from anchordetr_jax.pictures.text import plot_fonts, plot_label

if TYPE_CHECKING:  # Matplotlib takes half a second to import, and most commands draw no figure at once.
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


CLASS_ERROR = "Class error at matched queries (%)"
LINES = ("-", "--", "-.")
"""Lines of runs: when all colours are taken, the next runs have the colours again, with another line."""


@dataclasses.dataclass(frozen=True)
class _Panel:
    """What one panel of a run shows."""

    title: str
    series: tuple[tuple[str, str], ...]
    """The name of each number in `metrics.jsonl`, and its label."""
    logarithmic: bool = False


_PANELS = (
    _Panel(
        "Training loss",
        (("loss", "total"), ("loss/class", "class"), ("loss/box", "box"), ("loss/giou", "GIoU")),
        logarithmic=True,
    ),
    _Panel("Validation", (("val/AP", "AP"), ("val/AP50", "AP50"), ("val/AP75", "AP75"))),
    _Panel(CLASS_ERROR, (("class_error", "class error"),)),
    _Panel("Learning rate", (("learning_rate", "learning rate"),)),
)


def plot_curves(entries: Sequence[Mapping[str, Any]], path: epath.PathLike) -> None:
    """Draws the losses, the AP, the class error and the learning rate of a run over its epochs into a PNG file.

    `entries` are the lines of its `metrics.jsonl`. A panel whose values they do not have yet stays empty.
    """
    figure = new_figure(11, 7)
    for axes, panel in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        _draw_panel(axes, panel, entries)
    save_figure(figure, path)


def curve_pngs(entries: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """The panels of `plot_curves` as the contents of one PNG file each, by title."""
    pictures = {}
    for panel in _PANELS:
        figure = new_figure(6.4, 4.2)
        _draw_panel(figure.subplots(), panel, entries)
        pictures[panel.title] = figure_png(figure)
    return pictures


def _draw_panel(axes: Axes, panel: _Panel, entries: Sequence[Mapping[str, Any]]) -> None:
    axis = "epoch" if all("epoch" in entry for entry in entries) else "step"
    style_panel(axes, panel.title, axis)
    for (key, label), colour in zip(panel.series, COLOURS, strict=False):
        x, y = _series(entries, key, axis, positive=panel.logarithmic)
        _draw_series(axes, x, y, label, colour, smooth=key != "learning_rate")
    if axes.has_data() and panel.logarithmic:
        make_logarithmic(axes)
    if axes.has_data() and len(panel.series) > 1:
        axes.legend(**LEGEND, fontsize=9)
    if not axes.has_data():
        say_nothing_yet(axes)
    if panel.title in ("Validation", "Learning rate", CLASS_ERROR):
        axes.set_ylim(bottom=0)
    if panel.title == "Learning rate":
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
    if panel.title == "Validation":
        _mark_best(axes, *_series(entries, "val/AP", axis))


def plot_runs(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: epath.PathLike) -> None:
    """Draws the curves of several runs into the same panels: training loss, AP, AP50 and learning rate.

    Args:
        runs: the lines of each run's `metrics.jsonl`, by the run's name for the legend.
        path: the PNG file.
    """
    with plot_fonts(runs):
        save_figure(_runs_figure({plot_label(name): entries for name, entries in runs.items()}), path)


def _runs_figure(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    figure = new_figure(12, 8)
    axes = figure.subplots(2, 2)
    panels: tuple[tuple[Axes, str, str], ...] = (
        (axes[0, 0], "Training loss", "loss"),
        (axes[0, 1], "Validation AP", "val/AP"),
        (axes[1, 0], "Validation AP50", "val/AP50"),
        (axes[1, 1], "Learning rate", "learning_rate"),
    )
    axis = "epoch" if all("epoch" in entry for entries in runs.values() for entry in entries) else "step"
    for panel, title, key in panels:
        style_panel(panel, title, axis)
        for number, (name, entries) in enumerate(runs.items()):
            x, y = _series(entries, key, axis, positive=key == "loss")
            colour, line = COLOURS[number % len(COLOURS)], LINES[number // len(COLOURS) % len(LINES)]
            if key.startswith("val/") and len(y):
                panel.axhline(y.max(), color=colour, linewidth=0.7, linestyle=":", alpha=0.6)
            _draw_series(panel, x, y, name, colour, line, smooth=key == "loss")
        if not panel.has_data():
            say_nothing_yet(panel)
    if axes[0, 0].has_data():
        make_logarithmic(axes[0, 0])
    for panel in (axes[0, 1], axes[1, 0], axes[1, 1]):
        panel.set_ylim(bottom=0)
    axes[1, 1].ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
    # One legend for all panels, with the best AP beside each name.
    handles: dict[str, Any] = {}
    for panel in axes.flat:
        for line, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, line)
    labels = []
    for name in handles:
        scores = _series(runs[name], "val/AP", axis)[1]
        labels.append(f"{name}   (best AP {scores.max():.3f})" if len(scores) else name)
    if handles:
        columns = 1 if max(map(len, labels)) > 60 else 2
        figure.legend(handles.values(), labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    return figure


def _series(
    entries: Sequence[Mapping[str, Any]], key: str, axis: str, *, positive: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    points = [
        (float(entry[axis]), float(entry[key]))
        for entry in entries
        if all(map(_is_number, (entry.get(axis), entry.get(key))))
    ]
    points = [(x, y) for x, y in points if not (positive and y <= 0)]
    # COCO's score -1 says that there was nothing to measure.
    points = [(x, y) for x, y in points if not (key.startswith("val/") and y < 0)]
    x, y = np.array(points, np.float64).reshape(-1, 2).T
    return x, y


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def _draw_series(
    panel: Axes, x: np.ndarray, y: np.ndarray, label: str, colour: str, line: str = "-", *, smooth: bool
) -> None:
    if len(x) == 0:
        return
    if len(x) <= 40 or not smooth:
        marker = "o" if len(x) <= 40 else ""
        panel.plot(x, y, line, color=colour, label=label, marker=marker, markersize=3, linewidth=1.5)
        return
    panel.plot(x, y, color=colour, alpha=0.22, linewidth=0.8)
    panel.plot(x, _smoothed(y), line, color=colour, label=label, linewidth=1.6)


def _smoothed(y: np.ndarray) -> np.ndarray:
    """A running mean over about a thirtieth of the curve, and over fewer points near its ends."""
    half = max(1, len(y) // 60)
    sums = np.concatenate([[0.0], np.cumsum(y)])
    index = np.arange(len(y))
    reach = np.minimum(half, np.minimum(index, len(y) - 1 - index))
    return (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)


def _mark_best(panel: Axes, x: np.ndarray, y: np.ndarray) -> None:
    if len(y):
        best = int(np.argmax(y))
        panel.annotate(
            f"{y[best]:.3f}", (x[best], y[best]), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=9
        )
