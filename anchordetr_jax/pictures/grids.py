"""Grids of images for people: predictions beside the truth, and images with the mistakes of a detector (Pillow).

Boxes are xyxy in pixels of their image.
"""

import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from etils import epath
from PIL import Image, ImageDraw

from anchordetr_jax.files import write_atomically
from anchordetr_jax.pictures.boxes import Colour, draw_box, draw_detections
from anchordetr_jax.pictures.text import draw_text, one_line, text_width

MISSED: Colour = (230, 30, 60)
FALSE_POSITIVE: Colour = (255, 150, 0)
FOUND: Colour = (90, 200, 110)

_BACKGROUND: Colour = (250, 250, 250)
_INK: Colour = (40, 40, 40)
_FONT_SIZE = 14
_LEGEND_COLUMN = 150
"""Pixels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Boxes:
    """Boxes of one image, ready to be drawn."""

    boxes: np.ndarray
    """[N,4], xyxy in pixels."""
    labels: Sequence[int]
    """N class numbers; they choose the colours."""
    names: Sequence[str]
    scores: Sequence[float] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """An image with its objects and the predictions for it."""

    image: np.ndarray
    """[H,W,3] uint8 RGB."""
    truth: Boxes
    predictions: Boxes
    title: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageMistakes:
    """An image with the mistakes of a detector."""

    image: np.ndarray
    """[H,W,3] uint8 RGB."""
    missed: Boxes
    """Objects that no detection found."""
    false_positives: Boxes
    """Confident detections where there is no object, or of the wrong class."""
    found: Boxes
    """Objects that a detection found."""
    title: str = ""


def prediction_grid(examples: Sequence[Example], path: epath.PathLike, *, columns: int = 2, cell: int = 420) -> None:
    """Writes a picture with two images for each example: the truth on the left, the predictions on the right.

    `cell` is the long side of each image, in pixels.
    """
    cells = [_titled(example_picture(example, cell), example.title) for example in examples]
    _write_png(_grid(cells, columns, gap=28), path)


def example_picture(example: Example, cell: int = 420) -> Image.Image:
    """Two images beside each other, each with a long side of `cell` pixels: the truth, and the predictions."""
    pair = [
        _framed(_draw(example.image, example.truth, cell), "truth", cell),
        _framed(_draw(example.image, example.predictions, cell), "predictions", cell),
    ]
    return _beside(pair, gap=8)


def mistakes_grid(images: Sequence[ImageMistakes], path: epath.PathLike, *, columns: int = 3, cell: int = 520) -> None:
    """Writes a grid of images with their mistakes, as `mistakes_picture` draws them."""
    cells = [_titled(_framed(mistakes_picture(image, cell), "", cell), image.title) for image in images]
    legend = _legend([("missed", MISSED), ("false positive", FALSE_POSITIVE), ("found", FOUND)])
    _write_png(_stacked([legend, _grid(cells, columns, gap=20)]), path)


def mistakes_picture(image: ImageMistakes, cell: int = 520) -> Image.Image:
    """An image with its mistakes: missed objects in red, false positives in orange, and found objects in green, with
    thin lines. Its long side has `cell` pixels."""
    picture = _enlarged(image.image, cell)
    factor = picture.width / image.image.shape[1]
    draw = ImageDraw.Draw(picture)
    for box in np.asarray(image.found.boxes, np.float64).reshape(-1, 4) * factor:
        draw_box(draw, box, FOUND, 1, picture.size)
    wrong = np.concatenate([np.reshape(group.boxes, (-1, 4)) for group in (image.false_positives, image.missed)])
    names = [*_with_scores(image.false_positives), *image.missed.names]
    colours = [FALSE_POSITIVE] * len(image.false_positives.names) + [MISSED] * len(image.missed.names)
    return draw_detections(picture, wrong * factor, [0] * len(names), names, colours=colours, min_size=0)


def picture_grid(
    pictures: Sequence[Image.Image], titles: Sequence[str], path: epath.PathLike, *, columns: int = 3
) -> None:
    """Writes pictures as a grid, each with its title above it."""
    cells = [_titled(picture, title) for picture, title in zip(pictures, titles, strict=True)]
    _write_png(_grid(cells, columns, gap=20), path)


def _draw(image: np.ndarray, boxes: Boxes, cell: int) -> Image.Image:
    picture = _enlarged(image, cell)
    factor = picture.width / image.shape[1]
    scaled = np.asarray(boxes.boxes, np.float64) * factor
    return draw_detections(picture, scaled, boxes.labels, boxes.names, boxes.scores, min_size=0)


def _enlarged(image: np.ndarray, long_side: int) -> Image.Image:
    """The image, resized to a long side of `long_side` pixels, so that text has one size in the whole grid."""
    picture = Image.fromarray(image).convert("RGB")
    factor = long_side / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.BICUBIC)


def _with_scores(boxes: Boxes) -> list[str]:
    if boxes.scores is None:
        return list(boxes.names)
    return [f"{name} {score:.2f}" for name, score in zip(boxes.names, boxes.scores, strict=True)]


def _framed(picture: Image.Image, caption: str, width: int) -> Image.Image:
    """The picture in the middle of `width` pixels, with a caption above it."""
    top = 22 if caption else 0
    frame = Image.new("RGB", (max(width, picture.width), picture.height + top), _BACKGROUND)
    frame.paste(picture, ((frame.width - picture.width) // 2, top))
    if caption:
        left = (frame.width - text_width(caption, _FONT_SIZE)) / 2
        draw_text(ImageDraw.Draw(frame), (left, 2), caption, _FONT_SIZE, _INK)
    return frame


def _titled(picture: Image.Image, title: str) -> Image.Image:
    if not title:
        return picture
    frame = Image.new("RGB", (picture.width, picture.height + 24), _BACKGROUND)
    frame.paste(picture, (0, 24))
    draw_text(ImageDraw.Draw(frame), (2, 3), one_line(title), _FONT_SIZE, _INK)
    return frame


def _beside(pictures: Sequence[Image.Image], gap: int) -> Image.Image:
    return _grid(pictures, len(pictures), gap, margin=0)


def _grid(pictures: Sequence[Image.Image], columns: int, gap: int, margin: int = 16) -> Image.Image:
    """The pictures in rows. A row is as high as its highest picture, a column as wide as its widest picture."""
    columns = max(1, min(columns, len(pictures)))
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    widths = [max(picture.width for picture in pictures[i::columns]) for i in range(columns)] if pictures else [0]
    heights = [max(picture.height for picture in row) for row in rows]
    size = (sum(widths) + gap * (columns - 1) + 2 * margin, sum(heights) + gap * max(0, len(rows) - 1) + 2 * margin)
    sheet = Image.new("RGB", (max(1, size[0]), max(1, size[1])), _BACKGROUND)
    y = margin
    for row, height in zip(rows, heights, strict=True):
        x = margin
        for picture, width in zip(row, widths, strict=False):
            sheet.paste(picture, (x, y))
            x += width + gap
        y += height + gap
    return sheet


def _stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    return _grid(pictures, 1, gap=0, margin=0)


def _legend(entries: Sequence[tuple[str, Colour]]) -> Image.Image:
    strip = Image.new("RGB", (_LEGEND_COLUMN * len(entries) + 16, 34), _BACKGROUND)
    draw = ImageDraw.Draw(strip)
    for i, (text, colour) in enumerate(entries):
        x = 16 + _LEGEND_COLUMN * i
        draw.rectangle((x, 12, x + 18, 28), fill=colour)
        draw_text(draw, (x + 26, 11), text, _FONT_SIZE, _INK)
    return strip


def _write_png(picture: Image.Image, path: epath.PathLike) -> None:
    data = io.BytesIO()
    picture.save(data, format="PNG")
    write_atomically(path, data.getvalue())
