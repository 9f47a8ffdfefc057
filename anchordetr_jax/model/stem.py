"""The stem of a ResNet: 7x7 convolution of stride 2, frozen BatchNorm, ReLU, 3x3 max-pool of stride 2."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from anchordetr_jax.model.forms import PLAIN, Forms
from anchordetr_jax.model.layers import convolution
from anchordetr_jax.model.normalization import FrozenBatchNorm
from anchordetr_jax.model.precision import at_least_float32, product_precision
from anchordetr_jax.model.valid_area import StageArea

_FOLD = 4
"""Pixels a side that are folded into channels: the stride of the stem."""


class Stem(nnx.Module):
    """Computes the same, on TPUs and with forms for them, on images folded four by four pixels: three channels would
    leave most of the hardware idle there."""

    def __init__(self, *, forms: Forms = PLAIN, dtype: DTypeLike, rngs: nnx.Rngs):
        self.forms = forms
        self.conv = convolution(3, 64, kernel=7, stride=2, dtype=dtype, rngs=rngs)
        self.norm = FrozenBatchNorm(64, dtype=dtype, param_dtype=at_least_float32(dtype))

    def __call__(self, x: jax.Array, area: StageArea) -> jax.Array:
        """[B,H,W,3] -> [B,ceil(H/4),ceil(W/4),64]; `area` is that of the half-size grid."""
        if self.forms.tpu and x.shape[1] % _FOLD == x.shape[2] % _FOLD == 0:
            return jax.lax.platform_dependent(x, area, tpu=self.folded, default=self.plain)
        return self.plain(x, area)

    def plain(self, x: jax.Array, area: StageArea) -> jax.Array:
        """The stem as it is defined."""
        x = jax.nn.relu(area.zero_outside(self.norm(self.conv(x))))
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # zeros do as -inf would: nothing here is negative
        return nnx.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding="VALID")

    def folded(self, x: jax.Array, area: StageArea) -> jax.Array:
        """The same, for H and W that are multiples of 4.

        The half-size grid is computed in four parts, by whether its rows and columns are even or odd: each is a
        convolution of stride 1 over folded images, and the pooled grid is a maximum over them and their neighbours.
        """
        images, kernel = _folded(x), self.conv.kernel[...].astype(x.dtype)

        def part(odd_row: int, odd_column: int) -> jax.Array:
            y = jax.lax.conv_general_dilated(
                images,
                _folded_kernel(kernel, odd_row, odd_column),
                (1, 1),
                ((1, odd_row), (1, odd_column)),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                precision=product_precision(x.dtype),
            )
            return jax.nn.relu(area.every_other(odd_row, odd_column).zero_outside(self.norm(y)))

        even, odd = (_pooled(part(0, column), part(1, column), axis=1) for column in (0, 1))
        return _pooled(even, odd, axis=2)


def _pooled(even: jax.Array, odd: jax.Array, axis: int) -> jax.Array:
    """Maxima of places 2i-1, 2i and 2i+1 along an axis of which even and odd places are given."""
    before = [(0, 0)] * odd.ndim
    before[axis] = (1, 0)
    previous = jax.lax.slice_in_dim(jnp.pad(odd, before), 0, odd.shape[axis], axis=axis)
    return jnp.maximum(jnp.maximum(even, odd), previous)


def _folded(x: jax.Array) -> jax.Array:
    """[B,H,W,3] -> [B,H/4,W/4,4*4*3]. Columns are taken apart by a product, which beats moving them about on TPUs."""
    B, H, W, C = x.shape
    apart = np.eye(W).reshape(W, W // _FOLD, _FOLD)
    x = jnp.einsum("bhwc,wik->bhcki", x, jnp.asarray(apart, x.dtype), precision=product_precision(x.dtype))
    x = x.reshape(B, H // _FOLD, _FOLD, C, _FOLD, W // _FOLD).transpose(0, 1, 5, 2, 4, 3)
    return x.reshape(B, H // _FOLD, W // _FOLD, _FOLD * _FOLD * C)


def _folded_kernel(kernel: jax.Array, odd_row: int, odd_column: int) -> jax.Array:
    """The 7x7 kernel [7,7,3,64] as one of 2 or 3 folded pixels a side, [2 or 3,2 or 3,4*4*3,64], for even or odd rows
    and columns of the half-size grid."""

    def places(odd: int) -> jax.Array:
        """Which pixel of which folded one each of the 7 places reads."""
        pixel = 2 * odd - 3 + _FOLD + np.arange(7)  # The first folded pixel is the one before.
        return jnp.asarray(np.eye(_FOLD * (2 + odd))[pixel].reshape(7, 2 + odd, _FOLD), kernel.dtype)

    exact = product_precision(kernel.dtype)
    wide = jnp.einsum("kbr,lds,klio->bdrsio", places(odd_row), places(odd_column), kernel, precision=exact)
    return wide.reshape(*wide.shape[:2], -1, wide.shape[-1])
