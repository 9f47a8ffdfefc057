import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anchordetr_jax.data.images import darkness, decode_image, read_image
from anchordetr_jax.errors import UserError

ORIENTATION = 0x0112


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def gradient() -> np.ndarray:
    return np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1", "I;16", "CMYK", "F", "YCbCr"])
def test_every_kind_of_image_becomes_rgb(mode: str) -> None:
    image = Image.fromarray(np.full((6, 8), 255, np.uint8))
    if mode == "I;16":
        image = Image.fromarray(np.full((6, 8), 65535, np.uint16))
    elif mode == "CMYK":
        image = Image.new("CMYK", (8, 6), (0, 0, 0, 0))
    else:
        image = image.convert("RGB").convert(mode) if mode in ("LA", "P") else image.convert(mode)
    form = "TIFF" if mode in ("F", "CMYK", "YCbCr") else "PNG"
    pixels = decode_image(encoded(image, form), "x")
    assert pixels.shape == (6, 8, 3)
    assert pixels.dtype == np.uint8
    assert (pixels == 255).all()


def test_sixteen_bits_are_scaled_and_not_cut() -> None:
    values = gradient().astype(np.uint16) * 257
    pixels = decode_image(encoded(Image.fromarray(values)), "x")
    assert (pixels == gradient()[:, :, None]).all()


@pytest.mark.parametrize(("highest", "dark"), [(0, False), (200, True), (4095, True), (4096, False), (65535, False)])
def test_sixteen_bits_that_use_only_a_small_part_of_their_range_are_said(
    highest: int, dark: bool, caplog: pytest.LogCaptureFixture
) -> None:
    image = Image.fromarray(np.linspace(0, highest, 48).astype(np.uint16).reshape(6, 8))
    assert darkness(image) == (
        f"has 16-bit values up to {highest} of 65535, so it is nearly black: scale them to 0…65535" if dark else None
    )
    decode_image(encoded(image), f"up to {highest}.png")
    assert (f"up to {highest}.png has 16-bit values" in caplog.text) == dark


def test_eight_bits_are_never_called_dark() -> None:
    assert darkness(Image.fromarray(np.zeros((6, 8), np.uint8))) is None
    assert darkness(Image.fromarray(np.full((6, 8), 255, np.int32))) is None
    assert darkness(Image.fromarray(np.full((6, 8), 256, np.int32))) is not None


def test_a_palette_with_transparency_gives_its_colours() -> None:
    image = Image.fromarray(gradient()).convert("P")
    data = encoded(image, transparency=bytes(range(0, 250, 5)))
    assert (decode_image(data, "x") == np.asarray(image.convert("RGB"))).all()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(Image.fromarray(gradient()), exif=exif)


def test_stored_pixels_are_taken_when_only_they_fit_the_annotations() -> None:
    assert (decode_image(turned(6), "x", (6, 8))[:, :, 0] == gradient()).all()


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_where_the_size_cannot_tell_the_rule_decides(orientation: int) -> None:
    stored = decode_image(turned(orientation), "x", (6, 8), "stored")
    shown = decode_image(turned(orientation), "x", (6, 8), "shown")
    assert (stored[:, :, 0] == gradient()).all()
    assert (shown == decode_image(turned(orientation), "x")).all()
    assert (shown != stored).any()


def test_turned_pixels_are_taken_when_only_they_fit_the_annotations() -> None:
    assert (decode_image(turned(6), "x", (8, 6))[:, :, 0] == np.rot90(gradient(), -1)).all()


def test_a_picture_without_annotations_is_turned_as_viewers_show_it() -> None:
    assert (decode_image(turned(3), "x")[:, :, 0] == np.rot90(gradient(), 2)).all()


def test_another_size_is_an_error_that_tells_both() -> None:
    with pytest.raises(UserError, match="x has 8 x 6 pixels, but its annotations were made for 8 x 7"):
        decode_image(turned(6), "x", (7, 8))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_truncated_image_is_named(form: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    data = encoded(Image.fromarray(noise), form)
    with pytest.raises(UserError, match=r"^Image file some\.png is"):
        decode_image(data[: len(data) // 2], "some.png", (40, 50))


@pytest.mark.parametrize("data", [b"", b"hello", b"<html>", bytes(1000)])
def test_a_file_that_is_no_image_is_named(data: bytes) -> None:
    with pytest.raises(UserError, match=r"some\.jpg is not an image of a known format"):
        decode_image(data, "some.jpg")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.png does not exist"):
        read_image(tmp_path / "nowhere.png")


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_image(tmp_path)
