import jax.numpy as jnp
import numpy as np
import pytest

from anchordetr_jax.detection.postprocess import top_detections
from tests.tolerances import EXACT64


@pytest.mark.usefixtures("x64")
def test_detections_equal_the_official_ones(official):
    found = top_detections(official["logits"][-1], official["boxes"][-1], official["original_sizes"], 20)
    np.testing.assert_allclose(found.scores, official["post/scores"], atol=EXACT64)
    np.testing.assert_array_equal(found.labels, official["post/labels"])
    np.testing.assert_allclose(found.boxes, official["post/boxes"], rtol=EXACT64)


def test_boxes_are_scaled_to_width_and_height_of_the_original():
    found = top_detections(
        jnp.zeros((1, 1, 1)), jnp.array([[[0.5, 0.5, 1.0, 0.5]]]), jnp.array([[100, 200]], jnp.int32), 1
    )
    np.testing.assert_array_equal(found.boxes, [[[0, 25, 200, 75]]])


def test_a_query_may_be_reported_under_several_classes():
    logits = jnp.array([[[3.0, 2.0, -5.0], [1.0, -5.0, -5.0]]])
    boxes = jnp.array([[[0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5]]])
    found = top_detections(logits, boxes, jnp.array([[10, 10]], jnp.int32), 3)
    np.testing.assert_array_equal(found.labels, [[0, 1, 0]])
    np.testing.assert_array_equal(found.boxes[0, :, 0], [0, 0, 5])


def test_of_equal_scores_the_lowest_query_and_class_come_first():
    found = top_detections(jnp.zeros((1, 3, 2)), jnp.full((1, 3, 4), 0.5), jnp.array([[8, 8]], jnp.int32), 4)
    np.testing.assert_array_equal(found.labels, [[0, 1, 0, 1]])


def test_no_more_detections_are_reported_than_pairs_exist():
    found = top_detections(jnp.zeros((2, 3, 2)), jnp.full((2, 3, 4), 0.5), jnp.full((2, 2), 8, jnp.int32), 100)
    assert found.scores.shape == (2, 6)
    assert found.boxes.shape == (2, 6, 4)


def test_bfloat16_predictions_give_float32_detections():
    boxes = jnp.full((1, 3, 4), 0.5, jnp.bfloat16)
    found = top_detections(jnp.zeros((1, 3, 2), jnp.bfloat16), boxes, jnp.array([[1333, 777]], jnp.int32), 2)
    assert found.scores.dtype == found.boxes.dtype == jnp.float32
    np.testing.assert_array_equal(found.boxes[0, 0], [777 / 4, 1333 / 4, 777 * 3 / 4, 1333 * 3 / 4])
