"""The objects that a detector missed and its false positives, for each image."""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask


@dataclasses.dataclass(frozen=True)
class Mistakes:
    """The objects of one image, found or missed, and its false positives."""

    image_id: int
    missed: tuple[Mapping[str, Any], ...]
    """Annotations that no detection matches."""
    found: tuple[Mapping[str, Any], ...]
    """Annotations that a detection matches."""
    false_positives: tuple[Mapping[str, Any], ...]
    """Result entries that match no annotation, and lie in no crowd region of their class."""

    @property
    def cost(self) -> float:
        """1 for each missed object, and its score for each false positive."""
        return len(self.missed) + sum(entry["score"] for entry in self.false_positives)


def find_mistakes(
    image_id: int,
    annotations: Sequence[Mapping[str, Any]],
    entries: Sequence[Mapping[str, Any]],
    *,
    iou_threshold: float = 0.5,
    min_score: float = 0.3,
) -> Mistakes:
    """Matches detections to objects as COCO's evaluation does.

    The detections choose in the order of their scores. Each takes the free object of its class with the largest IoU.

    Args:
        image_id: the id of the image.
        annotations: the image's COCO annotations (boxes xywh in pixels), with its crowd regions.
        entries: the image's COCO result entries.
        iou_threshold: a detection with at least this IoU finds an object.
        min_score: detections with a lower score do not count.
    """
    objects = [box for box in annotations if not box.get("iscrowd")]
    crowds = [box for box in annotations if box.get("iscrowd")]
    confident = sorted(
        (entry for entry in entries if entry["score"] >= min_score), key=lambda entry: entry["score"], reverse=True
    )
    ious = _overlaps(confident, objects, crowd=False)
    in_crowd = _overlaps(confident, crowds, crowd=True)
    taken: set[int] = set()
    false_positives = []
    for i, entry in enumerate(confident):
        free = [
            j
            for j, box in enumerate(objects)
            if j not in taken and box["category_id"] == entry["category_id"] and ious[i, j] >= iou_threshold
        ]
        if free:
            taken.add(max(free, key=lambda j: ious[i, j]))
        elif not any(
            box["category_id"] == entry["category_id"] and in_crowd[i, j] >= iou_threshold
            for j, box in enumerate(crowds)
        ):
            false_positives.append(entry)
    return Mistakes(
        image_id=image_id,
        missed=tuple(box for j, box in enumerate(objects) if j not in taken),
        found=tuple(objects[j] for j in sorted(taken)),
        false_positives=tuple(false_positives),
    )


def worst_images(
    annotations: Sequence[Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
    count: int,
    *,
    min_score: float = 0.3,
) -> list[Mistakes]:
    """The images with the largest `Mistakes.cost`, in descending order. Images without mistakes are left out.

    Args:
        annotations: those of all images.
        results: COCO result entries of all images.
        count: the largest number of images.
        min_score: see `find_mistakes`.
    """
    by_image: dict[int, tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]] = defaultdict(lambda: ([], []))
    for box in annotations:
        by_image[box["image_id"]][0].append(box)
    for entry in results:
        by_image[entry["image_id"]][1].append(entry)
    mistakes = [find_mistakes(image_id, *both, min_score=min_score) for image_id, both in sorted(by_image.items())]
    mistakes.sort(key=lambda image: image.cost, reverse=True)
    return [image for image in mistakes[:count] if image.cost > 0]


def _overlaps(entries: Sequence[Mapping[str, Any]], boxes: Sequence[Mapping[str, Any]], *, crowd: bool) -> np.ndarray:
    """[entries, boxes]: IoU; for crowd regions the share of the entry inside the region."""
    if not entries or not boxes:
        return np.zeros((len(entries), len(boxes)))
    detected = np.array([entry["bbox"] for entry in entries], np.float64)
    true = np.array([box["bbox"] for box in boxes], np.float64)
    return np.asarray(coco_mask.iou(detected, true, [int(crowd)] * len(boxes)))
