"""Row-column decoupled attention (Anchor DETR, section 3.4) and ordinary multi-head attention."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from anchordetr_jax.kernels.cpu.attention import attention_in_turn
from anchordetr_jax.kernels.forms import PLAIN, Forms
from anchordetr_jax.kernels.gpu.attention_sum import attention_with_kernel_sum
from anchordetr_jax.kernels.tpu.added_rows import add_to_rows
from anchordetr_jax.kernels.tpu.attention import kernel_attention
from anchordetr_jax.model.decoupled import (
    RowColumnMemory,
    decoupled_sum,
    decoupled_weights,
    softmax_weights,
)
from anchordetr_jax.model.initializers import xavier_uniform
from anchordetr_jax.model.layers import linear, without_bias
from anchordetr_jax.model.precision import at_least_float32, product_precision
from anchordetr_jax.model.valid_area import ValidArea


def _projection(channels: int, fused: int, *, forms: Forms, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Linear:
    """One of `fused` input projections, which PyTorch initialises as a single matrix."""
    return linear(
        channels,
        channels,
        forms=forms,
        dtype=dtype,
        rngs=rngs,
        kernel_init=xavier_uniform(channels, fused * channels),
        bias_init=nnx.initializers.zeros_init(),
    )


def _output(channels: int, *, forms: Forms, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Linear:
    return linear(channels, channels, forms=forms, dtype=dtype, rngs=rngs, bias_init=nnx.initializers.zeros_init())


def _split_heads(x: jax.Array, heads: int) -> jax.Array:
    """[..., C] -> [..., n, d]: n heads of d channels."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


def _attend(row_queries: jax.Array, column_queries: jax.Array, memory: RowColumnMemory, forms: Forms) -> jax.Array:
    """Row-column attention by the form that is asked for: queries [B,Q,n,d] -> [B,Q,n,d]."""
    form = kernel_attention if forms.tpu else attention_with_kernel_sum if forms.gpu else attention_in_turn
    return form(row_queries, column_queries, memory)


