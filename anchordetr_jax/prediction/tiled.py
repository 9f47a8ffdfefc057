"""Detection in tiles, for small objects in large pictures.

Each picture is seen whole and in overlapping tiles. All views have one static shape, so one program is compiled. Views
of several pictures share a batch.
"""

import collections
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import NamedTuple, Self

import numpy as np
from PIL import Image

from anchordetr_jax.errors import UserError, result_or_error
from anchordetr_jax.prediction.network import Compute, ImageDetections, Seen, padded
from anchordetr_jax.prediction.static_shapes import StaticShapes
from anchordetr_jax.prediction.tiling import Found, merged, tile_rectangles

MOST = 2000
"""The number of detections, of all views of a picture, that are merged: those with the highest scores."""
_Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Scores, labels and boxes."""
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

    def seen(self, view: int) -> Seen:
        """One of them."""
        left, top, right, bottom = self.rectangles[view].tolist()
        return Seen(self.pixels[view], (bottom - top, right - left))


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

    def views_of(read: Callable[[], np.ndarray]) -> Views | UserError:
        pixels = result_or_error(read)
        if isinstance(pixels, UserError):
            return pixels
        return cut_into_views(pixels, settings.side, settings.tile, settings.overlap)

    batches = _ViewBatches(compute, settings)
    for index, views in enumerate(_ahead(pool, [functools.partial(views_of, read) for read in pictures])):
        if isinstance(views, UserError):
            yield index, views
            continue
        batches.add(index, views)
        yield from batches.finished()
    batches.flush()
    yield from batches.finished()


class _ViewBatches:
    """The views of pictures on their way through the network, in batches. Views of several pictures share a batch."""

    def __init__(self, compute: Compute, settings: TileSettings):
        self._compute, self._settings = compute, settings
        self._views: dict[int, Views] = {}
        """Those of the pictures that are not finished, by the picture's index, in their order."""
        self._found: dict[int, list[_Arrays]] = {}
        """The detections in those of their views that the network has seen, boxes in pixels of the picture."""
        self._batch: list[tuple[int, int]] = []
        """(picture, view) of the next batch."""

    def add(self, index: int, views: Views) -> None:
        """Takes the views of a picture. Whenever a batch is full, the network gets it."""
        self._views[index], self._found[index] = views, []
        for view in range(len(views.rectangles)):
            self._batch.append((index, view))
            if len(self._batch) == self._settings.batch_size:
                self.flush()

    def flush(self) -> None:
        """Lets the network detect on the views that wait."""
        if not self._batch:
            return
        seen = [self._views[index].seen(view) for index, view in self._batch]
        arrays = padded(seen, self._settings.shape, self._settings.batch_size)
        scores, labels, boxes = (np.asarray(array) for array in self._compute(*arrays))
        for row, (index, view) in enumerate(self._batch):
            corner = self._views[index].rectangles[view][[0, 1, 0, 1]].astype(boxes.dtype)
            self._found[index].append((scores[row], labels[row], boxes[row] + corner))
        self._batch.clear()

    def finished(self) -> Iterator[tuple[int, ImageDetections]]:
        """The merged detections of pictures of which all views were seen. A picture waits for those before it."""
        for index, views in list(self._views.items()):
            if len(self._found[index]) < len(views.rectangles):
                return
            yield index, _merge(self._views.pop(index), self._found.pop(index))


def _ahead(pool: Executor, functions: Iterable[Callable[[], Views | UserError]]) -> Iterator[Views | UserError]:
    """The results in their order. A few are computed ahead."""
    coming: collections.deque[Future[Views | UserError]] = collections.deque()
    for function in functions:
        coming.append(pool.submit(function))
        if len(coming) > PICTURES_AHEAD:
            yield coming.popleft().result()
    while coming:
        yield coming.popleft().result()


def _merge(views: Views, found: list[_Arrays]) -> ImageDetections:
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
