import json

import numpy as np
import pytest

from anchordetr_jax.data.categories import Categories
from anchordetr_jax.evaluation.results import DatasetDetections, coco_results

RAW = Categories(ids=(3, 7), names=("cat", "dog"), scheme="raw")
CONTIGUOUS = Categories(ids=(3, 7), names=("cat", "dog"), scheme="contiguous")


def images(rows, readable=None, scores=((0.9, 0.2),), labels=((0, 1),), boxes=None):
    count = len(rows)
    if boxes is None:
        boxes = [[[10, 20, 30, 60], [1, 2, 3, 4]]] * count
    return DatasetDetections(
        rows=np.array(rows, np.int32),
        readable=np.array([True] * count if readable is None else readable),
        scores=np.array(scores * count, np.float32),
        labels=np.array(labels * count, np.int32),
        boxes=np.array(boxes, np.float32),
        left_out=np.zeros(count, np.int32),
    )


def test_boxes_become_corner_and_sides_and_labels_become_categories():
    results, _ = coco_results(images([0]), [42], CONTIGUOUS)
    assert results == [
        {"image_id": 42, "category_id": 3, "bbox": [10.0, 20.0, 20.0, 40.0], "score": pytest.approx(0.9)},
        {"image_id": 42, "category_id": 7, "bbox": [1.0, 2.0, 2.0, 2.0], "score": pytest.approx(0.2)},
    ]


def test_outputs_that_no_category_uses_are_left_out():
    results, _ = coco_results(images([0], labels=((7, 5),)), [42], RAW)
    assert [entry["category_id"] for entry in results] == [7]


def test_entries_are_in_the_order_of_the_image_ids_for_all_batches():
    results, _ = coco_results(images([1, 0, 2]), [30, 20, 10], CONTIGUOUS)
    assert [entry["image_id"] for entry in results] == [10, 10, 20, 20, 30, 30]
    assert results == coco_results(images([2, 1, 0]), [30, 20, 10], CONTIGUOUS)[0]


def test_fillers_and_unreadable_images_have_no_entries():
    results, _ = coco_results(images([0, -1, 1], readable=[True, False, False]), [10, 20], CONTIGUOUS)
    assert {entry["image_id"] for entry in results} == {10}


def test_what_is_not_finite_is_left_out_and_counted():
    boxes = [[[10, 20, 30, 60], [1, np.inf, 3, 4]]]
    results, not_finite = coco_results(images([0], scores=((np.nan, 0.5),), boxes=boxes), [10], CONTIGUOUS)
    assert (results, not_finite) == ([], 2)


def test_entries_are_json_and_come_back_the_same():
    results, _ = coco_results(images([0]), [42], CONTIGUOUS)
    assert json.loads(json.dumps(results)) == results
