"""Of all detections of the network, a person gets those of known classes above the threshold."""

from collections.abc import Sequence

import numpy as np
import pytest

from anchordetr_jax.errors import UserError
from anchordetr_jax.prediction.network import ImageDetections
from anchordetr_jax.prediction.selection import check_limits, selected

NAMES, IDS = {0: "cat", 2: "dog"}, {0: 3, 2: 7}


def found(*entries: tuple[int, float, Sequence[float]]) -> ImageDetections:
    """Detections of (class output, score, box) in an image of 20 x 40 pixels."""
    labels, scores, boxes = zip(*entries, strict=True)
    return ImageDetections((20, 40), np.array(scores, np.float32), np.array(labels), np.array(boxes, np.float32))


def test_each_class_has_its_threshold_and_outputs_without_a_class_are_left_out() -> None:
    box = [1, 2, 3, 4]
    given = found((1, 0.9, box), (2, 0.7, box), (0, 0.6, box), (2, 0.5, box), (0, 0.4, box))
    kept = selected(given, NAMES, IDS, {0: 0.4, 2: 0.6}, "a.png")
    assert [(one.name, one.category_id) for one in kept] == [("dog", 7), ("cat", 3), ("cat", 3)]
    np.testing.assert_allclose(kept.scores, [0.7, 0.6, 0.4])
    assert (kept.source, kept.image_size, kept.classes, kept.not_finite) == ("a.png", (20, 40), ("cat", "dog"), 0)
    assert kept.best_score == pytest.approx(0.7)


def test_boxes_end_at_the_edges_of_the_image() -> None:
    kept = selected(found((0, 0.9, [-3, 2, 50, 21])), NAMES, IDS, {0: 0.5, 2: 0.5})
    assert kept.boxes.tolist() == [[0, 2, 40, 20]]


def test_detections_that_are_not_finite_are_left_out_and_counted() -> None:
    nan, box = float("nan"), [1, 2, 3, 4]
    given = found((0, 0.9, [1, 2, nan, 4]), (0, nan, box), (1, nan, box), (2, 0.8, box))
    kept = selected(given, NAMES, IDS, {0: 0.0, 2: 0.0})
    assert (kept.names, kept.not_finite) == (("dog",), 2)


@pytest.mark.parametrize(("threshold", "batch_size", "message"), [(1.5, 8, "between 0 and 1"), (0.5, 0, "at least 1")])
def test_limits_that_mean_nothing_are_refused(threshold: float, batch_size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_limits(threshold, batch_size)
