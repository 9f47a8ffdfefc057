"""Row-column attention by the kernels of `attention_kernel.py`: its gradient, and the layout that they take."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anchordetr_jax.kernels.one_row import one_row
from anchordetr_jax.kernels.tpu import attention_kernel
from anchordetr_jax.model.attention import RowColumnMemory
from anchordetr_jax.model.precision import at_least_float32, product_precision


def multi_head_attention(
    queries: jax.Array, keys: jax.Array, values: jax.Array, valid: jax.Array | None, *, interpret: bool = False
) -> jax.Array:
    """`model.attention.multi_head_attention` by the kernels: queries [B,Q,n,d] -> [B,Q,n,d]."""
    memory = one_row(keys, values, valid)
    return row_column_attention(queries, jnp.zeros_like(queries), memory, interpret=interpret)


def row_column_attention(
    row_queries: jax.Array, column_queries: jax.Array, memory: RowColumnMemory, *, interpret: bool = False
) -> jax.Array:
    """`model.attention.row_column_attention` by the kernels: queries [B,Q,n,d] -> [B,Q,n,d].

    The backward pass computes everything again; only the arguments are kept for it.
    """
    return _attend(row_queries, column_queries, memory, interpret)


def product_at_cells(x: jax.Array, shape: tuple[int, int], axis: int) -> jax.Array:
    """`model.attention.at_cells` by a product with zeros and ones. Its gradient is a product too, which TPUs compute
    many times as fast as a sum over cells."""
    chosen = jnp.asarray(np.arange(shape[axis])[:, None] == np.indices(shape)[axis].ravel(), x.dtype)
    return jnp.einsum("kq,bkc->bqc", chosen, x, precision=product_precision(x.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attend(row_queries: jax.Array, column_queries: jax.Array, memory: RowColumnMemory, interpret: bool) -> jax.Array:
    _, long, short, values = _kernel_arguments(row_queries, column_queries, memory)
    return _from_lanes(attention_kernel.attend(long, short, values, interpret=interpret), row_queries.shape[2])


def _attend_forward(row_queries: jax.Array, column_queries: jax.Array, memory: RowColumnMemory, interpret: bool) -> Any:
    return _attend(row_queries, column_queries, memory, interpret), (row_queries, column_queries, memory)


def _attend_backward(interpret: bool, saved: Any, gradient: jax.Array) -> tuple[jax.Array, jax.Array, RowColumnMemory]:
    rows_are_long, long, short, values = _kernel_arguments(*saved)
    changes = attention_kernel.attend_backward(long, short, values, _to_lanes(gradient), interpret=interpret)
    queries, keys = [_from_lanes(change, gradient.shape[2]) for change in changes[:2]], changes[2:4]
    if not rows_are_long:
        queries, keys = queries[::-1], keys[::-1]
    row_keys, column_keys = (change.transpose(0, 2, 1, 3) for change in keys)
    changed_values = changes[4].transpose((0, 1, 4, 2, 3) if rows_are_long else (0, 4, 1, 2, 3))
    no_gradient: Any = None  # Masks have none.
    return queries[0], queries[1], RowColumnMemory(row_keys, column_keys, changed_values, no_gradient)


_attend.defvjp(_attend_forward, _attend_backward)


def _kernel_arguments(
    row_queries: jax.Array, column_queries: jax.Array, memory: RowColumnMemory
) -> tuple[bool, attention_kernel.Axis, attention_kernel.Axis, jax.Array]:
    """Whether the longer axis is the one along rows; then the long axis, the short axis and the values."""
    h, w = memory.values.shape[1:3]

    def axis(queries: jax.Array, keys: jax.Array, valid: jax.Array) -> attention_kernel.Axis:
        mask = jnp.where(valid, 0, -jnp.inf).astype(at_least_float32(keys.dtype))
        return attention_kernel.Axis(_to_lanes(queries), keys.transpose(0, 2, 1, 3), mask[..., None])

    row = axis(row_queries, memory.row_keys, memory.area.columns)
    column = axis(column_queries, memory.column_keys, memory.area.rows)
    if w >= h:
        return True, row, column, memory.values.transpose(0, 1, 3, 4, 2)
    return False, column, row, memory.values.transpose(0, 2, 3, 4, 1)


def _to_lanes(queries: jax.Array) -> jax.Array:
    """[B,Q,n,d] -> [B,n*d,Q]."""
    B, Q, n, d = queries.shape
    return queries.transpose(0, 2, 3, 1).reshape(B, n * d, Q)


def _from_lanes(queries: jax.Array, heads: int) -> jax.Array:
    """[B,n*d,Q] -> [B,Q,n,d]."""
    B, C, Q = queries.shape
    return queries.reshape(B, heads, C // heads, Q).transpose(0, 3, 1, 2)
