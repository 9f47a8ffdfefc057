"""A bottleneck of the first stage of a ResNet by the kernel of `bottleneck_kernel.py`, where it fits."""

import jax

from anchordetr_jax.kernels.tpu import bottleneck_kernel
from anchordetr_jax.kernels.tpu.parts import ConvolutionNorm, valid_heights
from anchordetr_jax.kernels.tpu.plain_gradient import with_plain_gradient
from anchordetr_jax.model import resnet
from anchordetr_jax.model.layers import Convolution
from anchordetr_jax.model.normalization import FrozenBatchNorm
from anchordetr_jax.model.valid_area import StageArea


def bottleneck(block: resnet.Bottleneck, x: jax.Array, area: StageArea, *, interpret: bool = False) -> jax.Array:
    """`model.resnet.bottleneck` by the kernel: [B,h,w,I] -> [B,h,w,4*width]."""
    if block.stride != 1 or block.dilation != 1 or not bottleneck_kernel.fits(x, block.width):
        return resnet.bottleneck(block, x, area)

    def by_kernel(block: resnet.Bottleneck, x: jax.Array, area: StageArea) -> jax.Array:
        return bottleneck_kernel.bottleneck(
            x,
            valid_heights(area, x.shape[:3]),
            _weights(block.conv1, block.norm1),
            _weights(block.conv2, block.norm2),
            _weights(block.conv3, block.norm3),
            _weights(block.shortcut_conv, block.shortcut_norm) if block.has_projection else None,
            interpret=interpret,
        )

    return with_plain_gradient(by_kernel, resnet.bottleneck, block, x, area)


def _weights(conv: Convolution, norm: FrozenBatchNorm) -> ConvolutionNorm:
    return ConvolutionNorm(conv.kernel[...], *norm.affine())
