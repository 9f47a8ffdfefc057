"""Denoising: queries near the objects, which learn from every object without matching. Evaluation never sees them.

DN-DETR (arXiv 2203.01305) for anchor points, and without its label embedding: here the content of such a query is a
pattern, as for any query. A query begins at an anchor point near the centre of an object and has to find this object.
From the first step on it learns to look at its own place, which matched queries learn late.

With negatives (DINO, arXiv 2203.03605, section 3.3) each object has a second query in each group, farther from it,
which has to find nothing. Both are near enough to find the object, so the second must learn that the first is nearer.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from anchordetr_jax.config import LossConfig
from anchordetr_jax.detection.losses import detection_losses
from anchordetr_jax.detection.matching import Targets
from anchordetr_jax.model.anchor_detr import Predictions, inverse_sigmoid
from anchordetr_jax.model.precision import compute_dtype
from anchordetr_jax.model.transformer import Queries

LARGEST_SHIFT = 0.4
"""The largest distance of an anchor point from the centre of its object, as a share of half the object's size. That of
a negative is between one and two times as large."""
_NEGATIVES = 2**30
"""Makes random numbers of their own for negatives: it is more than any object's number."""
_NO_LOSS = -1e4
"""A logit whose focal loss is zero if no class is there."""


def denoising_shifts(
    seed: int, step: jax.Array, rows: jax.Array, groups: int, max_boxes: int, *, negatives: bool = False
) -> jax.Array:
    """Random shifts in [-1, 1), float32 [B,groups,max_boxes,2], of the anchor points (x, y).

    With `negatives`, [B,groups,2*max_boxes,2]: those of negatives follow, with absolute values in [1, 2]. Those of an
    object follow from the seed, the step, the image's row in its data set (`rows`, int32 [B]), and the object's number
    in the image alone.
    """
    of_step = jax.random.fold_in(jax.random.key(seed % 2**32), step)

    def of_object(row: jax.Array, number: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.fold_in(of_step, row), number)
        return jax.random.uniform(key, (groups, 2), jnp.float32, -1, 1)

    of_image = jax.vmap(of_object, in_axes=(None, 0), out_axes=1)
    of_images = jax.vmap(of_image, in_axes=(0, None))
    numbers = jnp.arange(max_boxes)
    near = of_images(rows, numbers)
    if not negatives:
        return near
    far = of_images(rows, numbers + _NEGATIVES)
    return jnp.concatenate([near, far + jnp.where(far < 0, -1, 1)], axis=2)


def denoising_queries(model: Any, targets: Targets, shifts: jax.Array) -> Queries:
    """One query for each target in each group, [B,groups*N,...]; with negatives, two: [B,groups*2*N,...].

    Each group is a set of its own, and has one pattern.

    Args:
        model: the detector.
        targets: of the B images.
        shifts: [B,groups,N,2] or, with negatives, [B,groups,2*N,2], of the anchor points from the centres of the
            targets, in units of 0.4 of half the size.
    """
    B, groups, queries, _ = shifts.shape
    boxes, real = _for_each_query(targets, queries)
    centres, sizes = boxes[:, None, :, :2], boxes[:, None, :, 2:]
    anchors = jnp.clip(centres + LARGEST_SHIFT * shifts.astype(sizes.dtype) * sizes / 2, 0, 1)
    anchors = jnp.where(real[:, None, :, None], anchors, 0.5).reshape(B, groups * queries, 2)
    patterns = model.patterns[...].astype(compute_dtype(model.config))
    patterns = jnp.tile(patterns, (math.ceil(groups / len(patterns)), 1))[:groups]
    # Attention needs something to attend to. An image without objects has one query, and no loss.
    valid = real | (jnp.arange(queries)[None] == 0)
    point, row, column = model.query_positions(anchors)
    return Queries(
        contents=jnp.repeat(patterns, queries, axis=0)[None],
        anchor_logits=inverse_sigmoid(anchors, model.config.anchor_border),
        point=point,
        row=row,
        column=column,
        valid=jnp.repeat(valid, groups, axis=0),
    )


def denoising_losses(
    predictions: Predictions,
    targets: Targets,
    groups: int,
    *,
    num_boxes: jax.Array,
    config: LossConfig,
    image_weights: jax.Array,
) -> dict[str, jax.Array]:
    """The losses "class", "box" and "giou" of each decoder layer, [L], as those of matched queries.

    Each query has the class and the box of its target; negatives have no class. Sums are divided by
    `num_boxes * groups`: the mean of the groups. So all groups together weigh as much as the matched queries.

    Args:
        predictions: of `denoising_queries`, [L,B,groups*N,...] or, with negatives, [L,B,groups*2*N,...].
        targets: of the B images.
        groups: the number of groups.
        num_boxes: boxes of the whole batch, over all devices and accumulated parts.
        config: form of the classification loss.
        image_weights: float [B], 1 for real images and 0 for fillers.
    """
    B, N = targets.labels.shape
    queries = predictions.logits.shape[2] // groups
    logits, boxes = (array.reshape(len(array), B * groups, queries, -1) for array in predictions)
    repeated = Targets(*(jnp.repeat(array, groups, axis=0) for array in targets))
    _, real = _for_each_query(repeated, queries)
    matches = jnp.where(real[:, :N], jnp.arange(N, dtype=jnp.int32)[None], -1)
    losses = detection_losses(
        jnp.where(real[None, :, :, None], logits, _NO_LOSS),
        boxes,
        repeated,
        jnp.broadcast_to(matches[None], (*logits.shape[:2], N)),
        num_boxes=num_boxes * groups,
        config=config,
        image_weights=jnp.repeat(image_weights, groups),
    )
    return {name: losses[name] for name in ("class", "box", "giou")}


def _for_each_query(targets: Targets, queries: int) -> tuple[jax.Array, jax.Array]:
    """The boxes [B,queries,4] that the queries of a group belong to, and bool [B,queries]: which of them are real."""
    N = targets.labels.shape[1]
    real = jnp.arange(N)[None] < targets.num_boxes[:, None]
    times = queries // max(N, 1)
    return jnp.tile(targets.boxes, (1, times, 1)), jnp.tile(real, (1, times))
