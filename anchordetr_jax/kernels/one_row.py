"""Ordinary attention as row-column attention, so that one kernel computes both."""

import jax
import jax.numpy as jnp

from anchordetr_jax.model.attention import RowColumnMemory
from anchordetr_jax.model.valid_area import ValidArea


def one_row(keys: jax.Array, values: jax.Array, valid: jax.Array | None) -> RowColumnMemory:
    """Keys and values [B,k,n,d] as a feature map of a single row. Along its columns there is only one weight, one."""
    B, k, n, d = keys.shape
    columns = jnp.ones((B, k), bool) if valid is None else valid
    area = ValidArea(jnp.ones((B, 1), bool), columns)
    return RowColumnMemory(keys, jnp.zeros((B, 1, n, d), keys.dtype), values[:, None], area)
