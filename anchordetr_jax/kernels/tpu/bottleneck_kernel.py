"""A bottleneck of 64 channels as a Pallas kernel, which keeps the arrays between its convolutions on the chip.

XLA uses hardware for 128 channels on the 64 channels of the first stage, and writes and reads large arrays between
convolutions. Here images lie in sublanes, so a neighbouring pixel is another register. Two pixels of a row lie side by
side in lanes: for each of its rows, the 3x3 convolution is a product from four pixels to two.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from anchordetr_jax.kernels.tpu.parts import (
    LANES,
    SUBLANES,
    ConvolutionNorm,
    clear_first,
    dot,
    name,
    parts,
    places_of_rows,
    whole,
)
from anchordetr_jax.model.precision import at_least_float32

WIDTH = 64
"""Channels between the convolutions: half of the lanes."""
_CHUNK = 40
"""The most pairs of pixels in one matrix product: enough to keep the MXU busy, few enough to stay in registers."""
_ROW_BYTES = 800
"""The most bytes in one channel of a row. With more, a step would need more than the 16 MB that all TPUs have."""


def fits(x: jax.Array, width: int) -> bool:
    """Whether the kernel can compute a bottleneck of `width` channels on x [B,h,w,C].

    It needs images for all sublanes, and rows of pairs of pixels that are not too long.
    """
    B, _, w, _ = x.shape
    return width == WIDTH and B % SUBLANES == 0 and w % 2 == 0 and w * x.dtype.itemsize <= _ROW_BYTES


def bottleneck(
    x: jax.Array,
    heights: jax.Array,
    conv1: ConvolutionNorm,
    conv2: ConvolutionNorm,
    conv3: ConvolutionNorm,
    shortcut: ConvolutionNorm | None,
    *,
    interpret: bool = False,
) -> jax.Array:
    """1x1 - 3x3 - 1x1 of stride 1 with a shortcut, as `resnet.bottleneck`.

    Args:
        x: [B,h,w,C], for which `fits` holds.
        heights: int [B,w], the number of valid rows in each column; the 3x3 convolution takes the others as zeros.
        conv1: 1x1, C to 64 channels.
        conv2: 3x3, 64 to 64 channels.
        conv3: 1x1, 64 to O channels.
        shortcut: 1x1, C to O channels, or None where x itself is the shortcut.
        interpret: run without a TPU, slowly.

    Returns:
        [B,h,w,O] in the dtype of x. It is rounded once, while the plain function rounds after each operation.
    """
    B, h, w, C = x.shape
    channels_out, pairs, dtype = conv3.kernel.shape[-1], w // 2, x.dtype
    weights = [
        *_weights(conv1._replace(kernel=jnp.tile(conv1.kernel[0, 0], 2)), dtype, pixels=2),
        *_weights(conv2._replace(kernel=_pair_kernel(conv2.kernel)), dtype, pixels=2),
        *_weights(conv3._replace(kernel=jax.scipy.linalg.block_diag(*2 * [conv3.kernel[0, 0]])), dtype),
        *([] if shortcut is None else _weights(shortcut._replace(kernel=shortcut.kernel[0, 0]), dtype)),
    ]

    def row(channels: int, delay: int) -> Any:
        """A row of the image, or the one `delay` rows above it."""
        shape = (1, pairs, 2, SUBLANES, channels)
        return pl.BlockSpec(shape, lambda b, i: (jnp.clip(i - delay, 0, h - 1), 0, 0, b, 0))

    of_images: Any = pl.BlockSpec((pairs, 2, SUBLANES, LANES), lambda b, i: (0, 0, b, 0))
    lanes = jnp.broadcast_to(heights.T.reshape(pairs, 2, B, 1), (pairs, 2, B, LANES))
    grid = (B // SUBLANES, h + 1)
    out = pl.pallas_call(
        _kernel,
        grid=grid,
        in_specs=[row(C, 0), of_images, *map(whole, weights)],
        out_specs=row(channels_out, 1),
        out_shape=jax.ShapeDtypeStruct((h, pairs, 2, B, channels_out), dtype),
        scratch_shapes=[
            pltpu.VMEM((3, pairs + 1, SUBLANES, LANES), dtype),
            pltpu.VMEM((2, pairs, 2, SUBLANES, C), dtype),
        ],
        name=name("bottleneck", grid, (h, pairs, C)),
        cost_estimate=_cost(x, channels_out, shortcut is not None),
        interpret=interpret,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
    )(x.transpose(1, 2, 0, 3).reshape(h, pairs, 2, B, C), lanes, *weights)
    return out.reshape(h, w, B, channels_out).transpose(2, 0, 1, 3)


def _kernel(x: Any, heights: Any, *rest: Any) -> None:
    """Narrows a row to 64 channels, then completes the row before it, whose two neighbours are there now.

    `narrow` holds three rows in turn. Its lanes are an odd column and the even column after it.
    """
    conv1, conv2, conv3, *shortcut = (rest[i : i + 3] for i in range(0, len(rest) - 3, 3))
    out, narrow, earlier = rest[-3:]
    i = pl.program_id(1)
    pairs, B, C = x.shape[1], x.shape[3], x.shape[4]
    channels_out, dtype = out.shape[-1], narrow.dtype
    above, middle, below = places_of_rows(i)
    clear_first(i, narrow)
    for part in parts(pairs, _CHUNK):
        for odd in (0, 1):
            y = jnp.maximum(_convolve(x[0, part, odd].reshape(-1, C), conv1), 0).reshape(-1, B, LANES)
            y = jnp.where(i < heights[part, odd], y, 0).astype(dtype)
            if odd:
                narrow[below, part.start + 1 : part.stop + 1, :, :WIDTH] = y[..., :WIDTH]
            else:
                narrow[below, part, :, WIDTH:] = y[..., WIDTH:]

    for part in parts(pairs, _CHUNK):
        total: Any = 0
        for k, place in enumerate((above, middle, below)):
            for side in (0, 1):
                four = narrow[place, part.start + side : part.stop + side].reshape(-1, LANES)
                total += dot(four, conv2[0][k, side])
        y = jnp.maximum(total * conv2[1][...] + conv2[2][...], 0).astype(dtype)
        for odd in (0, 1):
            kernel3, *norm3 = conv3
            z = _convolve(y, (kernel3.at[:, odd * channels_out : (odd + 1) * channels_out], *norm3))
            source = earlier[i % 2, part, odd].reshape(-1, C)
            z += _convolve(source, shortcut[0]) if shortcut else source.astype(z.dtype)
            out[0, part, odd] = jnp.maximum(z, 0).astype(dtype).reshape(-1, B, channels_out)
    earlier[(i + 1) % 2] = x[0]


def _weights(layer: ConvolutionNorm, dtype: jnp.dtype, pixels: int = 1) -> tuple[jax.Array, ...]:
    """Kernel, and scale and bias [1,O] for this number of pixels side by side, in the layout of the Pallas kernel."""
    wide = at_least_float32(dtype)
    scale, bias = (jnp.tile(vector.astype(wide), pixels)[None] for vector in layer[1:])
    return layer.kernel.astype(dtype), scale, bias


def _pair_kernel(kernel: jax.Array) -> jax.Array:
    """[3,3,64,64] -> [3,2,128,128]: from four pixels of a row (two and two) to a pair.

    The first of the pair reads the first three pixels, the second the last three.
    """
    none = jnp.zeros_like(kernel[:, :1])
    taps = [jnp.concatenate(columns, axis=1) for columns in ((kernel, none), (none, kernel))]  # [3,4,64,64]
    return jnp.concatenate(taps, axis=-1).reshape(3, 2, LANES, LANES)


def _convolve(pixels: jax.Array, layer: tuple[Any, ...]) -> jax.Array:
    """A 1x1 convolution with its BatchNorm: pixels [P,I] -> [P,O] in float32 or wider."""
    kernel, scale, bias = layer
    return dot(pixels, kernel[...]) * scale[...] + bias[...]


def _cost(x: jax.Array, channels_out: int, projected: bool) -> pl.CostEstimate:
    """For the compiler and for counts of FLOPs, without products with zeros."""
    B, h, w, C = x.shape
    products = C * WIDTH + 9 * WIDTH**2 + WIDTH * channels_out + projected * C * channels_out
    return pl.CostEstimate(
        flops=2 * B * h * w * products,
        transcendentals=0,
        bytes_accessed=B * h * w * (C + channels_out) * x.dtype.itemsize,
    )
