"""The stem of a ResNet: 7x7 convolution of stride 2, frozen BatchNorm, ReLU, 3x3 max-pool of stride 2."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from anchordetr_jax.kernels.forms import PLAIN, Forms, on_tpu
from anchordetr_jax.kernels.tpu import stem_kernel
from anchordetr_jax.kernels.tpu.parts import ConvolutionNorm
from anchordetr_jax.kernels.tpu.stem_kernel import FOLD
from anchordetr_jax.model.layers import convolution
from anchordetr_jax.model.normalization import FrozenBatchNorm
from anchordetr_jax.model.precision import at_least_float32, product_precision
from anchordetr_jax.model.valid_area import StageArea


class Stem(nnx.Module):
    """With forms for TPUs a kernel computes it there."""

    def __init__(self, *, forms: Forms = PLAIN, dtype: DTypeLike, rngs: nnx.Rngs):
        self.forms = forms
        self.conv = convolution(3, 64, kernel=7, stride=2, dtype=dtype, rngs=rngs)
        self.norm = FrozenBatchNorm(64, dtype=dtype, param_dtype=at_least_float32(dtype))

    def __call__(self, x: jax.Array, area: StageArea) -> jax.Array:
        """[B,H,W,3], zero in the padding -> [B,ceil(H/4),ceil(W/4),64]; `area` is that of the half-size grid."""
        if self.forms.tpu and stem_kernel.fits(x):
            return on_tpu(self, Stem.in_kernel, Stem.plain, x, area)
        return self.plain(x, area)

    def plain(self, x: jax.Array, area: StageArea) -> jax.Array:
        """The stem as it is defined."""
        x = jax.nn.relu(area.zero_outside(self.norm(self.conv(x))))
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # zeros do as -inf would: nothing here is negative
        return nnx.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding="VALID")

    def in_kernel(self, x: jax.Array, area: StageArea, *, interpret: bool = False) -> jax.Array:
        """The same by a kernel for TPUs (`interpret`: without one), for images that it `fits`."""
        B, H, W, _ = x.shape
        layer = ConvolutionNorm(self.conv.kernel[...], *self.norm.affine())
        return stem_kernel.stem(_cells(x), area.heights((B, H // 2, W // 2)), layer, interpret=interpret)


def _cells(x: jax.Array) -> jax.Array:
    """[B,H,W,3] -> [B,H/4,W/4,4*4*3]. Columns are taken apart by a product, which beats moving them about on TPUs."""
    B, H, W, C = x.shape
    apart = np.eye(W).reshape(W, W // FOLD, FOLD)
    x = jnp.einsum("bhwc,wik->bhcki", x, jnp.asarray(apart, x.dtype), precision=product_precision(x.dtype))
    x = x.reshape(B, H // FOLD, FOLD, C, FOLD, W // FOLD).transpose(0, 1, 5, 2, 4, 3)
    return x.reshape(B, H // FOLD, W // FOLD, FOLD * FOLD * C)
