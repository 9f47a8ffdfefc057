"""Everything that is wrong with a data set is found, with its file and ids."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from etils import epath
from PIL import Image

from anchordetr_jax.config import DataConfig
from anchordetr_jax.data.inspection.copies import look_for_near_copies, look_for_shared_files
from anchordetr_jax.data.inspection.inspecting import DataSetInspection, SplitInspection, inspect_dataset, inspect_split
from anchordetr_jax.data.records.findings import Finding, Findings
from anchordetr_jax.data.records.reading import read_records
from anchordetr_jax.data.source import Split
from anchordetr_jax.data.sources.coco import read_coco
from tests.data.sources.forms import write_yolo

Change = Callable[[dict[str, Any], Path], object]


def data_set(folder: Path, split: str = "train", seed: int = 0) -> dict[str, Any]:
    """Three images of noise, each with a box; the files are written."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    names = [f"{split}{number}.png" for number in (1, 2, 3)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(folder / name)
    return {
        "images": [{"id": i, "file_name": name, "width": 30, "height": 20} for i, name in enumerate(names, start=1)],
        "annotations": [{"id": 10 + i, "image_id": i, "category_id": 1, "bbox": [2, 3, 10, 12]} for i in (1, 2, 3)],
        "categories": [{"id": 1, "name": "cell"}],
    }


def silently(values: Any, total: int, title: str) -> Any:
    return values


def inspected(folder: Path, content: Any, split: Split = "val", decode: bool = False) -> SplitInspection:
    file = folder / "annotations.json"
    file.write_text(json.dumps(content))
    findings = Findings(str(file))
    records = read_records(read_coco(folder, file), split, findings)
    return inspect_split(split, records, findings, decode=decode, ask=silently)


def box(number: int, bbox: list[Any], **values: Any) -> dict[str, Any]:
    return {"id": number, "image_id": 1, "category_id": 1, "bbox": bbox, **values}


