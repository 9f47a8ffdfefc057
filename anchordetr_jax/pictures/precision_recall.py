"""Curves of precision against recall (matplotlib)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from anchordetr_jax.pictures.panels import COLOURS, add_legend, figure_png, new_figure, save_figure, style_panel
from anchordetr_jax.pictures.text import plot_fonts, plot_label

if TYPE_CHECKING:  # Matplotlib takes half a second to import, and most commands draw no figure at once.
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrecisionRecall:
    """Precision by recall, for K classes."""

    names: tuple[str, ...]
    """K class names."""
    objects: tuple[int, ...]
    """K numbers of objects."""
    precision: np.ndarray
    """[10, R, K]: by IoU threshold (0.50, 0.55, … 0.95), recall and class; -1 for a class without objects."""
    recalls: np.ndarray
    """[R], between 0 and 1."""


def plot_precision_recall(curves: PrecisionRecall, path: epath.PathLike, *, max_classes: int = 12) -> None:
    """Draws precision against recall: on the left the mean over classes at several IoU thresholds, on the right each
    class at IoU 0.50.

    Of many classes, the `max_classes` with the most objects are drawn.
    """
    with plot_fonts(curves.names):
        save_figure(_figure(curves, max_classes), path)


def precision_recall_pngs(curves: PrecisionRecall, *, max_classes: int = 12) -> tuple[bytes, bytes]:
    """The two panels of `plot_precision_recall` as the contents of one PNG file each."""
    pictures = []
    with plot_fonts(curves.names):
        for draw in (_draw_mean, _draw_classes):
            figure = new_figure(6.4, 4.8)
            draw(figure.subplots(), curves, max_classes)
            pictures.append(figure_png(figure))
    return pictures[0], pictures[1]


def _figure(curves: PrecisionRecall, max_classes: int) -> Figure:
    figure = new_figure(12, 5.2)
    left, right = figure.subplots(1, 2)
    _draw_mean(left, curves, max_classes)
    _draw_classes(right, curves, max_classes)
    return figure


def _draw_mean(panel: Axes, curves: PrecisionRecall, max_classes: int) -> None:
    """The mean over classes at several IoU thresholds."""
    del max_classes
    style_panel(panel, "Mean over classes", "recall")
    measured = _measured(curves)
    for threshold, colour in zip((0, 2, 4, 5, 6, 8, 9), COLOURS, strict=False):
        if measured.any():
            mean = curves.precision[threshold][:, measured].mean(axis=1)
            label = f"IoU {0.5 + 0.05 * threshold:.2f}   {mean.mean():.3f}"
            panel.plot(curves.recalls, mean, color=colour, label=label)
    _finish(panel)


def _draw_classes(panel: Axes, curves: PrecisionRecall, max_classes: int) -> None:
    """Each class at IoU 0.50; of many classes those with the most objects."""
    style_panel(panel, "By class, IoU 0.50", "recall")
    measured = _measured(curves)
    classes = [i for i in np.argsort([-count for count in curves.objects], kind="stable") if measured[i]]
    for number, i in enumerate(classes[:max_classes]):
        precision = curves.precision[0, :, i]
        colour, dashes = COLOURS[number % len(COLOURS)], "-" if number < len(COLOURS) else "--"
        label = f"{plot_label(curves.names[i])}   {precision.mean():.3f}"
        panel.plot(curves.recalls, precision, dashes, color=colour, label=label)
    _finish(panel)
    if len(classes) > max_classes:
        panel.set_title(
            f"By class, IoU 0.50 (the {max_classes} of {len(classes)} with the most objects)", loc="left", fontsize=11
        )


def _measured(curves: PrecisionRecall) -> np.ndarray:
    """bool [K]: the classes that have objects."""
    return np.all(curves.precision > -1, axis=(0, 1))


def _finish(panel: Axes) -> None:
    panel.set_xlim(0, 1)
    panel.set_ylim(0, 1.02)
    panel.set_ylabel("precision")
    add_legend(panel, "average precision")
