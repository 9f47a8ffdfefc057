"""Bipartite matching of queries and targets with the least cost, separately for each decoder layer.

As in DETR (arXiv 2005.12872, section 3.1), with the focal class cost of Deformable DETR (arXiv 2010.04159).
"""

import logging
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from anchordetr_jax.config import MatcherConfig
from anchordetr_jax.detection.assignment import solve_assignments
from anchordetr_jax.detection.boxes import cxcywh_to_xyxy, pairwise_distance, pairwise_giou

_log = logging.getLogger(__name__)

# The shape of the focal loss in the class cost. The official code fixes it, whatever the settings of the loss are.
_ALPHA = 0.25
_GAMMA = 2
_EPSILON = 1e-8

# Replaces a cost that is larger or not finite. It is far above any real cost, and float32 can still add to it.
_UNUSABLE_COST = 1e6


class Targets(NamedTuple):
    """The objects of B images, padded to N rows each."""

    boxes: jax.Array
    """float [B, N, 4], cxcywh relative to the valid image."""
    labels: jax.Array
    """int32 [B, N], class outputs."""
    num_boxes: jax.Array
    """int32 [B]: the first num_boxes rows of an image are real, the others are padding with any content."""


def matching_costs(logits: jax.Array, boxes: jax.Array, targets: Targets, config: MatcherConfig) -> jax.Array:
    """The cost [L, B, N, Q] of each query for each target of its image, padding rows included.

    Args:
        logits: [L, B, Q, K] of all decoder layers.
        boxes: [L, B, Q, 4], cxcywh relative to the valid image.
        targets: of the B images.
        config: weights of the three parts (class, L1 between boxes, generalised IoU).

    Returns:
        float32, or float64 if logits and boxes are. Always finite: a prediction that is not has a large cost.
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
    """The query of each target, with the least sum of costs for each image and decoder layer.

    The arguments are those of `matching_costs`. With `config.backend == "host"` there is one host callback for
    everything. In a program over several devices it must stand inside `jax.shard_map`, so that each device calls its
    host for its own images.

    Returns:
        int32 [L, B, N]: query indices, all different within an image and layer. -1 for padding, and for the targets
        that are left over if an image has more targets than queries. No gradient flows through it.
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
    """Solves [L, B, N, Q] with scipy, real rows only. It uses numpy only: calling JAX inside a callback can hang."""
    from scipy.optimize import linear_sum_assignment  # Not above: this takes long, and few processes need it.

    costs_host, counts = np.asarray(costs), np.asarray(num_boxes)
    layers, images, rows, _ = costs_host.shape
    matches = np.full((layers, images, rows), -1, np.int32)
    for image in range(images):
        count = min(max(int(counts[image]), 0), rows)
        for layer in range(layers) if count else ():
            try:
                target, query = linear_sum_assignment(costs_host[layer, image, :count])
            except Exception:
                # Finite costs raise nothing. But an exception that leaves a callback is undefined behaviour.
                _log.exception("Matching image %d, decoder layer %d failed: its targets stay unmatched.", image, layer)
                continue
            matches[layer, image, target] = query
    return matches
