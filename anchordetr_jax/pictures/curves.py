"""Curves (matplotlib): a run's losses and scores over time, and precision against recall.

Figures are made without pyplot, so that nothing depends on, or changes, the state of an interactive session.
"""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from anchordetr_jax.errors import UserError
from anchordetr_jax.evaluation.coco_metrics import RECALL_POINTS, Scores
from anchordetr_jax.files import write_atomically

_COLOURS = ("#1f4e8c", "#d1495b", "#2a9d6f", "#e0932f", "#7d5ba6", "#3aa6b9", "#8a6d5c", "#c85aa0")


def read_metrics(path: epath.PathLike) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`, in the order of their steps.

    A line that is not complete JSON (the last one of a run that was killed) is passed over. Where a resumed run wrote
    steps again, the later lines count. Raises `UserError` when the file cannot be read.
    """
    try:
        text = epath.Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"Cannot read the metrics of the run at {path}; give the metrics.jsonl of a workdir."
        ) from error
    latest: dict[tuple[int, bool], dict[str, Any]] = {}
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("step"), int):
            is_evaluation = any(key.startswith("val/") for key in entry)
            latest[entry["step"], is_evaluation] = entry
    return [latest[key] for key in sorted(latest)]


def plot_curves(metrics_jsonl: epath.PathLike, path: epath.PathLike) -> None:
    """Draws a run's losses, its AP, its gradient norm and its learning rate over epochs from `metrics.jsonl`.

    The file may be that of a run still going on, or of one that was killed; what it does not hold yet is left empty.
    """
    entries = read_metrics(metrics_jsonl)
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    panels: tuple[tuple[Axes, str, Sequence[tuple[str, str]], bool], ...] = (
        (
            axes[0, 0],
            "Training loss",
            (("loss", "total"), ("loss/class", "class"), ("loss/box", "box"), ("loss/giou", "GIoU")),
            True,
        ),
        (axes[0, 1], "Validation", (("val/AP", "AP"), ("val/AP50", "AP50"), ("val/AP75", "AP75")), False),
        (axes[1, 0], "Class error at matched queries (%)", (("class_error", "class error"),), False),
        (axes[1, 1], "Learning rate", (("learning_rate", "learning rate"),), False),
    )
    over_epochs = all("epoch" in entry for entry in entries)
    for panel, title, series, logarithmic in panels:
        _style(panel, title, "epoch" if over_epochs else "step")
        for (key, label), colour in zip(series, _COLOURS, strict=False):
            x, y = _series(entries, key, "epoch" if over_epochs else "step", positive=logarithmic)
            _draw_series(panel, x, y, label, colour, smooth=key != "learning_rate")
        if panel.has_data() and logarithmic:
            _logarithmic(panel)
        if panel.has_data() and len(series) > 1:
            panel.legend(frameon=False, fontsize=9)
        if not panel.has_data():
            _nothing_yet(panel)
    axes[0, 1].set_ylim(bottom=0)
    axes[1, 1].set_ylim(bottom=0)
    axes[1, 1].ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
    _mark_best(axes[0, 1], *_series(entries, "val/AP", "epoch" if over_epochs else "step"))
    _save(figure, path)


def plot_precision_recall(scores: Scores, path: epath.PathLike, *, max_classes: int = 12) -> None:
    """Draws precision against recall: on the left averaged over classes at several IoU thresholds, on the right by
    class at 0.50.

    Of many classes, the `max_classes` with most objects are drawn.
    """
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    measured = np.all(scores.precision > -1, axis=(0, 1))
    _style(left, "Mean over classes", "recall")
    for threshold, colour in zip((0, 2, 4, 5, 6, 8, 9), _COLOURS, strict=False):
        if measured.any():
            curve = scores.precision[threshold][:, measured].mean(axis=1)
            left.plot(
                RECALL_POINTS, curve, color=colour, label=f"IoU {0.5 + 0.05 * threshold:.2f}   {curve.mean():.3f}"
            )
    _style(right, "By class, IoU 0.50", "recall")
    classes = [i for i in np.argsort([-score.objects for score in scores.per_class], kind="stable") if measured[i]]
    for number, i in enumerate(classes[:max_classes]):
        score = scores.per_class[i]
        colour, dashes = _COLOURS[number % len(_COLOURS)], "-" if number < len(_COLOURS) else "--"
        label = f"{score.name}   {score.ap50:.3f}"
        right.plot(RECALL_POINTS, scores.precision[0, :, i], dashes, color=colour, label=label)
    for panel in (left, right):
        panel.set_xlim(0, 1)
        panel.set_ylim(0, 1.02)
        panel.set_ylabel("precision")
        if panel.has_data():
            panel.legend(frameon=False, fontsize=9, title="average precision", title_fontsize=9)
    if len(classes) > max_classes:
        right.set_title(
            f"By class, IoU 0.50 (the {max_classes} with most objects of {len(classes)})", loc="left", fontsize=11
        )
    _save(figure, path)


def plot_runs(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: epath.PathLike) -> None:
    """Lays runs over one another: training loss, AP, AP50 and learning rate.

    Args:
        runs: by the name in the legend, the lines of a run's metrics (`read_metrics`).
        path: of the PNG file.
    """
    figure = Figure(figsize=(12, 8), layout="constrained")
    axes = figure.subplots(2, 2)
    panels: tuple[tuple[Axes, str, str], ...] = (
        (axes[0, 0], "Training loss", "loss"),
        (axes[0, 1], "Validation AP", "val/AP"),
        (axes[1, 0], "Validation AP50", "val/AP50"),
        (axes[1, 1], "Learning rate", "learning_rate"),
    )
    axis = "epoch" if all("epoch" in entry for entries in runs.values() for entry in entries) else "step"
    for panel, title, key in panels:
        _style(panel, title, axis)
        for number, (name, entries) in enumerate(runs.items()):
            x, y = _series(entries, key, axis, positive=key == "loss")
            colour = _COLOURS[number % len(_COLOURS)]
            if key.startswith("val/") and len(y):
                panel.axhline(y.max(), color=colour, linewidth=0.7, linestyle=":", alpha=0.6)
            _draw_series(panel, x, y, name, colour, smooth=key == "loss")
        if not panel.has_data():
            _nothing_yet(panel)
    if axes[0, 0].has_data():
        _logarithmic(axes[0, 0])
    for panel in (axes[0, 1], axes[1, 0], axes[1, 1]):
        panel.set_ylim(bottom=0)
    axes[1, 1].ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
    # One legend for all panels: the best AP stands beside each name.
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
    _save(figure, path)


def plot_objects(
    sizes: Mapping[str, tuple[np.ndarray, np.ndarray]], classes: Mapping[str, Mapping[str, int]], path: epath.PathLike
) -> None:
    """Draws how large the objects of a data set are, of which shapes, how many to an image and to a class.

    Args:
        sizes: by split, float [n, 2] (width, height) in pixels of its objects, and int [images] objects an image.
        classes: by split, the number of objects of each class.
        path: of the PNG file.
    """
    figure = Figure(figsize=(12, 8), layout="constrained")
    (size, shape), (number, per_class) = figure.subplots(2, 2)
    _style(size, "Size of objects", "root of area (pixels)")
    _style(shape, "Shape of objects", "width / height")
    _style(number, "Objects in an image", "objects")
    _style(per_class, "Objects of each class", "objects")
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
    _class_bars(per_class, classes)
    for panel in (size, shape, number):
        panel.set_ylabel("share")
        if len(sizes) > 1 and panel.has_data():
            panel.legend(frameon=False, fontsize=9)
    _save(figure, path)


def _histograms(panel: Axes, values: Mapping[str, np.ndarray], *, logarithmic: bool) -> None:
    together = np.concatenate([*values.values(), np.zeros(0)])
    if len(together) == 0:
        _nothing_yet(panel)
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
    """Histograms of shares, the first filled and the others as outlines over it."""
    for place, ((name, array), colour) in enumerate(zip(values.items(), _COLOURS, strict=False)):
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
        _nothing_yet(panel)
        return
    left = np.zeros(len(names))
    for (split, counts), colour in zip(classes.items(), _COLOURS, strict=False):
        widths = np.array([counts.get(name, 0) for name in names], float)
        panel.barh(range(len(names)), widths, left=left, color=colour, alpha=0.75, label=split)
        left += widths
    for place, total in enumerate(left):
        panel.text(total, place, f" {total:.0f}", va="center", fontsize=8, color="#555555")
    panel.set_yticks(range(len(names)), [name if len(name) <= 24 else name[:23] + "…" for name in names], fontsize=8)
    panel.invert_yaxis()
    panel.margins(x=0.12)
    if len(totals) > shown:
        panel.set_title(f"Objects of each class (the {shown} with most of {len(totals)})", loc="left", fontsize=11)
    if len(classes) > 1:
        panel.legend(frameon=False, fontsize=9, loc="lower right")


def _nothing_yet(panel: Axes) -> None:
    panel.text(0.5, 0.5, "nothing yet", transform=panel.transAxes, ha="center", va="center", color="#999999")


def _logarithmic(panel: Axes) -> None:
    panel.set_yscale("log")
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    panel.yaxis.set_major_formatter(plain)
    panel.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    panel.yaxis.set_minor_formatter(plain)


def _series(
    entries: Sequence[Mapping[str, Any]], key: str, axis: str, *, positive: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    points = [
        (float(entry[axis]), float(entry[key]))
        for entry in entries
        if isinstance(entry.get(key), int | float) and np.isfinite(entry[key])
    ]
    points = [(x, y) for x, y in points if not (positive and y <= 0)]
    # COCO's -1 says that there was nothing to measure.
    points = [(x, y) for x, y in points if not (key.startswith("val/") and y < 0)]
    x, y = np.array(points, np.float64).reshape(-1, 2).T
    return x, y


def _draw_series(panel: Axes, x: np.ndarray, y: np.ndarray, label: str, colour: str, *, smooth: bool) -> None:
    if len(x) == 0:
        return
    if len(x) <= 40 or not smooth:
        panel.plot(x, y, color=colour, label=label, marker="o" if len(x) <= 40 else "", markersize=3, linewidth=1.5)
        return
    panel.plot(x, y, color=colour, alpha=0.22, linewidth=0.8)
    panel.plot(x, _smoothed(y), color=colour, label=label, linewidth=1.6)


def _smoothed(y: np.ndarray) -> np.ndarray:
    """A running mean over about a thirtieth of the curve, over fewer points towards its ends."""
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


def _style(panel: Axes, title: str, x_label: str) -> None:
    panel.set_title(title, loc="left", fontsize=11)
    panel.set_xlabel(x_label)
    panel.grid(True, color="#e6e6e6", linewidth=0.8)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


def _save(figure: Figure, path: epath.PathLike) -> None:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    write_atomically(path, data.getvalue())
