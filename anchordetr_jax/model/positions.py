"""Sine codes of relative positions (Anchor DETR, section 3.2; the codes are DETR's)."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from anchordetr_jax.model.valid_area import ValidArea

TEMPERATURE = 10000.0


def sine1d(positions: jax.Array, features: int) -> jax.Array:
    """positions [...] in (0, 1) -> codes [..., features]: sine on even features, cosine on odd ones."""
    exponent = 2 * (np.arange(features) // 2) / features
    angular = jnp.asarray(2 * math.pi / TEMPERATURE**exponent, positions.dtype)
    angles = positions[..., None] * angular.reshape((1,) * positions.ndim + (-1,))
    pairs = jnp.stack([jnp.sin(angles[..., 0::2]), jnp.cos(angles[..., 1::2])], axis=-1)
    return pairs.reshape(angles.shape)


def sine2d(points: jax.Array, features: int) -> jax.Array:
    """points [..., 2] (x, y) -> codes [..., features]: half of them of y, then half of x."""
    return jnp.concatenate([sine1d(points[..., 1], features // 2), sine1d(points[..., 0], features // 2)], axis=-1)


def cell_centres(area: ValidArea, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    """Relative centres of rows, y [B,h], and of columns, x [B,w]: (count - 1/2) / total over the valid ones."""

    def centres(valid: jax.Array) -> jax.Array:
        count = jnp.cumsum(valid, axis=1).astype(dtype)
        return (count - 0.5) / count[:, -1:]

    return centres(area.rows), centres(area.columns)


def grid_points(num_anchors: int) -> np.ndarray:
    """round(sqrt(num_anchors)) points a side as float32 [n*n, 2] (x, y) at (i + 1/2) / n; x varies slowest."""
    n = round(math.sqrt(num_anchors))
    ticks = (np.arange(n, dtype=np.float32) + np.float32(0.5)) / np.float32(n)  # Rounded as in the official code.
    x, y = np.meshgrid(ticks, ticks, indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=-1)


def grid_logits(points: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) of `grid_points`, float32 [A,2].

    The official code takes this logarithm in float32 whatever the network computes in, so a float64 network does too.
    Its last bit depends on the mathematical library there; here it is rounded correctly.
    """
    return np.log((points / (1 - points)).astype(np.float64)).astype(np.float32)
