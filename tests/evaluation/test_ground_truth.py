"""Ground truth with any ids, areas and crowd flags is scored as the repaired file is, or refused in a sentence."""

import copy
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchordetr_jax.errors import UserError
from anchordetr_jax.evaluation.coco_metrics import coco_scores
from anchordetr_jax.evaluation.ground_truth import scorable

BOXES = [[10.0 * i, 5.0, 9.0 + i, 20.0] for i in range(6)]
TRUTH: dict[str, Any] = {
    "images": [{"id": i} for i in range(3)],
    "annotations": [
        {"id": i + 1, "image_id": i % 3, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": int(i == 5)}
        for i, box in enumerate(BOXES)
    ],
    "categories": [{"id": 1, "name": "cat"}],
}
RESULTS = [
    {"image_id": i % 3, "category_id": 1, "bbox": [box[0] + shift, *box[1:]], "score": 0.9 - 0.1 * i}
    for i, box in enumerate(BOXES)
    for shift in (0.4, 3.0)
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)


def changed(**values: list[Any]) -> dict[str, Any]:
    """The ground truth with other values in a field of its annotations."""
    truth = copy.deepcopy(TRUTH)
    for key, column in values.items():
        for record, value in zip(truth["annotations"], column, strict=True):
            record[key] = value
    return truth


@pytest.mark.parametrize(
    "ids",
    [
        [1, 2, 1, 2, 1, 2],
        [None] * 6,
        [0, 1, 2, 3, 4, 5],
        ["a", "b", "c", "a", "b", "c"],
        [1.5] * 6,
        [[1], {}, 1, 2, 3, 4],
    ],
)
def test_ids_that_are_no_ids_are_given_again_and_said(ids: list[Any]) -> None:
    scores = coco_scores(changed(id=ids), RESULTS)
    assert scores.metrics == coco_scores(TRUTH, RESULTS).metrics
    (note,) = scores.notes
    assert "numbered again for scoring" in note


def test_valid_ids_give_no_note() -> None:
    assert coco_scores(TRUTH, RESULTS).notes == ()
    assert coco_scores(changed(id=[-1, 7, -5, 10**15, 3, 2]), RESULTS).metrics == coco_scores(TRUTH, RESULTS).metrics


@pytest.mark.parametrize("area", [None, "12", "large", -1, float("nan"), float("inf"), 10**400, [1], {}])
def test_an_area_that_is_no_number_becomes_that_of_the_box(area: Any) -> None:
    scores = coco_scores(changed(area=[area] * 6), RESULTS)
    assert scores.metrics == coco_scores(TRUTH, RESULTS).metrics
    assert "the area of the box is taken" in scores.notes[0]


def test_fields_that_exporters_leave_out_are_not_needed() -> None:
    truth = copy.deepcopy(TRUTH)
    for record in truth["annotations"]:
        del record["id"], record["area"]
        if not record["iscrowd"]:
            del record["iscrowd"]
    assert coco_scores(truth, RESULTS).metrics == coco_scores(TRUTH, RESULTS).metrics


@pytest.mark.parametrize("no", [0, None, False, 0.0])
def test_every_way_to_write_that_an_object_is_no_crowd_counts(no: Any) -> None:
    assert coco_scores(changed(iscrowd=[no] * 5 + [True]), RESULTS).metrics == coco_scores(TRUTH, RESULTS).metrics


@pytest.mark.parametrize("crowds", [True, False])
def test_ground_truth_without_objects_explains_its_scores(crowds: bool) -> None:
    truth = changed(iscrowd=[1] * 6) if crowds else {**TRUTH, "annotations": []}
    scores = coco_scores(truth, RESULTS)
    assert set(scores.metrics.values()) == {-1}
    assert "has no object to find" in scores.notes[0]


@pytest.mark.parametrize(
    "contents", [{}, {"images": [], "categories": []}, {"images": 1, "annotations": [], "categories": []}]
)
def test_another_form_is_named(contents: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^info\.json is not in COCO's form"):
        scorable(contents, "info.json")


@given(st.sampled_from(["id", "area", "iscrowd", "bbox"]), JSON, st.integers(0, 5))
def test_any_value_in_any_field_ends_in_a_score_or_a_sentence(field: str, value: Any, place: int) -> None:
    truth = copy.deepcopy(TRUTH)
    truth["annotations"][place][field] = value
    sentence = None
    try:
        scores = coco_scores(truth, RESULTS)
    except UserError as error:
        sentence = str(error)
    if sentence is not None:
        assert field in ("iscrowd", "bbox")
        assert f"'{field}'" in sentence
        return
    json.dumps(scores.to_dict())
    assert np.isfinite(list(scores.metrics.values())).all()
    if field == "id":
        assert scores.metrics == coco_scores(TRUTH, RESULTS).metrics
