"""The feed-forward network of a layer as Pallas kernels, which never write its hidden channels to memory.

Rows (cells or queries) lie in sublanes, channels in lanes. The backward pass computes the hidden channels again, and
sums the gradients of the weights over the rows in VMEM, from one grid step to the next. Products over rows transpose
the narrower factor: there are four times as many hidden channels.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from anchordetr_jax.kernels.tpu.norm_kernel import change_through_norm, normal
from anchordetr_jax.kernels.tpu.parts import (
    LANES,
    RIGHT_TRANSPOSED,
    SUBLANES,
    block_of_rows,
    blocks_of_rows,
    clear_first,
    dot,
    name,
    present,
    whole,
)
from anchordetr_jax.model.precision import at_least_float32
from anchordetr_jax.model.transformer import FeedForwardWeights

FORWARD_BLOCK = 1024
"""The most rows in a grid step, of 256 bfloat16 channels."""
BACKWARD_BLOCK = 640
MOST_CHANNELS, MOST_HIDDEN = 256, 1024
"""Whether more of them fit into VMEM, with their weights, gradients and hidden channels, was not tried."""

_PARAMS = pltpu.CompilerParams(dimension_semantics=("arbitrary",))


def fits(channels: int, hidden: int) -> bool:
    """Whether the kernels can compute a network with these numbers of channels."""
    return channels <= MOST_CHANNELS and hidden <= MOST_HIDDEN


def feed_forward(x: jax.Array, weights: FeedForwardWeights, *, interpret: bool = False) -> tuple[jax.Array, jax.Array]:
    """norm(x + W2 relu(W1 x + b1) + b2), products in the dtype of x, the norm in float32 or wider.

    Args:
        x: rows [M,C].
        weights: of C channels and F hidden channels.
        interpret: run without a TPU, slowly.

    Returns:
        The result and the sum before the norm, both [M,C] in the dtype of x.
    """
    operands = _operands(weights, x.dtype)
    # Two rows of bfloat16 share a sublane.
    grid, rows = blocks_of_rows(x, block_of_rows(x, FORWARD_BLOCK, 2 * SUBLANES))
    return pl.pallas_call(
        _forward_kernel,
        grid=grid,
        in_specs=[rows, *map(whole, operands)],
        out_specs=[rows, rows],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype)] * 2,
        name=name("ffn_forward", grid, x.shape),
        cost_estimate=_cost(x, operands, products=2),
        interpret=interpret,
        compiler_params=_PARAMS,
    )(x, *operands)


def feed_forward_backward(
    x: jax.Array, sums: jax.Array, gradient: jax.Array, weights: FeedForwardWeights, *, interpret: bool = False
) -> tuple[jax.Array, FeedForwardWeights]:
    """The gradients of x and of the weights from the gradient of the result of `feed_forward`.

    Args:
        x: rows [M,C].
        sums: the sum before the norm, [M,C].
        gradient: of the result, [M,C].
        weights: as for `feed_forward`.
        interpret: run without a TPU, slowly.

    Returns:
        The gradient of x in its dtype, and those of the weights in float32 or wider.
    """
    wide = at_least_float32(x.dtype)
    operands = _operands(weights, x.dtype)
    # The rows are contracted, and the MXU contracts whole lanes.
    grid, rows = blocks_of_rows(x, block_of_rows(x, BACKWARD_BLOCK, LANES))
    # The gradient of W2 is computed as that of its transpose [C,F].
    totals = [jax.ShapeDtypeStruct(operands[i].shape, wide) for i in (0, 1, 0, 3, 4, 5)]
    change, kernel1, bias1, kernel2, bias2, scale, bias = pl.pallas_call(
        functools.partial(_backward_kernel, rows_in_all=x.shape[0]),
        grid=grid,
        in_specs=[rows, rows, rows, *map(whole, operands[:-1])],
        out_specs=[rows, *map(whole, totals)],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype), *totals],
        name=name("ffn_backward", grid, x.shape),
        cost_estimate=_cost(x, operands, products=4),
        interpret=interpret,
        compiler_params=_PARAMS,
    )(x, sums, gradient, *operands[:-1])
    return change, FeedForwardWeights(kernel1, bias1[0], kernel2.T, bias2[0], scale[0], bias[0])


def _forward_kernel(
    x: Any, kernel1: Any, bias1: Any, kernel2: Any, bias2: Any, scale: Any, bias: Any, out: Any, sums_out: Any
) -> None:
    dtype = x.dtype
    wide = at_least_float32(dtype)
    hidden = jnp.maximum(dot(x[...], kernel1[...]) + bias1[...], 0).astype(dtype)
    sums = (x[...].astype(wide) + dot(hidden, kernel2[...]) + bias2[...]).astype(dtype)
    sums_out[...] = sums
    out[...] = (normal(sums.astype(wide))[0] * scale[...] + bias[...]).astype(dtype)


def _backward_kernel(
    x: Any,
    sums: Any,
    gradient: Any,
    kernel1: Any,
    bias1: Any,
    kernel2: Any,
    bias2: Any,
    scale: Any,
    x_out: Any,
    kernel1_total: Any,
    bias1_total: Any,
    kernel2_total: Any,
    bias2_total: Any,
    scale_total: Any,
    bias_total: Any,
    *,
    rows_in_all: int,
) -> None:
    del bias2  # `sums` contains it.
    dtype, step = x.dtype, pl.program_id(0)
    wide = at_least_float32(dtype)
    rows, given, change = present([x[...], sums[...], gradient[...]], step, rows_in_all)

    clear_first(step, kernel1_total, bias1_total, kernel2_total, bias2_total, scale_total, bias_total)
    change = change_through_norm(given.astype(wide), change.astype(wide), scale, scale_total, bias_total)
    bias2_total[...] += jnp.sum(change, axis=0, keepdims=True)

    rounded = change.astype(dtype)
    raw = dot(rows, kernel1[...]) + bias1[...]  # [row,f]
    kernel2_total[...] += dot(rounded.T, jnp.maximum(raw, 0).astype(dtype))
    raw_change = jnp.where(raw > 0, dot(rounded, kernel2[...], RIGHT_TRANSPOSED), 0)
    bias1_total[...] += jnp.sum(raw_change, axis=0, keepdims=True)
    raw_change = raw_change.astype(dtype)
    kernel1_total[...] += dot(rows.T, raw_change)
    x_out[...] = (change + dot(raw_change, kernel1[...], RIGHT_TRANSPOSED)).astype(dtype)


def _operands(weights: FeedForwardWeights, dtype: jnp.dtype) -> list[jax.Array]:
    """Kernels in `dtype`, vectors as rows in float32 or wider. Biases are rounded to `dtype` as in `model.layers`."""
    kernel1, bias1, kernel2, bias2, scale, bias = weights
    wide = at_least_float32(dtype)
    rounded = [vector.astype(dtype).astype(wide)[None] for vector in (bias1, bias2)]
    return [kernel1.astype(dtype), rounded[0], kernel2.astype(dtype), rounded[1], scale[None], bias[None]]


def _cost(x: jax.Array, operands: list[jax.Array], *, products: int) -> pl.CostEstimate:
    """For the compiler and for counts of FLOPs: `products` products, without those that are computed again."""
    (rows, C), F = x.shape, operands[0].shape[1]
    weights = sum(array.size * array.dtype.itemsize for array in operands)
    return pl.CostEstimate(
        flops=2 * products * rows * C * F,
        transcendentals=rows,
        bytes_accessed=(products // 2 + 2) * x.size * x.dtype.itemsize + products * weights,
    )
