import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anchordetr_jax.config import DataConfig
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.data.sources.annotated import AnnotatedImages
from anchordetr_jax.data.sources.opening import open_split
from anchordetr_jax.errors import UserError
from tests.data.coco_folder import open_coco


def content() -> dict[str, Any]:
    """Two images, ids out of order; two categories with a gap."""
    return {
        "images": [
            {"id": 9, "file_name": "b.png", "width": 20, "height": 10},
            {"id": 4, "file_name": "a.png", "width": 30, "height": 40},
        ],
        "annotations": [
            {"id": 1, "image_id": 9, "category_id": 7, "bbox": [-2.0, 3, 10, 30], "area": 70, "iscrowd": 0},
            {"id": 2, "image_id": 4, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0},
            {"id": 3, "image_id": 4, "category_id": 7, "bbox": [5, 5, 5, 5], "area": 25, "iscrowd": 1},
            {"id": 4, "image_id": 4, "category_id": 7, "bbox": [5, 5, 0, 5], "area": 0, "iscrowd": 0},
            {"id": 5, "image_id": 4, "category_id": 7, "bbox": [6, 6, 2, 2], "area": 4, "iscrowd": 0},
            {"id": 6, "image_id": 4, "category_id": 7, "bbox": [35, 6, 2, 2], "area": 4, "iscrowd": 0},
        ],
        "categories": [{"id": 7, "name": "square"}, {"id": 3, "name": "circle"}],
    }


def write(folder: Path, value: Any) -> tuple[Path, Path]:
    (folder / "images").mkdir(exist_ok=True)
    file = folder / "instances.json"
    file.write_text(value if isinstance(value, str) else json.dumps(value))
    return folder / "images", file


def load(folder: Path, value: Any, **options: Any) -> AnnotatedImages:
    return open_coco(*write(folder, value), **{"look": False, **options})


def test_rows_are_ordered_by_image_id(tmp_path: Path) -> None:
    dataset = load(tmp_path, content())
    assert dataset.image_ids == (4, 9)
    assert dataset.sizes.tolist() == [[40, 30], [10, 20]]
    assert dataset.file_path(0).name == "a.png"


def test_boxes_are_corners_clipped_to_the_image_without_crowds_and_boxes_of_no_area(tmp_path: Path) -> None:
    dataset = load(tmp_path, content())
    assert dataset.boxes(0).tolist() == [[1, 2, 4, 6], [6, 6, 8, 8]]
    assert dataset.boxes(1).tolist() == [[0, 3, 8, 10]]
    assert dataset.boxes(0).dtype == np.float32
    assert dataset.box_counts.tolist() == [2, 1]


@pytest.mark.parametrize(("scheme", "labels"), [("contiguous", [0, 1]), ("raw", [3, 7])])
def test_labels_follow_the_scheme(tmp_path: Path, scheme: Any, labels: list[int]) -> None:
    dataset = load(tmp_path, content(), labels=scheme)
    assert dataset.labels(0).tolist() == labels
    assert [dataset.categories.label_of(category) for category in (3, 7)] == labels


def test_raw_labels_leave_the_outputs_of_missing_ids_unused() -> None:
    categories = Categories(ids=(3, 7), names=("circle", "square"), scheme="raw")
    assert categories.num_labels == 8
    assert [categories.category_of(label) for label in (3, 4, 7)] == [3, None, 7]
    assert [categories.name_of(label) for label in (3, 4)] == ["circle", "unused 4"]


def test_contiguous_labels_number_the_categories_in_the_order_of_their_ids() -> None:
    categories = Categories(ids=(3, 7), names=("circle", "square"))
    assert categories.num_labels == 2
    assert [categories.category_of(label) for label in (-1, 0, 1, 2)] == [None, 3, 7, None]
    assert categories.name_of(1) == "square"


def test_an_id_that_is_no_category_has_no_label() -> None:
    with pytest.raises(KeyError):
        Categories(ids=(3, 7), names=("circle", "square"), scheme="raw").label_of(5)


