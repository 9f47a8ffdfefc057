"""The objects that a detector missed and its false positives, for each image."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from anchordetr_jax.checkpoints.thresholds import Thresholds
from anchordetr_jax.evaluation.pairing import IOU_THRESHOLD, by_image, pair

FOR_REPORTS = Thresholds(0.3)
"""The thresholds of reports where no evaluation tells better ones. They are low, so that uncertain detections show."""


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
    iou_threshold: float = IOU_THRESHOLD,
    thresholds: Thresholds = FOR_REPORTS,
) -> Mistakes:
    """Matches the detections of an image to its objects (`pairing.pair`).

    Args:
        image_id: the id of the image.
        annotations: the image's COCO annotations (boxes xywh in pixels), with its crowd regions.
        entries: the image's COCO result entries.
        iou_threshold: a detection with at least this IoU finds an object.
        thresholds: detections with a lower score do not count.
    """
    paired = pair(annotations, entries, thresholds, iou_threshold=iou_threshold)
    taken = {int(place) for place in paired.object_of if place >= 0}
    wrong = (paired.object_of < 0) & ~paired.in_crowd
    return Mistakes(
        image_id=image_id,
        missed=tuple(box for j, box in enumerate(paired.objects) if j not in taken),
        found=tuple(paired.objects[j] for j in sorted(taken)),
        false_positives=tuple(entry for entry, is_wrong in zip(paired.entries, wrong, strict=True) if is_wrong),
    )


def worst_images(
    annotations: Sequence[Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
    count: int,
    *,
    thresholds: Thresholds = FOR_REPORTS,
) -> list[Mistakes]:
    """The images with the largest `Mistakes.cost`, in descending order. Images without mistakes are left out.

    Args:
        annotations: those of all images.
        results: COCO result entries of all images.
        count: the largest number of images.
        thresholds: see `find_mistakes`.
    """
    mistakes = [
        find_mistakes(image_id, *both, thresholds=thresholds)
        for image_id, both in by_image(annotations, results).items()
    ]
    mistakes.sort(key=lambda image: image.cost, reverse=True)
    return [image for image in mistakes[:count] if image.cost > 0]
