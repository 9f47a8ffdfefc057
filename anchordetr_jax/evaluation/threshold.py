"""The score threshold that suits a detector: the one with the best F1 score over all classes."""

import dataclasses
import math

import numpy as np
from pycocotools.cocoeval import COCOeval

DECIMALS = 3


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A score threshold, and how good the detections with at least this score are (IoU 0.50, all classes together)."""

    score: float
    f1: float
    """The harmonic mean of precision and recall."""
    precision: float
    """The share of the detections that are right."""
    recall: float
    """The share of the objects that are found."""


def best_threshold(evaluation: COCOeval) -> Threshold | None:
    """The threshold with the best F1 score; None where no detection is right.

    `evaluation.evaluate()` must have been called. pycocotools has matched every detection then.
    """
    areas, images = len(evaluation.params.areaRng), len(evaluation.params.imgIds)
    # pycocotools lists its matches by class, by range of areas (the first one is all areas) and by image.
    matched = [
        entry
        for start in range(0, len(evaluation.evalImgs), areas * images)
        for entry in evaluation.evalImgs[start : start + images]
        if entry is not None
    ]
    if not matched:
        return None
    objects = sum(int(np.count_nonzero(np.asarray(entry["gtIgnore"]) == 0)) for entry in matched)
    counted = [~np.asarray(entry["dtIgnore"][0], bool) for entry in matched]
    scores = np.concatenate(
        [np.asarray(entry["dtScores"], float)[which] for entry, which in zip(matched, counted, strict=True)]
    )
    right = np.concatenate(
        [np.asarray(entry["dtMatches"][0])[which] > 0 for entry, which in zip(matched, counted, strict=True)]
    )
    order = np.argsort(-scores, kind="stable")
    scores, found = scores[order], np.cumsum(right[order])
    if len(scores) == 0 or found[-1] == 0:
        return None
    # Detections of equal scores are kept or left out together.
    last_of_equals = np.append(scores[1:] < scores[:-1], True)
    f1 = np.where(last_of_equals, 2 * found / (objects + np.arange(1, len(scores) + 1)), -1)
    best = int(f1.argmax())
    return Threshold(
        score=math.floor(float(scores[best]) * 10**DECIMALS) / 10**DECIMALS,  # So that rounding leaves nothing out.
        f1=float(f1[best]),
        precision=float(found[best] / (best + 1)),
        recall=float(found[best] / objects),
    )
