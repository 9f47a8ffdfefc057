"""From detections on the host to entries of COCO's result format."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from anchordetr_jax.data.categories import Categories

BOX_DECIMALS = 3
SCORE_DECIMALS = 8


class DatasetDetections(NamedTuple):
    """Detections of n images on the host, with the row of each image in the data set."""

    rows: np.ndarray
    """int [n]; -1 for fillers of a batch."""
    readable: np.ndarray
    """bool [n]; False where the image could not be read. Its detections mean nothing."""
    scores: np.ndarray
    """float [n,D]."""
    labels: np.ndarray
    """int32 [n,D]."""
    boxes: np.ndarray
    """float [n,D,4], xyxy in pixels of the original image."""
    left_out: np.ndarray
    """int32 [n]: the number of further detections, which are left out already because they are not finite."""


def joined(parts: Sequence[DatasetDetections]) -> DatasetDetections:
    """The images of all parts, in their order. There is at least one part."""
    return DatasetDetections(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def not_finite_sentence(count: int) -> str:
    """What to say about detections that are left out because they are not finite."""
    return (
        f"{count} detections were left out because their score or box is not finite (NaN or infinite): check the "
        "weights, or compute in float32."
    )


def coco_results(
    images: DatasetDetections, image_ids: Sequence[int], categories: Categories
) -> tuple[list[dict[str, Any]], int]:
    """Detections as COCO result entries.

    The list is in the order of the image ids, and each image's entries are in the order of their scores, so that it
    does not depend on the batches. Boxes are rounded to a thousandth of a pixel and scores to 8 decimals. These are
    left out: fillers, images that could not be read, class outputs without a category (pycocotools would ignore them, a
    server might refuse them), and detections that are not finite.

    Args:
        images: those of all images, in any order.
        image_ids: COCO's image id of each row.
        categories: give the category of each class output.

    Returns:
        The entries {"image_id", "category_id", "bbox": [x, y, width, height] in pixels, "score"}, and the number of
        detections that are left out because their score or box is not finite.
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
    return entries, int(np.count_nonzero(~finite[real]) + images.left_out[real].sum())
