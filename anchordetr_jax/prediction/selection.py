"""Which detections of the network a person gets: those of known classes, finite, above the threshold."""

from collections.abc import Mapping

import numpy as np

from anchordetr_jax.errors import UserError
from anchordetr_jax.prediction.detections import Detections, check_threshold
from anchordetr_jax.prediction.network import ImageDetections


def check_limits(threshold: float | None, batch_size: int) -> None:
    """Raises `UserError` for a threshold that is no score, or no images at a time."""
    if threshold is not None:
        check_threshold(threshold)
    if batch_size < 1:
        raise UserError(f"The batch size must be at least 1, not {batch_size}.")


def selected(
    found: ImageDetections,
    names: Mapping[int, str],
    category_ids: Mapping[int, int],
    thresholds: Mapping[int, float],
    source: str | None = None,
) -> Detections:
    """The detections that score at least the threshold of their class, with boxes clipped to the image.

    Detections that are not finite are left out and counted.

    Args:
        found: all detections for the image.
        names: class names by class output. Detections of other outputs are left out: these stand for no class.
        category_ids, thresholds: by class output, for the same outputs.
        source: the file of the image.
    """
    size, scores, labels, boxes = found
    height, width = size
    known = np.array([label in names for label in labels.tolist()], bool)
    finite = np.isfinite(scores) & np.isfinite(boxes).all(axis=1)
    lowest = np.array([thresholds.get(label, np.inf) for label in labels.tolist()], scores.dtype)
    kept = known & finite & (scores >= lowest)
    return Detections(
        boxes=boxes[kept].clip(0, np.array([width, height, width, height], boxes.dtype)),
        scores=scores[kept],
        labels=labels[kept],
        names=tuple(names[label] for label in labels[kept].tolist()),
        category_ids=np.array([category_ids[label] for label in labels[kept].tolist()], np.int32),
        image_size=size,
        source=source,
        classes=tuple(names.values()),
        best_score=float(scores[known & finite].max(initial=0)),
        not_finite=int(np.count_nonzero(known & ~finite)),
    )
