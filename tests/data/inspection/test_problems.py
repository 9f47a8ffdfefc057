"""Everything that is wrong with a data set is found, each with its file and ids."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from etils import epath
from PIL import Image

from anchordetr_jax.data.inspection.problems import Problem, SplitInspection, find_overlap, inspect_split
from anchordetr_jax.data.sources.layouts import SplitFiles

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


def inspected(folder: Path, content: Any, split: str = "train", decode: bool = False) -> SplitInspection:
    file = folder / "annotations.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    files = SplitFiles(epath.Path(folder), epath.Path(file), found=False)
    return inspect_split(split, files, decode=decode, ask=lambda images, total: images)


def box(number: int, bbox: list[Any], **values: Any) -> dict[str, Any]:
    return {"id": number, "image_id": 1, "category_id": 1, "bbox": bbox, **values}


def test_a_sound_data_set_has_no_problems(tmp_path: Path) -> None:
    found = inspected(tmp_path, data_set(tmp_path), decode=True)
    assert found.problems == []
    assert [image.boxes for image in found.images] == [[(2, 3, 12, 15)]] * 3
    assert found.class_names == ["cell"]


CASES: list[tuple[str, str, Change, tuple[Any, Any]]] = [
    ("warning", "box without area", lambda c, _: c["annotations"].append(box(20, [1, 1, 0, 5])), (1, 20)),
    ("warning", "box outside its image", lambda c, _: c["annotations"].append(box(20, [40, 1, 5, 5])), (1, 20)),
    ("warning", "box partly outside its image", lambda c, _: c["annotations"].append(box(20, [25, 1, 9, 5])), (1, 20)),
    ("warning", "same box twice", lambda c, _: c["annotations"].append(box(20, [2, 3, 10, 12])), (1, 20)),
    ("note", "crowd region", lambda c, _: c["annotations"].append(box(20, [2, 3, 1, 1], iscrowd=1)), (1, 20)),
    ("error", "malformed box", lambda c, _: c["annotations"].append(box(20, [2, 3, 1])), (1, 20)),
    ("error", "annotation id twice", lambda c, _: c["annotations"].append(box(11, [1, 1, 5, 5])), (1, 11)),
    ("error", "annotation without an id", lambda c, _: c["annotations"][0].pop("id"), (1, None)),
    ("error", "unknown image", lambda c, _: c["annotations"].append(box(20, [1, 1, 5, 5], image_id=7)), (7, 20)),
    ("error", "unknown category", lambda c, _: c["annotations"].append(box(20, [1, 1, 5, 5], category_id=7)), (1, 20)),
    ("note", "image without objects", lambda c, _: c["annotations"].pop(), (3, None)),
    ("error", "image id twice", lambda c, _: c["images"].append({**c["images"][0], "file_name": "x.png"}), (1, None)),
    ("error", "image without a size", lambda c, _: c["images"].append({"id": 8, "file_name": "x.png"}), (8, None)),
    ("error", "wrong size", lambda c, _: c["images"][1].update(width=31), (2, None)),
    ("error", "missing file", lambda c, folder: (folder / "train2.png").unlink(), (2, None)),
    ("error", "unreadable file", lambda c, folder: (folder / "train2.png").write_bytes(b"no"), (2, None)),
    ("error", "malformed record", lambda c, _: c["categories"].append({"id": "2", "name": "dot"}), (None, None)),
    ("error", "category id twice", lambda c, _: c["categories"].append({"id": 1, "name": "dot"}), (None, None)),
    ("warning", "class without objects", lambda c, _: c["categories"].append({"id": 2, "name": "dot"}), (None, None)),
]


@pytest.mark.parametrize(("severity", "kind", "change", "ids"), CASES, ids=[case[1] for case in CASES])
def test_a_problem_is_found_with_its_ids(
    severity: str, kind: str, change: Change, ids: tuple[Any, Any], tmp_path: Path
) -> None:
    content = data_set(tmp_path)
    change(content, tmp_path)
    problems = inspected(tmp_path, content).problems
    assert [(p.severity, p.kind, p.image_id, p.annotation_id) for p in problems] == [(severity, kind, *ids)]
    named = {"image id twice": "x.png", "image without a size": "x.png"}.get(kind, f"train{ids[0]}.png")
    assert problems[0].file == str(tmp_path / (named if ids[0] in (1, 2, 3, 8) else "annotations.json"))


def test_one_problem_does_not_hide_another(tmp_path: Path) -> None:
    content = data_set(tmp_path)
    for severity_kind in CASES[:8]:
        severity_kind[2](content, tmp_path)
    assert {kind for _, kind, _, _ in CASES[:8]} <= {problem.kind for problem in inspected(tmp_path, content).problems}


def test_damage_behind_the_header_is_found_by_decoding(tmp_path: Path) -> None:
    content = data_set(tmp_path)
    file = tmp_path / "train1.png"
    file.write_bytes(file.read_bytes()[:-200])
    assert inspected(tmp_path, content).problems == []
    assert [problem.kind for problem in inspected(tmp_path, content, decode=True).problems] == ["unreadable file"]


def test_a_picture_that_exif_turns_has_the_size_that_its_annotations_say(tmp_path: Path) -> None:
    content = data_set(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 30)).save(tmp_path / "train1.png", exif=exif)
    assert inspected(tmp_path, content).problems == []


def test_equal_files_are_found_within_a_split_and_across(tmp_path: Path) -> None:
    train, val = data_set(tmp_path / "a"), data_set(tmp_path / "b", "val", seed=1)
    (tmp_path / "a" / "train3.png").write_bytes((tmp_path / "a" / "train1.png").read_bytes())
    (tmp_path / "b" / "val2.png").write_bytes((tmp_path / "a" / "train2.png").read_bytes())
    first, second = inspected(tmp_path / "a", train), inspected(tmp_path / "b", val, "val")
    assert [(problem.kind, problem.image_id) for problem in first.problems] == [("image there twice", 3)]
    detail = f"the val image is also a train image: {tmp_path}/a/train2.png"
    assert find_overlap([first, second]) == [
        Problem("error", "image in two splits", str(tmp_path / "b" / "val2.png"), detail, 2)
    ]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"images": 3}'])
def test_an_annotation_file_of_another_form_is_a_problem_and_no_exception(content: str, tmp_path: Path) -> None:
    assert any(problem.severity == "error" for problem in inspected(tmp_path, content).problems)
