"""Which class is taken for which: the confusion matrix of a detector."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anchordetr_jax.checkpoints.thresholds import Thresholds
from anchordetr_jax.evaluation.pairing import IOU_THRESHOLD, by_image, pair

BACKGROUND = "background"


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Counts of objects and detections of K classes, and of the background."""

    category_ids: tuple[int, ...]
    names: tuple[str, ...]
    """K class names."""
    counts: np.ndarray
    """int64 [K+1, K+1]: the row is the true class, the column the detected class. The last row counts detections where
    no object is, the last column counts objects that no detection finds. Without its last column a row sums to the
    objects found, with it to all objects of the class; a column sums to the detections of the class."""
    thresholds: Thresholds
    """Detections with a lower score do not count."""
    iou_threshold: float

    def most_frequent(self, count: int) -> list[tuple[str, str, int]]:
        """The most frequent mistakes as (true class, detected class, how often); `background` is one of the names."""
        names = (*self.names, BACKGROUND)
        wrong = np.where(np.eye(len(names), dtype=bool), 0, self.counts)
        order = np.argsort(-wrong, axis=None, kind="stable")[:count]
        pairs = [(int(place) // len(names), int(place) % len(names)) for place in order]
        return [(names[i], names[j], int(wrong[i, j])) for i, j in pairs if wrong[i, j]]

    def reduced(self, most: int) -> "Confusion":
        """The matrix of the `most` classes with the most objects. One class, `N other classes`, takes all others.

        The order of the classes stays. A matrix of no more classes stays as it is.
        """
        if len(self.names) <= most:
            return self
        objects = self.counts[:-1].sum(axis=1)
        kept = np.sort(np.argsort(-objects, kind="stable")[:most])
        others = np.setdiff1d(np.arange(len(self.names)), kept)
        # A row of the matrix says into which group a class goes.
        groups = np.zeros((len(kept) + 2, len(self.names) + 1), np.int64)
        groups[np.arange(len(kept)), kept] = 1
        groups[-2, others] = 1
        groups[-1, -1] = 1
        return dataclasses.replace(
            self,
            category_ids=(*(self.category_ids[i] for i in kept), -1),
            names=(*(self.names[i] for i in kept), f"{len(others)} other classes"),
            counts=groups @ self.counts @ groups.T,
        )


def confusion(
    categories: Mapping[int, str],
    annotations: Sequence[Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
    thresholds: Thresholds,
    *,
    iou_threshold: float = IOU_THRESHOLD,
) -> Confusion:
    """Counts which class is taken for which.

    First the detections find objects of their own class, as in COCO's evaluation. So the diagonal holds the right
    detections of COCO's precision and recall. Then the detections that are left, in the order of their scores, each
    take the free object with the largest IoU, whatever its class. Detections in a crowd region of their class do not
    count, unless they find an object.

    Args:
        categories: the name of each class by its id.
        annotations: those of all images (boxes xywh in pixels), with crowd regions.
        results: COCO result entries of all images. Those of an unknown class are ignored.
        thresholds: detections with a lower score do not count.
        iou_threshold: a detection with at least this IoU finds an object.
    """
    index = {category_id: place for place, category_id in enumerate(categories)}
    background = len(index)
    counts = np.zeros((background + 1, background + 1), np.int64)
    known = [[box for box in boxes if box["category_id"] in index] for boxes in (annotations, results)]
    for boxes, entries in by_image(*known).values():
        paired = pair(boxes, entries, thresholds, iou_threshold=iou_threshold)
        free = np.ones(len(paired.objects), bool)
        free[paired.object_of[paired.object_of >= 0]] = False
        for i, entry in enumerate(paired.entries):
            detected, found = index[entry["category_id"]], int(paired.object_of[i])
            if found < 0 and not paired.in_crowd[i]:
                possible = np.where(free & (paired.ious[i] >= iou_threshold), paired.ious[i], -1.0)
                if possible.max(initial=-1.0) >= 0:
                    found = int(possible.argmax())
                    free[found] = False
            if found >= 0:
                counts[index[paired.objects[found]["category_id"]], detected] += 1
            elif not paired.in_crowd[i]:
                counts[background, detected] += 1
        for place in np.flatnonzero(free):
            counts[index[paired.objects[place]["category_id"]], background] += 1
    return Confusion(tuple(categories), tuple(categories.values()), counts, thresholds, iou_threshold)