def test_categories_survive_json() -> None:
    categories = Categories(ids=(3, 7), names=("circle", "square"), scheme="raw")
    assert Categories.from_dict(json.loads(json.dumps(categories.to_dict()))) == categories


def test_a_file_without_any_annotation_is_a_data_set_of_empty_images(tmp_path: Path) -> None:
    dataset = load(tmp_path, {**content(), "annotations": []})
    assert dataset.boxes(0).shape == (0, 4)
    assert dataset.box_counts.tolist() == [0, 0]


def test_annotations_may_be_absent_only_where_none_are_expected(tmp_path: Path) -> None:
    value = content()
    del value["annotations"]
    assert len(load(tmp_path, value, annotated=False)) == 2
    with pytest.raises(UserError, match="has no 'annotations'"):
        load(tmp_path, value)


def test_a_data_set_can_be_sent_to_worker_processes(tmp_path: Path) -> None:
    dataset = load(tmp_path, content())
    assert pickle.loads(pickle.dumps(dataset)).boxes(1).tolist() == dataset.boxes(1).tolist()


def test_an_image_is_read_as_rgb_pixels(tmp_path: Path) -> None:
    dataset = load(tmp_path, content())
    Image.new("RGB", (30, 40), (1, 2, 3)).save(dataset.file_path(0))
    pixels = dataset.open_image(0)
    assert pixels.shape == (40, 30, 3)
    assert pixels.dtype == np.uint8
    assert (pixels == (1, 2, 3)).all()


def test_an_image_whose_file_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"images/a\.png does not exist"):
        load(tmp_path, content()).open_image(0)


def test_an_image_of_another_size_than_annotated_is_refused(tmp_path: Path) -> None:
    dataset = load(tmp_path, content())
    Image.new("RGB", (31, 40)).save(dataset.file_path(0))
    with pytest.raises(UserError, match=r"a\.png has 31 x 40 pixels, but its annotations were made for 30 x 40"):
        dataset.open_image(0)


def test_a_missing_image_folder_is_named(tmp_path: Path) -> None:
    _, file = write(tmp_path, content())
    with pytest.raises(UserError, match=r"no image folder .*/nowhere"):
        open_coco(tmp_path / "nowhere", file)


def test_a_missing_annotation_file_is_named(tmp_path: Path) -> None:
    images, _ = write(tmp_path, content())
    with pytest.raises(UserError, match=r"no annotation file .*/nowhere\.json"):
        open_coco(images, tmp_path / "nowhere.json")


@pytest.mark.parametrize("root", ["", "nowhere"])
def test_a_missing_data_set_folder_is_answered_with_the_setting(tmp_path: Path, root: str) -> None:
    with pytest.raises(UserError, match=r"data\.root"):
        open_split(DataConfig(root=str(tmp_path / root) if root else ""), "train")


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_is_found_where_the_settings_say(tmp_path: Path, split: Any) -> None:
    images, _ = write(tmp_path, content())
    Image.new("RGB", (30, 40)).save(images / "a.png")
    paths: dict[str, Any] = {f"{split}_images": "images", f"{split}_annotations": "instances.json"}
    assert len(open_split(DataConfig(root=str(tmp_path), **paths), split)) == 2


@pytest.mark.parametrize("text", ["", json.dumps(content())[:-40], "not json", '{"images": "\\ud8', "\xff\xfe"])
def test_a_file_that_is_not_whole_json_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"instances\.json is not valid JSON"):
        load(tmp_path, text)