class MultiHeadAttention(nnx.Module):
    """Ordinary attention, with separate query, key and value projections."""

    def __init__(self, channels: int, heads: int, *, forms: Forms = PLAIN, dtype: DTypeLike, rngs: nnx.Rngs):
        self.heads = heads
        self.forms = forms
        self.query = _projection(channels, 3, forms=forms, dtype=dtype, rngs=rngs)
        self.key = _projection(channels, 3, forms=forms, dtype=dtype, rngs=rngs)
        self.value = _projection(channels, 3, forms=forms, dtype=dtype, rngs=rngs)
        self.out = _output(channels, forms=forms, dtype=dtype, rngs=rngs)

    def __call__(self, queries: jax.Array, keys: jax.Array, values: jax.Array, valid: jax.Array | None) -> jax.Array:
        """queries [B,Q,C], keys and values [B,k,C], valid bool [B,k] or None -> [B,Q,C]."""
        v = _split_heads(self.value(values), self.heads)
        if any(self.forms):
            q, k = self._projected(queries, keys)
            # Nothing lies between the sums where there is one row: GPUs need no kernel.
            mixed = _attend(q, jnp.zeros_like(q), _one_row(k, v, valid), self.forms._replace(gpu=False))
        else:
            weights = self.weights(queries, keys, valid).astype(v.dtype)
            mixed = jnp.einsum("bnqk,bknd->bqnd", weights, v, precision=product_precision(v.dtype))
        return self.out(mixed.reshape(queries.shape))

    def weights(self, queries: jax.Array, keys: jax.Array, valid: jax.Array | None) -> jax.Array:
        """Attention [B,n,Q,k], which sums to one over the valid keys."""
        return softmax_weights(*self._projected(queries, keys), valid)

    def _projected(self, queries: jax.Array, keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _split_heads(self.query(queries), self.heads), _split_heads(self.key(keys), self.heads)


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

    def __init__(self, channels: int, heads: int, *, forms: Forms = PLAIN, dtype: DTypeLike, rngs: nnx.Rngs):
        self.heads = heads
        self.forms = forms
        self.query_row = _projection(channels, 5, forms=forms, dtype=dtype, rngs=rngs)
        self.query_column = _projection(channels, 5, forms=forms, dtype=dtype, rngs=rngs)
        self.key_row = _projection(channels, 5, forms=forms, dtype=dtype, rngs=rngs)
        self.key_column = _projection(channels, 5, forms=forms, dtype=dtype, rngs=rngs)
        self.value = _projection(channels, 5, forms=forms, dtype=dtype, rngs=rngs)
        self.out = _output(channels, forms=forms, dtype=dtype, rngs=rngs)

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
        the mean comes first. Values are without their bias, which is added to their sum.
        """
        row_mean, column_mean = _axis_means(features, mean_over)
        return RowColumnMemory(
            row_keys=_split_heads(self.key_row(row_mean + row_positions), self.heads),
            column_keys=_split_heads(self.key_column(column_mean + column_positions), self.heads),
            values=_split_heads(without_bias(self.value, features), self.heads),
            area=area,
        )

    def grid_queries(
        self, features: jax.Array, row_positions: jax.Array, column_positions: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Projected row and column queries of every cell, each [B,h*w,C].

        The projection is linear, so a position is projected once a column (or row), not once a cell; so is the bias
        added, whose gradient then comes with the positions'.
        """
        B, h, w, C = features.shape
        cells = features.reshape(B, h * w, C)
        row = without_bias(self.query_row, cells) + self._at_cells(self.query_row(row_positions), (h, w), 1)
        column = without_bias(self.query_column, cells) + self._at_cells(self.query_column(column_positions), (h, w), 0)
        return row, column

    def _at_cells(self, x: jax.Array, shape: tuple[int, int], axis: int) -> jax.Array:
        """x of the rows [B,h,C] (axis 0) or columns [B,w,C] (axis 1) of a grid of `shape`, for each cell [B,h*w,C]."""
        if self.forms.tpu:
            # The gradient is a product, too, then, which TPUs do many times as fast as a sum over cells.
            chosen = jnp.asarray(np.arange(shape[axis])[:, None] == np.indices(shape)[axis].ravel(), x.dtype)
            return jnp.einsum("kq,bkc->bqc", chosen, x, precision=product_precision(x.dtype))
        B, _, C = x.shape
        return jnp.broadcast_to(jnp.expand_dims(x, 2 - axis), (B, *shape, C)).reshape(B, -1, C)

    def __call__(self, row_queries: jax.Array, column_queries: jax.Array, memory: RowColumnMemory) -> jax.Array:
        """Projected queries [B,Q,C] -> [B,Q,C]."""
        if any(self.forms):
            row, column = (_split_heads(queries, self.heads) for queries in (row_queries, column_queries))
            mixed = _attend(row, column, memory, self.forms)
        else:
            mixed = decoupled_sum(*self.weights(row_queries, column_queries, memory), memory.values)
        # Weights sum to one, so the values' bias may be added to their sum: once, not in every cell.
        assert self.value.bias is not None
        mixed = mixed.reshape(row_queries.shape)
        bias = self.out(self.value.bias[...].astype(mixed.dtype)[None, None])
        mixed = without_bias(self.out, mixed)
        return add_to_rows(mixed, bias[0, 0]) if self.forms.tpu else mixed + bias

    def weights(
        self, row_queries: jax.Array, column_queries: jax.Array, memory: RowColumnMemory
    ) -> tuple[jax.Array, jax.Array]:
        """Attention along rows [B,n,Q,w] and along columns [B,n,Q,h]; each sums to one over the valid cells."""
        row, column = (_split_heads(queries, self.heads) for queries in (row_queries, column_queries))
        return decoupled_weights(row, column, memory)


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
