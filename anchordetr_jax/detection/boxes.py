"""Geometry of axis-aligned boxes.

Boxes are float arrays [..., 4], either cxcywh (centre, width, height) or xyxy (left, top, right, bottom), in any unit as long
as it is the same for all. Overlaps are taken between xyxy boxes.
"""

import jax
import jax.numpy as jnp

# Areas below this count as none. It is the smallest whose square (which the gradient of a quotient divides by) float32 holds;
# a box of relative area 1e-18 is far below a pixel.
_SMALLEST_AREA = 1e-18


def cxcywh_to_xyxy(boxes: jax.Array) -> jax.Array:
    """Boxes [..., 4] from (centre x, centre y, width, height) to (left, top, right, bottom)."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return jnp.concatenate([centre - 0.5 * size, centre + 0.5 * size], axis=-1)


def xyxy_to_cxcywh(boxes: jax.Array) -> jax.Array:
    """Boxes [..., 4] from (left, top, right, bottom) to (centre x, centre y, width, height)."""
    top_left, bottom_right = boxes[..., :2], boxes[..., 2:]
    return jnp.concatenate([(top_left + bottom_right) / 2, bottom_right - top_left], axis=-1)


def box_area(boxes: jax.Array) -> jax.Array:
    """Areas [...] of xyxy boxes [..., 4]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(boxes: jax.Array, others: jax.Array) -> jax.Array:
    """Intersection over union [...] of xyxy boxes [..., 4] with others, one by one; 0 where neither has an area."""
    return _overlap(boxes, others)[0]


def giou(boxes: jax.Array, others: jax.Array) -> jax.Array:
    """Generalised intersection over union [...] of xyxy boxes [..., 4] with others, one by one (arXiv 1902.09630).

    IoU minus the share of the enclosing box that neither covers: 1 for equal boxes, towards -1 for small ones far apart. Never
    NaN, nor is its gradient: a union or an enclosing box without area adds 0.
    """
    overlap, union = _overlap(boxes, others)
    top_left = jnp.minimum(boxes[..., :2], others[..., :2])
    bottom_right = jnp.maximum(boxes[..., 2:], others[..., 2:])
    enclosing = _product(_not_negative(bottom_right - top_left))
    return overlap - _quotient(enclosing - union, enclosing)


def pairwise_iou(boxes: jax.Array, others: jax.Array) -> jax.Array:
    """Intersection over union [..., N, M] of every xyxy box of [..., N, 4] with every one of [..., M, 4]."""
    return iou(boxes[..., :, None, :], others[..., None, :, :])


def pairwise_giou(boxes: jax.Array, others: jax.Array) -> jax.Array:
    """Generalised intersection over union [..., N, M] of every xyxy box of [..., N, 4] with every one of [..., M, 4]."""
    return giou(boxes[..., :, None, :], others[..., None, :, :])


def _overlap(boxes: jax.Array, others: jax.Array) -> tuple[jax.Array, jax.Array]:
    """IoU and area of the union."""
    top_left = jnp.maximum(boxes[..., :2], others[..., :2])
    bottom_right = jnp.minimum(boxes[..., 2:], others[..., 2:])
    intersection = _product(_not_negative(bottom_right - top_left))
    union = box_area(boxes) + box_area(others) - intersection
    return _quotient(intersection, union), union


def _product(sides: jax.Array) -> jax.Array:
    return sides[..., 0] * sides[..., 1]


def _not_negative(sides: jax.Array) -> jax.Array:
    # Not jnp.maximum, whose gradient is 1/2 at 0: boxes that just touch must be drawn together as in the official loss.
    return jnp.where(sides < 0, jnp.zeros_like(sides), sides)


def _quotient(part: jax.Array, whole: jax.Array) -> jax.Array:
    """part / whole, and 0 with gradient 0 where the whole is nothing."""
    some = whole > _SMALLEST_AREA
    return jnp.where(some, part / jnp.where(some, whole, 1), 0)
