"""How a detector makes its detections: the anchor point and pattern of each, and where its query looks.

The attention weights are those that the model computes for the detections; its cross-attention layers record them.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from anchordetr_jax.detection.boxes import cxcywh_to_xyxy
from anchordetr_jax.kernels.building import definition_of, variables_of
from anchordetr_jax.model.attention import (
    MultiHeadAttention,
    RowColumnAttention,
    RowColumnMemory,
    multi_head_attention,
    row_column_attention,
    row_column_weights,
    softmax_weights,
)
from anchordetr_jax.prediction.detector import Detector
from anchordetr_jax.prediction.inputs import GivenImage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explanation:
    """The K best queries of one image. Positions are relative to the image: (0, 0) is its upper left corner."""

    image: np.ndarray
    """uint8 RGB [h, w, 3], as the network sees it."""
    scores: np.ndarray
    """float [K], in descending order: the score of each query's best class."""
    names: tuple[str, ...]
    """K class names."""
    labels: np.ndarray
    """int [K]."""
    boxes: np.ndarray
    """float [K,4], xyxy."""
    patterns: np.ndarray
    """int [K], from 0."""
    anchors: np.ndarray
    """int [K]: indices of `anchor_points`."""
    anchor_points: np.ndarray
    """float [A,2], (x, y). Learned anchor points can be outside the image."""
    num_patterns: int
    row_attention: np.ndarray | None
    """float [L,n,K,w]: attention of each decoder layer and head over the w feature columns (along a row); None with
    standard attention."""
    column_attention: np.ndarray | None
    """float [L,n,K,h]: over the h feature rows."""
    cell_attention: np.ndarray | None
    """float [L,n,K,h,w]: standard attention over feature cells; None with row-column attention."""
    extent: tuple[float, float]
    """(height, width) of all feature cells together, relative to the image: at least 1, because the last cells can be
    partly outside the image."""

    def attention(self, query: int, layer: int = -1) -> np.ndarray:
        """Attention of one of the K queries over feature cells, float [h, w]: the mean over heads, with the sum 1.

        With row-column attention it is the product of both for each head (Anchor DETR, equation 8).
        """
        if self.cell_attention is not None:
            return self.cell_attention[layer, :, query].mean(axis=0)
        assert self.row_attention is not None
        assert self.column_attention is not None
        rows, columns = self.row_attention[layer, :, query], self.column_attention[layer, :, query]
        return np.einsum("nw,nh->hw", rows, columns) / len(rows)

    def marginals(self, query: int, layer: int = -1) -> tuple[np.ndarray, np.ndarray]:
        """Attention over feature columns [w] and over feature rows [h]: means over heads, each with the sum 1."""
        attention = self.attention(query, layer)
        return attention.sum(axis=0), attention.sum(axis=1)

    def without_attention(self) -> "Explanation":
        """This explanation without attention and pixels, which take much memory."""
        light = np.broadcast_to(np.uint8(0), self.image.shape)  # Keeps the size of the image alone.
        return dataclasses.replace(self, image=light, row_attention=None, column_attention=None, cell_attention=None)

    def above(self, threshold: float, most: int | None = None) -> list[int]:
        """The queries that score at least `threshold`: at most `most` of them, and always the best one."""
        return list(range(max(1, int((self.scores >= threshold).sum()))))[:most]


def explain(detector: Detector, image: GivenImage, *, most: int = 100) -> Explanation:
    """Explains the `most` best queries of an image.

    Raises `UserError` when the image cannot be read.
    """
    pixels = image.pixels()
    height, width = (int(side) for side in detector.shapes.resized(np.array([pixels.shape[:2]]))[0])
    shape = detector.shapes.padded((height, width))
    resized = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
    padded = np.zeros((1, *shape, 3), np.uint8)
    padded[0, :height, :width] = resized
    config = dataclasses.replace(detector.model.config, kernels="none", remat=False)
    graphdef, state = nnx.split(definition_of(config).merge(variables_of(detector.model)))
    classes = np.array(sorted(detector.names))
    queries = config.num_queries
    found = _best_queries(graphdef, min(most, queries), state, padded, np.array([[height, width]], np.int32), classes)
    scores, best, boxes, index, anchor_points, weights = jax.tree.map(np.asarray, found)
    labels = classes[best]
    rows = columns = cells = None
    if config.attention == "rcda":
        grid = weights[1].shape[-1], weights[0].shape[-1]
        h, w = (-(-side * count // total) for side, count, total in zip((height, width), grid, shape, strict=True))
        rows, columns = weights[0][..., :w], weights[1][..., :h]
    else:
        stride = round((shape[0] * shape[1] / weights[0].shape[-1]) ** 0.5)
        grid = shape[0] // stride, shape[1] // stride
        h, w = -(-height // stride), -(-width // stride)
        cells = weights[0].reshape(*weights[0].shape[:-1], *grid)[..., :h, :w]
    return Explanation(
        image=resized,
        scores=scores,
        labels=labels,
        names=tuple(detector.names[label] for label in labels.tolist()),
        boxes=boxes,
        patterns=index // len(anchor_points),
        anchors=index % len(anchor_points),
        anchor_points=anchor_points,
        num_patterns=config.num_patterns,
        row_attention=rows,
        column_attention=columns,
        cell_attention=cells,
        extent=(h * shape[0] / grid[0] / height, w * shape[1] / grid[1] / width),
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _best_queries(
    graphdef: Any, most: int, state: Any, images: jax.Array, image_sizes: jax.Array, classes: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, tuple[jax.Array, ...]]:
    """The best queries of an image: scores, classes (indices of `classes`), boxes (xyxy) and numbers of queries.
    Then the anchor points, and the attention of these queries [L,n,most,...]: over columns and over rows, or over
    cells."""
    model = nnx.merge(graphdef, state)
    recorded = [_record_weights(layer.cross_attention) for layer in model.decoder.layers]
    predictions = model(images, image_sizes)
    class_scores = jax.nn.sigmoid(predictions.logits[-1, 0])[:, classes]
    scores, index = jax.lax.top_k(class_scores.max(axis=-1), most)
    best = class_scores[index].argmax(axis=-1)
    # Means over feature levels, of the best queries.
    layers = [[part.mean(axis=0)[:, index] for part in parts] for (parts,) in recorded]
    weights = tuple(jnp.stack(parts) for parts in zip(*layers, strict=True))
    return scores, best, cxcywh_to_xyxy(predictions.boxes[-1, 0][index]), index, model.anchor_points(), weights


def _record_weights(attention: RowColumnAttention | MultiHeadAttention) -> list[tuple[jax.Array, ...]]:
    """Lets an attention layer record its weights in the list that is returned, one entry for each call."""
    calls: list[tuple[jax.Array, ...]] = []

    def row_column(row_queries: jax.Array, column_queries: jax.Array, memory: RowColumnMemory) -> jax.Array:
        calls.append(row_column_weights(row_queries, column_queries, memory))
        return row_column_attention(row_queries, column_queries, memory)

    def multi_head(queries: jax.Array, keys: jax.Array, values: jax.Array, valid: jax.Array | None) -> jax.Array:
        calls.append((softmax_weights(queries, keys, valid),))
        return multi_head_attention(queries, keys, values, valid)

    attention.attend = row_column if isinstance(attention, RowColumnAttention) else multi_head
    return calls
