"""The feed-forward network of a layer by a kernel on TPUs: its gradient, and rows as the kernel wants them."""

from typing import Any

import jax

from anchordetr_jax.kernels.tpu import feed_forward_kernel
from anchordetr_jax.kernels.tpu.feed_forward_kernel import Weights
from anchordetr_jax.kernels.tpu.parts import as_rows
from anchordetr_jax.model.normalization import layer_norm
from anchordetr_jax.model.precision import product_precision


@jax.custom_vjp
def kernel_feed_forward(x: jax.Array, weights: Weights) -> jax.Array:
    """`plain_feed_forward` by the kernel of feed_forward_kernel.py on TPUs, and as it is elsewhere. Nothing is kept for
    the backward pass but x, what was normalised, and the weights."""
    return _forward(x, weights)[0]


def _kernel_feed_forward_forward(x: jax.Array, weights: Weights) -> Any:
    out, sums = _forward(x, weights)
    return out, (x, sums, weights)


def _kernel_feed_forward_backward(saved: Any, gradient: jax.Array) -> Any:
    return jax.lax.platform_dependent(*saved, gradient, tpu=kernel_backward, default=_plain_backward)


kernel_feed_forward.defvjp(_kernel_feed_forward_forward, _kernel_feed_forward_backward)


def _forward(x: jax.Array, weights: Weights) -> tuple[jax.Array, jax.Array]:
    return jax.lax.platform_dependent(x, weights, tpu=kernel_forward, default=_plain_forward)


def plain_feed_forward(x: jax.Array, weights: Weights) -> jax.Array:
    """norm(x + W2 relu(W1 x + b1) + b2), [..., C] -> [..., C]: what `nnx.Linear` and `LayerNorm` make of it."""
    return _plain_forward(x, weights)[0]


def _plain_forward(x: jax.Array, weights: Weights) -> tuple[jax.Array, jax.Array]:
    def linear(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        mapped = jax.lax.dot_general(
            x,
            kernel.astype(x.dtype),
            (((x.ndim - 1,), (0,)), ((), ())),
            precision=product_precision(x.dtype),
        )
        return mapped + bias.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))

    hidden = jax.nn.relu(linear(x, weights.kernel1, weights.bias1))
    sums = x + linear(hidden, weights.kernel2, weights.bias2)
    return layer_norm(sums, weights.scale, weights.bias, x.dtype), sums


def _plain_backward(x: jax.Array, sums: jax.Array, weights: Weights, gradient: jax.Array) -> tuple[jax.Array, Weights]:
    del sums  # A few products more, where nothing gains by this form anyway.
    return jax.vjp(plain_feed_forward, x, weights)[1](gradient)


def kernel_forward(x: jax.Array, weights: Weights, *, interpret: bool = False) -> tuple[jax.Array, jax.Array]:
    """`plain_feed_forward` and what it normalised, by the kernel; `interpret`: without a TPU."""
    out, sums = feed_forward_kernel.feed_forward(as_rows(x), weights, interpret=interpret)
    return _as(out, x), _as(sums, x)


def kernel_backward(
    x: jax.Array, sums: jax.Array, weights: Weights, gradient: jax.Array, *, interpret: bool = False
) -> tuple[jax.Array, Weights]:
    """Gradients of x and the weights from that of the result, by the kernel."""
    change, weights_change = feed_forward_kernel.feed_forward_backward(
        as_rows(x), as_rows(sums), as_rows(gradient), weights, interpret=interpret
    )
    return _as(change, x), weights_change


def _as(rows: jax.Array, x: jax.Array) -> jax.Array:
    return rows.reshape(x.shape)
