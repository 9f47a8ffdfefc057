"""YOLO folders as tools write them, and what is wrong in them."""

import os
from pathlib import Path
from typing import Any

import pytest
from etils import epath
from PIL import Image

from anchordetr_jax.config import DataConfig
from anchordetr_jax.data.records.findings import Findings
from anchordetr_jax.data.records.reading import read_records
from anchordetr_jax.data.sources.annotated import AnnotatedImages
from anchordetr_jax.data.sources.opening import open_split
from anchordetr_jax.data.sources.yolo import read_yolo
from anchordetr_jax.errors import UserError
from tests.data.sources.forms import write_images, write_yolo


def opened(root: Path, split: str = "train", **settings: Any) -> AnnotatedImages:
    return open_split(DataConfig(root=str(root), **settings), split)  # type: ignore[arg-type]


NAMES = "names: {0: cat, 1: dog}\n"
DESCRIPTIONS = {
    "a path": "path: PLACE\ntrain: images/train\n" + NAMES,
    "no path": "train: images/train\nnc: 2\nnames: ['cat', 'dog']\n",
    "a dot": "path: .\ntrain: ./images/train\n" + NAMES,
    "an absolute folder": "train: PLACE/images/train\n" + NAMES,
    "a list": "path: .\ntrain: [images/train]\n" + NAMES,
    "another machine": "path: /home/me/pets\ntrain: /home/me/pets/images/train\n" + NAMES,
    "another Windows machine": "path: C:\\pets\ntrain: C:\\pets\\images\\train\n" + NAMES,
    "another machine in its path alone": "path: /home/me/pets\ntrain: images/train\n" + NAMES,
    "a name of ultralytics": "path: ../datasets/pets\ntrain: images/train\n" + NAMES,
    "a list of images": "path: .\ntrain: train.txt\n" + NAMES,
    "names with numbers as texts": "train: images/train\nnames: {'0': cat, '1': dog}\n",
}


@pytest.mark.parametrize("description", DESCRIPTIONS.values(), ids=DESCRIPTIONS.keys())
def test_a_description_leads_to_the_images(tmp_path: Path, description: str) -> None:
    write_yolo(tmp_path, description.replace("PLACE", str(tmp_path)))
    lines = ["./images/train/a.png", "/home/me/pets/images/train/b 1.png", "images\\train\\c.png"]
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n")
    dataset = opened(tmp_path)
    assert [dataset.file_path(row).name for row in range(len(dataset))] == ["a.png", "b 1.png", "c.png"]
    assert dataset.box_counts.tolist() == [0, 2, 2]
    assert dataset.categories.names == ("cat", "dog")
    elsewhere = [remark for remark in dataset.remarks if "is taken, as only this can be meant" in remark]
    assert bool(elsewhere) == any(word in description for word in ("/home", "C:", "datasets"))


