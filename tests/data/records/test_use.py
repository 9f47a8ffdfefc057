"""What training needs, what it says, and what belongs to the whole data set."""

from pathlib import Path
from typing import Any

import pytest

from anchordetr_jax.errors import UserError
from tests.data.records.folder import change_split, opened, write_image, write_split

NAMES = {f"{number}.png": (20, 30) for number in range(4)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for name in NAMES:
            write_image(tmp_path / f"{split}2017" / name)
        write_split(tmp_path, split, NAMES)
    return tmp_path


def every(**values: Any) -> Any:
    return lambda content: [annotation.update(values) for annotation in content["annotations"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (every(iscrowd=1), "of 4 annotations 4 are crowd regions"),
        (every(iscrowd="1"), "of 4 annotations 4 are crowd regions"),
        (every(bbox=[40, 3, 8, 7]), "4 have no area inside their images"),
        (every(bbox=[4, 3, 0, 7]), "4 have no area inside their images"),
        (lambda content: content.update(annotations=[]), "of 0 annotations"),
    ],
)
def test_a_data_set_without_a_box_to_train_on_is_an_error(root: Path, change: Any, message: str) -> None:
    change_split(root, change, "train")
    with pytest.raises(UserError, match=f"there is no box to train on: .*{message}"):
        opened(root, "train")


def test_training_says_what_it_leaves_out_and_clips_by_kind_with_counts(root: Path) -> None:
    def spoil(content: dict[str, Any]) -> None:
        for annotation, bbox in zip(content["annotations"], ([4, 3, 0, 7], [1, 1, -2, 2], [25, 3, 8, 7]), strict=False):
            annotation["bbox"] = bbox

    change_split(root, spoil, "train")
    remarks = "\n".join(opened(root, "train").remarks)
    assert "Warning: box without area: 2, such as" in remarks
    assert "Warning: box partly outside its image: 1, such as" in remarks


def test_zero_as_text_is_no_crowd(root: Path) -> None:
    change_split(root, every(iscrowd="0"), "train")
    dataset = opened(root, "train")
    assert dataset.box_counts.tolist() == [1, 1, 1, 1]
    assert any("text or float taken as a number: 4" in remark for remark in dataset.remarks)


@pytest.mark.parametrize("ids", [[1, 1, 1, 1], [None, 2, 3, 4], ["a", "b", "c", "d"], [0, 1, 2, 3]])
def test_annotation_ids_that_scoring_cannot_use_are_given_again(root: Path, ids: list[Any]) -> None:
    def number(content: dict[str, Any]) -> None:
        for annotation, value in zip(content["annotations"], ids, strict=True):
            annotation["id"] = value

    change_split(root, number)
    dataset = opened(root)
    truth = dataset.ground_truth()
    assert truth is not None
    assert [annotation["id"] for annotation in truth["annotations"]] == [1, 2, 3, 4]
    assert any("annotation ids numbered again" in remark for remark in dataset.remarks)


def with_heading(content: dict[str, Any]) -> None:
    content["categories"] = [
        {"id": 0, "name": "cells", "supercategory": "none"},
        {"id": 1, "name": "red", "supercategory": "cells"},
    ]


def test_a_parent_class_that_only_one_split_annotates_is_a_class_in_both(root: Path) -> None:
    for split in ("train", "val"):
        change_split(root, with_heading, split)
    assert opened(root, "train").categories.names == opened(root, "val").categories.names == ("red",)
    change_split(root, lambda content: content["annotations"][0].update(category_id=0), "val")
    assert opened(root, "train").categories.names == opened(root, "val").categories.names == ("cells", "red")


def test_a_parent_class_is_judged_by_both_halves_of_a_divided_file(root: Path) -> None:
    change_split(root, with_heading, "train")
    change_split(root, lambda content: content["annotations"][0].update(category_id=0), "train")
    halves = [opened(root, split, val_fraction=0.5) for split in ("train", "val")]  # type: ignore[arg-type]
    assert [half.categories.names for half in halves] == [("cells", "red")] * 2


def test_a_test_file_with_annotations_has_a_truth(root: Path) -> None:
    settings = {"test_images": "val2017", "test_annotations": "annotations/instances_val2017.json"}
    truth = opened(root, "test", **settings).ground_truth()
    assert truth is not None
    assert len(truth["annotations"]) == 4


def test_class_names_that_differ_by_case_or_spaces_are_noted(root: Path) -> None:
    names = [(1, "traffic light"), (2, "Traffic Light "), (3, "traffic-light"), (4, "car")]
    categories = [{"id": number, "name": name} for number, name in names]
    change_split(root, lambda content: content.update(categories=categories))
    remarks = opened(root).remarks
    assert any("class names that are nearly equal: 2, such as" in remark for remark in remarks)
