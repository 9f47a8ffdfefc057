"""Pictures for people: boxes on images (Pillow), and grids of them.

Boxes are xyxy in pixels of the image that they are drawn on. Colours belong to class numbers, so a class keeps its
colour in every picture of a run. Curves are drawn in `plots.py`; they can be had from here too.
"""

import colorsys
import dataclasses
import functools
import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from etils import epath
from PIL import Image, ImageDraw, ImageFont

from anchordetr_jax.files import write_atomically
from anchordetr_jax.pictures.curves import plot_curves as plot_curves
from anchordetr_jax.pictures.curves import plot_precision_recall as plot_precision_recall

Colour = tuple[int, int, int]

MISSED: Colour = (230, 30, 60)
INVENTED: Colour = (255, 150, 0)
FOUND: Colour = (90, 200, 110)

_BACKGROUND: Colour = (250, 250, 250)
_INK: Colour = (40, 40, 40)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Boxes:
    """Boxes of one image, ready to be drawn."""

    boxes: np.ndarray
    """[N,4] xyxy pixels."""
    labels: Sequence[int]
    """Class numbers; they choose the colours."""
    names: Sequence[str]
    scores: Sequence[float] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """An image with what is in it and what was seen in it."""

    image: np.ndarray
    """[H,W,3] uint8 RGB."""
    truth: Boxes
    predictions: Boxes
    title: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Miss:
    """An image with a detector's mistakes on it."""

    image: np.ndarray
    """[H,W,3] uint8 RGB."""
    missed: Boxes
    """Objects that were not found."""
    invented: Boxes
    """Confident detections of nothing, or of the wrong class."""
    found: Boxes
    title: str = ""


