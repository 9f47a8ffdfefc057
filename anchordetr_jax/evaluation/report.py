"""An evaluation for people: a page with all of it, predictions beside the truth, and the worst mistakes."""

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from anchordetr_jax.checkpoints.thresholds import Thresholds
from anchordetr_jax.data.source import DetectionSource
from anchordetr_jax.errors import UserError
from anchordetr_jax.evaluation.coco_metrics import RECALL_POINTS, Scores
from anchordetr_jax.evaluation.confusion import BACKGROUND, Confusion, confusion
from anchordetr_jax.evaluation.mistakes import FOR_REPORTS, Mistakes, worst_images
from anchordetr_jax.evaluation.page import Examples, evaluation_sections
from anchordetr_jax.files import write_atomically
from anchordetr_jax.pictures.grids import Boxes, Example, ImageMistakes, mistakes_grid, prediction_grid
from anchordetr_jax.pictures.html import Html, page
from anchordetr_jax.pictures.precision_recall import PrecisionRecall, plot_precision_recall

PAGE = "index.html"
_HARDEST, _PREDICTED = 12, 6
"""The numbers of images on a page."""


def write_report(
    folder: epath.PathLike,
    dataset: DetectionSource,
    results: Sequence[Mapping[str, Any]],
    scores: Scores,
    *,
    title: str = "Evaluation",
    facts: Sequence[tuple[str, str]] = (),
) -> None:
    """Writes an evaluation as pages and pictures for people into a folder, which is made if it does not exist.

    `index.html` has everything and needs no other file. `precision_recall.png`, `worst_misses.png` and
    `confusion_matrix.csv` are for other documents.

    Args:
        folder: the folder.
        dataset: the images, with annotations.
        results: COCO result entries.
        scores: what they score.
        title, facts: the heading of the page, and what it says about the evaluation first, as (name, value).
    """
    path = epath.Path(folder)
    confused = confusion_of(dataset, results, scores)
    hardest = worst_examples(dataset, results, _HARDEST, thresholds=confused.thresholds)
    sections = report_sections(dataset, results, scores, confused=confused, hardest=hardest, facts=facts)
    write_atomically(path / PAGE, page(title, *sections).encode())
    plot_precision_recall(precision_recall(scores), path / "precision_recall.png")
    mistakes_grid(hardest, path / "worst_misses.png")
    write_atomically(path / "confusion_matrix.csv", _csv(confused).encode())


def report_sections(
    dataset: DetectionSource,
    results: Sequence[Mapping[str, Any]],
    scores: Scores,
    *,
    confused: Confusion | None = None,
    hardest: Sequence[ImageMistakes] | None = None,
    facts: Sequence[tuple[str, str]] = (),
) -> tuple[Html, ...]:
    """The parts of a page about an evaluation. Without `confused` and `hardest` they are computed."""
    confused = confused or confusion_of(dataset, results, scores)
    if hardest is None:
        hardest = worst_examples(dataset, results, _HARDEST, thresholds=confused.thresholds)
    predicted = prediction_examples(dataset, results, _PREDICTED, confused.thresholds)
    return evaluation_sections(scores, precision_recall(scores), confused, Examples(hardest, predicted), facts)


def confusion_of(dataset: DetectionSource, results: Sequence[Mapping[str, Any]], scores: Scores) -> Confusion:
    """The confusion matrix at the thresholds that the scores recommend."""
    categories = {score.category_id: score.name for score in scores.per_class}
    return confusion(categories, _annotations(dataset), results, scores.thresholds or FOR_REPORTS)


def precision_recall(scores: Scores) -> PrecisionRecall:
    """The curves of an evaluation, ready to be drawn."""
    return PrecisionRecall(
        names=tuple(score.name for score in scores.per_class),
        objects=tuple(score.objects for score in scores.per_class),
        precision=scores.precision,
        recalls=RECALL_POINTS,
    )


