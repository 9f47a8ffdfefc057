"""Precision, recall and F1 over the score threshold, and the thresholds that suit a detector.

The matches are those of pycocotools at IoU 0.50. A detection that lies in a crowd region counts neither as right nor as
wrong.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval

DECIMALS = 3
MIN_OBJECTS = 10
"""A class with fewer objects takes the threshold of all classes together: one of its own would follow chance."""


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A score threshold, and how good the detections with at least this score are (IoU 0.50).

    -1 stands where there is nothing to measure: no detection (precision), no object (recall), or neither (F1).
    """

    score: float
    f1: float
    """The harmonic mean of precision and recall."""
    precision: float
    """The share of the detections that are right."""
    recall: float
    """The share of the objects that are found."""


@dataclasses.dataclass(frozen=True)
class ScoreCurve:
    """The n detections of one class, or of all classes together, by score."""

    scores: np.ndarray
    """[n], in descending order."""
    found: np.ndarray
    """int [n]: how many of the detections up to each one are right."""
    objects: int
    """The number of objects to find."""

    @classmethod
    def of(cls, scores: np.ndarray, right: np.ndarray, objects: int) -> "ScoreCurve":
        """From detections in any order: their scores [n], and bool [n] whether each is right."""
        order = np.argsort(-scores, kind="stable")
        return cls(scores[order], np.cumsum(right[order]), objects)

    def at(self, score: float) -> Threshold:
        """How good the detections with at least this score are."""
        kept = int(np.searchsorted(-self.scores, -score, side="right"))
        found = int(self.found[kept - 1]) if kept else 0
        return Threshold(
            score=score,
            f1=2 * found / (self.objects + kept) if self.objects + kept else -1.0,
            precision=found / kept if kept else -1.0,
            recall=found / self.objects if self.objects else -1.0,
        )

    def best(self) -> Threshold | None:
        """The threshold with the best F1 score; None where no detection is right."""
        if len(self.scores) == 0 or self.found[-1] == 0:
            return None
        # Detections of equal scores are kept or left out together.
        last_of_equals = np.append(self.scores[1:] < self.scores[:-1], True)
        f1 = np.where(last_of_equals, 2 * self.found / (self.objects + np.arange(1, len(self.scores) + 1)), -1)
        lowest = float(self.scores[int(f1.argmax())])
        return self.at(math.floor(lowest * 10**DECIMALS) / 10**DECIMALS)  # So that rounding leaves nothing out.


def score_curves(evaluation: COCOeval) -> tuple[ScoreCurve, ...]:
    """One curve for each class, in the order of pycocotools. `evaluation.evaluate()` must have been called."""
    areas, images = len(evaluation.params.areaRng), len(evaluation.params.imgIds)
    # pycocotools lists its matches by class, by range of areas (the first one is all areas) and by image.
    return tuple(
        _curve([entry for entry in evaluation.evalImgs[start : start + images] if entry is not None])
        for start in range(0, len(evaluation.evalImgs), areas * images)
    )


def all_together(curves: Sequence[ScoreCurve]) -> ScoreCurve:
    """The curve of all classes together."""
    return ScoreCurve.of(
        np.concatenate([np.zeros(0), *(curve.scores for curve in curves)]),
        np.concatenate([np.zeros(0, bool), *(np.diff(curve.found, prepend=0) > 0 for curve in curves)]),
        sum(curve.objects for curve in curves),
    )


def class_thresholds(curves: Sequence[ScoreCurve], overall: Threshold | None) -> tuple[Threshold | None, ...]:
    """The threshold to use for each class: its own best one, or the one of all classes together.

    The latter for a class with fewer than `MIN_OBJECTS` objects, or without a right detection. All are None where no
    detection of any class is right.
    """
    if overall is None:
        return (None,) * len(curves)
    own = [curve.best() if curve.objects >= MIN_OBJECTS else None for curve in curves]
    return tuple(best or curve.at(overall.score) for curve, best in zip(curves, own, strict=True))


def _curve(matched: Sequence[Mapping[str, Any]]) -> ScoreCurve:
    """The curve of a class from the matches of its images."""
    counted = [~np.asarray(entry["dtIgnore"][0], bool) for entry in matched]
    scores = [np.asarray(entry["dtScores"], float)[which] for entry, which in zip(matched, counted, strict=True)]
    right = [np.asarray(entry["dtMatches"][0])[which] > 0 for entry, which in zip(matched, counted, strict=True)]
    return ScoreCurve.of(
        np.concatenate([np.zeros(0), *scores]),
        np.concatenate([np.zeros(0, bool), *right]),
        sum(int(np.count_nonzero(np.asarray(entry["gtIgnore"]) == 0)) for entry in matched),
    )
