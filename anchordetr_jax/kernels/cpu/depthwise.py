"""Depthwise convolutions for CPUs, as sums of shifted products.

XLA's own depthwise convolution takes ten to fifty times as long on CPUs, and its gradients three to five times.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from anchordetr_jax.model.precision import product_precision


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise_convolution(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """`small_backbones.efficientnet.depthwise_convolution` for CPUs: x [B,h,w,C], kernel [k,k,1,C]."""
    k = kernel.shape[0]
    products = (shifted * kernel[i, j, 0][None, None, None, :] for (i, j), shifted in _shifted(x, k, stride))
    return functools.reduce(jnp.add, products)


def _forward(x: jax.Array, kernel: jax.Array, stride: int) -> Any:
    return depthwise_convolution(x, kernel, stride), (x, kernel)


def _backward(stride: int, saved: Any, gradient: jax.Array) -> Any:
    x, kernel = saved
    x, gradient = lax.optimization_barrier(x), lax.optimization_barrier(gradient)
    _, h, w, C = x.shape
    rows, columns = gradient.shape[1:3]
    gaps = stride - 1
    ends = (h - (rows - 1) * stride - 1, w - (columns - 1) * stride - 1)
    spread = lax.pad(
        gradient, jnp.zeros((), gradient.dtype), ((0, 0, 0), (0, ends[0], gaps), (0, ends[1], gaps), (0, 0, 0))
    )
    of_x = depthwise_convolution(spread, kernel[::-1, ::-1], 1)
    # A sum over pixels is a product with ones: XLA's own sum reads the pixels of one channel after another.
    ones = jnp.ones((1, gradient[..., 0].size), x.dtype)
    sums = [
        jnp.matmul(
            ones, lax.optimization_barrier(shifted * gradient).reshape(-1, C), precision=product_precision(x.dtype)
        )
        for _, shifted in _shifted(x, kernel.shape[0], stride)
    ]
    return of_x, jnp.stack(sums).reshape(kernel.shape)


depthwise_convolution.defvjp(_forward, _backward)


def _shifted(x: jax.Array, k: int, stride: int) -> Any:
    """((i, j), what lies under place i, j of the kernel) for all places: [B,ceil(h/stride),ceil(w/stride),C]."""
    pad, (h, w) = k // 2, x.shape[1:3]
    rows, columns = -(-h // stride) * stride, -(-w // stride) * stride
    padded = lax.optimization_barrier(jnp.pad(x, ((0, 0), (pad, pad + stride - 1), (pad, pad + stride - 1), (0, 0))))
    for i in range(k):
        for j in range(k):
            yield (i, j), padded[:, i : i + rows : stride, j : j + columns : stride]
