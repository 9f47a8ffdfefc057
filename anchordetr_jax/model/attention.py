"""Row-column decoupled attention (Anchor DETR, section 3.4) and ordinary multi-head attention."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from anchordetr_jax.model import attention_kernel
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

    def __init__(self, channels: int, heads: int, *, kernel: bool = False, dtype: DTypeLike, rngs: nnx.Rngs):
        self.heads = heads
        self.kernel = kernel  # On TPUs by the kernel of attention_kernel.py.
        self.query = _projection(channels, 3, dtype=dtype, rngs=rngs)
        self.key = _projection(channels, 3, dtype=dtype, rngs=rngs)
        self.value = _projection(channels, 3, dtype=dtype, rngs=rngs)
        self.out = _output(channels, dtype=dtype, rngs=rngs)

    def __call__(self, queries: jax.Array, keys: jax.Array, values: jax.Array, valid: jax.Array | None) -> jax.Array:
        """queries [B,Q,C], keys and values [B,k,C], valid bool [B,k] or None -> [B,Q,C]."""
        q, k = self._projected(queries, keys)
        v = _split_heads(self.value(values), self.heads)
        if self.kernel:
            mixed = kernel_attention(q, jnp.zeros_like(q), _one_row(k, v, valid))
        else:
            weights = _weights(q, k, valid).astype(v.dtype)
            mixed = jnp.einsum("bnqk,bknd->bqnd", weights, v, precision=product_precision(v.dtype))
        return self.out(mixed.reshape(queries.shape))

    def weights(self, queries: jax.Array, keys: jax.Array, valid: jax.Array | None) -> jax.Array:
        """Attention [B,n,Q,k], which sums to one over the valid keys."""
        return _weights(*self._projected(queries, keys), valid)

    def _projected(self, queries: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _split_heads(self.query(queries), self.heads), _split_heads(self.key(keys), self.heads)


class RowColumnMemory(NamedTuple):
    """What queries attend to: keys of columns [B,w,n,d] and of rows [B,h,n,d], values [B,h,w,n,d], and what is
    valid."""

    row_keys: jax.Array
    column_keys: jax.Array
    values: jax.Array
    area: ValidArea


def _one_row(keys: jax.Array, values: jax.Array, valid: jax.Array | None) -> RowColumnMemory:
    """Keys and values [B,k,n,d] as a feature map of a single row, along whose columns nothing is to be weighed:
    ordinary attention is row-column attention to it."""
    B, k, n, d = keys.shape
    columns = jnp.ones((B, k), bool) if valid is None else valid
    area = ValidArea(jnp.ones((B, 1), bool), columns)
    return RowColumnMemory(keys, jnp.zeros((B, 1, n, d), keys.dtype), values[:, None], area)


class RowColumnAttention(nnx.Module):
    """RCDA: attention along a row, then along a column, instead of over all cells.

    `query_row` and `key_row` act along a row (over its w columns), `query_column` and `key_column` along a column.
    """

    def __init__(self, channels: int, heads: int, *, kernel: bool = False, dtype: DTypeLike, rngs: nnx.Rngs):
        self.heads = heads
        self.kernel = kernel  # On TPUs by the kernel of attention_kernel.py.
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
        attend = kernel_attention if self.kernel else plain_attention
        row, column = (_split_heads(queries, self.heads) for queries in (row_queries, column_queries))
        return self.out(attend(row, column, memory).reshape(row_queries.shape))

    def weights(
        self, row_queries: jax.Array, column_queries: jax.Array, memory: RowColumnMemory
    ) -> tuple[jax.Array, jax.Array]:
        """Attention along rows [B,n,Q,w] and along columns [B,n,Q,h]; each sums to one over the valid cells."""
        row, column = (_split_heads(queries, self.heads) for queries in (row_queries, column_queries))
        return _decoupled_weights(row, column, memory)


def plain_attention(row_queries: jax.Array, column_queries: jax.Array, memory: RowColumnMemory) -> jax.Array:
    """Row-column attention as two einsums: queries [B,Q,n,d] -> [B,Q,n,d]."""
    return decoupled_sum(*_decoupled_weights(row_queries, column_queries, memory), memory.values)


def _decoupled_weights(
    row_queries: jax.Array, column_queries: jax.Array, memory: RowColumnMemory
) -> tuple[jax.Array, jax.Array]:
    row = _weights(row_queries, memory.row_keys, memory.area.columns)
    return row, _weights(column_queries, memory.column_keys, memory.area.rows)


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


@jax.custom_vjp
def kernel_attention(row_queries: jax.Array, column_queries: jax.Array, memory: RowColumnMemory) -> jax.Array:
    """`plain_attention` by the kernel of attention_kernel.py on TPUs, and as it is elsewhere. The backward pass
    computes everything anew, so that nothing but the arguments is kept for it."""
    return jax.lax.platform_dependent(row_queries, column_queries, memory, tpu=kernel_forward, default=plain_attention)


def _kernel_attention_forward(row_queries: jax.Array, column_queries: jax.Array, memory: RowColumnMemory) -> Any:
    return kernel_attention(row_queries, column_queries, memory), (row_queries, column_queries, memory)


def _kernel_attention_backward(saved: Any, gradient: jax.Array) -> Any:
    return jax.lax.platform_dependent(*saved, gradient, tpu=kernel_backward, default=_plain_backward)


kernel_attention.defvjp(_kernel_attention_forward, _kernel_attention_backward)


def _plain_backward(
    row_queries: jax.Array, column_queries: jax.Array, memory: RowColumnMemory, gradient: jax.Array
) -> Any:
    def attend(row: jax.Array, column: jax.Array, keys: tuple[jax.Array, jax.Array], values: jax.Array) -> jax.Array:
        return plain_attention(row, column, RowColumnMemory(*keys, values, memory.area))

    keys = memory.row_keys, memory.column_keys
    changes = jax.vjp(attend, row_queries, column_queries, keys, memory.values)[1](gradient)
    return changes[0], changes[1], _memory_change(changes[2][0], changes[2][1], changes[3])


def kernel_forward(
    row_queries: jax.Array, column_queries: jax.Array, memory: RowColumnMemory, *, interpret: bool = False
) -> jax.Array:
    """`plain_attention` by the kernel; `interpret`: without a TPU."""
    _, long, short, values = _kernel_arguments(row_queries, column_queries, memory)
    return _from_lanes(attention_kernel.attend(long, short, values, interpret=interpret), row_queries.shape[2])


def kernel_backward(
    row_queries: jax.Array,
    column_queries: jax.Array,
    memory: RowColumnMemory,
    gradient: jax.Array,
    *,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array, RowColumnMemory]:
    """Gradients of queries and memory from that of the result [B,Q,n,d], by the kernel. Masks get none."""
    rows_are_long, long, short, values = _kernel_arguments(row_queries, column_queries, memory)
    changes = attention_kernel.attend_backward(long, short, values, _to_lanes(gradient), interpret=interpret)
    queries, keys = [_from_lanes(change, gradient.shape[2]) for change in changes[:2]], changes[2:4]
    if not rows_are_long:
        queries, keys = queries[::-1], keys[::-1]
    row_keys, column_keys = (change.transpose(0, 2, 1, 3) for change in keys)
    B, h, w, n, d = memory.values.shape
    split = changes[4].reshape(B, n, min(h, w), d, max(h, w))
    changed_values = split.transpose(0, 2, 4, 1, 3) if rows_are_long else split.transpose(0, 4, 2, 1, 3)
    return queries[0], queries[1], _memory_change(row_keys, column_keys, changed_values)


def _memory_change(row_keys: jax.Array, column_keys: jax.Array, values: jax.Array) -> RowColumnMemory:
    """The gradient of a memory, whose masks have none."""
    no_gradient: Any = None
    return RowColumnMemory(row_keys, column_keys, values, no_gradient)


def _kernel_arguments(
    row_queries: jax.Array, column_queries: jax.Array, memory: RowColumnMemory
) -> tuple[bool, attention_kernel.Axis, attention_kernel.Axis, jax.Array]:
    """Whether the longer axis is that along rows, both axes and the values as the kernel wants them."""
    B, h, w, n, d = memory.values.shape

    def axis(queries: jax.Array, keys: jax.Array, valid: jax.Array) -> attention_kernel.Axis:
        mask = jnp.where(valid, 0, -jnp.inf).astype(at_least_float32(keys.dtype))
        return attention_kernel.Axis(_to_lanes(queries), keys.transpose(0, 2, 1, 3), mask[..., None])

    row = axis(row_queries, memory.row_keys, memory.area.columns)
    column = axis(column_queries, memory.column_keys, memory.area.rows)
    if w >= h:
        return True, row, column, memory.values.transpose(0, 3, 1, 4, 2).reshape(B, n, h * d, w)
    return False, column, row, memory.values.transpose(0, 3, 2, 4, 1).reshape(B, n, w * d, h)


def _to_lanes(queries: jax.Array) -> jax.Array:
    """[B,Q,n,d] -> [B,n*d,Q]."""
    B, Q, n, d = queries.shape
    return queries.transpose(0, 2, 3, 1).reshape(B, n * d, Q)


def _from_lanes(queries: jax.Array, heads: int) -> jax.Array:
    """[B,n*d,Q] -> [B,Q,n,d]."""
    B, C, Q = queries.shape
    return queries.reshape(B, heads, C // heads, Q).transpose(0, 3, 1, 2)


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
