"""LayerNorm of a sum as Pallas kernels, which read and write each row once.

Rows (cells or queries) lie in sublanes, channels in lanes. The backward pass sums the gradients of scale and bias over
the rows in VMEM, from one grid step to the next.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from anchordetr_jax.kernels.tpu.parts import SUBLANES, block_of_rows, blocks_of_rows, clear_first, name, present, whole
from anchordetr_jax.model.normalization import EPSILON
from anchordetr_jax.model.precision import at_least_float32

BLOCK = 1024
"""The most rows in a grid step, of 256 bfloat16 channels."""
MOST_CHANNELS = 256
"""Whether a block with more channels fits into VMEM was not tried."""

_PARAMS = pltpu.CompilerParams(dimension_semantics=("arbitrary",))


def norm_of_sum(
    x: jax.Array, y: jax.Array, scale: jax.Array, bias: jax.Array, *, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """norm(x + y), computed in float32 or wider.

    Args:
        x: rows [M,C].
        y: [M,C], in the dtype of x.
        scale: of the norm, [C], in float32 or wider.
        bias: of the norm, [C], in float32 or wider.
        interpret: run without a TPU, slowly.

    Returns:
        The result and the sum, both [M,C] in the dtype of x.
    """
    # Two rows of bfloat16 share a sublane.
    grid, rows = blocks_of_rows(x, block_of_rows(x, BLOCK, 2 * SUBLANES))
    vectors = [scale[None], bias[None]]
    return pl.pallas_call(
        _forward_kernel,
        grid=grid,
        in_specs=[rows, rows, *map(whole, vectors)],
        out_specs=[rows, rows],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype)] * 2,
        name=name("norm_forward", grid, x.shape),
        cost_estimate=_cost(x, arrays=4),
        interpret=interpret,
        compiler_params=_PARAMS,
    )(x, y, *vectors)


def norm_of_sum_backward(
    sums: jax.Array, gradient: jax.Array, scale: jax.Array, *, interpret: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradients of the sum, the scale and the bias, from the gradient of the result of `norm_of_sum`.

    Args:
        sums: the sum before the norm, [M,C].
        gradient: of the result, [M,C].
        scale: of the norm, [C].
        interpret: run without a TPU, slowly.

    Returns:
        The gradient of the sum, [M,C] in its dtype, and those of scale and bias, [C] in float32 or wider.
    """
    grid, rows = blocks_of_rows(sums, block_of_rows(sums, BLOCK, 2 * SUBLANES))
    vector = jax.ShapeDtypeStruct((1, scale.size), at_least_float32(sums.dtype))
    change, scale_change, bias_change = pl.pallas_call(
        functools.partial(_backward_kernel, rows_in_all=sums.shape[0]),
        grid=grid,
        in_specs=[rows, rows, whole(vector)],
        out_specs=[rows, whole(vector), whole(vector)],
        out_shape=[jax.ShapeDtypeStruct(sums.shape, sums.dtype), vector, vector],
        name=name("norm_backward", grid, sums.shape),
        cost_estimate=_cost(sums, arrays=3),
        interpret=interpret,
        compiler_params=_PARAMS,
    )(sums, gradient, scale[None])
    return change, scale_change[0], bias_change[0]


def _forward_kernel(x: Any, y: Any, scale: Any, bias: Any, out: Any, sums_out: Any) -> None:
    wide = at_least_float32(x.dtype)
    sums = (x[...].astype(wide) + y[...].astype(wide)).astype(x.dtype)
    sums_out[...] = sums
    out[...] = (normal(sums.astype(wide))[0] * scale[...] + bias[...]).astype(x.dtype)


def _backward_kernel(
    sums: Any, gradient: Any, scale: Any, sums_out: Any, scale_total: Any, bias_total: Any, *, rows_in_all: int
) -> None:
    step, wide = pl.program_id(0), at_least_float32(sums.dtype)
    given, change = present([sums[...], gradient[...]], step, rows_in_all)
    clear_first(step, scale_total, bias_total)
    change = change_through_norm(given.astype(wide), change.astype(wide), scale, scale_total, bias_total)
    sums_out[...] = change.astype(sums.dtype)


def normal(sums: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rows [M,C] scaled to mean 0 and deviation 1, and one over their former deviations, [M,1]."""
    centred = sums - jnp.mean(sums, axis=1, keepdims=True)
    inverse_deviation = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=1, keepdims=True) + EPSILON)
    return centred * inverse_deviation, inverse_deviation


def change_through_norm(sums: jax.Array, change: jax.Array, scale: Any, scale_total: Any, bias_total: Any) -> jax.Array:
    """The gradient of the sum before a norm, [M,C], from that of the norm's result.

    The gradients of scale and bias are added to their totals [1,C].
    """
    normalised, inverse_deviation = normal(sums)
    scale_total[...] += jnp.sum(change * normalised, axis=0, keepdims=True)
    bias_total[...] += jnp.sum(change, axis=0, keepdims=True)
    change = change * scale[...]
    along = normalised * jnp.mean(change * normalised, axis=1, keepdims=True)
    return inverse_deviation * (change - jnp.mean(change, axis=1, keepdims=True) - along)


def _cost(x: jax.Array, *, arrays: int) -> pl.CostEstimate:
    """For the compiler. FLOPs count products of matrices only, and there are none."""
    return pl.CostEstimate(flops=0, transcendentals=x.shape[0], bytes_accessed=arrays * x.size * x.dtype.itemsize)
