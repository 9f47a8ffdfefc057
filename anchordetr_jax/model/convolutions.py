"""Convolutions of stride 1, which with their gradients are computed on CPUs as products.

XLA's own gradient of a kernel is a convolution with one as large as the image, or a product that reads its operands
across the grain through whatever is fused into it: each takes twice the time and more.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from anchordetr_jax.model import winograd
from anchordetr_jax.model.forms import as_stored

Precision = Any
Convolution = Callable[..., jax.Array]


def plain_pixel_products(x: jax.Array, kernel: jax.Array, precision: Precision) -> jax.Array:
    """A 1x1 convolution as a matrix product: x [B,h,w,I], kernel [I,O] -> [B,h,w,O]."""
    return jnp.einsum("bhwi,io->bhwo", x, kernel, precision=precision)


pixel_products = jax.custom_vjp(plain_pixel_products, nondiff_argnums=(2,))


def _products_forward(x: jax.Array, kernel: jax.Array, precision: Precision) -> Any:
    return pixel_products(x, kernel, precision), (x, kernel)


def _products_backward(precision: Precision, saved: Any, gradient: jax.Array) -> Any:
    def change_of_kernel(x: jax.Array, gradient: jax.Array) -> jax.Array:
        return jnp.einsum("bhwi,bhwo->io", x, gradient, precision=precision)

    def by_transposed(x: jax.Array, gradient: jax.Array) -> jax.Array:
        return _product(_channels_first(x), gradient, precision)

    x, kernel = saved
    x, gradient = as_stored(x), as_stored(gradient)
    change = lax.platform_dependent(x, gradient, cpu=by_transposed, default=change_of_kernel)
    return jnp.einsum("bhwo,io->bhwi", gradient, kernel, precision=precision), change


pixel_products.defvjp(_products_forward, _products_backward)


def _plain_convolution3x3(x: jax.Array, kernel: jax.Array, dilation: int, precision: Precision) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        ((dilation, dilation), (dilation, dilation)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


def _transposed_convolution3x3(
    gradient: jax.Array, kernel: jax.Array, dilation: int, precision: Precision
) -> jax.Array:
    """The gradient of its pixels: gradient [B,h,w,O], kernel [3,3,I,O] -> [B,h,w,I]."""
    x = jax.ShapeDtypeStruct((*gradient.shape[:-1], kernel.shape[2]), gradient.dtype)
    return jax.linear_transpose(lambda x: _plain_convolution3x3(x, kernel, dilation, precision), x)(gradient)[0]


def _by_winograd(
    on_cpu: Convolution, elsewhere: Convolution, x: jax.Array, kernel: jax.Array, *settings: Any
) -> jax.Array:
    """Either form of a convolution, as the platform has it."""
    if not winograd.fits(x, kernel):
        return elsewhere(x, kernel, *settings)
    return lax.platform_dependent(
        x, kernel, cpu=lambda *arrays: on_cpu(*arrays, *settings), default=lambda *arrays: elsewhere(*arrays, *settings)
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolution3x3(x: jax.Array, kernel: jax.Array, dilation: int, precision: Precision) -> jax.Array:
    """A 3x3 convolution, padded by its dilation: x [B,h,w,I], kernel [3,3,I,O] -> [B,h,w,O]."""
    return _by_winograd(winograd.convolution3x3, _plain_convolution3x3, x, kernel, dilation, precision)


def _convolution_forward(x: jax.Array, kernel: jax.Array, dilation: int, precision: Precision) -> Any:
    return convolution3x3(x, kernel, dilation, precision), (x, kernel)


def _convolution_backward(dilation: int, precision: Precision, saved: Any, gradient: jax.Array) -> Any:
    def change_of_kernel(x: jax.Array, gradient: jax.Array) -> jax.Array:
        convolve = functools.partial(_plain_convolution3x3, x, dilation=dilation, precision=precision)
        return jax.linear_transpose(convolve, kernel)(gradient)[0]

    def by_rows(x: jax.Array, gradient: jax.Array) -> jax.Array:
        """A product for each row of the kernel: of the pixels under its three places, side by side."""
        _, h, w, _ = x.shape
        padded = jnp.pad(_channels_first(x), ((0, 0), (0, 0), (dilation, dilation), (dilation, dilation)))
        rows = []
        for i in range(3):
            places = [padded[:, :, i * dilation :, j * dilation :][:, :, :h, :w] for j in range(3)]
            under = lax.optimization_barrier(jnp.stack(places))  # [3,I,B,h,w]
            rows.append(_product(under, gradient, precision))
        return jnp.stack(rows)

    x, kernel = saved
    x, gradient = as_stored(x), as_stored(gradient)
    change = lax.platform_dependent(x, gradient, cpu=by_rows, default=change_of_kernel)
    transposed = winograd.transposed_convolution3x3, _transposed_convolution3x3
    return _by_winograd(*transposed, gradient, kernel, dilation, precision), change


convolution3x3.defvjp(_convolution_forward, _convolution_backward)


def _channels_first(x: jax.Array) -> jax.Array:
    """[B,h,w,C] -> [C,B,h,w], written out as such."""
    return lax.optimization_barrier(x.transpose(3, 0, 1, 2))


def _product(pixels: jax.Array, gradient: jax.Array, precision: Precision) -> jax.Array:
    """pixels [...,I,B,h,w], gradient [B,h,w,O] -> [...,I,O]."""
    *leading, B, h, w = pixels.shape
    rows = pixels.reshape(-1, B * h * w)
    return jnp.matmul(rows, gradient.reshape(B * h * w, -1), precision=precision).reshape(*leading, -1)
