import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from anchordetr_jax.data.shapes import ShapesConfig, drawing, write_shapes_dataset, writing
from anchordetr_jax.data.shapes.command import main
from anchordetr_jax.data.shapes.drawing import draw_image
from anchordetr_jax.data.shapes.outlines import CLASSES, FIRST_CLASSES, SECOND_CLASSES
from anchordetr_jax.errors import UserError
from tests.data.coco_folder import open_coco

SPLITS = ("train2017", "val2017")


def annotations_of(root: Path, split: str) -> dict[str, Any]:
    return json.loads((root / "annotations" / f"instances_{split}.json").read_text())


def all_files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    write_shapes_dataset(root, seed=1, train_images=100, val_images=30)
    return root


def test_the_same_seed_gives_the_same_files(drawn: Path, tmp_path: Path) -> None:
    write_shapes_dataset(tmp_path, seed=1, train_images=100, val_images=30)
    assert all_files(tmp_path) == all_files(drawn)


@pytest.mark.processes
def test_several_processes_draw_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "IMAGES_AT_ONCE", 4)
    for folder, processes in (("one", 1), ("two", 2)):
        write_shapes_dataset(tmp_path / folder, train_images=10, val_images=0, processes=processes)
    assert all_files(tmp_path / "one") == all_files(tmp_path / "two")


def test_another_seed_gives_another_data_set(drawn: Path, tmp_path: Path) -> None:
    write_shapes_dataset(tmp_path, seed=2, train_images=3, val_images=0)
    assert (tmp_path / "train2017/000000000001.jpg").read_bytes() != (drawn / "train2017/000000000001.jpg").read_bytes()


def test_train_and_val_differ() -> None:
    train, val = (draw_image(0, split, 5, ShapesConfig()) for split in (0, 1))
    assert train[1] != val[1]


def test_a_larger_set_begins_with_the_smaller(drawn: Path, tmp_path: Path) -> None:
    write_shapes_dataset(tmp_path, seed=1, train_images=4, val_images=0)
    smaller, larger = annotations_of(tmp_path, "train2017"), annotations_of(drawn, "train2017")
    assert smaller["images"] == larger["images"][:4]
    assert smaller["annotations"] == larger["annotations"][: len(smaller["annotations"])]


@pytest.mark.parametrize("split", SPLITS)
def test_it_reads_as_any_coco_folder(drawn: Path, split: str) -> None:
    dataset = open_coco(drawn / split, drawn / "annotations" / f"instances_{split}.json")
    assert dataset.categories.names == FIRST_CLASSES
    for row in range(10):
        assert dataset.open_image(row).shape == (*dataset.sizes[row], 3)


def test_it_has_what_real_data_has(drawn: Path) -> None:
    content = annotations_of(drawn, "train2017")
    annotations = content["annotations"]
    counts = np.bincount([a["image_id"] for a in annotations], minlength=101)[1:]
    assert (counts == 0).sum() == 5
    assert counts.max() >= 10
    assert any(a["iscrowd"] for a in annotations)
    assert any(a["bbox"][2] == 0 for a in annotations)
    assert len({(i["height"], i["width"]) for i in content["images"]}) > 50
    areas = [a["bbox"][2] * a["bbox"][3] for a in annotations if a["area"]]
    assert max(areas) > 30 * min(areas)
    with Image.open(drawn / "train2017" / content["images"][29]["file_name"]) as image:
        assert image.mode == "L"


def test_category_ids_have_gaps(drawn: Path) -> None:
    ids = [category["id"] for category in annotations_of(drawn, "val2017")["categories"]]
    assert ids == sorted(ids)
    assert max(ids) >= 2 * len(ids)


@given(index=st.integers(0, 200), seed=st.integers(0, 5))
def test_boxes_lie_inside_the_image_and_hold_the_area(index: int, seed: int) -> None:
    pixels, annotations = draw_image(seed, 0, index, ShapesConfig())
    height, width, _ = pixels.shape
    assert max(height, width) <= 128
    assert min(height, width) >= 80
    for annotation in annotations:
        x, y, w, h = annotation["bbox"]
        assert 0 <= x <= x + w <= width
        assert 0 <= y <= y + h <= height
        assert 0 <= annotation["area"] <= w * h


