"""The set loss: classification over all queries, L1 and generalised IoU over matched pairs.

As in DETR (arXiv 2005.12872, section 3.1), with sigmoid focal loss (arXiv 1708.02002) in place of the softmax; or, as a
choice, with the IoU-aware loss of Align-DETR (arXiv 2304.07527).
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from anchordetr_jax.config import LossConfig
from anchordetr_jax.detection.boxes import cxcywh_to_xyxy, giou, iou
from anchordetr_jax.detection.matching import Targets

IOU_EXPONENT = 0.75
"""Share of the IoU in the target of the IoU-aware loss. The score has the rest."""


def detection_losses(
    logits: jax.Array,
    boxes: jax.Array,
    targets: Targets,
    matches: jax.Array,
    *,
    num_boxes: jax.Array | float,
    config: LossConfig,
    image_weights: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """The losses of each decoder layer, unweighted.

    Args:
        logits: [L, B, Q, K].
        boxes: [L, B, Q, 4], cxcywh relative to the valid image.
        targets: of the B images.
        matches: int [L, B, N], the query of each target, -1 for none (from `matching.match`).
        num_boxes: the divisor of the sums: the number of boxes of the whole batch, over all devices and accumulated
            parts. At least 1 is used.
        config: form of the classification loss.
        image_weights: float [B], 1 for real images and 0 for fillers, which contribute nothing whatever they contain.

    Returns:
        "class", "box" and "giou", [L] each: sums over images, queries and classes, or over images and matched pairs,
        divided by `num_boxes`, in float32, or float64 if the predictions are. "matched" and "right", int32 scalars:
        the number of matched queries of the last layer, and the number of them whose best class is their target's (see
        `class_error`).
    """
    dtype = jnp.promote_types(jnp.promote_types(logits.dtype, boxes.dtype), jnp.float32)
    logits, boxes = logits.astype(dtype), boxes.astype(dtype)
    num_boxes = jnp.maximum(jnp.asarray(num_boxes, dtype), 1)
    layers, images, queries, _ = logits.shape
    rows = matches.shape[-1]
    weights = jnp.ones(images, dtype) if image_weights is None else image_weights.astype(dtype)

    # Entries that do not count are replaced by harmless numbers before anything is computed from them. Multiplying by
    # 0 afterwards would let NaN through, in the value or in the gradient.
    counted = (weights > 0)[None, :, None]
    logits = jnp.where(counted[..., None], logits, 0)
    real = (lax.broadcasted_iota(jnp.int32, (images, rows), 1) < targets.num_boxes[:, None])[None]
    matched = (matches >= 0) & real & counted
    pair_weights = jnp.where(matched, weights[None, :, None], 0)

    labels = jnp.broadcast_to(targets.labels[None], matches.shape)
    overlaps = jnp.zeros(matches.shape, dtype)
    box_sum = jnp.zeros(layers, dtype)
    giou_sum = jnp.zeros(layers, dtype)
    right = jnp.zeros((), jnp.int32)
    if rows > 0:
        index = jnp.clip(matches, 0, queries - 1)[..., None]
        anywhere = jnp.full((4,), 0.5, dtype)[None, None, None, :]
        predicted = jnp.where(matched[..., None], jnp.take_along_axis(boxes, index, axis=2), anywhere)
        true = jnp.where(matched[..., None], targets.boxes.astype(dtype)[None], anywhere)
        box_sum = (jnp.abs(predicted - true).sum(axis=-1) * pair_weights).sum(axis=(1, 2))
        pairs = cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(true)
        giou_sum = ((1 - giou(*pairs)) * pair_weights).sum(axis=(1, 2))
        overlaps = iou(*pairs)

        best = jnp.take_along_axis(jnp.argmax(logits[-1], axis=-1), index[-1, ..., 0], axis=1)
        right = ((best == targets.labels) & matched[-1]).sum(dtype=jnp.int32)

    label_of_query = _of_query(matches, matched, labels, queries, none=-1)
    if config.classification == "iou_aware":
        overlap_of_query = _of_query(matches, matched, overlaps, queries, none=0)
        class_losses = iou_aware_loss(logits, label_of_query, overlap_of_query, gamma=config.focal_gamma)
    else:
        class_losses = focal_loss(logits, label_of_query, alpha=config.focal_alpha, gamma=config.focal_gamma)
    class_sum = class_losses.sum(axis=(-2, -1))

    return {
        "class": (class_sum * weights[None]).sum(axis=-1) / num_boxes,
        "box": box_sum / num_boxes,
        "giou": giou_sum / num_boxes,
        "matched": matched[-1].sum(dtype=jnp.int32),
        "right": right,
    }


def class_error(right: ArrayLike, matched: ArrayLike) -> jax.Array:
    """Percentage of matched queries whose best class is not their target's: 100 - 100 * right / matched.

    100 if nothing is matched. A float scalar. The counts are those of `detection_losses`, summed over parts of a batch.
    """
    return 100 - 100 * jnp.asarray(right, float) / jnp.maximum(matched, 1)


def total_loss(losses: dict[str, jax.Array], config: LossConfig) -> jax.Array:
    """The scalar that training minimises: the weighted losses of `detection_losses`, summed over decoder layers."""
    weighted = (
        config.class_weight * losses["class"] + config.box_weight * losses["box"] + config.giou_weight * losses["giou"]
    )
    return weighted.sum()


def focal_loss(logits: jax.Array, labels: jax.Array, *, alpha: float, gamma: float) -> jax.Array:
    """Sigmoid focal loss of every logit (arXiv 1708.02002, section 3): float [..., K].

    Args:
        logits: float [..., K].
        labels: int [...], the class of each; -1 (or any number that is not a class) means none.
        alpha: weight of the positive logit; the negative ones weigh 1 - alpha.
        gamma: the focusing parameter, 0 or more: the higher, the less easy logits count.
    """
    positive = _is_class(labels, logits)
    # In logarithms, neither value nor gradient overflows or divides 0 by 0, however large a logit is.
    margin = jnp.where(positive, logits, -logits)
    log_right = jax.nn.log_sigmoid(margin)
    log_wrong = log_right - margin  # log sigmoid(-x) = log sigmoid(x) - x
    return -jnp.where(positive, alpha, 1 - alpha) * jnp.exp(gamma * log_wrong) * log_right


def iou_aware_loss(logits: jax.Array, labels: jax.Array, overlaps: jax.Array, *, gamma: float) -> jax.Array:
    """Cross-entropy of every logit with a target that follows from the predicted box: float [..., K].

    The IoU-aware loss of Align-DETR (arXiv 2304.07527). The target of the positive logit is s^0.25 * u^0.75, where s is
    its score and u the IoU. So the score comes to rest where it equals the IoU. Negative logits are weighted as in
    focal loss. Neither the target nor the IoU has a gradient.

    Args:
        logits: float [..., K].
        labels: int [...], the class of each; -1 (or any number that is not a class) means none.
        overlaps: float [...], the IoU of each predicted box and its target. Where there is none it does not count.
        gamma: the focusing parameter of negative logits, 0 or more.
    """
    positive = _is_class(labels, logits)
    scores = jax.nn.sigmoid(logits)
    target = lax.stop_gradient(scores ** (1 - IOU_EXPONENT) * overlaps[..., None] ** IOU_EXPONENT)
    log_score, log_rest = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    positive_loss = -(target * log_score + (1 - target) * log_rest)
    return jnp.where(positive, positive_loss, -jnp.exp(gamma * log_score) * log_rest)


def _is_class(labels: jax.Array, logits: jax.Array) -> jax.Array:
    """Bool [..., K]: whether this logit is that of the label [...]."""
    return lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) == labels[..., None]


def _of_query(matches: jax.Array, matched: jax.Array, values: jax.Array, queries: int, *, none: int) -> jax.Array:
    """For each query [L, B, Q] the value of the target that it is matched to; `none`, the least of all, without one.

    It compares with every target instead of scattering. Images stay independent, so a batch that is split over devices
    needs no communication.
    """
    query_ids = lax.broadcasted_iota(jnp.int32, (*matches.shape, queries), matches.ndim)
    taken = (matches[..., None] == query_ids) & matched[..., None]
    return jnp.max(jnp.where(taken, values[..., None], none), axis=-2, initial=none)
