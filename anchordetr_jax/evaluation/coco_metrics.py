"""COCO's numbers, computed by COCO's own code (pycocotools) and handed on as data.

Nothing is re-implemented here: every figure is read out of pycocotools' evaluation of the very list of results that is
written to `results.json`, so scoring that file with pycocotools gives the same numbers to the last bit.
"""

import contextlib
import dataclasses
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from anchordetr_jax.errors import UserError

METRIC_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""COCO's 12 bounding box numbers in the order in which pycocotools gives them."""

RECALL_POINTS = np.linspace(0.0, 1.0, 101)
"""The recalls at which COCO reads off precision."""


@dataclasses.dataclass(frozen=True)
class ClassScore:
    """What COCO says of one category. A score is -1 where the category has no object to find."""

    category_id: int
    name: str
    objects: int
    """Ground-truth boxes that count (crowd regions do not)."""
    ap: float
    ap50: float
    ap75: float


@dataclasses.dataclass(frozen=True)
class Scores:
    """COCO's evaluation of a list of results."""

    metrics: dict[str, float]
    """The 12 numbers, by `METRIC_NAMES`. -1 where there is nothing to measure (no small objects, say)."""
    per_class: tuple[ClassScore, ...]
    """In the order of the category ids."""
    num_images: int
    num_results: int
    table: str
    """The 12 lines that pycocotools prints."""
    precision: np.ndarray
    """[10, 101, K]: precision by IoU threshold (0.50, 0.55, … 0.95), recall (`RECALL_POINTS`) and class; -1 without
    objects."""
    notes: tuple[str, ...] = ()
    """Sentences about the annotation file that someone who reads the numbers should know."""

    def to_dict(self) -> dict[str, Any]:
        """The figures for a JSON file (without the precision array)."""
        return {
            **self.metrics,
            "per_class": [dataclasses.asdict(score) for score in self.per_class],
            "num_images": self.num_images,
            "num_results": self.num_results,
            "notes": list(self.notes),
        }


def coco_scores(
    annotations: epath.PathLike | Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    image_ids: Iterable[int] | None = None,
    *,
    name: str = "the annotations",
) -> Scores:
    """Scores detections with pycocotools.

    Args:
        annotations: a COCO annotation file, or its contents.
        results: COCO result entries, {"image_id", "category_id", "bbox": [x, y, w, h] in pixels, "score"}. May be
            empty. Entries of a category that the annotations do not have are ignored, as pycocotools does.
        image_ids: the images to score; all those of the annotations by default. An image without entries counts as one
            in which nothing was found.
        name: how messages call annotations that are given by their contents.

    Raises:
        UserError: the annotations cannot be read, or an entry or `image_ids` names an image that they do not have.
    """
    contents, source = _read_annotations(annotations, name)
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO()
        ground_truth.dataset = contents
        ground_truth.createIndex()
    known = set(ground_truth.getImgIds())
    for image_id in results_image_ids(results):
        if image_id not in known:
            raise UserError(f"The results name image {image_id}, which is not in {source}; score them with their own.")

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(ground_truth, _load_results(ground_truth, results), "bbox")
        if image_ids is not None:
            wanted = sorted(set(image_ids))
            if unknown := set(wanted) - known:
                raise UserError(f"Image {min(unknown)} was to be scored, but is not in {source}.")
            evaluation.params.imgIds = wanted
        evaluation.evaluate()
        evaluation.accumulate()
    table = io.StringIO()
    with contextlib.redirect_stdout(table):
        evaluation.summarize()

    # Axes of precision: IoU threshold, recall, class, area (0: all), most detections (2: 100).
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    return Scores(
        metrics={name: float(value) for name, value in zip(METRIC_NAMES, evaluation.stats, strict=True)},
        per_class=_class_scores(ground_truth, evaluation, precision),
        num_images=len(evaluation.params.imgIds),
        num_results=len(results),
        table=table.getvalue().rstrip("\n"),
        precision=precision,
        notes=_notes(contents, source),
    )


def results_image_ids(results: Sequence[Mapping[str, Any]]) -> list[int]:
    """The images that have at least one entry, in increasing order."""
    return sorted({entry["image_id"] for entry in results})


def class_table(scores: Scores) -> str:
    """Per-class average precision as aligned text, a line a class."""
    names = [score.name for score in scores.per_class]
    width = max([len("class"), *map(len, names)])
    lines = [f" {'class':<{width}}  objects     AP   AP50   AP75"]
    for score in scores.per_class:
        figures = "".join(f"  {_figure(value):>5}" for value in (score.ap, score.ap50, score.ap75))
        lines.append(f" {score.name:<{width}}  {score.objects:>7}{figures}")
    return "\n".join(lines)


def summary_line(metrics: Mapping[str, float]) -> str:
    """`AP=0.xxx AP50=0.xxx`."""
    return f"AP={metrics['AP']:.3f} AP50={metrics['AP50']:.3f}"


def _figure(value: float) -> str:
    return "-" if value < 0 else f"{value:.3f}"


def _read_annotations(annotations: epath.PathLike | Mapping[str, Any], name: str) -> tuple[dict[str, Any], str]:
    if isinstance(annotations, Mapping):
        contents, source = dict(annotations), name
    else:
        source = str(annotations)
        try:
            contents = json.loads(epath.Path(annotations).read_bytes())
        except OSError as error:
            raise UserError(f"Cannot read the annotation file {source} ({error.strerror}); check its path.") from error
        except ValueError as error:
            raise UserError(f"The annotation file {source} is not valid JSON; download or export it again.") from error
    if not isinstance(contents, dict) or not all(
        isinstance(contents.get(key), list) for key in ("images", "annotations", "categories")
    ):
        raise UserError(
            f"{source} is not in COCO's form: it needs the lists 'images', 'annotations' and 'categories' "
            "(test sets come without annotations and cannot be scored)."
        )
    for box in contents["annotations"]:
        if missing := [key for key in ("id", "image_id", "category_id", "bbox") if key not in box]:
            raise UserError(
                f"An annotation in {source} has no '{missing[0]}': {json.dumps(box)[:100]}; scoring needs it."
            )
    # pycocotools stops where these fields are missing, and exporters leave them out; filling them changes no score.
    filled = [
        {"iscrowd": 0, "area": float(box["bbox"][2]) * float(box["bbox"][3]), **box} for box in contents["annotations"]
    ]
    return {**contents, "annotations": filled}, source


def _load_results(ground_truth: COCO, results: Sequence[Mapping[str, Any]]) -> COCO:
    if results:
        return ground_truth.loadRes(
            [dict(entry) for entry in results]
        )  # copies: pycocotools adds fields to what it is given
    empty = COCO()  # loadRes stops at an empty list
    empty.dataset = {**ground_truth.dataset, "annotations": []}
    empty.createIndex()
    return empty


def _class_scores(ground_truth: COCO, evaluation: COCOeval, precision: np.ndarray) -> tuple[ClassScore, ...]:
    scores = []
    for index, category_id in enumerate(evaluation.params.catIds):
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
            )
        )
    return tuple(scores)


def _mean(precision: np.ndarray) -> float:
    measured = precision[precision > -1]
    return float(measured.mean()) if measured.size else -1.0


def _notes(contents: Mapping[str, Any], source: str) -> tuple[str, ...]:
    # pycocotools marks "matched" by the annotation's id, and so takes id 0 for "not matched".
    if any(box.get("id") == 0 for box in contents["annotations"]):
        return (f"An annotation in {source} has id 0: pycocotools never counts it as found; number them from 1.",)
    return ()
