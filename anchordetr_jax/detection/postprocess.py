"""From predictions to the best detections."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from anchordetr_jax.detection.boxes import cxcywh_to_xyxy


class TopDetections(NamedTuple):
    """The D best detections of B images, best first."""

    scores: jax.Array
    """float [B, D], between 0 and 1."""
    labels: jax.Array
    """int32 [B, D], class outputs."""
    boxes: jax.Array
    """float [B, D, 4], xyxy in pixels of the original image; not clipped to it."""


def top_detections(
    logits: jax.Array, boxes: jax.Array, original_sizes: jax.Array, max_detections: int = 100
) -> TopDetections:
    """The best pairs of a query and a class, by sigmoid score. One query may be reported under several classes.

    Args:
        logits: [B, Q, K] of the last decoder layer.
        boxes: [B, Q, 4], cxcywh relative to the valid image.
        original_sizes: int [B, 2], (height, width) in pixels of the image before it was resized.
        max_detections: the number of detections to report; all Q * K if that is fewer.

    Returns:
        Detections in float32, or float64 if the predictions are. With equal scores the lower query comes first, then
        the lower class.
    """
    images, queries, classes = logits.shape
    dtype = jnp.promote_types(jnp.promote_types(logits.dtype, boxes.dtype), jnp.float32)
    scores = jax.nn.sigmoid(logits.astype(dtype)).reshape(images, queries * classes)
    scores, pairs = lax.top_k(scores, min(max_detections, queries * classes))
    # ONNX's converter knows only this form of a quotient, and no remainder, for a batch of any size.
    best = lax.div(pairs, jnp.full_like(pairs, classes))
    corners = jnp.take_along_axis(cxcywh_to_xyxy(boxes.astype(dtype)), best[..., None], axis=1)
    height, width = original_sizes[:, 0], original_sizes[:, 1]
    scale = jnp.stack([width, height, width, height], axis=-1).astype(dtype)
    return TopDetections(scores, (pairs - best * classes).astype(jnp.int32), corners * scale[:, None, :])
