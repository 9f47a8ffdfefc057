"""Curves over the score threshold: precision, recall and F1 (matplotlib)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from anchordetr_jax.pictures.panels import COLOURS, add_legend, figure_png, new_figure, style_panel
from anchordetr_jax.pictures.text import plot_fonts, plot_label

if TYPE_CHECKING:  # Matplotlib takes half a second to import, and most commands draw no figure at once.
    from matplotlib.axes import Axes


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfidenceCurves:
    """Precision, recall and F1 at P score thresholds, for all classes together and for K classes."""

    thresholds: np.ndarray
    """[P], ascending."""
    overall: np.ndarray
    """[3, P]: precision, recall and F1, all classes together. -1: nothing to measure."""
    f1: np.ndarray
    """[K, P]: F1 of each class. -1: nothing to measure."""
    names: tuple[str, ...]
    """K class names."""
    objects: tuple[int, ...]
    """K numbers of objects."""


def confidence_pngs(curves: ConfidenceCurves, *, max_classes: int = 12) -> tuple[bytes, bytes]:
    """Two figures as the contents of PNG files: precision, recall and F1 of all classes together; F1 of each class.

    Of many classes, the `max_classes` with the most objects are drawn.
    """
    with plot_fonts(curves.names):
        together, by_class = (new_figure(6.4, 4.8) for _ in range(2))
        _draw_overall(together.subplots(), curves)
        _draw_classes(by_class.subplots(), curves, max_classes)
        return figure_png(together), figure_png(by_class)


def _draw_overall(panel: Axes, curves: ConfidenceCurves) -> None:
    style_panel(panel, "All classes together, IoU 0.50", "score threshold")
    for values, name, colour in zip(curves.overall, ("precision", "recall", "F1"), COLOURS, strict=False):
        panel.plot(curves.thresholds, _gaps(values), color=colour, label=name)
    _finish(panel, "precision, recall, F1")


def _draw_classes(panel: Axes, curves: ConfidenceCurves, max_classes: int) -> None:
    measured = [i for i, count in enumerate(curves.objects) if count > 0]
    classes = sorted(measured, key=lambda i: -curves.objects[i])
    few = f" (the {max_classes} of {len(classes)} with the most objects)" if len(classes) > max_classes else ""
    style_panel(panel, f"By class, IoU 0.50{few}", "score threshold")
    for number, i in enumerate(classes[:max_classes]):
        colour, dashes = COLOURS[number % len(COLOURS)], "-" if number < len(COLOURS) else "--"
        label = f"{plot_label(curves.names[i])}   {curves.f1[i].max(initial=0):.3f}"
        panel.plot(curves.thresholds, _gaps(curves.f1[i]), dashes, color=colour, label=label)
    _finish(panel, "F1", title="highest F1")


def _gaps(values: np.ndarray) -> np.ndarray:
    """The values with gaps where nothing is measured."""
    return np.where(values < 0, np.nan, values)


def _finish(panel: Axes, label: str, title: str | None = None) -> None:
    panel.set_xlim(0, 1)
    panel.set_ylim(0, 1.02)
    panel.set_ylabel(label)
    add_legend(panel, title)