def class_colour(label: int) -> Colour:
    """The colour of a class: vivid, and far in hue from those of the neighbouring numbers."""
    hue = (0.02 + label * 0.618033988749895) % 1.0
    lightness, saturation = ((0.55, 0.85), (0.45, 0.75), (0.65, 0.95))[(label // 8) % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, saturation)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_detections(
    image: np.ndarray | Image.Image,
    boxes: np.ndarray,
    labels: Sequence[int],
    names: Sequence[str],
    scores: Sequence[float] | None = None,
    *,
    colours: Sequence[Colour] | None = None,
    min_size: int = 640,
) -> Image.Image:
    """Draws boxes with their names (and scores) on a copy of an image.

    Lines and text grow with the image. An image whose long side is below `min_size` pixels is enlarged to that first,
    or its text would cover it; 0 keeps every size as it is.

    Args:
        image: [H,W,3] uint8 RGB, or a Pillow image.
        boxes: [N,4] xyxy pixels of `image`; parts that lie outside are not drawn.
        labels: N class numbers, which choose the colours unless `colours` are given.
        names: N names; an empty one leaves its box without a tag.
        scores: N scores in [0, 1], or None.
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture = picture.convert("RGB")
    enlarge = max(1.0, min_size / max(picture.size))
    if enlarge > 1:
        size = (max(1, round(picture.width * enlarge)), max(1, round(picture.height * enlarge)))
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    else:
        picture = picture.copy()
    colours = colours if colours is not None else [class_colour(int(label)) for label in labels]
    # Confident detections are drawn last, over the others, and choose the places of their tags first.
    order = list(range(len(names))) if scores is None else [int(i) for i in np.argsort(scores, kind="stable")]
    scaled = np.asarray(boxes, np.float64).reshape(-1, 4) * enlarge
    draw = ImageDraw.Draw(picture)
    line = max(2, round(max(picture.size) / 250))
    for i in order:
        _draw_box(draw, scaled[i], colours[i], line, picture.size)
    font = _font(_font_size(picture.size, len(names)))
    taken: list[tuple[float, float, float, float]] = []
    for i in reversed(order):
        if names[i]:
            score = "" if scores is None else f" {scores[i]:.2f}"
            text = _fitting(names[i], score, font, picture.width)
            _draw_tag(draw, text, scaled[i], colours[i], font, line, picture.size, taken)
    return picture


def prediction_grid(examples: Sequence[Example], path: epath.PathLike, *, columns: int = 2, cell: int = 420) -> None:
    """Writes a picture with a pair a cell: the truth on the left, the predictions on the right.

    `cell` is the longest side of an image in it, in pixels.
    """
    cells = []
    for example in examples:
        pair = [
            _framed(_draw(example.image, example.truth, cell), "truth", cell),
            _framed(_draw(example.image, example.predictions, cell), "predictions", cell),
        ]
        cells.append(_titled(_beside(pair, gap=8), example.title))
    _write_png(_grid(cells, columns, gap=28), path)


def worst_misses(misses: Sequence[Miss], path: epath.PathLike, *, columns: int = 3, cell: int = 520) -> None:
    """Writes a grid of images with their mistakes: missed objects red, invented ones orange, found ones thin and
    green."""
    cells = []
    for miss in misses:
        picture = _enlarged(miss.image, cell)
        factor = picture.width / miss.image.shape[1]
        draw = ImageDraw.Draw(picture)
        for box in np.asarray(miss.found.boxes, np.float64).reshape(-1, 4) * factor:
            _draw_box(draw, box, FOUND, 1, picture.size)
        wrong = np.concatenate([np.reshape(group.boxes, (-1, 4)) for group in (miss.invented, miss.missed)])
        names = [*_with_scores(miss.invented), *miss.missed.names]
        colours = [INVENTED] * len(miss.invented.names) + [MISSED] * len(miss.missed.names)
        picture = draw_detections(picture, wrong * factor, [0] * len(names), names, colours=colours, min_size=0)
        cells.append(_titled(_framed(picture, "", cell), miss.title))
    legend = _legend([("missed", MISSED), ("invented", INVENTED), ("found", FOUND)])
    _write_png(_stacked([legend, _grid(cells, columns, gap=20)]), path)


def picture_grid(
    pictures: Sequence[Image.Image], titles: Sequence[str], path: epath.PathLike, *, columns: int = 3
) -> None:
    """Writes pictures as a grid, each under its title."""
    cells = [_titled(picture, title) for picture, title in zip(pictures, titles, strict=True)]
    _write_png(_grid(cells, columns, gap=20), path)


def _draw(image: np.ndarray, boxes: Boxes, cell: int) -> Image.Image:
    picture = _enlarged(image, cell)
    factor = picture.width / image.shape[1]
    scaled = np.asarray(boxes.boxes, np.float64) * factor
    return draw_detections(picture, scaled, boxes.labels, boxes.names, boxes.scores, min_size=0)


def _enlarged(image: np.ndarray, long_side: int) -> Image.Image:
    """The image with its long side at `long_side`, larger or smaller, so that text drawn on it has one size in a
    grid."""
    picture = Image.fromarray(image).convert("RGB")
    factor = long_side / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.BICUBIC)


def _with_scores(boxes: Boxes) -> list[str]:
    if boxes.scores is None:
        return list(boxes.names)
    return [f"{name} {score:.2f}" for name, score in zip(boxes.names, boxes.scores, strict=True)]


def _font_size(size: tuple[int, int], num_boxes: int) -> int:
    # In a crowd smaller tags leave more of the picture to be seen.
    crowding = 1.0 if num_boxes <= 12 else 0.8
    return max(10, round(max(size) / 40 * crowding))


@functools.lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # The font that comes with matplotlib knows far more scripts than Pillow's own.
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)


def _draw_box(draw: ImageDraw.ImageDraw, box: np.ndarray, colour: Colour, line: int, size: tuple[int, int]) -> None:
    x0, y0, x1, y1 = _clipped(box, size)
    shade = (colour[0] // 3, colour[1] // 3, colour[2] // 3)  # a dark rim keeps the line apart from any background
    draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=shade, width=1)
    draw.rectangle((x0, y0, x1, y1), outline=colour, width=line)


def _clipped(box: np.ndarray, size: tuple[int, int]) -> tuple[float, float, float, float]:
    width, height = size
    x0, x1 = sorted(float(np.clip(x, 0, width - 1)) for x in (box[0], box[2]))
    y0, y1 = sorted(float(np.clip(y, 0, height - 1)) for y in (box[1], box[3]))
    return x0, y0, x1, y1


def _draw_tag(
    draw: ImageDraw.ImageDraw,
    text: str,
    box: np.ndarray,
    colour: Colour,
    font: ImageFont.FreeTypeFont,
    line: int,
    size: tuple[int, int],
    taken: list[tuple[float, float, float, float]],
) -> None:
    pad = _padding(font)
    width = draw.textlength(text, font=font) + 2 * pad
    ascent, descent = font.getmetrics()
    height = ascent + descent + pad
    x0, y0, x1, y1 = _clipped(box, size)
    places = (
        (x0, y0 - height),
        (x0, y1),
        (x0 + line, y0 + line),
        (x1 - width, y0 - height),
        (x1 - width - line, y1 - height - line),
        (x0 + line, y1 - height - line),
    )
    best, least = None, np.inf
    for order, (x, y) in enumerate(places):
        inside_x = float(np.clip(x, 0, max(0.0, size[0] - width)))
        inside_y = float(np.clip(y, 0, max(0.0, size[1] - height)))
        tag = (inside_x, inside_y, inside_x + width, inside_y + height)
        moved = abs(inside_x - x) + abs(inside_y - y)
        cost = sum(_overlap(tag, other) for other in taken) + moved * height + order
        if cost < least:
            best, least = tag, cost
    assert best is not None
    taken.append(best)
    draw.rectangle(best, fill=colour)
    bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
    draw.text((best[0] + pad, best[1] + pad / 2), text, font=font, fill=(0, 0, 0) if bright else (255, 255, 255))


def _fitting(name: str, score: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Name and score, the name cut short where they would not fit into so many pixels."""
    room = width - 2 * _padding(font)
    text = name + score
    for length in range(len(name) - 1, -1, -1):
        if font.getlength(text) <= room:
            break
        text = f"{name[:length].rstrip()}…{score}"
    return text


def _padding(font: ImageFont.FreeTypeFont) -> int:
    """Pixels between a tag's text and its border."""
    return max(1, round(font.size / 6))


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _framed(picture: Image.Image, caption: str, width: int) -> Image.Image:
    """The picture centred in `width` pixels, with a caption over it."""
    top = 22 if caption else 0
    frame = Image.new("RGB", (max(width, picture.width), picture.height + top), _BACKGROUND)
    frame.paste(picture, ((frame.width - picture.width) // 2, top))
    if caption:
        font = _font(14)
        draw = ImageDraw.Draw(frame)
        draw.text(((frame.width - draw.textlength(caption, font=font)) / 2, 2), caption, font=font, fill=_INK)
    return frame


def _titled(picture: Image.Image, title: str) -> Image.Image:
    if not title:
        return picture
    frame = Image.new("RGB", (picture.width, picture.height + 24), _BACKGROUND)
    frame.paste(picture, (0, 24))
    ImageDraw.Draw(frame).text((2, 3), title, font=_font(14), fill=_INK)
    return frame


def _beside(pictures: Sequence[Image.Image], gap: int) -> Image.Image:
    return _grid(pictures, len(pictures), gap, margin=0)


def _grid(pictures: Sequence[Image.Image], columns: int, gap: int, margin: int = 16) -> Image.Image:
    """The pictures in rows, each row as high as its highest picture, each column as wide as its widest."""
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
    strip = Image.new("RGB", (130 * len(entries) + 16, 34), _BACKGROUND)
    draw = ImageDraw.Draw(strip)
    for i, (text, colour) in enumerate(entries):
        x = 16 + 130 * i
        draw.rectangle((x, 12, x + 18, 28), fill=colour)
        draw.text((x + 26, 11), text, font=_font(14), fill=_INK)
    return strip


def _write_png(picture: Image.Image, path: epath.PathLike) -> None:
    data = io.BytesIO()
    picture.save(data, format="PNG")
    write_atomically(path, data.getvalue())
