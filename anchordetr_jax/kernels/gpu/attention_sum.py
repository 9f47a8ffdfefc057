"""The two sums of row-column attention as GPU (Pallas, Triton) kernels, which never write what lies between them to
memory.

A block of queries goes through the places of the shorter axis one by one: the first sum, over the longer axis, is a
matrix product, and the second adds it to the result, times one weight a query. The backward pass computes the products
anew; it has two kernels, as one sums over places and the other over queries. JAX 0.11 still has Pallas for Triton, and
announces its end: then this needs Pallas for Mosaic, or to go.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from anchordetr_jax.model.decoupled import RowColumnMemory, decoupled_sum, decoupled_weights
from anchordetr_jax.model.precision import at_least_float32, product_precision

QUERY_BLOCK = 64
LONGEST = 256
"""Places of the longer axis that a block's registers have room for; with more the plain form computes."""
_SMALLEST = 16
"""Of either side of a matrix product (Triton)."""


def attention_with_kernel_sum(row_queries: jax.Array, column_queries: jax.Array, memory: RowColumnMemory) -> jax.Array:
    """`plain_attention`, whose sums are computed by kernels on NVIDIA GPUs: queries [B,Q,n,d] -> [B,Q,n,d]."""
    row_weights, column_weights = decoupled_weights(row_queries, column_queries, memory)
    dtype = memory.values.dtype
    return kernel_sum(row_weights.astype(dtype), column_weights.astype(dtype), memory.values)


@jax.custom_vjp
def kernel_sum(row_weights: jax.Array, column_weights: jax.Array, values: jax.Array) -> jax.Array:
    """`decoupled_sum` by kernels on NVIDIA GPUs, and as it is elsewhere. All three are of one dtype."""
    return _on_gpus(sum_forward, decoupled_sum, row_weights, column_weights, values)


def _kernel_sum_forward(row_weights: jax.Array, column_weights: jax.Array, values: jax.Array) -> Any:
    return kernel_sum(row_weights, column_weights, values), (row_weights, column_weights, values)


def _kernel_sum_backward(saved: Any, gradient: jax.Array) -> Any:
    return _on_gpus(sum_backward, _plain_backward, *saved, gradient)


kernel_sum.defvjp(_kernel_sum_forward, _kernel_sum_backward)


def _plain_backward(row_weights: jax.Array, column_weights: jax.Array, values: jax.Array, gradient: jax.Array) -> Any:
    return jax.vjp(decoupled_sum, row_weights, column_weights, values)[1](gradient)


def _on_gpus(kernel: Any, plain: Any, row_weights: jax.Array, column_weights: jax.Array, *more: jax.Array) -> Any:
    arrays = row_weights, column_weights, *more
    if max(row_weights.shape[-1], column_weights.shape[-1]) > LONGEST:
        return plain(*arrays)
    return jax.lax.platform_dependent(*arrays, cuda=kernel, default=plain)


