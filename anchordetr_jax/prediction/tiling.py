"""Tiles of a large picture, and one list of detections from those of all tiles: plain functions on numpy arrays.

Rectangles and boxes are xyxy (left, top, right, bottom) in pixels of the whole picture.
"""

import math
from typing import NamedTuple

import numpy as np

from anchordetr_jax.errors import UserError

OVERLAP = 0.2
"""The share of a tile's side that it has in common with the next tile, at least."""
EDGE = 0.015
"""A box that ends within this share of a tile's side from the tile's edge counts as cut by it."""
SAME_OBJECT = 0.5
"""Boxes of two views with at least this IoU are of one object."""
PART = 0.7
"""A cut box is a part of another box if at least this share of it is inside."""
PIECES = 0.5
"""A piece of an object scores at least this share of the best piece's score."""


class Found(NamedTuple):
    """N detections from several views of one picture."""

    scores: np.ndarray
    """[N]."""
    labels: np.ndarray
    """int [N]."""
    boxes: np.ndarray
    """[N, 4]."""
    views: np.ndarray
    """int [N]: the view of each detection."""


def check_tiles(tiles: int, overlap: float) -> None:
    """Raises `UserError` for a size or an overlap of tiles that makes no sense."""
    if tiles < 32:
        raise UserError(f"The size of the tiles must be at least 32 pixels, not {tiles}.")
    if not 0 <= overlap <= 0.9:
        raise UserError(f"The overlap of the tiles must be between 0 and 0.9 of their size, not {overlap:g}.")


def tile_rectangles(size: tuple[int, int], tile: int, overlap: float = OVERLAP) -> np.ndarray:
    """The rectangles of a picture's views, int [V, 4]: the whole picture first, then its tiles.

    Tiles have `tile` pixels a side, or the picture's side where that is less. They are spread evenly and overlap by at
    least the share `overlap` of `tile`. A picture that is no larger than a tile has no tiles.

    Args:
        size: (height, width) of the picture.
        tile: the side of a tile in pixels.
        overlap: between 0 and 0.9.
    """
    height, width = size
    rectangles = [(0, 0, width, height)]
    if max(size) > tile:
        rows, columns = (_starts(side, tile, overlap) for side in size)
        rectangles += [
            (left, top, min(left + tile, width), min(top + tile, height)) for top in rows for left in columns
        ]
    return np.array(rectangles, np.int64)


def _starts(side: int, tile: int, overlap: float) -> list[int]:
    if side <= tile:
        return [0]
    count = math.ceil((side - tile) / (tile * (1 - overlap))) + 1
    return np.linspace(0, side - tile, count).round().astype(int).tolist()


def merged(found: Found, rectangles: np.ndarray) -> Found:
    """One list of detections, in descending order of their scores. Each object stands in it once.

    Within a view nothing is changed: the detector itself says which objects are there. Between views:

    1. Boxes that an edge of their tile cuts are joined, if they agree where the two tiles overlap: their union is the
       box of the object.
    2. Of boxes of one class that overlap (`SAME_OBJECT`), the one with the highest score stays; those that no edge cuts
       come first.
    3. A cut box that is a part of another one of its class is left out.

    Args:
        found: the detections of all views.
        rectangles: of the views, int [V, 4]; the first is the whole picture.
    """
    sides = cut_sides(found, rectangles)
    joined, joined_cut, left = _join(found, sides, rectangles)
    everything = Found(
        *(np.concatenate([new, old[left]]) for new, old in zip(joined, found, strict=True))  # type: ignore[arg-type]
    )
    kept = _suppress(everything, np.concatenate([joined_cut, sides[left].any(axis=1)]))
    kept = kept[np.argsort(-everything.scores[kept], kind="stable")]
    return Found(*(array[kept] for array in everything))


def cut_sides(found: Found, rectangles: np.ndarray) -> np.ndarray:
    """bool [N, 4]: which sides of each box end at an edge of its view that is not an edge of the picture."""
    views = rectangles[found.views].astype(np.float64)
    whole = rectangles[0].astype(np.float64)
    margin = EDGE * np.maximum(views[:, 2] - views[:, 0], views[:, 3] - views[:, 1])
    at_start = (found.boxes[:, :2] <= views[:, :2] + margin[:, None]) & (views[:, :2] > whole[:2])
    at_end = (found.boxes[:, 2:] >= views[:, 2:] - margin[:, None]) & (views[:, 2:] < whole[2:])
    return np.concatenate([at_start, at_end], axis=1)


