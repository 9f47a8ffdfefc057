"""Values of any range become the right shade of grey, or are refused in a sentence."""

import numpy as np
import pytest
from PIL import Image

from anchordetr_jax.data.images import decode_image
from anchordetr_jax.data.pixels import PixelRangeError, rgb_pixels
from anchordetr_jax.errors import UserError
from tests.data.pictures import encoded

STEPS = np.arange(48).reshape(6, 8) * 5
"""From 0 to 235."""


@pytest.mark.parametrize("factor", [1 / 255, 1, 257], ids=["0…1", "0…255", "0…65535"])
def test_floats_are_scaled_by_what_they_hold(factor: float) -> None:
    image = Image.fromarray((STEPS * factor).astype(np.float32))
    assert (rgb_pixels(image) == STEPS[:, :, None]).all()


@pytest.mark.parametrize("factor", [1, 257], ids=["0…255", "0…65535"])
def test_integers_of_32_bits_are_scaled_by_what_they_hold(factor: int) -> None:
    image = Image.fromarray((STEPS * factor).astype(np.int32))
    assert image.mode == "I"
    assert (rgb_pixels(image) == STEPS[:, :, None]).all()


def test_16_bits_are_scaled_from_their_whole_range_also_where_the_picture_is_dark() -> None:
    image = Image.fromarray((STEPS + 1).astype(np.uint16))
    assert rgb_pixels(image).max() == 1


@pytest.mark.parametrize("values", [[-1.0, 0.5], [0.0, 1e6], [np.nan, 1.0], [0.0, np.inf]])
def test_values_of_no_known_range_are_refused(values: list[float]) -> None:
    image = Image.fromarray(np.array([values], np.float32))
    with pytest.raises(PixelRangeError, match="save it with 8 or 16 bits"):
        rgb_pixels(image)
    with pytest.raises(UserError, match=r"^Image file a\.tif has float32 values from .* save it with 8 or 16 bits"):
        decode_image(encoded(image, "TIFF"), "a.tif")
