"""ResNet-50 and -101 with frozen BatchNorm (He et al. 2016, with the stride on the 3x3 of each bottleneck)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from anchordetr_jax.model.layers import Convolution, apply_layer
from anchordetr_jax.model.normalization import FrozenBatchNorm
from anchordetr_jax.model.valid_area import StageArea

BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
EXPANSION = 4


class Backbone(nnx.Module):
    """What the model asks of its backbone: feature maps of three stages. With one feature level it uses the last."""

    channels: tuple[int, ...]
    """Of each stage."""

    def __call__(self, x: jax.Array, image_sizes: jax.Array | None) -> tuple[list[jax.Array], jax.Array | None]:
        """See `ResNet`, which is the official one."""
        raise NotImplementedError


class Stem(nnx.Module):
    """7x7 convolution of stride 2, frozen BatchNorm, ReLU, 3x3 max-pool of stride 2."""

    def __init__(self, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.conv = Convolution(3, 64, kernel_size=7, stride=2, dtype=dtype, rngs=rngs)
        self.norm = FrozenBatchNorm(64, dtype=dtype)
        self.compute = stem

    def __call__(self, x: jax.Array, area: StageArea) -> jax.Array:
        """[B,H,W,3], zero in the padding -> [B,ceil(H/4),ceil(W/4),64]. `area` is the valid area at half the size."""
        return self.compute(self, x, area)


def stem(layer: Stem, x: jax.Array, area: StageArea) -> jax.Array:
    """Computes a `Stem`; see there."""
    x = jax.nn.relu(area.zero_outside(layer.norm(layer.conv(x))))
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # After a ReLU, zeros pad a maximum as well as -inf does.
    return nnx.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding="VALID")


class Bottleneck(nnx.Module):
    """1x1 - 3x3 - 1x1 with a shortcut."""

    def __init__(self, channels_in: int, width: int, *, stride: int, dilation: int, dtype: DTypeLike, rngs: nnx.Rngs):
        channels_out = width * EXPANSION
        self.width, self.stride, self.dilation = width, stride, dilation
        self.conv1 = Convolution(channels_in, width, kernel_size=1, dtype=dtype, rngs=rngs)
        self.norm1 = FrozenBatchNorm(width, dtype=dtype)
        self.conv2 = Convolution(width, width, kernel_size=3, stride=stride, dilation=dilation, dtype=dtype, rngs=rngs)
        self.norm2 = FrozenBatchNorm(width, dtype=dtype)
        self.conv3 = Convolution(width, channels_out, kernel_size=1, dtype=dtype, rngs=rngs)
        self.norm3 = FrozenBatchNorm(channels_out, dtype=dtype)
        self.has_projection = stride != 1 or channels_in != channels_out
        if self.has_projection:
            self.shortcut_conv = Convolution(
                channels_in, channels_out, kernel_size=1, stride=stride, dtype=dtype, rngs=rngs
            )
            self.shortcut_norm = FrozenBatchNorm(channels_out, dtype=dtype)
        self.compute = bottleneck

    def __call__(self, x: jax.Array, area: StageArea) -> jax.Array:
        """[B,h,w,I] -> [B,ceil(h/stride),ceil(w/stride),4*width].

        `area` is the valid area of x. Values in the padding have no meaning, neither in x nor in the result.
        """
        return self.compute(self, x, area)


def bottleneck(block: Bottleneck, x: jax.Array, area: StageArea) -> jax.Array:
    """Computes a `Bottleneck`; see there."""
    # Only the 3x3 convolution mixes cells, so only its input needs zeros in the padding.
    y = area.zero_outside(jax.nn.relu(block.norm1(block.conv1(x))))
    y = jax.nn.relu(block.norm2(block.conv2(y)))
    y = block.norm3(block.conv3(y))
    shortcut = block.shortcut_norm(block.shortcut_conv(x)) if block.has_projection else x
    return jax.nn.relu(y + shortcut)


class Stage(nnx.Module):
    """A row of bottlenecks; the first may have a stride."""

    def __init__(
        self,
        channels_in: int,
        width: int,
        blocks: int,
        *,
        stride: int,
        dilation: int,
        remat: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.stride = stride
        self.remat = remat
        # The first block of a dilated stage keeps dilation 1: there the dilation replaces a stride.
        first = Bottleneck(channels_in, width, stride=stride, dilation=1, dtype=dtype, rngs=rngs)
        rest = [
            Bottleneck(width * EXPANSION, width, stride=1, dilation=dilation, dtype=dtype, rngs=rngs)
            for _ in range(blocks - 1)
        ]
        self.blocks = nnx.List([first, *rest])

    def __call__(self, x: jax.Array, area: StageArea) -> tuple[jax.Array, StageArea]:
        """[B,h,w,I] -> [B,ceil(h/stride),ceil(w/stride),O] and its valid area. Values in the padding mean nothing."""
        area_out = area.strided(self.stride)
        for i, block in enumerate(self.blocks):
            x = apply_layer(block, self.remat, x, area if i == 0 else area_out)
        return x, area_out


class ResNet(Backbone):
    """Features of stages 2, 3 and 4: strides 8, 16 and 32, or 8, 16 and 16 with `dilation`."""

    channels = (512, 1024, 2048)

    def __init__(self, depth: str, *, dilation: bool, remat: bool = False, dtype: DTypeLike, rngs: nnx.Rngs):
        def stage(channels_in: int, width: int, blocks: int, stride: int, dilation: int = 1) -> Stage:
            return Stage(
                channels_in, width, blocks, stride=stride, dilation=dilation, remat=remat, dtype=dtype, rngs=rngs
            )

        if depth not in BLOCKS:
            raise ValueError(
                f"There is no ResNet {depth!r}: make the backbone {depth!r} first, and pass it as `backbone`."
            )
        blocks = BLOCKS[depth]
        self.stem = Stem(dtype=dtype, rngs=rngs)
        self.layer1 = stage(64, 64, blocks[0], stride=1)
        self.layer2 = stage(256, 128, blocks[1], stride=2)
        self.layer3 = stage(512, 256, blocks[2], stride=2)
        self.layer4 = stage(1024, 512, blocks[3], stride=1 if dilation else 2, dilation=2 if dilation else 1)

    def __call__(self, x: jax.Array, image_sizes: jax.Array | None) -> tuple[list[jax.Array], jax.Array | None]:
        """Normalised images [B,H,W,3], zero in the padding -> features of layer2, layer3 and layer4, each [B,h,w,C].

        With `image_sizes` int [B,2] (h, w) the padding does not change the result, and the valid sizes of the last
        features are returned too. With None the padding is treated as image.
        """
        area = StageArea(image_sizes).strided(2)
        x = self.stem(x, area)
        x, area = self.layer1(x, area.strided(2))
        features = []
        for stage in (self.layer2, self.layer3, self.layer4):
            x, area = stage(x, area)
            features.append(area.zero_outside(x))
        return features, area.sizes