def _join(found: Found, sides: np.ndarray, rectangles: np.ndarray) -> tuple[Found, np.ndarray, np.ndarray]:
    """The J objects that are joined of pieces, bool [J] which of them are still cut, and bool [N] which detections are
    no such piece.

    Each object is a view of its own.
    """
    free = np.asarray(sides.any(axis=1))
    groups: list[list[int]] = []
    for seed in np.argsort(-found.scores, kind="stable").tolist():
        if not free[seed]:
            continue
        group, waiting = [seed], [seed]
        free[seed] = False
        while waiting:
            for other in _pieces_beside(waiting.pop(), found, free, rectangles, lowest=PIECES * found.scores[seed]):
                if found.views[other] not in found.views[group]:
                    free[other] = False
                    group.append(other)
                    waiting.append(other)
        if len(group) > 1:
            groups.append(group)
    boxes, cut = [], []
    for group in groups:
        # The piece that reaches furthest decides where the object ends, and whether it is cut there.
        furthest = [*found.boxes[group, :2].argmin(axis=0), *found.boxes[group, 2:].argmax(axis=0)]
        boxes.append([found.boxes[group[piece], side] for side, piece in enumerate(furthest)])
        cut.append(any(sides[group[piece], side] for side, piece in enumerate(furthest)))
    joined = Found(
        scores=np.array([found.scores[g].max() for g in groups], found.scores.dtype),
        labels=np.array([found.labels[g[0]] for g in groups], found.labels.dtype),
        boxes=np.array(boxes, found.boxes.dtype).reshape(-1, 4),
        views=-1 - np.arange(len(groups)),
    )
    left = np.ones(len(found.scores), bool)
    left[[place for group in groups for place in group]] = False
    return joined, np.array(cut, bool), left


def _pieces_beside(piece: int, found: Found, free: np.ndarray, rectangles: np.ndarray, *, lowest: float) -> list[int]:
    """Of each other view the piece that agrees best with a piece, where the two views overlap."""
    possible = np.flatnonzero(
        free & (found.labels == found.labels[piece]) & (found.views != found.views[piece]) & (found.scores >= lowest)
    )
    mine, theirs = rectangles[found.views[piece]], rectangles[found.views[possible]]
    common = np.concatenate([np.maximum(mine[:2], theirs[:, :2]), np.minimum(mine[2:], theirs[:, 2:])], axis=1)
    agreement = paired_iou(_clipped(found.boxes[piece][None], common), _clipped(found.boxes[possible], common))
    best: dict[int, int] = {}
    for place in np.argsort(-agreement, kind="stable").tolist():
        if agreement[place] >= SAME_OBJECT:
            best.setdefault(int(found.views[possible[place]]), int(possible[place]))
    return list(best.values())


def _clipped(boxes: np.ndarray, rectangles: np.ndarray) -> np.ndarray:
    """Each box inside its rectangle, [n, 4]; without an area where they have nothing in common."""
    return np.concatenate(
        [np.maximum(boxes[:, :2], rectangles[:, :2]), np.minimum(boxes[:, 2:], rectangles[:, 2:])], axis=1
    )


def _suppress(found: Found, cut: np.ndarray) -> np.ndarray:
    """The indices of the detections that stay."""
    kept: list[int] = []
    for label in np.unique(found.labels):
        places = np.flatnonzero(found.labels == label)
        places = places[np.lexsort((-found.scores[places], cut[places]))]
        boxes, views = found.boxes[places].astype(np.float64), found.views[places]
        stays = np.zeros(len(places), bool)
        for i in range(len(places)):
            before = np.flatnonzero(stays[:i] & (views[:i] != views[i]))
            common, union = _areas(boxes[i][None], boxes[before])
            covered = common >= SAME_OBJECT * union
            if cut[places[i]]:
                covered |= common >= PART * _area(boxes[i][None])
            stays[i] = not covered.any()
        kept += places[stays].tolist()
    return np.array(kept, np.int64)


def paired_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[n]: the IoU of each box with the other one at its place; 0 where a box has no area."""
    common, union = _areas(boxes, others)
    return np.where(union > 0, common / np.maximum(union, 1e-12), 0.0)


def _areas(boxes: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[n]: the areas that pairs of boxes have in common, and together."""
    common = _area(_clipped(boxes, others)) if len(others) else np.zeros(0)
    return common, _area(boxes) + _area(others) - common


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]).clip(0) * (boxes[:, 3] - boxes[:, 1]).clip(0)
