"""A small backbone for small images. It trains from random weights, for demos and tests."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from anchordetr_jax.model.layers import Linear, apply_layer
from anchordetr_jax.model.normalization import LayerNorm
from anchordetr_jax.model.resnet import Backbone
from anchordetr_jax.model.valid_area import StageArea

WIDTHS = (24, 48, 64)
BLOCKS = (1, 2, 2)


def _patches(x: jax.Array, size: int) -> jax.Array:
    """Patches of size x size, [B,h,w,C] -> [B,ceil(h/size),ceil(w/size),size*size*C], padded with zeros."""
    B, h, w, C = x.shape
    x = jnp.pad(x, ((0, 0), (0, -h % size), (0, -w % size), (0, 0)))
    h, w = x.shape[1] // size, x.shape[2] // size
    return x.reshape(B, h, size, w, size, C).transpose(0, 1, 3, 2, 4, 5).reshape(B, h, w, size * size * C)


class Convolution3x3(nnx.Module):
    """A 3x3 convolution as one matrix product over nine shifted copies. XLA compiles its gradient well."""

    def __init__(self, channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.linear = Linear(9 * channels, channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B,h,w,C] -> [B,h,w,C], zeros beyond the border."""
        h, w = x.shape[1:3]
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        shifted = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
        return self.linear(jnp.concatenate(shifted, axis=-1))


class Block(nnx.Module):
    """x + linear(relu(conv3x3(norm(x))))."""

    def __init__(self, channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.norm = LayerNorm(channels, dtype=dtype)
        self.conv = Convolution3x3(channels, dtype=dtype, rngs=rngs)
        self.out = Linear(channels, channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, area: StageArea) -> jax.Array:
        """[B,h,w,C] -> [B,h,w,C]."""
        y = self.conv(area.zero_outside(self.norm(x)))
        return x + self.out(jax.nn.relu(y))


class CompactBackbone(Backbone):
    """Patches of 4x4, then blocks at strides 4, 8 and 16 (4, 8 and 8 with `dilation`)."""

    channels = WIDTHS

    def __init__(self, *, dilation: bool, remat: bool = False, dtype: DTypeLike, rngs: nnx.Rngs):
        self.remat = remat
        self.dtype = jnp.dtype(dtype)
        self.strides = (4, 2, 1 if dilation else 2)
        channels_in, stems, stages = 3, [], []
        for stride, width, blocks in zip(self.strides, WIDTHS, BLOCKS, strict=True):
            stems.append(Linear(stride * stride * channels_in, width, dtype=dtype, rngs=rngs))
            stages.append(nnx.List([Block(width, dtype=dtype, rngs=rngs) for _ in range(blocks)]))
            channels_in = width
        self.stems = nnx.List(stems)
        self.stages = nnx.List(stages)

    def __call__(self, x: jax.Array, image_sizes: jax.Array | None) -> tuple[list[jax.Array], jax.Array | None]:
        """Normalised images [B,H,W,3], zero in the padding -> features of the three stages, each [B,h,w,C].

        With `image_sizes` int [B,2] (h, w) the padding does not change the result, and the valid sizes of the last
        features are returned too. With None the padding is treated as image.
        """
        area = StageArea(image_sizes)
        features = []
        for stride, stem, stage in zip(self.strides, self.stems, self.stages, strict=True):
            x = stem(_patches(area.zero_outside(x), stride))
            area = area.strided(stride)
            for block in stage:
                x = apply_layer(block, self.remat, x, area)
            features.append(area.zero_outside(x))
        return features, area.sizes
