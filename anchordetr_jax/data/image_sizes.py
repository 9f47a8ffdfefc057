"""Sizes of images from their headers: no pixel is decoded."""

from collections import Counter
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from PIL import Image

Size = tuple[int, int]
"""(height, width) in pixels."""

_ORIENTATION = 0x0112
_LYING_ON_THEIR_SIDE = (5, 6, 7, 8)


def header_size(file: BinaryIO, *, turned: bool = False) -> Size | None:
    """The size that an image's header tells; None where it is not an image or the header is damaged.

    With `turned` it is the size of the picture as EXIF asks to show it, else that of the pixels as they are stored.
    """
    try:
        with Image.open(file) as image:
            height, width = image.height, image.width
            # Pillow turns TIFF files by itself.
            if turned and image.format != "TIFF" and _orientation(image, file) in _LYING_ON_THEIR_SIDE:
                height, width = width, height
    except Exception:  # Pillow's readers meet damaged files with exceptions of many kinds
        return None
    return height, width


def complete_sizes(sizes: Sequence[Size | None]) -> np.ndarray | None:
    """int32 [n, 2]: the sizes, with the most frequent one where none is known; None when not a single one is.

    An image of unknown size so stays in its data set: it is named when it is read, and it counts.
    """
    counts = Counter(size for size in sizes if size is not None)
    if not counts:
        return None
    (usual, _), *_ = counts.most_common(1)
    return np.array([size or usual for size in sizes], np.int32)


def _orientation(image: Image.Image, file: BinaryIO) -> int | None:
    # The EXIF data of a PNG file may follow its pixels, so Pillow would decode them all to look for it.
    if image.format == "PNG" and "exif" not in image.info:
        position = file.tell()
        file.seek(0)
        follows = b"eXIf" in file.read()
        file.seek(position)
        if not follows:
            return Image.Image.getexif(image).get(_ORIENTATION)
    return image.getexif().get(_ORIENTATION)
