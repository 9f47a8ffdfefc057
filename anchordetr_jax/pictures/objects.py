"""Sizes, shapes and numbers of the objects in a data set, as histograms (matplotlib)."""

from collections.abc import Mapping

import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from anchordetr_jax.pictures.panels import COLOURS, LEGEND, save_figure, say_nothing_yet, style_panel
from anchordetr_jax.pictures.text import one_line, plot_fonts, plot_label


def plot_objects(
    sizes: Mapping[str, tuple[np.ndarray, np.ndarray]], classes: Mapping[str, Mapping[str, int]], path: epath.PathLike
) -> None:
    """Draws the sizes and shapes of the objects in a data set, and the number of objects per image and per class.

    Args:
        sizes: by split, (width, height) of its objects in pixels, float [n, 2], and the number of objects of each
            image, int [images].
        classes: by split, the number of objects of each class.
        path: the PNG file.
    """
    with plot_fonts(name for counts in classes.values() for name in counts):
        save_figure(_figure(sizes, classes), path)


def _figure(sizes: Mapping[str, tuple[np.ndarray, np.ndarray]], classes: Mapping[str, Mapping[str, int]]) -> Figure:
    figure = Figure(figsize=(12, 8), layout="constrained")
    (size, shape), (number, per_class) = figure.subplots(2, 2)
    style_panel(size, "Size of objects", "square root of the area (pixels)")
    style_panel(shape, "Shape of objects", "width / height")
    style_panel(number, "Objects in an image", "objects")
    style_panel(per_class, "Objects of each class", "objects")
    areas = {split: np.sqrt(wh.prod(axis=1)) for split, (wh, _) in sizes.items()}
    _histograms(size, areas, logarithmic=True)
    _histograms(shape, {split: wh[:, 0] / wh[:, 1] for split, (wh, _) in sizes.items()}, logarithmic=True)
    for border, name in ((32, "small | medium"), (96, "medium | large")):
        if size.has_data() and size.get_xlim()[0] < border < size.get_xlim()[1]:
            size.axvline(border, color="#999999", linewidth=0.9, linestyle="--")
            size.text(
                border, 0.99, f" {name}", transform=size.get_xaxis_transform(), fontsize=8, color="#777777", va="top"
            )
    counts = {split: per_image for split, (_, per_image) in sizes.items()}
    most = max((int(values.max()) for values in counts.values() if len(values)), default=0)
    step = max(1, -(-(most + 1) // 40))
    _bars(number, counts, np.arange(0, most + step + 1, step) - 0.5)
    number.xaxis.set_major_locator(MaxNLocator(integer=True))
    _class_bars(per_class, classes)
    for panel in (size, shape, number):
        panel.set_ylabel("share")
        if len(sizes) > 1 and panel.has_data():
            panel.legend(**LEGEND, fontsize=9)
    return figure


def _histograms(panel: Axes, values: Mapping[str, np.ndarray], *, logarithmic: bool) -> None:
    together = np.concatenate([*values.values(), np.zeros(0)])
    if len(together) == 0:
        say_nothing_yet(panel)
        return
    low, high = together.min(), together.max()
    _bars(panel, values, np.geomspace(low / 1.05, high * 1.05, 41) if logarithmic else np.linspace(low, high, 41))
    if logarithmic:
        panel.set_xscale("log")
        plain = FuncFormatter(lambda value, _: f"{value:g}")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter(plain)
        panel.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))


def _bars(panel: Axes, values: Mapping[str, np.ndarray], edges: np.ndarray) -> None:
    """Histograms of shares: the first one filled, the others as outlines."""
    for place, ((name, array), colour) in enumerate(zip(values.items(), COLOURS, strict=False)):
        if len(array):
            shares = np.histogram(array, edges)[0] / len(array)
            panel.stairs(shares, edges, fill=place == 0, color=colour, alpha=0.55 if place == 0 else 1.0, label=name)


def _class_bars(panel: Axes, classes: Mapping[str, Mapping[str, int]], shown: int = 20) -> None:
    totals: dict[str, int] = {}
    for counts in classes.values():
        for name, count in counts.items():
            totals[name] = totals.get(name, 0) + count
    names = sorted(totals, key=lambda name: -totals[name])[:shown]
    if not names:
        say_nothing_yet(panel)
        return
    left = np.zeros(len(names))
    for (split, counts), colour in zip(classes.items(), COLOURS, strict=False):
        widths = np.array([counts.get(name, 0) for name in names], float)
        panel.barh(range(len(names)), widths, left=left, color=colour, alpha=0.75, label=split)
        left += widths
    for place, total in enumerate(left):
        panel.text(total, place, f" {total:.0f}", va="center", fontsize=8, color="#555555")
    panel.set_yticks(range(len(names)), [_short_label(name) for name in names], fontsize=8)
    panel.invert_yaxis()
    panel.margins(x=0.12)
    if len(totals) > shown:
        panel.set_title(f"Objects of each class (the {shown} of {len(totals)} with the most)", loc="left", fontsize=11)
    if len(classes) > 1:
        panel.legend(**LEGEND, fontsize=9, loc="lower right")


def _short_label(name: str, longest: int = 24) -> str:
    line = one_line(name)
    return plot_label(line if len(line) <= longest else f"{line[: longest - 1]}…")
