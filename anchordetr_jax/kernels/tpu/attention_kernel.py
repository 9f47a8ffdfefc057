"""Row-column attention as Pallas kernels, which never write the array between the two sums to memory.

Queries lie in lanes, the channels of a row of features in sublanes. So the first sum, over the longer axis, is one
matrix product for the whole shorter axis, and the second sum multiplies by a row that every sublane shares. Only
the arguments are kept for the backward pass, which computes both attentions again.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from anchordetr_jax.kernels.tpu.parts import LANES, LEFT_TRANSPOSED, RIGHT_TRANSPOSED, clear_first, dot, name
from anchordetr_jax.model.precision import at_least_float32

QUERY_BLOCK = 512
"""The most queries in a grid step."""
_SHORT_CHUNK = 8
"""Rows of the shorter axis in one matrix product: enough to keep the MXU busy, few enough to stay in registers."""

_PARAMS = pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary"))


class Axis(NamedTuple):
    """One of the two attentions: queries [B,n*d,Q], keys [B,n,k,d] of its k places, mask [B,k,1].

    The mask (0 or -inf) is added to the scores.
    """

    queries: jax.Array
    keys: jax.Array
    mask: jax.Array


def attend(long: Axis, short: Axis, values: jax.Array, *, interpret: bool = False) -> jax.Array:
    """sum over s and l of A_short[q,s] * A_long[q,l] * values[s,l], each A a softmax over its axis.

    Args:
        long: the attention along the longer axis, of `long` places.
        short: that along the shorter axis, of S places.
        values: [B,S,n,d,long].
        interpret: run without a TPU, slowly.

    Returns:
        [B,n*d,Q] in the dtype of `values`.
    """
    grid, specs = _blocks(long, short)
    return pl.pallas_call(
        functools.partial(_forward_kernel, scale=long.keys.shape[-1] ** -0.5),
        grid=grid,
        in_specs=[*specs.long, *specs.short, specs.values],
        out_specs=specs.queries,
        out_shape=jax.ShapeDtypeStruct(long.queries.shape, values.dtype),
        name=name("rcda_forward", grid, _sizes(long, short)),
        cost_estimate=_cost(long, short, values, products=1),
        interpret=interpret,
        compiler_params=_PARAMS,
    )(*long, *short, values)


def attend_backward(
    long: Axis, short: Axis, values: jax.Array, gradient: jax.Array, *, interpret: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """The gradients of long and short queries, long and short keys, and values, from that of the result of `attend`.

    They have the shapes and dtypes of the arguments. Sums over queries are computed in float32 or wider.
    """
    grid, specs = _blocks(long, short)
    block, wide = _block(long.queries.shape[2]), at_least_float32(values.dtype)
    places, d = short.keys.shape[-2:]

    return pl.pallas_call(
        functools.partial(_backward_kernel, scale=d**-0.5, queries_in_all=long.queries.shape[2]),
        grid=grid,
        in_specs=[*specs.long, *specs.short, specs.values, specs.queries],
        out_specs=[specs.queries, specs.queries, specs.long.keys, specs.short.keys, specs.values],
        out_shape=[
            jax.ShapeDtypeStruct(array.shape, values.dtype)
            for array in (long.queries, short.queries, long.keys, short.keys, values)
        ],
        scratch_shapes=[
            pltpu.VMEM((places, block), wide),
            pltpu.VMEM((places * d, block), values.dtype),
            *(pltpu.VMEM(array.shape[2:], wide) for array in (long.keys, short.keys)),
            pltpu.VMEM((places * d, values.shape[-1]), wide),
        ],
        name=name("rcda_backward", grid, _sizes(long, short)),
        cost_estimate=_cost(long, short, values, products=2),
        interpret=interpret,
        compiler_params=_PARAMS,
    )(*long, *short, values, gradient)


def _forward_kernel(
    long_queries: Any,
    long_keys: Any,
    long_mask: Any,
    short_queries: Any,
    short_keys: Any,
    short_mask: Any,
    values: Any,
    out: Any,
    *,
    scale: float,
) -> None:
    dtype = values.dtype
    d, places = short_keys.shape[-1], short_keys.shape[-2]
    long = _weights(long_keys[0, 0], long_queries[0], long_mask[0], scale).astype(dtype)  # [l,q]
    short = _weights(short_keys[0, 0], short_queries[0], short_mask[0], scale)
    short = short.astype(dtype).astype(short.dtype)  # [s,q], rounded as in the plain function
    total = jnp.zeros((d, short.shape[1]), short.dtype)
    for first in range(0, places, _SHORT_CHUNK):
        some = min(_SHORT_CHUNK, places - first)
        inner = dot(values[0, first : first + some, 0].reshape(some * d, -1), long)  # [s*d,q]
        for i in range(some):
            total += inner[i * d : (i + 1) * d] * short[first + i : first + i + 1]
    out[0] = total.astype(dtype)


def _backward_kernel(
    long_queries: Any,
    long_keys: Any,
    long_mask: Any,
    short_queries: Any,
    short_keys: Any,
    short_mask: Any,
    values: Any,
    gradient: Any,
    long_queries_out: Any,
    short_queries_out: Any,
    long_keys_out: Any,
    short_keys_out: Any,
    values_out: Any,
    short_change: Any,
    inner_change: Any,
    long_keys_sum: Any,
    short_keys_sum: Any,
    values_sum: Any,
    *,
    scale: float,
    queries_in_all: int,
) -> None:
    dtype = values.dtype
    d, places = short_keys.shape[-1], short_keys.shape[-2]
    step, last_step = pl.program_id(2), pl.num_programs(2) - 1
    # The last block may reach beyond the queries. The memory there is not set, and sums over queries must not see it.
    block = long_queries.shape[-1]
    present = jax.lax.broadcasted_iota(jnp.int32, (1, block), 1) < queries_in_all - step * block
    long_q, short_q, change = (
        jnp.where(present, array[0], jnp.zeros((), array.dtype)) for array in (long_queries, short_queries, gradient)
    )
    change = change.astype(at_least_float32(dtype))  # [d,q]
    long = _weights(long_keys[0, 0], long_q, long_mask[0], scale)  # [l,q]
    short = _weights(short_keys[0, 0], short_q, short_mask[0], scale)  # [s,q]
    rounded_long, rounded_short = long.astype(dtype), short.astype(dtype).astype(short.dtype)

    clear_first(step, long_keys_sum, short_keys_sum, values_sum)
    for first in range(0, places, _SHORT_CHUNK):
        some = min(_SHORT_CHUNK, places - first)
        inner = dot(values[0, first : first + some, 0].reshape(some * d, -1), rounded_long)  # [s*d,q]
        for i in range(some):
            s = first + i
            short_change[s : s + 1] = jnp.sum(inner[i * d : (i + 1) * d] * change, axis=0, keepdims=True)
            inner_change[s * d : (s + 1) * d] = (rounded_short[s : s + 1] * change).astype(dtype)
    long_change = dot(values[0, :, 0].reshape(places * d, -1), inner_change[...], LEFT_TRANSPOSED)  # [l,q]
    values_sum[...] += dot(inner_change[...], rounded_long, RIGHT_TRANSPOSED)  # [s*d,l]
    for weights, weights_change, queries, keys, queries_out, keys_sum in (
        (long, long_change, long_q, long_keys, long_queries_out, long_keys_sum),
        (short, short_change[...], short_q, short_keys, short_queries_out, short_keys_sum),
    ):
        mean = jnp.sum(weights * weights_change, axis=0, keepdims=True)
        scores_change = (weights * (weights_change - mean) * scale).astype(dtype)
        queries_out[0] = dot(keys[0, 0], scores_change, LEFT_TRANSPOSED).astype(dtype)
        keys_sum[...] += dot(scores_change, queries, RIGHT_TRANSPOSED)

    @pl.when(step == last_step)
    def _() -> None:
        for out, total in ((long_keys_out, long_keys_sum), (short_keys_out, short_keys_sum)):
            out[0, 0] = total[...].astype(dtype)
        values_out[0, :, 0] = values_sum[...].astype(dtype).reshape(places, d, -1)


def _weights(keys: jax.Array, queries: jax.Array, mask: jax.Array, scale: float) -> jax.Array:
    """Softmax over places: keys [k,d], queries [d,q], mask [k,1] -> [k,q] in float32 or wider."""
    scores = dot(keys, queries) * scale + mask
    raised = jnp.exp(scores - jnp.max(scores, axis=0, keepdims=True))
    return raised / jnp.sum(raised, axis=0, keepdims=True)


class _Specs(NamedTuple):
    """The part of each array that a grid step gets."""

    queries: pl.BlockSpec
    long: Axis
    short: Axis
    values: pl.BlockSpec


def _block(queries: int) -> int:
    """Queries of a grid step."""
    return min(QUERY_BLOCK, math.ceil(queries / LANES) * LANES)


def _sizes(long: Axis, short: Axis) -> tuple[int, int, int]:
    """The numbers of queries, short places and long places."""
    return long.queries.shape[2], short.keys.shape[2], long.keys.shape[2]


def _blocks(long: Axis, short: Axis) -> tuple[tuple[int, int, int], _Specs]:
    """The grid, images x heads x blocks of queries, and the parts.

    Keys, values and the sums of their gradients stay in place from one block of queries to the next.
    """
    B, n, _, d = long.keys.shape
    count, S, L = _sizes(long, short)
    block = _block(count)
    queries: Any = pl.BlockSpec((1, d, block), lambda b, head, i: (b, head, i))

    def of_head(*shape: int) -> Any:
        return pl.BlockSpec((1, 1, *shape), lambda b, head, i: (b, head, 0, 0))

    def axis(places: int) -> Axis:
        mask: Any = pl.BlockSpec((1, places, 1), lambda b, head, i: (b, 0, 0))
        return Axis(queries, of_head(places, d), mask)

    values: Any = pl.BlockSpec((1, S, 1, d, L), lambda b, head, i: (b, 0, head, 0, 0))
    return (B, n, math.ceil(count / block)), _Specs(queries, axis(L), axis(S), values)


def _cost(long: Axis, short: Axis, values: jax.Array, *, products: int) -> pl.CostEstimate:
    """For the compiler and for counts of FLOPs: `products` large products, without those that are computed again."""
    B, n, _, d = long.keys.shape
    count, S, L = _sizes(long, short)
    pairs = B * n * count
    arrays = (*long, *short, values)
    return pl.CostEstimate(
        flops=2 * products * pairs * d * (S * L + S + L + S),
        transcendentals=pairs * (L + S),
        bytes_accessed=products * sum(array.size * array.dtype.itemsize for array in arrays),
    )
