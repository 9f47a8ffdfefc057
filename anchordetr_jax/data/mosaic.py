"""Mosaics: four images in the quarters of one, so that a batch shows more objects, smaller, and in other surroundings.

The place where the quarters meet is random. Each quarter shows a random part of its image (Bochkovskiy et al. 2020).
"""

import dataclasses

import numpy as np

from anchordetr_jax.config import AugmentConfig
from anchordetr_jax.data.transforms import Draw, apply_draw

PIECES = 4
_OF_PIECE = 4
"""Random numbers of a piece: flip, enlargement, y and x of the part that is shown."""
_PARTNERS, _MEETING = slice(1, PIECES), slice(PIECES, PIECES + 2)
NUM_UNIFORMS = PIECES + 2 + PIECES * _OF_PIECE
"""The number of random numbers for the mosaic of one image: whether it is one, its partners, where the pieces meet, and
those of each piece."""
MEETING = (0.3, 0.7)
"""Where the pieces meet, relative to height and width."""
ENLARGEMENT = 1.5
"""The image of a piece is at least as large as its quarter, and at most this many times as large."""

Labelled = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Pixels uint8 [h, w, 3], boxes float32 [m, 4] (xyxy in pixels) and labels [m]."""


@dataclasses.dataclass(frozen=True)
class Mosaics:
    """What makes mosaics of n images."""

    partners: np.ndarray
    """int32 [n, 3]: rows of the three other images; -1: the image stays alone."""
    uniforms: np.ndarray
    """float [n, NUM_UNIFORMS]"""
    flip_probability: float

    @property
    def present(self) -> np.ndarray:
        """bool [n]: which images are mosaics."""
        return self.partners[:, 0] >= 0

    def take(self, indices: np.ndarray) -> "Mosaics":
        """Those of some of the images, in the order of `indices` (int [k])."""
        return Mosaics(self.partners[indices], self.uniforms[indices], self.flip_probability)


def draw_mosaics(uniforms: np.ndarray, chosen: np.ndarray, images: int, config: AugmentConfig) -> Mosaics:
    """The mosaics of n images of a data set of `images` images.

    Args:
        uniforms: random numbers in [0, 1), float [n, NUM_UNIFORMS].
        chosen: bool [n]: which of the images may become one.
        images: the number of images that partners are chosen from.
        config: the settings.
    """
    partners = np.floor(uniforms[:, _PARTNERS] * images).astype(np.int32)
    is_mosaic = chosen & (uniforms[:, 0] < config.mosaic_probability)
    return Mosaics(np.where(is_mosaic[:, None], partners, -1), uniforms, config.flip_probability)


def compose(
    pieces: list[Labelled | None], size: tuple[int, int], uniforms: np.ndarray, flip_probability: float
) -> Labelled:
    """One image of `size` (h, w) out of four, with the boxes of what is seen of their objects.

    Args:
        pieces: the upper left, upper right, lower left and lower right image. None: it could not be read; its quarter
            stays black.
        size: of the result, at least 2x2 pixels.
        uniforms: random numbers in [0, 1), float [NUM_UNIFORMS].
        flip_probability: the probability with which a piece is mirrored.
    """
    height, width = size
    low, high = MEETING
    y, x = (low + (high - low) * uniforms[_MEETING]) * size
    rows = (0, min(max(round(y), 1), height - 1), height)
    columns = (0, min(max(round(x), 1), width - 1), width)
    canvas = np.zeros((height, width, 3), np.uint8)
    boxes, labels = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.int32)]
    numbers = uniforms[_MEETING.stop :].reshape(PIECES, _OF_PIECE)
    for place, (piece, own) in enumerate(zip(pieces, numbers, strict=True)):
        if piece is None:
            continue
        (top, bottom), (left, right) = (ends[i : i + 2] for ends, i in ((rows, place // 2), (columns, place % 2)))
        draw = piece_draw(piece[0].shape[:2], (bottom - top, right - left), own, flip_probability)
        pixels, its_boxes, its_labels = apply_draw(*piece, draw)
        canvas[top:bottom, left:right] = pixels
        boxes.append(its_boxes + np.array([left, top, left, top], np.float32))
        labels.append(its_labels)
    return canvas, np.concatenate(boxes), np.concatenate(labels)


def piece_draw(size: tuple[int, ...], quarter: tuple[int, int], uniforms: np.ndarray, flip_probability: float) -> Draw:
    """How an image fills a quarter: it is resized with its aspect ratio until it covers it, and cropped.

    Args:
        size: (h, w) of the image in pixels.
        quarter: (h, w) of the quarter in pixels.
        uniforms: float [4] in [0, 1): for the flip, the enlargement, and the place of the crop (y, x).
        flip_probability: of mirroring left to right.
    """
    flip_u, enlargement_u, y_u, x_u = uniforms.tolist()
    factor = max(quarter[0] / size[0], quarter[1] / size[1]) * (1 + enlargement_u * (ENLARGEMENT - 1))
    height, width = (max(round(side * factor), least) for side, least in zip(size, quarter, strict=True))
    y, x = int(y_u * (height - quarter[0] + 1)), int(x_u * (width - quarter[1] + 1))
    return Draw(quarter, flip_u < flip_probability, (height, width), (y, x, *quarter))
