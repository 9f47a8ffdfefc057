"""ResNet-50 and -101 with frozen BatchNorm (He et al. 2016, in the form with the stride on each bottleneck's 3x3)."""

import jax
from flax import nnx
from jax.typing import DTypeLike

from anchordetr_jax.kernels.forms import PLAIN, Forms, as_stored, on_tpu
from anchordetr_jax.kernels.tpu import bottleneck_kernel
from anchordetr_jax.kernels.tpu.parts import ConvolutionNorm
from anchordetr_jax.model.layers import apply_layer, convolution
from anchordetr_jax.model.normalization import FrozenBatchNorm
from anchordetr_jax.model.precision import at_least_float32
from anchordetr_jax.model.stem import Stem
from anchordetr_jax.model.valid_area import StageArea

BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
EXPANSION = 4


class Bottleneck(nnx.Module):
    """1x1 - 3x3 - 1x1 with a shortcut."""

    def __init__(
        self,
        channels_in: int,
        width: int,
        *,
        stride: int,
        dilation: int,
        forms: Forms,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        channels_out = width * EXPANSION
        self.forms = forms
        self.width = width
        self.is_dense = stride == dilation == 1

        def conv1x1(features_in: int, features_out: int, stride: int = 1) -> nnx.Conv:
            return convolution(features_in, features_out, kernel=1, stride=stride, forms=forms, dtype=dtype, rngs=rngs)

        def norm(channels: int) -> FrozenBatchNorm:
            return FrozenBatchNorm(channels, dtype=dtype, param_dtype=at_least_float32(dtype))

        self.conv1 = conv1x1(channels_in, width)
        self.norm1 = norm(width)
        self.conv2 = convolution(
            width, width, kernel=3, stride=stride, dilation=dilation, forms=forms, dtype=dtype, rngs=rngs
        )
        self.norm2 = norm(width)
        self.conv3 = conv1x1(width, channels_out)
        self.norm3 = norm(channels_out)
        self.has_projection = stride != 1 or channels_in != channels_out
        if self.has_projection:
            self.shortcut_conv = conv1x1(channels_in, channels_out, stride)
            self.shortcut_norm = norm(channels_out)

    def __call__(self, x: jax.Array, area: StageArea) -> jax.Array:
        """[B,h,w,I] -> [B,ceil(h/stride),ceil(w/stride),4*width]; `area`: of x. Padding comes back as anything."""
        if self.forms.tpu and self.is_dense and bottleneck_kernel.fits(x, self.width):
            return on_tpu(self, Bottleneck.in_kernel, Bottleneck.plain, x, area)
        return self.plain(x, area)

    def plain(self, x: jax.Array, area: StageArea) -> jax.Array:
        """The bottleneck as it is defined."""
        # Only the 3x3 mixes cells, so its input is the one place where padding must be zero.
        y = area.zero_outside(jax.nn.relu(self.norm1(self.conv1(x))))
        y = jax.nn.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        shortcut = self.shortcut_norm(self.shortcut_conv(x)) if self.has_projection else x
        y = jax.nn.relu(y + shortcut)
        return as_stored(y) if self.forms.cpu else y

    def in_kernel(self, x: jax.Array, area: StageArea, *, interpret: bool = False) -> jax.Array:
        """The same by a kernel for TPUs (`interpret`: without one), where it `fits` and nothing strides or dilates."""

        def layer(conv: nnx.Conv, norm: FrozenBatchNorm) -> ConvolutionNorm:
            return ConvolutionNorm(conv.kernel[...], *norm.affine())

        return bottleneck_kernel.bottleneck(
            x,
            area.heights(x.shape[:3]),
            layer(self.conv1, self.norm1),
            layer(self.conv2, self.norm2),
            layer(self.conv3, self.norm3),
            layer(self.shortcut_conv, self.shortcut_norm) if self.has_projection else None,
            interpret=interpret,
        )


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
        forms: Forms,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.stride = stride
        self.remat = remat
        # A dilated stage's first block keeps dilation 1, as where its stride was.
        self.blocks = nnx.List(
            [
                Bottleneck(
                    channels_in if i == 0 else width * EXPANSION,
                    width,
                    stride=stride if i == 0 else 1,
                    dilation=1 if i == 0 else dilation,
                    forms=forms,
                    dtype=dtype,
                    rngs=rngs,
                )
                for i in range(blocks)
            ]
        )

    def __call__(self, x: jax.Array, area: StageArea) -> tuple[jax.Array, StageArea]:
        """[B,h,w,I] -> [B,ceil(h/stride),ceil(w/stride),O] and the valid area there. Padding comes back as anything."""
        area_out = area.halved() if self.stride == 2 else area
        for i, block in enumerate(self.blocks):
            x = apply_layer(block, self.remat, x, area if i == 0 else area_out)
        return x, area_out


class ResNet(nnx.Module):
    """Features of stages 2, 3 and 4: strides 8, 16 and 32, or 8, 16 and 16 with `dilation`."""

    channels = (512, 1024, 2048)

    def __init__(
        self,
        depth: str,
        *,
        dilation: bool,
        remat: bool = False,
        forms: Forms = PLAIN,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        blocks = BLOCKS[depth]
        self.stem = Stem(forms=forms, dtype=dtype, rngs=rngs)

        def stage(channels_in: int, width: int, index: int, stride: int, dilation: int = 1) -> Stage:
            return Stage(
                channels_in,
                width,
                blocks[index],
                stride=stride,
                dilation=dilation,
                remat=remat,
                forms=forms,
                dtype=dtype,
                rngs=rngs,
            )

        self.layer1 = stage(64, 64, 0, 1)
        self.layer2 = stage(256, 128, 1, 2)
        self.layer3 = stage(512, 256, 2, 2)
        self.layer4 = stage(1024, 512, 3, 1, dilation=2) if dilation else stage(1024, 512, 3, 2)

    def __call__(self, x: jax.Array, image_sizes: jax.Array | None) -> tuple[list[jax.Array], jax.Array | None]:
        """Normalised images [B,H,W,3], zero in the padding -> features of layer2, layer3 and layer4, each [B,h,w,C].

        `image_sizes` int [B,2] keeps padding out of the result, and the valid sizes of the last features come back with
        them; None treats padding as image.
        """
        area = StageArea(image_sizes).halved()
        x = self.stem(x, area)
        x, area = self.layer1(x, area.halved())
        features = []
        for stage in (self.layer2, self.layer3, self.layer4):
            x, area = stage(x, area)
            features.append(area.zero_outside(x))
        return features, area.sizes
