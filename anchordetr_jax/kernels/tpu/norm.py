"""LayerNorm of a sum by a kernel on TPUs: its gradient, and rows as the kernel wants them."""

from typing import Any

import jax

from anchordetr_jax.kernels.tpu import norm_kernel
from anchordetr_jax.kernels.tpu.norm_kernel import Affine
from anchordetr_jax.kernels.tpu.parts import as_rows
from anchordetr_jax.model.normalization import layer_norm


@jax.custom_vjp
def kernel_norm_of_sum(x: jax.Array, y: jax.Array, affine: Affine) -> jax.Array:
    """`plain_norm_of_sum` by the kernel of norm_kernel.py on TPUs, and as it is elsewhere. Nothing is kept for the
    backward pass but the sum and the scale."""
    return _forward(x, y, affine)[0]


def _kernel_norm_forward(x: jax.Array, y: jax.Array, affine: Affine) -> Any:
    out, sums = _forward(x, y, affine)
    return out, (sums, affine)


def _kernel_norm_backward(saved: Any, gradient: jax.Array) -> Any:
    change, affine_change = jax.lax.platform_dependent(*saved, gradient, tpu=kernel_backward, default=_plain_backward)
    return change, change, affine_change


kernel_norm_of_sum.defvjp(_kernel_norm_forward, _kernel_norm_backward)


def _forward(x: jax.Array, y: jax.Array, affine: Affine) -> tuple[jax.Array, jax.Array]:
    return jax.lax.platform_dependent(x, y, affine, tpu=kernel_forward, default=_plain_forward)


def plain_norm_of_sum(x: jax.Array, y: jax.Array, affine: Affine) -> jax.Array:
    """norm(x + y), [..., C] both: what `LayerNorm` makes of the sum."""
    return _plain_forward(x, y, affine)[0]


def _plain_forward(x: jax.Array, y: jax.Array, affine: Affine) -> tuple[jax.Array, jax.Array]:
    sums = x + y
    return _norm(sums, affine), sums


def _plain_backward(sums: jax.Array, affine: Affine, gradient: jax.Array) -> tuple[jax.Array, Affine]:
    return jax.vjp(_norm, sums, affine)[1](gradient)


def _norm(sums: jax.Array, affine: Affine) -> jax.Array:
    return layer_norm(sums, affine.scale, affine.bias, sums.dtype)


def kernel_forward(
    x: jax.Array, y: jax.Array, affine: Affine, *, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """`plain_norm_of_sum` and the sum, by the kernel; `interpret`: without a TPU."""
    out, sums = norm_kernel.norm_of_sum(as_rows(x), as_rows(y), affine, interpret=interpret)
    return out.reshape(x.shape), sums.reshape(x.shape)


def kernel_backward(
    sums: jax.Array, affine: Affine, gradient: jax.Array, *, interpret: bool = False
) -> tuple[jax.Array, Affine]:
    """Gradients of the sum and of scale and bias from that of the result, by the kernel."""
    change, affine_change = norm_kernel.norm_of_sum_backward(
        as_rows(sums), as_rows(gradient), affine.scale, interpret=interpret
    )
    return change.reshape(sums.shape), affine_change
