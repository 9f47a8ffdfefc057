"""COCO's scores of a detector that sees each image whole and in tiles."""

import functools
import time
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from anchordetr_jax.compilation import CacheHits
from anchordetr_jax.config import Config
from anchordetr_jax.data.source import DetectionSource
from anchordetr_jax.errors import UserError
from anchordetr_jax.evaluation.coco_metrics import coco_scores
from anchordetr_jax.evaluation.evaluate import EvaluationResult
from anchordetr_jax.evaluation.results import DatasetDetections, coco_results
from anchordetr_jax.model.anchor_detr import AnchorDETR
from anchordetr_jax.prediction.detections import Detections
from anchordetr_jax.prediction.detector import Detector
from anchordetr_jax.prediction.tiling import OVERLAP


def evaluate_model_in_tiles(
    model: AnchorDETR, config: Config, dataset: DetectionSource, tiles: int, overlap: float = OVERLAP
) -> EvaluationResult:
    """As `evaluate_in_tiles`, for a model with the class outputs of the data set and the settings `config`."""
    sizes, limit = config.augment, config.eval.max_detections
    detector = Detector(
        model, dataset.categories, eval_size=sizes.eval_size, max_size=sizes.max_size, max_detections=limit
    )
    return evaluate_in_tiles(detector, dataset, tiles, overlap=overlap, batch_size=config.eval.batch_size)


def evaluate_in_tiles(
    detector: Detector,
    dataset: DetectionSource,
    tiles: int,
    *,
    overlap: float = OVERLAP,
    batch_size: int = 8,
    progress: bool = True,
) -> EvaluationResult:
    """Detects on all images of a data set in tiles, and scores the detections.

    Boxes are clipped to their image. An image has at most `detector.max_detections` detections, the best ones.

    Args:
        detector: its class outputs are those of `dataset.categories`.
        dataset: the images.
        tiles, overlap, batch_size: see `Detector.predict`.
        progress: whether to show a progress bar.

    Raises:
        UserError: not a single image can be read, or the ground truth cannot be scored.
    """
    started = time.perf_counter()
    problems: dict[int, str] = {}
    results: list[dict[str, Any]] = []
    not_finite = 0
    readers = [functools.partial(_read, dataset, row) for row in range(len(dataset))]
    with CacheHits() as hits:
        found = detector.predict_in_tiles(readers, 0.0, tiles=tiles, overlap=overlap, batch_size=batch_size)
        for row, outcome in tqdm(
            found, total=len(dataset), desc="evaluate", unit="image", disable=not progress, dynamic_ncols=True
        ):
            if isinstance(outcome, UserError):
                problems[row] = str(outcome)
                continue
            results += _entries(dataset, row, outcome[: detector.max_detections])
            not_finite += outcome.not_finite
    if len(problems) == len(dataset):
        raise UserError(
            f"None of the {len(dataset)} images of {dataset.name} can be read. The first one: {problems[0]}"
        )
    seconds = time.perf_counter() - started
    results.sort(key=lambda entry: entry["image_id"])  # Entries of an image stay in the order of their scores.
    truth = dataset.ground_truth()
    scores = None if truth is None else coco_scores(truth, results, dataset.image_ids, name=dataset.name)
    return EvaluationResult(
        metrics={} if scores is None else scores.metrics,
        scores=scores,
        results=results,
        unreadable=tuple(problems[row] for row in sorted(problems)),
        not_finite=not_finite,
        num_images=len(dataset),
        kept_images=0,
        padding=0.0,
        seconds=seconds,
        compilations=1,
        cached_compilations=int(hits.count > 0),
    )


def _read(dataset: DetectionSource, row: int) -> np.ndarray | UserError:
    try:
        return dataset.open_image(row)
    except UserError as error:
        return error


def _entries(dataset: DetectionSource, row: int, detections: Detections) -> list[dict[str, Any]]:
    """The detections of an image as COCO result entries."""
    images = DatasetDetections(
        rows=np.array([row]),
        readable=np.array([True]),
        scores=detections.scores[None],
        labels=detections.labels[None],
        boxes=detections.boxes[None],
    )
    return coco_results(images, dataset.image_ids, dataset.categories)[0]
