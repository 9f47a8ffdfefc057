"""The images and annotations of a split are found in the layouts that tools export."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from anchordetr_jax.config import DataConfig
from anchordetr_jax.data.source import MissingSplitError
from anchordetr_jax.data.sources.layouts import split_files
from anchordetr_jax.data.sources.opening import open_source, open_split
from anchordetr_jax.errors import UserError
from tests.data.coco_folder import open_coco


def add_split(
    root: Path, annotations: str, images: str, names: tuple[str, ...] = ("a.jpg", "b.jpg"), prefix: str = ""
) -> None:
    """An annotation file and the images that it lists as `prefix` + name."""
    (root / images).mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / images / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10)).save(root / images / name)
    content = {
        "images": [
            {"id": i, "file_name": prefix + name, "width": 20, "height": 10} for i, name in enumerate(names, start=1)
        ],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 5, 5]} for i in range(1, len(names) + 1)
        ],
        "categories": [{"id": 1, "name": "cell"}],
    }
    (root / annotations).parent.mkdir(parents=True, exist_ok=True)
    (root / annotations).write_text(json.dumps(content))


def found(root: Path, split: Any, **settings: Any) -> tuple[str, str]:
    files = split_files(DataConfig(root=str(root), **settings), split)
    assert files.found
    return str(files.images.relative_to(root)), str(files.annotations.relative_to(root))


@pytest.mark.parametrize(
    ("split", "images", "annotations"),
    [
        ("train", "train", "train/_annotations.coco.json"),
        ("val", "valid", "valid/_annotations.coco.json"),
        ("test", "test", "test/_annotations.coco.json"),
    ],
)
def test_roboflow_keeps_annotations_beside_the_images(
    tmp_path: Path, split: str, images: str, annotations: str
) -> None:
    for folder in ("train", "valid", "test"):
        add_split(tmp_path, f"{folder}/_annotations.coco.json", folder)
    assert found(tmp_path, split) == (images, annotations)


@pytest.mark.parametrize(
    ("annotations", "images", "prefix"),
    [
        ("annotations/instances_default.json", "images", ""),
        ("annotations/instances_default.json", "images/default", ""),
        ("annotations/instances_default.json", "images", "default/"),
        ("annotations/cells.json", "photos", ""),
        ("result.json", "images", "images/"),
        ("result.json", "images", "images\\"),
        ("_annotations.coco.json", "", ""),
    ],
)
def test_a_single_file_of_any_name_is_for_training(tmp_path: Path, annotations: str, images: str, prefix: str) -> None:
    add_split(tmp_path, annotations, images)
    content = json.loads((tmp_path / annotations).read_text())
    if prefix:  # The images are below the folder that is found.
        folder = prefix.strip("/\\")
        (tmp_path / images / folder).mkdir(parents=True, exist_ok=True)
        for image in content["images"]:
            Path(tmp_path / images / image["file_name"]).rename(tmp_path / images / folder / image["file_name"])
            image["file_name"] = prefix + image["file_name"]
        (tmp_path / annotations).write_text(json.dumps(content))
    assert found(tmp_path, "train") == (images or ".", annotations)
    dataset = open_split(DataConfig(root=str(tmp_path)), "train")
    assert dataset.open_image(0).shape == (10, 20, 3)


def test_splits_are_told_by_the_names_of_their_files(tmp_path: Path) -> None:
    add_split(tmp_path, "annotations/instances_train.json", "images/train")
    add_split(tmp_path, "annotations/instances_Validation.json", "images/val")
    add_split(tmp_path, "annotations/captions_train.json", "images/train")
    assert found(tmp_path, "train") == ("images/train", "annotations/instances_train.json")
    assert found(tmp_path, "val") == ("images/val", "annotations/instances_Validation.json")


def test_a_setting_that_is_given_is_kept(tmp_path: Path) -> None:
    add_split(tmp_path, "train_a.json", "one")
    add_split(tmp_path, "train_b.json", "two", names=("c.jpg",))
    assert found(tmp_path, "train", train_annotations="train_b.json") == ("two", "train_b.json")


def test_what_was_found_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_split(tmp_path, "valid/_annotations.coco.json", "valid")
    open_source(DataConfig(root=str(tmp_path)), "val")
    assert (
        f"Found the val images: {tmp_path}/valid, {tmp_path}/valid/_annotations.coco.json." in capsys.readouterr().err
    )


def test_a_file_that_is_named_for_another_task_is_taken_where_it_is_the_only_one(tmp_path: Path) -> None:
    add_split(tmp_path, "product_info.json", "images")
    assert split_files(DataConfig(root=str(tmp_path)), "train").annotations.name == "product_info.json"
    add_split(tmp_path, "products.json", "images")
    assert split_files(DataConfig(root=str(tmp_path)), "train").annotations.name == "products.json"


def test_a_missing_validation_split_costs_a_sentence_that_names_the_ways_out(tmp_path: Path) -> None:
    add_split(tmp_path, "annotations/instances_default.json", "images")
    with pytest.raises(UserError, match=r"only annotations/instances_default.json: .*data\.val_fraction=0\.1"):
        split_files(DataConfig(root=str(tmp_path)), "val")


def test_several_files_that_could_be_meant_are_listed(tmp_path: Path) -> None:
    add_split(tmp_path, "train_a.json", "one")
    add_split(tmp_path, "train_b.json", "two")
    with pytest.raises(UserError, match=r"several annotation files for 'train' \(train_a.json, train_b.json\)"):
        split_files(DataConfig(root=str(tmp_path)), "train")


def test_images_that_could_be_in_several_folders_are_listed(tmp_path: Path) -> None:
    add_split(tmp_path, "annotations/cells.json", "left")
    add_split(tmp_path, "annotations/cells.json", "right")
    with pytest.raises(UserError, match=r"are in several folders \(left, right\): .*data\.train_images"):
        split_files(DataConfig(root=str(tmp_path)), "train")


def test_images_in_several_folders_are_found_below_the_folder_that_they_have_in_common(tmp_path: Path) -> None:
    add_split(tmp_path, "cells.json", "photos/a", names=("1.jpg", "2.jpg", "3.jpg"))
    add_split(tmp_path, "more.json", "photos/b", names=("4.jpg",))
    content = json.loads((tmp_path / "cells.json").read_text())
    content["images"].append({"id": 4, "file_name": "4.jpg", "width": 20, "height": 10})
    (tmp_path / "cells.json").write_text(json.dumps(content))
    (tmp_path / "more.json").unlink()
    assert found(tmp_path, "train") == ("photos", "cells.json")
    dataset = open_split(DataConfig(root=str(tmp_path)), "train")
    assert [dataset.open_image(row).shape for row in range(4)] == [(10, 20, 3)] * 4


NUMBERED = ("frame_0.jpg", "frame_1.jpg", "frame_2.jpg")


def test_an_image_that_is_missing_is_not_taken_from_another_split_that_has_its_name(tmp_path: Path) -> None:
    for split in ("train", "val"):
        add_split(tmp_path, f"annotations/instances_{split}.json", f"images/{split}", names=NUMBERED)
    (tmp_path / "images/val/frame_1.jpg").unlink()
    assert found(tmp_path, "val") == ("images/val", "annotations/instances_val.json")


def test_a_split_without_its_images_is_not_given_those_of_another_one(tmp_path: Path) -> None:
    for split in ("train", "val"):
        add_split(tmp_path, f"annotations/instances_{split}.json", f"images/{split}", names=NUMBERED)
    shutil.rmtree(tmp_path / "images/val")
    sentence = r"only in images/train, and .*instances_train\.json lists images of the same names: .*data\.val_images"
    with pytest.raises(UserError, match=sentence):
        split_files(DataConfig(root=str(tmp_path)), "val")


def test_no_other_splits_folder_is_taken_where_splits_number_their_images_alike(tmp_path: Path) -> None:
    for split in ("train", "val"):
        add_split(tmp_path, f"annotations/instances_{split}.json", f"images/{split}", names=NUMBERED)
    add_split(tmp_path, "annotations/instances_test.json", "images/test", names=NUMBERED)
    (tmp_path / "annotations/instances_test.json").unlink()
    (tmp_path / "images/val/frame_1.jpg").unlink()
    assert found(tmp_path, "val") == ("images/val", "annotations/instances_val.json")


def test_names_after_the_paths_of_a_tool_are_compared_by_their_last_parts(tmp_path: Path) -> None:
    for split in ("train", "val"):
        annotations = f"annotations/instances_{split}.json"
        add_split(tmp_path, annotations, f"images/{split}", names=NUMBERED, prefix=f"upload/{split}/")
    (tmp_path / "images/val/frame_1.jpg").unlink()
    assert found(tmp_path, "val") == ("images/val", "annotations/instances_val.json")


def test_damaged_annotations_of_another_split_do_not_matter(tmp_path: Path) -> None:
    add_split(tmp_path, "annotations/instances_train.json", "images/train", names=NUMBERED)
    add_split(tmp_path, "annotations/instances_test.json", "images/test", names=NUMBERED)
    (tmp_path / "annotations/instances_test.json").write_text('{"images": [], "annotations": [], "categories": [')
    assert found(tmp_path, "train") == ("images/train", "annotations/instances_train.json")


def test_a_few_of_many_images_in_another_folder_are_found(tmp_path: Path) -> None:
    names = tuple(f"{number:03d}.jpg" for number in range(100))
    add_split(tmp_path, "cells.json", "photos/a", names=names)
    (tmp_path / "photos/b").mkdir()
    (tmp_path / "photos/a/057.jpg").rename(tmp_path / "photos/b/057.jpg")
    assert found(tmp_path, "train") == ("photos", "cells.json")


def test_parts_beside_the_folder_of_another_split_must_be_named(tmp_path: Path) -> None:
    add_split(tmp_path, "annotations/train.json", "photos/a", names=NUMBERED)
    add_split(tmp_path, "annotations/val.json", "photos/val", names=NUMBERED)
    (tmp_path / "photos/b").mkdir()
    (tmp_path / "photos/a/frame_1.jpg").rename(tmp_path / "photos/b/frame_1.jpg")
    with pytest.raises(UserError, match=r"several folders \(photos/a, photos/b\): .*data\.train_images"):
        split_files(DataConfig(root=str(tmp_path)), "train")


def test_splits_may_share_a_folder_that_is_named_after_one_of_them(tmp_path: Path) -> None:
    add_split(tmp_path, "annotations/train.json", "train2017", names=("a.jpg", "b.jpg"))
    add_split(tmp_path, "annotations/val.json", "train2017", names=("c.jpg",))
    assert found(tmp_path, "val") == ("train2017", "annotations/val.json")


def test_a_single_file_whose_name_has_both_splits_is_for_training_alone(tmp_path: Path) -> None:
    add_split(tmp_path, "annotations/instances_train_val.json", "images")
    assert found(tmp_path, "train") == ("images", "annotations/instances_train_val.json")
    with pytest.raises(MissingSplitError):
        split_files(DataConfig(root=str(tmp_path)), "val")


@pytest.mark.parametrize("prefix", ["/data/upload/3/", "../../media/upload/3/", "C:\\photos\\"])
def test_images_listed_by_paths_of_another_machine_are_found_by_their_last_parts(tmp_path: Path, prefix: str) -> None:
    add_split(tmp_path, "result.json", "images", prefix=prefix)
    dataset = open_split(DataConfig(root=str(tmp_path)), "train")
    assert dataset.open_image(0).shape == (10, 20, 3)
    assert dataset.remarks == (
        f"Found the train images: {tmp_path}/images, {tmp_path}/result.json.",
        f"Warning: file found under another name: 2, such as {tmp_path}/images/a.jpg (image 1): "
        f"listed as {prefix + 'a.jpg'!r}, and only this file can be meant.",
    )


def test_last_parts_that_two_images_share_find_none(tmp_path: Path) -> None:
    add_split(tmp_path, "result.json", "images", names=("a.jpg",))
    content = json.loads((tmp_path / "result.json").read_text())
    first = content["images"][0]
    content["images"] = [{**first, "id": i, "file_name": f"/upload/{i}/a.jpg"} for i in (1, 2)]
    (tmp_path / "result.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"None of the images that .*result.json lists"):
        split_files(DataConfig(root=str(tmp_path)), "train")


def test_images_that_are_nowhere_are_named(tmp_path: Path) -> None:
    add_split(tmp_path, "annotations/cells.json", "images")
    (tmp_path / "images" / "a.jpg").unlink()
    (tmp_path / "images" / "b.jpg").unlink()
    with pytest.raises(UserError, match=r"None of the images that .*cells.json lists \(such as 'a.jpg'\)"):
        split_files(DataConfig(root=str(tmp_path)), "train")


@pytest.mark.parametrize(
    ("file", "sentence"),
    [("data.yaml", "only data.yaml: .*data.source to 'auto'"), ("notes.txt", "only notes.txt")],
)
def test_a_folder_without_annotations_is_told_by_what_is_in_it(tmp_path: Path, file: str, sentence: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("")
    with pytest.raises(UserError, match=sentence):
        split_files(DataConfig(root=str(tmp_path)), "train")


def test_a_held_out_share_divides_the_training_images(tmp_path: Path) -> None:
    names = tuple(f"{i}.png" for i in range(40))
    add_split(tmp_path, "annotations/cells.json", "images", names=names)
    config = DataConfig(root=str(tmp_path), val_fraction=0.25)
    train, val = open_split(config, "train"), open_split(config, "val")
    assert set(train.image_ids).isdisjoint(val.image_ids)
    assert len(train) + len(val) == 40
    assert 4 <= len(val) <= 16
    truth = val.ground_truth()
    assert truth is not None
    assert [image["id"] for image in truth["images"]] == list(val.image_ids)
    assert int(train.box_counts.sum() + val.box_counts.sum()) == 40
    # Others that are added change nobody's side.
    add_split(tmp_path, "annotations/cells.json", "images", names=(*names, *(f"x{i}.png" for i in range(9))))
    assert set(val.image_ids) <= set(open_split(config, "val").image_ids)


def test_a_category_that_only_heads_the_others_is_no_class(tmp_path: Path) -> None:
    add_split(tmp_path, "train/_annotations.coco.json", "train")
    file = tmp_path / "train" / "_annotations.coco.json"
    content = json.loads(file.read_text())
    content["categories"] = [
        {"id": 0, "name": "cells", "supercategory": "none"},
        {"id": 1, "name": "red", "supercategory": "cells"},
        {"id": 2, "name": "white", "supercategory": "cells"},
    ]
    file.write_text(json.dumps(content))
    dataset = open_split(DataConfig(root=str(tmp_path)), "train")
    assert dataset.categories.names == ("red", "white")
    assert [category["id"] for category in (dataset.ground_truth() or {})["categories"]] == [1, 2]
    assert any("category 0 ('cells') is no class" in remark for remark in dataset.remarks)
    content["annotations"][0]["category_id"] = 0
    file.write_text(json.dumps(content))
    assert open_coco(tmp_path / "train", file).categories.names == ("cells", "red", "white")
