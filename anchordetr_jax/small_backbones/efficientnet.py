"""EfficientNet-Lite0 with frozen BatchNorm: EfficientNet-B0 (Tan & Le 2019) without squeeze-and-excitation, with ReLU6.

It has 4.7 M parameters with its classifier, which is left out here. Its ImageNet weights are published, so a detector
learns from few photographs, and it is small enough for a CPU.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from anchordetr_jax.model.anchor_detr import PIXEL_MEAN, PIXEL_STD
from anchordetr_jax.model.layers import Convolution, apply_layer
from anchordetr_jax.model.normalization import FrozenBatchNorm
from anchordetr_jax.model.precision import at_least_float32, product_precision
from anchordetr_jax.model.resnet import Backbone
from anchordetr_jax.model.valid_area import StageArea

EPSILON = 1e-3
"""Of its BatchNorms."""
STEM_CHANNELS = 32


class Row(NamedTuple):
    """A row of the table in the paper: `blocks` blocks with `channels` outputs; the first block has the stride."""

    expansion: int
    channels: int
    blocks: int
    stride: int
    kernel_size: int


LAYERS: dict[str, tuple[Row, ...]] = {
    "layer1": (Row(1, 16, 1, 1, 3), Row(6, 24, 2, 2, 3)),
    "layer2": (Row(6, 40, 2, 2, 5),),
    "layer3": (Row(6, 80, 3, 2, 3), Row(6, 112, 3, 1, 5)),
    "layer4": (Row(6, 192, 4, 2, 5), Row(6, 320, 1, 1, 3)),
}
"""Rows by layer. As in the ResNet, the layers end at strides 4, 8, 16 and 32, and `layer1` is frozen by default."""


class DepthwiseConvolution(nnx.Module):
    """A convolution of each channel by itself, padded with zeros by half its kernel on each side."""

    def __init__(self, channels: int, *, kernel_size: int, stride: int, dtype: DTypeLike, rngs: nnx.Rngs):
        self.dtype = jnp.dtype(dtype)
        self.stride = stride
        shape = (kernel_size, kernel_size, 1, channels)
        spread = math.sqrt(2) / kernel_size
        self.kernel = nnx.Param(spread * jax.random.normal(rngs.params(), shape, at_least_float32(dtype)))
        self.convolve = depthwise_convolution

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B,h,w,C] -> [B,ceil(h/stride),ceil(w/stride),C], in the compute dtype."""
        return self.convolve(x.astype(self.dtype), self.kernel[...].astype(self.dtype), self.stride)


def depthwise_convolution(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """x [B,h,w,C], kernel [k,k,1,C] -> [B,ceil(h/stride),ceil(w/stride),C]."""
    pad = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
        precision=product_precision(x.dtype),
    )


