"""Images of every kind, in files or in memory, as upright RGB pixels."""

import io
from typing import Any, Literal

import numpy as np
from absl import logging
from etils import epath
from PIL import Image, ImageOps

from anchordetr_jax.data.image_sizes import Header, picture_orientation
from anchordetr_jax.data.pixels import PixelRangeError, rgb_pixels, upright_rgb
from anchordetr_jax.errors import UserError

Orientation = Literal["shown", "stored"]
"""`shown`: the picture as EXIF says that viewers show it. `stored`: the pixels as they lie in the file."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif")
"""Endings of the names of image files. HEIC needs a plug-in of Pillow; without it these files count as unreadable."""

DARK = 4096
"""Pixels with 16 bits whose values are all below this are most likely of another range: of 8 bits, or of 12."""
SAID = 10
"""The number of such images that are named. Further ones are not named."""

_LARGEST = Image.MAX_IMAGE_PIXELS or 0
"""Pillow warns of an image with more pixels than this, and refuses one with more than twice as many."""


def read_image(
    path: epath.PathLike, size: tuple[int, int] | None = None, orientation: Orientation = "shown"
) -> np.ndarray:
    """The pixels of an image file: uint8 RGB [h, w, 3]. This is the one way from a file to pixels.

    Without `size` the picture is turned as its EXIF data says.

    `size` is the (h, w) that the annotations of the image are made for. Most tools annotate the picture as it is shown.
    Some annotate the stored pixels. The size tells which of the two it is where the picture lies on its side. It does
    not tell where the picture stands on its head or is mirrored, or where it is square: then `orientation` decides.

    Raises `UserError` naming the file when it is missing, damaged, not an image or of another size.
    """
    try:
        data = epath.Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"Image file {path} does not exist.") from None
    except (OSError, ValueError) as error:  # ValueError: a name with characters that no file can have.
        raise UserError(f"Image file {path} cannot be read ({getattr(error, 'strerror', None) or error}).") from None
    return decode_image(data, str(path), size, orientation)


def decode_image(
    data: bytes, name: str, size: tuple[int, int] | None = None, orientation: Orientation = "shown"
) -> np.ndarray:
    """Like `read_image`, from the content of a file. Messages call the file `name`."""
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
        stored_size = (image.height, image.width)
        size_tells = Header(stored_size, picture_orientation(image)).shown != stored_size
        if not (stored_size == size and (size_tells or orientation == "stored")):
            image = ImageOps.exif_transpose(image)
        pixels = rgb_pixels(image)
        _warn_of_darkness(image, name)
    except PixelRangeError as error:
        raise UserError(f"Image file {name} {error}.") from None
    except Image.UnidentifiedImageError:
        hint = "; save it as JPEG or PNG first" if name.lower().endswith((".heic", ".heif", ".svg", ".pdf")) else ""
        raise UserError(f"Image file {name} is not an image of a known format{hint}.") from None
    except Image.DecompressionBombError:
        raise UserError(f"Image file {name} is too large (over {2 * _LARGEST / 1e6:.0f} million pixels).") from None
    except Exception as error:  # Pillow's readers raise many kinds of exceptions for damaged files.
        raise UserError(f"Image file {name} is damaged ({error}).") from None
    if size is not None and pixels.shape[:2] != size:
        found, expected = f"{stored_size[1]} x {stored_size[0]}", f"{size[1]} x {size[0]}"
        raise UserError(f"Image file {name} has {found} pixels, but its annotations were made for {expected}.")
    return pixels


def picture_pixels(image: Image.Image, name: str = "The image") -> np.ndarray:
    """The pixels of a Pillow image, turned as its EXIF data says: uint8 RGB [h, w, 3].

    Raises `UserError`, beginning with `name`, when the file behind it is damaged.
    """
    try:
        pixels = upright_rgb(image)
        _warn_of_darkness(image, name)
        return pixels
    except PixelRangeError as error:
        raise UserError(f"{name} {error}.") from None
    except Exception as error:  # Pillow reads pixels late, and raises many kinds of exceptions for damaged files.
        raise UserError(f"{name} cannot be decoded ({error}).") from None


def darkness(image: Image.Image) -> str | None:
    """Why a picture with 16 bits is nearly black, as in "has 16-bit values up to 4094"; None where it is not.

    Cameras with 12 bits write such files. Only the values can tell it.
    """
    if not image.mode.startswith("I"):
        return None
    highest = int(np.asarray(image).max(initial=0))
    eight_bits = 0 if image.mode.startswith("I;16") else 255  # Values of mode I up to 255 are taken as they are.
    if not eight_bits < highest < DARK:
        return None
    return f"has 16-bit values up to {highest} of 65535, so it is nearly black: scale them to 0…65535"


def _warn_of_darkness(image: Image.Image, name: str) -> None:
    if why := darkness(image):
        logging.log_first_n(logging.WARNING, "%s %s.", SAID, name, why)


def array_pixels(array: Any, name: str = "The image") -> np.ndarray:
    """Pixels in an array of the usual kinds, as uint8 RGB [h, w, 3].

    Args:
        array: [h, w], or [h, w, c] with 1 (grey), 3 (RGB) or 4 (RGBA) channels: integers from 0 to 255, uint16 up to
            65535, floats from 0 to 1, or bools.
        name: begins the message of an error.

    Raises `UserError` for other shapes and values.
    """
    pixels = np.asarray(array)
    array_size(pixels, name)
    pixels = _eight_bits(pixels, name)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels[:, :, :3])


def array_size(pixels: np.ndarray, name: str) -> tuple[int, int]:
    """(height, width) of an array that is an image. Raises `UserError` for other shapes, as `array_pixels` does."""
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) and pixels.shape[2] > 4:
        raise UserError(f"{name} has its channels first, {pixels.shape}: transpose it to [height, width, channels].")
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4)) or 0 in pixels.shape:
        raise UserError(f"{name} has the shape {pixels.shape}: give [height, width] or [height, width, 3].")
    return pixels.shape[0], pixels.shape[1]


def _eight_bits(pixels: np.ndarray, name: str) -> np.ndarray:
    """Values of any of the usual ranges as uint8."""
    kind = pixels.dtype.kind
    if pixels.dtype == np.uint8:
        return pixels
    if kind == "b":
        return pixels.astype(np.uint8) * 255
    if kind not in "uif":
        raise UserError(f"{name} has values of type {pixels.dtype}: give uint8, or floats from 0 to 1.")
    highest = {"f": 1, "u": 65535 if pixels.dtype == np.uint16 else 255, "i": 255}[kind]
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= highest):  # so that NaN is refused as well
        raise UserError(
            f"{name} has {pixels.dtype} values from {low:g} to {high:g}: give uint8, or floats from 0 to 1."
        )
    if pixels.dtype == np.uint16 and 0 < high < DARK:
        logging.log_first_n(
            logging.WARNING,
            "%s has uint16 values up to %d of 65535, so it is nearly black. Are they of 8 bits? Give "
            "array.astype(numpy.uint8). Are they of another range? Scale them to 0…65535.",
            SAID,
            name,
            int(high),
        )
    scale = {1: 255.0, 255: 1.0, 65535: 1 / 257}[highest]
    return np.rint(pixels.astype(np.float32) * np.float32(scale)).astype(np.uint8)
