"""An evaluation as pictures: predictions beside the truth, precision against recall, the worst mistakes."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from anchordetr_jax.data.source import DetectionSource
from anchordetr_jax.errors import UserError
from anchordetr_jax.evaluation.coco_metrics import Scores
from anchordetr_jax.evaluation.mistakes import worst_images
from anchordetr_jax.pictures.boxes import Boxes, Example, Miss, plot_precision_recall, prediction_grid, worst_misses

MIN_SCORE = 0.3
"""Detections below it are not drawn and not held against the detector."""


def write_report(
    folder: epath.PathLike, dataset: DetectionSource, results: Sequence[Mapping[str, Any]], scores: Scores
) -> None:
    """Writes `precision_recall.png` and `worst_misses.png` into a folder, which is made if need be."""
    plot_precision_recall(scores, epath.Path(folder) / "precision_recall.png")
    worst_misses(worst_examples(dataset, results, count=12), epath.Path(folder) / "worst_misses.png")


def write_predictions(
    path: epath.PathLike, dataset: DetectionSource, results: Sequence[Mapping[str, Any]], count: int = 12
) -> None:
    """Writes a grid of images of the data set, predictions beside the truth. The same images for every model."""
    prediction_grid(prediction_examples(dataset, results, count), path)


def prediction_examples(
    dataset: DetectionSource, results: Sequence[Mapping[str, Any]], count: int, min_score: float = MIN_SCORE
) -> list[Example]:
    """Images spread over the data set, with their truth and the predictions that score at least `min_score`.

    Images that cannot be read are passed over.
    """
    by_image = _by_image(results)
    examples = []
    # Spread over the rows, and always the same ones, so that grids of two models can be laid side by side.
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


def worst_examples(dataset: DetectionSource, results: Sequence[Mapping[str, Any]], count: int) -> list[Miss]:
    """The readable images with the costliest mistakes (`mistakes.worst_images`), worst first."""
    annotations = (dataset.ground_truth() or {"annotations": []})["annotations"]
    row_of = {image_id: row for row, image_id in enumerate(dataset.image_ids)}
    misses: list[Miss] = []
    for mistakes in worst_images(annotations, results, len(dataset), min_score=MIN_SCORE):
        if len(misses) == count:
            break
        image = _image_or_none(dataset, row_of[mistakes.image_id])
        if image is None:
            continue
        name = Path(dataset.describe(row_of[mistakes.image_id])).name
        misses.append(
            Miss(
                image=image,
                missed=_boxes_of(dataset, mistakes.missed),
                invented=_boxes_of(dataset, mistakes.invented, with_scores=True),
                found=_boxes_of(dataset, mistakes.found),
                title=f"{name}: {len(mistakes.missed)} missed, {len(mistakes.invented)} invented",
            )
        )
    return misses


def _boxes_of(dataset: DetectionSource, entries: Sequence[Mapping[str, Any]], with_scores: bool = False) -> Boxes:
    """COCO entries or annotations (xywh) as boxes to draw."""
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
