"""Geometry of axis-aligned boxes.

Boxes are float arrays [..., 4], either cxcywh (centre, width, height) or xyxy (left, top, right, bottom), in any unit
as long as it is the same for all. Overlaps are taken between xyxy boxes.
"""

import jax
import jax.numpy as jnp

# Areas below this count as zero. The gradient of a quotient divides by the square of the area, and float32 holds no
# smaller square than that of 1e-18. Such a relative area is far below a pixel.
_SMALLEST_AREA = 1e-18


def cxcywh_to_xyxy(boxes: jax.Array) -> jax.Array:
    """Boxes [..., 4] from (centre x, centre y, width, height) to (left, top, right, bottom)."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return jnp.concatenate([centre - 0.5 * size, centre + 0.5 * size], axis=-1)


def iou(boxes: jax.Array, others: jax.Array) -> jax.Array:
    """Intersection over union [...] of xyxy boxes [..., 4] with others, one by one; 0 if neither has an area."""
    return _overlap(_edges(boxes), _edges(others))[0]


def giou(boxes: jax.Array, others: jax.Array) -> jax.Array:
    """Generalised intersection over union [...] of xyxy boxes [..., 4] with others, one by one (arXiv 1902.09630).

    IoU minus the share of the enclosing box that neither box covers: 1 for equal boxes, near -1 for small boxes far
    apart. Neither it nor its gradient is ever NaN: a union or an enclosing box without area adds 0.
    """
    return _giou(_edges(boxes), _edges(others))


def pairwise_giou(boxes: jax.Array, others: jax.Array) -> jax.Array:
    """Generalised intersection over union [..., N, M] of all xyxy boxes [..., N, 4] with all others [..., M, 4]."""
    return _giou(*_paired(boxes, others))


def pairwise_distance(boxes: jax.Array, others: jax.Array) -> jax.Array:
    """L1 distance [..., N, M] between the four numbers of boxes [..., N, 4] and those of others [..., M, 4]."""
    (a, b, c, d), (e, f, g, h) = _paired(boxes, others)
    return jnp.abs(a - e) + jnp.abs(b - f) + jnp.abs(c - g) + jnp.abs(d - h)


# The four edges are separate arrays: an array with a last axis of length 4 wastes most of a vector register.
_Edges = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def _edges(boxes: jax.Array) -> _Edges:
    return boxes[..., 0], boxes[..., 1], boxes[..., 2], boxes[..., 3]


def _paired(boxes: jax.Array, others: jax.Array) -> tuple[_Edges, _Edges]:
    return _edges(boxes[..., :, None, :]), _edges(others[..., None, :, :])


def _giou(boxes: _Edges, others: _Edges) -> jax.Array:
    overlap, union = _overlap(boxes, others)
    width = jnp.maximum(boxes[2], others[2]) - jnp.minimum(boxes[0], others[0])
    height = jnp.maximum(boxes[3], others[3]) - jnp.minimum(boxes[1], others[1])
    enclosing = _not_negative(width) * _not_negative(height)
    return overlap - _quotient(enclosing - union, enclosing)


def _overlap(boxes: _Edges, others: _Edges) -> tuple[jax.Array, jax.Array]:
    """IoU and area of the union."""
    width = jnp.minimum(boxes[2], others[2]) - jnp.maximum(boxes[0], others[0])
    height = jnp.minimum(boxes[3], others[3]) - jnp.maximum(boxes[1], others[1])
    intersection = _not_negative(width) * _not_negative(height)
    union = _area(boxes) + _area(others) - intersection
    return _quotient(intersection, union), union


def _area(edges: _Edges) -> jax.Array:
    left, top, right, bottom = edges
    return (right - left) * (bottom - top)


def _not_negative(length: jax.Array) -> jax.Array:
    # jnp.maximum has the gradient 1/2 at 0. The official loss has 1 there, for boxes that just touch.
    return jnp.where(length < 0, 0, length)


def _quotient(part: jax.Array, whole: jax.Array) -> jax.Array:
    """part / whole; 0 with gradient 0 where the whole has no area."""
    some = whole > _SMALLEST_AREA
    return jnp.where(some, part / jnp.where(some, whole, 1), 0)
