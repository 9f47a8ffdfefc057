"""COCO's scores, computed by COCO's own code (pycocotools).

Nothing is implemented again here: every score is read from pycocotools' evaluation of the list of results that is
written to `results.json`. Scoring that file with pycocotools gives the same scores, to the last bit.
"""

import contextlib
import dataclasses
import html
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from anchordetr_jax.checkpoints.thresholds import Thresholds
from anchordetr_jax.errors import UserError
from anchordetr_jax.evaluation.threshold import ScoreCurve, Threshold, all_together, class_thresholds, score_curves

METRIC_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""COCO's 12 scores for bounding boxes, in the order of pycocotools."""

RECALL_POINTS = np.linspace(0.0, 1.0, 101)
"""The recalls at which COCO takes the precision."""


@dataclasses.dataclass(frozen=True)
class ClassScore:
    """COCO's scores of one category. They are -1 where the category has no object to find."""

    category_id: int
    name: str
    objects: int
    """The number of objects to find (crowd regions do not count)."""
    ap: float
    ap50: float
    ap75: float
    threshold: Threshold | None = None
    """The score threshold to use for this class, and how good its detections are then. It is the one with the best F1
    score, or for a class with few objects (`MIN_OBJECTS`) that of all classes together. None where no detection of any
    class is right."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """COCO's evaluation of a list of results."""

    metrics: dict[str, float]
    """The 12 scores, by `METRIC_NAMES`. -1 where there is nothing to measure, for example no small objects."""
    per_class: tuple[ClassScore, ...]
    """In the order of the category ids."""
    num_images: int
    num_results: int
    table: str
    """The 12 lines that pycocotools prints."""
    precision: np.ndarray
    """[10, 101, K]: precision by IoU threshold (0.50, 0.55, … 0.95), recall (`RECALL_POINTS`) and class; -1 without
    objects."""
    threshold: Threshold | None
    """The score threshold with the best F1 score, all classes together; None where no detection is right."""
    curves: tuple[ScoreCurve, ...]
    """For each class, the scores of its detections and which of them are right, at IoU 0.50."""
    notes: tuple[str, ...]
    """Sentences about the ground truth that readers of the scores should know."""

    @property
    def thresholds(self) -> Thresholds | None:
        """The score threshold to use for each class; None where no detection is right."""
        return Thresholds.from_scores(self.to_dict())

    def __getitem__(self, name: str) -> float:
        """One of the 12 scores: `scores["AP"]`."""
        return self.metrics[name]

    def __repr__(self) -> str:
        return f"{self.table}\n\n{class_table(self)}"

    def _repr_html_(self) -> str:
        rows = [(name, f"{value:.3f}") for name, value in self.metrics.items()]
        rows += [(f"AP of {score.name}", f"{score.ap:.3f}") for score in self.per_class]
        return "<table>" + "".join(f"<tr><td>{html.escape(a)}</td><td>{b}</td></tr>" for a, b in rows) + "</table>"

    def to_dict(self) -> dict[str, Any]:
        """The scores for a JSON file, without the precision array and the curves."""
        return {
            **self.metrics,
            "threshold": None if self.threshold is None else dataclasses.asdict(self.threshold),
            "per_class": [dataclasses.asdict(score) for score in self.per_class],
            "num_images": self.num_images,
            "num_results": self.num_results,
            "notes": list(self.notes),
        }


def coco_scores(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    image_ids: Iterable[int] | None = None,
    *,
    name: str = "the annotations",
) -> Scores:
    """Scores detections with pycocotools.

    Args:
        truth: the ground truth of a `DetectionSource`, in the form of a COCO annotation file.
        results: COCO result entries, {"image_id", "category_id", "bbox": [x, y, w, h] in pixels, "score"}. May be
            empty. Entries of an unknown category are ignored, as in pycocotools.
        image_ids: the images to score. Default: all images of `truth`. In an image without entries, nothing was found.
        name: what messages call the ground truth.

    Raises:
        UserError: an entry or `image_ids` names an unknown image.
    """
    # pycocotools takes annotations with equal ids for one annotation, and a match with id 0 for no match.
    annotations = [{**record, "id": number} for number, record in enumerate(truth["annotations"], start=1)]
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO()
        ground_truth.dataset = {**truth, "annotations": annotations}
        ground_truth.createIndex()
    known = set(ground_truth.getImgIds())
    for image_id in results_image_ids(results):
        if image_id not in known:
            raise UserError(
                f"The results name image {image_id}, which is not in {name}: score them with their own file."
            )

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(ground_truth, _load_results(ground_truth, results), "bbox")
        if image_ids is not None:
            wanted = sorted(set(image_ids))
            if unknown := set(wanted) - known:
                raise UserError(f"Image {min(unknown)} cannot be scored: it is not in {name}.")
            evaluation.params.imgIds = wanted
        evaluation.evaluate()
        evaluation.accumulate()
    table = io.StringIO()
    with contextlib.redirect_stdout(table):
        evaluation.summarize()

    notes = []
    if evaluation.stats[0] < 0:
        notes.append(
            f"{name} has no object to find (crowd regions do not count), so every score is -1: COCO's value for "
            "'nothing to measure'."
        )
    notes += _full_images(truth, evaluation, name)
    # Axes of precision: IoU threshold, recall, class, area (0: all), largest number of detections (2: 100).
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    curves = score_curves(evaluation)
    threshold = all_together(curves).best()
    return Scores(
        metrics={name: float(value) for name, value in zip(METRIC_NAMES, evaluation.stats, strict=True)},
        per_class=_class_scores(ground_truth, evaluation, precision, class_thresholds(curves, threshold)),
        num_images=len(evaluation.params.imgIds),
        num_results=len(results),
        table=table.getvalue().rstrip("\n"),
        precision=precision,
        threshold=threshold,
        curves=curves,
        notes=tuple(notes),
    )


