"""Pascal VOC folders as tools write them, and what is wrong in them."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from anchordetr_jax.config import DataConfig
from anchordetr_jax.data.sources.annotated import AnnotatedImages
from anchordetr_jax.data.sources.opening import open_split
from anchordetr_jax.errors import UserError
from anchordetr_jax.evaluation.coco_metrics import coco_scores
from tests.data.sources.forms import BOXES, SIZES, write_images, write_voc, xml


def opened(root: Path, split: str = "train", **settings: Any) -> AnnotatedImages:
    return open_split(DataConfig(root=str(root), **settings), split)  # type: ignore[arg-type]


def names(dataset: AnnotatedImages) -> list[str]:
    return [dataset.file_path(row).name for row in range(len(dataset))]


def write_loose(root: Path, images: str, annotations: str) -> None:
    write_images(root / images)
    (root / annotations).mkdir(parents=True, exist_ok=True)
    for name in SIZES:
        (root / annotations / name).with_suffix(".xml").write_text(xml(name))


def test_lists_divide_the_images(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": ["a.png", "b 1.png"], "val": ["c.png"]})
    assert names(opened(tmp_path)) == ["a.png", "b 1.png"]
    assert names(opened(tmp_path, "val")) == ["c.png"]
    with pytest.raises(UserError, match=r"has no 'test' images, as ImageSets has no list test\.txt"):
        opened(tmp_path, "test")


def test_trainval_without_a_list_for_training_gives_what_is_not_for_validation(tmp_path: Path) -> None:
    write_voc(tmp_path, {"trainval": ["a.png", "b 1.png", "c.png"], "val": ["c.png"]})
    assert names(opened(tmp_path)) == ["a.png", "b 1.png"]
    assert names(opened(tmp_path, "val")) == ["c.png"]


def test_a_held_out_share_is_one_of_all_images_in_trainval(tmp_path: Path) -> None:
    write_voc(tmp_path, {"trainval": ["a.png", "b 1.png", "c.png"], "val": ["c.png"]})
    train, val = (names(opened(tmp_path, split, val_fraction=0.5)) for split in ("train", "val"))
    assert sorted(train + val) == ["a.png", "b 1.png", "c.png"]


def test_trainval_without_any_image_for_training_is_named(tmp_path: Path) -> None:
    write_voc(tmp_path, {"trainval": ["a.png"], "val": ["a.png", "c.png"]})
    with pytest.raises(UserError, match=r"All images of .*trainval\.txt are in .*val\.txt too"):
        opened(tmp_path)


def test_all_splits_have_the_classes_of_the_whole_data_set(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": ["b 1.png"], "val": ["a.png", "c.png"]})
    (tmp_path / "Annotations" / "c.xml").write_text(xml("c.png", [("ant", 3, 4, 5, 6)]))
    assert opened(tmp_path).categories == opened(tmp_path, "val").categories
    assert opened(tmp_path).categories.names == ("ant", "cat", "dog")


@pytest.mark.parametrize("folder", ["annotations", "annots", "xml", "images"])
def test_loose_folders_are_for_training(tmp_path: Path, folder: str) -> None:
    write_loose(tmp_path, "images", folder)
    assert opened(tmp_path).box_counts.tolist() == [0, 2, 2]
    with pytest.raises(UserError, match=r"has no 'val' images.*data\.val_fraction=0\.1"):
        opened(tmp_path, "val")


def test_roboflows_folders_are_the_splits(tmp_path: Path) -> None:
    for folder in ("train", "valid"):
        write_loose(tmp_path, folder, folder)
    assert opened(tmp_path).file_path(0).parent.name == "train"
    assert opened(tmp_path, "val").file_path(0).parent.name == "valid"


def test_difficult_objects_are_ignored_in_training_and_scoring(tmp_path: Path) -> None:
    write_voc(tmp_path)
    (tmp_path / "Annotations" / "c.xml").write_text(xml("c.png", difficult=1))
    dataset = opened(tmp_path)
    assert dataset.box_counts.tolist() == [0, 2, 0]
    truth = dataset.ground_truth()
    assert truth is not None
    results = [
        {"image_id": 2, "category_id": 1 if kind == "cat" else 2, "bbox": box, "score": 1.0}
        for kind, *box in BOXES["b 1.png"]
    ]
    assert coco_scores(truth, results).metrics["AP"] == pytest.approx(1.0)


def test_the_name_in_the_file_finds_an_image_of_another_name(tmp_path: Path) -> None:
    write_loose(tmp_path, "images", "annotations")
    (tmp_path / "annotations" / "a.xml").rename(tmp_path / "annotations" / "first.xml")
    assert names(opened(tmp_path)) == ["a.png", "b 1.png", "c.png"]


@pytest.mark.parametrize("size", [(0, 0), ("", ""), (-5, 40), ("tall", 40)])
def test_a_size_that_is_missing_is_taken_from_the_image_and_said(tmp_path: Path, size: Any) -> None:
    write_voc(tmp_path)
    (tmp_path / "Annotations" / "a.xml").write_text(xml("a.png", size=size))
    dataset = opened(tmp_path)
    assert dataset.sizes.tolist()[0] == [30, 50]
    said = [remark for remark in dataset.remarks if "size taken from the file: 1" in remark]
    assert "a.xml, line 3" in said[0]


def test_a_box_outside_its_image_is_counted_with_file_and_line(tmp_path: Path) -> None:
    write_voc(tmp_path)
    (tmp_path / "Annotations" / "a.xml").write_text(xml("a.png", [("cat", 90, 3, 5, 5), ("cat", 3, 3, 5, 5)]))
    dataset = opened(tmp_path)
    assert dataset.box_counts.tolist() == [1, 2, 2]
    said = [remark for remark in dataset.remarks if "box outside its image: 1" in remark]
    assert "a.xml, line 4" in said[0]


def test_a_box_over_the_edge_is_clipped_and_counted_also_where_there_are_few(tmp_path: Path) -> None:
    write_voc(tmp_path)  # As x, y, width, height all of these would be sensible corners.
    boxes = [("cat", 30, 3, 40, 5), ("cat", 1, 1, 7, 8), ("dog", 2, 2, 9, 9), ("dog", 0, 1, 5, 5)]
    (tmp_path / "Annotations" / "a.xml").write_text(xml("a.png", boxes))
    for name in ("b 1", "c"):
        (tmp_path / "Annotations" / f"{name}.xml").write_text(xml(f"{name}.png", []))
    dataset = opened(tmp_path)
    assert dataset.boxes(0).tolist()[0] == [30, 3, 50, 8]
    assert any("box partly outside its image: 1" in remark for remark in dataset.remarks)


BAD_FILES = {
    "a corner that is a word": (
        xml("a.png", [("cat", 1, 2, 3, 4)]).replace("<xmin>2<", "<xmin>two<"),
        "line 4.*bbox is",
    ),
    "no corner": (xml("a.png", [("cat", 1, 2, 3, 4)]).replace("<xmax>4</xmax>", ""), "line 4.*null"),
    "no name": (xml("a.png", [("cat", 1, 2, 3, 4)]).replace("<name>cat</name>", ""), "line 4.*category null"),
    "a strange difficult": (xml("a.png", [("cat", 1, 2, 3, 4)], difficult=7), "line 4.*iscrowd"),
    "half a file": (xml("a.png")[:60], "it is no XML that can be read: line"),
    "an unknown encoding": (
        '<?xml version="1.0" encoding="klingon"?>' + xml("a.png"),
        "no XML that can be read: line 1: .*klingon",
    ),
    "another root": ("<html><annotation/></html>", "it is no Pascal VOC annotation, but <html>"),
    "entities": ('<!DOCTYPE a [<!ENTITY b "c">]>' + xml("a.png"), "declares entities"),
    "nothing": ("", "no element found"),
}


@pytest.mark.parametrize(("text", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_wrong_file_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    write_voc(tmp_path)
    (tmp_path / "Annotations" / "a.xml").write_text(text)
    with pytest.raises(UserError, match=rf"Annotations/a\.xml.*{message}"):
        opened(tmp_path)


def test_a_folder_is_read_though_its_first_files_are_empty(tmp_path: Path) -> None:
    for folder in ("train", "valid"):
        write_loose(tmp_path, folder, folder)
    for number in range(5):
        (tmp_path / "valid" / f"0{number}.xml").touch()
    with pytest.raises(UserError, match=r"valid/00\.xml: it is no XML that can be read.*There are 5 of this kind"):
        opened(tmp_path, "val")


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_encodings_that_a_file_declares_are_read(tmp_path: Path, encoding: str) -> None:
    write_voc(tmp_path)
    text = f'<?xml version="1.0" encoding="{encoding}"?>\n' + xml("a.png", [("schäferhund", 1, 2, 3, 4)])
    (tmp_path / "Annotations" / "a.xml").write_bytes(text.encode(encoding))
    assert "schäferhund" in opened(tmp_path).categories.names


def test_stems_in_two_folders_are_named(tmp_path: Path) -> None:
    write_loose(tmp_path, "left", "annotations")
    write_images(tmp_path / "right")
    with pytest.raises(UserError, match=r"several images can be meant: left/a\.png, right/a\.png"):
        opened(tmp_path)


def test_folders_of_the_same_name_belong_together(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_loose(tmp_path, f"images/{split}", f"annotations/{split}")
    for split in ("train", "val"):
        dataset = opened(tmp_path, split)
        assert names(dataset) == ["a.png", "b 1.png", "c.png"]
        assert {dataset.file_path(row).parent.name for row in range(3)} == {split}


def test_a_missing_image_is_named_where_it_should_be(tmp_path: Path) -> None:
    write_voc(tmp_path)
    (tmp_path / "JPEGImages" / "a.png").unlink()
    said = [remark for remark in opened(tmp_path).remarks if "missing file: 1" in remark]
    assert str(tmp_path / "JPEGImages" / "a.png") in said[0]


def test_a_folder_that_cannot_be_listed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_voc(tmp_path)
    locked = tmp_path / "JPEGImages" / "locked"
    locked.mkdir()
    list_folder = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path) == locked:
            raise PermissionError(errno.EACCES, "Permission denied")
        return list_folder(path)

    monkeypatch.setattr(os, "scandir", refuse)
    dataset = opened(tmp_path)
    said = f"folder not looked through: 1, such as {locked}: it cannot be listed (Permission denied)"
    assert any(said in remark for remark in dataset.remarks)


def test_a_link_in_a_circle_is_said(tmp_path: Path) -> None:
    write_voc(tmp_path)
    os.symlink(tmp_path, tmp_path / "JPEGImages" / "again")
    dataset = opened(tmp_path)
    assert len(dataset) == 3
    assert any(f"link in a circle: 1, such as {tmp_path}/JPEGImages/again: " in remark for remark in dataset.remarks)


def test_a_listed_file_that_is_missing_is_named_with_the_line_of_the_list(tmp_path: Path) -> None:
    write_voc(tmp_path, {"train": ["a.png", "z.png", "b 1.png"]})
    with pytest.raises(UserError, match=r"train\.txt, line 2: 'z' needs one annotation file, and there is none"):
        opened(tmp_path)
