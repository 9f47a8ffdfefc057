"""Whatever values the fields of a COCO file have, reading ends in sound records or in one sentence."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from anchordetr_jax.data.records.findings import Findings
from anchordetr_jax.data.records.raw import RawSplit
from anchordetr_jax.data.records.reading import read_records
from anchordetr_jax.data.records.values import number, whole_number, yes_or_no
from anchordetr_jax.data.sources.annotated import AnnotatedImages
from anchordetr_jax.errors import UserError

CONTENT: dict[str, Any] = {
    "images": [
        {"id": 9, "file_name": "b.png", "width": 60, "height": 40},
        {"id": 4, "file_name": "a.png", "width": 30, "height": 40},
    ],
    "annotations": [
        {"id": 1, "image_id": 9, "category_id": 7, "bbox": [2.5, 3, 10, 30], "area": 70, "iscrowd": 0},
        {"id": 2, "image_id": 4, "category_id": 3, "bbox": [11, 2, 3, 4], "area": 12.5, "iscrowd": 0},
        {"id": 3, "image_id": 4, "category_id": 7, "bbox": [5, 5, 5, 5], "area": 25, "iscrowd": 1},
    ],
    "categories": [{"id": 7, "name": "square"}, {"id": 3, "name": "circle"}],
}
FIELDS = [
    (group, place, field)
    for group in ("images", "annotations", "categories")
    for place, record in enumerate(CONTENT[group])
    for field in record
]

NUMBERS = st.one_of(
    st.integers(-5, 100),
    st.integers(),
    st.floats(),
    st.sampled_from([0.0, -0.0, 1.0, 2**63, -(2**63), 1e308, 10**400, math.nan, math.inf, -math.inf]),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    NUMBERS,
    NUMBERS.map(lambda value: str(value)[:400]),
    st.text(max_size=8),
    st.sampled_from(["", " 7 ", "1_0", "٣", "0x1", "nan", "1e400", "a.png", "b.png", "../a.png", "\0", "\ud800"]),
)
JSON_VALUES = st.recursive(
    SCALARS,
    lambda values: st.one_of(st.lists(values, max_size=5), st.dictionaries(st.text(max_size=5), values, max_size=2)),
    max_leaves=6,
)
BOXES = st.lists(SCALARS, min_size=4, max_size=4)
MUTATIONS = st.lists(st.tuples(st.sampled_from(FIELDS), st.one_of(JSON_VALUES, BOXES)), min_size=1, max_size=3)


def read(content: dict[str, Any], split: Any = "val") -> AnnotatedImages:
    raw = RawSplit(name="file.json", folder=epath.Path("/nowhere"), **content)
    findings = Findings("file.json")
    return AnnotatedImages(read_records(raw, split, findings, look=False), findings)


def mutated(mutations: list[Any]) -> dict[str, Any]:
    content = copy.deepcopy(CONTENT)
    for (group, place, field), value in mutations:
        content[group][place][field] = value
    return content


def repaired(content: dict[str, Any]) -> dict[str, Any]:
    """What a person makes of a file that is read: values as numbers, areas filled in, annotations numbered again."""
    annotations = []
    for record in content["annotations"]:
        box = [float(number(value)) for value in record["bbox"]]  # type: ignore[arg-type]
        area = number(record["area"])
        annotations.append(
            {
                "image_id": whole_number(record["image_id"]),
                "category_id": whole_number(record["category_id"]),
                "bbox": box,
                "area": float(area) if area is not None and area >= 0 else abs(box[2] * box[3]),
                "iscrowd": int(bool(record["iscrowd"] and yes_or_no(record["iscrowd"]))),
            }
        )
    ids = [record["id"] for record in content["annotations"]]
    sound = all(type(i) is int and i and abs(i) < 2**63 for i in ids) and len(set(ids)) == len(ids)
    numbers = ids if sound else range(1, len(ids) + 1)
    return {"annotations": [{"id": i, **record} for i, record in zip(numbers, annotations, strict=True)]}


def read_or_sentence(content: dict[str, Any]) -> tuple[AnnotatedImages | None, str]:
    try:
        return read(content), ""
    except UserError as error:
        return None, str(error)


def check(content: dict[str, Any]) -> bool:
    """Whether the content is read; the records are then those of the repaired file."""
    dataset, sentence = read_or_sentence(content)
    if dataset is None:
        assert sentence.isprintable()
        assert sentence.startswith("file.json")
        return False
    assert all(line.isprintable() for line in dataset.remarks)
    truth = dataset.ground_truth()
    assert truth is not None
    assert truth["annotations"] == repaired(content)["annotations"]
    assert json.loads(json.dumps(truth, allow_nan=False)) == truth
    for row in range(len(dataset)):
        boxes = dataset.boxes(row)
        height, width = dataset.sizes[row]
        assert (boxes >= 0).all()
        assert (boxes[:, 2:] <= (width, height)).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
    return True


@given(mutations=MUTATIONS)
def test_any_values_end_in_the_records_of_the_repaired_file_or_in_one_sentence(mutations: list[Any]) -> None:
    check(mutated(mutations))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (("annotations", 0, "id"), None),
        (("annotations", 0, "id"), "one"),
        (("annotations", 0, "id"), 2),
        (("annotations", 0, "id"), 0),
        (("annotations", 0, "area"), None),
        (("annotations", 0, "area"), "large"),
        (("annotations", 0, "area"), "70.5"),
        (("annotations", 0, "area"), math.nan),
        (("annotations", 0, "area"), -3),
        (("annotations", 0, "iscrowd"), None),
        (("annotations", 0, "iscrowd"), "0"),
        (("annotations", 0, "iscrowd"), "1"),
        (("annotations", 0, "iscrowd"), False),
        (("annotations", 0, "bbox"), ["2.5", "3", "10", "30"]),
        (("annotations", 0, "image_id"), "9"),
        (("annotations", 0, "category_id"), 7.0),
        (("images", 0, "width"), 60.0),
        (("images", 0, "id"), "9"),
        (("categories", 0, "id"), "7"),
    ],
)
def test_a_value_that_can_be_meant_is_taken_and_said(field: Any, value: Any) -> None:
    content = mutated([(field, value)])
    assert check(content)
    assert any(line.startswith("Warning") for line in read(content).remarks) or value is False


@pytest.mark.parametrize("field", ["bbox", "image_id", "category_id", "iscrowd"])
def test_a_value_that_nothing_can_be_made_of_is_named(field: str) -> None:
    with pytest.raises(UserError, match=r"annotation 1\)"):
        read(mutated([(("annotations", 0, field), [[]])]))


def test_the_text_null_in_a_file_is_no_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs a whole number as id and a file_name"):
        read(mutated([(("images", 0, "file_name"), None)]))
