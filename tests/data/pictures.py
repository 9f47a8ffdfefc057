"""One picture of every kind that people have, for tests of everything that reads pictures."""

import io
from typing import Any

import numpy as np
from PIL import Image

ORIENTATION = 0x0112
"""The EXIF tag that says how a picture is turned."""


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """The content of a file with this picture."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def every_kind(height: int = 30, width: int = 40) -> dict[str, bytes]:
    """The contents of files of every kind, by file name. All show the same smooth picture, as far as they can."""
    rows, columns = np.mgrid[:height, :width]
    red, green = rows * 255 // (height - 1), columns * 255 // (width - 1)
    rgb = np.stack([red, green, 255 - red], axis=-1).astype(np.uint8)
    grey = ((red + green) // 2).astype(np.uint8)
    alpha = Image.fromarray(((rows + columns) % 2 * 255).astype(np.uint8))
    colours = Image.fromarray(rgb)
    translucent = colours.copy()
    translucent.putalpha(alpha)
    palette = colours.quantize(32)
    files = {
        "rgb.png": encoded(colours),
        "rgb.jpg": encoded(colours, "JPEG"),
        "rgb.webp": encoded(colours, "WEBP"),
        "rgb.gif": encoded(colours, "GIF"),
        "rgb.bmp": encoded(colours, "BMP"),
        "rgba.png": encoded(translucent),
        "grey.png": encoded(Image.fromarray(grey)),
        "grey_alpha.png": encoded(Image.merge("LA", (Image.fromarray(grey), alpha))),
        "one_bit.png": encoded(Image.fromarray(grey).convert("1")),
        "palette.png": encoded(palette),
        "palette_transparent.png": encoded(palette, transparency=3),
        "palette_translucent.png": encoded(palette, transparency=bytes(range(0, 256, 8))),
        "grey_16.png": encoded(Image.fromarray(grey.astype(np.uint16) * 257)),
        "grey_16.tif": encoded(Image.fromarray(grey.astype(np.uint16) * 257), "TIFF"),
        "int32_255.tif": encoded(Image.fromarray(grey.astype(np.int32)), "TIFF"),
        "int32_65535.tif": encoded(Image.fromarray(grey.astype(np.int32) * 257), "TIFF"),
        "float_1.tif": encoded(Image.fromarray((grey / 255).astype(np.float32)), "TIFF"),
        "float_255.tif": encoded(Image.fromarray(grey.astype(np.float32)), "TIFF"),
        "float_65535.tif": encoded(Image.fromarray(grey.astype(np.float32) * 257), "TIFF"),
        "cmyk.jpg": encoded(colours.convert("CMYK"), "JPEG"),
        "cmyk.tif": encoded(colours.convert("CMYK"), "TIFF"),
        "ycbcr.tif": encoded(colours.convert("YCbCr"), "TIFF"),
    }
    for orientation in range(2, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        files[f"exif_{orientation}.jpg"] = encoded(colours, "JPEG", exif=exif)
        files[f"exif_{orientation}.png"] = encoded(Image.fromarray(grey.astype(np.uint16) * 257), exif=exif)
        files[f"exif_{orientation}.tif"] = encoded(colours, "TIFF", exif=exif)
    return files
