"""What every evaluation does before and after it detects: it continues a stopped one, and scores all shares together.

All processes make the same calls in the same order.
"""

import dataclasses
import sys
from typing import Any, NamedTuple

import jax
import numpy as np

from anchordetr_jax.data.loader import reading_problem
from anchordetr_jax.data.source import DetectionSource
from anchordetr_jax.errors import UserError
from anchordetr_jax.evaluation.coco_metrics import Scores, coco_scores
from anchordetr_jax.evaluation.journal import Journal
from anchordetr_jax.evaluation.processes import agree_on_found, metrics_of_process_zero
from anchordetr_jax.evaluation.results import DatasetDetections, coco_results, not_finite_sentence
from anchordetr_jax.model.anchor_detr import AnchorDETR

SHOWN_PROBLEMS = 10
"""The number of unreadable images that messages name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """The result of evaluating one model."""

    metrics: dict[str, float]
    """COCO's 12 scores by name, on every process; {} for images without annotations."""
    scores: Scores | None
    """With the scores of each class. None on other processes than 0, and for images without annotations."""
    results: list[dict[str, Any]]
    """COCO result entries, to which `scores` belong; [] on other processes than 0."""
    unreadable: tuple[str, ...]
    """For each image that could not be read, a sentence with its file and the reason. These images count as images
    without detections."""
    not_finite: int
    """The number of detections that are left out because their score or box is not finite."""
    num_images: int
    kept_images: int
    """How many of them have their detections from the journal of a stopped evaluation."""
    padding: float
    """The share of padding in all pixels that the network got, without the fillers of batches."""
    seconds: float
    """Time for reading, compiling and detecting; without the scoring."""
    compilations: int
    """The number of compilations since the evaluator was made: one for each shape of a batch."""
    cached_compilations: int
    """How many of them were found in JAX's persistent cache, and took almost no time."""

    @property
    def images_per_second(self) -> float:
        """Speed, for the images that are detected on in this run."""
        return (self.num_images - self.kept_images) / max(self.seconds, 1e-9)


class Kept(NamedTuple):
    """Detections of a stopped evaluation."""

    share: DatasetDetections | None
    """Those that this process gives; None if it has none."""
    is_kept: np.ndarray
    """bool [n]: which images any process has."""


class Scored(NamedTuple):
    """See the same names in `EvaluationResult`."""

    metrics: dict[str, float]
    scores: Scores | None
    results: list[dict[str, Any]]
    unreadable: tuple[str, ...]
    not_finite: int


def check_class_outputs(model: AnchorDETR, dataset: DetectionSource) -> None:
    """Raises `UserError` if the model has fewer class outputs than the labels of the data set need."""
    needed = dataset.categories.num_labels
    if model.config.num_classes < needed:
        raise UserError(
            f"The model has {model.config.num_classes} class outputs and the data set's labels need {needed}: evaluate "
            "it on the classes it was trained for."
        )


def kept_detections(journal: Journal, fingerprint: str, num_images: int) -> Kept:
    """The detections that the journal has of this evaluation. Process 0 says so."""
    found = journal.read(fingerprint, num_images)
    share, is_kept = agree_on_found(found, num_images)
    if jax.process_index() == 0:
        for note in journal.notes:
            print(note, file=sys.stderr)
        if is_kept.any():
            print(
                f"The evaluation continues after {is_kept.sum()} of {num_images} images, whose detections are in "
                f"{journal.folder}.",
                file=sys.stderr,
            )
    return Kept(share, is_kept)


def score_images(dataset: DetectionSource, images: DatasetDetections) -> Scored:
    """The results and the scores, from the detections of all images on every process. Process 0 scores.

    Raises:
        UserError: not a single image could be read, or the ground truth cannot be scored.
    """
    if not np.array_equal(np.sort(images.rows[images.rows >= 0]), np.arange(len(dataset))):
        raise RuntimeError("the evaluation plan does not hold every image exactly once")
    unreadable_rows = np.sort(images.rows[(images.rows >= 0) & ~images.readable]).tolist()
    if len(unreadable_rows) == len(dataset):
        raise nothing_readable(dataset)
    unreadable = tuple(_reading_problem(dataset, row) for row in unreadable_rows)
    results: list[dict[str, Any]] = []
    not_finite, scores, failure = 0, None, None
    if jax.process_index() == 0:
        try:
            results, not_finite = coco_results(images, dataset.image_ids, dataset.categories)
            truth = dataset.ground_truth()
            if truth is not None:
                scores = coco_scores(truth, results, dataset.image_ids, name=dataset.name)
        except Exception as error:  # It is raised after the other processes know, or they would wait for ever.
            failure = error
    metrics = metrics_of_process_zero(None if failure else scores.metrics if scores else {})
    if failure is not None:
        raise failure
    return Scored(metrics, scores, results, unreadable, not_finite)


def remarks(scored: Scored, num_images: int) -> list[str]:
    """Sentences about what makes the scores wrong, or different from what a reader expects."""
    sentences = [] if scored.scores is None else list(scored.scores.notes)
    if scored.unreadable:
        shown = "\n  ".join(scored.unreadable[:SHOWN_PROBLEMS])
        more = len(scored.unreadable) - SHOWN_PROBLEMS
        sentences.append(
            f"{len(scored.unreadable)} of {num_images} images could not be read. They count as images without "
            f"detections, so the scores are lower than the model's:\n  {shown}"
            + (f"\n  … and {more} more" if more > 0 else "")
        )
    if scored.not_finite:
        sentences.append(not_finite_sentence(scored.not_finite))
    return sentences


def nothing_readable(dataset: DetectionSource) -> UserError:
    """The error for a data set of which no image can be read."""
    problem = _reading_problem(dataset, 0)
    return UserError(f"None of the {len(dataset)} images of {dataset.name} can be read. The first one: {problem}")


def _reading_problem(dataset: DetectionSource, row: int) -> str:
    """Why an image was not readable, also if it is readable now."""
    return reading_problem(dataset, row) or f"{dataset.describe(row)} was not readable."
