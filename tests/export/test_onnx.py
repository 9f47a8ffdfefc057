"""What counts as the same detections, where an ONNX model is compared with its detector."""

import numpy as np
import pytest

from anchordetr_jax.detection.postprocess import TopDetections
from anchordetr_jax.errors import UserError
from anchordetr_jax.export.onnx import FLOAT16, FLOAT32, Closeness, differences


def detections(scores: list[float]) -> TopDetections:
    """One image with a box for each score, of one class."""
    corners = 10.0 * np.arange(len(scores))
    boxes = np.stack([corners, corners, corners + 5, corners + 5], axis=-1)
    return TopDetections(np.array([scores]), np.zeros((1, len(scores)), np.int32), boxes[None])  # type: ignore[arg-type]


def moved(all_of_them: TopDetections, *places: int) -> TopDetections:
    """The detections with some boxes elsewhere."""
    boxes = np.array(all_of_them.boxes)
    boxes[:, list(places)] += 5000
    return all_of_them._replace(boxes=boxes)  # type: ignore[arg-type]


@pytest.mark.parametrize("closeness", [FLOAT16, FLOAT32])
def test_boxes_of_low_scores_are_compared(closeness: Closeness) -> None:
    low = detections([0.09, 0.05, 0.02])
    with pytest.raises(UserError, match=r"boxes by up to 5e\+03 pixels"):
        differences(moved(low, 0, 1, 2), low, 320, closeness)
    assert "the 2 best boxes by 0.0e+00 pixels" in differences(low, low, 320, closeness)


def test_a_box_that_scores_nearly_as_the_last_one_may_be_another() -> None:
    close = detections([0.09, 0.022, 0.02])
    assert "the 1 best boxes" in differences(moved(close, 1, 2), close, 320, FLOAT16)
    high = detections([0.9, 0.58, 0.5])
    assert "the 1 best boxes" in differences(moved(high, 1, 2), high, 320, FLOAT16)


def test_it_is_said_where_no_box_is_compared() -> None:
    equal = detections([0.0102, 0.0101, 0.01])
    assert differences(equal, equal, 320, FLOAT16).endswith(
        "No box was compared, because all scores on noise are nearly equal"
    )
