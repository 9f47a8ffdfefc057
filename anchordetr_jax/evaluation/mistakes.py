"""What a detector missed and what it invented, image by image."""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask


@dataclasses.dataclass(frozen=True)
class Mistakes:
    """One image's objects and detections, sorted by what became of them."""

    image_id: int
    missed: tuple[Mapping[str, Any], ...]
    """Annotations that no detection took."""
    found: tuple[Mapping[str, Any], ...]
    """Annotations that one did."""
    invented: tuple[Mapping[str, Any], ...]
    """Result entries that took none, and lie in no crowd of their class."""

    @property
    def cost(self) -> float:
        """1 for a missed object, its score for an invented one."""
        return len(self.missed) + sum(entry["score"] for entry in self.invented)


def find_mistakes(
    image_id: int,
    annotations: Sequence[Mapping[str, Any]],
    entries: Sequence[Mapping[str, Any]],
    *,
    iou_threshold: float = 0.5,
    min_score: float = 0.3,
) -> Mistakes:
    """Gives each detection, best first, the free object of its class that it overlaps most, as COCO's evaluation does.

    Args:
        image_id: of the image.
        annotations: the image's COCO annotations (boxes xywh in pixels), crowds among them.
        entries: the image's COCO result entries.
        iou_threshold: overlap from which an object counts as found.
        min_score: detections below it are passed over; a threshold that someone who uses the detector might set.
    """
    objects = [box for box in annotations if not box.get("iscrowd")]
    crowds = [box for box in annotations if box.get("iscrowd")]
    confident = sorted(
        (entry for entry in entries if entry["score"] >= min_score), key=lambda entry: entry["score"], reverse=True
    )
    ious = _overlaps(confident, objects, crowd=False)
    in_crowd = _overlaps(confident, crowds, crowd=True)
    taken: set[int] = set()
    invented = []
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
            invented.append(entry)
    return Mistakes(
        image_id=image_id,
        missed=tuple(box for j, box in enumerate(objects) if j not in taken),
        found=tuple(objects[j] for j in sorted(taken)),
        invented=tuple(invented),
    )


def worst_images(
    annotations: Sequence[Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
    count: int,
    *,
    min_score: float = 0.3,
) -> list[Mistakes]:
    """The images with the costliest mistakes, worst first; images without any are left out.

    Args:
        annotations: of all images.
        results: COCO result entries of all images.
        count: at most so many images.
        min_score: as in `find_mistakes`.
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
    """[entries, boxes]: IoU; for crowds the share of the entry that lies inside."""
    if not entries or not boxes:
        return np.zeros((len(entries), len(boxes)))
    detected = np.array([entry["bbox"] for entry in entries], np.float64)
    true = np.array([box["bbox"] for box in boxes], np.float64)
    return np.asarray(coco_mask.iou(detected, true, [int(crowd)] * len(boxes)))
