"""Row-column decoupled attention (Anchor DETR, section 3.4) and ordinary multi-head attention.

The plain functions work on projected queries, keys and values with n heads of d channels each.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from anchordetr_jax.model.layers import Linear, xavier_uniform
from anchordetr_jax.model.precision import at_least_float32, product_precision
from anchordetr_jax.model.valid_area import ValidArea


class RowColumnMemory(NamedTuple):
    """What queries attend to: row keys [B,w,n,d], column keys [B,h,n,d], values [B,h,w,n,d] and which are valid."""

    row_keys: jax.Array
    column_keys: jax.Array
    values: jax.Array
    area: ValidArea


def row_column_attention(row_queries: jax.Array, column_queries: jax.Array, memory: RowColumnMemory) -> jax.Array:
    """Attention along rows, then along columns (equation 8): queries [B,Q,n,d] -> [B,Q,n,d]."""
    return row_column_sum(*row_column_weights(row_queries, column_queries, memory), memory.values)


def row_column_weights(
    row_queries: jax.Array, column_queries: jax.Array, memory: RowColumnMemory
) -> tuple[jax.Array, jax.Array]:
    """Weights of queries [B,Q,n,d] over columns [B,n,Q,w] and over rows [B,n,Q,h].

    Each sums to one over the valid places.
    """
    over_columns = softmax_weights(row_queries, memory.row_keys, memory.area.columns)
    return over_columns, softmax_weights(column_queries, memory.column_keys, memory.area.rows)


def row_column_sum(row_weights: jax.Array, column_weights: jax.Array, values: jax.Array) -> jax.Array:
    """sum over h and w of column_weights [B,n,Q,h] * row_weights [B,n,Q,w] * values [B,h,w,n,d] -> [B,Q,n,d].

    The longer axis is summed first. This keeps the intermediate array (queries x shorter axis x channels) small.
    """
    _, h, w, _, _ = values.shape
    dtype, precision = values.dtype, product_precision(values.dtype)
    row_weights, column_weights = row_weights.astype(dtype), column_weights.astype(dtype)
    if w >= h:
        inner = jnp.einsum("bnqw,bhwnd->bnqhd", row_weights, values, precision=precision)
        return jnp.einsum("bnqh,bnqhd->bqnd", column_weights, inner, precision=precision)
    inner = jnp.einsum("bnqh,bhwnd->bnqwd", column_weights, values, precision=precision)
    return jnp.einsum("bnqw,bnqwd->bqnd", row_weights, inner, precision=precision)


def multi_head_attention(queries: jax.Array, keys: jax.Array, values: jax.Array, valid: jax.Array | None) -> jax.Array:
    """Ordinary attention: queries [B,Q,n,d], keys and values [B,k,n,d], valid bool [B,k] or None -> [B,Q,n,d]."""
    weights = softmax_weights(queries, keys, valid).astype(values.dtype)
    return jnp.einsum("bnqk,bknd->bqnd", weights, values, precision=product_precision(values.dtype))


def softmax_weights(queries: jax.Array, keys: jax.Array, valid: jax.Array | None) -> jax.Array:
    """Softmax over keys: queries [B,Q,n,d], keys [B,k,n,d], valid bool [B,k] -> [B,n,Q,k] in float32 or wider."""
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


def at_cells(x: jax.Array, shape: tuple[int, int], axis: int) -> jax.Array:
    """Copies x of the rows [B,h,C] (axis 0) or columns [B,w,C] (axis 1) to the cells of a grid (h, w): [B,h*w,C]."""
    B, _, C = x.shape
    return jnp.broadcast_to(jnp.expand_dims(x, 2 - axis), (B, *shape, C)).reshape(B, -1, C)


class MultiHeadAttention(nnx.Module):
    """Ordinary attention, with separate query, key and value projections."""

    def __init__(
        self,
        channels: int,
        heads: int,
        *,
        role: Literal["queries", "features", "levels"],
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Makes the layer. `role`: it attends among the queries, to features, or between feature levels."""
        self.heads = heads
        self.role = role
        self.query, self.key, self.value, self.out = (
            _projection(channels, role, fused=fused, dtype=dtype, rngs=rngs) for fused in (3, 3, 3, 0)
        )
        self.attend = multi_head_attention

    def __call__(self, queries: jax.Array, keys: jax.Array, values: jax.Array, valid: jax.Array | None) -> jax.Array:
        """queries [B,Q,C], keys and values [B,k,C], valid bool [B,k] or None -> [B,Q,C]."""
        v = _split_heads(self.value(values), self.heads)
        q, k = _split_heads(self.query(queries), self.heads), _split_heads(self.key(keys), self.heads)
        return self.out(self.attend(q, k, v, valid).reshape(queries.shape))


