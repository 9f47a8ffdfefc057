"""Which kind of data set is in a folder is found out; the records of one data set in three forms are equal."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from anchordetr_jax.config import DataConfig
from anchordetr_jax.data.sources.annotated import AnnotatedImages
from anchordetr_jax.data.sources.kinds import kind_of
from anchordetr_jax.data.sources.opening import open_for_evaluation, open_split, with_validation_images
from anchordetr_jax.errors import UserError
from tests.data.sources.forms import SIZES, write_coco, write_voc, write_yolo

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


@pytest.mark.parametrize("kind", WRITERS)
def test_a_line_says_that_validation_images_are_not_used_where_images_are_held_out(tmp_path: Path, kind: str) -> None:
    write_with_validation(tmp_path, kind)
    config = DataConfig(root=str(tmp_path), val_fraction=0.5)
    line = (
        f"{tmp_path} has validation images of its own. They are not used, as data.val_fraction=0.5 holds training "
        "images out instead; data.val_fraction=0 takes them."
    )
    assert with_validation_images(config) == (config, line)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_fraction_for_a_data_set_without_validation_images_is_taken_without_a_line(tmp_path: Path, kind: str) -> None:
    WRITERS[kind](tmp_path)
    config = DataConfig(root=str(tmp_path), val_fraction=0.5)
    assert with_validation_images(config) == (config, "")


@pytest.fixture
def held_out(tmp_path: Path) -> DataConfig:
    """The settings of a run that held images out, because its data set has no validation images."""
    write_coco(tmp_path / "mine")
    return with_validation_images(DataConfig(root=str(tmp_path / "mine")))[0]


def write_with_validation(root: Path, kind: str) -> None:
    if kind == "coco":
        for split in ("train", "val"):
            write_coco(root, split)
    elif kind == "yolo":
        write_yolo(root, "path: .\ntrain: images/train\nval: images/train\nnames: [cat, dog]\n")
    else:
        write_voc(root, {"train": tuple(SIZES), "val": tuple(SIZES)})


@pytest.mark.parametrize("kind", WRITERS)
def test_another_data_set_is_evaluated_on_validation_images_of_its_own(
    tmp_path: Path, held_out: DataConfig, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    write_with_validation(other, kind)
    config = dataclasses.replace(held_out, root=str(other))
    found = open_for_evaluation(config, "val", trained=held_out)
    assert (found.name, len(found)) == (open_split(DataConfig(root=str(other)), "val").name, 3)
    assert len(open_for_evaluation(config, "train", trained=held_out)) == 3
    printed = capsys.readouterr().err
    assert f"{other} has validation images of its own, so data.val_fraction=0.1 of the detector's run" in printed
    assert f"Evaluating on 3 images: {found.name}\n" in printed


def test_a_data_set_without_validation_images_is_evaluated_on_those_that_are_held_out(
    tmp_path: Path, held_out: DataConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    write_coco(tmp_path / "other")
    for root in ("mine", "other", "mine/../mine"):
        config = dataclasses.replace(held_out, root=str(tmp_path / root))
        found = open_for_evaluation(config, "val", trained=held_out)
        assert found.image_ids == open_split(held_out, "val").image_ids
        assert f"Evaluating on 1 image: {found.name}\n" in capsys.readouterr().err
        assert found.name.endswith("(val images by data.val_fraction=0.1)")


def test_images_that_a_run_held_out_on_purpose_stay_held_out(tmp_path: Path) -> None:
    write_with_validation(tmp_path / "mine", "coco")
    run = DataConfig(root=str(tmp_path / "mine"), val_fraction=0.1)
    again = dataclasses.replace(run, root=str(tmp_path / "mine/../mine/"), test_images="other")
    assert len(open_for_evaluation(again, "val", trained=run)) == 1


def test_a_fraction_that_is_given_for_another_data_set_counts(tmp_path: Path, held_out: DataConfig) -> None:
    write_with_validation(tmp_path / "other", "coco")
    config = dataclasses.replace(held_out, root=str(tmp_path / "other"), val_fraction=0.5)
    found = open_for_evaluation(config, "val", trained=held_out)
    assert found.image_ids == open_split(config, "val").image_ids


def test_several_files_of_validation_images_are_an_error_and_no_training_image_is_taken(
    tmp_path: Path, held_out: DataConfig
) -> None:
    other = tmp_path / "other"
    write_coco(other)
    for name in ("a_val.json", "b_val.json"):
        shutil.copy(other / "annotations" / "instances_train2017.json", other / "annotations" / name)
    config = dataclasses.replace(held_out, root=str(other))
    with pytest.raises(UserError, match=r"choose one with data\.val_annotations"):
        open_for_evaluation(config, "val", trained=held_out)
