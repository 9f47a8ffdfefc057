"""Pictures of an evaluation: predictions beside the truth, precision against recall, and the worst mistakes."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from anchordetr_jax.data.source import DetectionSource
from anchordetr_jax.errors import UserError
from anchordetr_jax.evaluation.coco_metrics import RECALL_POINTS, Scores
from anchordetr_jax.evaluation.mistakes import Mistakes, worst_images
from anchordetr_jax.pictures.grids import Boxes, Example, ImageMistakes, mistakes_grid, prediction_grid
from anchordetr_jax.pictures.precision_recall import PrecisionRecall, plot_precision_recall

MIN_SCORE = 0.3
"""Detections with a lower score are not drawn, and do not count as mistakes."""


def write_report(
    folder: epath.PathLike, dataset: DetectionSource, results: Sequence[Mapping[str, Any]], scores: Scores
) -> None:
    """Writes `precision_recall.png` and `worst_misses.png` into a folder, which is made if it does not exist."""
    curves = PrecisionRecall(
        names=tuple(score.name for score in scores.per_class),
        objects=tuple(score.objects for score in scores.per_class),
        precision=scores.precision,
        recalls=RECALL_POINTS,
    )
    plot_precision_recall(curves, epath.Path(folder) / "precision_recall.png")
    mistakes_grid(worst_examples(dataset, results, count=12), epath.Path(folder) / "worst_misses.png")


def write_predictions(
    path: epath.PathLike, dataset: DetectionSource, results: Sequence[Mapping[str, Any]], count: int = 12
) -> None:
    """Writes a grid of images of the data set, predictions beside the truth. Every model gets the same images."""
    prediction_grid(prediction_examples(dataset, results, count), path)


def prediction_examples(
    dataset: DetectionSource, results: Sequence[Mapping[str, Any]], count: int, min_score: float = MIN_SCORE
) -> list[Example]:
    """Images from the whole data set, with their truth and the predictions that score at least `min_score`.

    Images that cannot be read are left out.
    """
    by_image = _by_image(results)
    examples = []
    # Always the same rows, so that people can compare the grids of two models.
    for row in np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)).tolist():
        image = _image_or_none(dataset, row)
        if image is None:
            continue
        entries = [entry for entry in by_image[dataset.image_ids[row]] if entry["score"] >= min_score]
        labels = dataset.labels(row).tolist()
        truth = Boxes(
            boxes=dataset.boxes(row), labels=labels, names=[dataset.categories.name_of(label) for label in labels]
        )
        predictions = _boxes_of(dataset, entries, with_scores=True)
        examples.append(
            Example(image=image, truth=truth, predictions=predictions, title=Path(dataset.describe(row)).name)
        )
    return examples


def worst_examples(dataset: DetectionSource, results: Sequence[Mapping[str, Any]], count: int) -> list[ImageMistakes]:
    """The readable images with the worst mistakes (`mistakes.worst_images`), the worst one first."""
    annotations = (dataset.ground_truth() or {"annotations": []})["annotations"]
    row_of = {image_id: row for row, image_id in enumerate(dataset.image_ids)}
    examples: list[ImageMistakes] = []
    for mistakes in worst_images(annotations, results, len(dataset), min_score=MIN_SCORE):
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
