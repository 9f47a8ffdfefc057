"""3x3 convolutions by minimal filtering, F(2x2, 3x3): 16 products for four pixels instead of 36.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016), section 4.1. The rounding error in
float32 is twice that of the plain sum.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_FEWEST_CHANNELS, _FEWEST_PIXELS = 128, 144
"""With fewer, CPUs spend more on the sums before and after than is gained by the products."""

_ROW_SUMS = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]) / 2
"""From three places of a kernel in a row to the four numbers that the products want."""
_KERNEL_SUMS = np.kron(_ROW_SUMS, _ROW_SUMS)
"""The same of all nine places: [16,9]."""


def fits(x: jax.Array, kernel: jax.Array, stride: int) -> bool:
    """Whether there is such a form of the convolution of x [B,h,w,I] with kernel [3,3,I,O], and it is faster than the
    plain one and as exact."""
    B, h, w, _ = x.shape
    wide = jnp.finfo(x.dtype).bits >= 32
    return stride == 1 and wide and min(kernel.shape[2:]) >= _FEWEST_CHANNELS and B * h * w >= _FEWEST_PIXELS


def convolution3x3(x: jax.Array, kernel: jax.Array, dilation: int, precision: Any) -> jax.Array:
    """A 3x3 convolution, padded by its dilation: x [B,h,w,I], kernel [3,3,I,O] -> [B,h,w,O].

    A row of pixels and the one `dilation` below it make a pair, which depends on four rows; the same with columns.
    """
    d = dilation
    B, h, w, channels_in = x.shape
    row_pairs, column_pairs = -(-h // (2 * d)), -(-w // (2 * d))
    bottom, right = (2 * d * pairs - size for pairs, size in ((row_pairs, h), (column_pairs, w)))
    padded = lax.optimization_barrier(jnp.pad(x, ((0, 0), (d, d + bottom), (d, d + right), (0, 0))))
    cells = padded.reshape(B, 2 * row_pairs + 2, d, 2 * column_pairs + 2, d, channels_in)
    rows = _differences(*(cells[:, i : i + 2 * row_pairs : 2] for i in range(4)))
    columns = [_differences(*(row[:, :, :, j : j + 2 * column_pairs : 2] for j in range(4))) for row in rows]
    pixels = jnp.stack([one.reshape(-1, channels_in) for row in columns for one in row])  # [16,pairs of pairs,I]
    kernels = jnp.matmul(_KERNEL_SUMS.astype(kernel.dtype), kernel.reshape(9, -1), precision=precision)
    kernels = kernels.reshape(16, *kernel.shape[2:])
    products = jnp.matmul(pixels, kernels, precision=precision).reshape(4, 4, B, row_pairs, d, column_pairs, d, -1)
    by_columns = [jnp.stack(_pair(*row), axis=4) for row in products]  # [B,row_pairs,d,column_pairs,2,d,O]
    result = jnp.stack(_pair(*by_columns), axis=2)
    return result.reshape(B, 2 * d * row_pairs, 2 * d * column_pairs, -1)[:, :h, :w]


def _differences(a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> tuple[jax.Array, ...]:
    """Four pixels in a row, as the products want them."""
    return a - c, b + c, c - b, b - d


def _pair(a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two pixels from four products."""
    return a + b + c, b - c - d