class Stem(nnx.Module):
    """3x3 convolution of stride 2, frozen BatchNorm, ReLU6."""

    def __init__(self, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.conv = Convolution(3, STEM_CHANNELS, kernel_size=3, stride=2, dtype=dtype, rngs=rngs)
        self.norm = FrozenBatchNorm(STEM_CHANNELS, dtype=dtype, epsilon=EPSILON)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B,H,W,3], zero in the padding -> [B,ceil(H/2),ceil(W/2),32]."""
        return jax.nn.relu6(self.norm(self.conv(x)))


class Block(nnx.Module):
    """1x1 to more channels, depthwise, 1x1 to few channels; plus its input where the shapes agree."""

    def __init__(self, channels_in: int, row: Row, *, stride: int, dtype: DTypeLike, rngs: nnx.Rngs):
        width = channels_in * row.expansion
        self.expands = row.expansion > 1
        self.adds_input = stride == 1 and channels_in == row.channels
        if self.expands:
            self.expand_conv = Convolution(channels_in, width, kernel_size=1, dtype=dtype, rngs=rngs)
            self.expand_norm = FrozenBatchNorm(width, dtype=dtype, epsilon=EPSILON)
        self.depthwise_conv = DepthwiseConvolution(
            width, kernel_size=row.kernel_size, stride=stride, dtype=dtype, rngs=rngs
        )
        self.depthwise_norm = FrozenBatchNorm(width, dtype=dtype, epsilon=EPSILON)
        self.project_conv = Convolution(width, row.channels, kernel_size=1, dtype=dtype, rngs=rngs)
        self.project_norm = FrozenBatchNorm(row.channels, dtype=dtype, epsilon=EPSILON)

    def __call__(self, x: jax.Array, area: StageArea) -> jax.Array:
        """[B,h,w,I] -> [B,ceil(h/stride),ceil(w/stride),O].

        `area` is the valid area of x. Values in the padding have no meaning, neither in x nor in the result.
        """
        y = jax.nn.relu6(self.expand_norm(self.expand_conv(x))) if self.expands else x
        # Only the depthwise convolution mixes cells, so only its input needs zeros in the padding.
        y = jax.nn.relu6(self.depthwise_norm(self.depthwise_conv(area.zero_outside(y))))
        y = self.project_norm(self.project_conv(y))
        return x + y if self.adds_input else y


class Layer(nnx.Module):
    """Rows of blocks; the first block of a row may have a stride."""

    def __init__(self, channels_in: int, rows: tuple[Row, ...], *, remat: bool, dtype: DTypeLike, rngs: nnx.Rngs):
        self.remat = remat
        blocks, strides = [], []
        for row in rows:
            for i in range(row.blocks):
                strides.append(row.stride if i == 0 else 1)
                blocks.append(Block(channels_in, row, stride=strides[-1], dtype=dtype, rngs=rngs))
                channels_in = row.channels
        self.blocks, self.strides = nnx.List(blocks), tuple(strides)

    def __call__(self, x: jax.Array, area: StageArea) -> tuple[jax.Array, StageArea]:
        """[B,h,w,I] -> [B,ceil(h/stride),ceil(w/stride),O] and its valid area. Values in the padding mean nothing."""
        for block, stride in zip(self.blocks, self.strides, strict=True):
            x = apply_layer(block, self.remat, x, area)
            area = area.strided(stride)
        return x, area


class EfficientNetLite0(Backbone):
    """Features of strides 8, 16 and 32. With `dilation` the last ones are those of strides 16 and 32 together.

    No layer dilates: the features of stride 32 are repeated at stride 16, and stand beside those of stride 16. So the
    detector sees fine cells and what a large surrounding says, with the published weights as they are.
    """

    def __init__(self, *, dilation: bool, remat: bool = False, dtype: DTypeLike, rngs: nnx.Rngs):
        self.dtype = jnp.dtype(dtype)
        self.joined = dilation
        self.stem = Stem(dtype=dtype, rngs=rngs)
        quarter, eighth, sixteenth, last = (rows[-1].channels for rows in LAYERS.values())

        def layer(name: str, channels_in: int) -> Layer:
            return Layer(channels_in, LAYERS[name], remat=remat, dtype=dtype, rngs=rngs)

        self.layer1 = layer("layer1", STEM_CHANNELS)
        self.layer2 = layer("layer2", quarter)
        self.layer3 = layer("layer3", eighth)
        self.layer4 = layer("layer4", sixteenth)
        self.channels = (eighth, sixteenth, last + sixteenth if dilation else last)

    def __call__(self, x: jax.Array, image_sizes: jax.Array | None) -> tuple[list[jax.Array], jax.Array | None]:
        """Normalised images [B,H,W,3], zero in the padding -> features of layer2, layer3 and the last, each [B,h,w,C].

        With `image_sizes` int [B,2] (h, w) the padding does not change the result, and the valid sizes of the last
        features are returned too. With None the padding is treated as image.
        """
        area = StageArea(image_sizes)
        x = self.stem(area.zero_outside(own_pixels(x)))
        x, area = self.layer1(x, area.strided(2))
        features, areas = [], []
        for layer in (self.layer2, self.layer3, self.layer4):
            x, area = layer(x, area)
            features.append(area.zero_outside(x))
            areas.append(area)
        if not self.joined:
            return features, area.sizes
        _, sixteenth, last = features
        h, w = sixteenth.shape[1:3]
        repeated = jnp.repeat(jnp.repeat(last, 2, axis=1), 2, axis=2)[:, :h, :w]
        joined = areas[1].zero_outside(jnp.concatenate([sixteenth, repeated], axis=-1))
        return [*features[:2], joined], areas[1].sizes


def own_pixels(x: jax.Array) -> jax.Array:
    """Images [B,H,W,3] normalised by the model -> (pixel - 127) / 128, which this network was trained with."""
    mean, std = np.array(PIXEL_MEAN), np.array(PIXEL_STD)
    scale, shift = (jnp.asarray(v, at_least_float32(x.dtype)) for v in (std * 255 / 128, (mean * 255 - 127) / 128))
    wide = x.astype(at_least_float32(x.dtype))
    return (wide * scale[None, None, None, :] + shift[None, None, None, :]).astype(x.dtype)
