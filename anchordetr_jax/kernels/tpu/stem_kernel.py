"""The stem of a ResNet as a Pallas kernel on folded images: a cell is 4 x 4 pixels of 3 channels each.

Three channels would leave most of the hardware idle. A cell of the result needs nine columns of pixels: its own four,
three before and two after. Side by side these fit into the lanes. One matrix product for each row of cells computes the
7x7 convolution at its even and odd columns. Images lie in sublanes.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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

FOLD = 4
"""The side of a cell in pixels: the stride of the stem."""
_CHUNK = 40
"""The most cells in one matrix product: enough to keep the MXU busy, few enough to stay in registers."""
_ROW_BYTES = 4096
"""The most bytes in one channel of a row of pixels. With more, a step would need more than the 16 MB that all TPUs
have."""
_OFFSETS = (range(-3, 0), range(FOLD), range(FOLD, FOLD + 2))
"""Columns of pixels, counted from a cell's first, that lie in the cell before it, in itself and in the one after."""
_SITES = [(row, column, channel) for part in _OFFSETS for row in range(FOLD) for column in part for channel in range(3)]
"""For each lane: the row in its cell, the column counted from the cell's first, and the channel."""


def fits(x: jax.Array) -> bool:
    """Whether the kernel can compute the stem of images [B,H,W,3]: whole cells, and images for all sublanes."""
    B, H, W, _ = x.shape
    return B % SUBLANES == H % FOLD == W % FOLD == 0 and W * x.dtype.itemsize <= _ROW_BYTES


