"""3x3 convolutions by minimal filtering, F(2x2, 3x3): 16 products for four pixels instead of 36.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), section 4.1. The rounding error in
float32 is twice that of the plain sum.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from anchordetr_jax.model.precision import product_precision

_FEWEST_CHANNELS, _FEWEST_PIXELS = 128, 144
"""With fewer, the sums before and after cost more than the products gain."""

_ROW_SUMS = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]) / 2
"""From the three places in a row of a kernel to the four numbers that the products take."""
_KERNEL_SUMS = np.kron(_ROW_SUMS, _ROW_SUMS)
"""The same for all nine places: [16,9]."""


def fits(x: jax.Array, kernel: jax.Array, stride: int) -> bool:
    """Whether the convolution of x [B,h,w,I] with kernel [3,3,I,O] has this form, and it is faster and as exact."""
    B, h, w, _ = x.shape
    wide = jnp.finfo(x.dtype).bits >= 32
    return stride == 1 and wide and min(kernel.shape[2:]) >= _FEWEST_CHANNELS and B * h * w >= _FEWEST_PIXELS


def convolution3x3(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """A 3x3 convolution, padded by its dilation: x [B,h,w,I], kernel [3,3,I,O] -> [B,h,w,O].

    A row of pixels and the row `dilation` below it make a pair, which depends on four rows. Columns pair up in the same
    way.
    """
    d, precision = dilation, product_precision(x.dtype)
    B, h, w, channels_in = x.shape
    row_pairs, column_pairs = -(-h // (2 * d)), -(-w // (2 * d))
    bottom, right = (2 * d * pairs - size for pairs, size in ((row_pairs, h), (column_pairs, w)))
    padded = lax.optimization_barrier(jnp.pad(x, ((0, 0), (d, d + bottom), (d, d + right), (0, 0))))
    # `unstack` instead of indexing: its gradient is a stack, not a sum of arrays full of zeros.
    cells = padded.reshape(B, row_pairs + 1, 2, d, column_pairs + 1, 2, d, channels_in)
    rows = [_differences(*_four(jnp.unstack(column, axis=2), 1)) for column in jnp.unstack(cells, axis=5)]
    places = [place for columns in zip(*rows, strict=True) for place in _differences(*_four(columns, 3))]
    pixels = jnp.stack([place.reshape(-1, channels_in) for place in places])  # [16,pairs of pairs,I]
    kernels = jnp.matmul(_KERNEL_SUMS.astype(kernel.dtype), kernel.reshape(9, -1), precision=precision)
    kernels = kernels.reshape(16, *kernel.shape[2:])
    products = jnp.matmul(pixels, kernels, precision=precision).reshape(16, B, row_pairs, d, column_pairs, d, -1)
    by_place = jnp.unstack(products)
    by_columns = [jnp.stack(_pair(*by_place[i : i + 4]), axis=4) for i in range(0, 16, 4)]
    result = jnp.stack(_pair(*by_columns), axis=2)  # [B,row_pairs,2,d,column_pairs,2,d,O]
    return result.reshape(B, 2 * d * row_pairs, 2 * d * column_pairs, -1)[:, :h, :w]


def _four(pair: Iterable[jax.Array], axis: int) -> list[jax.Array]:
    """The four pixels that a pair depends on: its first and second, and those of the next pair along the axis."""
    first, second = pair
    pairs = first.shape[axis] - 1
    return [lax.slice_in_dim(x, start, start + pairs, axis=axis) for start in (0, 1) for x in (first, second)]


def _differences(a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> tuple[jax.Array, ...]:
    """Four pixels in a row, as the products take them."""
    return a - c, b + c, c - b, b - d


def _pair(a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two pixels from four products."""
    return a + b + c, b - c - d