def sum_forward(
    row_weights: jax.Array, column_weights: jax.Array, values: jax.Array, *, interpret: bool = False
) -> jax.Array:
    """`decoupled_sum` by the kernel; `interpret`: without a GPU, slowly."""
    long, short, content = _kernel_arguments(row_weights, column_weights, values)
    B, n, Q, L = long.shape
    S, d = content.shape[2], content.shape[-1]
    out = pl.pallas_call(
        _forward_kernel,
        grid=(B, n, Q // QUERY_BLOCK),
        in_specs=[_of_queries(L), _of_places(S), _of_head(S, L, d)],
        out_specs=_of_queries(d),
        out_shape=jax.ShapeDtypeStruct((B, n, Q, d), values.dtype),
        name="decoupled_sum",
        interpret=interpret,
        compiler_params=_PARAMS,
    )(long, short, content)
    return out[:, :, : row_weights.shape[2], : values.shape[-1]].transpose(0, 2, 1, 3)


def sum_backward(
    row_weights: jax.Array,
    column_weights: jax.Array,
    values: jax.Array,
    gradient: jax.Array,
    *,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of both weights and of values from that of the sum [B,Q,n,d], by the kernels."""
    long, short, content = _kernel_arguments(row_weights, column_weights, values)
    B, n, Q, L = long.shape
    S, d = content.shape[2], content.shape[-1]
    change = _padded(gradient.transpose(0, 2, 1, 3), Q, d)
    call = functools.partial(pl.pallas_call, interpret=interpret, compiler_params=_PARAMS)

    long_change, short_change = call(
        _weights_kernel,
        grid=(B, n, Q // QUERY_BLOCK),
        in_specs=[_of_queries(L), _of_places(S), _of_head(S, L, d), _of_queries(d)],
        out_specs=[_of_queries(L), _of_places(S)],
        out_shape=[jax.ShapeDtypeStruct(array.shape, values.dtype) for array in (long, short)],
        name="decoupled_sum_weights",
    )(long, short, content, change)
    one_place: Any = pl.BlockSpec((None, None, None, L, d), lambda b, head, s: (b, head, s, 0, 0))
    content_change = call(
        _values_kernel,
        grid=(B, n, S),
        in_specs=[
            pl.BlockSpec((None, None, Q, L), lambda b, head, s: (b, head, 0, 0)),
            pl.BlockSpec((None, None, None, Q), lambda b, head, s: (b, head, s, 0)),
            pl.BlockSpec((None, None, Q, d), lambda b, head, s: (b, head, 0, 0)),
        ],
        out_specs=one_place,
        out_shape=jax.ShapeDtypeStruct(content.shape, values.dtype),
        name="decoupled_sum_values",
    )(long, short, change)

    _, h, w, _, channels = values.shape
    queries = row_weights.shape[2]
    long_change = long_change[:, :, :queries, : max(h, w)]
    short_change = short_change[..., :queries].swapaxes(2, 3)
    content_change = content_change[..., : max(h, w), :channels]  # [B,n,S,L,d]
    if w >= h:
        return long_change, short_change, content_change.transpose(0, 2, 3, 1, 4)
    return short_change, long_change, content_change.transpose(0, 3, 2, 1, 4)


def _forward_kernel(long: Any, short: Any, values: Any, out: Any) -> None:
    weights = long[...]  # [q,l]

    def add_place(s: Any, total: jax.Array) -> jax.Array:
        return total + short[s, :].astype(total.dtype)[:, None] * _dot(weights, values[s, :, :])

    zeros = jnp.zeros(out.shape, at_least_float32(out.dtype))
    out[...] = jax.lax.fori_loop(0, values.shape[0], add_place, zeros).astype(out.dtype)


def _weights_kernel(long: Any, short: Any, values: Any, gradient: Any, long_change: Any, short_change: Any) -> None:
    weights, change = long[...], gradient[...]  # [q,l], [q,d]
    wide = change.astype(at_least_float32(change.dtype))

    def add_place(s: Any, total: jax.Array) -> jax.Array:
        content = values[s, :, :]  # [l,d]
        short_change[s, :] = jnp.sum(_dot(weights, content) * wide, axis=1).astype(short_change.dtype)
        inner_change = (short[s, :].astype(wide.dtype)[:, None] * wide).astype(change.dtype)
        return total + _dot(inner_change, content.T)

    zeros = jnp.zeros(long.shape, wide.dtype)
    long_change[...] = jax.lax.fori_loop(0, values.shape[0], add_place, zeros).astype(long_change.dtype)


def _values_kernel(long: Any, short: Any, gradient: Any, values_change: Any) -> None:
    def add_queries(i: Any, total: jax.Array) -> jax.Array:
        block = pl.ds(i * QUERY_BLOCK, QUERY_BLOCK)
        change = gradient[block, :]
        inner_change = (short[block].astype(total.dtype)[:, None] * change.astype(total.dtype)).astype(change.dtype)
        return total + _dot(long[block, :].T, inner_change)

    zeros = jnp.zeros(values_change.shape, at_least_float32(values_change.dtype))
    total = jax.lax.fori_loop(0, long.shape[0] // QUERY_BLOCK, add_queries, zeros)
    values_change[...] = total.astype(values_change.dtype)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.dot(a, b, precision=product_precision(a.dtype), preferred_element_type=at_least_float32(a.dtype))


def _kernel_arguments(
    row_weights: jax.Array, column_weights: jax.Array, values: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Weights along the longer axis [B,n,Q,L], those along the shorter one [B,n,S,Q], and values [B,n,S,L,d], padded
    with zeros: Q to whole blocks, L and d to powers of two (Triton knows no others)."""
    _, h, w, _, d = values.shape
    Q = math.ceil(row_weights.shape[2] / QUERY_BLOCK) * QUERY_BLOCK
    L, d = (max(pl.next_power_of_2(length), _SMALLEST) for length in (max(h, w), d))
    if w >= h:
        long, short, content = row_weights, column_weights, values.transpose(0, 3, 1, 2, 4)
    else:
        long, short, content = column_weights, row_weights, values.transpose(0, 3, 2, 1, 4)
    return _padded(long, Q, L), _padded(short.swapaxes(2, 3), short.shape[-1], Q), _padded(content, L, d)


def _padded(x: jax.Array, rows: int, columns: int) -> jax.Array:
    """x [...,r,c] -> [...,rows,columns], with zeros."""
    *leading, r, c = x.shape
    return jnp.pad(x, [(0, 0)] * len(leading) + [(0, rows - r), (0, columns - c)])


_PARAMS = plgpu.CompilerParams(num_warps=4, num_stages=2)


def _of_queries(width: int) -> Any:
    """A block of queries of [B,n,Q,width]."""
    return pl.BlockSpec((None, None, QUERY_BLOCK, width), lambda b, head, i: (b, head, i, 0))


def _of_places(places: int) -> Any:
    """A block of queries of [B,n,places,Q]."""
    return pl.BlockSpec((None, None, places, QUERY_BLOCK), lambda b, head, i: (b, head, 0, i))


def _of_head(*shape: int) -> Any:
    """All of one head of [B,n,*shape]."""
    return pl.BlockSpec((None, None, *shape), lambda b, head, i: (b, head, *(0 for _ in shape)))
