"""The stem of a ResNet by the kernel of `stem_kernel.py`, where the images fit it."""

import jax
import jax.numpy as jnp
import numpy as np

from anchordetr_jax.kernels.tpu import stem_kernel
from anchordetr_jax.kernels.tpu.parts import ConvolutionNorm, valid_heights
from anchordetr_jax.kernels.tpu.plain_gradient import with_plain_gradient
from anchordetr_jax.kernels.tpu.stem_kernel import FOLD
from anchordetr_jax.model import resnet
from anchordetr_jax.model.precision import product_precision
from anchordetr_jax.model.valid_area import StageArea


def stem(layer: resnet.Stem, x: jax.Array, area: StageArea, *, interpret: bool = False) -> jax.Array:
    """`model.resnet.stem` by the kernel: [B,H,W,3], zero in the padding -> [B,H/4,W/4,64]."""
    if not stem_kernel.fits(x):
        return resnet.stem(layer, x, area)

    def by_kernel(layer: resnet.Stem, x: jax.Array, area: StageArea) -> jax.Array:
        B, H, W, _ = x.shape
        weights = ConvolutionNorm(layer.conv.kernel[...], *layer.norm.affine())
        heights = valid_heights(area, (B, H // 2, W // 2))
        return stem_kernel.stem(_cells(x), heights, weights, interpret=interpret)

    return with_plain_gradient(by_kernel, resnet.stem, layer, x, area)


def _cells(x: jax.Array) -> jax.Array:
    """[B,H,W,3] -> [B,H/4,W/4,4*4*3]. A product takes the columns apart: TPUs are slow at moving them."""
    B, H, W, C = x.shape
    apart = np.eye(W).reshape(W, W // FOLD, FOLD)
    x = jnp.einsum("bhwc,wik->bhcki", x, jnp.asarray(apart, x.dtype), precision=product_precision(x.dtype))
    x = x.reshape(B, H // FOLD, FOLD, C, FOLD, W // FOLD).transpose(0, 1, 5, 2, 4, 3)
    return x.reshape(B, H // FOLD, W // FOLD, FOLD * FOLD * C)
