import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from anchordetr_jax.evaluation.mistakes import find_mistakes, worst_images


def annotation(box, category=1, image=1, crowd=0):
    return {"image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd}


def entry(box, score, category=1, image=1):
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


BOX = [10.0, 10.0, 40.0, 40.0]


def test_a_good_detection_finds_its_object():
    mistakes = find_mistakes(1, [annotation(BOX)], [entry([12.0, 11.0, 40.0, 38.0], 0.9)])
    assert (mistakes.missed, mistakes.false_positives, len(mistakes.found)) == ((), (), 1)
    assert mistakes.cost == 0


def test_the_right_place_with_the_wrong_class_is_a_miss_and_a_false_positive():
    mistakes = find_mistakes(1, [annotation(BOX, category=1)], [entry(BOX, 0.75, category=2)])
    assert (len(mistakes.missed), len(mistakes.false_positives)) == (1, 1)
    assert mistakes.cost == 1.75


def test_a_second_detection_of_one_object_is_a_false_positive():
    mistakes = find_mistakes(1, [annotation(BOX)], [entry(BOX, 0.6), entry(BOX, 0.8)])
    assert mistakes.false_positives == (entry(BOX, 0.6),)


def test_a_detection_below_the_score_threshold_does_not_find():
    mistakes = find_mistakes(1, [annotation(BOX)], [entry(BOX, 0.2)])
    assert (len(mistakes.missed), len(mistakes.false_positives)) == (1, 0)


def test_detections_in_a_crowd_of_their_class_are_no_mistakes():
    crowd = annotation([0.0, 0.0, 200.0, 200.0], crowd=1)
    assert find_mistakes(1, [crowd], [entry(BOX, 0.9)]).cost == 0
    assert find_mistakes(1, [crowd], [entry(BOX, 0.9, category=2)]).cost == 0.9


def test_the_worst_images_come_first_and_faultless_ones_are_left_out():
    annotations = [annotation(BOX, image=1), annotation(BOX, image=2), annotation(BOX, image=3)]
    results = [entry(BOX, 0.9, image=1), entry([90.0, 90.0, 9.0, 9.0], 0.5, image=3)]
    assert [mistakes.image_id for mistakes in worst_images(annotations, results, 10)] == [3, 2]
    assert [mistakes.image_id for mistakes in worst_images(annotations, results, 1)] == [3]


boxes = st.tuples(st.floats(0, 50), st.floats(0, 50), st.floats(1, 50), st.floats(1, 50)).map(list)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(boxes, st.integers(1, 2)), max_size=6),
    st.lists(st.tuples(boxes, st.integers(1, 2), st.floats(0, 1)), max_size=6),
)
def test_every_object_is_either_found_or_missed(objects, detections):
    annotations = [annotation(box, category) for box, category in objects]
    entries = [entry(box, score, category) for box, category, score in detections]
    mistakes = find_mistakes(1, annotations, entries)
    in_order = sorted(json.dumps(box) for box in mistakes.missed + mistakes.found)
    assert in_order == sorted(json.dumps(box) for box in annotations)
    confident = np.sum([score >= 0.3 for *_, score in detections])
    assert len(mistakes.found) + len(mistakes.false_positives) == confident
