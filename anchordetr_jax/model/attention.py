"""Row-column decoupled attention (Anchor DETR, section 3.4) and ordinary multi-head attention."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from anchordetr_jax.model.initializers import xavier_uniform
from anchordetr_jax.model.layers import linear
from anchordetr_jax.model.precision import at_least_float32, product_precision
from anchordetr_jax.model.valid_area import ValidArea


def _projection(channels: int, fused: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Linear:
    """One of `fused` input projections, which PyTorch initialises as a single matrix."""
    return linear(
        channels,
        channels,
        dtype=dtype,
        rngs=rngs,
        kernel_init=xavier_uniform(channels, fused * channels),
        bias_init=nnx.initializers.zeros_init(),
    )


def _output(channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Linear:
    return linear(channels, channels, dtype=dtype, rngs=rngs, bias_init=nnx.initializers.zeros_init())


def _split_heads(x: jax.Array, heads: int) -> jax.Array:
    """[..., C] -> [..., n, d]: n heads of d channels."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


def _weights(queries: jax.Array, keys: jax.Array, valid: jax.Array | None) -> jax.Array:
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


class MultiHeadAttention(nnx.Module):
    """Ordinary attention, with separate query, key and value projections."""

    def __init__(self, channels: int, heads: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.heads = heads
        self.query = _projection(channels, 3, dtype=dtype, rngs=rngs)
        self.key = _projection(channels, 3, dtype=dtype, rngs=rngs)
        self.value = _projection(channels, 3, dtype=dtype, rngs=rngs)
        self.out = _output(channels, dtype=dtype, rngs=rngs)

    def __call__(self, queries: jax.Array, keys: jax.Array, values: jax.Array, valid: jax.Array | None) -> jax.Array:
        """queries [B,Q,C], keys and values [B,k,C], valid bool [B,k] or None -> [B,Q,C]."""
        v = _split_heads(self.value(values), self.heads)
        weights = self.weights(queries, keys, valid).astype(v.dtype)
        mixed = jnp.einsum("bnqk,bknd->bqnd", weights, v, precision=product_precision(v.dtype))
        return self.out(mixed.reshape(queries.shape))

    def weights(self, queries: jax.Array, keys: jax.Array, valid: jax.Array | None) -> jax.Array:
        """Attention [B,n,Q,k], which sums to one over the valid keys."""
        q, k = (_split_heads(projection(x), self.heads) for projection, x in ((self.query, queries), (self.key, keys)))
        return _weights(q, k, valid)


class RowColumnMemory(NamedTuple):
    """What queries attend to: keys of columns [B,w,n,d] and of rows [B,h,n,d], values [B,h,w,n,d], and what is
    valid."""

    row_keys: jax.Array
    column_keys: jax.Array
    values: jax.Array
    area: ValidArea


class RowColumnAttention(nnx.Module):
    """RCDA: attention along a row, then along a column, instead of over all cells.

    `query_row` and `key_row` act along a row (over its w columns), `query_column` and `key_column` along a column.
    """

    def __init__(self, channels: int, heads: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.heads = heads
        self.query_row = _projection(channels, 5, dtype=dtype, rngs=rngs)
        self.query_column = _projection(channels, 5, dtype=dtype, rngs=rngs)
        self.key_row = _projection(channels, 5, dtype=dtype, rngs=rngs)
        self.key_column = _projection(channels, 5, dtype=dtype, rngs=rngs)
        self.value = _projection(channels, 5, dtype=dtype, rngs=rngs)
        self.out = _output(channels, dtype=dtype, rngs=rngs)

    def memory(
        self,
        features: jax.Array,
        row_positions: jax.Array,
        column_positions: jax.Array,
        area: ValidArea,
        mean_over: ValidArea | None,
    ) -> RowColumnMemory:
        """Keys and values of a feature map.

        features [B,h,w,C]; row_positions [B,w,C] and column_positions [B,h,C] are embeddings of x and of y. Keys are
        means over the other axis, of the cells in `mean_over` (None: of all cells). A mean and a linear map commute, so
        the mean comes first.
        """
        row_mean, column_mean = _axis_means(features, mean_over)
        return RowColumnMemory(
            row_keys=_split_heads(self.key_row(row_mean + row_positions), self.heads),
            column_keys=_split_heads(self.key_column(column_mean + column_positions), self.heads),
            values=_split_heads(self.value(features), self.heads),
            area=area,
        )

    def grid_queries(
        self, features: jax.Array, row_positions: jax.Array, column_positions: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Projected row and column queries of every cell, each [B,h*w,C].

        The projection is linear, so a position is projected once a column (or row), not once a cell.
        """
        B, h, w, C = features.shape
        row = self.query_row(features) + _without_bias(self.query_row, row_positions)[:, None, :, :]
        column = self.query_column(features) + _without_bias(self.query_column, column_positions)[:, :, None, :]
        return row.reshape(B, h * w, C), column.reshape(B, h * w, C)

    def __call__(self, row_queries: jax.Array, column_queries: jax.Array, memory: RowColumnMemory) -> jax.Array:
        """Projected queries [B,Q,C] -> [B,Q,C]."""
        row_weights, column_weights = self.weights(row_queries, column_queries, memory)
        mixed = decoupled_sum(row_weights, column_weights, memory.values)
        return self.out(mixed.reshape(row_queries.shape))

    def weights(
        self, row_queries: jax.Array, column_queries: jax.Array, memory: RowColumnMemory
    ) -> tuple[jax.Array, jax.Array]:
        """Attention along rows [B,n,Q,w] and along columns [B,n,Q,h]; each sums to one over the valid cells."""
        row = _weights(_split_heads(row_queries, self.heads), memory.row_keys, memory.area.columns)
        column = _weights(_split_heads(column_queries, self.heads), memory.column_keys, memory.area.rows)
        return row, column


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


def _axis_means(features: jax.Array, area: ValidArea | None) -> tuple[jax.Array, jax.Array]:
    """Means of features [B,h,w,C] over h -> [B,w,C] and over w -> [B,h,C], in float32 at least."""
    dtype = features.dtype
    wide = features.astype(at_least_float32(dtype))
    if area is None:
        return wide.mean(axis=1).astype(dtype), wide.mean(axis=2).astype(dtype)
    rows, columns = (mask.astype(wide.dtype) for mask in area)
    row_mean = jnp.einsum("bhwc,bh->bwc", wide, rows / rows.sum(axis=1, keepdims=True), precision="highest")
    column_mean = jnp.einsum("bhwc,bw->bhc", wide, columns / columns.sum(axis=1, keepdims=True), precision="highest")
    return row_mean.astype(dtype), column_mean.astype(dtype)


def _without_bias(projection: nnx.Linear, x: jax.Array) -> jax.Array:
    kernel = projection.kernel[...].astype(x.dtype)
    return jnp.einsum("blc,cd->bld", x, kernel, precision=product_precision(x.dtype))
