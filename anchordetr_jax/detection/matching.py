"""Which query answers for which target: bipartite matching of least cost, each decoder layer afresh.

As in DETR (arXiv 2005.12872, section 3.1), with the focal class cost of Deformable DETR (arXiv 2010.04159).
"""

import logging
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy.optimize import linear_sum_assignment

from anchordetr_jax.config import MatcherConfig
from anchordetr_jax.detection.assignment import solve_assignments
from anchordetr_jax.detection.boxes import cxcywh_to_xyxy, pairwise_distance, pairwise_giou

_log = logging.getLogger(__name__)

# The focal loss's shape as the class cost uses it; fixed in the official code, whatever the loss is set to.
_ALPHA = 0.25
_GAMMA = 2
_EPSILON = 1e-8

# Stands for a cost that is not finite, or larger. Far above any real one, yet float32 still adds to it.
_UNUSABLE_COST = 1e6


class Targets(NamedTuple):
    """The objects of B images, padded to N rows each."""

    boxes: jax.Array
    """float [B, N, 4], cxcywh relative to the valid image."""
    labels: jax.Array
    """int32 [B, N], class outputs."""
    num_boxes: jax.Array
    """int32 [B]: the first num_boxes rows of an image are real, the others padding of any content."""


def matching_costs(logits: jax.Array, boxes: jax.Array, targets: Targets, config: MatcherConfig) -> jax.Array:
    """The cost [L, B, N, Q] of each query for each target of its image, padding rows included.

    Args:
        logits: [L, B, Q, K] of all decoder layers.
        boxes: [L, B, Q, 4], cxcywh relative to the valid image.
        targets: of the B images.
        config: weights of the three parts (class, L1 between boxes, generalised IoU).

    Returns:
        float32, or float64 where logits and boxes are; always finite, with a large cost where a prediction is not.
    """
    dtype = jnp.promote_types(jnp.promote_types(logits.dtype, boxes.dtype), jnp.float32)
    boxes = boxes.astype(dtype)
    layers, _, queries, _ = logits.shape

    # Only the logits of classes that occur in an image are needed: [L, B, N, Q].
    labels = jnp.clip(targets.labels, 0, logits.shape[-1] - 1)
    index = jnp.broadcast_to(labels[None, :, None, :], (layers, labels.shape[0], queries, labels.shape[1]))
    probability = jax.nn.sigmoid(jnp.swapaxes(jnp.take_along_axis(logits, index, axis=-1), -1, -2).astype(dtype))
    positive = _ALPHA * (1 - probability) ** _GAMMA * -jnp.log(probability + _EPSILON)
    negative = (1 - _ALPHA) * probability**_GAMMA * -jnp.log(1 - probability + _EPSILON)
    class_cost = positive - negative

    target_boxes = targets.boxes.astype(dtype)[None]
    box_cost = pairwise_distance(target_boxes, boxes)
    giou_cost = -pairwise_giou(cxcywh_to_xyxy(target_boxes), cxcywh_to_xyxy(boxes))

    costs = config.box_cost * box_cost + config.class_cost * class_cost + config.giou_cost * giou_cost
    return jnp.where(jnp.abs(costs) < _UNUSABLE_COST, costs, _UNUSABLE_COST)


def match(logits: jax.Array, boxes: jax.Array, targets: Targets, config: MatcherConfig) -> jax.Array:
    """The query of each target, so that the costs of each image and decoder layer add up to the least.

    Arguments as in `matching_costs`. With `config.backend == "host"` the computation holds one host callback for
    everything; in a program over several devices it must stand inside `jax.shard_map`, so that each device calls back
    for its own images.

    Returns:
        int32 [L, B, N]: query indices, different ones within an image and layer. -1 for padding and, where an image has
        more targets than there are queries, for the targets left over. No gradient flows through it.
    """
    logits, boxes, targets = lax.stop_gradient((logits, boxes, targets))
    costs = matching_costs(logits, boxes, targets, config)
    layers, images, rows, queries = costs.shape
    if config.backend == "device":
        num_rows = jnp.broadcast_to(targets.num_boxes[None], (layers, images)).reshape(-1)
        return solve_assignments(costs.reshape(layers * images, rows, queries), num_rows).reshape(layers, images, rows)
    result = jax.ShapeDtypeStruct((layers, images, rows), jnp.int32)
    return jax.pure_callback(_solve_on_host, result, costs, targets.num_boxes)


def _solve_on_host(costs: jax.Array, num_boxes: jax.Array) -> np.ndarray:
    """Solves [L, B, N, Q] with scipy, real rows only. Uses numpy alone, as calling JAX inside a callback can hang."""
    costs_host, counts = np.asarray(costs), np.asarray(num_boxes)
    layers, images, rows, _ = costs_host.shape
    matches = np.full((layers, images, rows), -1, np.int32)
    for image in range(images):
        count = min(max(int(counts[image]), 0), rows)
        for layer in range(layers) if count else ():
            try:
                target, query = linear_sum_assignment(costs_host[layer, image, :count])
            except Exception:
                # None is expected, the costs being finite; but one that left a callback would be undefined behaviour.
                _log.exception("Matching image %d, decoder layer %d failed: its targets go unmatched.", image, layer)
                continue
            matches[layer, image, target] = query
    return matches
