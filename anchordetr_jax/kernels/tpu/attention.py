"""Row-column attention that is computed by a kernel on TPUs: its gradient, and its arrays as the kernel wants them."""

from typing import Any

import jax
import jax.numpy as jnp

from anchordetr_jax.kernels.tpu import attention_kernel
from anchordetr_jax.model.decoupled import RowColumnMemory, plain_attention
from anchordetr_jax.model.precision import at_least_float32


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
    changed_values = changes[4].transpose((0, 1, 4, 2, 3) if rows_are_long else (0, 4, 1, 2, 3))
    return queries[0], queries[1], _memory_change(row_keys, column_keys, changed_values)


def _memory_change(row_keys: jax.Array, column_keys: jax.Array, values: jax.Array) -> RowColumnMemory:
    """The gradient of a memory, whose masks have none."""
    no_gradient: Any = None
    return RowColumnMemory(row_keys, column_keys, values, no_gradient)


def _kernel_arguments(
    row_queries: jax.Array, column_queries: jax.Array, memory: RowColumnMemory
) -> tuple[bool, attention_kernel.Axis, attention_kernel.Axis, jax.Array]:
    """Whether the longer axis is that along rows, both axes and the values as the kernel wants them."""
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
