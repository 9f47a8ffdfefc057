"""Convolutions for CPUs, which they and their gradients compute as matrix products.

XLA's own gradient of a kernel is a convolution with a kernel as large as the image, or a product that reads its
operands with a large stride through the operations fused into it. Each takes at least twice the time.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from anchordetr_jax.kernels.cpu import winograd
from anchordetr_jax.model import layers, resnet
from anchordetr_jax.model.precision import product_precision
from anchordetr_jax.model.valid_area import StageArea

_CROWDED, _EXTRA_COLUMNS = 2048, 16
"""If rows have a multiple of 2048 numbers, they all begin at the same place of a CPU's caches and push one another out
while a product writes its result. This takes a third longer. Extra columns move them apart."""


def convolution(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    """`model.layers.convolution` for CPUs: x [B,H,W,I], kernel [k,k,I,O] -> [B,ceil(H/stride),ceil(W/stride),O]."""
    if kernel.shape[0] == 1:
        return _pixel_products(x[:, ::stride, ::stride], kernel[0, 0])
    if kernel.shape[0] == 3:
        return _convolution3x3(x, kernel, stride, dilation)
    return layers.convolution(x, kernel, stride, dilation)


def stored_bottleneck(block: resnet.Bottleneck, x: jax.Array, area: StageArea) -> jax.Array:
    """`model.resnet.bottleneck` with its result stored: the next block and the backward pass do not compute it again.

    The barrier takes effect with `process.COMPILER_OPTIONS`.
    """
    return lax.optimization_barrier(resnet.bottleneck(block, x, area))


@jax.custom_vjp
def _pixel_products(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 1x1 convolution: x [B,h,w,I], kernel [I,O] -> [B,h,w,O]."""
    return _product(x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], -1)


def _products_forward(x: jax.Array, kernel: jax.Array) -> Any:
    return _pixel_products(x, kernel), (x, kernel)


def _products_backward(saved: Any, gradient: jax.Array) -> Any:
    x, kernel = saved
    x, gradient = lax.optimization_barrier(x), lax.optimization_barrier(gradient)
    of_pixels = _product(gradient.reshape(-1, gradient.shape[-1]), kernel.T).reshape(x.shape)
    return of_pixels, _product_with_gradient(_channels_first(x), gradient)


_pixel_products.defvjp(_products_forward, _products_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolution3x3(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    """A 3x3 convolution, by Winograd's sums where they are faster."""
    return _forward_form(x, kernel, stride, dilation)(x, kernel)


def _forward_form(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> Callable[..., jax.Array]:
    if winograd.fits(x, kernel, stride):
        return functools.partial(winograd.convolution3x3, dilation=dilation)
    if x.dtype == jnp.float64:
        return functools.partial(convolution3x3_of_float64, stride=stride, dilation=dilation)
    return functools.partial(layers.convolution, stride=stride, dilation=dilation)


def convolution3x3_of_float64(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    """A 3x3 convolution as one product. XLA computes other convolutions of float64 in plain loops on CPUs."""
    _, H, W, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (dilation, dilation), (dilation, dilation), (0, 0)))
    places = [
        padded[:, i * dilation :, j * dilation :][:, :H:stride, :W:stride]
        for i, j in itertools.product(range(3), repeat=2)
    ]
    return jnp.matmul(
        jnp.concatenate(places, axis=-1), kernel.reshape(-1, kernel.shape[-1]), precision=product_precision(x.dtype)
    )


def _convolution_forward(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> Any:
    return _convolution3x3(x, kernel, stride, dilation), (x, kernel)


def _convolution_backward(stride: int, dilation: int, saved: Any, gradient: jax.Array) -> Any:
    x, kernel = saved
    x, gradient = lax.optimization_barrier(x), lax.optimization_barrier(gradient)
    of_pixels, of_kernel = jax.vjp(_forward_form(x, kernel, stride, dilation), x, kernel)[1](gradient)
    if not winograd.fits(x, kernel, stride):
        of_kernel = _kernel_gradient_by_rows(x, gradient, stride, dilation)
    return of_pixels, of_kernel


_convolution3x3.defvjp(_convolution_forward, _convolution_backward)


def _kernel_gradient_by_rows(x: jax.Array, gradient: jax.Array, stride: int, dilation: int) -> jax.Array:
    """One product for each row of the kernel: the pixels under its three places, side by side. [3,3,I,O]."""
    _, h, w, _ = gradient.shape
    padded = jnp.pad(_channels_first(x), ((0, 0), (0, 0), (dilation, dilation), (dilation, dilation)))
    rows = []
    for i in range(3):
        starts = [padded[:, :, i * dilation :, j * dilation :] for j in range(3)]
        places = [start[:, :, ::stride, ::stride][:, :, :h, :w] for start in starts]
        under = lax.optimization_barrier(jnp.stack(places))  # [3,I,B,h,w]
        rows.append(_product_with_gradient(under, gradient))
    return jnp.stack(rows)


def _channels_first(x: jax.Array) -> jax.Array:
    """[B,h,w,C] -> [C,B,h,w], written to memory in this order."""
    return lax.optimization_barrier(x.transpose(3, 0, 1, 2))


def _product_with_gradient(pixels: jax.Array, gradient: jax.Array) -> jax.Array:
    """pixels [...,I,B,h,w], gradient [B,h,w,O] -> [...,I,O]."""
    *leading, B, h, w = pixels.shape
    products = _product(pixels.reshape(-1, B * h * w), gradient.reshape(B * h * w, -1))
    return products.reshape(*leading, -1)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """a [m,k], b [k,n] -> [m,n]."""
    n = b.shape[1]
    padded = b if n % _CROWDED else jnp.pad(b, ((0, 0), (0, _EXTRA_COLUMNS)))
    return jnp.matmul(a, padded, precision=product_precision(a.dtype))[:, :n]
