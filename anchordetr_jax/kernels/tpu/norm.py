"""LayerNorm of a sum by the kernels of `norm_kernel.py`, with its gradient."""

import functools
from typing import Any

import jax

from anchordetr_jax.kernels.tpu import norm_kernel
from anchordetr_jax.kernels.tpu.parts import as_rows
from anchordetr_jax.model import normalization


def norm_of_sum(x: jax.Array, y: jax.Array, scale: jax.Array, bias: jax.Array, *, interpret: bool = False) -> jax.Array:
    """`model.normalization.norm_of_sum` by the kernels, [..., C] -> [..., C]; plainly, if there are too many channels.

    For the backward pass only the sum and the scale are kept.
    """
    if x.shape[-1] > norm_kernel.MOST_CHANNELS:
        return normalization.norm_of_sum(x, y, scale, bias)
    return _compute(x, y, scale, bias, interpret)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _compute(x: jax.Array, y: jax.Array, scale: jax.Array, bias: jax.Array, interpret: bool) -> jax.Array:
    return _forward(x, y, scale, bias, interpret)[0]


def _forward(x: jax.Array, y: jax.Array, scale: jax.Array, bias: jax.Array, interpret: bool) -> Any:
    out, sums = norm_kernel.norm_of_sum(as_rows(x), as_rows(y), scale, bias, interpret=interpret)
    return out.reshape(x.shape), (sums, scale)


def _backward(interpret: bool, saved: Any, gradient: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    sums, scale = saved
    change, scale_change, bias_change = norm_kernel.norm_of_sum_backward(
        sums, as_rows(gradient), scale, interpret=interpret
    )
    change = change.reshape(gradient.shape)
    return change, change, scale_change, bias_change


_compute.defvjp(_forward, _backward)
