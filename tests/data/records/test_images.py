"""Files, sizes and orientations of the images that records list."""

import os
import unicodedata
import urllib.parse
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anchordetr_jax.data.images import read_image
from anchordetr_jax.errors import UserError
from tests.data.records.folder import HEIGHT, WIDTH, opened, write_image, write_split

SIZE = (HEIGHT, WIDTH)


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_a_picture_whose_size_does_not_tell_is_read_as_prediction_reads_it(tmp_path: Path, orientation: int) -> None:
    write_image(tmp_path / "val2017" / "a.png", orientation)
    write_split(tmp_path, "val", {"a.png": SIZE})
    dataset = opened(tmp_path)
    assert (dataset.open_image(0) == read_image(tmp_path / "val2017" / "a.png")).all()
    assert len(dataset.remarks) == 1
    assert dataset.remarks[0].startswith("Warning: orientation of a picture assumed: 1, such as")
    assert "data.orientation='stored'" in dataset.remarks[0]


def test_square_pictures_on_their_side_are_counted_among_those_that_are_assumed(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "val2017" / name, 6, (20, 20))
    write_split(tmp_path, "val", {"a.png": (20, 20), "b.png": (20, 20)})
    assert "orientation of a picture assumed: 2" in opened(tmp_path).remarks[0]


@pytest.mark.parametrize(("stored", "rule"), [(True, "stored"), (False, "shown")])
def test_other_pictures_of_the_data_set_decide_also_those_of_another_split(
    tmp_path: Path, stored: bool, rule: str
) -> None:
    write_image(tmp_path / "val2017" / "a.png", 3)
    write_split(tmp_path, "val", {"a.png": SIZE})
    write_image(tmp_path / "train2017" / "b.png", 6)
    write_split(tmp_path, "train", {"b.png": SIZE if stored else SIZE[::-1]})
    dataset = opened(tmp_path)
    upright = read_image(tmp_path / "val2017" / "a.png")
    assert (dataset.open_image(0) == (upright[::-1, ::-1] if stored else upright)).all()
    assert "as 1 other pictures of the data set are" in dataset.remarks[0]
    assert dataset.orientation == rule


def test_the_setting_decides_before_all_others(tmp_path: Path) -> None:
    write_image(tmp_path / "val2017" / "a.png", 3)
    write_split(tmp_path, "val", {"a.png": SIZE})
    upright = read_image(tmp_path / "val2017" / "a.png")
    dataset = opened(tmp_path, orientation="stored")
    assert (dataset.open_image(0) == upright[::-1, ::-1]).all()
    assert "as data.orientation says" in dataset.remarks[0]


def test_upright_pictures_cost_no_words(tmp_path: Path) -> None:
    write_image(tmp_path / "val2017" / "a.png")
    write_split(tmp_path, "val", {"a.png": SIZE})
    assert opened(tmp_path).remarks == ()


NAMES = {
    "a folder before it": ("val2017/å b.png", "å b.png"),
    "a folder of Windows": ("C:\\Users\\me\\å b.png", "å b.png"),
    "percent-encoded": (urllib.parse.quote("å b.png"), "å b.png"),
    "percent-encoded folders": (urllib.parse.quote("up/å b.png", safe=""), "å b.png"),
    "another Unicode form": (unicodedata.normalize("NFD", "å b.png"), unicodedata.normalize("NFC", "å b.png")),
    "the other Unicode form": (unicodedata.normalize("NFC", "å b.png"), unicodedata.normalize("NFD", "å b.png")),
    "another case": ("å b.PNG", "å b.png"),
    "a folder that is missing in the list": ("å b.png", "deep/er/å b.png"),
}


@pytest.mark.parametrize(("listed", "there"), NAMES.values(), ids=NAMES.keys())
def test_a_file_under_another_name_is_found_where_only_one_can_be_meant(
    tmp_path: Path, listed: str, there: str
) -> None:
    write_image(tmp_path / "val2017" / there)
    write_image(tmp_path / "val2017" / "other.png")
    write_split(tmp_path, "val", {listed: SIZE})
    dataset = opened(tmp_path)
    assert dataset.open_image(0).shape == (*SIZE, 3)
    assert any("file found under another name: 1" in remark for remark in dataset.remarks)


