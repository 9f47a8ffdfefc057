from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anchordetr_jax.data.images import array_pixels
from anchordetr_jax.errors import UserError
from anchordetr_jax.prediction.inputs import GivenImage, gather_images, local_path

RGB = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (RGB, RGB),
        (RGB[..., 0], RGB[..., [0, 0, 0]]),
        (RGB[..., :1], RGB[..., [0, 0, 0]]),
        (np.concatenate([RGB, RGB[..., :1]], axis=2), RGB),
        (RGB.astype(np.float32) / 255, RGB),
        (RGB.astype(np.uint16) * 257, RGB),
        (RGB.astype(np.int64), RGB),
        (RGB[..., 0] > 127, np.where(RGB[..., [0, 0, 0]] > 127, 255, 0)),
    ],
)
def test_arrays_of_all_usual_kinds_become_eight_bit_rgb(array: np.ndarray, expected: np.ndarray) -> None:
    pixels = array_pixels(array)
    assert pixels.dtype == np.uint8
    assert (pixels == expected).all()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (RGB.astype(np.float32), "values from"),
        (np.full((4, 4), np.nan), "values from"),
        (RGB.transpose(2, 0, 1), "channels first"),
        (np.zeros((4, 6, 2), np.uint8), r"shape \(4, 6, 2\)"),
        (np.zeros((0, 6, 3), np.uint8), r"shape \(0, 6, 3\)"),
        (np.array([["a", "b"]]), "type <U1"),
    ],
)
def test_arrays_that_are_no_image_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        array_pixels(array)


@pytest.mark.parametrize(("factor", "said"), [(1, True), (16, True), (257, False), (0, False)])
def test_an_array_of_16_bits_that_is_nearly_black_is_said(
    factor: int, said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    array_pixels(RGB.astype(np.uint16) * factor, "Image 3")
    messages = [record.getMessage() for record in caplog.records]
    assert [message.startswith("Image 3 has uint16 values up to ") for message in messages] == [True] * said


def test_the_size_of_an_array_is_told_without_converting_it(caplog: pytest.LogCaptureFixture) -> None:
    assert GivenImage("Image 3", content=RGB.astype(np.uint16)).size() == RGB.shape[:2]
    assert not caplog.records


def test_what_is_one_image_and_what_are_many() -> None:
    for one in ("a.jpg", Path("a.jpg"), RGB, Image.fromarray(RGB)):
        given, many = gather_images(one)
        assert len(given) == 1
        assert not many
    for several in (["a.jpg"], (RGB, RGB), RGB[None], iter([Image.fromarray(RGB)]), []):
        assert gather_images(several)[1]


def test_a_folder_gives_its_images_by_name_and_leaves_out_other_files(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "notes.txt", "._a.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    given, many = gather_images(tmp_path)
    assert [Path(str(image.path)).name for image in given] == ["a.PNG", "b.jpg"]
    assert many


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    with pytest.raises(UserError, match=r"holds no image.*its subfolders are not searched"):
        gather_images(tmp_path)


def test_urls_of_local_files_are_paths(tmp_path: Path) -> None:
    path = tmp_path / "a b.jpg"
    assert local_path(path.as_uri()) == str(path)
    assert local_path(f"file://localhost{path}") == str(path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("https://x.org/a.jpg", "download it first"),
        ("file://other/a.jpg", "another machine"),
        ("a.mp4", "is a video"),
        (7, "cannot be a int"),
        ({"a": 1}, "cannot be a dict"),
        (["a.jpg", None], "Image 1 cannot be a NoneType"),
        ("s3://bucket/a.jpg", "pip install s3fs"),
    ],
)
def test_other_things_than_images_are_refused(given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        gather_images(given)


def test_sizes_are_those_of_the_turned_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    (image,), _ = gather_images(tmp_path / "a.png")
    assert image.size() == (6, 4) == image.pixels().shape[:2]
    with Image.open(tmp_path / "a.png") as picture:
        (image,), _ = gather_images(picture)
        assert image.size() == (6, 4)
