"""Pictures of explanations (matplotlib, without pyplot): anchor points, patterns, attention."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from PIL import Image

from anchordetr_jax.explanation.explain import Explanation
from anchordetr_jax.pictures.boxes import class_colour
from anchordetr_jax.pictures.panels import save_figure
from anchordetr_jax.pictures.text import plot_fonts, plot_label

PATTERN_COLOURS = ("#e6194b", "#1f77d0", "#f5a300", "#16a05d", "#8e44ad", "#00a3b4", "#8a5a2b", "#d94fb0")
DPI = 130
MAX_DOTS = 4000
"""The largest number of detections that are drawn as dots for one pattern."""


def anchor_picture(explanation: Explanation, path: epath.PathLike, *, threshold: float) -> None:
    """Writes the image with all anchor points. Each detection has the colour of its pattern and a line to its anchor
    point."""
    height, width, _ = explanation.image.shape
    figure, axes = _image_figure(explanation.image, 9.0, dim=0.55)
    points = explanation.anchor_points * [width, height]
    axes.scatter(points[:, 0], points[:, 1], s=14, c="white", edgecolors="#333333", linewidths=0.5, zorder=3)
    chosen = explanation.above(threshold)
    for query in reversed(chosen):
        colour = pattern_colour(explanation.patterns[query])
        left, top, right, bottom = explanation.boxes[query] * [width, height, width, height]
        x, y = points[explanation.anchors[query]]
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=1.8))
        axes.plot([x, (left + right) / 2], [y, (top + bottom) / 2], color=colour, linewidth=1.4, zorder=4)
        axes.scatter([x], [y], s=46, c=colour, edgecolors="white", linewidths=1.0, zorder=5)
    counts = np.bincount(explanation.patterns[chosen], minlength=explanation.num_patterns)
    handles = [
        Rectangle((0, 0), 1, 1, color=pattern_colour(pattern), label=f"pattern {pattern + 1}: {count}")
        for pattern, count in enumerate(counts)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)), frameon=False)
    detections = "1 detection" if len(chosen) == 1 else f"{len(chosen)} detections"
    axes.set_title(
        f"{len(points)} anchor points; {detections}, each with a line to its anchor point, coloured by pattern",
        fontsize=10,
    )
    save_figure(figure, path, dpi=DPI)


def attention_picture(
    explanation: Explanation, path: epath.PathLike, *, queries: Sequence[int], layer: int = -1
) -> None:
    """Writes one panel per query: its attention over the image, with the attention along rows above the image and the
    attention along columns beside it."""
    with plot_fonts(explanation.names):
        save_figure(_attention_figure(explanation, queries, layer), path, dpi=DPI)


def _attention_figure(explanation: Explanation, queries: Sequence[int], layer: int) -> Figure:
    height, width, _ = explanation.image.shape
    columns = min(len(queries), 3 if width >= height else 4)
    rows = -(-len(queries) // columns)
    panel = 4.2
    figure = Figure(
        figsize=(columns * panel * 1.12, rows * (panel * height / width * 0.95 + 0.95)), layout="constrained"
    )
    cells: Any = figure.subfigures(rows, columns, squeeze=False)
    for place, (query, cell) in enumerate(zip(queries, cells.flat, strict=False)):
        grid = cell.subplots(
            2, 2, gridspec_kw={"width_ratios": [1, 0.13], "height_ratios": [0.16, 1], "wspace": 0.0, "hspace": 0.0}
        )
        grid[0, 1].axis("off")
        _draw_attention(explanation, query, layer, grid[1, 0], grid[0, 0], grid[1, 1])
        cell.suptitle(
            f"{place + 1}. {plot_label(explanation.names[query])} {explanation.scores[query]:.2f}, "
            f"pattern {explanation.patterns[query] + 1}",
            fontsize=10,
        )
    return figure


def pattern_picture(explanations: Sequence[Explanation], path: epath.PathLike, *, threshold: float) -> None:
    """Writes which sizes and shapes of objects each pattern finds, from the detections of all images."""
    num_patterns = explanations[0].num_patterns
    chosen = [np.flatnonzero(explanation.scores >= threshold) for explanation in explanations]
    sides = np.concatenate([e.boxes[i, 2:] - e.boxes[i, :2] for e, i in zip(explanations, chosen, strict=True)])
    patterns = np.concatenate([e.patterns[i] for e, i in zip(explanations, chosen, strict=True)])
    # The ratio is in pixels: that of a square is 1 in every image.
    proportions = np.concatenate(
        [np.full(len(i), e.image.shape[1] / e.image.shape[0]) for e, i in zip(explanations, chosen, strict=True)]
    )
    sides = sides.clip(1e-4, 1)
    sizes = np.sqrt(sides[:, 0] * sides[:, 1])
    ratios = sides[:, 0] / sides[:, 1] * proportions

    figure = Figure(figsize=(max(9, 3.1 * num_patterns), 7.2), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=[1, 0.9])
    top, bottom = halves
    lowest = max(0.005, float(sides.min(initial=1.0)) / 1.3)
    for pattern, axes in enumerate(top.subplots(1, num_patterns, squeeze=False, sharex=True, sharey=True)[0]):
        mine = np.flatnonzero(patterns == pattern)
        shown = mine[:: max(1, len(mine) // MAX_DOTS)]
        axes.loglog(sides[shown, 0], sides[shown, 1], ".", ms=5, alpha=0.45, color=pattern_colour(pattern), mew=0)
        axes.plot([lowest, 1], [lowest, 1], color="#bbbbbb", linewidth=0.8, zorder=0)
        share = f"{len(mine) / max(1, len(patterns)):.0%}"
        axes.set_title(f"pattern {pattern + 1}: {len(mine)} detections ({share})", fontsize=10)
        axes.set(xlim=(lowest, 1.1), ylim=(lowest, 1.1), xlabel="width / image width")
        axes.set_aspect("equal")
        _percent_ticks(axes)
        if pattern == 0:
            axes.set_ylabel("height / image height")
    left, right = bottom.subplots(1, 2)
    size_bins = np.geomspace(lowest, 1, 25)
    ratio_bins = np.geomspace(1 / 8, 8, 25)
    for pattern in range(num_patterns):
        mine = patterns == pattern
        for axes, values, bins in ((left, sizes, size_bins), (right, ratios, ratio_bins)):
            axes.hist(
                values[mine].clip(bins[0], bins[-1]),
                bins.tolist(),
                histtype="step",
                linewidth=2,
                color=pattern_colour(pattern),
                label=f"pattern {pattern + 1}",
            )
    left.set(xscale="log", xlabel="size: √(area / image area)", ylabel="detections", xlim=(lowest, 1))
    left.xaxis.set_major_locator(FixedLocator([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]))
    left.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    right.set(xscale="log", xlabel="shape: width / height", xlim=(1 / 8, 8))
    right.xaxis.set_major_locator(FixedLocator([1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8]))
    right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value >= 1 else f"1/{1 / value:g}"))
    for axes in (left, right):
        axes.xaxis.set_minor_locator(NullLocator())
        axes.spines[["top", "right"]].set_visible(False)
    right.legend(frameon=False)
    images = "1 image" if len(explanations) == 1 else f"{len(explanations)} images"
    figure.suptitle(f"What each pattern finds: detections with a score of at least {threshold:g}, in {images}")
    save_figure(figure, path, dpi=DPI)


def pattern_colour(pattern: int) -> str:
    """The colour of a pattern in all pictures."""
    return PATTERN_COLOURS[int(pattern) % len(PATTERN_COLOURS)]


def _draw_attention(explanation: Explanation, query: int, layer: int, main: Axes, top: Axes, side: Axes) -> None:
    height, width, _ = explanation.image.shape
    attention = explanation.attention(query, layer)
    over_columns, over_rows = explanation.marginals(query, layer)
    main.imshow(_heated(explanation.image, attention, explanation.extent), extent=(0, width, height, 0))
    left, up, right, down = explanation.boxes[query] * [width, height, width, height]
    red, green, blue = class_colour(int(explanation.labels[query]))
    colour = f"#{red:02x}{green:02x}{blue:02x}"
    for edge, line in (("black", 3.4), (colour, 2.0)):
        main.add_patch(Rectangle((left, up), right - left, down - up, fill=False, edgecolor=edge, linewidth=line))
    x, y = explanation.anchor_points[explanation.anchors[query]] * [width, height]
    main.plot([x], [y], "+", color="black", ms=13, mew=4)
    main.plot([x], [y], "+", color="white", ms=12, mew=2)
    main.set(xlim=(0, width), ylim=(height, 0))
    cells_y, cells_x = attention.shape
    step_y, step_x = (explanation.extent[0] * height / cells_y, explanation.extent[1] * width / cells_x)
    top.stairs(over_columns, np.arange(cells_x + 1) * step_x, fill=True, color="#d1495b")
    side.stairs(over_rows, np.arange(cells_y + 1) * step_y, fill=True, color="#d1495b", orientation="horizontal")
    top.set(xlim=(0, width), ylim=(0, None))
    side.set(ylim=(height, 0), xlim=(0, None))
    for axes in (main, top, side):
        axes.set(xticks=[], yticks=[])
        axes.set_aspect("auto")
    for axes in (top, side):
        axes.spines[:].set_visible(False)


def _heated(image: np.ndarray, attention: np.ndarray, extent: tuple[float, float]) -> np.ndarray:
    """The image in dark grey, with attention [h, w] over it in bright colours; uint8 [H, W, 3]."""
    height, width, _ = image.shape
    whole = (max(1, round(extent[1] * width)), max(1, round(extent[0] * height)))
    strength = attention / max(float(attention.max()), 1e-12)
    smooth = Image.fromarray(strength.astype(np.float32)).resize(whole, Image.Resampling.BICUBIC)
    glow = np.asarray(smooth)[:height, :width].clip(0, 1)[..., None]
    grey = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2) / 255 * 0.65 + 0.1
    heat = matplotlib.colormaps["inferno"](glow[..., 0])[..., :3]
    opacity = 0.85 * glow**0.6
    return (255 * (grey * (1 - opacity) + heat * opacity)).round().astype(np.uint8)


def _image_figure(image: np.ndarray, long_side: float, dim: float) -> tuple[Figure, Axes]:
    """A figure with the image, whose colours are weakened by `dim`. Its long side is `long_side` inches."""
    height, width, _ = image.shape
    scale = long_side / max(height, width)
    figure = Figure(figsize=(max(5.0, width * scale), max(2.0, height * scale) + 0.8), layout="constrained")
    axes = figure.subplots()
    axes.imshow((255 - (255 - image) * dim).astype(np.uint8), extent=(0, width, height, 0))
    # Learned anchor points can be outside the image.
    axes.set(xticks=[], yticks=[], xlim=(-0.03 * width, 1.03 * width), ylim=(1.03 * height, -0.03 * height))
    axes.spines[:].set_visible(False)
    return figure, axes


def _percent_ticks(axes: Axes) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
