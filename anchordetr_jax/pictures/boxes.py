"""Boxes with names and scores on an image (Pillow).

Boxes are xyxy in pixels of the image that they are drawn on. A class number has one colour, so a class has the same
colour in every picture of a run.
"""

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from anchordetr_jax.pictures.text import DEFAULT_FONT, draw_text, font_of, one_line, text_width

Colour = tuple[int, int, int]


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

    Lines and text grow with the image. An image whose long side is shorter than `min_size` pixels is enlarged to it
    first, because the text would cover a small image. 0 keeps every size.

    Args:
        image: [H,W,3] uint8 RGB, or a Pillow image.
        boxes: [N,4] xyxy in pixels of `image`; parts outside the image are not drawn.
        labels: N class numbers. They choose the colours, unless `colours` are given.
        names: N names; a box with an empty name gets no tag.
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
    names = [one_line(name) for name in names]
    # Confident detections are drawn last, on top of the others, and their tags choose their places first.
    order = list(range(len(names))) if scores is None else [int(i) for i in np.argsort(scores, kind="stable")]
    scaled = np.asarray(boxes, np.float64).reshape(-1, 4) * enlarge
    draw = ImageDraw.Draw(picture)
    line = max(2, round(max(picture.size) / 250))
    for i in order:
        draw_box(draw, scaled[i], colours[i], line, picture.size)
    font_size = _font_size(picture.size, len(names))
    taken: list[tuple[float, float, float, float]] = []
    for i in reversed(order):
        if names[i]:
            score = "" if scores is None else f" {scores[i]:.2f}"
            text = _fitting(names[i], score, font_size, picture.width)
            _draw_tag(draw, text, scaled[i], colours[i], font_size, line, picture.size, taken)
    return picture


def _font_size(size: tuple[int, int], num_boxes: int) -> int:
    # Among many boxes, smaller tags hide less of the picture.
    crowding = 1.0 if num_boxes <= 12 else 0.8
    return max(10, round(max(size) / 40 * crowding))


def draw_box(draw: ImageDraw.ImageDraw, box: np.ndarray, colour: Colour, line: int, size: tuple[int, int]) -> None:
    """Draws a box, with lines of `line` pixels, on an image of `size` (width, height)."""
    x0, y0, x1, y1 = _clipped(box, size)
    shade = (colour[0] // 3, colour[1] // 3, colour[2] // 3)  # A dark rim makes the line visible on any background.
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
    font_size: float,
    line: int,
    size: tuple[int, int],
    taken: list[tuple[float, float, float, float]],
) -> None:
    pad = _padding(font_size)
    width = text_width(text, font_size) + 2 * pad
    ascent, descent = font_of(DEFAULT_FONT, font_size).getmetrics()
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
    ink = (0, 0, 0) if bright else (255, 255, 255)
    draw_text(draw, (best[0] + pad, best[1] + pad / 2), text, font_size, ink)


def _fitting(name: str, score: str, size: float, width: int) -> str:
    """Name and score. The name is cut short if both are wider than `width` pixels."""
    room = width - 2 * _padding(size)
    text = name + score
    for length in range(len(name) - 1, -1, -1):
        if text_width(text, size) <= room:
            break
        text = f"{name[:length].rstrip()}…{score}"
    return text


def _padding(font_size: float) -> int:
    """Pixels between the text of a tag and its border."""
    return max(1, round(font_size / 6))


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