def change(path: str, value: Any) -> dict[str, Any]:
    """The content above with one value replaced, e.g. at "images/0/id"; without it when `value` is None."""
    changed: Any = content()
    *groups, last = [int(key) if key.isdigit() else key for key in path.split("/")]
    target = changed
    for key in groups:
        target = target[key]
    if value is None:
        del target[last]
    else:
        target[last] = value
    return changed


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param([1, 2], "not a list", id="a list at the top"),
        pytest.param(change("images", None), "has no 'images'", id="no images"),
        pytest.param(change("images", {}), "'images' is not a list of objects", id="images not a list"),
        pytest.param(change("images", [1]), "'images' is not a list of objects", id="an image that is a number"),
        pytest.param(change("images", []), "lists no images", id="empty images"),
        pytest.param(change("categories", None), "has no 'categories'", id="no categories"),
        pytest.param(change("categories", []), "lists no categories", id="empty categories"),
        pytest.param(change("categories/0/id", 3), "category 3 is 'square' and 'circle'", id="a category twice"),
        pytest.param(
            change("categories/0/name", 5),
            "category {.*5.*} needs a whole number as id and a name",
            id="a name that is a number",
        ),
        pytest.param(
            change("images/0/id", None), "image {.*b.png.*} needs a whole number as id", id="an image without id"
        ),
        pytest.param(change("images/0/id", "nine"), "image {.*nine.*} needs a whole number", id="an id that is a text"),
        pytest.param(change("images/0/id", True), "image {.*true.*} needs a whole number", id="an id that is true"),
        pytest.param(change("images/0/id", 2**70), "needs a whole number", id="an id beyond all integers"),
        pytest.param(change("images/0/id", 4), r"\(image 4\): image 4 is also b.png", id="an image twice"),
        pytest.param(
            change("images/1/width", None), r"\(image 4\): width x height is null x 40", id="an image without width"
        ),
        pytest.param(change("images/1/width", 30.5), r"\(image 4\): width x height is 30.5 x 40", id="half a pixel"),
        pytest.param(
            change("images/1/height", 0), r"\(image 4\): width x height is 30 x 0", id="an image without height"
        ),
        pytest.param(
            change("images/0/file_name", ["b"]), "image {.*9.*} needs .* a file_name", id="a file name that is a list"
        ),
        pytest.param(
            change("annotations/1/image_id", 5),
            r"\(image 5, annotation 2\): the image 5 is not listed",
            id="an image that is not there",
        ),
        pytest.param(
            change("annotations/1/image_id", 99),
            r"annotation 2\): the image 99 is not listed",
            id="an image beyond all",
        ),
        pytest.param(
            change("annotations/2/category_id", 8),
            r"annotation 3\): the category 8 is not listed",
            id="an unknown category",
        ),
        pytest.param(
            change("annotations/1/image_id", None), r"annotation 2\): the image null is not listed", id="no image named"
        ),
        pytest.param(change("annotations/1/bbox", None), r"annotation 2\): bbox is null", id="no box"),
        pytest.param(change("annotations/1/bbox", [1, 2, 3]), r"annotation 2\): bbox is", id="a box of three numbers"),
        pytest.param(change("annotations/1/bbox", [1, 2, 3, "four"]), r"annotation 2\): bbox", id="a box with a text"),
        pytest.param(
            change("annotations/1/bbox", [1, 2, 3, float("nan")]), r"annotation 2\): bbox is", id="a box with nan"
        ),
        pytest.param(change("annotations/1/bbox", {"x": 1}), r"annotation 2\): bbox is", id="a box that is an object"),
        pytest.param(
            change("annotations/1/bbox", [1, 2, 3, 10**400]), r"annotation 2\): bbox is", id="a box beyond all"
        ),
    ],
)
def test_a_file_not_of_cocos_form_is_answered_with_the_place(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=rf"instances\.json.*{message}"):
        load(tmp_path, value)


def test_ids_too_large_for_class_outputs_are_refused_as_raw_labels_only(tmp_path: Path) -> None:
    value = change("categories/0/id", 123_456_789)
    value["annotations"] = []
    assert load(tmp_path, value).categories.num_labels == 2
    with pytest.raises(UserError, match=r"data\.labels='contiguous'"):
        load(tmp_path, value, labels="raw")
