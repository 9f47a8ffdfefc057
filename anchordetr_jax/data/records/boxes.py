"""Boxes of a data set: in pixels, inside their images, and in the form that they claim to have."""

import numpy as np

OVERHANG = 1.0
"""Pixels by which a box may exceed its image: rounding does that."""
FEW = 4
"""Fewer boxes than this can look like corners by chance."""
SENSIBLE = 0.95
"""The share of boxes that must make sense as corners."""


def boxes_by_row(
    xywh: np.ndarray, labels: np.ndarray, crowds: np.ndarray, rows: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The objects to be found among m annotations of n images: those that are no crowd regions and have an area.

    Args:
        xywh: float64 [m, 4] in pixels.
        labels: int [m].
        crowds: bool [m].
        rows: int [m]: the image of each annotation.
        sizes: int [n, 2]: (height, width) of the images, to which boxes are clipped.

    Returns:
        Boxes float32 [k, 4], xyxy in pixels, image after image; their labels int32 [k]; and int64 [n + 1], the place
        where the boxes of each image begin.
    """
    boxes = clipped_corners(xywh, sizes[rows])
    kept = np.flatnonzero(~crowds & has_area(boxes))
    kept = kept[np.argsort(rows[kept], kind="stable")]
    return boxes[kept], labels[kept].astype(np.int32), np.searchsorted(rows[kept], np.arange(len(sizes) + 1))


def clipped_corners(xywh: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """float32 [m, 4]: xyxy of boxes (float64 [m, 4]), clipped to their images of the given (h, w) (int [m, 2])."""
    bounds = np.tile(sizes[:, ::-1], 2).astype(np.float64)
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1).clip(0, bounds).astype(np.float32)


def has_area(corners: np.ndarray) -> np.ndarray:
    """bool [m]: whether boxes (xyxy) have an area."""
    return np.asarray((corners[:, 2:] > corners[:, :2]).all(axis=1))


def overhang(xywh: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """float64 [m]: pixels by which boxes reach over the edge of their images, 0 where they do not."""
    beyond = np.concatenate([-xywh[:, :2], xywh[:, :2] + xywh[:, 2:] - sizes[:, ::-1]], axis=1)
    return beyond.max(axis=1, initial=0.0)


def look_for_another_form(xywh: np.ndarray, areas: np.ndarray, sizes: np.ndarray) -> tuple[str, str] | None:
    """What boxes are that are not x, y, width, height in pixels: kind and detail; None where nothing speaks for it.

    Args:
        xywh: float64 [m, 4], the numbers as they are given.
        areas: float64 [m] in the records, NaN where there is none.
        sizes: int [m, 2]: (height, width) of their images.
    """
    total = len(xywh)
    if not total:
        return None
    relative = ((xywh >= 0) & (xywh <= 1)).all(axis=1) & (xywh[:, 2:] > 0).all(axis=1) & (sizes.min(axis=1) > 2)
    count = int(relative.sum())
    if 2 * count > total and (xywh[relative] % 1 != 0).any():
        return (
            "boxes relative to their images",
            f"{count} of {total} boxes lie within 0 and 1: they are given as shares of the image; multiply them by its "
            f"width and height",
        )
    return _corners(xywh, areas, sizes)


def _corners(xywh: np.ndarray, areas: np.ndarray, sizes: np.ndarray) -> tuple[str, str] | None:
    """Tells boxes that are x1, y1, x2, y2.

    Nearly all of them must make sense as corners. Then one of three facts speaks for corners. As x, y, width, height,
    many boxes end beyond their images. Or the areas are those of the boxes between the corners. Or (where areas are
    those of outlines) no area exceeds the box between the corners, and all are far smaller than width x height.
    """
    flat = (xywh[:, 2:] == xywh[:, :2]).any(axis=1)  # Corners of a box without area.
    first, second = xywh[:, :2], xywh[:, 2:]
    sensible = ((second >= first) & (second <= sizes[:, ::-1] + OVERHANG) & (first >= -OVERHANG)).all(1)
    if sensible.mean() < SENSIBLE or 2 * int(flat.sum()) > len(xywh) or int((sensible & ~flat).sum()) < FEW:
        return None
    xywh, areas, sizes = (values[sensible & ~flat] for values in (xywh, areas, sizes))
    first, second, total = xywh[:, :2], xywh[:, 2:], len(xywh)
    sides = second - first
    with np.errstate(invalid="ignore"):
        between, product = sides.prod(axis=1), second.prod(axis=1)
        beyond = overhang(xywh, sizes) > OVERHANG
        margin = np.maximum(1.0, 0.01 * between)
        exact = (np.abs(areas - between) <= margin) | (np.abs(areas - (sides + 1).prod(axis=1)) <= margin)
        exact &= np.abs(areas - product) > np.maximum(1.0, 0.01 * product)
        fitting = areas <= between + margin
        smaller = 2 * np.median(areas / product) < np.median(areas / between)
    clear = "boxes are x1, y1, x2, y2 instead of x, y, width, height: subtract x1 from x2, and y1 from y2"
    if 2 * int(exact.sum()) > total:
        why = f"{int(exact.sum())} of {total} areas are (x2 - x1) * (y2 - y1)"
    elif 5 * int(beyond.sum()) >= total:
        why = f"all {total} make sense so, and {int(beyond.sum())} end beyond their images otherwise"
    elif fitting.all() and bool(smaller):
        why = f"all {total} areas fit into the boxes between the corners, and are far smaller than width x height"
    else:
        return None
    return "boxes given by their corners", f"{clear} ({why})"