def write_predictions(
    path: epath.PathLike, dataset: DetectionSource, results: Sequence[Mapping[str, Any]], count: int = 12
) -> None:
    """Writes a grid of images of the data set, predictions beside the truth. Every model gets the same images."""
    prediction_grid(prediction_examples(dataset, results, count), path)


def prediction_examples(
    dataset: DetectionSource,
    results: Sequence[Mapping[str, Any]],
    count: int,
    thresholds: Thresholds = FOR_REPORTS,
) -> list[Example]:
    """Images from the whole data set, with their truth and the predictions that reach the threshold of their class.

    Images that cannot be read are left out.
    """
    by_image = _by_image(results)
    examples = []
    # Always the same rows, so that people can compare the grids of two models.
    for row in np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)).tolist():
        image = _image_or_none(dataset, row)
        if image is None:
            continue
        entries = [
            entry for entry in by_image[dataset.image_ids[row]] if entry["score"] >= thresholds.of(entry["category_id"])
        ]
        labels = dataset.labels(row).tolist()
        truth = Boxes(
            boxes=dataset.boxes(row), labels=labels, names=[dataset.categories.name_of(label) for label in labels]
        )
        predictions = _boxes_of(dataset, entries, with_scores=True)
        examples.append(
            Example(image=image, truth=truth, predictions=predictions, title=Path(dataset.describe(row)).name)
        )
    return examples


def worst_examples(
    dataset: DetectionSource,
    results: Sequence[Mapping[str, Any]],
    count: int,
    *,
    thresholds: Thresholds = FOR_REPORTS,
) -> list[ImageMistakes]:
    """The readable images with the worst mistakes (`mistakes.worst_images`), the worst one first."""
    row_of = {image_id: row for row, image_id in enumerate(dataset.image_ids)}
    examples: list[ImageMistakes] = []
    for mistakes in worst_images(_annotations(dataset), results, len(dataset), thresholds=thresholds):
        if len(examples) == count:
            break
        image = _image_or_none(dataset, row_of[mistakes.image_id])
        if image is None:
            continue
        name = Path(dataset.describe(row_of[mistakes.image_id])).name
        examples.append(
            ImageMistakes(
                image=image,
                missed=_boxes_of(dataset, mistakes.missed),
                false_positives=_boxes_of(dataset, mistakes.false_positives, with_scores=True),
                found=_boxes_of(dataset, mistakes.found),
                title=_title(name, mistakes),
            )
        )
    return examples


def _annotations(dataset: DetectionSource) -> Sequence[Mapping[str, Any]]:
    return (dataset.ground_truth() or {"annotations": []})["annotations"]


def _csv(confused: Confusion) -> str:
    """The confusion matrix with names, true classes down and detected classes across."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["true class \\ detected class", *confused.names, BACKGROUND])
    for name, row in zip((*confused.names, BACKGROUND), confused.counts.tolist(), strict=True):
        writer.writerow([name, *row])
    return text.getvalue()


def _boxes_of(dataset: DetectionSource, entries: Sequence[Mapping[str, Any]], with_scores: bool = False) -> Boxes:
    """COCO result entries or annotations (boxes xywh) as boxes to draw."""
    corners = np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    labels = [dataset.categories.label_of(entry["category_id"]) for entry in entries]
    return Boxes(
        boxes=corners,
        labels=labels,
        names=[dataset.categories.name_of(label) for label in labels],
        scores=[entry["score"] for entry in entries] if with_scores else None,
    )


def _by_image(results: Sequence[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    by_image: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for entry in results:
        by_image[entry["image_id"]].append(entry)
    return by_image


def _image_or_none(dataset: DetectionSource, row: int) -> np.ndarray | None:
    try:
        return dataset.open_image(row)
    except UserError:
        return None


def _title(name: str, mistakes: Mistakes) -> str:
    wrong = len(mistakes.false_positives)
    return f"{name}: {len(mistakes.missed)} missed, {wrong} false positive{'' if wrong == 1 else 's'}"