def test_what_a_file_says_of_two_splits_is_there_once(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    with (tmp_path / "labels" / "train" / "c.txt").open("a") as file:
        file.write("0 0.5 0.5 wide 0.2\n")
    config = DataConfig(root=str(tmp_path), source="auto")
    found = inspect_dataset(config, decode=False, evaluated=True, ask=silently)
    assert {one.split for one in found.splits} == {"train", "val"}  # Some of the images are held out.
    assert [one.detail for one in found.findings if one.kind == "malformed label line"] == ['"wide" is no number']
    assert len(found.remarks) == len(set(found.remarks)) == 2


def write_splits(root: Path, *splits: str) -> dict[str, Path]:
    """A COCO data set in Roboflow's layout; the annotation files by split."""
    files = {}
    for seed, split in enumerate(splits):
        files[split] = root / split / "_annotations.coco.json"
        content = data_set(root / split, split, seed)
        files[split].write_text(json.dumps(content))
    return files


def inspected_folder(root: Path, *, evaluated: bool = True, **settings: Any) -> DataSetInspection:
    config = DataConfig(root=str(root), **{"source": "auto", **settings})
    return inspect_dataset(config, decode=False, evaluated=evaluated, ask=silently)


@pytest.mark.parametrize(("split", "evaluated"), [("test", True), ("test", False), ("val", False)])
def test_a_split_that_cannot_be_opened_is_named(tmp_path: Path, split: str, evaluated: bool) -> None:
    files = write_splits(tmp_path, "train", "val", "test")
    files[split].write_text('{"images": [{"file_name": ')
    settings: dict[str, Any] = {f"{split}_images": split, f"{split}_annotations": f"{split}/_annotations.coco.json"}
    found = inspected_folder(tmp_path, evaluated=evaluated, **settings, source="coco")
    warnings = [(finding.kind, finding.detail) for finding in found.findings if finding.severity == "warning"]
    assert [kind for kind, _ in warnings] == [f"{split} images cannot be opened"]
    assert f"{files[split]} is not valid JSON" in warnings[0][1]


def test_a_test_folder_that_a_description_names_and_is_not_there_is_named(tmp_path: Path) -> None:
    write_yolo(tmp_path, "path: .\ntrain: images/train\ntest: images/test\nnames: [cat, dog]\n")
    (warning,) = [finding for finding in inspected_folder(tmp_path).findings if finding.severity == "warning"]
    assert warning.kind == "test images cannot be opened"
    assert "names 'images/test'" in warning.detail


@pytest.mark.parametrize("evaluated", [True, False])
def test_a_data_set_without_test_images_has_no_problem(tmp_path: Path, evaluated: bool) -> None:
    write_splits(tmp_path, "train")
    assert inspected_folder(tmp_path, evaluated=evaluated).findings == []


@pytest.mark.parametrize("evaluated", [True, False])
def test_a_remark_says_that_validation_images_are_not_used(tmp_path: Path, evaluated: bool) -> None:
    write_splits(tmp_path, "train", "val")
    remarks = inspected_folder(tmp_path, evaluated=evaluated, val_fraction=0.5).remarks
    assert remarks[0].startswith(f"{tmp_path} has validation images of its own. They are not used")


@pytest.mark.parametrize(("max_boxes", "pieces", "detail"), [(0, 4, ""), (1, 1, ""), (3, 4, "can have 4 boxes but")])
def test_fewer_boxes_than_a_mosaic_can_have_are_an_error(
    max_boxes: int, pieces: int, detail: str, tmp_path: Path
) -> None:
    write_splits(tmp_path, "train", "val")
    config = DataConfig(root=str(tmp_path), max_boxes=max_boxes)
    found = inspect_dataset(config, decode=False, evaluated=True, ask=silently, pieces=pieces)
    kinds = {finding.kind: finding.detail for finding in found.findings}
    assert list(kinds) == (["more boxes than data.max_boxes"] if detail else [])
    assert detail in "".join(kinds.values())


def test_an_image_with_more_boxes_than_the_setting_allows_is_an_error(tmp_path: Path) -> None:
    files = write_splits(tmp_path, "train", "val")
    for file in files.values():
        content = json.loads(file.read_text())
        content["annotations"].append({**box(20, [1, 1, 5, 5]), "image_id": 2})
        file.write_text(json.dumps(content))
    (error,) = inspected_folder(tmp_path, max_boxes=1).findings
    assert (error.severity, error.kind, error.stops) == ("error", "more boxes than data.max_boxes", True)
    assert "train2.png has 2 boxes but data.max_boxes is 1" in error.detail


@pytest.mark.parametrize("kind", ["coco", "yolo"])
def test_a_folder_that_is_not_looked_through_is_noted_once(tmp_path: Path, kind: str) -> None:
    if kind == "coco":
        write_splits(tmp_path, "train", "val")
    else:
        write_yolo(tmp_path, "train: images/train\nval: images/train\nnames: [cat, dog]\n")
        tmp_path /= "images"
    deep = tmp_path.joinpath("train", *"1234567")
    deep.mkdir(parents=True)
    root = tmp_path if kind == "coco" else tmp_path.parent
    notes = [one.file for one in inspected_folder(root).findings if one.kind == "folder not looked through"]
    assert notes == [str(deep)]


def test_test_images_that_nobody_names_are_no_problem_where_annotations_lie_elsewhere(tmp_path: Path) -> None:
    files = write_splits(tmp_path / "annotations", "train", "val")
    (tmp_path / "images").mkdir()
    settings: dict[str, Any] = {f"{split}_annotations": str(files[split]) for split in ("train", "val")}
    settings |= {f"{split}_images": str(files[split].parent) for split in ("train", "val")}
    assert inspected_folder(tmp_path / "images", **settings).findings == []


def test_a_sound_data_set_has_no_problems(tmp_path: Path) -> None:
    found = inspected(tmp_path, data_set(tmp_path), decode=True)
    assert found.findings.all == []
    assert [image.boxes for image in found.images] == [[[2, 3, 12, 15]]] * 3


CASES: list[tuple[str, str, Change, tuple[Any, Any]]] = [
    ("warning", "box without area", lambda c, _: c["annotations"].append(box(20, [1, 1, 0, 5])), (1, 20)),
    ("warning", "box outside its image", lambda c, _: c["annotations"].append(box(20, [40, 1, 5, 5])), (1, 20)),
    ("warning", "box partly outside its image", lambda c, _: c["annotations"].append(box(20, [25, 1, 9, 5])), (1, 20)),
    ("warning", "same box twice", lambda c, _: c["annotations"].append(box(20, [2, 3, 10, 12])), (1, 20)),
    ("note", "crowd region", lambda c, _: c["annotations"].append(box(20, [2, 3, 1, 1], iscrowd=1)), (1, 20)),
    ("error", "malformed box", lambda c, _: c["annotations"].append(box(20, [2, 3, 1])), (1, 20)),
    ("warning", "annotation ids numbered again", lambda c, _: c["annotations"].append(box(11, [1, 1, 5, 5])), (1, 11)),
    ("warning", "annotation ids numbered again", lambda c, _: c["annotations"][0].pop("id"), (1, None)),
    ("error", "unknown image", lambda c, _: c["annotations"].append(box(20, [1, 1, 5, 5], image_id=7)), (7, 20)),
    ("error", "unknown category", lambda c, _: c["annotations"].append(box(20, [1, 1, 5, 5], category_id=7)), (1, 20)),
    ("note", "image without objects", lambda c, _: c["annotations"].pop(), (3, None)),
    ("error", "image id twice", lambda c, _: c["images"].append({**c["images"][0], "file_name": "x.png"}), (1, None)),
    ("warning", "size taken from the file", lambda c, _: c["images"][1].pop("width"), (2, None)),
    ("error", "wrong size", lambda c, _: c["images"][1].update(width=31), (2, None)),
    ("error", "missing file", lambda c, folder: (folder / "train2.png").unlink(), (2, None)),
    ("error", "unreadable file", lambda c, folder: (folder / "train2.png").write_bytes(b"no"), (2, None)),
    ("error", "malformed record", lambda c, _: c["categories"].append({"id": "two", "name": "dot"}), (None, None)),
    ("error", "category id twice", lambda c, _: c["categories"].append({"id": 1, "name": "dot"}), (None, None)),
    ("warning", "class without objects", lambda c, _: c["categories"].append({"id": 2, "name": "dot"}), (None, None)),
]


@pytest.mark.parametrize(("severity", "kind", "change", "ids"), CASES)
def test_a_problem_is_found_with_its_ids(
    severity: str, kind: str, change: Change, ids: tuple[Any, Any], tmp_path: Path
) -> None:
    content = data_set(tmp_path)
    change(content, tmp_path)
    problems = inspected(tmp_path, content).findings.all
    assert [(p.severity, p.kind, p.image_id, p.annotation_id) for p in problems] == [(severity, kind, *ids)]
    named = "x.png" if kind == "image id twice" else f"train{ids[0]}.png"
    assert problems[0].file == str(tmp_path / (named if ids[0] in (1, 2, 3) else "annotations.json"))


def test_an_image_that_is_nearly_black_is_found_when_pixels_are_decoded(tmp_path: Path) -> None:
    content = data_set(tmp_path)
    with Image.open(tmp_path / "train2.png") as image:
        size = image.height, image.width
    Image.fromarray(np.full(size, 4094, np.uint16)).save(tmp_path / "train2.png")
    assert inspected(tmp_path, content).findings.all == []
    (found,) = inspected(tmp_path, content, decode=True).findings.all
    assert (found.severity, found.kind, found.image_id) == ("warning", "nearly black image", 2)
    assert "it has 16-bit values up to 4094 of 65535" in found.detail


def test_one_problem_does_not_hide_another(tmp_path: Path) -> None:
    content = data_set(tmp_path)
    for severity_kind in CASES[:8]:
        severity_kind[2](content, tmp_path)
    assert {kind for _, kind, _, _ in CASES[:8]} <= {
        problem.kind for problem in inspected(tmp_path, content).findings.all
    }


def test_damage_behind_the_header_is_found_by_decoding(tmp_path: Path) -> None:
    content = data_set(tmp_path)
    file = tmp_path / "train1.png"
    file.write_bytes(file.read_bytes()[:-200])
    assert inspected(tmp_path, content).findings.all == []
    assert [problem.kind for problem in inspected(tmp_path, content, decode=True).findings.all] == ["unreadable file"]


def test_a_picture_that_exif_turns_has_the_size_that_its_annotations_say(tmp_path: Path) -> None:
    content = data_set(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 30)).save(tmp_path / "train1.png", exif=exif)
    assert inspected(tmp_path, content).findings.all == []


