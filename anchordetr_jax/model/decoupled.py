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


def attention_in_turn(row_queries: jax.Array, column_queries: jax.Array, memory: RowColumnMemory) -> jax.Array:
    """`plain_attention`, one head after another on CPUs: what lies between the two sums then stays in their caches. The
    backward pass computes it anew."""
    return jax.lax.platform_dependent(
        row_queries, column_queries, memory, cpu=_attention_by_head, default=plain_attention
    )


def _attention_by_head(row_queries: jax.Array, column_queries: jax.Array, memory: RowColumnMemory) -> jax.Array:
    B, Q, n, d = row_queries.shape

    def by_head(x: jax.Array) -> jax.Array:
        """[B,...,n,d] -> [n*B,...,d]."""
        return jnp.moveaxis(x, -2, 0).reshape(n * B, *x.shape[1:-2], d)

    arrays = row_queries, column_queries, memory.row_keys, memory.column_keys, memory.values
    heads = (*map(by_head, arrays), *(jnp.tile(valid, (n, 1)) for valid in memory.area))
    attend = jax.checkpoint(lambda head: _attend_in_head(*head), prevent_cse=False)
    # A batch of one image would make its products slower.
    mixed = jax.lax.map(attend, heads, batch_size=B if B > 1 else None)
    return jnp.moveaxis(mixed.reshape(n, B, Q, d), 0, 2)


def _attend_in_head(
    row_queries: jax.Array,
    column_queries: jax.Array,
    row_keys: jax.Array,
    column_keys: jax.Array,
    values: jax.Array,
    rows: jax.Array,
    columns: jax.Array,
) -> jax.Array:
    """`plain_attention` of one head of one image: queries [Q,d], keys [w,d] and [h,d], values [h,w,d], valid rows [h]
    and columns [w] -> [Q,d].

    All but the second sum are products of matrices, and so are their gradients: XLA's CPU compiler moves arrays of
    more dimensions about.
    """
    dtype, precision = values.dtype, product_precision(values.dtype)

    def weights(queries: jax.Array, keys: jax.Array, valid: jax.Array) -> jax.Array:
        scaled = queries * jnp.asarray(queries.shape[-1] ** -0.5, dtype)
        scores = jnp.matmul(scaled, keys.T, precision=precision, preferred_element_type=at_least_float32(dtype))
        return jax.nn.softmax(jnp.where(valid[None], scores, -jnp.inf), axis=-1).astype(dtype)

    long, short = (row_queries, row_keys, columns), (column_queries, column_keys, rows)
    if values.shape[0] > values.shape[1]:
        long, short, values = short, long, values.swapaxes(0, 1)
    S, L, d = values.shape
    inner = jnp.matmul(weights(*long), values.swapaxes(0, 1).reshape(L, S * d), precision=precision)
    if S == 1:
        return inner  # Along an axis of one place nothing is weighed.
    return jnp.einsum("qs,qsd->qd", weights(*short), inner.reshape(-1, S, d), precision=precision)


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