class RowColumnAttention(nnx.Module):
    """RCDA: attention along a row and along a column, instead of over all cells at once.

    `query_row` and `key_row` act along a row (over its w columns), `query_column` and `key_column` along a column.
    """

    role = "features"

    def __init__(self, channels: int, heads: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.heads = heads
        self.query_row, self.query_column, self.key_row, self.key_column, self.value, self.out = (
            _projection(channels, self.role, fused=fused, dtype=dtype, rngs=rngs) for fused in (5, 5, 5, 5, 5, 0)
        )
        self.attend = row_column_attention
        self.at_cells = at_cells

    def memory(
        self,
        features: jax.Array,
        row_positions: jax.Array,
        column_positions: jax.Array,
        area: ValidArea,
        mean_over: ValidArea | None,
    ) -> RowColumnMemory:
        """Keys and values of a feature map.

        A key is the mean of the cells along the other axis, then projected: a mean and a linear map commute, and this
        order costs less. Values come without their bias, which `__call__` adds to their sum.

        Args:
            features: [B,h,w,C].
            row_positions: [B,w,C], embeddings of x.
            column_positions: [B,h,C], embeddings of y.
            area: the valid cells.
            mean_over: the cells that the means are taken over; None: all cells.
        """
        row_mean, column_mean = _axis_means(features, mean_over)
        return RowColumnMemory(
            row_keys=_split_heads(self.key_row(row_mean + row_positions), self.heads),
            column_keys=_split_heads(self.key_column(column_mean + column_positions), self.heads),
            values=_split_heads(self.value.product(features), self.heads),
            area=area,
        )

    def grid_queries(
        self, features: jax.Array, row_positions: jax.Array, column_positions: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Projected row and column queries of every cell, each [B,h*w,C]; the arguments are those of `memory`.

        The projection is linear, so each position (and the bias) is projected once per column or row, not once per
        cell.
        """
        B, h, w, C = features.shape
        cells = features.reshape(B, h * w, C)
        row = self.query_row.product(cells) + self.at_cells(self.query_row(row_positions), (h, w), 1)
        column = self.query_column.product(cells) + self.at_cells(self.query_column(column_positions), (h, w), 0)
        return row, column

    def __call__(self, row_queries: jax.Array, column_queries: jax.Array, memory: RowColumnMemory) -> jax.Array:
        """Projected queries [B,Q,C] -> [B,Q,C]."""
        row, column = (_split_heads(queries, self.heads) for queries in (row_queries, column_queries))
        attended = self.attend(row, column, memory).reshape(row_queries.shape)
        # The weights sum to one, so the bias of the values is added once to their sum instead of to every cell.
        bias = self.out(self.value.bias[...].astype(attended.dtype)[None, None])
        return self.out.add_bias(self.out.product(attended), bias[0, 0])


def _projection(channels: int, role: str, *, fused: int, dtype: DTypeLike, rngs: nnx.Rngs) -> Linear:
    """One of `fused` input projections, which PyTorch initialises as a single matrix; 0: the output projection."""
    init, zeros = xavier_uniform(channels, fused * channels) if fused else None, nnx.initializers.zeros_init()
    return Linear(channels, channels, dtype=dtype, rngs=rngs, kernel_init=init, bias_init=zeros, role=role)


def _split_heads(x: jax.Array, heads: int) -> jax.Array:
    """[..., C] -> [..., n, d]."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


def _axis_means(features: jax.Array, area: ValidArea | None) -> tuple[jax.Array, jax.Array]:
    """Means of features [B,h,w,C] over h -> [B,w,C] and over w -> [B,h,C], computed in float32 or wider."""
    dtype = features.dtype
    wide = features.astype(at_least_float32(dtype))
    if area is None:
        return wide.mean(axis=1).astype(dtype), wide.mean(axis=2).astype(dtype)
    rows, columns = (mask.astype(wide.dtype) for mask in area)
    row_mean = jnp.einsum("bhwc,bh->bwc", wide, rows / rows.sum(axis=1, keepdims=True), precision="highest")
    column_mean = jnp.einsum("bhwc,bw->bhc", wide, columns / columns.sum(axis=1, keepdims=True), precision="highest")
    return row_mean.astype(dtype), column_mean.astype(dtype)
