"""Which kind of data set is in a folder is found out; the records of one data set in three forms are equal."""

from collections.abc import Callable
from pathlib import Path

import pytest

from anchordetr_jax.config import DataConfig
from anchordetr_jax.data.sources.annotated import AnnotatedImages
from anchordetr_jax.data.sources.kinds import kind_of
from anchordetr_jax.data.sources.opening import open_split, with_validation_images
from anchordetr_jax.errors import UserError
from tests.data.sources.forms import write_coco, write_voc, write_yolo

WRITERS: dict[str, Callable[[Path], None]] = {"coco": write_coco, "yolo": write_yolo, "voc": write_voc}


def opened(root: Path, split: str = "train", **settings: float | str) -> AnnotatedImages:
    return open_split(DataConfig(root=str(root), **settings), split)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", WRITERS)
def test_the_kind_of_a_folder_is_found_out(tmp_path: Path, kind: str) -> None:
    WRITERS[kind](tmp_path)
    assert kind_of(DataConfig(root=str(tmp_path))) == kind


@pytest.mark.parametrize("kind", ["yolo", "voc"])
def test_records_are_equal_to_those_of_the_coco_form(tmp_path: Path, kind: str) -> None:
    write_coco(tmp_path / "coco")
    WRITERS[kind](tmp_path / kind)
    coco, other = opened(tmp_path / "coco"), opened(tmp_path / kind)
    assert coco.image_ids == other.image_ids
    assert coco.sizes.tolist() == other.sizes.tolist()
    assert coco.categories == other.categories
    assert coco.box_counts.tolist() == [0, 2, 2]
    for row in range(len(coco)):
        assert coco.file_path(row).name == other.file_path(row).name
        assert coco.boxes(row).tolist() == other.boxes(row).tolist()
        assert coco.labels(row).tolist() == other.labels(row).tolist()
        assert (coco.open_image(row) == other.open_image(row)).all()
    expected, found = coco.ground_truth(), other.ground_truth()
    assert expected is not None
    assert found is not None
    assert expected["annotations"] == found["annotations"]
    assert expected["categories"] == found["categories"]


@pytest.mark.parametrize(("first", "second"), [("coco", "yolo"), ("coco", "voc"), ("yolo", "voc")])
def test_two_kinds_in_one_folder_are_an_error_that_lists_both(tmp_path: Path, first: str, second: str) -> None:
    for kind in (first, second):
        WRITERS[kind](tmp_path)
    with pytest.raises(UserError, match=rf"several kinds: {first} \(.*\); {second} \(.*\)\. .* data\.source=KIND"):
        opened(tmp_path)
    assert len(opened(tmp_path, source=second)) == 3


def test_a_folder_with_some_yaml_file_is_no_yolo_data_set(tmp_path: Path) -> None:
    write_voc(tmp_path)
    (tmp_path / "docker-compose.yml").write_text("services: {}\n")
    assert kind_of(DataConfig(root=str(tmp_path))) == "voc"


@pytest.mark.parametrize(
    ("names", "message"),
    [([], "holds nothing: it needs"), (["notes.txt"], "only notes.txt"), (["x/labels/a.txt"], "no data.yaml")],
)
def test_a_folder_without_a_data_set_is_answered_with_what_is_in_it(
    tmp_path: Path, names: list[str], message: str
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=message):
        opened(tmp_path)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_tenth_is_held_out_where_there_are_no_validation_images(tmp_path: Path, kind: str, named: bool) -> None:
    WRITERS[kind](tmp_path)
    config, line = with_validation_images(DataConfig(root=str(tmp_path), source=kind if named else "auto"))  # type: ignore[arg-type]
    assert config.val_fraction == 0.1
    assert line.endswith("10% of the training images are held out (data.val_fraction=0.1).")
    halves = [open_split(config, split) for split in ("train", "val")]  # type: ignore[arg-type]
    assert sum(len(half) for half in halves) == 3
    assert halves[0].categories == halves[1].categories


def test_validation_images_that_are_there_are_used(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_coco(tmp_path, split)
    assert with_validation_images(DataConfig(root=str(tmp_path))) == (DataConfig(root=str(tmp_path)), "")