def _full_images(truth: Mapping[str, Any], evaluation: COCOeval, name: str) -> list[str]:
    """A sentence if images have more objects of one class than COCO's AP counts."""
    image_ids, counted = set(evaluation.params.imgIds), evaluation.params.maxDets[-1]
    objects = Counter(
        (record["image_id"], record["category_id"])
        for record in truth["annotations"]
        if record["image_id"] in image_ids and not record.get("iscrowd", 0)
    )
    full = {image for (image, _), number in objects.items() if number > counted}
    if not full:
        return []
    return [
        f"{len(full)} of the images of {name} have more than {counted} objects of one class, up to "
        f"{max(objects.values())}. COCO's AP counts the {counted} best detections of a class in an image, so it stays "
        "below 1 however good the detector is."
    ]


def results_image_ids(results: Sequence[Mapping[str, Any]]) -> list[int]:
    """The images that have at least one entry, in ascending order."""
    return sorted({entry["image_id"] for entry in results})


def class_table(scores: Scores) -> str:
    """Average precision, score threshold and F1 score of each class as aligned text, one line per class."""
    names = [score.name for score in scores.per_class]
    width = max([len("class"), *map(len, names)])
    lines = [f" {'class':<{width}}  objects     AP   AP50   AP75  threshold     F1"]
    for score in scores.per_class:
        figures = "".join(f"  {figure(value):>5}" for value in (score.ap, score.ap50, score.ap75))
        best = score.threshold
        used, f1 = ("-", "-") if best is None else (figure(best.score), figure(best.f1))
        lines.append(f" {score.name:<{width}}  {score.objects:>7}{figures}  {used:>9}  {f1:>5}")
    return "\n".join(lines)


def summary_line(metrics: Mapping[str, float]) -> str:
    """`AP=0.xxx AP50=0.xxx`."""
    return f"AP={metrics['AP']:.3f} AP50={metrics['AP50']:.3f}"


def figure(value: float) -> str:
    """A score with three decimals; `-` where there is nothing to measure."""
    return "-" if value < 0 else f"{value:.3f}"


def _load_results(ground_truth: COCO, results: Sequence[Mapping[str, Any]]) -> COCO:
    if results:
        return ground_truth.loadRes(
            [dict(entry) for entry in results]
        )  # Copies, because pycocotools adds fields to them.
    empty = COCO()  # loadRes fails for an empty list.
    empty.dataset = {**ground_truth.dataset, "annotations": []}
    empty.createIndex()
    return empty


def _class_scores(
    ground_truth: COCO, evaluation: COCOeval, precision: np.ndarray, thresholds: Sequence[Threshold | None]
) -> tuple[ClassScore, ...]:
    scores = []
    for index, (category_id, threshold) in enumerate(zip(evaluation.params.catIds, thresholds, strict=True)):
        boxes = ground_truth.loadAnns(
            ground_truth.getAnnIds(imgIds=evaluation.params.imgIds, catIds=[category_id], iscrowd=False)
        )
        by_threshold = precision[:, :, index]
        scores.append(
            ClassScore(
                category_id=int(category_id),
                name=str(ground_truth.cats[category_id].get("name", category_id)),
                objects=len(boxes),
                ap=_mean(by_threshold),
                ap50=_mean(by_threshold[0]),
                ap75=_mean(by_threshold[5]),
                threshold=threshold,
            )
        )
    return tuple(scores)


def _mean(precision: np.ndarray) -> float:
    measured = precision[precision > -1]
    return float(measured.mean()) if measured.size else -1.0
