"""Detections as they come from the device to entries of COCO's result format."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from anchordetr_jax.data.categories import Categories

BOX_DECIMALS = 3
SCORE_DECIMALS = 8


class ImageDetections(NamedTuple):
    """Detections of n images on the host, with the rows of the data set that they belong to."""

    rows: np.ndarray
    """int [n]; -1 for fillers of a batch, which are no images."""
    readable: np.ndarray
    """bool [n]; False where no pixels could be read, so that the detections mean nothing."""
    scores: np.ndarray
    """float [n,D]."""
    labels: np.ndarray
    """int32 [n,D]."""
    boxes: np.ndarray
    """float [n,D,4], xyxy in pixels of the original image."""


def joined(parts: Sequence[ImageDetections]) -> ImageDetections:
    """The images of all parts (at least one), in their order."""
    return ImageDetections(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def coco_results(
    images: ImageDetections, image_ids: Sequence[int], categories: Categories
) -> tuple[list[dict[str, Any]], int]:
    """Detections as COCO result entries.

    The list is in the order of the image ids, each image's entries with the best score first, so that it does not
    depend on how images were batched. Boxes are rounded to a thousandth of a pixel and scores to 8 decimals. Left out
    are fillers, images that could not be read, class outputs that no category has (pycocotools would ignore them, a
    server might refuse them), and whatever is not finite.

    Args:
        images: of all images, in any order.
        image_ids: COCO's image id by row.
        categories: tell the category of a class output.

    Returns:
        The entries {"image_id", "category_id", "bbox": [x, y, width, height] in pixels, "score"}, and the number of
        detections that were left out because their score or box was not finite.
    """
    corners = np.asarray(images.boxes, np.float64)
    sides = np.concatenate([corners[..., :2], corners[..., 2:] - corners[..., :2]], axis=-1)
    rounded_boxes = np.round(sides, BOX_DECIMALS)
    rounded_scores = np.round(np.asarray(images.scores, np.float64), SCORE_DECIMALS)
    finite = np.isfinite(rounded_boxes).all(axis=-1) & np.isfinite(rounded_scores)
    category_ids = {int(label): categories.category_of(int(label)) for label in np.unique(images.labels)}

    rows = images.rows.tolist()
    real = [i for i, row in enumerate(rows) if row >= 0 and images.readable[i]]
    real.sort(key=lambda i: image_ids[rows[i]])
    entries = []
    for i in real:
        image_id = image_ids[rows[i]]
        for score, label, box, is_finite in zip(
            rounded_scores[i].tolist(),
            images.labels[i].tolist(),
            rounded_boxes[i].tolist(),
            finite[i].tolist(),
            strict=True,
        ):
            category_id = category_ids[label]
            if is_finite and category_id is not None:
                entries.append({"image_id": image_id, "category_id": category_id, "bbox": box, "score": score})
    return entries, int(np.count_nonzero(~finite[real]))
