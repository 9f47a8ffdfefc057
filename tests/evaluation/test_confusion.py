"""The confusion matrix counts every object and every detection once, and agrees with COCO's matches."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from anchordetr_jax.checkpoints.thresholds import Thresholds
from anchordetr_jax.evaluation.coco_metrics import coco_scores
from anchordetr_jax.evaluation.confusion import confusion

NAMES = {1: "cat", 2: "dog", 5: "cow"}
HALF = Thresholds(0.5)


def annotation(x: float, category: int, image: int = 1, crowd: int = 0) -> dict[str, Any]:
    box = [x, 0.0, 10.0, 10.0]
    return {"image_id": image, "category_id": category, "bbox": box, "area": 100.0, "iscrowd": crowd}


def entry(x: float, category: int, score: float = 0.9, image: int = 1) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": [x, 0.0, 10.0, 10.0], "score": score}


def test_each_kind_of_answer_has_its_place() -> None:
    annotations = [annotation(0, 1), annotation(50, 2), annotation(100, 5)]
    results = [entry(1, 1), entry(50, 5), entry(200, 2), entry(100, 5, score=0.4)]
    found = confusion(NAMES, annotations, results, HALF)
    expected = [
        [1, 0, 0, 0],  # The cat is found.
        [0, 0, 1, 0],  # The dog is taken for a cow.
        [0, 0, 0, 1],  # The cow is missed: its detection is below the threshold.
        [0, 1, 0, 0],  # There is no dog at 200.
    ]
    np.testing.assert_array_equal(found.counts, expected)
    assert found.most_frequent(5) == [("dog", "cow", 1), ("cow", "background", 1), ("background", "dog", 1)]


def test_an_object_belongs_to_the_detection_of_its_own_class_first() -> None:
    found = confusion(NAMES, [annotation(0, 1)], [entry(0, 2, 0.95), entry(2, 1, 0.6)], HALF)
    assert found.counts[0, 0] == 1
    assert found.counts[3, 1] == 1


def test_each_class_has_its_own_threshold() -> None:
    results = [entry(0, 1, 0.3), entry(50, 2, 0.3)]
    found = confusion(NAMES, [annotation(0, 1), annotation(50, 2)], results, Thresholds(0.5, {1: 0.2}))
    assert (found.counts[0, 0], found.counts[1, 1], found.counts[1, 3]) == (1, 0, 1)


def test_detections_in_a_crowd_of_their_class_do_not_count() -> None:
    found = confusion(NAMES, [annotation(0, 1, crowd=1)], [entry(0, 1), entry(0, 2)], HALF)
    assert found.counts.sum() == found.counts[3, 1] == 1


def test_a_reduced_matrix_counts_the_same() -> None:
    annotations = [annotation(20 * x, category) for x, category in enumerate([1, 5, 5, 2, 5])]
    whole = confusion(NAMES, annotations, [entry(0, 2), entry(20, 5), entry(60, 2), entry(400, 1)], HALF)
    reduced = whole.reduced(1)
    assert reduced.names == ("cow", "2 other classes")
    np.testing.assert_array_equal(reduced.counts, [[1, 0, 2], [0, 2, 0], [0, 1, 0]])
    assert whole.reduced(3) is whole


places = st.tuples(st.integers(0, 12), st.sampled_from(list(NAMES)), st.integers(1, 2))


@given(st.lists(places, max_size=8), st.lists(st.tuples(places, st.integers(1, 9)), max_size=12))
def test_it_agrees_with_precision_and_recall_of_cocos_matches(objects: list[Any], detections: list[Any]) -> None:
    annotations = [annotation(4.0 * x, category, image) for x, category, image in objects]
    results = [entry(4.0 * x, category, score / 10, image) for (x, category, image), score in detections]
    truth = {
        "images": [{"id": 1}, {"id": 2}],
        "annotations": annotations,
        "categories": [{"id": category, "name": name} for category, name in NAMES.items()],
    }
    scores = coco_scores(truth, results)
    counts = confusion(NAMES, annotations, results, HALF).counts
    assert counts[:-1].sum() == len(annotations)
    assert counts[:, :-1].sum() == sum(entry["score"] >= 0.5 for entry in results)
    for place, curve in enumerate(scores.curves):
        point = curve.at(0.5)
        if point.precision >= 0:
            assert counts[place, place] == round(point.precision * counts[:, place].sum())
        if point.recall >= 0:
            assert counts[place, place] == round(point.recall * counts[place].sum())