def test_held_out_images_stay_held_out_when_the_folder_gets_another_subfolder(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("train: images/train\n" + NAMES)

    def held_out() -> set[str]:
        dataset = opened(tmp_path, "val", val_fraction=0.5)
        return {dataset.file_path(row).name for row in range(len(dataset))}

    def add(day: str) -> None:
        for folder, suffix in (("images", ".png"), ("labels", ".txt")):
            (tmp_path / folder / "train" / day).mkdir(parents=True)
            for number in range(20):
                file = tmp_path / folder / "train" / day / f"{day}{number}{suffix}"
                if folder == "images":
                    Image.new("RGB", (9, 7)).save(file)
                else:
                    file.write_text("0 0.5 0.5 0.5 0.5\n")

    add("monday")
    alone = held_out()
    add("tuesday")
    assert alone == {name for name in held_out() if name.startswith("monday")}


def test_roboflows_folders_are_found_beside_the_description(tmp_path: Path) -> None:
    description = (
        "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cat', 'dog']\nroboflow: {license: MIT}\n"
    )
    write_yolo(tmp_path, description, roboflow=True)
    write_yolo(tmp_path, description, "valid", roboflow=True)
    assert len(opened(tmp_path)) == len(opened(tmp_path, "val")) == 3


def test_the_file_itself_can_be_the_root(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    assert len(opened(tmp_path / "data.yaml")) == 3


def test_labels_beside_their_images_are_read(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", ["a.png"])
    (tmp_path / "photos" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "data.yaml").write_text("train: photos\nnames: [cat]\n")
    assert opened(tmp_path).boxes(0).tolist() == [[20, 12, 30, 18]]


def test_a_polygon_becomes_the_box_around_it(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    (tmp_path / "labels" / "train" / "a.txt").write_text("1 0.1 0.2 0.5 0.1 0.3 0.9\n")
    dataset = opened(tmp_path)
    assert dataset.boxes(0).tolist() == [[5, 3, 25, 27]]
    assert dataset.labels(0).tolist() == [1]


def test_keypoints_after_the_box_are_left_alone(tmp_path: Path) -> None:
    write_yolo(tmp_path, "train: images/train\nkpt_shape: [1, 2]\nnames: [cat, dog]\n")
    (tmp_path / "labels" / "train" / "a.txt").write_text("0 0.5 0.5 0.2 0.2 0.9 0.9\n")
    assert opened(tmp_path).boxes(0).tolist() == [[20, 12, 30, 18]]


def test_an_image_without_a_label_file_has_no_objects_and_is_counted(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    (tmp_path / "labels" / "train" / "b 1.txt").write_text("\n")
    dataset = opened(tmp_path)
    assert dataset.box_counts.tolist() == [0, 0, 2]
    assert any("1 of 3 images have none: they have no objects" in remark for remark in dataset.remarks)


def test_a_label_file_without_an_image_is_counted(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    (tmp_path / "labels" / "train" / "d.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    assert any("label file without an image: 1, such as" in remark for remark in opened(tmp_path).remarks)


BAD_LINES = {
    "a word": ("0 0.5 0.5 wide 0.2", '"wide" is no number'),
    "nan": ("0 0.5 0.5 nan 0.2", '"nan" is no number'),
    "three numbers": ("0 0.5 0.5", "and this one a class and 2 numbers"),
    "a class beyond the names": ("2 0.5 0.5 0.2 0.2", "the class 2 is not among the names .from 0 to 1."),
    "half a class": ("0.5 0.5 0.5 0.2 0.2", "the class 0.5 is not among the names"),
    "a coordinate beyond 1": ("0 1.2 0.5 0.2 0.2", "coordinates are shares from 0 to 1 of the image, not 1.2"),
    "a negative coordinate": ("0 0.5 -0.2 0.2 0.2", "not -0.2"),
    "pixels": ("0 25 15 10 6", "not 25 pixels"),
    "a polygon in pixels": ("0 0.1 0.2 0.5 0.1 300 0.9", "shares from 0 to 1"),
}


@pytest.mark.parametrize(("line", "message"), BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_wrong_line_is_named_with_its_file(tmp_path: Path, line: str, message: str) -> None:
    write_yolo(tmp_path)
    (tmp_path / "labels" / "train" / "a.txt").write_text(f"0 0.5 0.5 0.2 0.2\n{line}\n")
    with pytest.raises(UserError, match=rf"labels/train/a\.txt, line 2: .*{message}"):
        opened(tmp_path)


def test_a_label_file_that_is_no_text_is_named_with_the_line(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    (tmp_path / "labels" / "train" / "a.txt").write_bytes(b"0 0.5 0.5 0.2 0.2\n0 \xff\xfe\n")
    with pytest.raises(UserError, match=r"a\.txt: the label file cannot be read: line 2: it is no text in UTF-8"):
        opened(tmp_path)


def test_all_wrong_lines_are_counted(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    (tmp_path / "labels" / "train" / "a.txt").write_text("0 25 15 10 6\n" * 3)
    raw = read_yolo(epath.Path(tmp_path), "train")
    findings = Findings(raw.name)
    read_records(raw, "train", findings)
    assert [finding.kind for finding in findings.all if finding.stops] == ["label in pixels"] * 3


def test_rounding_a_little_beyond_the_image_is_clipped(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    (tmp_path / "labels" / "train" / "a.txt").write_text("0 0.500001 0.5 1.000002 1.0\n")
    assert opened(tmp_path).boxes(0).tolist() == [[0, 0, 50, 30]]


BAD_DESCRIPTIONS = {
    "no names": ("train: images/train\nnc: 0\n", "has no 'names' of classes"),
    "no word of classes": ("train: images/train\n", "data.yaml has no 'names' of classes"),
    "no images": ("names: [cat, dog]\n", "data.yaml names no 'train' images"),
    "another number of names": ("train: images/train\nnc: 3\nnames: [cat, dog]\n", "nc: 3 and 2 names"),
    "an index twice": ("train: images/train\nnames: {0: cat, 0: dog}\n", "has the key '0' twice"),
    "an index in two spellings": ("train: images/train\nnames: {1: cat, 0x1: dog}\n", "has a class index twice"),
    "a name that is none": ("train: images/train\nnames: [~, cat]\n", "has 0: None, which is not a new class"),
    "a wrong index": ("train: images/train\nnames: {one: cat}\n", "'one': 'cat', which is not a new class index"),
    "a folder that is nowhere": (
        "train: photos\nnames: [cat, dog]\n",
        "data.yaml, line 1, names 'photos', and neither",
    ),
    "a path of another machine that is nowhere": (
        "path: /me\ntrain: x\nnames: [cat]\n",
        "names 'x', and neither /me/x",
    ),
    "a number as folder": ("train: 5\nnames: [cat, dog]\n", "'train' in .* is 5"),
    "not YAML": ("train: [images\nnames: {", "is no YAML file"),
    "only other splits": ("val: images/train\nnames: [cat, dog]\n", "names no 'train' images"),
    "an empty folder": ("train: empty\nnames: [cat, dog]\n", "holds no image"),
    "an empty list": ("train: empty.txt\nnames: [cat, dog]\n", "is empty"),
}


@pytest.mark.parametrize(("description", "message"), BAD_DESCRIPTIONS.values(), ids=BAD_DESCRIPTIONS.keys())
def test_a_wrong_description_is_answered_with_a_sentence(tmp_path: Path, description: str, message: str) -> None:
    write_yolo(tmp_path, description)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UserError, match=message):
        opened(tmp_path)


@pytest.mark.parametrize("names", ["[no, 010]", "{0: no, 1: 010}"])
def test_names_that_look_like_other_values_stay_as_they_are_written(tmp_path: Path, names: str) -> None:
    write_yolo(tmp_path, f"path: .\ntrain: images/train\nnames: {names}\n")
    assert opened(tmp_path).categories.names == ("no", "010")


@pytest.mark.parametrize(
    "description",
    [
        "base: &base {names: [cat, dog]}\n<<: *base\ntrain: images/train\n",
        "base: &base {0: cat}\ntrain: images/train\nnames: {<<: *base, 1: dog}\n",
    ],
)
def test_names_may_come_from_another_part_of_the_file(tmp_path: Path, description: str) -> None:
    write_yolo(tmp_path, description)
    assert opened(tmp_path).categories.names == ("cat", "dog")


def test_without_names_classes_have_their_numbers(tmp_path: Path) -> None:
    write_yolo(tmp_path, "train: images/train\nnc: 2\nnames:\n")
    assert opened(tmp_path).categories.names == ("0", "1")


def test_an_image_that_a_list_names_twice_counts_once_and_is_said(tmp_path: Path) -> None:
    write_yolo(tmp_path, "path: .\ntrain: train.txt\n" + NAMES)
    (tmp_path / "train.txt").write_text("images/train/a.png\nimages/train/c.png\nimages/train/a.png\n")
    source = opened(tmp_path)
    assert len(source) == 2
    assert any("image that is listed twice: 1, such as" in remark for remark in source.remarks)


def test_a_folder_beside_one_with_a_whole_path_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pets").mkdir()
    write_yolo(tmp_path / "pets", f"train: [images/train, {tmp_path}/more]\n" + NAMES)
    write_images(tmp_path / "more", ("a.png",))
    monkeypatch.chdir(tmp_path)
    source = opened(Path("pets"))
    assert len(source) == 4
    assert [source.open_image(row).shape[2] for row in range(4)] == [3] * 4


def test_two_images_of_one_label_file_are_named(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    (tmp_path / "images" / "train" / "c.png").rename(tmp_path / "images" / "train" / "a.jpg")
    (tmp_path / "labels" / "train" / "c.txt").rename(tmp_path / "labels" / "train" / "a.txt")
    with pytest.raises(UserError, match=r"a\.jpg and .*a\.png have the same label file"):
        opened(tmp_path)


def test_a_folder_that_is_too_deep_is_said(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    deep = tmp_path / "images" / "train" / "1" / "2" / "3" / "4" / "5" / "6"
    write_images(deep / "7" / "8")
    dataset = opened(tmp_path)
    assert len(dataset) == 3
    said = f"folder not looked through: 1, such as {deep}/7: it lies more than 6 folders deep"
    assert any(said in remark for remark in dataset.remarks)


def test_a_link_in_a_circle_is_not_followed_and_said(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    write_images(tmp_path / "images" / "val")
    os.symlink(tmp_path / "images", tmp_path / "images" / "train" / "again")
    dataset = opened(tmp_path)
    assert len(dataset) == 3
    assert any("link in a circle: 1, such as" in remark and "train/again" in remark for remark in dataset.remarks)


def test_an_unreadable_image_keeps_its_place_and_is_said(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    (tmp_path / "images" / "train" / "a.png").write_bytes(b"no image")
    dataset = opened(tmp_path)
    assert len(dataset) == 3
    assert any("unreadable file: 1, such as" in remark for remark in dataset.remarks)
