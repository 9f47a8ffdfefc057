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
            panel.set_yscale("log")
            plain = FuncFormatter(lambda value, _: f"{value:g}")
            panel.yaxis.set_major_formatter(plain)
            panel.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
            panel.yaxis.set_minor_formatter(plain)
        if panel.has_data() and len(series) > 1:
            panel.legend(frameon=False, fontsize=9)
        if not panel.has_data():
            panel.text(0.5, 0.5, "nothing yet", transform=panel.transAxes, ha="center", va="center", color="#999999")
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
