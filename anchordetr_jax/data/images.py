"""An image file, of whatever kind, as RGB pixels."""

import io

import numpy as np
from etils import epath
from PIL import Image, ImageOps

from anchordetr_jax.errors import UserError


def read_image(path: epath.PathLike, size: tuple[int, int] | None = None) -> np.ndarray:
    """The pixels of an image file: uint8 RGB [h, w, 3].

    `size` is the (h, w) that the annotations of the image were made for. COCO's annotations refer to the pixels as they
    are stored, whatever orientation the file's EXIF data asks for; some tools annotate the picture as it is shown. So
    with `size` the stored pixels are taken if they have that size, else the turned ones if these do. Without it, the
    picture is turned as EXIF says.

    Raises `UserError` naming the file when it is missing, damaged, not an image or of another size.
    """
    try:
        data = epath.Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"Image file {path} does not exist.") from None
    except OSError as error:
        raise UserError(f"Image file {path} cannot be read ({error.strerror or error}).") from None
    return decode_image(data, str(path), size)


def decode_image(data: bytes, name: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Like `read_image`, from a file's content; `name` is for messages."""
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
        stored_size = (image.height, image.width)
        if stored_size != size:
            image = ImageOps.exif_transpose(image)
        pixels = _rgb(image)
    except Image.UnidentifiedImageError:
        raise UserError(f"Image file {name} is not an image of a known format.") from None
    except Exception as error:  # Pillow's readers meet damaged files with exceptions of many kinds
        raise UserError(f"Image file {name} is damaged ({error}).") from None
    if size is not None and pixels.shape[:2] != size:
        found, expected = f"{stored_size[1]} x {stored_size[0]}", f"{size[1]} x {size[0]}"
        raise UserError(f"Image file {name} has {found} pixels, but its annotations were made for {expected}.")
    return pixels


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16 bits a pixel (as `I` too), which Pillow's own conversion would cut at 255
        grey = (np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # a palette with transparency warns when it is converted to RGB directly
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