def test_a_box_is_tight_around_what_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ShapesConfig(max_objects=1, classes=("square",))
    pixels, (annotation,) = draw_image(0, 0, 1, config)
    monkeypatch.setattr(drawing._Scene, "draw_object", lambda self, name: True)
    background, none = draw_image(0, 0, 1, config)
    assert none == []
    rows, columns = np.nonzero(np.abs(pixels.astype(int) - background).max(axis=2) > 40)
    seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    x, y, w, h = annotation["bbox"]
    assert np.abs(seen - (x, y, x + w, y + h)).max() <= 1


def test_the_two_groups_of_classes_have_nothing_in_common() -> None:
    assert not set(FIRST_CLASSES) & set(SECOND_CLASSES)
    assert len({CLASSES[name][0] for name in FIRST_CLASSES + SECOND_CLASSES}) == len(CLASSES)


def test_a_finished_data_set_is_left_as_it_is(drawn: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in drawn.rglob("*")}
    write_shapes_dataset(drawn, seed=1, train_images=100, val_images=30)
    assert {path: path.stat().st_mtime_ns for path in drawn.rglob("*")} == before


def test_other_annotations_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    mine = tmp_path / "annotations/instances_train2017.json"
    mine.write_text('{"images": []}')
    with pytest.raises(UserError, match="holds other annotations"):
        write_shapes_dataset(tmp_path, train_images=1, val_images=1)
    assert mine.read_text() == '{"images": []}'


def test_other_images_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "val2017").mkdir()
    mine = tmp_path / "val2017/000001000001.jpg"
    mine.write_bytes(b"my photograph")
    with pytest.raises(UserError, match="val2017 holds other files"):
        write_shapes_dataset(tmp_path, train_images=1, val_images=1)
    assert mine.read_bytes() == b"my photograph"
    assert list(tmp_path.iterdir()) == [tmp_path / "val2017"]  # No training image was drawn, either.


def test_a_redrawing_that_was_stopped_is_not_taken_for_the_earlier_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seed in (("fresh", 0), ("again", 0)):
        write_shapes_dataset(tmp_path / name, seed=seed, train_images=4, val_images=1)
    draw = writing.draw_image

    def stopped(seed: int, split: int, index: int, config: ShapesConfig) -> Any:
        if index == 2:
            raise KeyboardInterrupt
        return draw(seed, split, index, config)

    monkeypatch.setattr(writing, "draw_image", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_shapes_dataset(tmp_path / "again", seed=1, train_images=4, val_images=1)
    monkeypatch.undo()
    write_shapes_dataset(tmp_path / "again", seed=0, train_images=4, val_images=1)
    assert all_files(tmp_path / "again") == all_files(tmp_path / "fresh")


def test_a_smaller_data_set_in_the_same_folder_leaves_no_image_of_the_larger_one(tmp_path: Path) -> None:
    write_shapes_dataset(tmp_path, train_images=5, val_images=1)
    write_shapes_dataset(tmp_path, train_images=2, val_images=1)
    assert len(list((tmp_path / "train2017").iterdir())) == 2


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "shapes").write_text("a file")
    with pytest.raises(UserError, match=r"Cannot write into .*shapes \(Not a directory\)"):
        write_shapes_dataset(tmp_path / "shapes", train_images=1, val_images=1)


def test_the_command_writes_the_classes_it_is_given(tmp_path: Path) -> None:
    main([str(tmp_path), "--train", "2", "--val", "1", "--classes", "star", "second"])
    names = {category["name"] for category in annotations_of(tmp_path, "train2017")["categories"]}
    assert names == {"star", *SECOND_CLASSES}


def test_the_command_answers_a_wrong_class_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"The classes of a shapes data set are .* not blob"):
        main([str(tmp_path), "--classes", "blob"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"short_side": (90, 80)},
        {"max_side": 100},
        {"short_side": (8, 80)},
        {"max_objects": 0},
        *({"object_size": sizes} for sizes in ((3, 5), (0.75, 0.14), (-1, -0.5), (0, 0.5), (math.nan, math.nan))),
        *({"hue_by_class": hue} for hue in (7, -0.1, math.nan)),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        ShapesConfig(**wrong)


@pytest.mark.parametrize(
    ("flag", "value", "least"), [("--train", "-5", 1), ("--val", "0", 1), ("--processes", "0", 1), ("--seed", "-1", 0)]
)
def test_the_command_refuses_a_number_that_is_too_small_before_it_writes(
    flag: str, value: str, least: int, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=rf"^{flag} must be at least {least}, not {value}\.$"):
        main([str(tmp_path / "new"), "--train", "1", "--val", "1", flag, value])
    assert not (tmp_path / "new").exists()
