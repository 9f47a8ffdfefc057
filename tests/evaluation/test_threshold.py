"""The threshold with the best F1 score is the one that counting at every score finds."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchordetr_jax.checkpoints.thresholds import Thresholds
from anchordetr_jax.evaluation.coco_metrics import coco_scores
from anchordetr_jax.evaluation.threshold import MIN_OBJECTS, ScoreCurve


def entry(image_id: int, category_id: int, x: float, score: float) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "bbox": [x, 0.0, 10.0, 10.0], "score": score}


def truth(objects: list[tuple[int, int, float]]) -> dict[str, Any]:
    """Objects of 10 x 10 pixels: (image, category, left)."""
    return {
        "images": [{"id": i} for i in range(3)],
        "annotations": [
            {"image_id": image, "category_id": category, "bbox": [x, 0.0, 10.0, 10.0], "area": 100.0, "iscrowd": 0}
            for image, category, x in objects
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def test_it_leaves_out_the_detections_that_are_mostly_wrong() -> None:
    results = [entry(0, 1, 0, 0.9), entry(1, 2, 0, 0.7314), entry(0, 1, 50, 0.4), entry(2, 1, 0, 0.3)]
    found = coco_scores(truth([(0, 1, 0.0), (1, 2, 0.0), (2, 2, 0.0)]), results).threshold
    assert found is not None
    assert found.score == 0.731
    assert (found.precision, found.recall, found.f1) == pytest.approx((1.0, 2 / 3, 0.8))


def test_without_a_right_detection_there_is_none() -> None:
    scores = coco_scores(truth([(0, 1, 0.0)]), [entry(0, 1, 50, 0.9)])
    assert scores.threshold is None
    assert scores.to_dict()["threshold"] is None
    assert coco_scores(truth([]), [entry(0, 1, 50, 0.9)]).threshold is None


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 2), st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=12
    )
)
def test_no_other_threshold_has_a_better_f1_score(detections: list[tuple[int, int, int, int]]) -> None:
    objects = [(image, category, 30.0 * x) for image in range(3) for category in (1, 2) for x in range(2)]
    # One detection per place: it is right exactly if an object is there.
    places = {(image, category, x): score / 10 for image, category, x, score in detections}
    results = [entry(image, category, 30.0 * x, score) for (image, category, x), score in places.items()]
    scores = np.array(list(places.values()))
    right = np.array([x < 2 for _, _, x in places])
    found = coco_scores(truth(objects), results).threshold
    f1 = [2 * right[scores >= s].sum() / (len(objects) + (scores >= s).sum()) for s in scores]
    if not right.any():
        assert found is None
        return
    assert found is not None
    assert found.f1 == pytest.approx(max(f1))
    kept = scores >= found.score
    assert found.precision == pytest.approx(right[kept].mean())
    assert found.recall == pytest.approx(right[kept].sum() / len(objects))


def detections_of(category: int, scores: list[float]) -> list[dict[str, Any]]:
    """Right detections in one image, one for each score."""
    return [entry(0, category, 30.0 * place, score) for place, score in enumerate(scores)]


def test_each_class_has_its_own_best_threshold() -> None:
    objects = [(0, category, 30.0 * place) for category in (1, 2) for place in range(MIN_OBJECTS)]
    results = detections_of(1, [0.8] * MIN_OBJECTS) + detections_of(2, [0.4] * MIN_OBJECTS)
    results += [entry(1, 1, 0, 0.7)] * 30  # Many wrong detections of the first class.
    scores = coco_scores(truth(objects), results)
    assert scores.thresholds is not None
    assert [scores.thresholds.of(category) for category in (1, 2)] == [0.8, 0.4]
    assert [score.threshold.f1 for score in scores.per_class if score.threshold] == [1.0, 1.0]


def test_a_class_with_few_objects_takes_the_threshold_of_all_classes_together() -> None:
    objects = [(0, 1, 30.0 * place) for place in range(MIN_OBJECTS)] + [(0, 2, 0.0)]
    results = detections_of(1, [0.6] * MIN_OBJECTS) + detections_of(2, [0.9])
    scores = coco_scores(truth(objects), results)
    assert scores.threshold is not None
    assert scores.threshold.score == 0.6
    rare = scores.per_class[1].threshold
    assert rare is not None
    assert (rare.score, rare.precision, rare.recall) == (0.6, 1.0, 1.0)


def test_the_curve_says_where_there_is_nothing_to_measure() -> None:
    empty = ScoreCurve.of(np.zeros(0), np.zeros(0, bool), 0)
    assert empty.best() is None
    point = empty.at(0.5)
    assert (point.precision, point.recall, point.f1) == (-1, -1, -1)
    missed = ScoreCurve.of(np.array([0.4]), np.array([True]), 2).at(0.5)
    assert (missed.precision, missed.recall, missed.f1) == (-1, 0, 0)


def test_thresholds_come_back_from_the_file_with_the_scores() -> None:
    objects = [(0, 1, 30.0 * place) for place in range(MIN_OBJECTS)]
    scores = coco_scores(truth(objects), detections_of(1, [0.6] * MIN_OBJECTS))
    assert Thresholds.from_scores(json.loads(json.dumps(scores.to_dict()))) == Thresholds(0.6, {1: 0.6, 2: 0.6})
