"""Row-column decoupled attention on projected queries, keys and values (Anchor DETR, section 3.4): plain functions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from anchordetr_jax.model.precision import at_least_float32, product_precision
from anchordetr_jax.model.valid_area import ValidArea


class RowColumnMemory(NamedTuple):
    """What queries attend to: keys of columns [B,w,n,d] and of rows [B,h,n,d], values [B,h,w,n,d], and what is
    valid."""

    row_keys: jax.Array
    column_keys: jax.Array
    values: jax.Array
    area: ValidArea


def plain_attention(row_queries: jax.Array, column_queries: jax.Array, memory: RowColumnMemory) -> jax.Array:
    """Row-column attention as two einsums: queries [B,Q,n,d] -> [B,Q,n,d]."""
    return decoupled_sum(*decoupled_weights(row_queries, column_queries, memory), memory.values)


def decoupled_weights(
    row_queries: jax.Array, column_queries: jax.Array, memory: RowColumnMemory
) -> tuple[jax.Array, jax.Array]:
    """Attention of queries [B,Q,n,d] along rows [B,n,Q,w] and along columns [B,n,Q,h]; each sums to one over the valid
    cells."""
    row = softmax_weights(row_queries, memory.row_keys, memory.area.columns)
    return row, softmax_weights(column_queries, memory.column_keys, memory.area.rows)


def decoupled_sum(row_weights: jax.Array, column_weights: jax.Array, values: jax.Array) -> jax.Array:
    """sum over h and w of column_weights [B,n,Q,h] * row_weights [B,n,Q,w] * values [B,h,w,n,d] -> [B,Q,n,d].

    The longer axis is summed first, which keeps the intermediate (queries x shorter axis x channels) small.
    """
    _, h, w, _, _ = values.shape
    dtype, precision = values.dtype, product_precision(values.dtype)
    row_weights, column_weights = row_weights.astype(dtype), column_weights.astype(dtype)
    if w >= h:
        inner = jnp.einsum("bnqw,bhwnd->bnqhd", row_weights, values, precision=precision)
        return jnp.einsum("bnqh,bnqhd->bqnd", column_weights, inner, precision=precision)
    inner = jnp.einsum("bnqh,bhwnd->bnqwd", column_weights, values, precision=precision)
    return jnp.einsum("bnqw,bnqwd->bqnd", row_weights, inner, precision=precision)


def softmax_weights(queries: jax.Array, keys: jax.Array, valid: jax.Array | None) -> jax.Array:
    """Softmax over keys. queries [B,Q,n,d], keys [B,k,n,d], valid bool [B,k] -> [B,n,Q,k] in float32 at least."""
    dtype = queries.dtype
    scaled = queries * jnp.asarray(queries.shape[-1] ** -0.5, dtype)
    scores = jnp.einsum(
        "bqnd,bknd->bnqk",
        scaled,
        keys,
        precision=product_precision(dtype),
        preferred_element_type=at_least_float32(dtype),
    )
    if valid is not None:
        scores = jnp.where(valid[:, None, None, :], scores, -jnp.inf)
    return jax.nn.softmax(scores, axis=-1)