def stem(cells: jax.Array, heights: jax.Array, layer: ConvolutionNorm, *, interpret: bool = False) -> jax.Array:
    """7x7 convolution of stride 2, frozen BatchNorm, ReLU, 3x3 max-pool of stride 2.

    Args:
        cells: [B,h,w,4*4*3], B a multiple of `SUBLANES`; channels are rows, columns, colours. Padding is zero.
        heights: int [B,2*w], the number of valid rows in each column of the grid at half the size.
        layer: the convolution, kernel [7,7,3,64], and its BatchNorm.
        interpret: run without a TPU, slowly.

    Returns:
        [B,h,w,64].
    """
    B, h, w, C = cells.shape
    dtype, wide = cells.dtype, at_least_float32(cells.dtype)
    channels = layer.kernel.shape[-1]
    scale, bias = (jnp.tile(vector.astype(wide), 2)[None] for vector in layer[1:])
    weights = [jnp.asarray(_placement(), dtype), _cell_kernel(layer.kernel).astype(dtype), scale, bias]
    lanes = jnp.repeat(heights.reshape(B, w, 2), channels, axis=2).transpose(1, 0, 2)  # [w,B,2*64]
    grid = (B // SUBLANES, h + 1)
    out = pl.pallas_call(
        functools.partial(_kernel, rows=h),
        grid=grid,
        in_specs=[
            pl.BlockSpec((1, w, SUBLANES, C), lambda b, i: (jnp.minimum(i, h - 1), 0, b, 0)),
            pl.BlockSpec((w, SUBLANES, 2 * channels), lambda b, i: (0, b, 0)),
            *map(whole, weights),
        ],
        out_specs=pl.BlockSpec((1, w, SUBLANES, channels), lambda b, i: (jnp.maximum(i - 1, 0), 0, b, 0)),
        out_shape=jax.ShapeDtypeStruct((h, w, B, channels), dtype),
        scratch_shapes=[
            pltpu.VMEM((3, w + 2, SUBLANES, LANES), dtype),
            pltpu.VMEM((w, SUBLANES, 2 * channels), wide),
        ],
        name=name("stem", grid, (h, w, C)),
        cost_estimate=_cost(cells, layer.kernel.size),
        interpret=interpret,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
    )(cells.transpose(1, 2, 0, 3), lanes, *weights)
    return out.transpose(2, 0, 1, 3)


def _kernel(
    cells: Any,
    heights: Any,
    placement: Any,
    kernel: Any,
    scale: Any,
    bias: Any,
    out: Any,
    sites: Any,
    odd_before: Any,
    *,
    rows: int,
) -> None:
    """Places a row of cells, then completes the row before it, whose two neighbours are there now.

    `sites` holds three rows in turn, `odd_before` the odd row of the half-size grid above.
    """
    i = pl.program_id(1)
    w, B = cells.shape[1:3]
    channels, dtype = out.shape[-1], sites.dtype
    above, middle, below = places_of_rows(i)
    clear_first(i, sites)
    for part in parts(w, _CHUNK):
        placed = dot(cells[0, part].reshape(-1, cells.shape[-1]), placement[...])
        placed = jnp.where(i < rows, placed, 0).astype(dtype).reshape(-1, B, LANES)
        end = 0
        for shift, columns in zip((2, 1, 0), _OFFSETS, strict=True):
            start, end = end, end + 3 * FOLD * len(columns)
            sites[below, part.start + shift : part.stop + shift, :, start:end] = placed[..., start:end]

    def half_row(odd: int, part: slice, places: list[Any]) -> Any:
        """The convolution at the even or odd row of the half-size grid: even columns, then odd ones, in lanes."""
        total: Any = 0
        for k, place in enumerate(places):
            nine = sites[place, part.start + 1 : part.stop + 1].reshape(-1, LANES)
            total += dot(nine, kernel[2 * odd + k])
        y = jnp.maximum(total * scale[...] + bias[...], 0).reshape(-1, B, 2 * channels)
        return jnp.where(2 * (i - 1) + odd < heights[part], y, 0)

    last = jnp.zeros((1, B, 2 * channels), scale.dtype)
    for part in parts(w, _CHUNK):
        even, odd = half_row(0, part, [above, middle]), half_row(1, part, [above, middle, below])
        row = jnp.maximum(jnp.maximum(even, odd), odd_before[part])
        odd_before[part] = jnp.where(i == 0, 0, odd)
        swapped = pltpu.roll(row.reshape(-1, 2 * channels), channels, 1).reshape(row.shape)  # odd columns first
        before = jnp.concatenate([last, swapped[:-1]], axis=0)
        last = swapped[-1:]
        out[0, part] = jnp.maximum(jnp.maximum(row, swapped), before)[..., :channels].astype(dtype)


def _placement() -> np.ndarray:
    """[4*4*3,128]: which lanes the pixels of a cell go to, for the cell itself and its neighbours."""
    chosen = np.zeros((3 * FOLD**2, LANES))
    for lane, (row, column, channel) in enumerate(_SITES):
        chosen[(row * FOLD + column % FOLD) * 3 + channel, lane] = 1
    return chosen


def _cell_kernel(kernel: jax.Array) -> jax.Array:
    """[7,7,3,64] -> [5,128,2*64]: from the lanes of a row of cells to even and odd columns of the half-size grid.

    The even row reads the cells above and its own; the odd row reads the cells above, its own and those below.
    """
    row, column, channel = np.array(_SITES).T

    def taps(odd_row: int, cell: int, odd_column: int) -> jax.Array:
        y, x = row + FOLD * cell + 3 - 2 * odd_row, column + 3 - 2 * odd_column
        inside = (y >= 0) & (y < 7) & (x >= 0) & (x < 7)
        return jnp.where(inside[:, None], kernel[y.clip(0, 6), x.clip(0, 6), channel], 0)

    rows = [
        jnp.concatenate([taps(odd_row, cell, odd_column) for odd_column in (0, 1)], axis=-1)
        for odd_row, cell in ((0, -1), (0, 0), (1, -1), (1, 0), (1, 1))
    ]
    return jnp.pad(jnp.stack(rows), ((0, 0), (0, LANES - len(_SITES)), (0, 0)))


def _cost(cells: jax.Array, kernel_size: int) -> pl.CostEstimate:
    """For the compiler and for counts of FLOPs, without products with zeros. A cell has 4 places at half the size."""
    count = cells.size // cells.shape[-1]
    return pl.CostEstimate(
        flops=2 * count * 4 * kernel_size, transcendentals=0, bytes_accessed=2 * count * LANES * cells.dtype.itemsize
    )
