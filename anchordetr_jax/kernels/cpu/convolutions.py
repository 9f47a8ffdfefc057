"""Convolutions which with their gradients are computed on CPUs as products.

XLA's own gradient of a kernel is a convolution with one as large as the image, or a product that reads its operands
across the grain through whatever is fused into it: each takes twice the time and more.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from anchordetr_jax.kernels.cpu import winograd
from anchordetr_jax.kernels.forms import as_stored

Precision = Any
Convolution = Callable[..., jax.Array]

_CROWDED, _APART = 2048, 16
"""Rows of a multiple of so many numbers begin at the same place of a CPU's caches and push one another out of them
while a product writes its result, which takes a third longer. So many columns more move them apart."""


def plain_pixel_products(x: jax.Array, kernel: jax.Array, precision: Precision) -> jax.Array:
    """A 1x1 convolution as a matrix product: x [B,h,w,I], kernel [I,O] -> [B,h,w,O]."""
    return jnp.einsum("bhwi,io->bhwo", x, kernel, precision=precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def pixel_products(x: jax.Array, kernel: jax.Array, precision: Precision) -> jax.Array:
    """`plain_pixel_products`, with products and gradients made for CPUs."""

    def fast(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _product(x.reshape(-1, x.shape[-1]), kernel, precision).reshape(*x.shape[:-1], -1)

    plain = functools.partial(plain_pixel_products, precision=precision)
    return lax.platform_dependent(x, kernel, cpu=fast, default=plain)


def _products_forward(x: jax.Array, kernel: jax.Array, precision: Precision) -> Any:
    return pixel_products(x, kernel, precision), (x, kernel)


def _products_backward(precision: Precision, saved: Any, gradient: jax.Array) -> Any:
    def fast(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, ...]:
        of_pixels = _product(gradient.reshape(-1, gradient.shape[-1]), kernel.T, precision).reshape(x.shape)
        return of_pixels, _product_with_gradient(_channels_first(x), gradient, precision)

    x, kernel = saved
    plain = functools.partial(_gradients, functools.partial(plain_pixel_products, precision=precision))
    return lax.platform_dependent(as_stored(x), kernel, as_stored(gradient), cpu=fast, default=plain)


pixel_products.defvjp(_products_forward, _products_backward)


def plain_convolution3x3(
    x: jax.Array, kernel: jax.Array, stride: int, dilation: int, precision: Precision
) -> jax.Array:
    """A 3x3 convolution, padded by its dilation: x [B,H,W,I], kernel [3,3,I,O] -> [B,ceil(H/s),ceil(W/s),O]."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((dilation, dilation), (dilation, dilation)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def convolution3x3(x: jax.Array, kernel: jax.Array, stride: int, dilation: int, precision: Precision) -> jax.Array:
    """`plain_convolution3x3`, on CPUs by Winograd's sums where they gain, and with gradients made for CPUs."""
    plain, by_winograd = _forms(stride, dilation, precision)
    fast = by_winograd if winograd.fits(x, kernel, stride) else plain
    return lax.platform_dependent(x, kernel, cpu=fast, default=plain)


def _forms(stride: int, dilation: int, precision: Precision) -> tuple[Convolution, Convolution]:
    """The plain 3x3 convolution of pixels with a kernel; and Winograd's, which is of stride 1."""
    plain = functools.partial(plain_convolution3x3, stride=stride, dilation=dilation, precision=precision)
    return plain, functools.partial(winograd.convolution3x3, dilation=dilation, precision=precision)


def _convolution_forward(x: jax.Array, kernel: jax.Array, stride: int, dilation: int, precision: Precision) -> Any:
    return convolution3x3(x, kernel, stride, dilation, precision), (x, kernel)


def _convolution_backward(stride: int, dilation: int, precision: Precision, saved: Any, gradient: jax.Array) -> Any:
    def by_rows(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, ...]:
        """A product for each row of the kernel: of the pixels under its three places, side by side."""
        _, h, w, _ = gradient.shape
        padded = jnp.pad(_channels_first(x), ((0, 0), (0, 0), (dilation, dilation), (dilation, dilation)))
        rows = []
        for i in range(3):
            starts = [padded[:, :, i * dilation :, j * dilation :] for j in range(3)]
            places = [start[:, :, ::stride, ::stride][:, :, :h, :w] for start in starts]
            under = lax.optimization_barrier(jnp.stack(places))  # [3,I,B,h,w]
            rows.append(_product_with_gradient(under, gradient, precision))
        return plain(x, kernel, gradient)[0], jnp.stack(rows)

    x, kernel = saved
    plain, by_winograd = (functools.partial(_gradients, form) for form in _forms(stride, dilation, precision))
    fast = by_winograd if winograd.fits(x, kernel, stride) else by_rows
    return lax.platform_dependent(as_stored(x), kernel, as_stored(gradient), cpu=fast, default=plain)


convolution3x3.defvjp(_convolution_forward, _convolution_backward)


def _gradients(form: Convolution, x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, ...]:
    """JAX's own gradients of form(x, kernel), of the pixels and of the kernel."""
    return jax.vjp(form, x, kernel)[1](gradient)


def _channels_first(x: jax.Array) -> jax.Array:
    """[B,h,w,C] -> [C,B,h,w], written out as such."""
    return lax.optimization_barrier(x.transpose(3, 0, 1, 2))


def _product_with_gradient(pixels: jax.Array, gradient: jax.Array, precision: Precision) -> jax.Array:
    """pixels [...,I,B,h,w], gradient [B,h,w,O] -> [...,I,O]."""
    *leading, B, h, w = pixels.shape
    products = _product(pixels.reshape(-1, B * h * w), gradient.reshape(B * h * w, -1), precision)
    return products.reshape(*leading, -1)


def _product(a: jax.Array, b: jax.Array, precision: Precision) -> jax.Array:
    """a [m,k], b [k,n] -> [m,n]."""
    n = b.shape[1]
    padded = b if n % _CROWDED else jnp.pad(b, ((0, 0), (0, _APART)))
    return jnp.matmul(a, padded, precision=precision)[:, :n]
