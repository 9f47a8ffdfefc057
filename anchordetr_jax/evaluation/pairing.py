"""Which detection finds which object of an image, as COCO's evaluation decides it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from anchordetr_jax.checkpoints.thresholds import Thresholds

IOU_THRESHOLD = 0.5
"""A detection with at least this IoU finds an object."""


@dataclasses.dataclass(frozen=True)
class Pairing:
    """The D detections of an image that count, and its M objects."""

    entries: tuple[Mapping[str, Any], ...]
    """The result entries that reach the threshold of their class, in descending order of their scores."""
    objects: tuple[Mapping[str, Any], ...]
    """The annotations without crowd regions."""
    object_of: np.ndarray
    """int [D]: the index of the object of its own class that each detection finds; -1 for none."""
    in_crowd: np.ndarray
    """bool [D]: it finds no object, and lies in a crowd region of its class, so it is neither right nor wrong."""
    ious: np.ndarray
    """[D, M]."""


def pair(
    annotations: Sequence[Mapping[str, Any]],
    entries: Sequence[Mapping[str, Any]],
    thresholds: Thresholds,
    *,
    iou_threshold: float = IOU_THRESHOLD,
) -> Pairing:
    """Pairs the detections of an image with its objects.

    The detections choose in the order of their scores. Each takes the free object of its class with the largest IoU.

    Args:
        annotations: the image's COCO annotations (boxes xywh in pixels), with its crowd regions.
        entries: the image's COCO result entries.
        thresholds: detections with a lower score do not count.
        iou_threshold: a detection with at least this IoU finds an object.
    """
    objects = [box for box in annotations if not box.get("iscrowd")]
    crowds = [box for box in annotations if box.get("iscrowd")]
    counted = [entry for entry in entries if entry["score"] >= thresholds.of(entry["category_id"])]
    counted.sort(key=lambda entry: entry["score"], reverse=True)
    ious, in_crowds = overlaps(counted, objects), overlaps(counted, crowds, crowd=True)
    same = _same_class(counted, objects)
    object_of, in_crowd = np.full(len(counted), -1), np.zeros(len(counted), bool)
    free = np.ones(len(objects), bool)
    for i in range(len(counted)):
        possible = np.where(same[i] & free & (ious[i] >= iou_threshold), ious[i], -1.0)
        if possible.max(initial=-1.0) >= 0:
            object_of[i] = int(possible.argmax())
            free[object_of[i]] = False
    if crowds:
        inside = _same_class(counted, crowds) & (in_crowds >= iou_threshold)
        in_crowd = inside.any(axis=1) & (object_of < 0)
    return Pairing(tuple(counted), tuple(objects), object_of, in_crowd, ious)


def by_image(
    annotations: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]]
) -> dict[int, tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]]:
    """The annotations and the result entries of each image that has any, by image id in ascending order."""
    grouped: dict[int, tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]] = {}
    for place, boxes in enumerate((annotations, results)):
        for box in boxes:
            grouped.setdefault(box["image_id"], ([], []))[place].append(box)
    return dict(sorted(grouped.items()))


def overlaps(
    entries: Sequence[Mapping[str, Any]], boxes: Sequence[Mapping[str, Any]], *, crowd: bool = False
) -> np.ndarray:
    """[entries, boxes]: IoU; for crowd regions the share of the entry inside the region. Boxes are xywh in pixels."""
    if not entries or not boxes:
        return np.zeros((len(entries), len(boxes)))
    detected = np.array([entry["bbox"] for entry in entries], np.float64)
    true = np.array([box["bbox"] for box in boxes], np.float64)
    return np.asarray(coco_mask.iou(detected, true, [int(crowd)] * len(boxes)))


def _same_class(entries: Sequence[Mapping[str, Any]], boxes: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """bool [entries, boxes]."""
    ids = [np.array([box["category_id"] for box in group], np.int64) for group in (entries, boxes)]
    return ids[0][:, None] == ids[1][None, :]
