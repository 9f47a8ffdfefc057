"""Detection in tiles, for small objects in large pictures.

Each picture is seen whole and in overlapping tiles. All views have one static shape, so one program is compiled. Views
of several pictures share a batch.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import NamedTuple, Self

import numpy as np
from PIL import Image

from anchordetr_jax.errors import UserError, result_or_error
from anchordetr_jax.prediction.network import Compute, ImageDetections
from anchordetr_jax.prediction.static_shapes import StaticShapes
from anchordetr_jax.prediction.tiling import Found, merged, tile_rectangles

MOST = 2000
"""The number of detections, of all views of a picture, that are merged: those with the highest scores."""
PICTURES_AHEAD = 2
"""Pictures that are read while the device computes. Large ones need much memory."""


class Views(NamedTuple):
    """What the network sees of a picture."""

    size: tuple[int, int]
    """(height, width) of the picture in pixels."""
    rectangles: np.ndarray
    """int [V, 4], xyxy in pixels of the picture."""
    pixels: list[np.ndarray]
    """V arrays uint8 [h, w, 3], resized."""


def view_sizes(size: tuple[int, int], side: int, tile: int, overlap: float) -> tuple[np.ndarray, np.ndarray]:
    """What is seen of a picture of `size` (h, w): int [V, 4], xyxy in its pixels, and resized sizes int [V, 2], (h, w).

    Tiles of `tile` pixels are resized to `side`. The whole picture, which is the first view, is resized so that its
    longer side is `side`.
    """
    rectangles = tile_rectangles(size, tile, overlap)
    scales = np.full((len(rectangles), 1), side / tile)
    scales[0] = side / max(size)
    lengths = (rectangles[:, 2:] - rectangles[:, :2])[:, ::-1]
    return rectangles, np.clip(np.rint(lengths * scales), 1, side).astype(int)


def cut_into_views(pixels: np.ndarray, side: int, tile: int, overlap: float) -> Views:
    """The views of a picture, uint8 [h, w, 3], resized for a network that sees `side` x `side` pixels."""
    height, width = pixels.shape[:2]
    rectangles, sizes = view_sizes((height, width), side, tile, overlap)
    picture = Image.fromarray(pixels)
    views = []
    for number, (rectangle, (rows, columns)) in enumerate(zip(rectangles.tolist(), sizes.tolist(), strict=True)):
        # The whole picture is first made smaller by whole numbers, which is much quicker.
        small = picture.resize(
            (columns, rows),
            Image.Resampling.BILINEAR,
            box=tuple(rectangle),
            reducing_gap=3.0 if number == 0 else None,
        )
        views.append(np.asarray(small))
    return Views((height, width), rectangles, views)


class TileSettings(NamedTuple):
    """How pictures are cut."""

    tile: int
    """The side of a tile in pixels of the picture."""
    overlap: float
    """The share of it that a tile has in common with the next one."""
    side: int
    """The side of a tile in pixels, after it is resized."""
    shape: tuple[int, int]
    """(H, W) of the padded views, at least `side`."""
    batch_size: int
    """Views at a time."""

    @classmethod
    def of(cls, shapes: StaticShapes, tile: int, overlap: float, batch_size: int) -> Self:
        """Tiles are resized to `eval_size`."""
        side = shapes.augment.eval_size
        return cls(tile, overlap, side, shapes.padded((side, side)), batch_size)


def padding_share(sizes: np.ndarray, settings: TileSettings) -> float:
    """The share of padding in all pixels that the network gets of pictures of these sizes, int [n, 2] (h, w)."""
    views = [view_sizes((h, w), settings.side, settings.tile, settings.overlap)[1] for h, w in sizes.tolist()]
    seen = np.concatenate(views)
    return 1 - float(seen.prod(axis=1).sum() / (len(seen) * np.prod(settings.shape)))


def detect_in_tiles(
    pictures: Sequence[Callable[[], np.ndarray]],
    compute: Compute,
    pool: Executor,
    settings: TileSettings,
) -> Iterator[tuple[int, ImageDetections | UserError]]:
    """(index, merged detections) of each picture when it is finished; or (index, why it cannot be read).

    Args:
        pictures: functions that give the pixels uint8 [h, w, 3] of each picture, or raise `UserError`.
        compute: the network, for batches of views.
        pool: threads that read.
        settings: how pictures are cut. All batches have their static shape.
    """
    tile, overlap, side, shape, batch_size = settings
    found: dict[int, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = collections.defaultdict(list)
    whole: dict[int, Views] = {}
    batch: list[tuple[int, int]] = []

    def flush() -> None:
        pixels = np.zeros((batch_size, *shape, 3), np.uint8)
        image_sizes = np.tile(np.array(shape, np.int32), (batch_size, 1))
        original_sizes = image_sizes.copy()
        for row, (index, view) in enumerate(batch):
            small = whole[index].pixels[view]
            pixels[row, : small.shape[0], : small.shape[1]] = small
            image_sizes[row] = small.shape[:2]
            left, top, right, bottom = whole[index].rectangles[view]
            original_sizes[row] = bottom - top, right - left
        scores, labels, boxes = (np.asarray(array) for array in compute(pixels, image_sizes, original_sizes))
        for row, (index, view) in enumerate(batch):
            corner = whole[index].rectangles[view][[0, 1, 0, 1]].astype(boxes.dtype)
            found[index].append((scores[row], labels[row], boxes[row] + corner))
        batch.clear()

    waiting: collections.deque[int] = collections.deque()

    def finished() -> Iterator[tuple[int, ImageDetections]]:
        while waiting and len(found[waiting[0]]) == len(whole[waiting[0]].rectangles):
            index = waiting.popleft()
            yield index, _merge(whole.pop(index), found.pop(index))

    def views_of(read: Callable[[], np.ndarray]) -> Views | UserError:
        pixels = result_or_error(read)
        return pixels if isinstance(pixels, UserError) else cut_into_views(pixels, side, tile, overlap)

    for index, views in enumerate(_ahead(pool, [lambda read=read: views_of(read) for read in pictures])):  # type: ignore[misc]
        if isinstance(views, UserError):
            yield index, views
            continue
        whole[index] = views
        waiting.append(index)
        for view in range(len(views.rectangles)):
            batch.append((index, view))
            if len(batch) == batch_size:
                flush()
        yield from finished()
    if batch:
        flush()
    yield from finished()


def _ahead(pool: Executor, functions: Iterable[Callable[[], Views | UserError]]) -> Iterator[Views | UserError]:
    """The results in their order. A few are computed ahead."""
    coming: collections.deque[Future[Views | UserError]] = collections.deque()
    for function in functions:
        coming.append(pool.submit(function))
        if len(coming) > PICTURES_AHEAD:
            yield coming.popleft().result()
    while coming:
        yield coming.popleft().result()


def _merge(views: Views, found: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> ImageDetections:
    scores, labels, boxes = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    places = np.repeat(np.arange(len(found)), [len(each[0]) for each in found])
    finite = np.isfinite(scores) & np.isfinite(boxes).all(axis=1)
    order = np.flatnonzero(finite)[np.argsort(-scores[finite], kind="stable")][:MOST]
    one = merged(Found(scores[order], labels[order], boxes[order], places[order]), views.rectangles)
    broken = np.flatnonzero(~finite)  # They are counted, and left out later.
    return ImageDetections(
        views.size,
        np.concatenate([one.scores, scores[broken]]),
        np.concatenate([one.labels, labels[broken]]),
        np.concatenate([one.boxes, boxes[broken]]),
    )