def two_splits(tmp_path: Path, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> DataSetInspection:
    """Training and validation images, as COCO's folders, with their contents changed."""
    train, val = data_set(tmp_path / "train2017"), data_set(tmp_path / "val2017", "val", seed=1)
    change(train, val)
    (tmp_path / "annotations").mkdir()
    for split, content in (("train", train), ("val", val)):
        (tmp_path / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return inspect_dataset(DataConfig(root=str(tmp_path)), decode=False, evaluated=True, ask=silently)


def kinds(found: DataSetInspection) -> set[tuple[str, str, bool]]:
    return {(finding.severity, finding.kind, finding.stops) for finding in found.findings}


def test_equal_files_are_found_within_a_split_and_across(tmp_path: Path) -> None:
    def copy(train: dict[str, Any], val: dict[str, Any]) -> None:
        first, second = (tmp_path / "train2017" / f"train{number}.png" for number in (1, 2))
        (tmp_path / "train2017" / "train3.png").write_bytes(first.read_bytes())
        (tmp_path / "val2017" / "val2.png").write_bytes(second.read_bytes())

    found = two_splits(tmp_path, copy)
    assert [(finding.kind, finding.image_id) for finding in found.splits[0].findings.all] == [("image there twice", 3)]
    detail = f"the val image is also a train image: {tmp_path}/train2017/train2.png"
    shared = Finding("warning", "image in two splits", str(tmp_path / "val2017" / "val2.png"), detail, 2)
    assert [finding for finding in found.findings if finding.kind == shared.kind] == [shared]


def test_an_image_that_was_saved_again_for_another_split_is_found(tmp_path: Path) -> None:
    waves = np.sin(np.add.outer(np.arange(64), np.arange(96) * 2) / 9)
    pixels = np.repeat((128 + 100 * waves).astype(np.uint8)[:, :, None], 3, axis=2)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "b.jpg", quality=80)
    Image.fromarray(pixels[::-1].copy()).save(tmp_path / "c.png")
    files = [("train", 1, epath.Path(tmp_path / "a.png"))]
    files += [("val", number, epath.Path(tmp_path / name)) for number, name in ((2, "b.jpg"), (3, "c.png"))]
    findings = Findings("")
    look_for_near_copies(files, findings, silently)
    look_for_shared_files(files, findings, silently)
    assert [(finding.kind, finding.image_id) for finding in findings.all] == [
        ("image nearly equal to one of another split", 2)
    ]


def test_classes_that_differ_between_splits_stop_training(tmp_path: Path) -> None:
    found = two_splits(tmp_path, lambda train, val: val["categories"][0].update(name="nucleus"))
    assert ("error", "train and val have different classes", True) in kinds(found)


def test_classes_of_test_images_that_differ_make_a_score_wrong(tmp_path: Path) -> None:
    files = write_splits(tmp_path, "train", "val", "test")
    content = json.loads(files["test"].read_text())
    content["categories"][0]["name"] = "nucleus"
    files["test"].write_text(json.dumps(content))
    assert ("error", "train and test have different classes", False) in kinds(inspected_folder(tmp_path))


def test_a_missing_validation_image_makes_a_score_wrong_and_a_missing_training_image_does_not(tmp_path: Path) -> None:
    def remove(train: dict[str, Any], val: dict[str, Any]) -> None:
        (tmp_path / "train2017" / "train1.png").unlink()
        (tmp_path / "val2017" / "val1.png").unlink()

    found = kinds(two_splits(tmp_path, remove))
    assert {("warning", "missing file", False), ("error", "missing file", False)} <= found


def test_validation_images_without_any_record_stop_training(tmp_path: Path) -> None:
    found = two_splits(tmp_path, lambda train, val: val.update(images=[], annotations=[]))
    assert ("error", "no images", True) in kinds(found)


def test_photographs_that_are_not_listed_are_counted_and_named(tmp_path: Path) -> None:
    def leave_out(train: dict[str, Any], val: dict[str, Any]) -> None:
        train["images"].pop()
        train["annotations"].pop()

    found = two_splits(tmp_path, leave_out)
    unlisted = [finding for finding in found.findings if finding.kind == "image file that is not listed"]
    assert [Path(finding.file).name for finding in unlisted] == ["train3.png"]
    assert "1 of 3 image files" in unlisted[0].detail
