"""Detection on whole images in batches.

Images are resized as in evaluation and padded to one of a few static shapes. Images of one shape share a batch.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import NamedTuple

import numpy as np

from anchordetr_jax.data.transforms import Draw, apply_draw
from anchordetr_jax.detection.postprocess import TopDetections
from anchordetr_jax.errors import UserError, result_or_error
from anchordetr_jax.prediction.inputs import GivenImage
from anchordetr_jax.prediction.network import Compute, ImageDetections, Seen, padded
from anchordetr_jax.prediction.static_shapes import StaticShapes

BATCHES_AHEAD = 2
"""Batches that are read while the device computes."""


class Planned(NamedTuple):
    """A batch before its images are read."""

    shape: tuple[int, int]
    rows: int
    """The number of images that the network gets, with fillers."""
    members: list[int]
    """The indices of the images among those given."""


def plan_batches(sizes: Mapping[int, tuple[int, int]], shapes: StaticShapes, batch_size: int) -> list[Planned]:
    """All batches, in the order of their first members.

    Args:
        sizes: (height, width) of the images by their indices.
        shapes: what images are resized and padded to.
        batch_size: images at a time.
    """
    if not sizes:
        return []
    groups: dict[tuple[int, int], list[int]] = collections.defaultdict(list)
    for index, size in zip(sizes, shapes.resized(np.array(list(sizes.values()))), strict=True):
        groups[shapes.padded((int(size[0]), int(size[1])))].append(index)
    batches = []
    for shape, members in groups.items():
        # A batch that is not full gets fillers: up to the compiled size of its shape, or to a power of two.
        rows = min(1 << (len(members) - 1).bit_length(), batch_size)
        batches += [Planned(shape, rows, members[start : start + rows]) for start in range(0, len(members), rows)]
    return sorted(batches, key=lambda batch: batch.members[0])


def detect_in_batches(
    images: Sequence[GivenImage], compute: Compute, pool: Executor, shapes: StaticShapes, batch_size: int
) -> Iterator[tuple[int, ImageDetections | UserError]]:
    """(index, detections) of each image as soon as it is finished; or the error that says why it cannot be read.

    Args:
        images: what was given.
        compute: the network, for batches of images.
        pool: threads that read.
        shapes: what images are resized and padded to.
        batch_size: images of one shape at a time.
    """
    sizes: dict[int, tuple[int, int]] = {}
    for index, size in enumerate(pool.map(lambda image: result_or_error(image.size), images)):
        if isinstance(size, UserError):
            yield index, size
        else:
            sizes[index] = size
    planned = iter(plan_batches(sizes, shapes, batch_size))
    loading: collections.deque[tuple[Planned, list[Future[Seen | UserError]]]] = collections.deque()
    computing: collections.deque[tuple[list[int], list[Seen], TopDetections]] = collections.deque()

    def read_ahead() -> None:
        for batch in planned:
            targets = shapes.resized(np.array([sizes[index] for index in batch.members]))
            loads = [pool.submit(_load, images[i], size) for i, size in zip(batch.members, targets, strict=True)]
            loading.append((batch, loads))
            if len(loading) >= BATCHES_AHEAD:
                return

    read_ahead()
    while loading or computing:
        if loading:
            batch, loads = loading.popleft()
            read_ahead()
            outcomes = list(zip(batch.members, (load.result() for load in loads), strict=True))
            yield from ((i, outcome) for i, outcome in outcomes if isinstance(outcome, UserError))
            sound = [(i, outcome) for i, outcome in outcomes if not isinstance(outcome, UserError)]
            if sound:
                indices, loaded = [i for i, _ in sound], [outcome for _, outcome in sound]
                computing.append((indices, loaded, compute(*padded(loaded, batch.shape, batch.rows))))
        if computing and (len(computing) > 1 or not loading):
            indices, loaded, found = computing.popleft()
            scores, labels, boxes = (np.asarray(array) for array in found)
            for place, index in enumerate(indices):
                size = loaded[place].original_size
                yield index, ImageDetections(size, scores[place], labels[place], boxes[place])


def _load(image: GivenImage, size: np.ndarray) -> Seen | UserError:
    pixels = result_or_error(image.pixels)
    if isinstance(pixels, UserError):
        return pixels
    draw = Draw((int(size[0]), int(size[1])))
    resized, _, _ = apply_draw(pixels, np.zeros((0, 4), np.float32), np.zeros(0, np.int32), draw)
    height, width, _ = pixels.shape
    return Seen(resized, (height, width))