def test_a_longer_common_path_decides_between_files_of_one_name(tmp_path: Path) -> None:
    for folder, seed in (("left", 1), ("right", 2)):
        write_image(tmp_path / "val2017" / folder / "a.png", seed=seed)
    write_split(tmp_path, "val", {"/server/right/a.png": SIZE})
    assert (opened(tmp_path).open_image(0) == read_image(tmp_path / "val2017" / "right" / "a.png")).all()


@pytest.mark.parametrize("listed", [["/server/a.png"], ["x/a.png", "y/a.png"]], ids=["two files", "two names"])
def test_where_several_could_be_meant_none_is_taken(tmp_path: Path, listed: list[str]) -> None:
    folders = ("left", "right") if len(listed) == 1 else ("left",)
    for folder in folders:
        write_image(tmp_path / "val2017" / folder / "a.png")
    write_split(tmp_path, "val", dict.fromkeys(listed, SIZE))
    with pytest.raises(UserError, match=r"can be found: .* does not exist, and the nearest name there is left/a\.png"):
        opened(tmp_path)


def test_a_name_that_is_nowhere_is_answered_with_the_nearest(tmp_path: Path) -> None:
    write_image(tmp_path / "val2017" / "street_01.png")
    write_image(tmp_path / "val2017" / "cat.png")
    write_split(tmp_path, "val", {"street-01.png": SIZE})
    with pytest.raises(UserError, match=r"street-01\.png does not exist, and the nearest name there is street_01\.png"):
        opened(tmp_path)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    write_split(tmp_path, "val", {"a.png": SIZE})
    with pytest.raises(UserError, match=r"a\.png does not exist, and .*val2017 holds no image"):
        opened(tmp_path)


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    write_image(tmp_path / "val2017" / "deep" / "a.png")
    os.symlink(tmp_path / "val2017", tmp_path / "val2017" / "deep" / "circle")
    os.symlink("itself", tmp_path / "val2017" / "itself")
    write_split(tmp_path, "val", {"a.png": SIZE})
    assert opened(tmp_path).open_image(0).shape == (*SIZE, 3)


def test_why_an_image_cannot_be_read_is_said_by_kind(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        write_image(tmp_path / "val2017" / name)
    (tmp_path / "val2017" / "b.png").write_bytes(b"no image")
    write_split(tmp_path, "val", {"a.png": SIZE, "b.png": SIZE, "c.png": (21, 31), "d.png": SIZE})
    dataset = opened(tmp_path)
    assert len(dataset) == 4
    remarks = "\n".join(dataset.remarks)
    assert f"wrong size: 1, such as {tmp_path}/val2017/c.png (image 3): the file has 30 x 20 pixels" in remarks
    assert "unreadable file: 1, such as" in remarks
    assert "missing file: 1, such as" in remarks


@pytest.mark.parametrize("size", [(None, 30), ("tall", 30), (0, 30), (20.5, 30), (-1, -1)])
def test_a_missing_size_is_taken_from_the_file(tmp_path: Path, size: Any) -> None:
    write_image(tmp_path / "val2017" / "a.png", 6)
    write_split(tmp_path, "val", {"a.png": size})
    dataset = opened(tmp_path)
    assert dataset.sizes.tolist() == [[30, 20]]
    assert "size taken from the file: 1" in "\n".join(dataset.remarks)


def test_float_sizes_are_whole_numbers(tmp_path: Path) -> None:
    write_image(tmp_path / "val2017" / "a.png")
    write_split(tmp_path, "val", {"a.png": (20.0, 30.0)})  # type: ignore[dict-item]
    dataset = opened(tmp_path)
    assert dataset.sizes.dtype == np.int32
    assert dataset.sizes.tolist() == [[20, 30]]
