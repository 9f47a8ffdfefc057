"""From a decoded picture of any kind to upright uint8 RGB pixels.

Training, evaluation and prediction read pictures by this one function. An exported detector carries a copy of this file
so that it sees the same pixels. For that reason this file imports nothing but NumPy and Pillow.
"""

import numpy as np
from PIL import Image, ImageOps

_STEPS = {1: 255.0, 255: 1.0, 65535: 1 / 257}
"""The factor to 0…255, by the largest value that a picture can hold."""


class PixelRangeError(ValueError):
    """The values of a picture are of no known range, so nobody can tell which of them is black and which is white."""


def upright_rgb(image: Image.Image) -> np.ndarray:
    """The pixels of a picture, turned as its EXIF data says: uint8 RGB [h, w, 3].

    Raises `PixelRangeError` like `rgb_pixels`, and what Pillow raises for a damaged file.
    """
    return rgb_pixels(ImageOps.exif_transpose(image))


def rgb_pixels(image: Image.Image) -> np.ndarray:
    """The pixels of a picture as they are stored: uint8 RGB [h, w, 3].

    Pictures with 16 bits per pixel are scaled from 0…65535. Pictures of floats or 32-bit integers do not say what white
    is. Floats that are all in 0…1 are scaled from that range. Other values in 0…255 are taken as they are, and values
    in 0…65535 are scaled from that range. Transparency is left out.

    Raises `PixelRangeError` for values outside these ranges, and what Pillow raises for a damaged file.
    """
    if image.mode.startswith("I;16"):
        return _grey(np.asarray(image), 65535)
    if image.mode in ("I", "F"):
        values = np.asarray(image)
        return _grey(values, _largest(values))
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # Pillow warns when it converts a palette with transparency to RGB directly.
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _largest(values: np.ndarray) -> int:
    """The value that stands for white, as far as the values of a picture tell it."""
    low, high = float(values.min()), float(values.max())
    for largest in _STEPS:
        if 0 <= low <= high <= largest and (largest > 1 or values.dtype.kind == "f"):
            return largest
    raise PixelRangeError(
        f"has {values.dtype} values from {low:g} to {high:g}, and nothing says which of them is white; save it with 8 "
        "or 16 bits per channel"
    )


def _grey(values: np.ndarray, largest: int) -> np.ndarray:
    """One channel of values in 0…`largest` as RGB."""
    scaled = np.rint(values.astype(np.float64) * _STEPS[largest]).astype(np.uint8)
    return np.repeat(scaled[:, :, None], 3, axis=2)
