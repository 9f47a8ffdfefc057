"""What the headers of image files tell: sizes and orientations. No pixel is decoded."""

from collections import Counter
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image

Size = tuple[int, int]
"""(height, width) in pixels."""

UPRIGHT = 1
"""The EXIF orientation of a picture that is not to be turned."""
ON_THEIR_SIDE = (5, 6, 7, 8)
"""The EXIF orientations that exchange height and width."""
_TAG = 0x0112


class Header(NamedTuple):
    """Size and orientation of a picture."""

    stored: Size
    """Of the pixels in the file."""
    orientation: int
    """From 1 to 8, as EXIF numbers them."""

    @property
    def shown(self) -> Size:
        """The size of the picture after it is turned as EXIF says."""
        return self.stored[::-1] if self.orientation in ON_THEIR_SIDE else self.stored


def read_header(file: BinaryIO) -> Header | None:
    """None where the file is not an image, or its header is damaged."""
    try:
        with Image.open(file) as image:
            return Header((image.height, image.width), picture_orientation(image, file))
    except Exception:  # Pillow's readers raise many kinds of exceptions for damaged files.
        return None


def picture_orientation(image: Image.Image, file: BinaryIO | None = None) -> int:
    """The EXIF orientation by which an opened picture is still to be turned.

    With `file`, the content of a PNG is not decoded to look for it.
    """
    if image.format == "TIFF":  # Pillow turns TIFF files by itself.
        return UPRIGHT
    # The EXIF data of a PNG can follow its pixels, so Pillow decodes all of them to look for it.
    if image.format == "PNG" and "exif" not in image.info and file is not None:
        position = file.tell()
        file.seek(0)
        follows = b"eXIf" in file.read()
        file.seek(position)
        exif = image.getexif() if follows else Image.Image.getexif(image)
    else:
        exif = image.getexif()
    orientation = exif.get(_TAG)
    return orientation if isinstance(orientation, int) and UPRIGHT <= orientation <= 8 else UPRIGHT


def complete_sizes(sizes: Sequence[Size | None]) -> np.ndarray | None:
    """int32 [n, 2]: the sizes, with the most frequent size where none is known. None when no size is known.

    So an image of unknown size stays in its data set: it counts, and it is named when it is read.
    """
    counts = Counter(size for size in sizes if size is not None)
    if not counts:
        return None
    (usual, _), *_ = counts.most_common(1)
    return np.array([size or usual for size in sizes], np.int32)
